"""Prepare, check and look at the data of a task.

    python scripts/prepare_data.py prepare task=pathx           # official if at hand, else generated or downloaded
    python scripts/prepare_data.py prepare task=text data.source=/some/dir
    python scripts/prepare_data.py generate task=pathfinder64 task.n_train=10000
    python scripts/prepare_data.py verify task=listops          # hashes, labels, duplicates; the first bad example
    python scripts/prepare_data.py show task=pathfinder -n 6 --to pictures.png
    python scripts/prepare_data.py export task=listops --to listops/ # datasets.load_from_disk reads this folder

Settings are those of scripts/train.py: task=, scale=, data.root=, data.source=, task.<argument>=.
"""

import handover

import argparse
import contextlib
import io
import itertools
import shlex
from pathlib import Path

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image
from rich.console import Console
from rich.table import Table

from data.datamodule import TaskData
from data.hugging_face import export
from data.prepared import DataError
from data.verify import statistics, verify
from lra.config.compose import COMPOSITION_ERRORS, composed, explained
from lra.config.overrides import die, parse_arguments
from lra.errors import UserError
from lra.io.atomic import atomic_write

COMMANDS = {
    "prepare": "find, download or generate the data and prepare it",
    "generate": "generate the data, even if official data is at hand",
    "verify": "check hashes, labels and duplicates",
    "show": "print statistics and the first test examples",
    "export": "write prepared data as a data set of Hugging Face's library",
}
console = Console(highlight=False)


def arguments(words: list[str] | None) -> argparse.Namespace:
    """The command, its options and the settings of the task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "settings", nargs="*", metavar="KEY=VALUE", help="as for scripts/train.py; task= is needed"
        )
        if name == "show":
            command.add_argument("-n", type=int, default=4, help="number of examples")
            command.add_argument("--to", type=Path, metavar="FILE", help="write pictures to a PNG file")
        elif name == "export":
            command.add_argument("--to", type=Path, metavar="FOLDER", required=True, help="new folder")
    return parser.parse_args(words)


def build_task(settings: list[str]) -> TaskData:
    """The data module of the training configuration with these settings. UserError if they make none."""
    try:
        return instantiate(composed(parse_arguments(settings).overrides)["cfg"].task)
    except InstantiationException as error:
        raise UserError(str(error.__cause__ or error)) from None
    except COMPOSITION_ERRORS as error:
        raise explained(error, settings) from None


def prepare(task: TaskData) -> None:
    task.prepare_data()
    task.setup()
    console.print(f"{task.prepared_folder}: ready", soft_wrap=True)
    console.print(f"kind {task.kind}, counts {task.counts}, fingerprint {task.fingerprint}", soft_wrap=True)
    for note in task.notes:
        console.print(note, soft_wrap=True, markup=False)


def ensure_prepared(task: TaskData, settings: list[str]) -> None:
    """UserError with the command that prepares this data if it is not prepared yet."""
    if not (folder := task.prepared_folder).is_dir():
        hint = f".venv/bin/python scripts/prepare_data.py prepare {shlex.join(settings)}"
        raise UserError(f"{folder}: not prepared yet", hint=hint)


def figures(task: TaskData, settings: list[str]) -> Table:
    """Statistics of the data and, if they are prepared, of the task's official and generated data."""
    tasks = [task]
    for source in ("official", "generated"):
        other = build_task([*settings, f"data.source={source}"])
        with contextlib.suppress(DataError):
            other.setup()
            if all(other.fingerprint != known.fingerprint for known in tasks):
                tasks.append(other)
    columns = [statistics(each) for each in tasks]
    table = Table("", *(each.opened.manifest["edition"] for each in tasks), box=None)
    for what in dict.fromkeys(itertools.chain(*columns)):
        table.add_row(what, *(column.get(what, "") for column in columns))
    return table


def show(task: TaskData, table: Table, n: int, to: Path | None) -> None:
    """Figures and the first n test examples; pictures in the terminal, or as a PNG sheet in the file `to`."""
    console.print(table)
    rows = task.opened.index["test"][:n].tolist()
    pictures = [task.pixels(row) for row in rows]
    for row, picture in zip(rows, pictures, strict=True):
        label = f", label {int(task.opened.examples.y[row])}" if task.spec.objective == "classification" else ""
        console.print(f"\nexample {row}{label}")
        if picture is None:
            console.print((task.text(row) or "")[:600], markup=False)
        elif to is None:
            console.print(drawing(picture), markup=False, soft_wrap=True)
    if to is not None and pictures and pictures[0] is not None:
        sheet = np.concatenate([np.pad(p, 1, constant_values=128) for p in pictures], 1)
        content = io.BytesIO()
        enlarged = Image.fromarray(sheet).resize((sheet.shape[1] * 4, sheet.shape[0] * 4), Image.Resampling.NEAREST)
        enlarged.save(content, "PNG")
        atomic_write(to, content.getbuffer(), hint="to=/some/file.png")
        console.print(f"{to}: {len(rows)} examples side by side")


def drawing(picture: np.ndarray, width: int = 64) -> str:
    """A picture in characters, at most `width` wide; each stands for a column of two pixels."""
    if len(picture) > width:
        picture = np.asarray(Image.fromarray(picture).resize((width, width), Image.Resampling.BOX))
    shades = " .:-=+*#%@"
    rows = picture.reshape(len(picture) // 2, 2, -1).max(1).astype(int)
    return "\n".join("".join(shades[v * (len(shades) - 1) // 255] for v in row) for row in rows)


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    settings = [*args.settings, *(["data.source=generated"] if args.command == "generate" else [])]
    try:
        if not any(word.startswith("task=") for word in settings):
            raise UserError("no task is given", hint="task=listops, text, retrieval, image, pathfinder or pathx")
        task = build_task(settings)
        if args.command in ("prepare", "generate"):
            prepare(task)
            return
        ensure_prepared(task, settings)
        if args.command == "verify":
            for line in verify(task):
                console.print(line, soft_wrap=True, markup=False)
        elif args.command == "export":
            task.setup()
            console.print(f"{args.to}: {export(task, args.to)}", soft_wrap=True)
        else:
            task.setup()
            show(task, figures(task, settings), args.n, args.to)
    except (ValueError, OSError) as error:
        die(error, "prepare_data.py")
    except KeyboardInterrupt:
        die("stopped; hint: the same command resumes", "prepare_data.py")


if __name__ == "__main__":
    handover.run(main)
