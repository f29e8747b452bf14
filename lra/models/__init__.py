"""The folder `models` under a name that no other project has: from lra.models.s4 import S4."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "models")]
