"""Compiled loops of `data.generators.pathfinder` that draw pictures; pathfinder_curves.py explains the arguments."""

import numpy as np
from numba import njit

from data.generators.pathfinder_curves import clear_masks, copy_to, grow_distractor, grow_targets
from data.generators.rng import draw_below, open_stream


@njit(nogil=True, cache=True)
def margin_choices(key, indices, n_margins, chosen):
    """Write the number of each picture's margin, the first draw of its stream, to `chosen`."""
    stream = np.empty(1, np.uint64)
    for i in range(indices.size):
        open_stream(stream, key, indices[i])
        chosen[i] = draw_below(stream, n_margins)


@njit(nogil=True, cache=True)
def paint(image, stamp, y, x, contrast):
    """image = max(image, contrast * stamp / 255), clipped at the border. image: float32 (H, H)."""
    size, side = stamp.shape[0], image.shape[0]
    top, left = y - size // 2, x - size // 2
    for i in range(max(0, -top), min(size, side - top)):
        for j in range(max(0, -left), min(size, side - left)):
            value = np.float32(contrast * stamp[i, j] / 255.0)
            image[top + i, left + j] = max(image[top + i, left + j], value)


@njit(nogil=True, cache=True)
def fit_targets(stream, rim, near_rim, mask, near_mask, pen, rules, paddles, pivots, weights):
    """Grow both targets from empty masks; returns the pairs given up before, or -1 if none fitted."""
    for given_up in range(rules.target_tries):
        copy_to(mask, rim)
        copy_to(near_mask, near_rim)
        if grow_targets(stream, mask, near_mask, pen, rules, paddles, pivots, weights):
            return given_up
    return -1


@njit(nogil=True, cache=True)
def fit_distractor(stream, mask, near_mask, trial, near_trial, pen, rules, paddles, first, pivots, weights):
    """Add a distractor to both masks, by trials on two others; its paddles are -1 if it does not fit."""
    for _ in range(rules.distractor_tries):
        copy_to(trial, mask)
        copy_to(near_trial, near_mask)
        if grow_distractor(stream, trial, near_trial, pen, rules, paddles, first, pivots, weights):
            copy_to(mask, trial)
            copy_to(near_mask, near_trial)
            return
    for row in range(first, first + rules.distractor_length):
        for end in range(4):
            paddles[row, end] = -1


@njit(nogil=True, cache=True)
def paint_curves(image, pen, rules, paddles):
    """Draw the paddles on a black image (H, H)."""
    for i in range(image.shape[0]):
        for j in range(image.shape[0]):
            image[i, j] = 0.0
    n_targets = 2 * rules.contour_length
    for k in range(paddles.shape[0]):
        number, end = paddles[k, 4], paddles[k, 5]
        contrast = rules.target_contrast if k < n_targets else rules.distractor_contrast
        if k < n_targets or paddles[k, 0] >= 0:
            paint(image, pen.lines[number], paddles[k, end], paddles[k, end + 1], contrast)


@njit(nogil=True, cache=True)
def save_curves(paddles, targets, distractors):
    """Copy both ends of each paddle. targets (2, P, 2, 2), distractors (D, Q, 2, 2)"""
    length, short = targets.shape[1], distractors.shape[1]
    for k in range(paddles.shape[0]):
        for c in range(4):
            if k < 2 * length:
                targets[k // length, k % length, c // 2, c % 2] = paddles[k, c]
            else:
                i = k - 2 * length
                distractors[i // short, i % short, c // 2, c % 2] = paddles[k, c]


@njit(nogil=True, cache=True)
def stretch(image, out):
    """Write the picture, its range stretched to 0..255, to out, uint8 (H, H)."""
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for i in range(image.shape[0]):
        for j in range(image.shape[0]):
            low, high = min(low, image[i, j]), max(high, image[i, j])
    for i in range(image.shape[0]):
        for j in range(image.shape[0]):
            out[i, j] = np.uint8((image[i, j] - low) * (255.0 / (high - low)) + 0.5)


@njit(nogil=True, cache=True)
def draw_pictures(pen, rules, n_margins, key, indices, rows, images, labels, discs, targets, distractors, restarts):
    """Draw pictures number `indices` into `rows` of the arrays; returns the first index that did not fit, or -1.

    images       uint8 (n, H, H), labels uint8 (n,), restarts int32 (n,): pairs of targets given up before one fitted
    discs        int16 (n, 2, 2); targets int16 (n, 2, P, 2, 2), distractors int16 (n, D, Q, 2, 2): both ends of each
                 paddle in the order of the curve; -1 for a distractor that did not fit
    """
    side, length, short = images.shape[1], rules.contour_length, rules.distractor_length
    stream, weights, pivots = np.empty(1, np.uint64), np.empty(pen.end_stamps.size), np.empty((2, 3), np.int64)
    # the border alone, the picture so far, and a trial of the next distractor
    rim, near_rim = np.empty((side, side), np.uint8), np.empty((side, side), np.uint8)
    mask, near_mask, trial, near_trial = np.empty_like(rim), np.empty_like(rim), np.empty_like(rim), np.empty_like(rim)
    clear_masks(rim, near_rim, rules.padding, pen.circle - pen.length)
    image = np.empty((side, side), np.float32)
    paddles = np.empty((2 * length + rules.n_distractors * short, 6), np.int64)
    for number in range(indices.size):
        index, row = indices[number], rows[number]
        open_stream(stream, key, index)
        draw_below(stream, n_margins)
        labels[row] = draw_below(stream, 2)
        restarts[row] = fit_targets(stream, rim, near_rim, mask, near_mask, pen, rules, paddles, pivots, weights)
        if restarts[row] < 0:
            return index
        for first in range(2 * length, paddles.shape[0], short):
            fit_distractor(stream, mask, near_mask, trial, near_trial, pen, rules, paddles, first, pivots, weights)
        paint_curves(image, pen, rules, paddles)
        save_curves(paddles, targets[row], distractors[row])
        one = draw_below(stream, 2)
        other = one if labels[row] else 1 - one
        for c in range(2):
            discs[row, 0, c] = paddles[one * length, c]
            discs[row, 1, c] = paddles[other * length + length - 1, 2 + c]
        for k in range(2):
            paint(image, pen.marker, np.int64(discs[row, k, 0]), np.int64(discs[row, k, 1]), 1.0)
        stretch(image, images[row])
    return -1
