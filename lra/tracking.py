"""Weights & Biases: logs a run as Lightning's logger. No W&B error ends a training.

After the first failure one line is printed and the run continues without W&B; its record is written in any case.
"""

import base64
import errno
import io
import logging
import math
import os
import re
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers.logger import Logger
from rich.console import Console

from lra import distributed
from lra.errors import UserError
from lra.io.atomic import atomic_write
from lra.io.redact import portable
from lra.objectives.objective import Metric, objective_of
from lra.records.code import code_fingerprint
from lra.records.record import Record
from lra.records.run_spec import RunSpec
from lra.training.checkpoint import WANDB_ID

RECORD = "record.json"  # file of a W&B run that scripts/wandb_pull.py reads
CONNECT_SECONDS, UPLOAD_SECONDS = 30, 120  # patience with the server at the start, and with the last upload
MODES = ("offline", "online", "disabled")
BINS = 64
MIN_FREE_BYTES = 2**16  # on the disk of the run; wandb itself reports no full disk


class Tracker(Logger):
    """A W&B run as Lightning's logger. `run` is None after the first failure."""

    def __init__(self, run: Any, console: Console, best: float | None = None, metric: Metric | None = None):
        super().__init__()
        self.run, self.console, self.best = run, console, best
        self.metric = metric or objective_of("classification").metric
        self.address: str = run.url or run.id
        self.safely("naming the axis", self._name_axis)

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
        """Call `send` unless a call failed before; its first failure is one line."""
        if self.run is None:
            return
        try:
            send()
        except Exception as error:
            self.run = None
            self.console.print(f"W&B: {what} failed ({one_line(error)}); the run continues without it", soft_wrap=True)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: `begin` sends the configuration."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        values = dict(metrics)
        if (score := values.get(f"val/{self.metric.name}")) is not None:
            if self.best is None or self.metric.better(score, self.best):
                self.best = float(score)
            values["val/best"] = self.best
        self.safely("logging", lambda: self._log({**values, "step": step}))

    def _log(self, values: dict[str, Any]) -> None:
        if shutil.disk_usage(self.run.dir).free < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, f"the disk of {folder_of(self.run)} is full")
        self.run.log(values)
        if self.console.is_terminal:
            numbers = (f"{name} {value:.4g}" for name, value in values.items() if name != "step")
            self.run.write_logs(f"step {values['step']}: {', '.join(numbers)}")

    def finish(self, record: Record, weights: Path | None) -> None:
        """Send the record as a file, its main numbers as the summary, examples and kernels; then end the run.

        weights  file of the chosen weights, sent as an artifact; None: not sent
        """
        self.safely("the record", lambda: self._send_record(record))
        self.safely("the summary", lambda: self.run.summary.update(summary_of(record)))
        if record.examples:
            self.safely("the examples", lambda: self.run.log({"examples": table_of(record)}))
        if record.kernels:
            self.safely("the kernels", lambda: self.run.log({"kernels": kernels_of(record)}))
        if weights is not None and weights.exists():
            self.safely("the checkpoint", lambda: self._send_weights(record, weights))
        self._end()

    def _end(self) -> None:
        """Wait for the last upload, for a limited time: files on disk can be uploaded later."""
        if self.run is None:
            return
        try:
            self.run.finish()
        except Exception as error:
            hint = f"hint: .venv/bin/wandb sync {folder_of(self.run)}"
            line = f"W&B: the last upload failed ({one_line(error)}); {hint}"
            self.console.print(line, soft_wrap=True, highlight=False)

    def _send_record(self, record: Record) -> None:
        path = Path(self.run.dir) / RECORD
        path.write_text(record.text(), encoding="utf-8")
        self.run.save(str(path), base_path=self.run.dir, policy="now")

    def _send_weights(self, record: Record, weights: Path) -> None:
        import wandb

        artifact = wandb.Artifact(identifier(record), type="model", metadata=summary_of(record))
        artifact.add_file(str(weights), name="model.safetensors")
        self.run.log_artifact(artifact)


class Histograms(Callback):
    """Logs histograms of the gradients before clipping and of learned time scales dt, at each validation."""

    def __init__(self, tracker: Tracker):
        self.tracker = tracker

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        # in the step before a validation
        if (trainer.global_step + 1) % trainer.val_check_batch == 0:
            self.tracker.safely("histograms", lambda: self._send(pl_module.model, trainer.global_step + 1))

    def _send(self, model: torch.nn.Module, step: int) -> None:
        found = {}
        for name, p in model.named_parameters():
            if p.grad is not None and (shape := histogram(p.grad)) is not None:
                found[f"gradients/{name}"] = shape
            if name.endswith("log_dt") and (shape := histogram(p.detach() / np.log(10))) is not None:
                found[f"log10_dt/{name.removesuffix('.log_dt')}"] = shape
        self.tracker.run.log({**found, "step": step})


@torch.no_grad()
def histogram(values: torch.Tensor) -> Any:
    """A W&B histogram; None if there is no value, or one is not finite."""
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


def one_line(error: BaseException) -> str:
    """An exception in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return (lines[0].strip() if lines else type(error).__name__).rstrip(".")[:200]


def start(
    cell: RunSpec,
    settings: DictConfig,
    data: Any,
    console: Console,
    *,
    folder: Path | None = None,
    best: float | None = None,
) -> Tracker | None:
    """Start a W&B run without prompting, offline if the server cannot be reached or refuses. None without a run.

    folder  of the run, where the id of its W&B run is kept: a run that is resumed continues it
    best    validation score so far of a run that is resumed
    raises  UserError for an unknown mode, or online without a key
    """
    if settings.mode not in MODES:
        raise UserError(f"wandb.mode={settings.mode}: unknown", hint=", ".join(MODES))
    if settings.mode == "disabled" or not distributed.is_main_process():
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    warnings.filterwarnings("ignore", module=r"wandb\b.*")

    if settings.mode == "online" and not has_key():
        raise UserError(
            "wandb.mode=online: no W&B key on this machine", hint=".venv/bin/wandb login, or wandb.mode=offline"
        )
    if console.is_terminal and console.file is sys.stderr:
        # W&B's log copies what is written to sys.stderr, with control codes; the tracker gives it plain lines instead
        console.file = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=console.encoding)
    reasons = []
    for mode in dict.fromkeys((settings.mode, "offline")):
        try:
            run = begin(cell, settings, data, mode, known_id(cell, folder))
        except Exception as error:
            reasons.append(one_line(error))
            continue
        line = ""
        if reasons:
            line = f"W&B: no connection ({reasons[0]}); run kept offline in {folder_of(run)}; hint: make wandb-sync"
        elif not Path(run.dir).is_relative_to(parent_folder()):
            line = f"W&B: {parent_folder() / 'wandb'} cannot be written; this run is kept in {folder_of(run)}"
        if line:
            console.print(line, soft_wrap=True, highlight=False)
        return Tracker(run, console, best, objective_of(data.spec.objective).metric)
    console.print(f"W&B: no run could be started ({reasons[-1]}); the run continues without it", soft_wrap=True)
    return None


def has_key() -> bool:
    """Whether there is a key; the server checks it when a run begins."""
    import wandb

    try:
        return wandb.login(prompt=False, timeout=CONNECT_SECONDS)
    except wandb.Error:
        return True


def parent_folder() -> Path:
    """Folder of the folder wandb: $WANDB_DIR, or the working directory, as for results and runs."""
    return Path(os.environ.get("WANDB_DIR") or Path.cwd()).resolve()


def identifier(run: RunSpec | Record) -> str:
    """Name of a run with characters that W&B allows."""
    name = f"{run.scale}-{run.task}-{run.model}-{run.seed}-{run.config_hash[:8]}"
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def known_id(cell: RunSpec, folder: Path | None) -> str:
    """The id of the cell's W&B run: that of its first start, from the run's folder, or a new one."""
    path = None if folder is None else folder / WANDB_ID
    if path is not None and path.is_file():
        return path.read_text().strip()
    new = f"{identifier(cell).replace('.', '-')}-{secrets.token_hex(3)}"
    if path is not None:
        atomic_write(path, new)
    return new


def folder_of(run: Any) -> Path:
    return Path(run.dir).parent


def begin(cell: RunSpec, settings: DictConfig, data: Any, mode: str, run_id: str) -> Any:
    """Create the W&B run, or continue the one of this id, with everything that is known before training."""
    import wandb

    # an agent of a sweep has chosen project and id
    swept = bool(os.environ.get("WANDB_SWEEP_ID"))
    run = wandb.init(
        project=None if swept else settings.project,
        entity=None if swept else settings.entity,
        id=None if swept else run_id,
        resume="allow" if mode == "online" and not swept else None,
        mode=mode,  # type: ignore[arg-type]
        name=" ".join([cell.model, cell.task, f"seed {cell.seed}", cell.scale, *cell.variant])[:128],
        group=portable(settings.group) or row_of(cell),
        job_type="train",
        tags=[cell.task, cell.model, cell.scale, data.kind, *portable(list(settings.tags))],
        notes=cell.command,
        # sweep agents set task, model, scale and seed under the same names
        config={
            "task": cell.task,
            "model": cell.model,
            "scale": cell.scale,
            "seed": cell.seed,
            "variant": " ".join(cell.variant),
            "row": row_of(cell),
            "recipe": cell.recipe,
            "config": cell.config,
            "config_hash": cell.config_hash,
            "code": code_fingerprint(cell.config).model_dump(),
            "data_kind": data.kind,
            "data_fingerprint": data.fingerprint,
        },
        dir=str(parent_folder()),
        # an earlier run of this process may not have ended
        reinit="create_new",
        settings=wandb.Settings(
            init_timeout=CONNECT_SECONDS,
            login_timeout=CONNECT_SECONDS,
            finish_timeout=UPLOAD_SECONDS,
            finish_timeout_raises=True,
        ),
    )
    # wandb's telemetry would report a refused key a second time
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    # wandb's log file is on the same disk; if that is full, each line would print a stack trace
    for handler in logging.getLogger("wandb").handlers:
        handler.handleError = lambda record: None  # type: ignore[method-assign]
    return run


def row_of(cell: RunSpec) -> str:
    """Groups the seeds of a run: runs of other tasks, scales or settings are never averaged with them."""
    return f"{cell.scale}/{cell.task}/{cell.model}" + (f" [{' '.join(cell.variant)}]" if cell.variant else "")


def summary_of(record: Record) -> dict[str, Any]:
    """Numbers to compare runs by."""
    objective, totals = objective_of(record.objective), record.test_totals
    test = {} if totals is None else {**totals, **objective.scores(totals)}
    values = {
        "status": record.status,
        "val/best": record.val_score,
        **{f"test/{name}": value for name, value in test.items()},
        "trivial": record.data.trivial,
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
    """The record's examples as a W&B table."""
    import wandb
    from PIL import Image

    def cell(text: str | None, picture: str | None) -> Any:
        return text if picture is None else wandb.Image(Image.open(io.BytesIO(base64.b64decode(picture))))

    rows = [
        [
            cell(e.text, e.picture),
            e.label,
            e.predicted,
            e.probability,
            None if e.label is None else e.label == e.predicted,
        ]
        for e in record.examples
    ]
    return wandb.Table(columns=["input", "label", "predicted", "probability", "right"], data=rows)


def kernels_of(record: Record) -> Any:
    """The record's kernels before and after training as a W&B picture: for each, the range of values by age."""
    import wandb
    from matplotlib.figure import Figure

    columns = min(3, len(record.kernels))
    figure = Figure(figsize=(3 * columns, 2 * math.ceil(len(record.kernels) / columns)), layout="constrained")
    for i, kernel in enumerate(record.kernels):
        axis = figure.add_subplot(math.ceil(len(record.kernels) / columns), columns, i + 1)
        for when, (low, high) in {"before": kernel.before, "after": kernel.after}.items():
            (line,) = axis.plot(kernel.starts, [(a + b) / 2 for a, b in zip(low, high, strict=True)], lw=1, label=when)
            axis.fill_between(kernel.starts, low, high, color=line.get_color(), alpha=0.4, lw=0)
        axis.set(title=f"layer {kernel.layer + 1}, feature {kernel.feature}", xlabel="positions ago")
    figure.axes[0].legend(frameon=False)
    return wandb.Image(figure)
