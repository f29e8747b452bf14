"""Compiled loops of `data.generators.pathfinder` that grow curves on a mask of occupied pixels.

Imported at the first use, because importing numba takes a second. All release the interpreter lock. Plain loops over
scalars: slices and array expressions take several times as long to compile.

H side of the picture; P paddles of a curve; T stamps (one per direction a paddle can have); K side of a stamp; J points
where an extension may end; pen, a `pathfinder_stamps.Pen`. Coordinates are (y, x) pixels, angles radians, masks and
stamps uint8 with 255 for true.
A paddle is a row of int64: near end, far end, stamp, column of the end at the stamp's centre (0 or 2).
A pivot is a row of int64: the point half a gap before the latest paddle, and the number of that paddle's heading.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from data.generators.rng import draw_below, draw_unit

# the original compares masks in [0, 1]: free up to 0.3, refused if two of them sum to 1.8
FREE, REFUSED = 76, 459
GUESSES = 32
LEAST_WEIGHT, LEAST_FREE_SHARE = 1e-4, 0.01


class Rules(NamedTuple):
    """The scalars of `Settings` that the loops use."""

    padding: int
    seed_distance: int
    contour_length: int
    distractor_length: int
    n_distractors: int
    target_contrast: float
    distractor_contrast: float
    paddle_tries: int
    distractor_tries: int
    no_overlap: bool
    target_tries: int


@njit(nogil=True, cache=True)
def moved(start, slope, distance):
    """One coordinate after a step; `slope` is the sine or cosine of its angle. Rounded up, as the original does."""
    return np.int64(math.ceil(start + distance * slope))


@njit(nogil=True, cache=True)
def flipped(angle):
    """The opposite direction, in [-pi, pi]."""
    return angle + np.pi if angle < 0 else angle - np.pi


@njit(nogil=True, cache=True)
def stamp_on(mask, stamps, boxes, number, y, x):
    """mask = max(mask, stamp centred at (y, x)), clipped at the border."""
    side = mask.shape[0]
    top, left = y - stamps.shape[1] // 2, x - stamps.shape[1] // 2
    first_row, last_row = max(boxes[number, 0], -top), min(boxes[number, 1], side - top)
    first, last = max(boxes[number, 2], -left), min(boxes[number, 3], side - left)
    if first_row >= last_row or first >= last:
        return
    # windows counted from 0 are loops that compile to vector instructions
    under = mask[top + first_row : top + last_row, left + first : left + last]
    over = stamps[number, first_row:last_row, first:last]
    for i in range(over.shape[0]):
        for j in range(over.shape[1]):
            under[i, j] = max(under[i, j], over[i, j])


@njit(nogil=True, cache=True)
def collides(mask, pen, number, y, x):
    """Whether the mask and the mask of stamp `number` sum to REFUSED anywhere."""
    side, reach = mask.shape[0], pen.masks.shape[1] // 2
    for k in range(pen.solid_sizes[number]):
        dy, dx = pen.solid[number, k, 0], pen.solid[number, k, 1]
        i, j = y + dy, x + dx
        if 0 <= i < side and 0 <= j < side:
            both = np.int64(mask[i, j]) + np.int64(pen.masks[number, reach + dy, reach + dx])
            if both >= REFUSED:
                return True
    return False


@njit(nogil=True, cache=True)
def collides_with(paddles, row, pen, number, y, x):
    """The same against the mask of one paddle; False for row -1."""
    if row < 0:
        return False
    other, end, size = paddles[row, 4], paddles[row, 5], pen.masks.shape[1]
    top, left = paddles[row, end] - y, paddles[row, end + 1] - x
    for k in range(pen.solid_sizes[number]):
        dy, dx = pen.solid[number, k, 0], pen.solid[number, k, 1]
        i, j = size // 2 + dy - top, size // 2 + dx - left
        if 0 <= i < size and 0 <= j < size:
            both = np.int64(pen.masks[other, i, j]) + np.int64(pen.masks[number, size // 2 + dy, size // 2 + dx])
            if both >= REFUSED:
                return True
    return False


@njit(nogil=True, cache=True)
def is_free(mask, pen, degree, y, x, rim):
    """Whether a first paddle may start at (y, x), `rim` pixels from the border counting as occupied."""
    side = mask.shape[0]
    for k in range(pen.footprint_sizes[degree]):
        i, j = y + pen.footprints[degree, k, 0], x + pen.footprints[degree, k, 1]
        if i < 0 or j < 0 or i >= side or j >= side:
            continue
        if i < rim or j < rim or i >= side - rim or j >= side - rim or mask[i, j] > FREE:
            return False
    return True


@njit(nogil=True, cache=True)
def free_start(stream, mask, pen, degree, rim):
    """Pixel number y * H + x, uniform over the possible starts of a first paddle; -1 if there is none."""
    side, width = mask.shape[0], mask.shape[0] - 2 * rim
    if width <= 0 or pen.footprint_sizes[degree] == 0:
        return -1
    # guessing is faster if much is free, counting if little is; both are uniform
    for _ in range(GUESSES):
        y, x = rim + draw_below(stream, width), rim + draw_below(stream, width)
        if is_free(mask, pen, degree, y, x, rim):
            return y * side + x
    places, found = np.empty(width * width, np.int64), 0
    for y in range(rim, rim + width):
        for x in range(rim, rim + width):
            if is_free(mask, pen, degree, y, x, rim):
                places[found] = y * side + x
                found += 1
    return places[draw_below(stream, found)] if found else -1


@njit(nogil=True, cache=True)
def start_curve(stream, mask, pen, rim, near, distance, rules, paddles, row, pivots, curve):
    """Write a curve's first paddle and pivot: at a free pixel or, with near >= 0, at `distance` from that pixel."""
    side = mask.shape[0]
    for _ in range(rules.paddle_tries):
        degree = draw_below(stream, 360)
        angle = pen.headings[degree]
        if near >= 0:
            around = draw_below(stream, 360) * np.pi / 180
            y = np.int64(np.rint(near // side + distance * math.sin(around)))
            x = np.int64(np.rint(near % side + distance * math.cos(around)))
        else:
            place = free_start(stream, mask, pen, degree, rim)
            if place < 0:
                return False
            y, x = place // side, place % side
        # the test for free pixels is one pixel off, so some first paddles overlap others
        if rules.no_overlap and near < 0 and collides(mask, pen, pen.degree_stamps[degree], y, x):
            continue
        far_y, far_x = moved(y, math.sin(angle), pen.length), moved(x, math.cos(angle), pen.length)
        back = flipped(angle)
        pivot_y, pivot_x = moved(far_y, math.sin(back), pen.circle), moved(far_x, math.cos(back), pen.circle)
        if min(far_y, far_x, pivot_y, pivot_x) >= 0 and max(far_y, far_x, pivot_y, pivot_x) < side:
            paddles[row, 0], paddles[row, 1], paddles[row, 2], paddles[row, 3] = y, x, far_y, far_x
            paddles[row, 4], paddles[row, 5] = pen.degree_stamps[degree], 0
            pivots[curve, 0], pivots[curve, 1], pivots[curve, 2] = pivot_y, pivot_x, degree
            return True
    return False


@njit(nogil=True, cache=True)
def extend_curve(stream, mask, near_mask, pen, rules, paddles, row, newest, pivots, curve, weights):
    """Write the next paddle of a curve: straight on is likeliest, near others unlikely, overlap refused.

    newest  row of the other curve's newest paddle, which is not in the mask, or -1
    """
    side, heading = mask.shape[0], pivots[curve, 2]
    angle = pen.headings[heading]
    y, x = moved(pivots[curve, 0], math.sin(angle), pen.step), moved(pivots[curve, 1], math.cos(angle), pen.step)
    total = 0.0
    for k in range(weights.size):
        i, j = y + pen.ends[k, 0], x + pen.ends[k, 1]
        weights[k] = 0.0
        if 0 <= i < side and 0 <= j < side:
            weights[k] = (1.0 - near_mask[i, j] / 255.0) * pen.preferences[heading, k]
        total += weights[k]
    if total < LEAST_WEIGHT:
        return False
    for _ in range(rules.paddle_tries):
        mark, reached, chosen = draw_unit(stream) * total, 0.0, -1
        for k in range(weights.size):
            if weights[k] > 0.0:
                chosen = k
                reached += weights[k]
                if reached > mark:
                    break
        far_y, far_x = y + pen.ends[chosen, 0], x + pen.ends[chosen, 1]
        number = pen.end_stamps[chosen]
        if not collides(mask, pen, number, far_y, far_x) and not collides_with(
            paddles, newest, pen, number, far_y, far_x
        ):
            back = flipped(pen.headings[360 + chosen])
            paddles[row, 0] = moved(far_y, math.sin(back), pen.length)
            paddles[row, 1] = moved(far_x, math.cos(back), pen.length)
            paddles[row, 2], paddles[row, 3] = far_y, far_x
            # drawn from the far end back towards the pivot
            paddles[row, 4], paddles[row, 5] = number, 2
            pivots[curve, 0], pivots[curve, 1], pivots[curve, 2] = y, x, 360 + chosen
            return True
    return False


@njit(nogil=True, cache=True)
def occupy(mask, near_mask, pen, paddles, row):
    """Add a paddle and its margin to the mask, and to the widened one."""
    number, end = paddles[row, 4], paddles[row, 5]
    y, x = paddles[row, end], paddles[row, end + 1]
    stamp_on(mask, pen.masks, pen.mask_boxes, number, y, x)
    stamp_on(near_mask, pen.wide_masks, pen.wide_boxes, number, y, x)


@njit(nogil=True, cache=True)
def grow_targets(stream, mask, near_mask, pen, rules, paddles, pivots, weights):
    """Grow two curves of equal length in turns, rows 0..P-1 and P..2P-1; False if one cannot continue."""
    # a plain -1 is another type, for which `start_curve` would be compiled again
    length, distance, near = rules.contour_length, rules.seed_distance, np.int64(-1)
    for curve in range(2):
        row = curve * length
        if not start_curve(stream, mask, pen, 2 * distance, near, distance, rules, paddles, row, pivots, curve):
            return False
        near = paddles[0, 0] * mask.shape[0] + paddles[0, 1]
    for k in range(1, length):
        for curve in range(2):
            row = curve * length + k
            # a paddle enters the mask after its curve's next one, since their masks overlap at the joint; in the
            # original the other curve does not see it either and may cross it
            newest = -1
            if rules.no_overlap:
                newest = k if curve else length + k - 1
            if not extend_curve(stream, mask, near_mask, pen, rules, paddles, row, newest, pivots, curve, weights):
                return False
            occupy(mask, near_mask, pen, paddles, row - 1)
    if rules.no_overlap:
        occupy(mask, near_mask, pen, paddles, length - 1)
    occupy(mask, near_mask, pen, paddles, 2 * length - 1)
    return True


@njit(nogil=True, cache=True)
def grow_distractor(stream, mask, near_mask, pen, rules, paddles, first, pivots, weights):
    """Grow one short curve anywhere, from row `first`; False, with both masks unusable, if it cannot be completed."""
    free = 0
    for i in range(mask.shape[0]):
        for j in range(mask.shape[0]):
            free += mask[i, j] <= FREE
    if free < LEAST_FREE_SHARE * mask.size:
        return False
    # as above: no constants of another type
    rim, none, curve = np.int64(1), np.int64(-1), np.int64(0)
    if not start_curve(stream, mask, pen, rim, none, none, rules, paddles, first, pivots, curve):
        return False
    for row in range(first + 1, first + rules.distractor_length):
        if not extend_curve(stream, mask, near_mask, pen, rules, paddles, row, none, pivots, curve, weights):
            return False
        occupy(mask, near_mask, pen, paddles, row - 1)
    occupy(mask, near_mask, pen, paddles, first + rules.distractor_length - 1)
    return True


@njit(nogil=True, cache=True)
def copy_to(target, source):
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@njit(nogil=True, cache=True)
def clear_masks(mask, near_mask, padding, margin):
    """Reset both masks to the border."""
    side = mask.shape[0]
    for i in range(side):
        for j in range(side):
            depth = min(i, j, side - 1 - i, side - 1 - j)
            mask[i, j] = 255 * (depth < padding)
            near_mask[i, j] = 255 * (depth < padding + margin)
