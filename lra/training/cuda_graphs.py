"""Forward and backward pass recorded as a CUDA graph: the host starts a step by one call instead of hundreds.

It pays where kernels take less time than their launch, as in small models on a fast GPU. The arithmetic is the same,
except that batches are padded to a few lengths, each of which is recorded once. Clipping, optimiser and everything that
looks at a step stay as they are, between two passes.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.ops.ssm_kernels import dispatch
from lra.task import Batch
from lra.training.config import Hardware

# passes of a shape that are computed as usual: kernels are compiled, libraries choose theirs, tables are made
WARM = 3
LENGTHS = 8

Work = Callable[[Batch], tuple[Tensor, Tensor]]


class Recording(NamedTuple):
    """A pass that can be repeated: `replay` reads the batch and writes loss, scores and gradients, where they are."""

    batch: Batch
    replay: Callable[[], object]
    loss: Tensor
    scores: Tensor
    gradients: list[Tensor | None]


class Graphs:
    """Repeats the passes of a model on batches of a shape it knows.

    work     a batch -> its loss, with the graph of autograd behind it, and the scores (B, n_classes)
    model    whose gradients the passes make; in training mode
    max_len  positions of the longest batch; padding goes up to eighths of it
    record   runs a function without effect and returns what repeats it with effect, and what the function returned
    """

    def __init__(self, work: Work, model: nn.Module, max_len: int, record: Callable | None = None):
        self.work, self.record = work, record or cuda_graph()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.max_len = max_len
        self.seen: Counter[torch.Size] = Counter()
        self.recordings: dict[torch.Size, Recording] = {}

    def padded(self, batch: Batch) -> Batch:
        """The batch with padding up to one of few lengths."""
        length, step = batch.x.shape[1], -(-self.max_len // LENGTHS)
        more = min(-(-length // step) * step, self.max_len) - length
        if more <= 0:
            return batch
        # (rows, L), or (rows, L, channels)
        x = F.pad(batch.x, (0, more) if batch.x.dim() == 2 else (0, 0, 0, more))
        return Batch(x, F.pad(batch.mask, (0, more)), batch.y)

    def repeat(self, batch: Batch) -> Recording | None:
        """The pass over a padded batch, done; None while its shape is new and the pass is to be made as usual.

        raises  ValueError if the pass cannot be recorded; torch.OutOfMemoryError
        """
        shape = batch.x.shape
        self.seen[shape] += 1
        if self.seen[shape] <= WARM:
            return None
        if shape not in self.recordings:
            self.recordings[shape] = self._recorded(batch)
        recording = self.recordings[shape]
        for held, given in zip(recording.batch, batch, strict=True):
            held.copy_(given)
        recording.replay()
        return recording

    def give(self, recording: Recording) -> None:
        """Let the parameters' gradients be those of the recording's last pass."""
        for p, gradient in zip(self.parameters, recording.gradients, strict=True):
            p.grad = gradient

    def _recorded(self, batch: Batch) -> Recording:
        if "keops" in {name for names in dispatch.backends_used().values() for name in names}:
            raise ValueError("trainer.graph=true: KeOps computes beside the graph: choose another kernel backend")
        held = Batch(*(t.clone() for t in batch))
        try:
            replay, (loss, scores, gradients) = self.record(lambda: self._pass(held))
        except RuntimeError as error:
            if full := out_of_memory(error):
                raise full from None
            said = str(error).split("\n")[0]
            raise ValueError(f"trainer.graph=true: a step cannot be recorded ({said}): leave it out") from error
        return Recording(held, replay, loss, scores, gradients)

    def _pass(self, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        for p in self.parameters:
            p.grad = None
        kind = batch.mask.device.type
        # what autocast keeps of one pass would be read, and not made, by the next
        settings: dict[str, Any] = {"dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}
        with torch.autocast(kind, cache_enabled=False, **settings):
            loss, scores = self.work(batch)
        with torch.autocast(kind, enabled=False):
            loss.backward()
        gradients = [p.grad for p in self.parameters]
        for p in self.parameters:
            p.grad = None
        return loss.detach(), scores.detach(), gradients


def cuda_graph() -> Callable:
    """Records by CUDA; all recordings of one of these share their memory."""
    memory = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        graph = torch.cuda.CUDAGraph()
        # the loader's thread may pin memory meanwhile
        with torch.cuda.graph(graph, pool=memory, capture_error_mode="thread_local"):
            result = work()
        return graph.replay, result

    return record


def out_of_memory(error: BaseException | None) -> torch.OutOfMemoryError | None:
    """The want of memory behind an error: a recording that breaks off raises another on the way out."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error


def why_not(device: torch.device, hardware: Hardware) -> str | None:
    """The reason no pass can be recorded here, with its cure, or None."""
    if device.type != "cuda":
        return f"trainer.graph=true: this run is on {device.type}, only CUDA has graphs: leave it out"
    if hardware.processes > 1:
        return f"trainer.graph=true: not with {hardware.processes} processes: leave it out, or train with one"
    if hardware.precision == "16-mixed":
        return "trainer.graph=true: not with trainer.precision=16-mixed, which scales the loss: take bf16-mixed"
    return None
