"""Draw pictures or text from the weights of a finished run."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lra.config.schema import Data
from lra.console import progress_bar
from lra.errors import UserError
from lra.io.strict_json import StrictModel
from lra.launch.evaluation import load_model
from lra.nn.generation import Sampling, generate
from lra.training.trainer import ensure_available

COLUMNS = 8  # pictures in a row of a sheet
MARGIN = 2  # pixels between pictures


class Generation(StrictModel):
    """Settings of configs/generate.yaml."""

    checkpoint: str
    n: int
    prompt: str
    length: int | None
    given: float
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    steps: bool
    out: str | None
    data: Data
    accelerator: str


def run(options: Generation) -> None:
    """Generate, then write a sheet of pictures, or print texts."""
    sampling = Sampling(options.temperature, options.top_k, options.top_p)
    for name, number, least in (("n", options.n, 1), ("length", options.length, 1), ("seed", options.seed, 0)):
        if number is not None and number < least:
            raise UserError(f"{name}={number}: not {least} or more")
    if not 0 <= options.given < 1:
        raise UserError(f"given={options.given:g}: not in [0, 1)", hint="given=0.5 for the upper half of a picture")
    ensure_available(options.accelerator, "accelerator")
    model, task, record = load_model(options.checkpoint, root=options.data.root, source=options.data.source)
    if not task.spec.causal:
        raise UserError(f"{record.task}: not a task of the next token", hint="a run of cifar_density or wikitext2")
    device = torch.device("cuda" if options.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    model.to(device)
    pictures = hasattr(task, "picture")
    if pictures:
        known, n_new = _upper_parts(task, options)
    else:
        known, n_new = _prompt(task, options)
    total = options.n * n_new
    begin = time.perf_counter()
    with progress_bar(f"{record.title}: generating", total) as advance:
        tokens = generate(
            model,
            known.to(device),
            n_new,
            sampling,
            seed=options.seed,
            steps=options.steps,
            advance=advance,
        ).cpu()
    seconds = time.perf_counter() - begin
    print(f"{total} tokens in {seconds:.1f} s, {total / seconds:.0f} a second")
    if pictures:
        path = Path(options.out or "samples.png")
        sheet([task.picture(values) for values in tokens.numpy()]).save(path)
        print(f"pictures: {path}")
        return
    text = "\n\n".join(task.decode(row) for row in tokens.numpy())
    if options.out is None:
        print(text)
    else:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
        print(f"text: {options.out}")


def _upper_parts(task: Any, options: Generation) -> tuple[Tensor, int]:
    """The given upper parts of test pictures (n, P), and the number of values that are missing."""
    if options.prompt or options.length is not None:
        raise UserError(f"{task.name}: its examples are pictures", hint="given=0.5, without prompt and length")
    total = task.spec.max_len
    if not options.given:
        return torch.zeros(options.n, 0, dtype=torch.int64), total
    task.prepare_data()
    task.setup()
    n_known = round(options.given * task.size) * total // task.size  # whole rows
    rows = task.opened.index["test"]
    if options.n > len(rows):
        raise UserError(f"n={options.n}: there are {len(rows)} test pictures")
    return task.opened.examples.x[torch.from_numpy(rows[: options.n])][:, :n_known].long(), total - n_known


def _prompt(task: Any, options: Generation) -> tuple[Tensor, int]:
    """The prompt's tokens for each text (n, P), and the number of new ones."""
    if options.given:
        raise UserError(f"{task.name}: its examples are texts", hint="prompt=...")
    if task.level == "word":
        task.prepare_data()  # has the words
        task.setup()
    ids = torch.from_numpy(task.encode(options.prompt).copy())
    return ids.expand(options.n, -1), options.length or task.context


def sheet(pictures: list[np.ndarray]) -> Image.Image:
    """Pictures uint8 (side, side, 3) next to each other, enlarged to at least 64 pixels."""
    zoom = max(1, 64 // pictures[0].shape[0])
    tiles = [picture.repeat(zoom, 0).repeat(zoom, 1) for picture in pictures]
    side, columns = len(tiles[0]) + MARGIN, min(COLUMNS, len(tiles))
    canvas = np.full((-(-len(tiles) // columns) * side + MARGIN, columns * side + MARGIN, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = (MARGIN + side * k for k in divmod(i, columns))
        canvas[y : y + len(tile), x : x + len(tile)] = tile
    return Image.fromarray(canvas)
