"""The results of one scale in README.md: the table between two markers, and the picture in light and dark."""

from pathlib import Path

from lra.io.atomic import atomic_write
from lra.report import charts
from lra.tables import comparison
from lra.tables.aggregate import Aggregate, Column, Row

BEGIN = "<!-- results: make report ARGS='--readme --scale mini' -->"
END = "<!-- end of results -->"
PICTURE = "docs/figures/results-{theme}.svg"
THEMES = ("light", "dark")


def table(results: Aggregate) -> str:
    """Models with a published row in Markdown, best average first; signs are left to results/tables."""
    columns = results.measured_columns
    models = [model for model in results.models if model.published and model.main_rows]
    rows = charts.best_first([model.main_rows[0] for model in models])
    lines = [["model", *(c.title for c in columns)], ["---", *(["---:"] * len(columns))]]
    lines += [[charts.label_of(row), *(cell(row, column) for column in columns)] for row in rows]
    lines.append(["commonest label", *(str(entry) for entry in comparison.chance_row(columns)[1:-2])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(row: Row, column: Column) -> str:
    """A result without footnote signs, and without the number of seeds if there is one."""
    if column.task not in row.cells:
        return comparison.HOLE
    entry = comparison.seeds_entry(row.cells[column.task].seeds)
    text = str(entry)
    for sign in set(entry.signs) - {comparison.RUNNING, *comparison.FAILURES.values()}:
        text = text.replace(sign, "")
    return text.removesuffix(" (1)")


def with_table(text: str, results: Aggregate) -> str:
    """README's text with the table between the markers replaced. ValueError without markers."""
    before, found, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise ValueError(f"README.md has no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table(results)}\n{END}{after}"


def pictures(results: Aggregate) -> dict[str, str]:
    """Path below the repository's root -> SVG of all results at a glance; empty without results."""
    overview = charts.overview(results.main_rows, results.measured_columns, legend=True)
    return {PICTURE.format(theme=t): charts.themed(overview.picture, t) for t in THEMES} if overview else {}


def update(root: Path, results: Aggregate) -> list[Path]:
    """Write README.md and its pictures below `root`; the paths written."""
    path = root / "README.md"
    files = {"README.md": with_table(path.read_text(encoding="utf-8"), results), **pictures(results)}
    for name, text in files.items():
        atomic_write(root / name, text, hint="a copy of the repository that you can write to")
    return [root / name for name in files]
