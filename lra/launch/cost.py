"""What a cell costs on this machine: a few real steps of it, and the sizes of its data.

    seconds = start + steps x step + (validations x ceil(n_val / E) + ceil(n_test / E)) x evaluation batch of E

A step is Lightning's own, with the recipe's batch; where that does not fit into the memory or the patience, with as
large a part of it as does, and the rest by proportion. Batches are real where data is prepared, else random and of full
length, an upper bound for tasks whose examples differ in length.
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
import torch.nn.functional as F
from hydra.utils import instantiate
from pytorch_lightning.callbacks import Callback
from torch import nn

from data.loader import Loader
from lra.config.compose import composed, plain
from lra.profiling.timing import peak_memory_mib, synchronize
from lra.records import environment
from lra.task import Batch
from lra.training.config import Hardware, Training
from lra.training.learner import Learner
from lra.training.trainer import silence_libraries

# of the benchmark, for data that is not here yet: train, validation, test
SIZES = {
    "listops": (96_000, 2_000, 2_000),
    "text": (22_500, 2_500, 25_000),
    "retrieval": (147_086, 18_090, 17_437),
    "image": (45_000, 5_000, 10_000),
}
PICTURES = (160_000, 20_000, 20_000)
TOY = 64


def measure(words: list[str], patience: float) -> dict[str, Any]:
    """Cost of the cell of a command line of scripts/train.py: seconds, memory_mib and what they are made of.

    patience  seconds that steps may take here
    raises    whatever keeps a single example from being trained on
    """
    began = time.perf_counter()
    cfg = composed(words)["cfg"]
    hardware, training = Hardware(**cfg.trainer), Training(**cfg.training)
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    module = instantiate(cfg.task)
    net = instantiate(cfg.model, spec=module.spec)
    device = torch.device("cuda" if hardware.accelerator in ("auto", "gpu") and torch.cuda.is_available() else "cpu")
    work = Work(net, plain(cfg.optimizer), training, hardware, device)
    started = time.perf_counter() - began
    batches = Batches(module, device)
    batch, evaluation = module.batch_size, module.eval_batch_size
    part, step, memory = steps(work, batches, batch, patience)
    rows = min(evaluation, 2 * part)
    evaluate = work.evaluate(batches.of(rows)) * evaluation / rows
    n_train, n_val, n_test = batches.sizes
    per_epoch = max(1, n_train // batch)
    total = training.total_steps(per_epoch)
    looks = total // training.validate_every(per_epoch)
    rounds = looks * math.ceil(n_val / evaluation) + math.ceil(n_test / evaluation)
    here = environment.hardware(device)
    return {
        "seconds": started + total * step + rounds * evaluate,
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


def steps(work: "Work", batches: "Batches", batch: int, patience: float) -> tuple[int, float, float]:
    """(examples of the batches measured, seconds of a step with the whole batch, MiB with the whole batch)."""
    alone = work.train(batches.of(1), 1)
    least = peak_memory_mib(work.device)
    part = batch
    while part > 1 and 4 * part * alone > patience:
        part //= 2
    while part > 1:
        try:
            seconds = work.train(batches.of(part), 3)
        except (RuntimeError, MemoryError):  # of any kind of memory
            part //= 4
            part = max(part, 1)
            continue
        memory = peak_memory_mib(work.device)
        more = (memory - least) / (part - 1) * (batch - part)
        return part, seconds * batch / part, memory + more
    # nothing but single examples: what a batch adds to the memory cannot be told apart from the model
    return 1, alone * batch, max(least, (least - work.empty_mib) * batch + work.empty_mib)


class Work:
    """A model and its optimiser, ready for steps of a given batch."""

    def __init__(self, net: nn.Module, optimizer: dict, training: Training, hardware: Hardware, device: torch.device):
        self.net, self.device, self.hardware = net.to(device), device, hardware
        if hardware.compile:
            for block in net.encoder.blocks:  # type: ignore[union-attr]
                block.compile()
        self.learner = Learner(
            net,
            optimizer=optimizer,
            schedule=training.schedule,
            warmup=training.warmup,
            total_steps=10**6,
            clip=training.clip,
        )
        self.empty_mib = peak_memory_mib(self.device)

    def train(self, batch: Batch, count: int) -> float:
        """Median seconds of a step, the first left out."""
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
        trainer.fit(self.learner, train_dataloaders=Same(batch, count + 1))
        return statistics.median(clock.seconds)

    def evaluate(self, batch: Batch) -> float:
        self.learner.to(self.device).eval()
        precision = torch.autocast(self.device.type, torch.bfloat16, enabled="bf16" in self.hardware.precision)
        times = []
        with torch.no_grad(), precision:
            for _ in range(2):
                start = time.perf_counter()
                F.cross_entropy(self.learner(batch).float(), batch.y).item()
                times.append(time.perf_counter() - start)
        return min(times)


class Same:
    """A loader of one batch, again and again; a plain list would be taken for several loaders."""

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
    """Training batches of any size: of the task's own data where that is prepared, random ones of full length else.

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
        usual = (TOY,) * 3 if module.source == "toy" else SIZES.get(spec.name, PICTURES)
        wanted = (module.requested[split] for split in ("train", "val", "test"))
        self.sizes = tuple(n or m for n, m in zip(wanted, usual, strict=True))

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
        if spec.vocab_size is None:
            x = torch.randn(rows, spec.max_len, spec.channels)
        else:
            x = torch.randint(1, spec.vocab_size, (rows, spec.max_len))
        mask = torch.ones(rows, spec.max_len, dtype=torch.bool)
        y = torch.randint(0, spec.n_classes, (n,))
        return Batch(*(t.to(self.device) for t in (x, mask, y)))


def work(words: list[str], patience: float, answer: Any) -> None:
    """`measure` in a process of its own, whose memory is limited to what the machine has free."""
    silence_libraries()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        if not torch.cuda.is_available():
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_DATA, (int(0.9 * free),) * 2)
        answer.send(measure(words, patience))
    except (Exception, SystemExit) as error:
        answer.send({"error": " ".join(str(error).split())[:200] or type(error).__name__})
