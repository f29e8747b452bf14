"""Stamps of Pathfinder pictures: a paddle in every possible direction, its mask, and the disc.

A paddle's ends are rounded to whole pixels of the enlarged drawing, so only some dozens of different paddles exist.
Pillow draws each once at `antialias` times the size and reduces it by its Lanczos filter; the original generator
(drewlinsley/pathfinder) draws each paddle again. Letters are those of data/generators/pathfinder_curves.py.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from data.generators.pathfinder_curves import REFUSED


class Pen(NamedTuple):
    """A paddle in each direction; offsets are from the end at the stamp's centre.

    length, circle, step  of a paddle; from a pivot to the paddle's far end; from a pivot to the next
    lines, masks    uint8 (T, K, K): the paddle, and the paddle with its margin
    wide_masks      uint8 (T, K + 2 * margin, same): the mask widened by the margin once more
    mask_boxes, wide_boxes  int64 (T, 4): bounding rows and columns of their pixels that are not 0
    solid           int64 (T, S, 2), solid_sizes (T,): pixels where the mask is high enough for a refusal
    degree_stamps   int64 (360,): stamp of a paddle leaving its near end at -180..179 degrees
    footprints      int64 (360, F, 2), footprint_sizes (360,): pixels a first paddle needs free; 0: no such start
    ends            int64 (J, 2), end_stamps (J,): offset from the pivot of each far end an extension may take, and
                    the stamp drawn from there back to the pivot
    headings        float64 (360 + J,): angles a paddle can have, whole degrees for first ones, then those of `ends`
    preferences     float64 (360 + J, J): weight of each end after each heading if nothing is near
    marker          uint8 (M, M): the disc
    """

    length: int
    circle: int
    step: int
    lines: np.ndarray
    masks: np.ndarray
    wide_masks: np.ndarray
    mask_boxes: np.ndarray
    wide_boxes: np.ndarray
    solid: np.ndarray
    solid_sizes: np.ndarray
    degree_stamps: np.ndarray
    footprints: np.ndarray
    footprint_sizes: np.ndarray
    ends: np.ndarray
    end_stamps: np.ndarray
    headings: np.ndarray
    preferences: np.ndarray
    marker: np.ndarray


def _reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """A uint8 picture, Lanczos-resampled to side x side."""
    return np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def _widened(mask: np.ndarray, margin: int) -> np.ndarray:
    """The largest value within `margin` of each pixel; the result has `margin` more pixels on each side."""
    height, width = mask.shape
    wide = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    squares = np.arange(-margin, margin + 1) ** 2
    for y, x in np.argwhere(np.add.outer(squares, squares) <= margin**2):
        np.maximum(wide[y : y + height, x : x + width], mask, out=wide[y : y + height, x : x + width])
    return wide


def _boxes(stamps: np.ndarray) -> np.ndarray:
    """First and last + 1 row and column that are not 0, int64 (T, 4), of stamps (T, K, K)."""
    rows, columns = stamps.max(2) > 0, stamps.max(1) > 0
    size = stamps.shape[1]
    sides = [rows.argmax(1), size - rows[:, ::-1].argmax(1), columns.argmax(1), size - columns[:, ::-1].argmax(1)]
    return np.stack(sides, 1).astype(np.int64)


def _ragged(lists: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of offsets as one int64 array (n, longest, 2) and their lengths (n,)."""
    sizes = np.array([len(offsets) for offsets in lists])
    table = np.zeros((len(lists), sizes.max(), 2), np.int64)
    for row, offsets in zip(table, lists, strict=True):
        row[: len(offsets)] = offsets
    return table, sizes


class Stamps:
    """Paddles from the centre of a square at any angle, drawn at the first request.

    antialias     lines are drawn so many times larger and then reduced
    reach         pixels from the centre to the square's border
    lines, masks  uint8 (K, K) of each stamp: the paddle, and the paddle with its margin
    raises        ValueError unless thickness * antialias is a whole number
    """

    def __init__(self, length: int, thickness: float, margin: int, antialias: int):
        self.length, self.margin, self.antialias = length * antialias, margin * antialias, antialias
        self.width = thickness * antialias
        if self.width != round(self.width):
            product = f"paddle_thickness {thickness} times antialias {antialias}"
            raise ValueError(f"{product} is not a whole number of pixels")
        self.reach = length + math.ceil(thickness) + margin
        self.numbers: dict[tuple[int, int], int] = {}
        self.lines: list[np.ndarray] = []
        self.masks: list[np.ndarray] = []

    def number(self, angle: float) -> int:
        """Number of the stamp of the paddle at an angle."""
        centre = self.reach * self.antialias
        end = math.ceil(centre + self.length * np.sin(angle)), math.ceil(centre + self.length * np.cos(angle))
        if end not in self.numbers:
            self.numbers[end] = len(self.lines)
            fine = Image.new("L", (2 * centre + 1,) * 2)
            ImageDraw.Draw(fine).line([(centre, centre), (end[1], end[0])], fill=255, width=round(self.width))
            side, rim, line = 2 * self.reach + 1, self.margin, np.asarray(fine)
            self.lines.append(_reduced(line, side))
            self.masks.append(_reduced(_widened(line, rim)[rim:-rim, rim:-rim], side))
        return self.numbers[end]


def _footprint(mask: np.ndarray, circle: int) -> np.ndarray:
    """Offsets (F, 2) of the pixels that a first paddle with this mask needs free; none: it cannot start."""
    # the original tests one pixel down and right of the paddle, and no further than `circle`
    needed = np.argwhere(mask == 255) - len(mask) // 2 + 1
    needed = needed[(np.abs(needed) <= circle).all(1)]
    # if a footprint is completely outside the picture at a corner, the original's dilation reads its border value there
    # and takes the whole picture for occupied: at 32 x 32, curves start in few directions only
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    return needed if all(((needed * corner) >= 0).all(1).any() for corner in corners) else needed[:0]


def _disc(radius: float, antialias: int) -> np.ndarray:
    """The marker, uint8 (M, M)."""
    around = math.ceil(radius) + 4
    y, x = np.ogrid[-around * antialias : (around + 1) * antialias, -around * antialias : (around + 1) * antialias]
    inside = y**2 + x**2 <= (radius * antialias) ** 2
    return _reduced((inside * 255).astype(np.uint8), 2 * around + 1)


@lru_cache
def make_pen(
    length: int, thickness: float, margin: int, continuity: float, marker_radius: float, antialias: int
) -> Pen:
    """Stamps and tables for the compiled loops; arguments as in `Settings`.

    raises  ValueError unless thickness * antialias is a whole number
    """
    stamps, circle = Stamps(length, thickness, margin, antialias), length + margin
    degrees = np.arange(-180, 180) * np.pi / 180
    degree_stamps = np.array([stamps.number(angle) for angle in degrees])
    footprints, footprint_sizes = _ragged([_footprint(stamps.masks[t], circle) for t in degree_stamps])
    angles = np.arange(0, 360, 360 / (2 * circle * np.pi)) * np.pi / 180
    ends = np.unique(np.floor(circle * np.stack([np.sin(angles), np.cos(angles)], 1)).astype(np.int64), axis=0)
    turned = np.arctan2(ends[:, 0], ends[:, 1])
    end_stamps = np.array([stamps.number(a + np.pi if a < 0 else a - np.pi) for a in turned])
    headings = np.concatenate([degrees, turned])
    turn = abs(turned - headings[:, None])
    turn = np.minimum(turn, 2 * np.pi - turn)
    masks = np.stack(stamps.masks)
    solid, solid_sizes = _ragged([np.argwhere(mask >= REFUSED - 255) - stamps.reach for mask in masks])
    wide_masks = np.stack([_widened(mask, margin) for mask in masks])
    return Pen(
        length=length,
        circle=circle,
        step=length + 2 * margin,
        lines=np.stack(stamps.lines),
        masks=masks,
        wide_masks=wide_masks,
        mask_boxes=_boxes(masks),
        wide_boxes=_boxes(wide_masks),
        solid=solid,
        solid_sizes=solid_sizes,
        degree_stamps=degree_stamps,
        footprints=footprints,
        footprint_sizes=footprint_sizes,
        ends=ends,
        end_stamps=end_stamps,
        headings=headings,
        preferences=np.cos(np.minimum(turn * continuity, np.pi / 2)) ** 2 * (turn * continuity < np.pi / 2),
        marker=_disc(marker_radius, antialias),
    )
