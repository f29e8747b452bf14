"""Reference backend, which defines the kernels: plain PyTorch, any precision, no singular point.

Letters as in dispatch.py.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lra.ops.autograd_function import transforms_active

# complex numbers a block of features may hold; larger problems are split over H and recomputed in the backward pass
BLOCK = 2**24


def unavailable_reason(device: torch.device, dtype: torch.dtype, rank: int = 1) -> str | None:
    """None: it runs everywhere."""
    return None


def nplr_spectrum(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor, L: int) -> Tensor:
    """See lra.ops.ssm_kernels.dispatch.nplr_spectrum."""
    return _blocks(_nplr_spectrum, L, dt, A, B, C, P)


def diagonal_kernel(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, discretization: str = "zoh") -> Tensor:
    """See lra.ops.ssm_kernels.dispatch.diagonal_kernel."""
    weight, exponent = discretise(dt, A, B, C, discretization)
    return _blocks(_powers, L, weight, exponent)


def discretise(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, discretization: str) -> tuple[Tensor, Tensor]:
    """weight (K, H, N) and exponent (H, N) such that K[l] = 2 Re sum_n weight_n exp(l exponent_n)."""
    dtA = dt[:, None] * A
    if discretization == "zoh":
        return C * (torch.expm1(dtA) / A * B), dtA
    Ab = (1 + dtA / 2) / (1 - dtA / 2)
    # a real pole at dt A = -2 gives Ab = 0, which has no logarithm
    return C * (dt[:, None] / (1 - dtA / 2) * B), torch.log(Ab + 1e-30 * (Ab == 0))


def _nplr_spectrum(L: int, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor) -> Tensor:
    """C [(1 - w) - dt/2 (1 + w) (A - P P*)]^-1 dt B by the Woodbury formula, multiplied through by 1 + w.

    Gu et al. 2022, algorithm 1 and appendix C.3. With D the diagonal resolvent [(1 - w) - dt/2 (1 + w) A]^-1,
    g = dt/2 (1 + w):  K(w) = dt (C D B - g C D P (1 + g P* D P)^-1 P* D B).
    """
    w = torch.exp(-2j * torch.pi / L * torch.arange(L // 2 + 1, device=A.device, dtype=dt.dtype))
    A, B, C, P = (torch.cat([x, x.conj()], -1) for x in (A, B, C, P))
    g = dt[:, None] / 2 * (1 + w)  # (H, F)
    D = 1 / ((1 - w) - g[:, None] * A[..., None])  # (H, N, F)

    CDB = torch.einsum("khn,hn,hnf->khf", C, B, D)
    CDP = torch.einsum("khn,rhn,hnf->krhf", C, P, D)
    PDB = torch.einsum("rhn,hn,hnf->rhf", P.conj(), B, D)
    PDP = torch.einsum("rhn,shn,hnf->rshf", P.conj(), P, D)
    return dt[:, None] * woodbury(CDB, CDP, PDB, PDP, g)


def woodbury(CDB: Tensor, CDP: Tensor, PDB: Tensor, PDP: Tensor, g: Tensor) -> Tensor:
    """C (D^-1 + g P P*)^-1 B from the four sums: CDB - g CDP (1 + g PDP)^-1 PDB.

    CDB (K, H, F), CDP (K, R, H, F), PDB (R, H, F), PDP (R, R, H, F), g (H, F) or (F,)
    """
    core = torch.eye(len(PDB), device=PDB.device) + (g * PDP).permute(2, 3, 0, 1)  # (H, F, R, R)
    x = torch.linalg.solve(core, PDB.permute(1, 2, 0))
    return CDB - g * torch.einsum("krhf,hfr->khf", CDP, x)


def _powers(L: int, weight: Tensor, exponent: Tensor) -> Tensor:
    """2 Re sum_n weight_n exp(l exponent_n): (K, H, N), (H, N) -> (K, H, L)."""
    powers = torch.exp(exponent[..., None] * torch.arange(L, device=exponent.device))  # (H, N, L)
    return 2 * torch.einsum("khn,hnl->khl", weight, powers).real


def _blocks(function: Callable[..., Tensor], L: int, *parameters: Tensor) -> Tensor:
    """function(L, *parameters) over blocks of features, so that a large (H, N, L) is never in memory at once."""
    H, N = parameters[1].shape
    rows = max(1, BLOCK // (2 * N * L))
    if rows >= H:
        return function(L, *parameters)
    # features are axis 1 of C and P, axis 0 of the others
    blocks = zip(*(x.split(rows, dim=1 if x.dim() == 3 else 0) for x in parameters), strict=True)
    # torch.func does not allow recomputation
    recomputed = functools.partial(checkpoint, function, use_reentrant=False)
    run = function if transforms_active() else recomputed
    return torch.cat([run(L, *block) for block in blocks], dim=1)
