"""Upload a finished run to the Hugging Face Hub: weights, record, configuration, and a model card from the record.

    python scripts/push.py runs/mini/listops/s4/0-1a2b3c4d me/s4-listops            # needs .venv/bin/hf auth login once
    python scripts/push.py runs/mini/listops/s4/0-1a2b3c4d me/s4-listops --private
    python scripts/push.py runs/mini/listops/s4/0-1a2b3c4d me/s4-listops --to out/  # write the files there, to look at

Anybody can then test it again: python scripts/evaluate.py checkpoint=hf://me/s4-listops
"""

import handover

import argparse
from pathlib import Path

from lra import hub
from lra.config.overrides import die
from lra.io.atomic import atomic_write
from lra.training import weights


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of a finished run, or its model.safetensors")
    parser.add_argument("repository", metavar="USER/NAME", help="model repository; created if it is missing")
    parser.add_argument("--private", action="store_true", help="only you can see the repository")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write the files there instead of uploading them")
    args = parser.parse_args(words)
    try:
        path = weights.file_of(args.checkpoint)
        if args.to is None:
            print(hub.push(path, args.repository, private=args.private))
            return 0
        for name, content in hub.files(path, args.repository).items():
            args.to.mkdir(parents=True, exist_ok=True)
            atomic_write(args.to / name, content, hint="--to /some/dir")
            print(args.to / name)
    except (ValueError, OSError) as error:
        die(error, "push.py")
    return 0


if __name__ == "__main__":
    handover.run(main)
