"""W&B beside a run: what is sent there, and that none of its troubles ends a training.

The first thing that fails is one line on the screen; the run goes on without W&B, and its record is written as ever.
"""

import base64
import errno
import io
import logging
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

from lra.io.redact import portable
from lra.records.record import Record
from lra.records.run_spec import RunSpec

# of the run's own files in W&B; scripts/wandb_pull.py looks for it
RECORD = "record.json"
# seconds to wait for the server when a run begins, and for the last upload when it has ended
PATIENCE, UPLOAD = 30, 120
MODES = ("offline", "online", "disabled")
BINS = 64
# bytes free where a run is kept below which nothing more is logged: the library itself says nothing of a full disk
ROOM = 2**16


class Tracker(Logger):
    """A W&B run as Lightning's logger; `run` becomes None with the first failure."""

    def __init__(self, run: Any, console: Console):
        super().__init__()
        self.run, self.console, self.best = run, console, -1.0
        self.address: str = run.url or run.id
        self.safely("naming the axis", lambda: self._name_axis())

    def _name_axis(self) -> None:
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return self.address

    def safely(self, what: str, send: Callable[[], object]) -> None:
        """Send something, unless sending has failed before."""
        if self.run is None:
            return
        try:
            send()
        except Exception as error:
            self.run = None
            self.console.print(f"W&B: {what} failed ({told(error)}); the run goes on without it", soft_wrap=True)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration was given when the run began."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        values = dict(metrics)
        if "val/accuracy" in values:
            values["val/best"] = self.best = max(self.best, float(values["val/accuracy"]))
        self.safely("logging", lambda: self._log({**values, "step": step}))

    def _log(self, values: dict[str, Any]) -> None:
        if shutil.disk_usage(self.run.dir).free < ROOM:
            raise OSError(errno.ENOSPC, f"the disk of {folder_of(self.run)} is full")
        self.run.log(values)

    def finish(self, record: Record, weights: Path | None) -> None:
        """The record as a file of the run, its main numbers as the summary, examples as a table, weights if asked for.

        weights  file of the chosen weights, to be kept as an artifact; None: they are not sent
        """
        self.safely("the record", lambda: self._send_record(record))
        self.safely("the summary", lambda: self.run.summary.update(summary_of(record)))
        if record.examples:
            self.safely("the examples", lambda: self.run.log({"examples": table_of(record)}))
        if weights is not None and weights.exists():
            self.safely("the checkpoint", lambda: self._send_weights(record, weights))
        self._end()

    def _end(self) -> None:
        """Wait for the last upload, but not for ever: what is kept on disk can be uploaded later."""
        if self.run is None:
            return
        try:
            self.run.finish()
        except Exception as error:
            kept = f"what is missing is kept: .venv/bin/wandb sync {folder_of(self.run)}"
            self.console.print(f"W&B: the last upload failed ({told(error)}); {kept}", soft_wrap=True, highlight=False)

    def _send_record(self, record: Record) -> None:
        path = Path(self.run.dir) / RECORD
        path.write_text(record.text(), encoding="utf-8")
        self.run.save(str(path), base_path=self.run.dir, policy="now")

    def _send_weights(self, record: Record, weights: Path) -> None:
        import wandb

        identity = f"{record.scale}-{record.task}-{record.model}-{record.seed}-{record.config_hash[:8]}"
        artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "-", identity), type="model", metadata=summary_of(record))
        artifact.add_file(str(weights), name="model.safetensors")
        self.run.log_artifact(artifact)


class Histograms(Callback):
    """Gradients before clipping, and the time scales dt of every layer that learns them, at each validation."""

    def __init__(self, tracker: Tracker):
        self.tracker = tracker

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        # of the step after which validation comes
        if (trainer.global_step + 1) % trainer.val_check_batch == 0:
            self.tracker.safely("histograms", lambda: self._send(pl_module.model, trainer.global_step + 1))

    def _send(self, model: torch.nn.Module, step: int) -> None:
        found = {}
        for name, p in model.named_parameters():
            if p.grad is not None and (shape := histogram(p.grad)) is not None:
                found[f"gradients/{name}"] = shape
            if name.endswith("log_dt") and (shape := histogram(p.detach() / np.log(10))) is not None:
                found[f"log10 dt/{name.removesuffix('.log_dt')}"] = shape
        self.tracker.run.log({**found, "step": step})


@torch.no_grad()
def histogram(values: torch.Tensor) -> Any:
    """What W&B draws as a histogram; None where a value is not finite, or there is none."""
    import wandb

    values = values.detach().float().flatten()
    if not len(values):
        return None
    low, high = values.aminmax()
    if not (low.isfinite() and high.isfinite()):
        return None
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(values, BINS, float(low), float(high)).cpu().numpy()
    return wandb.Histogram(np_histogram=(counts, np.linspace(float(low), float(high), BINS + 1)))


def told(error: BaseException) -> str:
    """An exception in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return (lines[0].strip() if lines else type(error).__name__).rstrip(".")[:200]


def start(cell: RunSpec, settings: DictConfig, data: Any, console: Console) -> Tracker | None:
    """A W&B run: never a prompt, and offline where the server cannot be reached or refuses; None where there is none.

    raises  ValueError for an unknown mode, or online without a key
    """
    if settings.mode not in MODES:
        raise ValueError(f"wandb.mode={settings.mode}: not one of {', '.join(MODES)}")
    if settings.mode == "disabled" or rank_zero_only.rank != 0:
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    # of the library's own making, and of no use on the screen
    warnings.filterwarnings("ignore", module=r"wandb\b.*")

    if settings.mode == "online" and not has_key():
        raise ValueError(
            "wandb.mode=online: no W&B key on this machine; run .venv/bin/wandb login, or leave wandb.mode=offline"
        )
    reasons = []
    for mode in dict.fromkeys((settings.mode, "offline")):
        try:
            run = begin(cell, settings, data, mode)
        except Exception as error:
            reasons.append(told(error))
            continue
        if reasons:
            said = f"W&B: cannot be reached online ({reasons[0]}); this run is kept offline in {folder_of(run)}"
            console.print(f"{said}, and make wandb-sync uploads it", soft_wrap=True, highlight=False)
        elif not Path(run.dir).is_relative_to(place()):
            said = f"W&B: {place() / 'wandb'} cannot be written; this run is kept in {folder_of(run)}"
            console.print(said, soft_wrap=True, highlight=False)
        return Tracker(run, console)
    console.print(f"W&B: no run could be begun ({reasons[-1]}); the run goes on without it", soft_wrap=True)
    return None


def has_key() -> bool:
    """Is there a key at all? Whether the server takes it shows when a run begins."""
    import wandb

    try:
        return wandb.login(prompt=False, timeout=PATIENCE)
    except wandb.Error:
        return True


def place() -> Path:
    """The folder that holds the folder wandb: $WANDB_DIR, or where results and runs go by default, too."""
    return Path(os.environ.get("WANDB_DIR") or Path.cwd()).resolve()


def folder_of(run: Any) -> Path:
    return Path(run.dir).parent


def begin(cell: RunSpec, settings: DictConfig, data: Any, mode: str) -> Any:
    """The run itself, with everything that is known before the training."""
    import wandb

    identity = f"{cell.scale}-{cell.task}-{cell.model}-{cell.seed}-{cell.config_hash[:8]}"
    # an agent of a sweep has chosen project and id already
    swept = bool(os.environ.get("WANDB_SWEEP_ID"))
    run = wandb.init(
        project=None if swept else settings.project,
        entity=None if swept else settings.entity,
        id=None if swept else f"{re.sub(r'[^A-Za-z0-9_-]', '-', identity)}-{secrets.token_hex(3)}",
        mode=mode,  # type: ignore[arg-type]
        name=" ".join([cell.model, cell.task, f"seed {cell.seed}", cell.scale, *cell.variant])[:128],
        group=portable(settings.group) or f"{cell.scale}/{cell.task}/{cell.model}",
        job_type="train",
        tags=[cell.task, cell.model, cell.scale, data.kind, *portable(list(settings.tags))],
        notes=cell.command,
        # an agent's names task, model, scale and seed mean the same as here
        config={
            "task": cell.task,
            "model": cell.model,
            "scale": cell.scale,
            "seed": cell.seed,
            "variant": cell.variant,
            "recipe": cell.recipe,
            "config": cell.config,
            "config_hash": cell.config_hash,
            "data_kind": data.kind,
            "data_fingerprint": data.fingerprint,
        },
        dir=str(place()),
        # of another cell in this process one may be left that could not be ended, and is not waited for
        reinit="create_new",
        settings=wandb.Settings(
            init_timeout=PATIENCE, login_timeout=PATIENCE, finish_timeout=UPLOAD, finish_timeout_raises=True
        ),
    )
    # of the library's own telemetry, which speaks of a refused key a second time
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    # its log file lies on the same disk, and a full one would otherwise be a stack trace for each line
    for handler in logging.getLogger("wandb").handlers:
        handler.handleError = lambda record: None  # type: ignore[method-assign]
    return run


def summary_of(record: Record) -> dict[str, Any]:
    """The numbers to compare runs by."""
    values = {
        "status": record.status,
        "val/best": record.val_accuracy,
        "test/accuracy": record.test_accuracy,
        "test/correct": record.test_correct,
        "test/examples": record.n_test,
        "chance": record.data.chance,
        "selected_step": record.selection.step,
        "parameters": record.parameters,
        "flops": record.flops,
        "kernel_backend": record.kernel_backend,
        "steps_per_second": record.steps_per_second,
        "peak_memory_mib": record.peak_memory_mib,
        "train_seconds": record.train_seconds,
    }
    return {name: value for name, value in values.items() if value is not None}


def table_of(record: Record) -> Any:
    """Examples as a W&B table."""
    import wandb
    from PIL import Image

    def shown(text: str | None, picture: str | None) -> Any:
        return text if picture is None else wandb.Image(Image.open(io.BytesIO(base64.b64decode(picture))))

    rows = [
        [shown(e.text, e.picture), e.label, e.predicted, e.probability, e.label == e.predicted] for e in record.examples
    ]
    return wandb.Table(columns=["input", "label", "predicted", "probability", "right"], data=rows)
