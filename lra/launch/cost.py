"""Estimates time and memory of a run on this machine from a few real steps and the sizes of its data.

    seconds = start + steps x step + (validations x ceil(n_val / E) + ceil(n_test / E)) x evaluation batch of E

A step is Lightning's own, with the batch of the recipe, or with the largest part of it that fits into memory and time,
scaled up. Batches are real if the data is prepared, else random and of full length, which is an upper bound for tasks
with examples of different lengths.
"""

import math
import os
import resource
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning.callbacks import Callback
from torch import nn

from data.loader import Loader
from lra.config.compose import composed, plain
from lra.objectives.objective import objective_of
from lra.profiling.timing import peak_memory_mib, synchronize
from lra.records import environment
from lra.task import Batch
from lra.training.allocator import keep_freed_memory
from lra.training.config import Hardware, Training
from lra.training.learner import Learner
from lra.training.trainer import compile_blocks, silence_libraries

# train, validation and test examples of the benchmark, used before the data is prepared
SIZES = {
    "listops": (96_000, 2_000, 2_000),
    "text": (22_500, 2_500, 25_000),
    "retrieval": (147_086, 18_090, 17_437),
    "image": (45_000, 5_000, 10_000),
    "scifar": (45_000, 5_000, 10_000),
    "smnist": (54_000, 6_000, 10_000),
    "pmnist": (54_000, 6_000, 10_000),
}
PICTURES = (160_000, 20_000, 20_000)
TOY = 64


def measure(words: list[str], patience: float) -> dict[str, Any]:
    """Cost of a run of scripts/train.py: seconds, memory_mib and how they were measured.

    words     its command line
    patience  seconds that steps may take here
    raises    any error of training on a single example
    """
    began = time.perf_counter()
    cfg = composed(words)["cfg"]
    hardware, training = Hardware(**cfg.trainer), Training(**cfg.training)
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    module = instantiate(cfg.task)
    net = instantiate(cfg.model, spec=module.spec)
    device = torch.device("cuda" if hardware.accelerator in ("auto", "gpu") and torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    timer = StepTimer(net, plain(cfg.optimizer), training, hardware, device, module.spec.objective)
    started = time.perf_counter() - began
    batches = Batches(module, device)
    batch, evaluation = module.batch_size, module.eval_batch_size
    part, step, memory = measure_steps(timer, batches, batch, patience)
    rows = min(evaluation, 2 * part)
    evaluate = timer.evaluate(batches.of(rows)) * evaluation / rows
    n_train, n_val, n_test = batches.sizes
    per_epoch = max(1, n_train // batch)
    total = 0 if training.minutes else training.total_steps(per_epoch)
    looks = total // training.validate_every(per_epoch) if total else 0
    rounds = looks * math.ceil(n_val / evaluation) + math.ceil(n_test / evaluation)
    here = environment.hardware(device)
    return {
        "seconds": started + 60 * training.minutes if training.minutes else started + total * step + rounds * evaluate,
        "memory_mib": memory,
        "steps": total,
        "step_seconds": step,
        "evaluation_seconds": evaluate,
        "batch": batch,
        "measured_batch": part,
        "real_batches": batches.real,
        "device": here.device,
        "processor": here.processor,
        "cores": here.cores,
        "threads": here.threads,
    }


def measure_steps(timer: "StepTimer", batches: "Batches", batch: int, patience: float) -> tuple[int, float, float]:
    """(examples in the measured batch, seconds of a step with the full batch, MiB with the full batch)."""
    single = timer.train(batches.of(1), 1)
    least = peak_memory_mib(timer.device)
    part = batch
    while part > 1 and 4 * part * single > patience:
        part //= 2
    while part > 1:
        try:
            seconds = timer.train(batches.of(part), 3)
        except (RuntimeError, MemoryError):  # out of memory, on any device
            part = max(part // 4, 1)
            continue
        memory = peak_memory_mib(timer.device)
        more = (memory - least) / (part - 1) * (batch - part)
        return part, seconds * batch / part, memory + more
    # from single examples alone, the memory of the batch is estimated as all that was added to the empty model
    return 1, single * batch, max(least, (least - timer.empty_mib) * batch + timer.empty_mib)


class StepTimer:
    """Times training steps and evaluations of a model on a given batch."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: dict,
        training: Training,
        hardware: Hardware,
        device: torch.device,
        objective: str,
    ):
        self.net, self.device, self.hardware = net.to(device), device, hardware
        if hardware.compile:
            compile_blocks(net)
        self.learner = Learner(
            net,
            optimizer=optimizer,
            objective=objective_of(objective),
            schedule=training.schedule,
            warmup=training.warmup,
            total_steps=10**6,
            clip=training.clip,
        )
        self.empty_mib = peak_memory_mib(self.device)

    def train(self, batch: Batch, count: int) -> float:
        """Median seconds of a step, without the first."""
        clock = Clock(self.device)
        trainer = pl.Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            precision=self.hardware.precision,  # type: ignore[arg-type]
            max_steps=count + 1,
            callbacks=[clock],
            logger=False,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self.learner, train_dataloaders=RepeatedBatch(batch, count + 1))
        return statistics.median(clock.seconds)

    def evaluate(self, batch: Batch) -> float:
        self.learner.to(self.device).eval()
        precision = torch.autocast(self.device.type, torch.bfloat16, enabled="bf16" in self.hardware.precision)
        times = []
        with torch.no_grad(), precision:
            for _ in range(2):
                start = time.perf_counter()
                self.learner.compute_loss(batch).loss.item()
                times.append(time.perf_counter() - start)
        return min(times)


class RepeatedBatch:
    """Loader that repeats one batch; Lightning would take a list for several loaders."""

    def __init__(self, batch: Batch, count: int):
        self.batch, self.count = batch, count

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.count)

    def __len__(self) -> int:
        return self.count


class Clock(Callback):
    """Seconds from the end of each training step to the end of the next."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: list[float] = []
        self.last: float | None = None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        synchronize(self.device)
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


class Batches:
    """Training batches of any size, from the task's data if it is prepared, else random and of full length.

    sizes  numbers of training, validation and test examples
    """

    def __init__(self, module: Any, device: torch.device):
        self.module, self.device, spec = module, device, module.spec
        try:
            self.real = module.prepared_folder.is_dir()
        except Exception:
            self.real = False
        if self.real:
            module.setup()
            self.sizes = tuple(module.counts[split] for split in ("train", "val", "test"))
            return
        default = (TOY,) * 3 if module.source == "toy" else SIZES.get(spec.name, PICTURES)
        wanted = (module.requested[split] for split in ("train", "val", "test"))
        self.sizes = tuple(n or m for n, m in zip(wanted, default, strict=True))

    def of(self, n: int) -> Batch:
        """The first batch of n examples."""
        if self.real:
            opened = self.module.opened
            rows = opened.index["train"]
            n = min(n, len(rows))
            loader = Loader(opened.examples, rows, n, shuffle=True, seed=0, pad=self.module.pad)
            return Batch(*(t.to(self.device) for t in next(iter(loader))))
        spec = self.module.spec
        rows = n * (2 if spec.paired else 1)
        mask = torch.ones(rows, spec.max_len, dtype=torch.bool)
        return Batch(*(t.to(self.device) for t in (spec.random_input(rows), mask, spec.random_targets(n))))


def measure_in_process(words: list[str], patience: float, answer: Any) -> None:
    """Call `measure` in this process, limited to the free memory, and send the result through the pipe `answer`."""
    silence_libraries()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        if not torch.cuda.is_available():
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_DATA, (int(0.9 * free),) * 2)
        answer.send(measure(words, patience))
    except (Exception, SystemExit) as error:
        answer.send({"error": " ".join(str(error).split())[:200] or type(error).__name__})
