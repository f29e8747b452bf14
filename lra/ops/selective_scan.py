"""Selective scan of Mamba: y_t = C_t h_t, h_t = exp(dt_t A) h_(t-1) + dt_t u_t B_t, for every channel.

Letters: B batch, L length, E channels, N states per channel, S positions between two saved states.

`selective_scan_loop` is the definition. On a CPU a compiled loop over the positions keeps the states (N, E) in the
cache, computes the decays on the fly and saves every S-th state, from which the backward pass recomputes the others; no
tensor has size (B, L, E, N). Other devices use `lra.ops.scan` on chunks of the length, recomputed in the backward.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.extending import intrinsic, overload
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lra.ops.autograd_function import Function, Gradient, call_for_each, operator
from lra.ops.precision import at_least_float32
from lra.ops.scan import like, scan

# numbers that `scan` may compute at once: 256 MiB in float32
MAX_STATES = 2**26
# S: equal to Mamba's number of states, so that the saved states are as large as u
SAVE_EVERY = 16
# sums may be reordered, but nan and infinity must stay visible
FASTMATH = {"reassoc", "contract", "nsz"}


def selective_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, max_states: int = MAX_STATES) -> Tensor:
    """Selective scan without the skip D (Gu and Dao 2023, arXiv:2312.00752, algorithm 2).

    u, dt       (B, L, E); input and positive step size
    A           (E, N), negative
    B, C        (B, L, N), shared by the channels
    max_states  chunk size without the compiled loop: how many numbers (B, L, E, N) exist at once
    returns     (B, L, E) in the precision of u; float16 and bfloat16 are computed in float32
    """
    dtype = u.dtype
    u, dt, A, B, C = map(at_least_float32, (u, dt, A, B, C))
    if runs_compiled(u.device):
        scanned = selective_scan_op if torch.compiler.is_compiling() else SelectiveScan.apply
        return scanned(u, dt, A, B, C)[0].to(dtype)
    return scan_in_chunks(u.new_zeros(len(u), *A.shape), u, dt, A, B, C, max_states=max_states)[0].to(dtype)


def scan_in_chunks(
    h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, max_states: int = MAX_STATES
) -> tuple[Tensor, Tensor]:
    """Selective scan from the state h (B, E, N) by `scan`; returns y (B, L, E) and the last state."""
    length = u.shape[1]
    chunk = max(16, max_states // (len(u) * A.numel()))
    if length <= chunk:
        return scan_chunk(h, u, dt, A, B, C)
    outputs = []
    for start in range(0, length, chunk):
        u_, dt_, B_, C_ = (x[:, start : start + chunk] for x in (u, dt, B, C))
        y, h = checkpoint(scan_chunk, h, u_, dt_, A, B_, C_, use_reentrant=False)
        outputs.append(y)
    return torch.cat(outputs, dim=1), h


def selective_scan_loop(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The definition of `selective_scan`, one position at a time."""
    h = u.new_zeros(len(u), *A.shape)
    outputs = []
    for t in range(u.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt * u)[:, t, :, None] * B[:, t, None]
        outputs.append((h * C[:, t, None]).sum(-1))
    return torch.stack(outputs, 1)


def scan_chunk(h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Continue from the state h (B, E, N); return y (B, L, E) and the last state."""
    states = scan(torch.exp(dt[..., None] * A), (dt * u)[..., None] * B[:, :, None], h)  # (B, L, E, N)
    return torch.einsum("blen,bln->ble", states, C), states[:, -1]


def runs_compiled(device: torch.device) -> bool:
    """True where the compiled loop is used."""
    return device.type == "cpu"


def compiled_forward(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """y and the saved states (B, L / S, N, E). Each thread takes a row, or a range of its channels if rows are few."""
    inputs = u, dt, A.mT, B, C  # A (N, E): vector instructions run over channels
    u, dt, A, B, C = (x.detach().contiguous() for x in inputs)
    batch, length, channels = u.shape
    y = torch.empty_like(u)
    saved = u.new_empty(batch, -(-length // SAVE_EVERY), *A.shape)
    arrays: list[Any] = [x.numpy() for x in (u, dt, A, B, C, y, saved)]
    run_in_threads(lambda *job: forward_row(*arrays, *job), batch, channels)
    return y, saved


def compiled_backward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, saved: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, dt, A, B and C."""
    inputs = u, dt, A.mT, B, C, saved, grad
    u, dt, A, B, C, saved, grad = (x.detach().contiguous() for x in inputs)
    batch, _, channels = u.shape
    du, ddt, dA = torch.empty_like(u), torch.empty_like(u), u.new_zeros(batch, *A.shape)
    parts = channel_ranges(batch, channels)
    dB, dC = B.new_empty(parts, *B.shape), C.new_empty(parts, *C.shape)
    arrays: list[Any] = [x.numpy() for x in (u, dt, A, B, C, saved, grad, du, ddt, dA, dB, dC)]
    run_in_threads(lambda *job: backward_row(*arrays, *job), batch, channels)
    return du, ddt, dA.sum(0).mT.contiguous(), dB.sum(0), dC.sum(0)


class SelectiveScan(Function):
    forward = staticmethod(compiled_forward)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:
        return SelectiveScanGradient.apply(*ctx.saved_tensors, grad)


class SelectiveScanGradient(Gradient):
    name = "selective_scan"
    forward = staticmethod(compiled_backward)


# for torch.compile and torch.export
@operator("lra::selective_scan")
def selective_scan_op(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    return compiled_forward(u, dt, A, B, C)


@operator("lra::selective_scan_backward")
def selective_scan_backward_op(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, saved: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return compiled_backward(u, dt, A, B, C, saved, grad)


@selective_scan_op.register_fake
def fake_forward(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, channels = u.shape
    saved = u.new_empty(batch, (length + SAVE_EVERY - 1) // SAVE_EVERY, A.shape[1], channels)
    return like(u), saved


selective_scan_backward_op.register_fake(lambda u, dt, A, B, C, saved, grad: tuple(map(like, (u, dt, A, B, C))))
selective_scan_op.register_autograd(
    lambda ctx, grad, _: selective_scan_backward_op(*ctx.saved_tensors, grad), setup_context=SelectiveScan.setup_context
)
selective_scan_op.register_vmap(
    lambda info, in_dims, *args: call_for_each(selective_scan_op, info.batch_size, in_dims, args)
)
selective_scan_backward_op.register_vmap(
    lambda info, in_dims, *args: call_for_each(selective_scan_backward_op, info.batch_size, in_dims, args)
)


def channel_ranges(batch: int, channels: int) -> int:
    """Number of ranges that the channels are split into."""
    threads = torch.get_num_threads()
    return 1 if batch >= threads else min(threads, channels)


def run_in_threads(work: Callable[[int, int, int, int], None], batch: int, channels: int) -> None:
    """Call work(row, part, first, last) for each row and range [first, last) of channels, on torch's threads."""
    parts, threads = channel_ranges(batch, channels), torch.get_num_threads()
    bounds = [channels * part // parts for part in range(parts + 1)]
    jobs = [(row, part, bounds[part], bounds[part + 1]) for row in range(batch) for part in range(parts)]
    if min(threads, len(jobs)) == 1:
        for job in jobs:
            work(*job)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda job: work(*job), jobs))


@intrinsic
def power_of_two(typing: Any, k: Any) -> Any:
    """2^k as a float32 for int32 k in [-126, 127], built from its exponent bits k + 127."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        exponent = builder.add(arguments[0], ir.Constant(integer, 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(integer, 23)), ir.FloatType())

    return numba.float32(numba.int32), code


def decay(x: float) -> float:
    """exp(x) for x <= 0."""
    return math.exp(x)


@overload(decay, inline="always")
def decay_compiled(x):
    """float32: a polynomial with relative error below 2e-7, because the library's exp is not vectorised."""
    if x != numba.float32:
        return lambda x: math.exp(x)
    one = np.float32
    per_octave, octave, rest = one(1.442695041), one(0.693359375), one(-2.12194440e-4)
    c6, c5, c4 = one(1.3888889e-3), one(8.3333333e-3), one(4.1666667e-2)
    c3, half, least = one(1.6666667e-1), one(0.5), one(-87.0)

    def polynomial(x):
        x = max(x, least)
        # rounds to nearest, since x <= 0
        k = np.int32(x * per_octave - half)
        r = x - np.float32(k) * octave - np.float32(k) * rest
        p = ((((c6 * r + c5) * r + c4) * r + c3) * r + half) * r * r + r + one(1)
        return p * power_of_two(k)  # type: ignore[call-arg]

    return polynomial


@numba.njit(nogil=True, cache=True, fastmath=FASTMATH)
def forward_row(
    u: np.ndarray, dt: np.ndarray, A: np.ndarray, B: np.ndarray, C: np.ndarray, y: np.ndarray, saved: np.ndarray,
    row: int, part: int, first: int, last: int,
) -> None:  # fmt: skip
    """y (B, L, E), and saved (B, L / S, N, E): the states before every S-th position. A is (N, E)."""
    L, N = u.shape[1], A.shape[0]
    h = np.zeros((N, last - first), u.dtype)
    drive = np.empty(last - first, u.dtype)
    for t in range(L):
        if t % SAVE_EVERY == 0:
            saved[row, t // SAVE_EVERY, :, first:last] = h
        # separate arrays, because the compiler vectorises loops over one contiguous index
        x, step, out = u[row, t, first:last], dt[row, t, first:last], y[row, t, first:last]
        for e in range(len(x)):
            drive[e] = step[e] * x[e]
            out[e] = 0
        for n in range(N):
            b, c, rate, state = B[row, t, n], C[row, t, n], A[n, first:last], h[n]
            for e in range(len(x)):
                state[e] = decay(step[e] * rate[e]) * state[e] + drive[e] * b
                out[e] += state[e] * c


@numba.njit(nogil=True, cache=True, fastmath=FASTMATH)
def backward_row(
    u: np.ndarray, dt: np.ndarray, A: np.ndarray, B: np.ndarray, C: np.ndarray, saved: np.ndarray, grad: np.ndarray,
    du: np.ndarray, ddt: np.ndarray, dA: np.ndarray, dB: np.ndarray, dC: np.ndarray,
    row: int, part: int, first: int, last: int,
) -> None:  # fmt: skip
    """Gradients, from the last position to the first; dA must be zero at the start, dB and dC are those of this part.

    The gradient of h_t is g_t = grad_t C_t + exp(dt_(t+1) A) g_(t+1), that of dt_t A is g_t exp(dt_t A) h_(t-1).
    """
    L, N, E = u.shape[1], A.shape[0], last - first
    h, a = np.empty((SAVE_EVERY + 1, N, E), u.dtype), np.empty((SAVE_EVERY, N, E), u.dtype)
    carry = np.zeros((N, E), u.dtype)
    drive, d_drive, d_step = np.empty(E, u.dtype), np.empty(E, u.dtype), np.empty(E, u.dtype)
    for chunk in range(saved.shape[1] - 1, -1, -1):
        start = chunk * SAVE_EVERY
        size = min(SAVE_EVERY, L - start)
        h[0] = saved[row, chunk, :, first:last]
        for i in range(size):
            x, step = u[row, start + i, first:last], dt[row, start + i, first:last]
            for n in range(N):
                b, rate, before, state, decayed = B[row, start + i, n], A[n, first:last], h[i, n], h[i + 1, n], a[i, n]
                for e in range(E):
                    decayed[e] = decay(step[e] * rate[e])
                    state[e] = decayed[e] * before[e] + step[e] * x[e] * b
        for i in range(size - 1, -1, -1):
            t = start + i
            x, step, dy = u[row, t, first:last], dt[row, t, first:last], grad[row, t, first:last]
            for e in range(E):
                drive[e] = step[e] * x[e]
                d_drive[e] = 0
                d_step[e] = 0
            for n in range(N):
                b, c, rate, d_rate = B[row, t, n], C[row, t, n], A[n, first:last], dA[row, n, first:last]
                before, state, decayed, later = h[i, n], h[i + 1, n], a[i, n], carry[n]
                d_b, d_c = u.dtype.type(0), u.dtype.type(0)
                for e in range(E):
                    g = dy[e] * c + later[e]
                    d_c += dy[e] * state[e]
                    d_b += g * drive[e]
                    d_drive[e] += g * b
                    g *= decayed[e]
                    later[e] = g
                    g *= before[e]
                    d_step[e] += g * rate[e]
                    d_rate[e] += g * step[e]
                dB[part, row, t, n] = d_b
                dC[part, row, t, n] = d_c
            d_x, d_dt = du[row, t, first:last], ddt[row, t, first:last]
            for e in range(E):
                d_x[e] = d_drive[e] * step[e]
                d_dt[e] = d_step[e] + d_drive[e] * x[e]
