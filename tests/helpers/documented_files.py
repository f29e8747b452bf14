"""The files that a page asks its reader to write: code blocks whose first line is a comment with the path."""

import re
from pathlib import Path


def write_files(page: str, folder: Path) -> list[str]:
    """Write them below a folder; returns their paths."""
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", page, flags=re.DOTALL)
    for place, text in blocks:
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return [place for place, _ in blocks]
