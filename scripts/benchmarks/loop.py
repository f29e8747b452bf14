"""What a run costs beside its training steps: the loop around them, and the start before them.

Each (task, model) is a whole run by `scripts/train.py` in a process of its own, watched from outside:

    first step  seconds from the start of the process to the end of its first step; data is prepared already
    step        time from the end of a step to the end of the next
    work        of it, from the call of the optimiser's step to its end: forward, backward, clipping, update
    host        the rest: data, hooks, logging, progress bar. On CUDA both are times of the device's own clock, so
                that what the host does while the device is busy costs nothing
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback

from lra.paths import ROOT

WARM = 5  # steps that are not counted


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", nargs="+", default=["listops", "pathfinder", "pathx"])
    parser.add_argument("--model", nargs="+", default=["s4", "transformer"])
    parser.add_argument("--scale", default="mini")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as for scripts/train.py")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch on the CPU; all of them if not given")


def run(args: argparse.Namespace) -> list[dict]:
    if args.steps <= WARM:
        raise ValueError(f"--steps {args.steps}: {WARM + 1} at least, the first {WARM} are not counted")
    rows = []
    for task in args.task:
        for model in args.model:
            words = [f"task={task}", f"model={model}", f"scale={args.scale}", f"training.steps={args.steps}"]
            words += ["training.epochs=null", "training.validations=1", "wandb.mode=disabled"]
            words += ["task.n_train=2000", "task.n_val=100", "task.n_test=100"]
            words += [f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}"]
            words += [f"trainer.threads={args.threads}"] if args.threads else []
            print(f"{model} on {task}", flush=True)
            watched([*words, *args.set])  # prepares the data, and fills the file system's cache
            rows.append({"task": task, "model": model, "scale": args.scale, **watched([*words, *args.set])})
    return rows


def watched(words: list[str]) -> dict[str, float]:
    """Costs of the run of a command line, made in a process and folders of its own."""
    with tempfile.TemporaryDirectory() as folder:
        here = [f"results={folder}/results", f"runs={folder}/runs"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
        command = [sys.executable, "-m", "benchmarks.loop", f"{folder}/answer.json", *words, *here]
        began = time.time()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
        seen = json.loads(Path(folder, "answer.json").read_text())
    step, work = seen["step"], seen["work"]
    return {
        "first step s": seen["first"] - began, "step ms": 1e3 * step, "work ms": 1e3 * work,
        "host ms": 1e3 * (step - work), "host share": 1 - work / step,
    }  # fmt: skip


class Stopwatch(Callback):
    """Marks the end of each step, and beginning and end of the work in it."""

    def __init__(self) -> None:
        self.first: float | None = None  # time.time() at the end of the first step
        self.ends: list[Any] = []
        self.works: list[tuple[Any, Any]] = []
        self.device = torch.device("cpu")

    def mark(self) -> Any:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        return end - start if self.device.type == "cpu" else start.elapsed_time(end) / 1e3

    def setup(self, trainer, pl_module, stage) -> None:
        self.device = trainer.strategy.root_device
        step = pl_module.training_step

        def timed(*args: Any, **kwargs: Any) -> None:
            start = self.mark()
            step(*args, **kwargs)
            self.works.append((start, self.mark()))

        if stage == "fit":
            pl_module.training_step = timed

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.ends.append(self.mark())
        if self.first is None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.first = time.time()

    def answer(self) -> dict[str, float | None]:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        counted = len(self.ends) - WARM
        work = sum(self.seconds(*pair) for pair in self.works[WARM:])
        step = self.seconds(self.ends[WARM - 1], self.ends[-1])
        return {"first": self.first, "step": step / counted, "work": work / counted}


def main(answer: str, *words: str) -> int:
    """The run of a command line with a stopwatch among its callbacks; what that saw goes to the file `answer`."""
    from lra.config.compose import composed
    from lra.training import run

    watch, usual = Stopwatch(), run.make_trainer

    def with_watch(*args: Any, callbacks: list[Callback], **kwargs: Any) -> Any:
        # the first to hear of a step's end: what the others do there counts as host
        return usual(*args, callbacks=[watch, *callbacks], **kwargs)

    run.make_trainer = with_watch
    from lra.launch import job

    status = job.one(**composed(list(words)))
    if status == 0:
        Path(answer).write_text(json.dumps(watch.answer()))
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
