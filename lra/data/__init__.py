"""The folder `data` under a name that no other project has: from lra.data.listops import ListOps."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "data")]
