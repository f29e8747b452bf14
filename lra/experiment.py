"""One run from data and model to its record: train, choose by validation, test once, write."""

import dataclasses
import logging
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from rich.console import Console
from torch import nn

from lra import environment, kernels, taps, weights
from lra.budget import parameters
from lra.checkpoint import Checkpoint, Interrupted, WholeFiles
from lra.divergence import Diverged, Divergence
from lra.flops import forward_flops
from lra.learner import Learner
from lra.progress import Bar, Curve
from lra.results import Data, Point, Record, Selection, Status
from lra.samples import Samples
from lra.settings import Cell, Hardware, Training
from lra.statistics import beats_chance
from lra.together import dissolve


def quiet() -> None:
    """Keep the libraries from talking over the progress bar."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    # our loaders are no torch DataLoaders: they have no workers to advise about
    warnings.filterwarnings("ignore", message=".*num_workers.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists.*")
    warnings.filterwarnings("ignore", message=".*You are using a CUDA device.*Tensor Cores.*")
    # our sums are taken over all processes before they are logged
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated.*")


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held so far: on the accelerator, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def kernel_backend() -> str | None:
    """Names of the kernel backends that have computed something in this process, None if none has."""
    names = {name for used in kernels.used().values() for name in used}
    return ", ".join(sorted(names)) or None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Run:
    """State of one run while it is made; `draft` gives the record as far as it is known."""

    def __init__(self, cell: Cell, data: Any, model: nn.Module, training: Training, hardware: Hardware):
        self.cell, self.data, self.model = cell, data, model
        self.flops: int | None = None
        self.samples = Samples(data)
        self.training, self.hardware = training, hardware
        self.started, self.clock = now(), time.perf_counter()
        self.git = environment.git()  # of the code as it started
        self.curve, self.best = Curve(), {"accuracy": -1.0, "step": 0}
        self.notes: list[str] = []
        self.steps_done = 0
        self.total_steps = 0
        self.device = torch.device("cpu")

    def draft(self, status: Status, **known: Any) -> Record:
        cell, rows, speeds = self.cell, self.curve.rows, self.curve.speeds
        chosen = int(self.best["step"]) or None
        rule = "best val/accuracy, earliest of equals"
        steps_per_epoch = max(1, self.steps_per_epoch)
        about = {f.name: getattr(cell, f.name) for f in dataclasses.fields(cell)}
        about["notes"] = [*cell.notes, *self.data.notes, *self.notes]
        if (n := self.hardware.processes) > 1:
            about["notes"].append(f"{n} processes, each with an equal share of every batch")
        return Record(
            **about,
            status=status,
            git=self.git,
            versions=environment.versions(),
            hardware=environment.hardware(self.device),
            precision=self.hardware.precision,
            kernel_backend=kernel_backend(),
            data=Data(
                kind=self.data.kind,
                fingerprint=self.data.fingerprint,
                counts=dict(self.data.counts),
                chance=self.data.majority("test"),
            ),
            parameters=parameters(self.model),
            flops=self.flops,
            selection=Selection(rule=rule, on_test=getattr(self.data, "selection_on_test", False), step=chosen),
            val_accuracy=self.best["accuracy"] if chosen else None,
            steps_done=self.steps_done,
            steps_total=self.total_steps,
            epochs=round(self.steps_done / steps_per_epoch, 3),
            train_seconds=round(self.curve.seconds, 3),
            total_seconds=round(time.perf_counter() - self.clock, 3),
            steps_per_second=round(statistics.median(speeds), 3) if speeds else None,
            peak_memory_mib=round(peak_memory_mib(self.device), 1),
            curve=[Point(**row) for row in rows],
            started=self.started,
            finished=now(),
            **known,
        )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data.train_dataloader())


def trainer_for(
    hardware: Hardware, *, folder: Path, max_steps: int, clip: float | None, callbacks: list[Callback], **more: Any
) -> pl.Trainer:
    """Lightning's trainer as every training here uses it. more: further arguments of it."""
    return pl.Trainer(
        accelerator=hardware.accelerator,
        # the buffers are equal everywhere, or each process's own sums
        strategy="auto" if hardware.processes == 1 else DDPStrategy(broadcast_buffers=False),
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        precision=hardware.precision,  # type: ignore[arg-type]
        deterministic=hardware.deterministic,
        max_steps=max_steps,
        max_epochs=-1,
        check_val_every_n_epoch=None,
        gradient_clip_val=clip,
        callbacks=callbacks,
        plugins=[WholeFiles()],
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        **more,
    )


def run(
    cell: Cell,
    *,
    data: Any,
    model: nn.Module,
    optimizer: dict,
    training: Training,
    hardware: Hardware,
    folder: Path,
    loggers: list | None = None,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
    wandb: str | None = None,
    begin: Callable[[Record], object] = lambda record: None,
    prepare: Callable[[], list[str]] = list,
) -> Record:
    """Train, choose by validation, test once; returns the record, whatever happened.

    data    a prepared data module (`data.base.TaskData`)
    folder  where checkpoints and the chosen weights of exactly this configuration live; an unfinished run goes on;
            checkpoints stay until the caller has written the record (`lra.checkpoint.discard`)
    begin   is given the record of the running run before its first step
    prepare what comes before the training, to go on with the model it leaves; returns notes for the record
    The test split is read at one place, after training ended, with the weights validation chose.
    Of several processes each gets the same record; the one of rank 0 is the one to keep.
    raises  ValueError if a batch cannot be shared out equally
    """
    quiet()
    if hardware.processes > 1 and data.batch_size % hardware.processes:
        raise ValueError(
            f"task.batch_size={data.batch_size}: not a multiple of {hardware.processes} processes "
            f"(trainer.devices={hardware.devices}, trainer.nodes={hardware.nodes}), each of which takes an equal share"
        )
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    state = Run(cell, data, model, training, hardware)
    state.total_steps = training.total_steps(state.steps_per_epoch)
    learner = Learner(
        model,
        optimizer=optimizer,
        schedule=training.schedule,
        warmup=training.warmup,
        total_steps=state.total_steps,
        split=hardware.split,
    )
    if hardware.compile:
        for block in model.encoder.blocks:  # type: ignore[union-attr]
            block.compile()
    checkpoint = Checkpoint(folder, every_seconds=hardware.checkpoint_seconds)
    title = f"{cell.title} on {cell.task} (seed {cell.seed})"
    trainer = trainer_for(
        hardware,
        folder=folder,
        max_steps=state.total_steps,
        clip=training.clip,
        callbacks=[Divergence(), state.curve, checkpoint, state.samples, Bar(state.curve, title, console), *callbacks],
        logger=loggers or False,
        val_check_interval=training.validate_every(state.steps_per_epoch),
    )
    state.device = trainer.strategy.root_device
    begin(state.draft("running", wandb=wandb))
    try:
        return _carry_out(state, trainer, learner, checkpoint, wandb, prepare)
    finally:
        dissolve(trainer.strategy.launcher)


def _carry_out(
    state: Run,
    trainer: pl.Trainer,
    learner: Learner,
    checkpoint: Checkpoint,
    wandb: str | None,
    prepare: Callable[[], list[str]],
) -> Record:
    """Training and the one test of a run that is set up."""
    model, data, folder = state.model, state.data, checkpoint.folder
    status: Status = "ok"
    reason, prepared = None, []
    try:
        state.flops = forward_flops(model, data.spec)
        length = min(data.spec.max_len, taps.LONGEST)
        untrained = taps.forward_kernels(model.to(state.device), length)
        prepared = prepare()
        trainer.fit(learner, datamodule=data, ckpt_path=checkpoint.newest(learner), weights_only=True)
    except Diverged as error:
        status, reason = "diverged", str(error)
    except (Interrupted, KeyboardInterrupt, SystemExit) as error:
        status, reason = "interrupted", str(error) or "stopped by the user"
    except torch.OutOfMemoryError as error:
        status, reason = "oom", str(error).split("\n")[0]
    state.steps_done, state.best = trainer.global_step, checkpoint.best
    parts = (learner.training_parts, learner.evaluation_parts)
    state.notes = [*prepared, *(note for p in parts if (note := p.note()) is not None)]
    if status != "ok":
        return state.draft(status, reason=reason, wandb=wandb)

    trainer.strategy.barrier()  # the first process may still be writing
    model.load_state_dict(checkpoint.best_weights())
    trainer.test(learner, datamodule=data, verbose=False)
    test = learner.results["test"]
    state.notes += at_chance(test, data.majority("test"))
    trained = taps.forward_kernels(model.to(state.device), length)
    picture = any(example.picture for example in state.samples.examples)
    record = state.draft(
        "ok",
        examples=state.samples.examples,
        kernels=taps.before_and_after(untrained, trained, picture=picture),
        test_accuracy=test["accuracy"],
        test_correct=test["correct"],
        n_test=test["examples"],
        wandb=wandb,
    )
    if trainer.is_global_zero:
        weights.save(folder / "model.safetensors", model, record)
    return record


def at_chance(test: dict, chance: float) -> list[str]:
    """A note for the record of a run that has learned nothing: no better than always giving the commonest label."""
    if beats_chance(test["correct"], test["examples"], chance):
        return []
    shares = f"{100 * test['accuracy']:.2f} % where always giving the commonest label has {100 * chance:.2f} %"
    return [f"stayed at chance: {shares}"]
