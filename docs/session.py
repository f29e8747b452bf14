"""Record a command in a terminal and draw what it showed as an animated SVG, for the README.

    .venv/bin/python docs/session.py docs/figures/demo.svg 'make demo' .venv/bin/python scripts/demo.py --again

Arguments: the file, the command line to show, the command to run. The picture is of the real output: a few screens from
the time of the run, then the last one.
"""

import argparse
import codecs
import fcntl
import os
import pty
import re
import struct
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI as COLOURS
from rich.text import Text

COLUMNS, ROWS = 110, 60
CODE = re.compile(r"\x1b\[(\d*)([AK])|\x1b\[\?\d+[hl]|\r|\n")
WIDTH, HEIGHT, MARGIN = 7.8, 17, 14  # pixels of a character, of a line, and around the text
N_FRAMES, SECONDS, LAST_SECONDS = 9, 1.2, 12.0  # screens before the last one, and how long each is shown

Output = Sequence[tuple[float, str]]  # seconds since the start, text


def record(command: Sequence[str]) -> list[tuple[float, str]]:
    """Run a command in a terminal of its own; returns its output with times. RuntimeError if it fails."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    # a character may be cut in two
    begin, output, decode = time.monotonic(), [], codecs.getincrementaldecoder("utf-8")("replace").decode
    while True:
        try:
            read = os.read(terminal, 1 << 16)
        except OSError:  # Linux's end of a terminal
            read = b""
        if not read:
            break
        output.append((time.monotonic() - begin, decode(read)))
    if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError(f"{' '.join(command)}: exit status {status}")
    return output


def screens(output: Output) -> Iterator[tuple[float, list[str]]]:
    """Time and lines of the screen after each part of the output; colours stay as codes.

    Knows what rich's progress bars do: go up some lines, erase a line, write it again.
    """
    lines, row, rest = [""], 0, ""
    for moment, text in output:
        text, position = rest + text, 0
        # a code may be cut in two
        end = text.rfind("\x1b") if re.search(r"\x1b[^A-Za-z]*$", text) else len(text)
        text, rest = text[:end], text[end:]
        for code in CODE.finditer(text):
            lines[row] += text[position : code.start()]
            position = code.end()
            if code[0] == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif code[2] == "A":
                row = max(0, row - int(code[1] or 1))
            elif code[2] == "K":
                lines[row] = ""
        lines[row] += text[position:]
        yield moment, list(lines)


def frames(output: Output) -> list[list[str]]:
    """Screens evenly spread over the time of the run, and the last one."""
    taken = list(screens(output))
    total = taken[-1][0]
    wanted = [total * (i + 0.5) / N_FRAMES for i in range(N_FRAMES)]
    spread = [next(lines for moment, lines in reversed(taken) if moment <= max(at, taken[0][0])) for at in wanted]
    return [*spread, taken[-1][1]]


def draw(shown: str, pictures: Sequence[list[str]]) -> str:
    """An SVG that shows the pictures one after the other, the last one longest, and again; `shown` is the prompt."""
    prompt = Text.assemble(("$ ", "bold green"), (shown, "bold"))
    lines = [[prompt, *(Text.from_ansi(line.rstrip()) for line in picture)] for picture in pictures]
    while all(not picture[-1].plain.strip() for picture in lines):
        lines = [picture[:-1] for picture in lines]
    width, height = COLUMNS * WIDTH + 2 * MARGIN, max(map(len, lines)) * HEIGHT + 2 * MARGIN
    total = SECONDS * (len(lines) - 1) + LAST_SECONDS
    ends = [SECONDS * (i + 1) / total for i in range(len(lines) - 1)] + [1.0]
    style, groups, begin = [], [], 0.0
    for i, (picture, end) in enumerate(zip(lines, ends, strict=True)):
        rule = f"0%{{opacity:{int(i == 0)}}}{100 * begin:.2f}%{{opacity:1}}{100 * end:.2f}%{{opacity:0}}"
        style.append(f"#f{i}{{animation:a{i} {total:.1f}s step-end infinite}}@keyframes a{i}{{{rule}}}")
        groups.append(f'<g id="f{i}">' + "".join(line(text, row) for row, text in enumerate(picture)) + "</g>")
        begin = end
    last = len(lines) - 1
    still = f"g{{animation:none!important;opacity:0}}#f{last}{{opacity:1!important}}"
    background, foreground = COLOURS.background_color.hex, COLOURS.foreground_color.hex
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">'
        f"<title>{escape(shown)}, recorded</title><style>text{{font:13px monospace;white-space:pre;fill:{foreground}}}"
        f"{''.join(style)}@media(prefers-reduced-motion:reduce){{{still}}}</style>"
        f'<rect width="100%" height="100%" rx="8" fill="{background}"/>{"".join(groups)}</svg>\n'
    )


def line(text: Text, row: int) -> str:
    """A line of the screen; each run of one style is placed by its column, whatever the width of the font."""
    found, column = [], 0
    for segment in text.render(Console(width=1000, color_system="truecolor")):
        content, style = segment.text, segment.style or Style()
        if content.strip():
            x = MARGIN + column * WIDTH
            length = f' textLength="{len(content) * WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
            found.append(f'<tspan x="{x:.1f}"{length}{attributes(style)}>{escape(content)}</tspan>')
        column += len(content)
    return f'<text y="{MARGIN + (row + 0.75) * HEIGHT:.1f}">{"".join(found)}</text>' if found else ""


def attributes(style: Style) -> str:
    bold = ' font-weight="bold"' if style.bold else ""
    dim = ' opacity="0.65"' if style.dim else ""
    colour = f' fill="{style.color.get_truecolor(COLOURS).hex}"' if style.color and not style.color.is_default else ""
    return bold + dim + colour


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the SVG")
    parser.add_argument("shown", help="command line to show")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="command to run")
    args = parser.parse_args()
    args.file.write_text(draw(args.shown, frames(record(args.command))), encoding="utf-8")


if __name__ == "__main__":
    main()
