"""State passing: the effect of an initial state on the outputs of a linear recurrence, and its state after an input.

x_t = A x_(t-1) + B u_t, y_t = Re C x_t, for each feature. Blocks of T positions are matrix products with the first T
powers of A; only the step from one block to the next is a loop: O(L N) for a diagonal A, O(L (N + N^2 / T)) for a dense
one.

B batch, L length, H features, N state, R real numbers of a state (2 N if complex), T positions of a block, n blocks.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lra.ops.precision import without_autocast

BLOCK = 64  # T, a power of two


class Blocks(NamedTuple):
    """Powers of a discrete system, for blocks of T positions.

    A        (H, N) diagonal, or (H, N, N)
    jump     A^T, in the form of A
    columns  (H, T, R): A^(T - 1 - j) B, complex numbers as pairs
    rows     (H, T, R): C A^(j + 1), as pairs of its conjugate, so that the product with a state is the real part
    """

    A: Tensor
    jump: Tensor
    columns: Tensor
    rows: Tensor


def times(A: Tensor, x: Tensor) -> Tensor:
    """A x for A (H, N) diagonal or (H, N, N), and x (..., H, N)."""
    return A * x if A.dim() == 2 else torch.einsum("hmn,...hn->...hm", A, x)


def squared(A: Tensor) -> Tensor:
    return A * A if A.dim() == 2 else A @ A


def blocks(A: Tensor, B: Tensor, C: Tensor, dtype: torch.dtype) -> Blocks:
    """Powers of A, computed in the precision of A and rounded to dtype, complex if A is; B, C (H, N)."""
    transposed = A.mT if A.dim() == 3 else A
    jump, columns, rows = A, B[None], times(transposed, C[None])  # (T, H, N)
    while len(columns) < BLOCK:
        columns = torch.cat([times(jump, columns), columns])
        rows = torch.cat([rows, times(transposed, rows)])
        jump, transposed = squared(jump), squared(transposed)
    columns, rows = (real_numbers(z.transpose(0, 1).to(dtype)) for z in (columns, rows.conj()))
    return Blocks(A.to(dtype), jump.to(dtype), columns.contiguous(), rows.contiguous())


def real_numbers(x: Tensor) -> Tensor:
    """x (..., N) as R real numbers."""
    return torch.view_as_real(x.resolve_conj()).flatten(-2) if x.is_complex() else x


def pass_state(system: Blocks, u: Tensor, mask: Tensor | None, state: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """What an initial state adds to the outputs, and the state after the last real position of each row.

    u        (B, L, H); the real positions of a row come first
    mask     (B, L) bool, True where real; None: all are
    state    (B, H, N) before the first position; None: zero, and nothing is added to the outputs
    returns  (B, H, L) or None, and the state (B, H, N); that of a row without real positions is unchanged
    """
    with without_autocast(u.device):
        batch, length = u.shape[:2]
        lengths = torch.full((batch,), length, device=u.device) if mask is None else mask.sum(1)
        driven = driven_state(system, u, mask, lengths)
        if state is None:
            return None, driven
        starts = [state.to(system.A.dtype)]
        for _ in range(length // BLOCK):
            starts.append(times(system.jump, starts[-1]))
        begin = torch.stack(starts, 1)  # (B, n, H, N)
        added = torch.einsum("bnhr,htr->bhnt", real_numbers(begin), system.rows).flatten(2)[..., :length]
        left = begin[torch.arange(batch, device=u.device), lengths // BLOCK]  # (B, H, N)
        return added, driven + advance(system.A, left, lengths % BLOCK)


def driven_state(system: Blocks, u: Tensor, mask: Tensor | None, lengths: Tensor) -> Tensor:
    """The state (B, H, N) after the last real position of each row, from a state of zero."""
    if mask is not None:
        # shifted to the right: zeros before the first position leave a state of zero
        u = u.masked_fill(~mask[..., None], 0)
        source = torch.arange(u.shape[1], device=u.device) - (u.shape[1] - lengths)[:, None]
        u = u.take_along_dim(source.remainder(u.shape[1])[..., None], 1)
    u = F.pad(u.to(system.columns.dtype), (0, 0, -u.shape[1] % BLOCK, 0)).unflatten(1, (-1, BLOCK))  # (B, n, T, H)
    inputs = torch.einsum("bnth,htr->nbhr", u, system.columns)
    if system.A.is_complex():
        inputs = torch.view_as_complex(inputs.unflatten(-1, (-1, 2)).contiguous())
    state = inputs[0]
    for block in inputs[1:]:
        state = times(system.jump, state) + block
    return state


def advance(A: Tensor, x: Tensor, count: Tensor) -> Tensor:
    """A^count x, where count (B,) < T differs from row to row: by its binary digits. x (B, H, N)."""
    digits = int(count.max()).bit_length()
    for digit in range(digits):
        x = torch.where((count >> digit & 1 == 1)[:, None, None], times(A, x), x)
        A = squared(A) if digit + 1 < digits else A
    return x
