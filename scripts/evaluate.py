"""Test the weights of a finished run again, and say whether the recorded number comes out.

    python scripts/evaluate.py checkpoint=runs/mini/listops/s4/0-1a2b3c4d           # a run's folder, or its file
    python scripts/evaluate.py checkpoint=model.safetensors data.source=/some/dir   # a file somebody sent
    python scripts/evaluate.py checkpoint=runs/mini/text/s4/0-1a2b3c4d length=2048  # on inputs of up to that length

The file holds the weights and, in its header, the record with the resolved configuration. Nothing in it is run: the
configuration may name classes of this repository and nothing else. Exit status 0: the same number of right answers as
recorded; 1: another; 2: it could not be tested. With another length there is nothing to compare with: 0.
"""

import handover

import difflib
import sys
from pathlib import Path
from typing import NoReturn

from lra.launch.evaluation import evaluate, weights_file

OPTIONS = {
    "checkpoint": "", "record": "", "length": "", "data.root": "data/prepared", "data.source": "auto",
    "accelerator": "auto",
}  # fmt: skip


def die(message: str) -> NoReturn:
    """One line on the error stream and exit status 2: the user can mend it."""
    print("evaluate.py: " + " ".join(str(message).split()), file=sys.stderr)
    sys.exit(2)


def options(words: list[str]) -> dict[str, str]:
    """key=value of the command line, over the defaults; ends with one line for anything else."""
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        print("\noptions: " + ", ".join(f"{name}={value}" for name, value in OPTIONS.items()))
        sys.exit(0 if words else 2)
    chosen = dict(OPTIONS)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in OPTIONS or not equals:
            close = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.0)
            die(f"{word}: not one of {', '.join(o + '=' for o in OPTIONS)}; did you mean {close[0]}=?")
        chosen[name] = value
    if not chosen["checkpoint"]:
        die("checkpoint= is missing: the folder of a finished run, or its model.safetensors")
    return chosen


def main() -> int:
    chosen = options(sys.argv[1:])
    try:
        return evaluate(weights_file(Path(chosen["checkpoint"])), chosen)
    except (ValueError, OSError) as error:
        die(str(error))


if __name__ == "__main__":
    handover.run(main)
