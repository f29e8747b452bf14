"""Batches gathered by index from prepared arrays, in an order that is a function of (seed, epoch).

B batch, L length, n examples. There are no worker processes: one gather per batch is all the work there is.
"""

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lra.task import Batch

Affine = tuple[float | tuple[float, ...], float | tuple[float, ...]]


@dataclass(frozen=True)
class Examples:
    """All examples of a task on one device, and how stored bytes become a model's input.

    x        uint8 (n, L) or (n, L, channels), or (total,) with `offsets`; or float32 (n, L, channels), taken as it is
    y        int64 (n,) labels, or float32 (n, outputs) or (n, horizon, outputs) values
    max_len  longest input of a model; longer documents are truncated
    offsets  int64 (documents + 1,): document i is x[offsets[i]:offsets[i + 1]]; None: x has a row for each example
    eos      token after the last one of each document, within max_len; None: no such token
    pairs    int64 (n, 2): the documents of an example; None: example i is document i
    affine   (a, b): values a * byte + b, real-valued input, each a number or one for each channel; None: tokens
    """

    x: Tensor
    y: Tensor
    max_len: int
    offsets: Tensor | None = None
    eos: int | None = None
    pairs: Tensor | None = None
    affine: Affine | None = None

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], max_len: int, **options: Any) -> "Examples":
        """Examples of prepared arrays, which share the memory-mapped x and offsets."""
        offsets, pairs = (torch.from_numpy(arrays[k]) if k in arrays else None for k in ("offsets", "pairs"))
        x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
        y = y.float() if y.is_floating_point() else y.long()
        return cls(x, y, max_len, offsets, pairs=None if pairs is None else pairs.long(), **options)

    def document(self, i: int) -> np.ndarray:
        """Stored bytes of document i."""
        return (self.x[i] if self.offsets is None else self.x[self.offsets[i] : self.offsets[i + 1]]).numpy()

    @property
    def n_bytes(self) -> int:
        return sum(t.nbytes for t in vars(self).values() if isinstance(t, Tensor))

    def to(self, device: torch.device) -> "Examples":
        moved: dict[str, Any] = {k: t.to(device) for k, t in vars(self).items() if isinstance(t, Tensor)}
        return replace(self, **moved)

    def lengths(self) -> np.ndarray:
        """int64 (n,): length of each example as a model sees it; of its longer document, if paired."""
        if self.offsets is None:
            return np.full(len(self.y), self.x.shape[1])
        extra = int(self.eos is not None)
        lengths = self.offsets.diff().clamp(max=self.max_len - extra) + extra
        if self.pairs is not None:
            lengths = lengths[self.pairs].amax(1)
        return lengths.cpu().numpy()

    def gather(self, index: Tensor, length: int) -> Batch:
        """The examples of `index`, int64 (B,) on this device, padded to `length` positions."""
        y = self.y[index]
        # (B,) documents; paired: (2B,), all firsts, then all seconds
        documents = index if self.pairs is None else self.pairs[index].T.reshape(-1)
        if self.offsets is None:
            x = self.x[documents]
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        else:
            extra = int(self.eos is not None)
            position = torch.arange(length, device=index.device)
            start = self.offsets[documents][:, None]
            end = (self.offsets[documents + 1][:, None] - start).clamp_(max=self.max_len - extra)
            mask = position < end + extra
            # the clamp keeps positions past the last document, masked below, inside the array
            x = self.x[(start + position).clamp_(max=len(self.x) - 1)].masked_fill_(position >= end, 0)
            if self.eos is not None:
                x.masked_fill_(position == end, self.eos)
        if x.is_floating_point():
            return Batch(x.float(), mask, y)
        if self.affine is None:
            return Batch(x.long(), mask, y)
        a, b = (torch.tensor(number, device=x.device) for number in self.affine)
        values = x.to(torch.float32).mul_(a).add_(b)
        return Batch(values if values.dim() == 3 else values.unsqueeze(-1), mask, y)


class Loader:
    """One split as an iterable of `Batch`; state_dict() and load_state_dict() save and restore its position.

    Training (`shuffle`): epoch e visits a permutation drawn from (seed, e); process `rank` of `world` takes its share
    of every batch, so that all processes see what a single one would; the last, partial batch is dropped (as in the
    S4 repository). Evaluation: every example once, in the stored order, the last batch partial; several processes take
    consecutive parts, whose sizes differ by at most one example.

    examples      the task's examples, all splits
    index         int64 (n,): rows of the split's examples
    batch_size    examples of a batch over all processes
    pad           "longest": to the batch's longest; "max": to max_len; k: up to a multiple of k
    length_aware  batches of similar length: the shuffled order is sorted in runs of 64 batches, which are then shuffled
    device        a CUDA device while the examples are on the CPU: a thread gathers the next batch in pinned memory
    """

    def __init__(
        self,
        examples: Examples,
        index: np.ndarray,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        pad: str | int = "longest",
        length_aware: bool = False,
        device: torch.device | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        self.examples, self.index, self.batch_size = examples, index, batch_size
        self.shuffle, self.seed, self.pad, self.length_aware = shuffle, seed, pad, length_aware
        self.rank, self.world = rank, world
        self.copy_to = device if device is not None and device != examples.x.device and device.type == "cuda" else None
        self.lengths = examples.lengths()[index] if examples.offsets is not None else None
        self.epoch = 0
        self.position = 0  # batches of this epoch already returned
        self._start = 0  # where the next iteration begins

    batch_sampler = None  # Lightning reads this attribute of a loader with a sampler

    @property
    def sampler(self) -> "Loader":
        """Lightning calls `loader.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; no change if it is the current one."""
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position, "batch_size": self.batch_size, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken; raises ValueError if batch size or seed, and so the order, differ."""
        for name in ("batch_size", "seed"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"data order was saved with {name} {state[name]}, this loader has {getattr(self, name)}"
                )
        self.epoch, self._start = state["epoch"], state["position"]
        self.position = self._start

    def __len__(self) -> int:
        if self.shuffle:
            return len(self.index) // self.batch_size
        return math.ceil(len(self._evaluation_share()) / self._rows())

    def __iter__(self) -> Iterator[Batch]:
        # lazy: Lightning asks for the iterator before it sets the epoch
        start, self._start = self._start, 0
        self.position = start
        order = self.order(self.epoch)
        steps = range(start, len(self))
        for batch in self._prefetched(order, steps) if self.copy_to else self._gathered(order, steps):
            self.position += 1
            yield batch
        if self.shuffle:
            self.epoch, self.position = self.epoch + 1, 0

    def order(self, epoch: int) -> np.ndarray:
        """Positions within `index` in the order of an epoch; in training, full global batches only."""
        if not self.shuffle:
            return self._evaluation_share()
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.index))[: len(self) * self.batch_size]
        if self.length_aware and self.lengths is not None:
            run = 64 * self.batch_size
            for begin in range(0, len(order), run):
                part = order[begin : begin + run]
                order[begin : begin + run] = part[np.argsort(self.lengths[part], kind="stable")]
            batches = order.reshape(-1, self.batch_size)
            order = batches[rng.permutation(len(batches))].reshape(-1)
        return order

    def _evaluation_share(self) -> np.ndarray:
        n = len(self.index)
        return np.arange(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def _rows(self) -> int:
        """Examples of one batch in this process."""
        return max(1, self.batch_size // self.world)

    def _lengths(self, order: np.ndarray) -> list[int]:
        """Padded length of each batch."""
        if self.lengths is None or self.pad == "max":
            return [self.examples.max_len] * len(self)
        # all processes pad to the longest of the global batch, as a single one would
        rows = self.batch_size if self.shuffle else self._rows()
        longest = np.maximum.reduceat(self.lengths[order], np.arange(0, len(order), rows))
        if self.pad != "longest":
            longest = np.minimum(-(-longest // int(self.pad)) * int(self.pad), self.examples.max_len)
        return longest.tolist()

    def _share(self, step: int) -> slice:
        """The part of the order that is this process's batch `step`."""
        rows = self._rows()
        begin = step * self.batch_size + self.rank * rows if self.shuffle else step * rows
        return slice(begin, begin + rows)

    def _gathered(self, order: np.ndarray, steps: range) -> Iterator[Batch]:
        # one copy per epoch; with resident examples a step needs nothing from the host
        rows, lengths = torch.from_numpy(self.index[order]).to(self.examples.x.device), self._lengths(order)
        for step in steps:
            yield self.examples.gather(rows[self._share(step)], lengths[step])

    def _prefetched(self, order: np.ndarray, steps: range) -> Iterator[Batch]:
        rows, lengths = torch.from_numpy(self.index[order]), self._lengths(order)

        def make(step: int) -> Batch:
            batch = self.examples.gather(rows[self._share(step)], lengths[step])
            return Batch(*(t.pin_memory() for t in batch))

        with ThreadPoolExecutor(1) as thread:
            ahead = [thread.submit(make, step) for step in steps[:1]]
            for step in steps:
                batch = ahead.pop().result()
                if step + 1 < steps.stop:
                    ahead.append(thread.submit(make, step + 1))
                yield Batch(*(t.to(self.copy_to, non_blocking=True) for t in batch))
