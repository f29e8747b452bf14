"""Overhead of a run: the loop around the training steps, and the start-up before them.

Each (task, model) is a whole run of `scripts/train.py` in a separate process:

    first step  seconds from the start of the process to the end of its first step; data is already prepared
    step        time from the end of one step to the end of the next
    work        the part of it in the training step: forward, backward, clipping, update
    host        the rest: data, hooks, logging, progress bar. On CUDA both are device times, so host work that overlaps
                with the device does not count
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

from lra.errors import UserError
from lra.paths import ROOT

WARMUP = 5  # steps not counted


def arguments(parser: argparse.ArgumentParser) -> None:
    from benchmarks import options  # not in the measured process

    options.config_arguments(parser, ["listops", "pathfinder", "pathx"], ["s4", "transformer"], "mini")
    parser.add_argument("--steps", type=int, default=100, help="of each run")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="default: cpu")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU; default: all")


def run(args: argparse.Namespace) -> list[dict]:
    if args.steps <= WARMUP:
        raise UserError(f"--steps {args.steps}: the first {WARMUP} are not counted", hint=f"--steps {WARMUP + 1}")
    rows = []
    for task in args.task:
        for model in args.model:
            words = [f"task={task}", f"model={model}", f"scale={args.scale}", f"training.steps={args.steps}"]
            words += ["training.epochs=null", "training.validations=1", "wandb.mode=disabled"]
            words += ["task.n_train=2000", "task.n_val=100", "task.n_test=100"]
            words += [f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}"]
            words += [f"trainer.threads={args.threads}"] if args.threads else []
            print(f"{model} on {task}", flush=True)
            watched([*words, *args.set])  # prepares the data and warms the file system's cache
            rows.append({"task": task, "model": model, "scale": args.scale, **watched([*words, *args.set])})
    return rows


def watched(words: list[str]) -> dict[str, float]:
    """Run a command line in a separate process and temporary folders; return its costs."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [f"results={folder}/results", f"runs={folder}/runs"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])}
        command = [sys.executable, "-m", "benchmarks.loop", f"{folder}/answer.json", *words, *folders]
        start = time.time()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
        answer = json.loads(Path(folder, "answer.json").read_text())
    step, work = answer["step"], answer["work"]
    return {
        "first step s": answer["first"] - start, "step ms": 1e3 * step, "work ms": 1e3 * work,
        "host ms": 1e3 * (step - work), "host share": 1 - work / step,
    }  # fmt: skip


class Stopwatch(Callback):
    """Records the end of each step, and start and end of the work in it."""

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
        """Time of the first step's end, and mean seconds of a step and of its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        counted = len(self.ends) - WARMUP
        work = sum(self.seconds(*pair) for pair in self.works[WARMUP:])
        step = self.seconds(self.ends[WARMUP - 1], self.ends[-1])
        return {"first": self.first, "step": step / counted, "work": work / counted}


def main(answer: str, *words: str) -> int:
    """Run a command line with a stopwatch as a callback; write its answer to a file."""
    from lra.config.compose import composed
    from lra.training import run

    watch, make_trainer = Stopwatch(), run.make_trainer

    def with_watch(*args: Any, callbacks: list[Callback], **kwargs: Any) -> Any:
        # first, so that the time of the other callbacks counts as host
        return make_trainer(*args, callbacks=[watch, *callbacks], **kwargs)

    run.make_trainer = with_watch
    from lra.launch import job

    status = job.one(**composed(list(words)))
    if status == 0:
        Path(answer).write_text(json.dumps(watch.answer()))
    return status


if __name__ == "__main__":
    if __spec__ is None:  # called as a script
        sys.exit("loop.py: is no command; hint: python scripts/bench.py loop --help")
    sys.exit(main(*sys.argv[1:]))
