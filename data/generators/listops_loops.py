"""Compiled loops of `data.generators.listops`: draw trees by number, evaluate many expressions at once.

In a separate file, imported at the first use, because importing numba takes a second. All release the interpreter lock.
"""

import numpy as np
from numba import njit

from data.generators.listops import CLOSE, MAX, MIN, NINE, SM, ZERO
from data.generators.rng import below, draw_bits, open_stream


@njit(nogil=True, cache=True)
def apply(operator, counts):
    """Value of an operator on counts[v] arguments of each value v. counts: (10,)."""
    n, total, low, high = 0, 0, 10, -1
    for v in range(10):
        if counts[v]:
            n += counts[v]
            total += v * counts[v]
            low = min(low, v)
            high = v
    if operator == MAX:
        return high
    if operator == MIN:
        return low
    if operator == SM:
        return total % 10
    below_middle, seen = -1, 0
    for v in range(10):
        seen += counts[v]
        if below_middle < 0 and seen > (n - 1) // 2:
            below_middle = v
        if seen > n // 2:
            return (below_middle + v) // 2
    return -1


@njit(nogil=True, cache=True)
def evaluate(tokens, operators, counts):
    """(value, depth) of a well-formed expression; (-position - 1, 0) with the position of the first wrong token.

    operators  uint8 (M,), counts int32 (M, 10): buffers for M levels
    """
    level, depth, result = -1, 1, -1
    for i in range(tokens.size):
        token = tokens[i]
        if result >= 0:
            return -i - 1, 0
        if MAX <= token <= SM:
            level += 1
            if level >= operators.size:
                return -i - 1, 0
            operators[level] = token
            counts[level] = 0
            depth = max(depth, level + 2)
            continue
        if ZERO <= token <= NINE:
            value = token - ZERO
        elif token == CLOSE and level >= 0 and counts[level].sum() > 0:
            value = apply(operators[level], counts[level])
            level -= 1
        else:
            return -i - 1, 0
        if level < 0:
            result = value
        else:
            counts[level, value] += 1
    return (result, depth) if result >= 0 else (-tokens.size - 1, 0)


@njit(nogil=True, cache=True)
def evaluate_all(tokens, offsets, labels, depths, operators, counts):
    for i in range(labels.size):
        value, depth = evaluate(tokens[offsets[i] : offsets[i + 1]], operators, counts)
        if value < 0:
            return i
        labels[i], depths[i] = value, depth
    return -1


@njit(nogil=True, cache=True)
def draw_tree(stream, max_len, max_args, max_depth, out, missing):
    """Write one tree in reading order to out[:max_len]; returns its length, or max_len if it is that long or longer.

    missing  int64 (max_depth,): arguments still to draw at each open level
    """
    length, level, least = 0, 0, 1
    missing[0] = 1
    while level >= 0:
        if missing[level] == 0:
            level -= 1
            if level >= 0:
                out[length] = CLOSE
                length += 1
            continue
        missing[level] -= 1
        bits = draw_bits(stream)
        if level + 1 < max_depth and bits >> np.uint64(62) == 0:
            n = 2 + below(bits, max_args - 1)
            # `least`: the length if every missing argument is a digit
            least += n + 1
            if least >= max_len:
                return max_len
            out[length] = MAX + np.int64((bits >> np.uint64(60)) & np.uint64(3))
            level += 1
            missing[level] = n
        else:
            out[length] = ZERO + below(bits, 10)
        length += 1
    return length


@njit(nogil=True, cache=True)
def draw_chunk(key, first, count, min_len, max_len, max_args, max_depth, tokens, ends, labels, depths):
    """Write the kept trees of draws first..first+count-1, concatenated, to `tokens`; returns their number."""
    stream, missing = np.empty(1, np.uint64), np.empty(max_depth, np.int64)
    operators, counts = np.empty(max_depth, np.uint8), np.empty((max_depth, 10), np.int32)
    kept, end = 0, 0
    for index in range(first, first + count):
        open_stream(stream, key, index)
        length = draw_tree(stream, max_len, max_args, max_depth, tokens[end:], missing)
        if min_len < length < max_len:
            labels[kept], depths[kept] = evaluate(tokens[end : end + length], operators, counts)
            end += length
            ends[kept] = end
            kept += 1
    return kept
