"""Forward and backward pass as a CUDA graph: one launch per step instead of hundreds.

Worthwhile where kernels take less time than their launch, as in small models on a fast GPU. The arithmetic is the same,
except that batches are padded to a few lengths, each of which is recorded once. Gradient clipping, the optimiser and
the callbacks run as usual between two replays.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.errors import UserError
from lra.ops.ssm_kernels import dispatch
from lra.task import Batch
from lra.training.config import Hardware

# passes of each shape before recording: kernels are compiled, libraries choose algorithms, tables are cached
WARMUP_PASSES = 3
N_LENGTHS = 8
LEAVE_OUT = "leave out trainer.graph=true"


class StepOutput(NamedTuple):
    """Result of a forward pass: mean loss, outputs and targets of n examples."""

    loss: Tensor
    outputs: Tensor
    targets: Tensor


class Recording(NamedTuple):
    """A recorded pass: `replay` reads `batch` and overwrites `output` and `gradients` in place."""

    batch: Batch
    replay: Callable[[], object]
    output: StepOutput
    gradients: list[Tensor | None]


class GraphReplay:
    """Computes gradients by replaying recorded passes, one recording for each shape of batch.

    compute_loss  batch -> StepOutput, differentiable
    model         its parameters receive the gradients; in training mode
    max_len       positions of the longest batch; padding goes up to multiples of an eighth of it
    record        records a function without running it; returns (a function that replays it, its result)
    """

    def __init__(
        self,
        compute_loss: Callable[[Batch], StepOutput],
        model: nn.Module,
        max_len: int,
        record: Callable | None = None,
    ):
        self.compute_loss, self.record = compute_loss, record or cuda_graph_recorder()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.max_len = max_len
        self.seen: Counter[torch.Size] = Counter()
        self.recordings: dict[torch.Size, Recording] = {}

    def gradients(self, batch: Batch) -> StepOutput:
        """Set the parameters' gradients to those of the mean loss over a batch.

        raises  UserError if the pass cannot be recorded; torch.OutOfMemoryError
        """
        batch = self._padded(batch)
        shape = batch.x.shape
        self.seen[shape] += 1
        if self.seen[shape] <= WARMUP_PASSES:
            return self._forward_backward(batch)
        if shape not in self.recordings:
            self.recordings[shape] = self._recording(batch)
        recording = self.recordings[shape]
        for static, value in zip(recording.batch, batch, strict=True):
            static.copy_(value)
        recording.replay()
        for p, gradient in zip(self.parameters, recording.gradients, strict=True):
            p.grad = gradient
        return recording.output

    def _padded(self, batch: Batch) -> Batch:
        length, multiple = batch.x.shape[1], -(-self.max_len // N_LENGTHS)
        more = min(-(-length // multiple) * multiple, self.max_len) - length
        if more <= 0:
            return batch
        # (rows, L), or (rows, L, channels)
        x = F.pad(batch.x, (0, more) if batch.x.dim() == 2 else (0, 0, 0, more))
        return Batch(x, F.pad(batch.mask, (0, more)), batch.y)

    def _forward_backward(self, batch: Batch) -> StepOutput:
        for p in self.parameters:
            p.grad = None
        device = batch.mask.device.type
        # a recording must not read the weights that autocast cached in another one
        settings: dict[str, Any] = {
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
        }
        with torch.autocast(device, cache_enabled=False, **settings):
            output = self.compute_loss(batch)
        with torch.autocast(device, enabled=False):
            output.loss.backward()
        return StepOutput(*(t.detach() for t in output))

    def _recording(self, batch: Batch) -> Recording:
        if "keops" in {name for names in dispatch.backends_used().values() for name in names}:
            raise UserError("trainer.graph=true: CUDA graphs cannot record KeOps", hint="choose another kernel backend")
        static = Batch(*(t.clone() for t in batch))
        try:
            replay, output = self.record(lambda: self._forward_backward(static))
        except RuntimeError as error:
            if out_of_memory := out_of_memory_behind(error):
                raise out_of_memory from None
            reason = str(error).split("\n")[0]
            raise UserError(f"trainer.graph=true: a step cannot be recorded ({reason})", hint=LEAVE_OUT) from error
        return Recording(static, replay, output, [p.grad for p in self.parameters])


def cuda_graph_recorder() -> Callable:
    """A recorder that uses CUDA; all its recordings share one memory pool."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        graph = torch.cuda.CUDAGraph()
        # the loader's thread may pin memory at the same time
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = work()
        return graph.replay, result

    return record


def out_of_memory_behind(error: BaseException | None) -> torch.OutOfMemoryError | None:
    """The out-of-memory error that caused another one: leaving a broken recording raises an error too."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error


def check_available(device: torch.device, hardware: Hardware) -> None:
    """UserError if steps cannot be recorded on this device with these settings."""
    if device.type != "cuda":
        raise UserError(f"trainer.graph=true: this run is on {device.type}, only CUDA has graphs", hint=LEAVE_OUT)
    if hardware.processes > 1:
        raise UserError(f"trainer.graph=true: not with {hardware.processes} processes", hint=LEAVE_OUT)
