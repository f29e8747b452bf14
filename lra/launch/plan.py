"""Time and memory that a grid needs, from records made on the same hardware or from steps measured here."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lra.console import duration
from lra.io.atomic import atomic_write
from lra.launch.grid import GridJob
from lra.launch.local import PRELOAD, start_server
from lra.paths import ROOT
from lra.records import environment
from lra.records.published import TASKS
from lra.records.store import load_all

KNOWN = ROOT / "runs" / "plan.json"
Key = tuple[str, str, str, str]  # model, task, scale, variant


@dataclass(frozen=True)
class Cost:
    """Time and memory of one job. basis: the record or measurement they come from."""

    seconds: float
    memory_mib: float | None
    basis: str


def key_of(cell: GridJob) -> Key:
    return cell.model, cell.task, cell.scale, " ".join(cell.variant)


def device_name() -> str:
    """Name of the first GPU, else of the processor, without initialising CUDA."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return environment.processor_name()


def from_records(folder: Path) -> dict[Key, Cost]:
    """Costs from finished runs on the same hardware; the slowest seed counts."""
    found: dict[Key, Cost] = {}
    try:
        records = load_all(folder) if folder.is_dir() else []
    except ValueError:
        records = []
    here = device_name(), environment.processor_name(), environment.cores()
    for r in records:
        if r.status != "ok" or (r.hardware.device, r.hardware.processor, r.hardware.cores) != here:
            continue
        # the total of a resumed run covers only its last part
        seconds = max(r.total_seconds or 0.0, r.train_seconds or 0.0)
        key = (r.model, r.task, r.scale, " ".join(r.variant))
        if key not in found or found[key].seconds < seconds:
            found[key] = Cost(seconds, r.peak_memory_mib, f"record of seed {r.seed}")
    return found


def stored_measurements() -> list[dict[str, Any]]:
    try:
        return json.loads(KNOWN.read_text()) if KNOWN.exists() else []
    except ValueError:
        return []


def from_measurements() -> dict[Key, Cost]:
    """Costs from stored measurements of this machine."""
    here = environment.processor_name(), environment.cores()
    found = {}
    for line in stored_measurements():
        if (line["processor"], line["cores"]) == here and line["device"] in (device_name(), here[0]):
            key = (line["model"], line["task"], line["scale"], line["variant"])
            part = line["measured_batch"]
            how = "measured" if part == line["batch"] else f"measured with {part} of {line['batch']}"
            found[key] = Cost(line["seconds"], line["memory_mib"], f"{how}, {line['when'][:10]}")
    return found


def costs(cells: Sequence[GridJob]) -> dict[Key, Cost]:
    """Known costs of these cells: records before measurements."""
    folder = ROOT / cells[0].results if cells else ROOT / "results/runs"
    wanted = {key_of(cell) for cell in cells}
    both = from_measurements() | from_records(ROOT / "results/runs") | from_records(folder)
    return {key: cost for key, cost in both.items() if key in wanted}


def known(cells: Sequence[GridJob]) -> Callable[[GridJob], float | None]:
    """Function from a cell to its expected seconds, None if unknown."""
    found = costs(cells)
    return lambda cell: found[key_of(cell)].seconds if key_of(cell) in found else None


def table_of(cells: Sequence[GridJob], jobs: int = 1) -> Table:
    """A row for each model and task, and the sum."""
    found = costs(cells)
    counts: dict[Key, int] = {}
    for cell in cells:
        counts[key_of(cell)] = counts.get(key_of(cell), 0) + 1
    table = Table(title=f"Expected on {device_name()}, {environment.cores()} cores", title_justify="left")
    for column in ("model", "task", "runs", "time of one", "memory", "known from"):
        table.add_column(column, justify="right" if column in ("runs", "time of one", "memory") else "left")
    for key, n in counts.items():
        cost = found.get(key)
        if cost is None:
            table.add_row(key[0], key[1], str(n), "?", "?", "nothing yet")
        else:
            table.add_row(key[0], key[1], str(n), duration(cost.seconds), mebibytes(cost.memory_mib), cost.basis)
    total = sum(cost.seconds * counts[key] for key, cost in found.items())
    missing = sum(n for key, n in counts.items() if key not in found)
    least = "at least " if missing else ""
    most = max((cost.memory_mib or 0 for cost in found.values()), default=0)
    table.add_section()
    unknown = f"{missing} of {len(cells)} runs unknown: scripts/plan.py measures them"
    note = unknown if missing else f"{total / 3600:.2f} device hours"
    time = f"{least}{duration(total / jobs)}" if found else "?"
    table.add_row("all", "", str(len(cells)), time, mebibytes(most * jobs if found else None), note)
    return table


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"


def mebibytes(amount: float | None) -> str:
    if amount is None:
        return "?"
    return f"{amount:.0f} MiB" if amount < 10_000 else f"{amount / 1024:.1f} GiB"


def show(cells: Sequence[GridJob], console: Console, *, jobs: int = 1) -> None:
    if cells:
        console.print(table_of(cells, jobs))


def measure(cells: Sequence[GridJob], patience: float, console: Console) -> list[str]:
    """Measure cells one after the other, each in its own process. Returns a line for each failure."""
    os.environ.setdefault("OMP_NUM_THREADS", str(environment.cores()))
    context = start_server([*PRELOAD, "lra.launch.cost"])
    failed = []
    for number, cell in enumerate(cells, 1):
        with console.status(f"measuring {cell.model} on {cell.task} ({number} of {len(cells)})"):
            answer = _ask(context, cell, patience)
        if "error" in answer:
            failed.append(f"{cell.model} on {cell.task}: {answer['error']}")
            continue
        model, task, scale, variant = key_of(cell)
        line = {"model": model, "task": task, "scale": scale, "variant": variant, **answer}
        line["when"] = datetime.now(UTC).isoformat(timespec="seconds")
        others = [
            old
            for old in stored_measurements()
            if any(old[k] != line[k] for k in ("model", "task", "scale", "variant"))
        ]
        atomic_write(KNOWN, json.dumps([*others, line], indent=1))
    return failed


def _ask(context: Any, cell: GridJob, patience: float) -> dict[str, Any]:
    from lra.launch import cost

    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=cost.measure_in_process, args=(cell.words, patience, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        return {"error": f"the system ended its process (status {process.exitcode}), perhaps for lack of memory"}
    finally:
        process.join()


def markdown(cells: Sequence[GridJob]) -> str:
    """Markdown table of device hours and memory of single runs, models by tasks, with its conditions."""
    found = costs(cells)
    models, tasks = list(dict.fromkeys(c.model for c in cells)), list(dict.fromkeys(c.task for c in cells))
    lines = [f"| model | {' | '.join(TASKS.get(t, t) for t in tasks)} | all |", "|---|" + "---:|" * (len(tasks) + 1)]
    for model in models:
        row = {c.task: found.get(key_of(c)) for c in cells if c.model == model}
        texts = [f"{hours(c.seconds)}, {mebibytes(c.memory_mib)}" if (c := row[t]) else "?" for t in tasks]
        total = hours(sum(c.seconds for c in row.values() if c))
        lines.append(f"| {model} | {' | '.join(texts)} | {total}{'' if all(row.values()) else ' and more'} |")
    git = environment.git()
    commit = (git.commit or "unknown")[:10] + (" with uncommitted changes" if git.dirty else "")
    when = datetime.now(UTC).date().isoformat()
    head = f"Hours and memory of one run at scale {cells[0].scale} on {device_name()}, {environment.cores()} cores."
    bases = {cost.basis.partition(",")[0].split(" with ")[0].split(" of seed")[0] for cost in found.values()}
    command = " ".join(["python scripts/plan.py", *sys.argv[1:]])
    scaled = any("measured with" in cost.basis for cost in found.values())
    scaling = " (of large batches only a part was measured, time and memory are scaled up)" * scaled
    how = f"Known from: {', '.join(sorted(bases))}{scaling}. Made {when} at commit {commit} by `{command}`."
    return "\n".join([head, "", *lines, "", how, ""])
