"""When memory runs out: the same batch in more parts, one after the other, with the gradient of the whole.

The loss is a mean over examples, so the gradients of the parts, each weighed by its share of the examples, add up to
the gradient of the batch, to rounding. Two things are not the same: batch norm sees the statistics of a part, and
dropout draws other masks. What an attempt that failed had added to batch norm's running statistics stays there.
"""

import gc

import torch

from lra.task import Batch


class Parts:
    """Into how many parts a batch is divided: one, doubled each time memory runs out, kept for the rest of the run.

    what   is computed: "training", "evaluation"
    whole  the setting that keeps batches whole; None: nothing does
    """

    def __init__(self, what: str, *, whole: str | None = None):
        self.what, self.whole = what, whole
        self.n = 1
        self.since = 0  # the step at which n became what it is

    def of(self, batch: Batch) -> list[Batch]:
        return batch.parts(self.n)

    def double(self, error: torch.OutOfMemoryError, batch: Batch, *, step: int, world: int = 1) -> None:
        """Twice as many parts from now on; raises torch.OutOfMemoryError, one line with the need, if that cannot be."""
        rows = -(-len(batch.y) // self.n)
        why = None
        if self.whole is not None:
            why = f"{self.whole} keeps batches whole"
        elif world > 1:
            why = "of several processes none can divide its share alone"
        elif rows == 1:
            why = "one example cannot be divided"
        if why is not None:
            said = str(error).splitlines()[0] if str(error) else "out of memory"
            need = f"{rows} of {len(batch.y)} examples at a time, {batch.x.shape[1]} positions each, {held()}"
            raise torch.OutOfMemoryError(f"{said} ({self.what}: {need}; {why})") from None
        self.n, self.since = 2 * self.n, step

    def note(self) -> str | None:
        """What the record says; None as long as every batch was computed whole."""
        if self.n == 1:
            return None
        return f"memory ran out at step {self.since}: {self.what} in {self.n} parts of a batch from there on"

    def state_dict(self) -> dict[str, int]:
        return {"n": self.n, "since": self.since}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.n, self.since = state["n"], state["since"]


def held() -> str:
    """How much memory tensors have taken so far, at most."""
    if not torch.cuda.is_available():
        return "not measured on this device"
    return f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB held by then"


def release() -> None:
    """Give back what a failed attempt held; call it when its exception is gone, for that holds the frames."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
