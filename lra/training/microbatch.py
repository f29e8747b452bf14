"""Micro-batches: after an out-of-memory error, batches are computed in parts, one after the other.

The loss is a mean over examples, so the gradients of the parts, each weighted by its share of the examples, add up to
the gradient of the full batch, up to rounding. Two things differ: batch norm sees the statistics of one part only, and
dropout draws other masks. Updates of batch norm's running statistics by a failed attempt are not undone.
"""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from lra.distributed import world_size
from lra.task import Batch

T = TypeVar("T")


class MicroBatches:
    """Splits batches into n parts: one at first, twice as many after each out-of-memory error.

    purpose     "training" or "evaluation", for messages
    forbidden   the setting that forbids splitting, such as "trainer.split=false"; None allows it
    """

    def __init__(self, purpose: str, *, forbidden: str | None = None):
        self.purpose, self.forbidden = purpose, forbidden
        self.n = 1
        self.since = 0  # step at which n last changed

    def map(
        self, work: Callable[[Batch, float], T], batch: Batch, *, step: int, reset: Callable[[], object] = lambda: None
    ) -> list[T]:
        """Results of work(part, share of the examples) for each part of the batch.

        reset   called before every attempt, to undo what a failed one left behind
        raises  torch.OutOfMemoryError, one line with the memory needed, if the batch cannot be split further
        """
        while True:
            reset()
            try:
                return [work(part, len(part.y) / len(batch.y)) for part in batch.micro_batches(self.n)]
            except torch.OutOfMemoryError as error:
                self._double(error, batch, step)
            # outside the handler: the exception holds the frames, and with them the tensors, of the failed attempt
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _double(self, error: torch.OutOfMemoryError, batch: Batch, step: int) -> None:
        rows = -(-len(batch.y) // self.n)
        reason = None
        if self.forbidden is not None:
            reason = f"{self.forbidden} keeps batches whole"
        elif world_size() > 1:
            reason = "several processes cannot split their shares independently"
        elif rows == 1:
            reason = "one example cannot be divided"
        if reason is not None:
            message = str(error).splitlines()[0] if str(error) else "out of memory"
            used = "peak memory not measured on this device"
            if torch.cuda.is_available():
                used = f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB allocated at the peak"
            need = f"{rows} of {len(batch.y)} examples at a time, {batch.x.shape[1]} positions each, {used}"
            raise torch.OutOfMemoryError(f"{message} ({self.purpose}: {need}; {reason})") from None
        self.n, self.since = 2 * self.n, step

    def note(self) -> str | None:
        """Note for the record; None if no batch was split."""
        if self.n == 1:
            return None
        return f"memory ran out at step {self.since}: {self.purpose} in {self.n} parts of a batch from there on"

    def state_dict(self) -> dict[str, int]:
        return {"n": self.n, "since": self.since}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.n, self.since = state["n"], state["since"]
