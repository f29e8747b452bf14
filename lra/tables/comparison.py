"""The comparison table of one scale: measured rows with the published row of each model below."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from lra.objectives import significance
from lra.records.published import TASKS, Published, PublishedRow
from lra.records.record import Git, Hardware, Record
from lra.tables.aggregate import Aggregate, Cell, Column, Outcome, Row, SeedGroup, aggregate
from lra.tables.formats import Entry, Table

HOLE, FAIL, RUNNING, UNTUNED, ON_TEST, UNVERIFIED, LIKE_BEST = "—", "✗", "…", "†", "‡", "?", "≈"
CHANGED = "ᶜ"
TRIVIAL = "°"
KIND_SIGNS = {"official": "", "generated": "ᵍ", "subset": "ˢ", "toy": "ᵗ"}
FAILURES: dict[Outcome, str] = {"diverged": "div.", "oom": "OOM", "chance": FAIL}
MEANING = {
    HOLE: "not run, or not published",
    FAIL: f"ran and stayed at chance: p ≥ {significance.CHANCE_LEVEL} in an exact one-sided binomial test against "
    "always answering the commonest label of the test set; published: reported as failed",
    RUNNING: "begun and not ended; counted nowhere",
    UNTUNED: "untuned: this model has no recipe for this task",
    ON_TEST: "checkpoint chosen on the test set",
    TRIVIAL: f"not better than the trivial answer: p ≥ {significance.CHANCE_LEVEL} in a one-sided t-test over "
    "examples; windows of a series count as far as their horizons do not overlap",
    CHANGED: "the model's code has changed since",
    UNVERIFIED: "published number not checked against its source",
    LIKE_BEST: f"does not differ from the best (p ≥ {significance.DIFFERENCE_LEVEL}: Welch's t-test over seeds, or the "
    "two-proportion test where either has one seed; no correction for the number of models)",
    KIND_SIGNS["generated"]: "data generated here by the benchmark's rules",
    KIND_SIGNS["subset"]: "a part of the official data",
    KIND_SIGNS["toy"]: "toy data in place of the task's own",
    "div.": "every seed diverged",
    "OOM": "every seed ran out of memory",
}
AVERAGE_RULE = (
    "Avg: mean of the six tasks over every seed tried, a failed seed counted as chance (the rule of the S4 paper); "
    "none if one task is missing"
)


def percent(share: float) -> str:
    return f"{100 * share:.2f}"


def signs(runs: Sequence[Record]) -> list[str]:
    """Footnote signs that apply to any of these runs: kind of data, untuned, chosen on test, code changed."""
    kinds = {r.data.kind for r in runs}
    found = [sign for kind, sign in KIND_SIGNS.items() if kind in kinds and sign]
    group = SeedGroup(tuple(runs))
    found += [UNTUNED] * group.untuned + [ON_TEST] * group.chosen_on_test
    return found + [CHANGED] * group.code_changed


def hole(*, published: bool = False) -> Entry:
    return Entry(HOLE, published=published, signs=(HOLE,))


def seeds_entry(group: SeedGroup) -> Entry:
    """A result as printed: 59.60 ± 0.07 (3), 88.10 (2 of 3), ✗ (3), div. (1), … (1), with its footnote signs."""
    tried, marks = len(group.tried), signs(group.tried or group.runs)
    footnotes, used = "".join(marks), (*marks, *[RUNNING] * bool(group.unfinished))
    if group.outcome == "unfinished":
        return Entry(RUNNING + footnotes, f"({len(group.runs)})", signs=used)
    waiting = f" {RUNNING}" if group.unfinished else ""
    if group.mean is None:
        word = FAILURES[group.outcome]
        return Entry(word + footnotes, f"({tried}){waiting}", failed=True, signs=(word, *used))
    count = f"({tried if len(group.scores) == tried else f'{len(group.scores)} of {tried}'}){waiting}"
    if group.std is None:
        return Entry(percent(group.mean) + footnotes, count, signs=used)
    return Entry(percent(group.mean), f"± {percent(group.std)}{footnotes} {count}", signs=used)


def cell_entry(cell: Cell | None) -> Entry:
    """A cell of a column: the best mean bold, ≈ before those that do not differ from it, — for no runs."""
    if cell is None:
        return hole()
    entry = seeds_entry(cell.seeds)
    if cell.like_best:
        return replace(entry, text=f"{LIKE_BEST} {entry.text}", signs=(*entry.signs, LIKE_BEST))
    return replace(entry, bold=cell.best)


def scale_table(records: Sequence[Record], published: Published, scale: str, *, every_task: bool = True) -> Table:
    """The main table of one scale: measured rows, each model's published row below.

    At scale paper, and if nothing was run, published rows of models without runs are shown too.
    every_task  show the six tasks even if some were not run
    """
    return table_of(aggregate(records, published, scale), every_task=every_task)


def table_of(results: Aggregate, *, every_task: bool = True, list_failures: bool = True) -> Table:
    columns = results.columns if every_task else results.measured_columns
    body = [chance_row(columns)] if results.main_rows else []
    for model in results.models:
        rows = model.main_rows
        body += [measured_row(row, columns) for row in rows]
        if model.published and (rows or results.scale == "paper" or not results.main_rows):
            name = f"↳ paper: {model.published.model}" if rows else f"{model.published.model} (paper)"
            main = rows[0] if rows else None
            body.append(published_row(name, model.published, columns, main, model.published.six_task_average))
    header = ("Model", *(c.title for c in columns), "Avg", "Runs")
    title = f"Long Range Arena, scale {results.scale}: test accuracy in percent"
    notes = [AVERAGE_RULE, *measured_notes(results, columns, list_failures=list_failures)]
    if not results.main_rows:
        notes.insert(0, how_to_run(results.scale))
    if variants := len(results.rows) - len(results.main_rows):
        notes.append(f"Runs with other settings than the scale's: table {results.scale}_variants ({variants} rows)")
    notes.append(published_note(results.scale))
    return Table(results.scale, title, header, tuple(body), (*notes, *sign_notes(body)))


def variants_table(results: Aggregate) -> Table | None:
    """Runs with other settings than the scale's, below the model's unchanged row; None if there are none.

    Nothing is bold: such results compare with their own model only.
    """
    columns = results.measured_columns
    body: list[tuple[Entry, ...]] = []
    for model in results.models:
        if model.variants:
            body += [measured_row(row, columns) for row in model.main_rows]
            body += [measured_row(row, columns, label=variant_label(row)) for row in model.variants]
    if not body:
        return None
    title = f"Long Range Arena, scale {results.scale}, variants: test accuracy in percent"
    note = "↳: one or more settings differ from those of the row above; nothing is compared with other models"
    plain = [tuple(replace(e, bold=False, text=e.text.removeprefix(f"{LIKE_BEST} ")) for e in row) for row in body]
    header = ("Model", *(c.title for c in columns), "Avg", "Runs")
    notes = sign_notes([tuple(replace(e, signs=tuple(s for s in e.signs if s != LIKE_BEST)) for e in r) for r in plain])
    return Table(f"{results.scale}_variants", title, header, tuple(plain), (note, *notes))


def variant_label(row: Row) -> str:
    return f"↳ {row.title} with {' '.join(row.variant)}" + (" (other data)" if row.data_set else "")


def how_to_run(scale: str) -> str:
    return (
        f"No runs at this scale yet. All of them: make lra-all SCALE={scale}; "
        f"one: python scripts/train.py task=listops model=s4 scale={scale}"
    )


def published_note(scale: str) -> str:
    comparable = "Δ: measured - published, in points" if scale == "paper" else "only scale paper is compared with them"
    return f"Rows marked paper: published numbers, their Avg by the same rule; {comparable}"


def chance_row(columns: Sequence[Column]) -> tuple[Entry, ...]:
    """The accuracy of always answering the commonest label of the test set."""
    shares = [hole(published=True) if c.trivial is None else Entry(percent(c.trivial), published=True) for c in columns]
    return (Entry("Commonest label", published=True), *shares, Entry("", published=True), Entry("", published=True))


def measured_row(
    row: Row, columns: Sequence[Column], *, label: str | None = None, average: Sequence[str] = tuple(TASKS)
) -> tuple[Entry, ...]:
    mean = row.average(average)
    marks = signs([r for t in average if t in row.cells for r in row.cells[t].seeds.tried])
    shown = hole() if mean is None else Entry(percent(mean) + "".join(marks), signs=tuple(marks))
    cells = [cell_entry(row.cells.get(c.task)) for c in columns]
    return (Entry(label or row.label), *cells, shown, Entry(f"{row.ended_well}/{len(row.runs)}"))


def published_row(
    name: str, paper: PublishedRow, columns: Sequence[Column], measured: Row | None, average: float | None
) -> tuple[Entry, ...]:
    """A paper's scores, with the difference measured - published if there is a comparable measurement."""
    doubt = (UNVERIFIED,) * (not paper.verified)
    entries = []
    for task in (c.task for c in columns):
        cell = measured.cells.get(task) if measured else None
        difference = f"(Δ {cell.difference:+.2f})" if cell and cell.difference is not None else ""
        score = paper.scores.get(task)
        if score is not None:
            entries.append(Entry("".join((f"{score:.2f}", *doubt)), difference, published=True, signs=doubt))
        elif task in paper.scores:
            entries.append(Entry("".join((FAIL, *doubt)), published=True, signs=(FAIL, *doubt)))
        else:
            entries.append(hole(published=True))
    mean = hole(published=True)
    if average is not None:
        mean = Entry("".join((f"{average:.2f}", *doubt)), published=True, signs=doubt)
    return (Entry(name, published=True), *entries, mean, Entry("", published=True))


def measured_notes(results: Aggregate, columns: Sequence[Column], *, list_failures: bool = True) -> list[str]:
    """Notes below a table of measurements: how to read it, failed runs, hardware and commits."""
    runs = [r for row in results.main_rows for r in row.runs]
    if not runs:
        return []
    notes = ["mean ± sample standard deviation over the seeds that learned (their number, of seeds tried)"]
    notes.append("Runs: ended well / begun. Bold: the best mean of a column, among equal settings and test examples")
    notes += [
        f"{c.title}: {c.test_sets} different sets of test examples in this column; compare within one only"
        for c in columns
        if c.test_sets > 1
    ]
    notes += failure_notes(results, columns) if list_failures else []
    notes.append("Hardware: " + tally(machine(r.hardware) for r in runs))
    notes.append("Commit: " + tally(commit_name(r.git) for r in runs))
    return notes


def failure_notes(results: Aggregate, columns: Sequence[Column]) -> list[str]:
    """A line for every run that did not end well, by model and task."""
    return [
        f"{row.title} on {c.title}, seed {r.seed}: {r.status} after {r.steps_done} of {r.steps_total} steps"
        + (f" ({r.reason})" if r.reason else "")
        for row in results.main_rows
        for c in columns
        if c.task in row.cells
        for r in row.cells[c.task].seeds.runs
        if r.status != "ok"
    ]


def machine(hardware: Hardware) -> str:
    """'NVIDIA H100, 1 thread': the device and the number of processor threads."""
    return f"{hardware.device}, {hardware.threads} thread{'s' * (hardware.threads != 1)}"


def commit_name(git: Git) -> str:
    """First ten digits of the commit, and whether the code differed from it."""
    return (git.commit or "unknown")[:10] + (" with uncommitted changes" if git.dirty else "")


def tally(names: Iterable[str]) -> str:
    """'cpu (12 runs); gpu (1 run)', commonest first."""
    counts = sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(f"{name} ({n} run{'s' * (n != 1)})" for name, n in counts)


def sign_notes(body: Iterable[Iterable[Entry]]) -> list[str]:
    """The meaning of every sign in the body."""
    used = {sign for row in body for entry in row for sign in entry.signs}
    return [f"{sign}: {meaning}" for sign, meaning in MEANING.items() if sign in used]
