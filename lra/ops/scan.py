"""Linear recurrences h_t = a_t h_{t-1} + b_t, the inner loop of S5, LRU, Mamba, HGRN and minGRU.

Letters: B batch, L length, K all other dimensions, flattened.

`scan_loop` is the definition. On a CPU a compiled loop makes one pass over memory, forward and backward. Measured on
two busy cores at (16, 1024, 128), (4, 4096, 256) and (1, 16384, 64) in float32, it takes 6.5, 5.3 and 1.2 ms; the
Python loop takes 11, 40 and 143 ms, the two-level form 63, 984 and 8 ms, log-depth doubling 329, 638 and 24 ms. It is
bound by memory, so a second thread gains nothing. It is also fastest for constant a: at (16, 1024, 128) in complex64,
forward and backward, 72 ms, against 952 ms by FFT and 3286 ms by matrix products in chunks of 32. On other devices the
two-level form needs about 4 sqrt(L) launches.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from lra.ops.autograd_function import Function, Gradient, call_for_each, leading_batch, operator
from lra.ops.padding import last_real
from lra.ops.precision import without_autocast


def scan(a: Tensor, b: Tensor, initial: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """All states of h_t = a_t h_{t-1} + b_t, along dim 1.

    a        (B, L, ...), real or complex; any dim may be 1 and is then broadcast without a copy, so (1, 1, ...) is a
             recurrence constant in time
    b        (B, L, ...), real or complex
    initial  (B, ...), the state before the first position, zero if None; with reverse, the state after the last
    reverse  h_t = a_t h_{t+1} + b_t instead
    returns  (B, L, ...) in the inputs' precision; float16 and bfloat16 are computed in float32
    raises   ValueError if the shapes do not fit
    """
    if a.dim() != b.dim() or b.dim() < 2 or any(m not in (1, n) for m, n in zip(a.shape, b.shape, strict=True)):
        raise ValueError(f"scan: a {tuple(a.shape)} does not broadcast to b {tuple(b.shape)}")
    input_dtype = torch.promote_types(a.dtype, b.dtype)
    dtype = torch.float32 if input_dtype in (torch.float16, torch.bfloat16) else input_dtype
    a, b = a.to(dtype), b.to(dtype)
    if initial is not None:
        edge, rest = (b[:, -1:], b[:, :-1]) if reverse else (b[:, :1], b[:, 1:])
        edge = edge + (a[:, -1:] if reverse else a[:, :1]) * initial.to(dtype)[:, None]
        b = torch.cat([rest, edge] if reverse else [edge, rest], 1)
    K = math.prod(b.shape[2:])
    a = a.expand(*a.shape[:2], *b.shape[2:]).reshape(*a.shape[:2], K)
    states = scan_op if torch.compiler.is_compiling() else Scan.apply
    h = states(a, b.reshape(*b.shape[:2], K), reverse)
    return h.reshape(b.shape).to(input_dtype)


def scan_loop(a: Tensor, b: Tensor, initial: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """The definition of `scan`, one position at a time."""
    a = a.expand(b.shape)
    h = torch.zeros_like(b[:, 0]) if initial is None else initial
    states: list[Tensor] = []
    for t in reversed(range(b.shape[1])) if reverse else range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states[::-1] if reverse else states, 1)


def mimo_ssm(u: Tensor, a: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Diagonal state space model with many inputs and outputs: y_t = Re C h_t, h_t = a h_{t-1} + B u_t (S5, LRU).

    u        (batch, L, H) real
    a        (N,) complex
    B        (N, H) complex
    C        (K, H, N) complex; for K = 2 a second scan from the right, current position included, is added
    returns  (batch, L, H) in the precision of u; computed in that of a, B, C
    """
    with without_autocast(u.device):
        b = mimo_input(u, B)
        y = mimo_output(scan(a[None, None], b), C[0])
        if len(C) == 2:
            y = y + mimo_output(scan(a[None, None], b, reverse=True), C[1])
    return y.to(u.dtype)


def mimo_input(u: Tensor, B: Tensor) -> Tensor:
    """B u as a real matrix product on (re, im) pairs: u (..., H) real, B (N, H) -> (..., N) complex."""
    into = torch.view_as_real(B.mT.resolve_conj()).flatten(-2)  # (H, 2N)
    return torch.view_as_complex((u.to(into.dtype) @ into).unflatten(-1, (-1, 2)))


def mimo_output(h: Tensor, C: Tensor) -> Tensor:
    """Re C h as a real matrix product on (re, im) pairs: h (..., N), C (H, N) -> (..., H) real."""
    out = torch.view_as_real(C.conj().resolve_conj()).flatten(-2).mT  # (2N, H)
    return torch.view_as_real(h).flatten(-2) @ out


def mimo_prefill(
    u: Tensor, a: Tensor, B: Tensor, C: Tensor, mask: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`mimo_ssm` of one direction from a state (batch, N), and the state after the last real position of each row.

    mask  (batch, L) bool; the real positions of a row come first, and u is zero at the others
    """
    with without_autocast(u.device):
        states = scan(a[None, None], mimo_input(u, B), state)
        y = mimo_output(states, C[0]).to(u.dtype)
    return y, last_real(states, mask, states.new_zeros(states[:, 0].shape) if state is None else state)


def runs_compiled(device: torch.device) -> bool:
    """True where the compiled loop is used, False where blocks of torch operations are."""
    return device.type == "cpu"


def scan_forward(a: Tensor, b: Tensor, reverse: bool) -> Tensor:
    """The states h (B, L, K), contiguous, from a (1 or B, 1 or L, K) and b (B, L, K)."""
    a, b = contiguous(a), contiguous(b)
    if not runs_compiled(b.device):
        return scan_blocks(a, b, reverse)
    h = torch.empty_like(b)
    scan_cpu(a.detach().numpy(), b.detach().numpy(), h.numpy(), reverse)
    return h


def scan_backward(a: Tensor, h: Tensor, grad: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """Gradients of a and b: a scan of the gradient in the other direction, with conj(a) shifted by one position."""
    a, h, grad = contiguous(a), contiguous(h), contiguous(grad)
    if runs_compiled(grad.device):
        db = torch.empty_like(grad)
        # the gradient of a broadcast a sums up to B L terms, in float64
        wide = torch.complex128 if a.is_complex() else torch.float64
        da = torch.zeros(a.shape, dtype=wide if a.shape[:2] != h.shape[:2] else a.dtype)
        a_, h_, grad_, da_, db_ = (x.detach().numpy() for x in (a, h, grad, da, db))
        scan_cpu_backward(a_, h_, grad_, da_, db_, reverse)
        return da.to(a.dtype), db
    before = shift(h, not reverse)
    ahead = shift(a, reverse) if a.shape[1] > 1 else a
    db = scan_blocks(ahead.conj().resolve_conj(), grad, not reverse)
    return (db * before.conj()).sum_to_size(a.shape), db


def contiguous(x: Tensor) -> Tensor:
    return x.resolve_conj().contiguous()


def vmap_rule(function: Callable[..., Tensor], info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """Joins the two batches in one call if a has the batch of b, or none; one call for each element otherwise."""
    (a, b, reverse), (a_dim, b_dim, _) = args, in_dims
    b_batch = b.movedim(b_dim, 0).shape[1] if b_dim is not None else len(b)
    if a_dim is None and len(a) == 1:
        joined_a = a
    elif a_dim is not None and a.movedim(a_dim, 0).shape[1] == b_batch:
        joined_a = a.movedim(a_dim, 0).flatten(0, 1)
    else:
        return call_for_each(function, info.batch_size, in_dims, args)
    h = function(joined_a, leading_batch(b, b_dim, info.batch_size).flatten(0, 1), reverse)
    return h.unflatten(0, (info.batch_size, b_batch)), 0


class Scan(Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor, reverse: bool) -> Tensor:
        return scan_forward(a, b, reverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, _, ctx.reverse = inputs
        ctx.save_for_backward(a, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *ScanGradient.apply(*ctx.saved_tensors, grad, ctx.reverse), None

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return vmap_rule(cls.apply, info, in_dims, *args)


class ScanGradient(Gradient):
    name = "scan"
    forward = staticmethod(scan_backward)


# for torch.compile and torch.export
@operator("lra::scan")
def scan_op(a: Tensor, b: Tensor, reverse: bool) -> Tensor:
    return scan_forward(a, b, reverse)


@operator("lra::scan_backward")
def scan_backward_op(a: Tensor, h: Tensor, grad: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    da, db = scan_backward(a, h, grad, reverse)
    return da.contiguous(), db


def like(x: Tensor) -> Tensor:
    """What a computation on fake tensors returns: contiguous."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


scan_op.register_fake(lambda a, b, reverse: like(b))
scan_op.register_autograd(
    lambda ctx, grad: (*scan_backward_op(*ctx.saved_tensors, grad, ctx.reverse), None), setup_context=Scan.setup_context
)
scan_op.register_vmap(lambda info, in_dims, *args: vmap_rule(scan_op, info, in_dims, *args))
scan_backward_op.register_fake(lambda a, h, grad, reverse: (like(a), like(h)))
scan_backward_op.register_vmap(
    lambda info, in_dims, *args: call_for_each(scan_backward_op, info.batch_size, in_dims, args)
)


def shift(x: Tensor, later: bool) -> Tensor:
    """x (B, L, K) shifted by one position along the length, padded by zero."""
    zero = torch.zeros_like(x[:, :1])
    return torch.cat([zero, x[:, :-1]] if later else [x[:, 1:], zero], 1)


def scan_blocks(a: Tensor, b: Tensor, reverse: bool) -> Tensor:
    """Scan in two levels: sqrt(L) steps in all blocks at once, then block to block. Shapes as in `scan_cpu`."""
    if reverse:
        return scan_blocks(a.flip(1), b.flip(1), False).flip(1)
    B, L, K = b.shape
    # a power of two, because most lengths are multiples of one and need no padding
    T = 2 ** math.ceil(math.log2(L) / 2)
    n = math.ceil(L / T)
    if padding := n * T - L:
        b = torch.cat([b, b.new_zeros(B, padding, K)], 1)
    b = b.view(B, n, T, K)
    if a.shape[1] == 1:
        a = a[:, None].expand(-1, 1, T, -1)
    else:
        if padding:
            a = torch.cat([a, a.new_zeros(a.shape[0], padding, K)], 1)
        a = a.view(-1, n, T, K)
    h, product = torch.empty_like(b), torch.empty(a.shape, dtype=a.dtype, device=a.device)
    h[:, :, 0], product[:, :, 0] = b[:, :, 0], a[:, :, 0]
    for t in range(1, T):
        torch.addcmul(b[:, :, t], a[:, :, t], h[:, :, t - 1], out=h[:, :, t])
        torch.mul(a[:, :, t], product[:, :, t - 1], out=product[:, :, t])
    block_product = product[:, :, -1].expand(-1, n, -1)
    carry = torch.zeros_like(h[:, :, 0])
    for i in range(1, n):
        torch.addcmul(h[:, i - 1, -1], block_product[:, i - 1], carry[:, i - 1], out=carry[:, i])
    h.addcmul_(product, carry[:, :, None])
    return h.view(B, n * T, K)[:, :L].contiguous()


@numba.njit(nogil=True, cache=True)
def scan_cpu(a: np.ndarray, b: np.ndarray, h: np.ndarray, reverse: bool) -> None:
    """Write the states h (B, L, K), from a (1 or B, 1 or L, K) and b (B, L, K)."""
    B, L, K = b.shape
    for i in range(B):
        row = i % a.shape[0]
        for step in range(L):
            t = L - 1 - step if reverse else step
            s = t + 1 if reverse else t - 1
            at = t % a.shape[1]
            if step == 0:
                h[i, t] = b[i, t]
            else:
                for k in range(K):
                    h[i, t, k] = a[row, at, k] * h[i, s, k] + b[i, t, k]


@numba.njit(nogil=True, cache=True)
def scan_cpu_backward(
    a: np.ndarray, h: np.ndarray, grad: np.ndarray, da: np.ndarray, db: np.ndarray, reverse: bool
) -> None:
    """Write db and add to da (zero at the start), against the direction of the scan."""
    B, L, K = h.shape
    for i in range(B):
        row = i % a.shape[0]
        for step in range(L):
            t = step if reverse else L - 1 - step
            after = t - 1 if reverse else t + 1
            before = t + 1 if reverse else t - 1
            at = t % a.shape[1]
            if step == 0:
                db[i, t] = grad[i, t]
            else:
                to = after % a.shape[1]
                for k in range(K):
                    db[i, t, k] = grad[i, t, k] + np.conj(a[row, to, k]) * db[i, after, k]
            if step < L - 1:
                for k in range(K):
                    da[row, at, k] += db[i, t, k] * np.conj(h[i, before, k])
