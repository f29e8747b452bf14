"""Folders in the layout of the official releases, with a few made-up examples (see the fixture `small`)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from data import listops, retrieval
from data.generators import listops as generator
from data.prepared import DataError


def ready(task):
    task.prepare_data()
    task.setup()
    return task


def refused(make, folder: Path, message: str, **arguments) -> None:
    """Preparing from the folder raises a DataError of one line that matches the message, and writes no array."""
    with pytest.raises(DataError, match=message) as error:
        make(**({"batch_size": 2, "root": folder / "root", "source": folder} | arguments)).prepare_data()
    assert "\n" not in str(error.value)
    assert not list((folder / "root").rglob("*.npy"))


def official_listops(place: Path) -> Path:
    place.mkdir(parents=True)
    made = generator.generate(50, seed=1)
    begin = 0
    for split, n in listops.COUNTS.items():
        lines = ["Source\tTarget"]
        for i in range(begin, begin + n):
            tokens = made.tokens[made.offsets[i] : made.offsets[i + 1]]
            lines.append(f"{generator.to_text(tokens, parentheses=True)}\t{made.labels[i]}")
        (place / f"basic_{split}.tsv").write_text("\n".join(lines) + "\n")
        begin += n
    return place


def official_pathfinder(place: Path, size: int = 32) -> Path:
    """20 images in two lists whose names sort differently as text and as numbers."""
    level = place / "curv_contour_length_14"
    (level / "metadata").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in (2, 10):
        (level / "imgs" / str(number)).mkdir(parents=True)
        lines = []
        for i in range(10):
            image = rng.integers(0, 255, (size, size), np.uint8)
            image[0, 0] = 10 * (number == 10) + i
            Pillow.fromarray(image).save(level / "imgs" / str(number) / f"sample_{i}.png")
            lines.append(f"imgs/{number} sample_{i}.png {i} {i % 2} 1.0 14 4 2 0.5 1 1")
        (level / "metadata" / f"{number}.npy").write_text("\n".join(lines) + "\n")
    return level


def official_retrieval(place: Path) -> Path:
    place.mkdir(parents=True)
    papers = [f"paper {i}: " + "words and more words " * (i + 1) for i in range(6)]
    for split, file in retrieval.FILES.items():
        rows = [(i % 2, i % 6, (i * i + 1) % 6) for i in range(retrieval.COUNTS[split])]
        lines = [f"{float(y)}\tA{a}\tA{b}\t{papers[a]}\t{papers[b]}" for y, a, b in rows]
        (place / f"new_aan_pairs.{file}.tsv").write_text("\n".join(lines) + "\n")
    return place
