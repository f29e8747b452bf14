"""Pathfinder pictures at any size: do the two discs lie on the two ends of one dashed curve?

Linsley et al. 2018 (arXiv:1805.08315), with the parameters of the Long Range Arena (Tay et al. 2021, arXiv:2011.04006,
`lra_benchmarks/data/pathfinder.py`). Two target curves of equal length grow in turns from nearby seeds, paddle by
paddle; short distractors fill the rest; the discs mark both ends of one target (label 1) or one end of each (label 0).

Picture number i of a seed has its own random stream: it is the same whatever its chunk, its neighbours and the number
of workers, so a range [start, start + n) can be made now and the rest later.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from data.compiled_pathfinder import Pen

CONTOUR_LENGTHS = {"easy": 6, "intermediate": 9, "hard": 14}
CHUNK = 32


@dataclass(frozen=True)
class Settings:
    """Parameters of one size and difficulty; lengths in pixels unless they count paddles.

    padding              rim kept free of curves
    seed_distance        between the first ends of both targets; the first of them keeps twice that from the border
    contour_length       paddles of a target; distractor_length, of a distractor
    continuity           the higher, the straighter
    margins              half the gap between paddles; one is drawn for each picture
    *_contrast           of the paddles, before the picture's range is stretched; discs have 1
    paddle_tries         ends tried before a curve is given up; distractor_tries, curves before a distractor is
    guarded              curves never overlap; False is as the original generator, whose newest paddles may be crossed
    antialias            lines are drawn so many times larger and then reduced
    """

    size: int
    contour_length: int = 14
    padding: int = 1
    seed_distance: int = 27
    marker_radius: float = 5
    distractor_length: int = 4
    n_distractors: int = 7
    continuity: float = 1.8
    paddle_length: int = 5
    paddle_thickness: float = 2
    margins: tuple[int, ...] = (3,)
    target_contrast: float = 1.0
    distractor_contrast: float = 1.0
    paddle_tries: int = 3
    distractor_tries: int = 5
    guarded: bool = True
    antialias: int = 2


# LRA's hard level; the distractors' paddles are shared out by `settings`. At 32, contrast 2 is multiplied by 0.75 for
# the targets alone, as the original generator has it
LRA = {
    32: (
        Settings(
            32,
            seed_distance=7,
            marker_radius=1.5,
            paddle_length=2,
            paddle_thickness=0.5,
            margins=(1,),
            continuity=1.0,
            target_contrast=1.5,
            distractor_contrast=2.0,
        ),
        20,
    ),
    64: (
        Settings(
            64,
            seed_distance=12,
            marker_radius=2.5,
            paddle_thickness=1,
            margins=(1,),
            target_contrast=0.8,
            distractor_contrast=0.8,
        ),
        22,
    ),
    128: (
        Settings(
            128,
            seed_distance=20,
            marker_radius=3,
            paddle_thickness=1.5,
            margins=(2, 3),
            target_contrast=0.9,
            distractor_contrast=0.9,
        ),
        35,
    ),
    256: (Settings(256, padding=22), 30),
}


def settings(size: int, difficulty: str = "hard") -> Settings:
    """LRA's parameters at 32, 64, 128 and 256; at other sizes those of the largest of these not above it (or of 32).

    The rule for other sizes: paddles, discs and margins keep their pixels; what is measured against the picture
    (padding, seed distance, contour length) is scaled with its side and rounded down, and the number of distractor
    paddles with its area, so that pictures are equally dense.
    raises  ValueError for an unknown difficulty or a size below 16
    """
    if difficulty not in CONTOUR_LENGTHS:
        raise ValueError(f"difficulty {difficulty!r} is not one of {', '.join(CONTOUR_LENGTHS)}")
    if size < 16:
        raise ValueError(f"size {size} is below 16: no two curves fit")
    base, distractor_paddles = LRA[max((s for s in LRA if s <= size), default=32)]
    scale = size / base.size
    contour_length = max(3, int(CONTOUR_LENGTHS[difficulty] * scale))
    distractor_length = max(1, contour_length // 3)
    return replace(
        base,
        size=size,
        padding=max(1, int(base.padding * scale)),
        seed_distance=int(base.seed_distance * scale),
        contour_length=contour_length,
        distractor_length=distractor_length,
        n_distractors=int(distractor_paddles * scale**2) // distractor_length,
    )


class Pictures(NamedTuple):
    """Pictures, labels and the curves they were drawn from.

    images   uint8 (n, size, size); labels uint8 (n,), 1 if the discs lie on one curve
    """

    images: np.ndarray
    labels: np.ndarray
    metadata: "Metadata"


class Metadata(NamedTuple):
    """Geometry of n pictures in pixels (y, x); -1 stands for a distractor that found no room.

    margins      uint8 (n,)
    discs        int16 (n, 2, 2)
    targets      int16 (n, 2, contour_length, 2, 2): both ends of each paddle in the order of the curve
    distractors  int16 (n, n_distractors, distractor_length, 2, 2)
    restarts     int32 (n,): pairs of targets given up before one fitted
    """

    margins: np.ndarray
    discs: np.ndarray
    targets: np.ndarray
    distractors: np.ndarray
    restarts: np.ndarray


# -- stamps -----------------------------------------------------------------------------------------------------------


def _reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """A uint8 picture, Lanczos-resampled to side x side."""
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def _widened(mask: np.ndarray, margin: int) -> np.ndarray:
    """The largest value within `margin` of each pixel; the result has `margin` more pixels on each side."""
    height, width = mask.shape
    wide = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    for y, x in np.argwhere(
        np.add.outer(np.arange(-margin, margin + 1) ** 2, np.arange(-margin, margin + 1) ** 2) <= margin**2
    ):
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
def make_pen(s: Settings, margin: int) -> "Pen":
    """Every paddle that can occur, drawn once: at `antialias` times the size, then reduced."""
    from data.compiled_pathfinder import REFUSED, Pen

    aa = s.antialias
    width = s.paddle_thickness * aa
    if width != round(width):
        raise ValueError(f"paddle_thickness {s.paddle_thickness} times antialias {aa} is not a whole number of pixels")
    reach = s.paddle_length + math.ceil(s.paddle_thickness) + margin
    side, centre = 2 * reach + 1, reach * aa
    numbers: dict[tuple[int, int], int] = {}
    lines, masks = [], []

    def stamp(angle: float) -> int:
        """Number of the stamp of a paddle that leaves the centre at an angle."""
        end = (
            math.ceil(centre + s.paddle_length * aa * np.sin(angle)),
            math.ceil(centre + s.paddle_length * aa * np.cos(angle)),
        )
        if end not in numbers:
            numbers[end] = len(lines)
            fine = Image.new("L", (2 * reach * aa + 1,) * 2)
            ImageDraw.Draw(fine).line([(centre, centre), (end[1], end[0])], fill=255, width=round(width))
            lines.append(_reduced(np.asarray(fine), side))
            wide = _widened(np.asarray(fine), margin * aa)[margin * aa : -margin * aa, margin * aa : -margin * aa]
            masks.append(_reduced(wide, side))
        return numbers[end]

    degree_stamps = np.array([stamp(degree * np.pi / 180) for degree in range(-180, 180)])
    circle = s.paddle_length + margin
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
    solid, solid_sizes = _ragged([np.argwhere(mask >= REFUSED - 255) - reach for mask in masks])
    wide_masks = np.stack([_widened(mask, margin) for mask in masks])
    radius, around = s.marker_radius * aa, math.ceil(s.marker_radius) + 4
    y, x = np.ogrid[-around * aa : (around + 1) * aa, -around * aa : (around + 1) * aa]
    marker = _reduced(((y**2 + x**2 <= radius**2) * 255).astype(np.uint8), 2 * around + 1)
    return Pen(
        length=s.paddle_length,
        circle=circle,
        step=s.paddle_length + 2 * margin,
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
        turned=turned,
        end_stamps=end_stamps,
        marker=marker,
    )


# -- pictures ---------------------------------------------------------------------------------------------------------


def generate(
    n: int,
    *,
    size: int,
    difficulty: str = "hard",
    seed: int,
    start: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pictures:
    """Pictures number start..start + n - 1 of a seed.

    workers   threads; all cores by default, and the result is the same
    progress  called with (done, n) now and then
    raises    ValueError if the arguments make no sense or no two curves fit into the picture
    """
    return draw(n, settings(size, difficulty), seed=seed, start=start, workers=workers, progress=progress)


def draw(
    n: int,
    s: Settings,
    *,
    seed: int,
    start: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pictures:
    """`generate` with parameters of one's own."""
    from data import compiled_pathfinder as loops

    if n < 0 or start < 0 or not 0 <= seed < 2**64:
        raise ValueError(f"n {n}, start {start} and seed {seed} must be 0 or more, seed below 2**64")
    key, workers = np.uint64(seed), workers or os.cpu_count() or 1
    pens = [make_pen(s, margin) for margin in s.margins]
    rules = loops.Rules(
        padding=s.padding,
        seed_distance=s.seed_distance,
        continuity=float(s.continuity),
        contour_length=s.contour_length,
        distractor_length=s.distractor_length,
        n_distractors=s.n_distractors,
        target_contrast=float(s.target_contrast),
        distractor_contrast=float(s.distractor_contrast),
        paddle_tries=s.paddle_tries,
        distractor_tries=s.distractor_tries,
        guarded=s.guarded,
        most_restarts=100_000,
    )
    images, labels = np.empty((n, s.size, s.size), np.uint8), np.empty(n, np.uint8)
    metadata = Metadata(
        margins=np.empty(n, np.uint8),
        discs=np.empty((n, 2, 2), np.int16),
        targets=np.empty((n, 2, s.contour_length, 2, 2), np.int16),
        distractors=np.empty((n, s.n_distractors, s.distractor_length, 2, 2), np.int16),
        restarts=np.empty(n, np.int32),
    )

    def chunk(first: int) -> int:
        rows = np.arange(first, min(first + CHUNK, n))
        chosen = np.empty_like(rows)
        loops.margin_choices(key, start + rows, len(pens), chosen)
        for number, pen in enumerate(pens):
            mine = rows[chosen == number]
            metadata.margins[mine] = s.margins[number]
            bad = loops.draw_pictures(pen, rules, len(pens), key, start + mine, mine, images, labels, *metadata[1:])
            if bad >= 0:
                raise ValueError(f"picture {bad}: no two curves fitted in {rules.most_restarts} tries with {s}")
        return len(rows)

    with ThreadPoolExecutor(workers) as pool:
        done = 0
        for count in pool.map(chunk, range(0, n, CHUNK)):
            done += count
            if progress:
                progress(done, n)
    return Pictures(images, labels, metadata)
