"""One run from data and model to its record: train, choose by validation, test once, write."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from torch import Tensor, nn

from lra.distributed import dissolve
from lra.ops.ssm_kernels import dispatch
from lra.profiling.flops import forward_flops
from lra.records.record import Record, Status
from lra.records.run_spec import RunSpec
from lra.records.significance import beats_chance
from lra.training import cuda_graphs, kernel_snapshots, weights
from lra.training.checkpoint import Checkpoint, Interrupted
from lra.training.config import Hardware, Training
from lra.training.divergence import Diverged, Divergence
from lra.training.learner import Learner
from lra.training.progress_bar import ProgressBar
from lra.training.recorder import Draft
from lra.training.trainer import quiet, trainer_for


def run(
    cell: RunSpec,
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

    data    a prepared data module (`data.datamodule.TaskData`)
    folder  where checkpoints and the chosen weights of exactly this configuration live; an unfinished run goes on;
            checkpoints stay until the caller has written the record (`lra.training.checkpoint.discard`)
    begin   is given the record of the running run before its first step
    prepare what comes before the training, to go on with the model it leaves; returns notes for the record
    The test split is read at one place, after training ended, with the weights validation chose.
    Of several processes each gets the same record; the one of rank 0 is the one to keep.
    raises  ValueError if a batch cannot be shared out equally, or steps cannot be recorded as they should
    """
    quiet()
    check_shares(data, hardware)
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    dispatch.reset_backends_used()  # what another run in this process has used
    draft = Draft(cell, data, model, hardware, wandb)
    draft.total_steps = training.total_steps(draft.steps_per_epoch)
    if hardware.compile:
        for block in model.encoder.blocks:  # type: ignore[union-attr]
            block.compile()
    checkpoint = Checkpoint(folder, every_seconds=hardware.checkpoint_seconds)
    bar = ProgressBar(draft.curve, f"{cell.title} on {cell.task} (seed {cell.seed})", console)
    trainer = trainer_for(
        hardware,
        folder=folder,
        max_steps=draft.total_steps,
        clip=training.clip,
        callbacks=[Divergence(), draft.curve, checkpoint, draft.samples, bar, *callbacks],
        logger=loggers or False,
        val_check_interval=training.validate_every(draft.steps_per_epoch),
    )
    draft.device = trainer.strategy.root_device
    if hardware.graph and (reason := cuda_graphs.why_not(draft.device, hardware)):
        raise ValueError(reason)
    learner = Learner(
        model,
        optimizer=optimizer,
        schedule=training.schedule,
        warmup=training.warmup,
        total_steps=draft.total_steps,
        split=hardware.split,
        graph=data.spec.max_len if hardware.graph else None,
    )
    begin(draft.record("running"))
    try:
        return _carry_out(draft, trainer, learner, checkpoint, prepare)
    finally:
        dissolve(trainer.strategy.launcher)


def check_shares(data: Any, hardware: Hardware) -> None:
    if hardware.processes > 1 and data.batch_size % hardware.processes:
        raise ValueError(
            f"task.batch_size={data.batch_size}: not a multiple of {hardware.processes} processes "
            f"(trainer.devices={hardware.devices}, trainer.nodes={hardware.nodes}), each of which takes an equal share"
        )


def _carry_out(
    draft: Draft, trainer: pl.Trainer, learner: Learner, checkpoint: Checkpoint, prepare: Callable[[], list[str]]
) -> Record:
    """Training and the one test of a run that is set up."""
    model, data = draft.model, draft.data
    status: Status = "ok"
    reason = None
    try:
        draft.flops = forward_flops(model, data.spec)
        dispatch.reset_backends_used()  # operations are counted by the definition
        untrained = draft.kernels()
        draft.notes = prepare()
        trainer.fit(learner, datamodule=data, ckpt_path=checkpoint.newest(learner), weights_only=True)
    except Diverged as error:
        status, reason = "diverged", str(error)
    except (Interrupted, KeyboardInterrupt, SystemExit) as error:
        status, reason = "interrupted", str(error) or "stopped by the user"
    except torch.OutOfMemoryError as error:
        status, reason = "oom", str(error).split("\n")[0]
    draft.steps_done, draft.best = trainer.global_step, checkpoint.best
    parts = (learner.training_parts, learner.evaluation_parts)
    draft.notes += [note for p in parts if (note := p.note()) is not None]
    if status != "ok":
        return draft.record(status, reason=reason)

    trainer.strategy.barrier()  # the first process may still be writing
    model.load_state_dict(checkpoint.best_weights())
    record = _test(draft, trainer, learner, untrained)
    if trainer.is_global_zero:
        weights.save(checkpoint.folder / "model.safetensors", model, record)
    return record


def _test(draft: Draft, trainer: pl.Trainer, learner: Learner, untrained: dict[int, Tensor]) -> Record:
    """The record with the result of the one test. untrained: the model's kernels before training."""
    trainer.test(learner, datamodule=draft.data, verbose=False)
    test = learner.results["test"]
    draft.notes += at_chance(test, draft.data.majority("test"))
    examples = draft.samples.examples
    return draft.record(
        "ok",
        examples=examples,
        kernels=kernel_snapshots.before_and_after(
            untrained, draft.kernels(), picture=any(example.picture for example in examples)
        ),
        test_accuracy=test["accuracy"],
        test_correct=test["correct"],
        n_test=test["examples"],
    )


def at_chance(test: dict, chance: float) -> list[str]:
    """A note for the record of a run that has learned nothing: no better than always giving the commonest label."""
    if beats_chance(test["correct"], test["examples"], chance):
        return []
    shares = f"{100 * test['accuracy']:.2f} % where always giving the commonest label has {100 * chance:.2f} %"
    return [f"stayed at chance: {shares}"]
