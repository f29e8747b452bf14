"""The compiled loops of `data.generate_pathfinder`: growing curves on a mask of occupied pixels, and stamping them.

A file of its own, imported at the first use, because importing numba takes a second. All release the interpreter lock.

H side of the picture; P paddles; T stamps (one per direction a paddle can have); K side of a stamp; J points an
extension may end at. Coordinates are (y, x) pixels, angles radians, masks and stamps uint8 with 255 for one.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from data.splitmix import draw_below, draw_unit, open_stream

# the original compares masks in [0, 1]: free below 0.3, refused where two of them sum to 1.8
FREE, REFUSED = 76, 459
GUESSES = 32
LEAST_WEIGHT, LEAST_FREE_SHARE = 1e-4, 0.01


class Pen(NamedTuple):
    """What one paddle looks like in each direction; all offsets are from the paddle's first end.

    reach           of a paddle beyond its end, pixels: K = 2 * reach + 1
    step, circle    from pivot to pivot, from pivot to far end
    length, back    of a paddle; from its far end to the pivot before it
    lines, masks    uint8 (T, K, K): the paddle, and the paddle with its margin
    degree_stamps   int64 (360,): stamp of a paddle leaving its first end at -180..179 degrees
    footprints      int64 (360, F, 2), footprint_sizes (360,): pixels a new curve's first paddle needs free
    ends            int64 (J, 2), turned (J,), end_stamps (J,): offset from the pivot of each far end an extension may
                    take, its angle seen from the pivot, and the stamp drawn from there back to the pivot
    disc, marker    int64 (D, 2) pixels within the margin; uint8 (M, M) the round marker
    """

    reach: int
    step: int
    circle: int
    length: int
    lines: np.ndarray
    masks: np.ndarray
    degree_stamps: np.ndarray
    footprints: np.ndarray
    footprint_sizes: np.ndarray
    ends: np.ndarray
    turned: np.ndarray
    end_stamps: np.ndarray
    disc: np.ndarray
    marker: np.ndarray


class Rules(NamedTuple):
    """The scalars of `Settings` that the loops need."""

    padding: int
    seed_distance: int
    continuity: float
    contour_length: int
    distractor_length: int
    n_distractors: int
    target_contrast: float
    distractor_contrast: float
    paddle_tries: int
    distractor_tries: int
    most_restarts: int


@njit(nogil=True, cache=True)
def moved(start, angle, distance):
    """One coordinate after a step; `angle` is that coordinate's sine or cosine. Rounded up, as the original does."""
    return np.int64(np.ceil(start + distance * angle))


@njit(nogil=True, cache=True)
def darken(mask, stamp, y, x):
    """mask = max(mask, stamp centred at (y, x)), clipped at the border."""
    reach, side = stamp.shape[0] // 2, mask.shape[0]
    for i in range(max(0, reach - y), min(stamp.shape[0], side + reach - y)):
        for j in range(max(0, reach - x), min(stamp.shape[0], side + reach - x)):
            if stamp[i, j] > mask[y + i - reach, x + j - reach]:
                mask[y + i - reach, x + j - reach] = stamp[i, j]


@njit(nogil=True, cache=True)
def collides(mask, stamp, y, x):
    """Whether mask and stamp sum to REFUSED anywhere."""
    reach, side = stamp.shape[0] // 2, mask.shape[0]
    for i in range(max(0, reach - y), min(stamp.shape[0], side + reach - y)):
        for j in range(max(0, reach - x), min(stamp.shape[0], side + reach - x)):
            if np.int64(stamp[i, j]) + np.int64(mask[y + i - reach, x + j - reach]) >= REFUSED:
                return True
    return False


@njit(nogil=True, cache=True)
def paint(image, stamp, y, x, contrast):
    """image = max(image, contrast * stamp / 255), clipped at the border. image: float32 (H, H)."""
    reach, side = stamp.shape[0] // 2, image.shape[0]
    for i in range(max(0, reach - y), min(stamp.shape[0], side + reach - y)):
        for j in range(max(0, reach - x), min(stamp.shape[0], side + reach - x)):
            value = np.float32(contrast * stamp[i, j] / 255.0)
            if value > image[y + i - reach, x + j - reach]:
                image[y + i - reach, x + j - reach] = value


@njit(nogil=True, cache=True)
def is_free(mask, footprint, n, y, x, rim):
    """Whether the first paddle of a curve may start at (y, x), `rim` pixels from the border counting as occupied."""
    side = mask.shape[0]
    for k in range(n):
        i, j = y + footprint[k, 0], x + footprint[k, 1]
        if i < 0 or j < 0 or i >= side or j >= side:
            continue
        if i < rim or j < rim or i >= side - rim or j >= side - rim or mask[i, j] > FREE:
            return False
    return True


@njit(nogil=True, cache=True)
def free_start(stream, mask, footprint, n, rim):
    """(y, x), uniform over all places where a first paddle may start; (-1, -1) if there is none."""
    width = mask.shape[0] - 2 * rim
    if width <= 0:
        return -1, -1
    # guessing is faster where much is free, counting where little is; both are uniform
    for _ in range(GUESSES):
        y, x = rim + draw_below(stream, width), rim + draw_below(stream, width)
        if is_free(mask, footprint, n, y, x, rim):
            return y, x
    places = np.empty((width * width, 2), np.int64)
    found = 0
    for y in range(rim, rim + width):
        for x in range(rim, rim + width):
            if is_free(mask, footprint, n, y, x, rim):
                places[found, 0], places[found, 1] = y, x
                found += 1
    if found == 0:
        return -1, -1
    chosen = draw_below(stream, found)
    return places[chosen, 0], places[chosen, 1]


@njit(nogil=True, cache=True)
def start_paddle(stream, pen, mask, rim, near_y, near_x, distance, tries, paddle, pivot):
    """First paddle of a curve, at a free place or, if distance > 0, at that distance from (near_y, near_x).

    paddle  int64 (6,), written: near end, far end, stamp, angle's degree; pivot float64 (3,): y, x, angle
    """
    side = mask.shape[0]
    for _ in range(tries):
        degree = draw_below(stream, 360)
        angle = (degree - 180) * np.pi / 180
        if distance > 0:
            around = draw_below(stream, 360) * np.pi / 180
            y = np.int64(np.round(near_y + distance * np.sin(around)))
            x = np.int64(np.round(near_x + distance * np.cos(around)))
        else:
            y, x = free_start(stream, mask, pen.footprints[degree], pen.footprint_sizes[degree], rim)
            if y < 0:
                return False
        far_y, far_x = moved(y, np.sin(angle), pen.length), moved(x, np.cos(angle), pen.length)
        opposite = angle + np.pi if angle < 0 else angle - np.pi
        pivot[0] = moved(far_y, np.sin(opposite), pen.circle)
        pivot[1] = moved(far_x, np.cos(opposite), pen.circle)
        pivot[2] = angle
        if min(far_y, far_x, pivot[0], pivot[1]) >= 0 and max(far_y, far_x, pivot[0], pivot[1]) < side:
            paddle[0], paddle[1], paddle[2], paddle[3] = y, x, far_y, far_x
            paddle[4], paddle[5] = pen.degree_stamps[degree], 0
            return True
    return False


@njit(nogil=True, cache=True)
def widest(mask, disc, y, x):
    """The largest mask value within the margin of (y, x): the dilated mask there."""
    side, value = mask.shape[0], 0
    for k in range(disc.shape[0]):
        i, j = y + disc[k, 0], x + disc[k, 1]
        if 0 <= i < side and 0 <= j < side and mask[i, j] > value:
            value = mask[i, j]
            if value == 255:
                break
    return value


@njit(nogil=True, cache=True)
def extend(stream, pen, mask, continuity, tries, paddle, pivot, weights):
    """The next paddle of a curve: straight on is likeliest, occupied ground unlikely, overlap refused.

    paddle, pivot  as in `start_paddle`, moved on; weights float64 (J,), overwritten
    """
    side = mask.shape[0]
    y = moved(pivot[0], np.sin(pivot[2]), pen.step)
    x = moved(pivot[1], np.cos(pivot[2]), pen.step)
    total = 0.0
    for k in range(weights.size):
        i, j = y + pen.ends[k, 0], x + pen.ends[k, 1]
        weights[k] = 0.0
        if 0 <= i < side and 0 <= j < side:
            turn = abs(pen.turned[k] - pivot[2])
            turn = min(turn, 2 * np.pi - turn) * continuity
            if turn < np.pi / 2:
                weights[k] = (1.0 - widest(mask, pen.disc, i, j) / 255.0) * np.cos(turn) ** 2
        total += weights[k]
    if total < LEAST_WEIGHT:
        return False
    for _ in range(tries):
        mark, reached, chosen = draw_unit(stream) * total, 0.0, -1
        for k in range(weights.size):
            reached += weights[k]
            if weights[k] > 0.0:
                chosen = k
                if reached > mark:
                    break
        far_y, far_x = y + pen.ends[chosen, 0], x + pen.ends[chosen, 1]
        if not collides(mask, pen.masks[pen.end_stamps[chosen]], far_y, far_x):
            angle = pen.turned[chosen]
            back = angle + np.pi if angle < 0 else angle - np.pi
            paddle[0], paddle[1] = moved(far_y, np.sin(back), pen.length), moved(far_x, np.cos(back), pen.length)
            paddle[2], paddle[3] = far_y, far_x
            # drawn from the far end back towards the pivot
            paddle[4], paddle[5] = pen.end_stamps[chosen], 1
            pivot[0], pivot[1], pivot[2] = y, x, angle
            return True
    return False


@njit(nogil=True, cache=True)
def occupy(mask, pen, paddle):
    """Add a paddle with its margin to the mask."""
    darken(mask, pen.masks[paddle[4]], paddle[2 * paddle[5]], paddle[2 * paddle[5] + 1])


@njit(nogil=True, cache=True)
def grow_targets(stream, pen, rules, mask, paddles, weights):
    """Two curves of equal length that grow in turns; False where one of them cannot go on. paddles: int64 (2, P, 6)."""
    mask[:] = 255
    inner = mask.shape[0] - rules.padding
    mask[rules.padding : inner, rules.padding : inner] = 0
    pivots = np.empty((2, 3))
    tries, distance = rules.paddle_tries, rules.seed_distance
    if not start_paddle(stream, pen, mask, 2 * distance, 0, 0, 0, tries, paddles[0, 0], pivots[0]):
        return False
    y, x = paddles[0, 0, 0], paddles[0, 0, 1]
    if not start_paddle(stream, pen, mask, 0, y, x, distance, tries, paddles[1, 0], pivots[1]):
        return False
    for k in range(1, rules.contour_length):
        for curve in range(2):
            paddles[curve, k] = paddles[curve, k - 1]
            if not extend(stream, pen, mask, rules.continuity, tries, paddles[curve, k], pivots[curve], weights):
                return False
            # a paddle is in the mask only once the next one stands, for the two masks overlap where they join
            occupy(mask, pen, paddles[curve, k - 1])
    occupy(mask, pen, paddles[1, rules.contour_length - 1])
    return True


@njit(nogil=True, cache=True)
def grow_distractor(stream, pen, rules, mask, paddles, weights):
    """One short curve anywhere; False, with the mask spoilt, where it cannot be completed. paddles: int64 (P, 6)."""
    pivot = np.empty(3)
    if (mask <= FREE).sum() < LEAST_FREE_SHARE * mask.size:
        return False
    if not start_paddle(stream, pen, mask, 1, 0, 0, 0, rules.paddle_tries, paddles[0], pivot):
        return False
    for k in range(1, rules.distractor_length):
        paddles[k] = paddles[k - 1]
        if not extend(stream, pen, mask, rules.continuity, rules.paddle_tries, paddles[k], pivot, weights):
            return False
        occupy(mask, pen, paddles[k - 1])
    occupy(mask, pen, paddles[rules.distractor_length - 1])
    return True


@njit(nogil=True, cache=True)
def margin_choices(key, indices, n_margins):
    """Which of the margins each picture has, int64: the first draw of its stream."""
    stream, chosen = np.empty(1, np.uint64), np.empty(indices.size, np.int64)
    for i in range(indices.size):
        open_stream(stream, key, indices[i])
        chosen[i] = draw_below(stream, n_margins)
    return chosen


@njit(nogil=True, cache=True)
def draw_pictures(pen, rules, n_margins, key, indices, rows, images, labels, discs, targets, distractors, restarts):
    """Draw pictures number `indices` into `rows` of the arrays; the first index that found no place, or -1.

    images       uint8 (n, H, H), labels uint8 (n,), restarts int32 (n,): pairs of targets given up before one fitted
    discs        int16 (n, 2, 2); targets int16 (n, 2, P, 2, 2), distractors int16 (n, D, Q, 2, 2): both ends of each
                 paddle in the order of the curve; -1 where a distractor found no room
    """
    side = images.shape[1]
    stream, weights = np.empty(1, np.uint64), np.empty(pen.turned.size)
    mask, trial = np.empty((side, side), np.uint8), np.empty((side, side), np.uint8)
    image = np.empty((side, side), np.float32)
    paddles = np.empty((2, rules.contour_length, 6), np.int64)
    short = np.empty((max(1, rules.distractor_length), 6), np.int64)
    for index, row in zip(indices, rows):  # noqa: B905
        open_stream(stream, key, index)
        draw_below(stream, n_margins)
        labels[row] = draw_below(stream, 2)
        restarts[row] = 0
        while not grow_targets(stream, pen, rules, mask, paddles, weights):
            restarts[row] += 1
            if restarts[row] > rules.most_restarts:
                return index
        image[:] = 0
        for curve in range(2):
            for k in range(rules.contour_length):
                p = paddles[curve, k]
                paint(image, pen.lines[p[4]], p[2 * p[5]], p[2 * p[5] + 1], rules.target_contrast)
                for end in range(4):
                    targets[row, curve, k, end // 2, end % 2] = p[end]
        distractors[row] = -1
        for number in range(rules.n_distractors):
            for _ in range(rules.distractor_tries):
                trial[:] = mask
                if grow_distractor(stream, pen, rules, trial, short, weights):
                    mask[:] = trial
                    for k in range(rules.distractor_length):
                        p = short[k]
                        paint(image, pen.lines[p[4]], p[2 * p[5]], p[2 * p[5] + 1], rules.distractor_contrast)
                        for end in range(4):
                            distractors[row, number, k, end // 2, end % 2] = p[end]
                    break
        first = draw_below(stream, 2)
        last = first if labels[row] else 1 - first
        discs[row, 0] = targets[row, first, 0, 0]
        discs[row, 1] = targets[row, last, rules.contour_length - 1, 1]
        for k in range(2):
            paint(image, pen.marker, discs[row, k, 0], discs[row, k, 1], 1.0)
        # the range of every picture is stretched to 0..255
        low = image.min()
        scale = 255.0 / (image.max() - low)
        for i in range(side):
            for j in range(side):
                images[row, i, j] = np.uint8((image[i, j] - low) * scale + 0.5)
    return -1
