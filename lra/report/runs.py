"""The details of every run and of what they ran on, as folds of a page."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from lra.records.published import Published
from lra.records.record import Record
from lra.tables import comparison
from lra.tables.aggregate import Row, SeedGroup


def run_anchor(row: Row, task: str) -> str:
    """The id of a cell's details; letters, digits and '-' only."""
    key = "\n".join((row.model, *row.variant, str(row.part), task))
    return "run-" + hashlib.sha256(key.encode()).hexdigest()[:10]


def runs_section(rows: Sequence[Row], columns: dict[str, str], published: Published) -> str:
    """A fold for each row of the table, and in it one for each of its cells."""
    folds = []
    for row in rows:
        label = escape(comparison.row_label(row, published.model(row.model, row.title)))
        inner = "".join(cell_fold(row, task, title) for task, title in columns.items() if task in row.cells)
        ended = f"{sum(r.status == 'ok' for r in row.runs)} of {len(row.runs)} runs ended well"
        summary = f"<summary>{label} <small>{ended}</small></summary>"
        folds.append(f'<details>{summary}<div class="inner">{inner}</div></details>')
    content = "".join(folds) or "<p>None yet.</p>"
    return f'<section id="runs"><h2>Runs</h2><div class="card">{content}</div></section>'


def cell_fold(row: Row, task: str, title: str) -> str:
    cell = row.cells[task]
    first = cell.runs[0]
    summary = f"<summary>{escape(title)} <small>{escape(comparison.cell_text(cell))}</small></summary>"
    settings = "\n".join(f"{key} = {value}" for key, value in flat(first.config) if key != "seed")
    facts = {
        "Command": f"<code>{escape(first.command)}</code>",
        "Recipe": escape(first.recipe or "none: untuned")
        + (f" ({escape(first.recipe_source)})" if first.recipe_source else ""),
        "Checkpoint": escape(first.selection.rule) + (", <b>on the test set</b>" if first.selection.on_test else ""),
        "Data": f"{first.data.kind}, <code>{escape(first.data.fingerprint)}</code>",
        "Parameters": f"{first.parameters:,}",
        "Arithmetic": escape(first.precision)
        + (f", kernel {escape(first.kernel_backend)}" if first.kernel_backend else ""),
        "Notes": escape("; ".join(dict.fromkeys(note for r in cell.runs for note in r.notes))),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items() if text)
    return (
        f'<details>{summary}<div id="{run_anchor(row, task)}">{seeds_table(cell)}<dl>{listed}</dl>'
        f"<pre>{escape(settings)}</pre></div></details>"
    )


def seeds_table(cell: SeedGroup) -> str:
    head = (
        "Seed",
        "Status",
        "Test",
        "Right",
        "Validation",
        "Last step's test",
        "Steps",
        "Minutes",
        "Commit",
        "Config",
        "W&amp;B",
    )
    lines = []
    for r in cell.runs:
        right = f"{r.test_correct:,} of {r.n_test:,}" if r.n_test is not None else comparison.HOLE
        values = [
            str(r.seed),
            r.status,
            share(r.test_accuracy),
            right,
            share(r.val_accuracy),
            share(r.last_test_accuracy),
            f"{r.steps_done:,}/{r.steps_total:,}",
            comparison.HOLE if r.total_seconds is None else f"{r.total_seconds / 60:.1f}",
            comparison.commit_name(r.git),
            r.config_hash[:12],
        ]
        row = "".join(f"<td>{escape(value)}</td>" for value in values) + f"<td>{address(r.wandb)}</td>"
        lines.append(f"<tr>{row}</tr>")
        if r.reason:
            lines.append(f'<tr><td colspan="{len(head)}" class="bad">{escape(r.reason)}</td></tr>')
    header = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def share(value: float | None) -> str:
    return comparison.HOLE if value is None else comparison.percent(value)


def address(wandb: str | None) -> str:
    """A link if it is one; nothing but https is ever made a link."""
    if wandb is None:
        return comparison.HOLE
    return f'<a href="{escape(wandb)}">open</a>' if wandb.startswith("https://") else escape(wandb)


def flat(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """('model.d_model', '64'), ...: a nested config as command-line overrides would name it."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, "null" if config is None else str(config)


def environment_section(records: Sequence[Record]) -> str:
    """Every machine and set of versions that made a record, with the number of runs."""
    found: Counter[tuple[tuple[str, str], ...]] = Counter()
    for r in records:
        h = r.hardware
        facts = {
            "Device": h.device,
            "Processor": f"{h.processor}, {h.cores} cores, {h.threads} threads, {h.memory_mib / 1024:.0f} GiB",
            "System": h.system,
            "Precision": r.precision,
            "Commit": comparison.commit_name(r.git),
            "Versions": ", ".join(f"{name} {version}" for name, version in sorted(r.versions.items())),
        }
        found[tuple(facts.items())] += 1
    cards = []
    for facts_, n in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts_)
        cards.append(f'<div class="card"><h3>{n} run{"s" * (n != 1)}</h3><dl>{listed}</dl></div>')
    content = "".join(cards) or '<div class="card"><p>No runs yet.</p></div>'
    return f'<section id="environment"><h2>Environment</h2>{content}</section>'
