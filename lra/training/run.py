"""One run from data and model to its record: train, choose weights by validation, test once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from torch import Tensor, nn

from lra.distributed import destroy_process_group
from lra.errors import UserError
from lra.objectives.objective import Objective, objective_of
from lra.ops.ssm_kernels import dispatch
from lra.profiling.flops import forward_flops
from lra.records.record import Record, Status
from lra.records.run_spec import RunSpec
from lra.training import cuda_graphs, kernel_snapshots, weights
from lra.training.allocator import keep_freed_memory
from lra.training.checkpoint import Checkpoint, Identity, Interrupted
from lra.training.config import Hardware, Training
from lra.training.divergence import Diverged, Divergence
from lra.training.example_predictions import ExamplePredictions
from lra.training.learner import Learner
from lra.training.learning_curve import LearningCurve
from lra.training.progress_bar import ProgressBar
from lra.training.recorder import Recorder
from lra.training.trainer import compile_blocks, make_trainer, silence_libraries


def run(
    run_spec: RunSpec,
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
    """Train, choose weights by validation, test once; returns the record, however the run ended.

    data     a prepared data module (`data.datamodule.TaskData`)
    folder   for checkpoints and the chosen weights of exactly this configuration; an unfinished run resumes from them.
             Checkpoints stay until the caller has written the record (`lra.training.checkpoint.discard`)
    begin    called before the first step, with a record of status "running"
    prepare  called before the training, such as pretraining of the model; returns notes for the record
    The test split is read in one place only, after the training, with the weights that validation chose.
    With several processes each returns the same record; keep that of rank 0.
    raises   UserError if the settings contradict each other
    """
    silence_libraries()
    check_settings(data, hardware)
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    if hardware.compile:
        compile_blocks(model)
    dispatch.reset_backends_used()  # by an earlier run in this process
    steps_per_epoch = len(data.train_dataloader())
    total_steps = training.total_steps(steps_per_epoch)
    curve, examples = LearningCurve(), ExamplePredictions(data)
    identity = Identity.of(run_spec.config, data)
    checkpoint = Checkpoint(folder, every_seconds=hardware.checkpoint_seconds, identity=identity)
    bar = ProgressBar(curve, f"{run_spec.title} on {run_spec.task} (seed {run_spec.seed})", console)
    trainer = make_trainer(
        hardware,
        folder=folder,
        max_steps=total_steps,
        callbacks=[Divergence(), curve, checkpoint, examples, bar, *callbacks],
        logger=loggers or False,
        val_check_interval=training.validate_every(steps_per_epoch),
    )
    device = trainer.strategy.root_device
    if device.type == "cpu":
        keep_freed_memory()
    if hardware.graph:
        cuda_graphs.check_available(device, hardware)
    learner = Learner(
        model,
        optimizer=optimizer,
        objective=objective_of(data.spec.objective),
        schedule=training.schedule,
        warmup=training.warmup,
        patience=training.patience,
        factor=training.factor,
        total_steps=total_steps,
        clip=training.clip,
        split=hardware.split,
        graph=data.spec.max_len if hardware.graph else None,
    )
    recorder = Recorder(
        run_spec, data, model, hardware=hardware, trainer=trainer, curve=curve, checkpoint=checkpoint, wandb=wandb
    )
    begin(recorder.record("running"))
    try:
        return _train_and_test(recorder, learner, examples, prepare)
    finally:
        destroy_process_group(trainer.strategy.launcher)


def _train_and_test(
    recorder: Recorder, learner: Learner, examples: ExamplePredictions, prepare: Callable[[], list[str]]
) -> Record:
    data, model = recorder.data, recorder.model
    trainer, checkpoint = recorder.trainer, recorder.checkpoint

    def kernels() -> dict[int, Tensor]:
        length = min(data.spec.max_len, kernel_snapshots.LONGEST)
        return kernel_snapshots.forward_kernels(model.to(trainer.strategy.root_device), length)

    status: Status = "ok"
    reason = None
    try:
        recorder.flops = forward_flops(model, data.spec)
        dispatch.reset_backends_used()  # operations were counted with the reference backend
        untrained = kernels()
        recorder.notes += prepare()
        trainer.fit(learner, datamodule=data, ckpt_path=checkpoint.newest(learner), weights_only=True)
    except Diverged as error:
        status, reason = "diverged", str(error)
    except (Interrupted, KeyboardInterrupt, SystemExit) as error:
        status, reason = "interrupted", str(error) or "stopped by the user"
    except torch.OutOfMemoryError as error:
        status, reason = "oom", str(error).split("\n")[0]
    parts = (learner.training_parts, learner.evaluation_parts)
    recorder.notes += [note for p in parts if (note := p.note()) is not None]
    if status != "ok":
        return recorder.record(status, reason=reason)

    trainer.strategy.barrier()  # the first process may still be writing the best weights
    model.load_state_dict(checkpoint.best_weights())
    trainer.test(learner, datamodule=data, verbose=False)
    test = learner.results["test"]
    recorder.notes += failure_note(learner.objective, test["totals"], data.trivial_score("test"))
    picture = any(example.picture for example in examples.examples)
    record = recorder.record(
        "ok",
        examples=examples.examples,
        kernels=kernel_snapshots.before_and_after(untrained, kernels(), picture=picture),
        test_score=test["score"],
        test_totals=test["totals"],
    )
    if trainer.is_global_zero:
        weights.save(checkpoint.folder / "model.safetensors", model, record)
    return record


def check_settings(data: Any, hardware: Hardware) -> None:
    """UserError for settings that are valid alone but not together."""
    if hardware.processes > 1 and data.batch_size % hardware.processes:
        raise UserError(
            f"task.batch_size={data.batch_size}: not a multiple of {hardware.processes} processes "
            f"(trainer.devices={hardware.devices}, trainer.nodes={hardware.nodes}), which take equal shares"
        )


def failure_note(objective: Objective, totals: dict[str, float], trivial: float) -> list[str]:
    """A note for a run that learned nothing: no better than the best answer that ignores the input."""
    if objective.beats_trivial(totals, trivial):
        return []
    score, other = (objective.metric.with_unit(value) for value in (objective.score(totals), trivial))
    return [f"stayed at {objective.level}: {score} where {objective.trivial_answer} has {other}"]
