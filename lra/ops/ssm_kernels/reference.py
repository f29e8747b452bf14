"""The definition every other backend is judged by: plain PyTorch, any precision, no singular point.

H features, N half the state (one of each conjugate pair is kept), K outputs (channels), R rank, L length,
F = L // 2 + 1 frequencies.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# complex numbers one block of features may hold; beyond it the work is cut over H and recomputed in the backward
BLOCK = 2**24


def unavailable_reason(device: torch.device, dtype: torch.dtype, rank: int = 1) -> str | None:
    """Nothing keeps the definition from running."""
    return None


def nplr_spectrum(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor, L: int) -> Tensor:
    """The truncated generating function at the roots of unity; see lra.ops.ssm_kernels.dispatch.nplr_spectrum."""
    return _blocks(_nplr_spectrum, L, dt, A, B, C, P)


def diagonal_kernel(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, discretization: str = "zoh") -> Tensor:
    """The impulse response of diagonal systems; see lra.ops.ssm_kernels.dispatch.diagonal_kernel."""
    weight, exponent = discretise(dt, A, B, C, discretization)
    return _blocks(_powers, L, weight, exponent)


def discretise(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, discretization: str) -> tuple[Tensor, Tensor]:
    """weight (K, H, N) and exponent (H, N) such that K[l] = 2 Re sum_n weight_n exp(l exponent_n).

    "zoh": Ab = exp(dt A), Bb = (exp(dt A) - 1) / A B; "bilinear": Ab = (1 + dt A / 2) / (1 - dt A / 2),
    Bb = dt / (1 - dt A / 2) B.
    """
    dtA = dt[:, None] * A
    if discretization == "zoh":
        return C * (torch.expm1(dtA) / A * B), dtA
    Ab = (1 + dtA / 2) / (1 - dtA / 2)
    # a real pole at dt A = -2 is gone after one position: its zero has no logarithm
    return C * (dt[:, None] / (1 - dtA / 2) * B), torch.log(Ab + 1e-30 * (Ab == 0))


def _nplr_spectrum(L: int, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor) -> Tensor:
    """C [(1 - w) - dt/2 (1 + w) (A - P P*)]^-1 dt B by Woodbury, everything multiplied through with 1 + w.

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


def _blocks(function, L: int, *parameters: Tensor) -> Tensor:
    """function(L, *parameters) in blocks of features, so that (H, N, L) is never held whole when it is large."""
    H, N = parameters[1].shape
    rows = max(1, BLOCK // (2 * N * L))
    if rows >= H:
        return function(L, *parameters)
    # features come first in what has no outputs or ranks
    blocks = zip(*(x.split(rows, dim=1 if x.dim() == 3 else 0) for x in parameters), strict=True)
    return torch.cat([checkpoint(function, L, *block, use_reentrant=False) for block in blocks], dim=1)
