"""Numbered random streams: the i-th example of a seed does not depend on the process or the order of drawing.

SplitMix64 (Steele, Lea & Flood 2014): a counter moves by an odd constant, and a mixing function of it is the output. A
stream is a `uint64` counter in an array of length 1, whose start is mixed from (seed, index). Compiled; constants and
operands are all `uint64`, since numba turns a sum of signed and unsigned integers into a float.

numba's cache does not notice a change in another file, so each state of this folder's files has its own cache.
"""

import hashlib
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit

FOLDER = Path(__file__).parent
STATE = hashlib.sha256(b"".join(p.read_bytes() for p in (Path(__file__), *sorted(FOLDER.glob("*.py")))))
config: Any = numba.config
config.CACHE_DIR = str(Path(config.CACHE_DIR or FOLDER / "__pycache__") / STATE.hexdigest()[:16])

STEP = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31, S32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
LOW_32 = np.uint64(0xFFFFFFFF)


@njit(nogil=True, cache=True)
def mixed(z):
    """Mixing function: a bijection of 64-bit integers whose outputs look independent."""
    z = (z ^ (z >> S30)) * MIX_1
    z = (z ^ (z >> S27)) * MIX_2
    return z ^ (z >> S31)


@njit(nogil=True, cache=True)
def open_stream(stream, key, index):
    """Set `stream` to the start of the seed's stream number `index`."""
    stream[0] = mixed(mixed(key + STEP) ^ (np.uint64(index) * MIX_2 + STEP))


@njit(nogil=True, cache=True)
def draw_bits(stream):
    """The next 64 random bits."""
    stream[0] += STEP
    return mixed(stream[0])


@njit(nogil=True, cache=True)
def below(bits, n):
    """An integer in 0..n-1 from the low 32 bits, n < 2**32; uniform to within n * 2**-32."""
    return np.int64(((bits & LOW_32) * np.uint64(n)) >> S32)


@njit(nogil=True, cache=True)
def draw_below(stream, n):
    """A uniform integer in 0..n-1."""
    return below(draw_bits(stream), n)


@njit(nogil=True, cache=True)
def draw_unit(stream):
    """A uniform float in [0, 1)."""
    return np.float64(draw_bits(stream) >> np.uint64(11)) * 2.0**-53
