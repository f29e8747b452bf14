"""A quarter of an hour on one GPU: tests, benchmarks against the S4 repository, then a training in the time left.

    python scripts/gpu_session.py out/                                # tests, benchmarks, training of S4 on Image
    python scripts/gpu_session.py out/ --s4-repo /path/to/s4          # also time the S4 repository and its CUDA kernel
    python scripts/gpu_session.py out/ --minutes 6 --only train       # a part
    python scripts/gpu_session.py out/ --device cpu --rehearse        # the same steps on the CPU, at tiny sizes

Each step has a time limit, and a step that fails or takes too long does not stop the others. OUT holds a JSON file for
each benchmark, named after the GPU, session.json with the outcome and the last lines of each step, and run.tar.gz with
record and checkpoint of the training, so that it can resume elsewhere.
"""

import handover

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lra.io.atomic import atomic_write
from lra.paths import ROOT
from lra.records.environment import git, hardware, versions

TAIL = 30  # lines of output kept of a step
RESERVE = 15  # seconds kept for packing the results
BENCH = [sys.executable, "scripts/bench.py"]


@dataclass
class Step:
    """A command with its time limit in seconds; the training takes what is left."""

    name: str
    limit: float
    command: list[str]
    folder: Path = ROOT


def steps(args: argparse.Namespace, gpu: str) -> list[Step]:
    """Everything the session does, in order of importance."""
    tiny, device = args.rehearse, ["--device", args.device]
    rounds = ["--repeats", "1"] if tiny else []
    peer = ["--peer", str(args.s4_repo), "--peer-path", "cuda" if args.device == "cuda" else "plain"]
    peer = peer if args.s4_repo else []
    ways = ["float32"] if args.device == "cpu" else ["float32", "graph", "bf16+compile", "bf16+compile+graph"]
    wanted = {
        "kernel": [*device, *rounds, *peer, *(["--H", "4", "--N", "8", "--L", "64"] if tiny else [])],
        "layer": [*device, *rounds, *peer, *(["--shapes", "2,4,64", "--N", "8"] if tiny else [])],
        "convolution": [*device, *rounds, *(["--shapes", "2,4,64"] if tiny else [])],
        "launch": [*device, *(["--H", "4", "--N", "8", "--L", "64", "--repeats", "1"] if tiny else [])],
        "lssl": [*device, *rounds, *(["--dims", "4", "--L", "32"] if tiny else [])],
        "step": [*device, *rounds, *peer, "--as", *ways, *(["--task", "listops", "--scale", "smoke"] if tiny else [])],
    }
    if args.device == "cpu":
        del wanted["launch"]  # measures the start of GPU kernels
    limits = {"kernel": 70, "layer": 70, "convolution": 60, "launch": 30, "lssl": 40, "step": 150}
    tests = ["tests/lra/ops/test_fftconv.py"] if tiny else ["tests", "-m", "gpu"]
    planned = [Step("tests", 150, [sys.executable, "-m", "pytest", "-q", "-x", "--maxfail=5", *tests])]
    extension = args.s4_repo and args.s4_repo / "extensions" / "kernels"
    if extension and args.device == "cuda":
        planned.append(Step("extension", 120, [sys.executable, "setup.py", "build_ext", "--inplace"], extension))
    for name, words in wanted.items():
        out = args.out / f"{name}_{gpu}.json"
        planned.append(Step(name, limits[name], [*BENCH, name, *words, "--json", str(out.resolve())]))
    return [step for step in planned if not args.only or step.name in args.only]


def training(args: argparse.Namespace, seconds: float) -> Step:
    """S4 by its recipe, scaled to the minutes that are left."""
    words = [f"task={args.task}", f"model={args.model}", f"training.minutes={max(0.1, (seconds - 45) / 60):.2f}"]
    words += ["scale=smoke", "data.source=toy"] if args.rehearse else []
    words += [f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}", "wandb.mode=disabled"]
    words += [f"results={args.out / 'run/results'}", f"runs={args.out / 'run/runs'}", *args.overrides]
    return Step("train", seconds, [sys.executable, "scripts/train.py", *words])


def carry_out(step: Step, seconds: float) -> dict:
    """Run a step for at most so many seconds; what it has written by then stays."""
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    child = subprocess.Popen(
        step.command, cwd=step.folder, env=environment, text=True, errors="replace", start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, status = child.communicate(timeout=seconds)[0], "ok" if child.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGTERM)  # a training saves its checkpoint
        try:
            output = child.communicate(timeout=20)[0]
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            output = child.communicate()[0]
        status = "out of time"
    tail = output.splitlines()[-TAIL:]
    return {"step": step.name, "status": status, "seconds": round(time.monotonic() - began, 1), "output": tail}


def pack(out: Path) -> None:
    """Record and checkpoint of the training as one archive."""
    if (out / "run").is_dir():
        with tarfile.open(out / "run.tar.gz", "w:gz") as archive:
            archive.add(out / "run", "run")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=15.0, help="time for everything")
    parser.add_argument("--s4-repo", type=Path, metavar="CHECKOUT", help="of state-spaces/s4, to compare with")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="default: cuda")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="tests, extension, kernel, layer, ..., train")
    parser.add_argument("--task", default="image", help="task of the training")
    parser.add_argument("--model", default="s4", help="model of the training")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, to try the session itself")
    parser.add_argument("overrides", nargs="*", default=[], help="further settings of the training: key=value")
    args = parser.parse_intermixed_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("gpu_session.py: PyTorch finds no GPU; hint: --device cpu --rehearse tries the session", file=sys.stderr)
        return 2
    gpu = "cpu"
    if args.device == "cuda":
        words = torch.cuda.get_device_name().lower().split()
        gpu = next((word for word in words if any(c.isdigit() for c in word)), words[-1]).split("-")[0]
    args.out.mkdir(parents=True, exist_ok=True)
    args.out = args.out.resolve()
    deadline = time.monotonic() + 60 * args.minutes - RESERVE
    done: list[dict] = []

    def keep(outcome: dict) -> None:
        done.append(outcome)
        print(f"{outcome['step']}: {outcome['status']} after {outcome['seconds']} s", flush=True)
        if outcome["status"] != "ok":
            print("  " + "\n  ".join(outcome["output"][-6:]), flush=True)
        about = {"git": git().model_dump(), "hardware": hardware(args.device).model_dump(), "versions": versions()}
        atomic_write(args.out / "session.json", json.dumps({**about, "steps": done}, indent=1) + "\n")

    for step in steps(args, gpu):
        left = deadline - time.monotonic()
        if left < 5:
            keep({"step": step.name, "status": "no time left", "seconds": 0.0, "output": []})
            continue
        keep(carry_out(step, min(step.limit, left)))
    left = deadline - time.monotonic()
    if (not args.only or "train" in args.only) and left > 60:
        keep(carry_out(training(args, left), left))
        pack(args.out)
    return 0 if all(outcome["status"] in ("ok", "out of time") for outcome in done) else 1


if __name__ == "__main__":
    handover.run(main)
