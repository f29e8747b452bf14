"""Pathfinder pictures of any size: are the two discs at the two ends of one dashed curve?

Linsley et al. 2018 (arXiv:1805.08315), with the parameters of the Long Range Arena (Tay et al. 2021, arXiv:2011.04006,
`lra_benchmarks/data/pathfinder.py`). Two target curves of equal length grow in turns from nearby seeds, one paddle
(dash) at a time; short distractors fill the rest; the discs mark both ends of one target (label 1) or one end of each
(label 0). Picture number i of a seed has its own random stream, so it does not depend on its chunk or the number of
workers, and a range [start, start + n) can be generated now and the rest later.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

CONTOUR_LENGTHS = {"easy": 6, "intermediate": 9, "hard": 14}
CHUNK = 32


@dataclass(frozen=True)
class Settings:
    """Parameters of one size and difficulty; lengths in pixels, unless they count paddles.

    padding              border without curves
    seed_distance        between the first ends of both targets; the first of them keeps twice that from the border
    contour_length       paddles of a target; distractor_length, of a distractor
    continuity           the higher, the straighter
    margins              half the gap between paddles; each picture draws one
    *_contrast           of the paddles, before the picture's range is stretched; discs have 1
    paddle_tries         ends tried before a curve is given up; distractor_tries: curves tried for a distractor;
                         target_tries: pairs of targets tried for a picture
    no_overlap           curves never overlap; False: as in the original, where a curve's newest paddle may be crossed
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
    target_tries: int = 1_000_000
    no_overlap: bool = True
    antialias: int = 2


COLUMNS = ("padding", "seed_distance", "marker_radius", "continuity", "paddle_length", "paddle_thickness", "margins",
           "target_contrast", "distractor_contrast")  # fmt: skip
# LRA's hard level: COLUMNS, and the paddles of all distractors together. At 32 the original generator multiplies
# contrast 2 by 0.75 for the targets only
LRA = {
    32: ((1, 7, 1.5, 1.0, 2, 0.5, (1,), 1.5, 2.0), 20),
    64: ((1, 12, 2.5, 1.8, 5, 1, (1,), 0.8, 0.8), 22),
    128: ((1, 20, 3, 1.8, 5, 1.5, (2, 3), 0.9, 0.9), 35),
    256: ((22, 27, 5, 1.8, 5, 2, (3,), 1.0, 1.0), 30),
}


def settings(size: int, difficulty: str = "hard") -> Settings:
    """LRA's parameters at 32, 64, 128 and 256; other sizes are scaled from the next smaller of these (or from 32).

    Paddles, discs and margins keep their pixels; padding, seed distance and contour length are scaled with the side
    and rounded down, the number of distractor paddles with the area, so that pictures are equally dense. Below 32 the
    contour length, at least 4, is scaled with the area too: longer curves do not fit.
    raises  ValueError for an unknown difficulty or a size below 16
    """
    if difficulty not in CONTOUR_LENGTHS:
        raise ValueError(f"difficulty {difficulty!r} is not one of {', '.join(CONTOUR_LENGTHS)}")
    if size < 16:
        raise ValueError(f"size {size} is below 16: no two curves fit")
    base_size = max((s for s in LRA if s <= size), default=32)
    values, distractor_paddles = LRA[base_size]
    columns: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
    base, scale = Settings(base_size, **columns), size / base_size
    contour_length = max(4, int(CONTOUR_LENGTHS[difficulty] * min(scale, scale**2)))
    distractor_length = contour_length // 3
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
    """Geometry of n pictures in pixels (y, x); -1 for a distractor that did not fit.

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


def generate(
    n: int,
    s: Settings,
    *,
    seed: int,
    start: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Pictures:
    """Pictures number start..start + n - 1 of a seed.

    workers   threads; all cores by default, with the same result
    progress  called with (done, n) now and then
    raises    ValueError if the arguments make no sense or no two curves fit into the picture
    """
    from data.generators import pathfinder_drawing as loops
    from data.generators.pathfinder_curves import Rules
    from data.generators.pathfinder_stamps import make_pen

    if n < 0 or start < 0 or not 0 <= seed < 2**64:
        raise ValueError(f"n {n}, start {start} and seed {seed} must be 0 or more, seed below 2**64")
    key, workers = np.uint64(seed), workers or os.cpu_count() or 1
    shape = s.paddle_length, s.paddle_thickness
    pens = [make_pen(*shape, margin, s.continuity, s.marker_radius, s.antialias) for margin in s.margins]
    rules = Rules(*(getattr(s, name) for name in Rules._fields))
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
                raise ValueError(f"picture {bad}: no two curves fitted in {s.target_tries} tries with {s}")
        return len(rows)

    with ThreadPoolExecutor(workers) as pool:
        done = 0
        for count in pool.map(chunk, range(0, n, CHUNK)):
            done += count
            progress(done, n)
    return Pictures(images, labels, metadata)


def verify_pictures(
    discs: np.ndarray, targets: np.ndarray, s: Settings, *, images: np.ndarray | None = None, start: int = 0
) -> np.ndarray:
    """Labels, uint8 (n,), derived from the curves: 1 if the discs are at the two ends of one curve.

    Checks that each target is one curve (paddles of the right length, gaps of the right width), that the curves end
    at different places, that each disc is at an end and, with `images`, that discs and target paddles are bright.

    discs, targets  as in `Metadata`; start  number of the first picture, for messages
    raises          ValueError with the first picture that fails, and why
    """

    def demand(good: np.ndarray, reason: str) -> None:
        if not good.all():
            raise ValueError(f"picture {start + int(np.flatnonzero(~good)[0])}: {reason}")

    points = targets.astype(np.float64)
    lengths = np.linalg.norm(points[:, :, :, 1] - points[:, :, :, 0], axis=-1)
    gaps = np.linalg.norm(points[:, :, 1:, 0] - points[:, :, :-1, 1], axis=-1)
    # ends are rounded to pixels, gaps twice more: an error of at most 1.5 and 3 pixels
    demand((abs(lengths - s.paddle_length) <= 1.5).all((1, 2)), f"a paddle is not {s.paddle_length} pixels long")
    narrow, wide = 2 * min(s.margins) - 3, 2 * max(s.margins) + 3
    demand(((gaps >= narrow) & (gaps <= wide)).all((1, 2)), f"a gap is not {narrow} to {wide} pixels wide")
    ends = np.stack([targets[:, :, 0, 0], targets[:, :, -1, 1]], 2)  # (n, curve, end, 2)
    demand((ends[:, 0] != ends[:, 1]).any(-1).all(1), "both curves end in one place")
    at = (discs[:, :, None, None] == ends[:, None]).all(-1)  # (n, disc, curve, end)
    demand((at.sum((2, 3)) == 1).all(1), "a disc does not lie on one end of one curve")
    demand((at.any(2).sum(1) == 1).all(1), "the discs do not lie on a first and a last end")
    if images is not None:
        row = np.arange(len(images))[:, None]
        demand((images[row, discs[..., 0], discs[..., 1]] > 200).all(1), "a disc is not bright")
        middle = (targets.astype(np.int64).sum(-2) // 2).reshape(len(images), -1, 2)
        around = [images[row, middle[..., 0] + i, middle[..., 1] + j] for i in (0, 1) for j in (0, 1)]
        demand((np.maximum.reduce(around) > 50).all(1), "a paddle of a target is dark")
    curve = at.any(3).argmax(2)  # (n, disc)
    return (curve[:, 0] == curve[:, 1]).astype(np.uint8)
