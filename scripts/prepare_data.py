"""Prepare, check and look at the data of a task.

    python scripts/prepare_data.py prepare task=pathx           # official if at hand, else generated or downloaded
    python scripts/prepare_data.py prepare task=text data.source=/some/dir
    python scripts/prepare_data.py generate task=pathfinder64 n_train=10000
    python scripts/prepare_data.py verify task=listops          # hashes, labels, duplicates; the first bad example
    python scripts/prepare_data.py show task=pathfinder n=6 to=pictures.png

Keys are those of training: groups (task, scale), data.root, data.source, seed; others are the task's own arguments.
"""

import handover

import contextlib
import io
import itertools
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from rich.console import Console
from rich.table import Table

from data.datamodule import TaskData
from data.prepared import DataError
from data.verify import statistics, verify
from lra.config.overrides import nearest
from lra.config.overrides import options as named
from lra.io.atomic import atomic_write
from lra.paths import CONFIGS

COMMANDS = ("prepare", "verify", "generate", "show")
console = Console(highlight=False)


def die(message: object) -> NoReturn:
    """One line on the error stream and exit status 2: the user can mend it."""
    print("prepare_data.py: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(2)


def task_config(choices: list[str]) -> dict[str, Any]:
    """The part of the training configuration that describes the task, overridden as there."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides=choices).task, resolve=True)


def parse(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """(Hydra overrides, options of this script); ends with one line if a key is unknown."""
    options = {"n": "4", "to": ""}
    pairs = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            die(f"{argument}: expected key=value")
        pairs.append((key, value))
    groups = {"task": "task", "scale": "scale"}
    chosen = []
    for key, value in pairs:
        if key in groups:
            known = named(key)
            if value not in known:
                die(f"{key}={value}: there is no such {key}{nearest(value, known)} (known: {', '.join(known)})")
            chosen.append(f"{key}={value}")
    if not any(key == "task" for key, _ in pairs):
        die("which task? task=listops, text, retrieval, image, pathfinder or pathx")
    own = [key for key in task_config(chosen) if key != "_target_"]
    overrides = list(chosen)
    for key, value in pairs:
        if key in groups:
            continue
        if key in options:
            options[key] = value
        elif key in ("data.root", "data.source", "seed"):
            overrides.append(f"{key}={value}")
        elif (name := key.removeprefix("task.")) in own:
            overrides.append(f"task.{name}={value}")
        else:
            known = [*own, *options, *groups, "data.root", "data.source", "seed"]
            die(f"{key}={value}: there is no option {key}{nearest(key, known)}")
    return overrides, options


def prepare(task: TaskData) -> None:
    task.prepare_data()
    task.setup()
    console.print(f"{task.prepared_folder}: ready", soft_wrap=True)
    console.print(f"kind {task.kind}, counts {task.counts}, fingerprint {task.fingerprint}", soft_wrap=True)
    for note in task.notes:
        console.print(note, soft_wrap=True, markup=False)


def ensure_prepared(task: TaskData, words: list[str]) -> None:
    """Ends with the command that prepares this very data, under its own arguments, where there is none yet."""
    folder = task.prepared_folder
    if not folder.is_dir():
        same = shlex.join(word for word in words if not word.startswith(("n=", "to=")))
        die(f"{folder}: not prepared yet; .venv/bin/python scripts/prepare_data.py prepare {same}")


def figures(task: TaskData, choices: list[str]) -> Table:
    """Statistics of the data chosen and, where it is prepared, of the same task's data of another origin."""
    tasks = [task]
    for source in ("official", "generated"):
        other = instantiate(task_config([*choices, f"data.source={source}"]))
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
        label = int(task.opened.examples.y[row])
        console.print(f"\nexample {row}, label {label}")
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


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    command, *rest = arguments
    if command not in COMMANDS:
        die(f"{command}: there is no such command{nearest(command, list(COMMANDS))} (known: {', '.join(COMMANDS)})")
    try:
        overrides, options = parse(rest)
        if command == "generate":
            overrides.append("data.source=generated")
        if not options["n"].isdecimal() or int(options["n"]) < 1:
            die(f"n={options['n']}: a whole number of examples")
        task = instantiate(task_config(overrides))
        if command in ("prepare", "generate"):
            prepare(task)
            return
        ensure_prepared(task, rest)
        if command == "verify":
            for line in verify(task):
                console.print(line, soft_wrap=True, markup=False)
        else:
            task.setup()
            show(task, figures(task, overrides), int(options["n"]), Path(options["to"]) if options["to"] else None)
    except InstantiationException as error:
        die(error.__cause__ or error)
    except (DataError, HydraException, OmegaConfBaseException, OSError) as error:
        die(error)
    except KeyboardInterrupt:
        die("stopped; give the same command again")


if __name__ == "__main__":
    handover.run(lambda: main(sys.argv[1:]))
