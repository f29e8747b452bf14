"""Tables as Markdown, LaTeX and for the terminal."""

from dataclasses import dataclass

import rich.box
import rich.console
import rich.table
import rich.text
from rich.cells import cell_len

LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "—": "---",
    "✗": r"$\times$",
    "…": r"\dots{}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "≈": r"$\approx$",
    "≥": r"$\ge$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "↳": r"$\hookrightarrow$",
    "ᶜ": r"$^{c}$",
    "ᵍ": r"$^{g}$",
    "ˢ": r"$^{s}$",
    "ᵗ": r"$^{t}$",
    "µ": r"$\mu$",
    "°": r"$^{\circ}$",
}


@dataclass(frozen=True)
class Entry:
    """One cell of a printed table.

    text, detail  the value; deviation, number of seeds or difference after it
    published     not measured here; faint in the terminal
    signs         footnote signs in it, which the notes explain
    """

    text: str
    detail: str = ""
    bold: bool = False
    published: bool = False
    failed: bool = False
    signs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.text} {self.detail}" if self.detail else self.text


@dataclass(frozen=True)
class Table:
    """A printed table: file name, title, header, rows as wide as the header, and notes below."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"table {self.name}: a row of {len(row)} under a header of {len(self.header)}")


def markdown(table: Table) -> str:
    """A section with an aligned table, the first column on the left, the others on the right."""

    def plain(text: str) -> str:
        return " ".join(text.split()).replace("|", "\\|")

    lines = [[plain(name) for name in table.header]]
    lines += [[f"**{plain(str(e))}**" if e.bold else plain(str(e)) for e in row] for row in table.rows]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(table.header))]

    def line(texts: list[str]) -> str:
        cells = [t.ljust(w) if i == 0 else t.rjust(w) for i, (t, w) in enumerate(zip(texts, widths, strict=True))]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join(("-" * (w + 2)) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    parts = [f"# {table.title}", "", line(lines[0]), rule, *(line(row) for row in lines[1:])]
    if table.notes:
        parts += ["", *(f"- {plain(note)}" for note in table.notes)]
    return "\n".join(parts) + "\n"


def escape_latex(text: str) -> str:
    # {} keeps LaTeX from turning the two hyphens of a command-line option into a dash
    parts = " ".join(text.split()).split("--")
    return "-{}-".join("".join(LATEX.get(character, character) for character in part) for part in parts)


def latex_heading(name: str) -> str:
    """A long name on two lines, broken at its comma."""
    first, comma, second = name.partition(", ")
    if not comma or len(name) < 14:
        return escape_latex(name)
    return rf"\shortstack[r]{{{escape_latex(first)},\\{escape_latex(second)}}}"


def latex(table: Table) -> str:
    """A table environment, for a document with the packages booktabs and graphicx."""
    columns = "l" + "r" * (len(table.header) - 1)

    def line(row: tuple[Entry, ...]) -> str:
        texts = [escape_latex(str(e)) for e in row]
        return " & ".join(rf"\textbf{{{t}}}" if e.bold else t for t, e in zip(texts, row, strict=True)) + r" \\"

    parts = [
        "% made by scripts/tables.py; needs \\usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(table.title)}}}",
        rf"\label{{tab:{table.name.replace('_', '-')}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(latex_heading(name) for name in table.header) + r" \\",
        r"\midrule",
        *(line(row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    if table.notes:
        notes = " ".join(escape_latex(note).rstrip(".") + "." for note in table.notes)
        parts += [r"\par\smallskip", rf"\parbox{{\linewidth}}{{\footnotesize {notes}}}"]
    return "\n".join([*parts, r"\end{table}"]) + "\n"


SHORTEST_NAME = 13  # characters of the first column, at least


def terminal(table: Table, *, room: int | None = None) -> rich.console.Group:
    """For a rich console: best results bold and green, published rows faint, failures red.

    room  characters in a line, if limited: the first column is narrowed first
    """
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, collapse_padding=True, pad_edge=False)
    lines = [table.header, *([str(e) for e in row] for row in table.rows)]
    names, *numbers = (max(map(cell_len, column)) for column in zip(*lines, strict=True))
    left = names if room is None else room - sum(numbers) - 2 * len(numbers)
    shown.add_column(table.header[0], width=min(names, max(SHORTEST_NAME, left)), overflow="fold")
    for name in table.header[1:]:
        shown.add_column(name, justify="right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(rich.text.Text(str(e), style=style(e)) for e in row))
    # not title and caption of the rich table: a narrow table would break them into many lines
    notes = [rich.text.Text(note, style="dim") for note in table.notes]
    return rich.console.Group(rich.text.Text(table.title, style="bold"), shown, *notes)


def style(entry: Entry) -> str:
    return "dim" if entry.published else "bold green" if entry.bold else "red" if entry.failed else ""
