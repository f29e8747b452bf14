"""The stamps that Pathfinder pictures are made of: a paddle in every direction it can have, its mask, and the disc.

A paddle's ends are rounded to whole pixels of the enlarged drawing, so that only some dozens of different paddles
exist. Each is drawn once by Pillow at `antialias` times the size and reduced by its Lanczos filter; the original
generator (drewlinsley/pathfinder) draws every one anew.
"""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from data.compiled_pathfinder import REFUSED, Pen


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
    rows, columns = stamps.any(2), stamps.any(1)
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


@lru_cache
def make_pen(
    length: int, thickness: float, margin: int, continuity: float, marker_radius: float, antialias: int
) -> Pen:
    """All that `data.compiled_pathfinder` must know of paddles and discs, by the names of `Settings`.

    raises  ValueError unless thickness * antialias is a whole number
    """
    width = thickness * antialias
    if width != round(width):
        raise ValueError(f"paddle_thickness {thickness} times antialias {antialias} is not a whole number of pixels")
    reach = length + math.ceil(thickness) + margin
    side, centre = 2 * reach + 1, reach * antialias
    numbers: dict[tuple[int, int], int] = {}
    lines, masks = [], []

    def stamp(angle: float) -> int:
        """Number of the stamp of a paddle that leaves the centre at an angle."""
        end = (
            math.ceil(centre + length * antialias * np.sin(angle)),
            math.ceil(centre + length * antialias * np.cos(angle)),
        )
        if end not in numbers:
            numbers[end] = len(lines)
            fine = Image.new("L", (2 * reach * antialias + 1,) * 2)
            ImageDraw.Draw(fine).line([(centre, centre), (end[1], end[0])], fill=255, width=round(width))
            lines.append(_reduced(np.asarray(fine), side))
            rim = margin * antialias
            masks.append(_reduced(_widened(np.asarray(fine), rim)[rim:-rim, rim:-rim], side))
        return numbers[end]

    degrees = np.arange(-180, 180) * np.pi / 180
    degree_stamps = np.array([stamp(angle) for angle in degrees])
    circle = length + margin
    # the original looks one pixel down and right of the paddle for free ground, and no further than `circle`
    needed = [np.argwhere(masks[t] == 255) - reach + 1 for t in degree_stamps]
    needed = [n[(np.abs(n) <= circle).all(1)] for n in needed]
    # where a footprint lies wholly outside the picture at one of its corners, the original's dilation meets its border
    # value there and it takes the whole picture for occupied: at 32 x 32, curves start in few directions only
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    needed = [n if all(((n * corner) >= 0).all(1).any() for corner in corners) else n[:0] for n in needed]
    footprints, footprint_sizes = _ragged(needed)
    angles = np.arange(0, 360, 360 / (2 * circle * np.pi)) * np.pi / 180
    ends = np.unique(np.floor(circle * np.stack([np.sin(angles), np.cos(angles)], 1)).astype(np.int64), axis=0)
    turned = np.arctan2(ends[:, 0], ends[:, 1])
    end_stamps = np.array([stamp(a + np.pi if a < 0 else a - np.pi) for a in turned])
    headings = np.concatenate([degrees, turned])
    turn = abs(turned - headings[:, None])
    turn = np.minimum(turn, 2 * np.pi - turn)
    solid, solid_sizes = _ragged([np.argwhere(mask >= REFUSED - 255) - reach for mask in masks])
    wide_masks = np.stack([_widened(mask, margin) for mask in masks])
    radius, around = marker_radius * antialias, math.ceil(marker_radius) + 4
    y, x = np.ogrid[-around * antialias : (around + 1) * antialias, -around * antialias : (around + 1) * antialias]
    marker = _reduced(((y**2 + x**2 <= radius**2) * 255).astype(np.uint8), 2 * around + 1)
    return Pen(
        length=length,
        circle=circle,
        step=length + 2 * margin,
        lines=np.stack(lines),
        masks=np.stack(masks),
        wide_masks=wide_masks,
        mask_boxes=_boxes(np.stack(masks)),
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
        marker=marker,
    )
