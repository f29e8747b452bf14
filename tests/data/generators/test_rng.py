"""SplitMix64, and the cache of compiled code."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from data.generators.rng import below, draw_bits, draw_unit
from lra.paths import ROOT

FOLDER = ROOT / "data/generators"


def test_bits_are_those_of_splitmix64():
    """The first five of seed 1234567, as in other implementations."""
    stream = np.array([1234567], np.uint64)
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [int(draw_bits(stream)) for _ in known] == known
    stream[0] = 1234567
    assert draw_unit(stream) == (known[0] >> 11) / 2**53


@pytest.mark.parametrize("bits", [0, 2**32 - 1, 2**63 + 12345, 2**64 - 1])
def test_integers_come_from_the_low_32_bits(bits):
    for n in (1, 10, 2**31):
        assert below(np.uint64(bits), n) == (bits % 2**32) * n // 2**32 < n


def test_edited_file_is_compiled_again(tmp_path):
    """numba checks only the file of the outermost function; a function it calls in another file could be outdated."""
    folder = tmp_path / "data/generators"
    folder.mkdir(parents=True)
    shutil.copy(FOLDER / "rng.py", folder)
    lines = ["import numpy as np", "from numba import njit", "from data.generators.inner import inner"]
    outer = [*lines, "", "@njit(cache=True)", "def outer(x):", "    return inner(x)"]
    (folder / "outer.py").write_text("\n".join(outer))
    printed = []
    for number in (1, 2):
        inner = [
            "from numba import njit",
            "import data.generators.rng",
            "",
            "@njit",
            "def inner(x):",
            f"    return x + {number}",
        ]
        (folder / "inner.py").write_text("\n".join(inner))
        call = [sys.executable, "-B", "-c", "from data.generators.outer import outer; print(outer(10))"]
        printed.append(subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip())
    assert printed == ["11", "12"]
