"""The selective scan of Mamba: y_t = C_t h_t, h_t = exp(dt_t A) h_(t-1) + dt_t u_t B_t, channel by channel.

Letters: B batch, L length, E channels, N states of a channel, S positions between two kept states.

`selective_scan_loop` is the definition. On a CPU one compiled pass over the positions holds the states (N, E) in the
cache, makes the decays on the fly and keeps every S-th state, from which the backward pass makes the others again: no
tensor of size (B, L, E, N). Elsewhere chunks of the length go through `lra.ops.scan`, recomputed for the gradient.
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
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from lra.ops.scan import scan

# states made at once where they are made by `scan`: 2^26 numbers are 256 MiB in float32
MAX_STATES = 2**26
# S: as many positions as Mamba has states, so that what is kept is as large as u
KEEP_EVERY = 16
# sums may be reordered, but nan and infinity stay what they are: a diverging run must be seen
ORDER_FREE = {"reassoc", "contract", "nsz"}


def selective_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, max_states: int = MAX_STATES) -> Tensor:
    """Gu and Dao 2023, arXiv:2312.00752, algorithm 2 without D.

    u, dt       (B, L, E); input and positive step size
    A           (E, N), negative
    B, C        (B, L, N), shared by the channels
    max_states  where the pass is not compiled: states (B, L, E, N) beyond this number are made stretch by stretch
    returns     (B, L, E)
    """
    if runs_compiled(u.device):
        y: Tensor = Fused.apply(u, dt, A, B, C)
        return y
    length = u.shape[1]
    stretch = max(16, max_states // (len(u) * A.numel()))
    h = u.new_zeros(len(u), *A.shape)
    if length <= stretch:
        return states_to_output(h, u, dt, A, B, C)[0]
    outputs = []
    for start in range(0, length, stretch):
        here = [part[:, start : start + stretch] for part in (u, dt, B, C)]
        y, h = checkpoint(states_to_output, h, here[0], here[1], A, here[2], here[3], use_reentrant=False)
        outputs.append(y)
    return torch.cat(outputs, dim=1)


def selective_scan_loop(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The definition of `selective_scan`, one position at a time."""
    h = u.new_zeros(len(u), *A.shape)
    outputs = []
    for t in range(u.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt * u)[:, t, :, None] * B[:, t, None]
        outputs.append((h * C[:, t, None]).sum(-1))
    return torch.stack(outputs, 1)


def states_to_output(h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """One stretch from the state h (B, E, N); returns y (B, L, E) and the last state."""
    states = scan(torch.exp(dt[..., None] * A), (dt * u)[..., None] * B[:, :, None], h)  # (B, L, E, N)
    return torch.einsum("blen,bln->ble", states, C), states[:, -1]


def runs_compiled(device: torch.device) -> bool:
    return device.type == "cpu"


class Fused(torch.autograd.Function):
    """The compiled pass. Rows go to threads; with fewer rows than threads the channels are shared out as well."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        u, dt, A, B, C = (x.detach().contiguous() for x in inputs)
        A = A.mT.contiguous()  # (N, E): channels side by side are what a processor computes at once
        batch, length, channels = u.shape
        y = torch.empty_like(u)
        kept = u.new_empty(batch, -(-length // KEEP_EVERY), *A.shape)
        arrays: list[Any] = [x.numpy() for x in (u, dt, A, B, C, y, kept)]
        shared(lambda *job: forward_row(*arrays, *job), batch, channels)
        ctx.save_for_backward(u, dt, A, B, C, kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        u, dt, A, B, C, kept = ctx.saved_tensors
        batch, _, channels = u.shape
        du, ddt, dA = torch.empty_like(u), torch.empty_like(u), u.new_zeros(batch, *A.shape)
        parts = parts_of(batch, channels)
        dB, dC = B.new_empty(parts, *B.shape), C.new_empty(parts, *C.shape)
        arrays: list[Any] = [x.numpy() for x in (u, dt, A, B, C, kept, grad.contiguous(), du, ddt, dA, dB, dC)]
        shared(lambda *job: backward_row(*arrays, *job), batch, channels)
        return du, ddt, dA.sum(0).mT, dB.sum(0), dC.sum(0)


def parts_of(batch: int, channels: int) -> int:
    """Into how many parts the channels are cut."""
    threads = torch.get_num_threads()
    return 1 if batch >= threads else min(threads, channels)


def shared(work: Callable[[int, int, int, int], None], batch: int, channels: int) -> None:
    """work(row, part, first channel, channel behind the last) for each row and part, on torch's number of threads."""
    parts, threads = parts_of(batch, channels), torch.get_num_threads()
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
    """2^k as a float32 for int32 k from -126 to 127: its bits are k + 127 in the exponent."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        exponent = builder.add(arguments[0], ir.Constant(integer, 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(integer, 23)), ir.FloatType())

    return numba.float32(numba.int32), code


def decay(x: float) -> float:
    """exp(x) for x at most zero."""
    return math.exp(x)


@overload(decay, inline="always")
def decay_compiled(x):
    """Of a float32 by a polynomial, relative error below 2e-7, since the library's exp is not vectorised."""
    if x != numba.float32:
        return lambda x: math.exp(x)
    one = np.float32
    per_octave, octave, rest = one(1.442695041), one(0.693359375), one(-2.12194440e-4)
    c6, c5, c4 = one(1.3888889e-3), one(8.3333333e-3), one(4.1666667e-2)
    c3, half, least = one(1.6666667e-1), one(0.5), one(-87.0)

    def polynomial(x):
        x = max(x, least)
        # rounds to the nearest, for x is not positive
        k = np.int32(x * per_octave - half)
        r = x - np.float32(k) * octave - np.float32(k) * rest
        p = ((((c6 * r + c5) * r + c4) * r + c3) * r + half) * r * r + r + one(1)
        return p * power_of_two(k)  # type: ignore[call-arg]

    return polynomial


@numba.njit(nogil=True, cache=True, fastmath=ORDER_FREE)
def forward_row(
    u: np.ndarray, dt: np.ndarray, A: np.ndarray, B: np.ndarray, C: np.ndarray, y: np.ndarray, kept: np.ndarray,
    row: int, part: int, first: int, last: int,
) -> None:  # fmt: skip
    """y (B, L, E), and kept (B, L / S, N, E): the state before every S-th position; A is (N, E)."""
    L, N = u.shape[1], A.shape[0]
    h = np.zeros((N, last - first), u.dtype)
    drive = np.empty(last - first, u.dtype)
    for t in range(L):
        if t % KEEP_EVERY == 0:
            kept[row, t // KEEP_EVERY, :, first:last] = h
        # rows of their own: a loop over one contiguous index is what the compiler vectorises
        x, step, out = u[row, t, first:last], dt[row, t, first:last], y[row, t, first:last]
        for e in range(len(x)):
            drive[e] = step[e] * x[e]
            out[e] = 0
        for n in range(N):
            b, c, rate, state = B[row, t, n], C[row, t, n], A[n, first:last], h[n]
            for e in range(len(x)):
                state[e] = decay(step[e] * rate[e]) * state[e] + drive[e] * b
                out[e] += state[e] * c


@numba.njit(nogil=True, cache=True, fastmath=ORDER_FREE)
def backward_row(
    u: np.ndarray, dt: np.ndarray, A: np.ndarray, B: np.ndarray, C: np.ndarray, kept: np.ndarray, grad: np.ndarray,
    du: np.ndarray, ddt: np.ndarray, dA: np.ndarray, dB: np.ndarray, dC: np.ndarray,
    row: int, part: int, first: int, last: int,
) -> None:  # fmt: skip
    """The gradients, from the last position to the first; dA comes zeroed, dB and dC are those of this part.

    With g_t the gradient of h_t: g_t = grad_t C_t + exp(dt_(t+1) A) g_(t+1), and the exponent's is g_t exp(.) h_(t-1).
    """
    L, N, E = u.shape[1], A.shape[0], last - first
    h, a = np.empty((KEEP_EVERY + 1, N, E), u.dtype), np.empty((KEEP_EVERY, N, E), u.dtype)
    carry = np.zeros((N, E), u.dtype)
    drive, to_drive, to_step = np.empty(E, u.dtype), np.empty(E, u.dtype), np.empty(E, u.dtype)
    for stretch in range(kept.shape[1] - 1, -1, -1):
        start = stretch * KEEP_EVERY
        size = min(KEEP_EVERY, L - start)
        h[0] = kept[row, stretch, :, first:last]
        for i in range(size):
            x, step = u[row, start + i, first:last], dt[row, start + i, first:last]
            for n in range(N):
                b, rate, before, state, decayed = B[row, start + i, n], A[n, first:last], h[i, n], h[i + 1, n], a[i, n]
                for e in range(E):
                    decayed[e] = decay(step[e] * rate[e])
                    state[e] = decayed[e] * before[e] + step[e] * x[e] * b
        for i in range(size - 1, -1, -1):
            t = start + i
            x, step, gy = u[row, t, first:last], dt[row, t, first:last], grad[row, t, first:last]
            for e in range(E):
                drive[e] = step[e] * x[e]
                to_drive[e] = 0
                to_step[e] = 0
            for n in range(N):
                b, c, rate, d_rate = B[row, t, n], C[row, t, n], A[n, first:last], dA[row, n, first:last]
                before, state, decayed, later = h[i, n], h[i + 1, n], a[i, n], carry[n]
                to_b, to_c = u.dtype.type(0), u.dtype.type(0)
                for e in range(E):
                    g = gy[e] * c + later[e]
                    to_c += gy[e] * state[e]
                    to_b += g * drive[e]
                    to_drive[e] += g * b
                    g *= decayed[e]
                    later[e] = g
                    g *= before[e]
                    to_step[e] += g * rate[e]
                    d_rate[e] += g * step[e]
                dB[part, row, t, n] = to_b
                dC[part, row, t, n] = to_c
            d_x, d_dt = du[row, t, first:last], ddt[row, t, first:last]
            for e in range(E):
                d_x[e] = to_drive[e] * step[e]
                d_dt[e] = to_step[e] + to_drive[e] * x[e]
