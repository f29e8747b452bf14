"""Batches gathered by index from arrays that lie ready, in an order that is a function of (seed, epoch).

B batch, L length, n examples. There are no worker processes: one gather a batch is all the work there is.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lra.task import Batch


def tensor(array: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor that shares a memory-mapped array's memory unless its type must change."""
    return torch.from_numpy(array) if dtype is None else torch.from_numpy(array).to(dtype)


@dataclass(frozen=True)
class Pool:
    """All examples of a task on one device, and how stored bytes become a model's input.

    x        uint8 (n, L), or (total,) with `starts`
    y        int64 (n,)
    max_len  positions given to a model at most; longer documents are cut
    starts   int64 (documents,): where each begins in x; None: fixed length, x has a row for each
    stored   int64 (documents,): their stored lengths
    eos      token put after each document's last, within max_len; None: nothing is
    pairs    int64 (n, 2): the documents of an example; None: example i is document i
    affine   (a, b): values a * byte + b, real-valued input of one channel; None: bytes are tokens
    """

    x: Tensor
    y: Tensor
    max_len: int
    starts: Tensor | None = None
    stored: Tensor | None = None
    eos: int | None = None
    pairs: Tensor | None = None
    affine: tuple[float, float] | None = None

    @classmethod
    def of_documents(cls, arrays: dict[str, np.ndarray | None], max_len: int, eos: int | None = None) -> "Pool":
        """Documents one behind the other in the array x, beginning and ending at `offsets`."""
        offsets, pairs = arrays["offsets"], arrays["pairs"]
        return cls(
            tensor(arrays["x"]),
            tensor(arrays["y"], torch.int64),
            max_len,
            starts=tensor(offsets[:-1]),
            stored=tensor(np.diff(offsets)),
            eos=eos,
            pairs=None if pairs is None else tensor(pairs, torch.int64),
        )

    @property
    def n_bytes(self) -> int:
        return sum(t.nbytes for t in vars(self).values() if isinstance(t, Tensor))

    def to(self, device: torch.device) -> "Pool":
        return replace(self, **{k: t.to(device) for k, t in vars(self).items() if isinstance(t, Tensor)})

    def lengths(self) -> np.ndarray:
        """int64 (n,): positions of each example after cutting and ending; of its longer document, if paired."""
        if self.stored is None:
            return np.full(len(self.y), self.x.shape[1])
        room = self.max_len - (self.eos is not None)
        lengths = self.stored.clamp(max=room) + (self.eos is not None)
        if self.pairs is not None:
            lengths = lengths[self.pairs].amax(1)
        return lengths.cpu().numpy()

    def gather(self, index: Tensor, length: int) -> Batch:
        """The examples of `index`, int64 (B,) on this device, padded to `length` positions."""
        y = self.y[index]
        # (B,) documents; paired: (2B,), all firsts, then all seconds
        documents = index if self.pairs is None else self.pairs[index].T.reshape(-1)
        if self.starts is None or self.stored is None:
            x = self.x[documents]
            mask = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        else:
            place = torch.arange(length, device=index.device)
            end = self.stored[documents].clamp(max=self.max_len - (self.eos is not None))[:, None]
            mask = place < end + (self.eos is not None)
            # the clamp keeps the places past the last document, masked below, inside the array
            at = (self.starts[documents][:, None] + place).clamp_(max=len(self.x) - 1)
            x = self.x[at].masked_fill_(place >= end, 0)
            if self.eos is not None:
                x.masked_fill_(place == end, self.eos)
        if self.affine is None:
            return Batch(x.long(), mask, y)
        a, b = self.affine
        return Batch(x.to(torch.float32).mul_(a).add_(b).unsqueeze(-1), mask, y)


class Loader:
    """One split as an iterable of `Batch`, with its place in state_dict() / load_state_dict().

    Training (`shuffle`): epoch e visits a permutation drawn from (seed, e); process `rank` of `world` takes its
    share of every batch, so that all processes together see what one would; the last, partial batch is dropped
    (as in the S4 repository). Evaluation: every example once, in the stored order, the last batch partial;
    several processes take consecutive parts, whose sizes differ by at most one example.

    pool          where the examples lie
    index         int64 (n,): rows of the pool that make up the split
    batch_size    examples of a batch over all processes
    pad           "longest": to the batch's longest; "max": to max_len; k: up to a multiple of k
    length_aware  batches of similar length: the shuffled order is sorted in runs of 64 batches, which are then shuffled
    device        a CUDA device while the pool lies on the CPU: a thread makes the next batch in pinned memory
    """

    def __init__(
        self,
        pool: Pool,
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
        self.pool, self.index, self.batch_size = pool, index, batch_size
        self.shuffle, self.seed, self.pad, self.length_aware = shuffle, seed, pad, length_aware
        self.rank, self.world = rank, world
        self.copy_to = device if device is not None and device != pool.x.device and device.type == "cuda" else None
        self.lengths = pool.lengths()[index] if pool.stored is not None else None
        self.epoch = 0
        self.position = 0  # batches of this epoch already given
        self._start = 0  # where the next iteration begins

    batch_sampler = None  # Lightning looks for it beside a sampler

    @property
    def sampler(self) -> "Loader":
        """Lightning tells `loader.sampler` the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; stay where we are if it is the present one."""
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position, "batch_size": self.batch_size, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken; raises ValueError if batch size or seed, and so the order, are others."""
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
        return math.ceil(len(self._share()) / self._rows())

    def __iter__(self) -> Iterator[Batch]:
        # lazy: Lightning asks for the iterator before it says which epoch begins
        start, self._start = self._start, 0
        self.position = start
        order = self.order(self.epoch)
        steps = range(start, len(self))
        for batch in self._copied(order, steps) if self.copy_to else self._plain(order, steps):
            self.position += 1
            yield batch
        if self.shuffle:
            self.epoch, self.position = self.epoch + 1, 0

    def order(self, epoch: int) -> np.ndarray:
        """Positions within `index` in the order of an epoch: training, of whole global batches."""
        if not self.shuffle:
            return self._share()
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

    def _share(self) -> np.ndarray:
        n = len(self.index)
        return np.arange(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def _rows(self) -> int:
        """Rows of one batch in this process."""
        return max(1, self.batch_size // self.world)

    def _lengths(self, order: np.ndarray) -> list[int]:
        """Positions of each batch, padding included."""
        if self.lengths is None or self.pad == "max":
            return [self.pool.max_len] * len(self)
        # all processes pad to the longest of the global batch, as one process would
        rows = self.batch_size if self.shuffle else self._rows()
        longest = np.maximum.reduceat(self.lengths[order], np.arange(0, len(order), rows))
        if self.pad != "longest":
            longest = np.minimum(-(-longest // int(self.pad)) * int(self.pad), self.pool.max_len)
        return longest.tolist()

    def _mine(self, step: int) -> slice:
        """Which part of the order is this process's batch `step`."""
        rows = self._rows()
        begin = step * self.batch_size + self.rank * rows if self.shuffle else step * rows
        return slice(begin, begin + rows)

    def _plain(self, order: np.ndarray, steps: range) -> Iterator[Batch]:
        # one copy an epoch; with a resident pool a step then needs nothing from the host
        rows, lengths = torch.from_numpy(self.index[order]).to(self.pool.x.device), self._lengths(order)
        for step in steps:
            yield self.pool.gather(rows[self._mine(step)], lengths[step])

    def _copied(self, order: np.ndarray, steps: range) -> Iterator[Batch]:
        rows, lengths = torch.from_numpy(self.index[order]), self._lengths(order)

        def make(step: int) -> Batch:
            batch = self.pool.gather(rows[self._mine(step)], lengths[step])
            return Batch(*(t.pin_memory() for t in batch))

        with ThreadPoolExecutor(1) as thread:
            ahead = [thread.submit(make, step) for step in steps[:1]]
            for step in steps:
                batch = ahead.pop().result()
                if step + 1 < steps.stop:
                    ahead.append(thread.submit(make, step + 1))
                yield Batch(*(t.to(self.copy_to, non_blocking=True) for t in batch))
