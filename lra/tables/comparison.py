"""Tables as a pure function of records and published numbers.

Every function here returns a `Table`, which `lra.tables.formats` turns into Markdown, LaTeX or a terminal's table.
Measured and published numbers stand side by side; scales, kinds of data and variants are never mixed; a hole stays one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import rich.console

from lra.records import significance
from lra.records.published import TASKS, ModelInfo, Published, PublishedRow
from lra.records.record import Git, Hardware, Record
from lra.tables import aggregate
from lra.tables.aggregate import Row, SeedGroup
from lra.tables.formats import Entry, Table, terminal

HOLE, FAIL, RUNNING, UNTUNED, ON_TEST, UNVERIFIED, LIKE_BEST = "—", "✗", "…", "†", "‡", "?", "≈"
KIND_SIGNS = {"official": "", "generated": "ᵍ", "subset": "ˢ", "toy": "ᵗ"}
MEANING = {
    HOLE: "not run, or not published",
    FAIL: f"ran and stayed at chance: p ≥ {significance.CHANCE_LEVEL} in an exact one-sided binomial test against "
    "always answering the commonest label of the test set; published: reported as failed",
    RUNNING: "begun and not ended; counted nowhere",
    UNTUNED: "untuned: this model has no recipe for this task",
    ON_TEST: "checkpoint chosen on the test set",
    UNVERIFIED: "published number not checked against its source",
    LIKE_BEST: f"does not differ from the best (p ≥ {significance.DIFFERENCE_LEVEL}: Welch's t-test over seeds, or the "
    "two-proportion test where either has one seed; no correction for the number of models)",
    KIND_SIGNS["generated"]: "data generated here by the benchmark's rules",
    KIND_SIGNS["subset"]: "a part of the official data",
    KIND_SIGNS["toy"]: "toy data in place of the task's own",
}
FAILURES = {"diverged": "div.", "oom": "OOM"}
FAILURE_MEANING = {"div.": "every seed diverged", "OOM": "every seed ran out of memory"}
AVERAGE_RULE = (
    "Avg: mean of the six tasks over every seed tried, a failed seed counted as chance (the rule of the S4 paper); "
    "none if one task is missing"
)


def percent(share: float) -> str:
    return f"{100 * share:.2f}"


def signs(runs: Iterable[Record]) -> str:
    """Footnote signs that apply to any of these runs: kind of data, untuned, chosen on test."""
    runs = list(runs)
    kinds = {r.data.kind for r in runs}
    text = "".join(sign for kind, sign in KIND_SIGNS.items() if kind in kinds)
    text += UNTUNED if any(r.recipe is None for r in runs) else ""
    return text + (ON_TEST if any(r.selection.on_test for r in runs) else "")


def cell_text(cell: SeedGroup | None) -> str:
    """A cell as a reader sees it: 59.60 ± 0.07 (3), 88.10 (2 of 3), ✗ (3), div. (1), … (1) or —, with its signs."""
    if cell is None:
        return HOLE
    tried, scores = len(cell.tried), cell.scores
    if not tried:
        return f"{RUNNING}{signs(cell.runs)} ({len(cell.runs)})"
    waiting = f" {RUNNING}" if cell.unfinished else ""
    if cell.mean is None:
        states = {r.status for r in cell.tried}
        word = FAILURES.get(states.pop(), FAIL) if len(states) == 1 else FAIL
        return f"{word}{signs(cell.tried)} ({tried}){waiting}"
    spread = f" ± {percent(cell.deviation)}" if cell.deviation is not None else ""
    count = str(tried) if len(scores) == tried else f"{len(scores)} of {tried}"
    return f"{percent(cell.mean)}{spread}{signs(cell.tried)} ({count}){waiting}"


def published_entries(row: PublishedRow, tasks: Sequence[str], measured: Row | None) -> list[Entry]:
    """A paper's scores; with the difference measured - published where there is a comparable measurement."""
    entries = []
    for task in tasks:
        text = HOLE
        if task in row.scores:
            score = row.scores[task]
            text = FAIL if score is None else f"{score:.2f}"
            text += "" if row.verified else UNVERIFIED
            text += difference(measured.cells.get(task) if measured else None, score)
        entries.append(Entry(text, quiet=True))
    return entries


def difference(cell: SeedGroup | None, published: float | None) -> str:
    """' (Δ -0.41)': measured minus published, in points; only for runs of paper scale on a whole data set."""
    if cell is None or published is None or cell.mean is None or cell.kind not in ("official", "generated"):
        return ""
    if cell.runs[0].scale != "paper":
        return ""
    return f" (Δ {100 * cell.mean - published:+.2f})"


def row_label(row: Row, info: ModelInfo) -> str:
    label = info.title
    if row.variant:
        label += f" [{' '.join(row.variant)}]"
    return label + (" (other data)" if row.part else "")


def scale_table(
    records: Sequence[Record], published: Published, scale: str, *, every_task: bool = True, papers: bool = True
) -> Table:
    """The main table of one scale: measured rows, each model's published row beneath it.

    At scale paper, and where nothing was run, published rows of models without runs are shown too.
    every_task  show the six tasks even if some were not run
    papers      show published rows
    """
    records = [r for r in records if r.scale == scale]
    order = {stem: i for i, stem in enumerate(published.models)}
    rows = sorted(
        aggregate.rows_of(records), key=lambda r: (order.get(r.model, len(order)), r.model, r.variant, r.part)
    )
    columns = aggregate.columns_of(records, every=every_task)
    stems = dict.fromkeys(row.model for row in rows)
    if papers and (scale == "paper" or not rows):
        extra = [stem for stem in published.models if published.row_of(stem)]
        stems = dict.fromkeys(sorted({*stems, *extra}, key=lambda s: (order.get(s, len(order)), s)))
    body = [chance_row(rows, columns)] if rows else []
    for stem in stems:
        info = published.model(stem, next((r.title for r in rows if r.model == stem), None))
        mine = [i for i, r in enumerate(rows) if r.model == stem]
        body += [measured_entries(rows, i, info, columns) for i in mine]
        paper = published.row_of(stem) if papers else None
        reference = rows[mine[0]] if mine and not rows[mine[0]].variant else None
        if paper is not None:
            name = f"↳ paper: {paper.model}" if mine else f"{paper.model} (paper)"
            body.append(published_line(name, paper, columns, reference, paper.six_task_average))
    header = ("Model", *columns.values(), "Avg", "Runs")
    title = f"Long Range Arena, scale {scale}: test accuracy in percent"
    notes = [AVERAGE_RULE, *measured_notes(rows, columns)]
    if not records:
        notes.insert(0, how_to_run(scale))
    if papers:
        notes.append("Rows marked paper: published numbers" + difference_note(scale))
    return Table(f"{scale}", title, header, tuple(map(tuple, body)), tuple(with_signs(body, notes)))


def render_rich(records: Sequence[Record], published: Published, scale: str, *, room: int) -> rich.console.Group:
    """The main table for a terminal of so many characters, with the tasks that were run."""
    return terminal(scale_table(records, published, scale, every_task=False), room=room)


def how_to_run(scale: str) -> str:
    return (
        f"No runs at this scale yet. All of them: make lra-all SCALE={scale}; "
        f"one: python scripts/train.py task=listops model=s4 scale={scale}"
    )


def difference_note(scale: str) -> str:
    note = ", their Avg by the same rule; "
    return note + (
        "Δ: measured - published, in points" if scale == "paper" else "only scale paper is compared with them"
    )


def chance_row(rows: Sequence[Row], columns: dict[str, str]) -> list[Entry]:
    """What always answering the commonest label of the test set scores."""
    entries = [Entry("Commonest label", quiet=True)]
    for task in columns:
        data = aggregate.common_data(rows, task)
        share = next((c.chance for r in rows if (c := r.cells.get(task)) and c.tested_on == data), None)
        entries.append(Entry(HOLE if share is None else percent(share), quiet=True))
    return [*entries, Entry("", quiet=True), Entry("", quiet=True)]


def measured_entries(
    rows: Sequence[Row], index: int, info: ModelInfo, columns: dict[str, str], average: Sequence[str] = tuple(TASKS)
) -> list[Entry]:
    row = rows[index]
    entries = [Entry(row_label(row, info))]
    for task in columns:
        best, like_best = aggregate.best_cells(rows, task)
        text = (LIKE_BEST + " " if index in like_best else "") + cell_text(row.cells.get(task))
        entries.append(Entry(text, bold=index in best))
    mean = row.average(average)
    runs = [r for t in average if t in row.cells for r in row.cells[t].tried]
    entries.append(Entry(HOLE if mean is None else percent(mean) + signs(runs)))
    return [*entries, Entry(f"{sum(r.status == 'ok' for r in row.runs)}/{len(row.runs)}")]


def published_line(
    name: str, paper: PublishedRow, columns: dict[str, str], measured: Row | None, average: float | None
) -> list[Entry]:
    mean = HOLE if average is None else f"{average:.2f}" + ("" if paper.verified else UNVERIFIED)
    scores = published_entries(paper, list(columns), measured)
    return [Entry(name, quiet=True), *scores, Entry(mean, quiet=True), Entry("", quiet=True)]


def measured_notes(rows: Sequence[Row], columns: dict[str, str]) -> list[str]:
    """What stands under a table of measurements: how to read it, what failed, on what and from which commit."""
    runs = [r for row in rows for r in row.runs]
    if not runs:
        return []
    notes = ["mean ± sample standard deviation over the seeds that learned (their number, of seeds tried)"]
    notes.append("Runs: ended well / begun. Bold: the best mean of a column, among results on the same test examples")
    for task, title in columns.items():
        sets = len({row.cells[task].tested_on for row in rows if task in row.cells})
        if sets > 1:
            notes.append(f"{title}: {sets} different sets of test examples in this column; compare within one only")
    notes += failure_notes(rows, columns)
    notes.append("Hardware: " + tally(machine(r.hardware) for r in runs))
    notes.append("Commit: " + tally(commit_name(r.git) for r in runs))
    return notes


def machine(hardware: Hardware) -> str:
    """'NVIDIA H100, 1 thread': the device, and the threads of the processor."""
    return f"{hardware.device}, {hardware.threads} thread{'s' * (hardware.threads != 1)}"


def commit_name(git: Git) -> str:
    """First ten digits of the commit, and whether the code differed from it."""
    return (git.commit or "unknown")[:10] + (" with uncommitted changes" if git.dirty else "")


def failure_notes(rows: Sequence[Row], columns: dict[str, str]) -> list[str]:
    """A line for every run that did not end well, by model and task."""
    return [
        f"{row.title} on {columns[task]}, seed {r.seed}: {r.status} after {r.steps_done} of {r.steps_total} steps"
        + (f" ({r.reason})" if r.reason else "")
        for row in rows
        for task in columns
        if task in row.cells
        for r in row.cells[task].runs
        if r.status != "ok"
    ]


def tally(names: Iterable[str]) -> str:
    """'cpu (12 runs); gpu (1 run)', commonest first."""
    counts = sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(f"{name} ({n} run{'s' * (n != 1)})" for name, n in counts)


def with_signs(body: Iterable[Iterable[Entry]], notes: Sequence[str]) -> list[str]:
    """The notes, and the meaning of every sign that appears in the body."""
    text = " ".join(entry.text for row in body for entry in row)
    used = [f"{sign}: {meaning}" for sign, meaning in MEANING.items() if sign in text]
    used += [f"{word}: {meaning}" for word, meaning in FAILURE_MEANING.items() if word in text]
    return [*notes, *used]
