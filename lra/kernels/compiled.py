"""Loops written in PyTorch and compiled by torch.compile; (H, N, F) lives in registers only.

One pass over the poles gives all J sums and, behind it, the Woodbury formula. The backward is derived by hand and goes
over blocks of features: it computes the sums again (saving them would cost J spectra), differentiates Woodbury, and
reduces over the frequencies. Letters as in lra.kernels.pairs; a complex number is a pair (real, imaginary) here.
"""

import functools
import shutil
import sysconfig
from pathlib import Path

import torch
from torch import Tensor

from lra.kernels.pairs import nodes, pairs
from lra.kernels.reference import discretise

Complex = tuple[Tensor, Tensor]

# floats that one block of the backward may hold, so that it stays in the cache
BLOCK = 2**21

# ranks, channels, precisions and sizes of one are specialised, and a few of each may meet in one process;
# past this limit torch.compile would run the loops uncompiled, with (H, N, F) in memory
torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)


@functools.cache
def why_not(device: torch.device, dtype: torch.dtype, rank: int = 1) -> str | None:
    """The reason the compiled loops cannot run on this device, or None."""
    if device.type == "cpu":
        from torch._inductor import config

        names = config.cpp.cxx if isinstance(config.cpp.cxx, list | tuple) else [config.cpp.cxx]
        if not any(shutil.which(name) for name in names if name):
            return "there is no C++ compiler: install g++, or set CXX to one"
        if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
            return "the headers of Python are missing: install python3-dev"
        return None
    if device.type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError as error:
            return f"torch.compile needs triton on CUDA: {error}"
        return None
    return f"it runs on cpu and cuda, not on {device.type}"


def nplr_spectrum(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor, L: int) -> Tensor:
    """See lra.kernels.nplr_spectrum; ranks 0, 1 and 2."""
    if len(P) > 2:
        raise ValueError(f"rank {len(P)}: the compiled kernel knows ranks 0, 1 and 2; use backend='reference'")
    spectrum = Spectrum.apply(*pairs(dt, A, B, C, P), L, len(C))
    return torch.view_as_complex(spectrum)


class Spectrum(torch.autograd.Function):
    """alpha, beta (H, N), p, q (J, H, N) -> the spectrum (K, H, F, 2)."""

    @staticmethod
    def forward(ctx, alpha: Tensor, beta: Tensor, p: Tensor, q: Tensor, L: int, K: int) -> Tensor:
        ctx.save_for_backward(alpha, beta, p, q)
        ctx.L, ctx.K = L, K
        s, c = nodes(L, alpha.dtype, alpha.device)
        out = []
        for block in feature_blocks(alpha, beta, p, q, frequencies=len(s)):
            out.append(compiled(woodbury)(compiled(pole_sums)(*block, s, c), s, c, K))
        return torch.cat(out, 1)

    @staticmethod
    def backward(ctx, grad: Tensor):
        alpha, beta, p, q = ctx.saved_tensors
        s, c = nodes(ctx.L, alpha.dtype, alpha.device)
        grads = []
        for *block, g in feature_blocks(alpha, beta, p, q, grad, frequencies=len(s)):
            sums = compiled(pole_sums)(*block, s, c)
            grads.append(compiled(reduce_frequencies)(*block, s, c, compiled(woodbury_backward)(sums, s, c, g, ctx.K)))
        d_alpha, d_beta, d_p, d_q = zip(*grads, strict=True)
        return torch.cat(d_alpha), torch.cat(d_beta), torch.cat(d_p, 1), torch.cat(d_q, 1), None, None


@functools.cache
def compiled(loops):
    return torch.compile(loops, dynamic=True, fullgraph=True)


def feature_blocks(*tensors: Tensor, frequencies: int):
    """The tensors cut along H, the second axis of those with J or K first, into blocks that fit the cache."""
    sums = len(tensors[2])
    # two features at least: torch.compile makes a special case of one
    rows = max(2, BLOCK // (4 * sums * frequencies))
    return zip(*(x.split(rows, dim=0 if x.dim() == 2 else 1) for x in tensors), strict=True)


def pole_sums(alpha: Tensor, beta: Tensor, p: Tensor, q: Tensor, s: Tensor, c: Tensor) -> Tensor:
    """sum_n (i s p + c q) / D: (J, 2, H, F)."""
    r_re, r_im = reciprocal(alpha, beta, s, c)
    sums = []
    for pj, qj in zip(p.unbind(0), q.unbind(0), strict=True):
        pj, qj = pj[..., None], qj[..., None]
        re = c * (qj * r_re).sum(1) - s * (pj * r_im).sum(1)
        im = c * (qj * r_im).sum(1) + s * (pj * r_re).sum(1)
        sums.append(torch.stack([re, im]))
    return torch.stack(sums)


def reduce_frequencies(alpha: Tensor, beta: Tensor, p: Tensor, q: Tensor, s: Tensor, c: Tensor, d_sums: Tensor):
    """Gradients of alpha, beta, p and q from those of the sums (J, 2, H, F)."""
    r = reciprocal(alpha, beta, s, c)
    d_p, d_q = [], []
    T: Complex = (torch.zeros_like(r[0]), torch.zeros_like(r[0]))
    for j, d in enumerate(d_sums.unbind(0)):
        e = d[0][:, None], -d[1][:, None]
        e_r = mul(e, r)
        d_p.append(-(s * e_r[1]).sum(-1))
        d_q.append((c * e_r[0]).sum(-1))
        pj, qj = s * p[j, ..., None], c * q[j, ..., None]
        T = T[0] + e[0] * qj - e[1] * pj, T[1] + e[1] * qj + e[0] * pj
    T_rr = mul(T, mul(r, r))
    d_alpha = -2 * (s * c * T_rr[1]).sum(-1)
    d_beta = -(c * c * T_rr[0]).sum(-1)
    return d_alpha, d_beta, torch.stack(d_p), torch.stack(d_q)


def reciprocal(alpha: Tensor, beta: Tensor, s: Tensor, c: Tensor) -> Complex:
    """1 / D at every (H, N, F)."""
    x = c * c * beta[..., None] - s * s
    y = -2 * s * c * alpha[..., None]
    scale = 1 / (x * x + y * y)
    return x * scale, -y * scale


def woodbury(sums: Tensor, s: Tensor, c: Tensor, K: int) -> Tensor:
    """exp(i theta / 2) (C D B - c C D P (1 + c P* D P)^-1 P* D B): (K, H, F, 2)."""
    rows = split_rows(sums, K)
    x = woodbury_solve(rows, c, K)[0]
    out = []
    for k in range(K):
        y = rows[k][0]
        for r, x_r in enumerate(x):
            y = sub(y, mul(scale(c, rows[k][1 + r]), x_r))
        out.append(torch.stack([c * y[0] - s * y[1], c * y[1] + s * y[0]], -1))
    return torch.stack(out)


def split_rows(sums: Tensor, K: int) -> list[list[Complex]]:
    """The J sums as rows over (C_1 .. C_K, P*_1 .. P*_R) of columns over (B, P_1 .. P_R)."""
    R = next(r for r in range(3) if (K + r) * (1 + r) == len(sums))
    entries = [(z[0], z[1]) for z in sums.unbind(0)]
    return [entries[i * (1 + R) : (i + 1) * (1 + R)] for i in range(K + R)]


def woodbury_solve(rows: list[list[Complex]], c: Tensor, K: int) -> tuple[list[Complex], list[list[Complex]]]:
    """x = W^-1 P* D B and W^-1, of W = 1 + c P* D P."""
    low = rows[K:]
    W = [[scale(c, entry) for entry in row[1:]] for row in low]
    for r, row in enumerate(W):
        row[r] = 1 + row[r][0], row[r][1]
    if not low:
        return [], []
    if len(low) == 1:
        inverse = [[divide(None, W[0][0])]]
    else:
        det = sub(mul(W[0][0], W[1][1]), mul(W[0][1], W[1][0]))
        inverse = [
            [divide(W[1][1], det), scale(-1, divide(W[0][1], det))],
            [scale(-1, divide(W[1][0], det)), divide(W[0][0], det)],
        ]
    x = [functools.reduce(add, [mul(entry, row[0]) for entry, row in zip(line, low, strict=True)]) for line in inverse]
    return x, inverse


def woodbury_backward(sums: Tensor, s: Tensor, c: Tensor, grad: Tensor, K: int) -> Tensor:
    """Gradients (J, 2, H, F) of the sums from that of the spectrum (K, H, F, 2).

    y_k = a_k - c u_k x with x = W^-1 b:  da = g,  du = -c g conj x,  db = -c W^-* sum_k conj(u_k) g_k,  dW = -db conj x.
    """
    rows = split_rows(sums, K)
    x, inverse = woodbury_solve(rows, c, K)
    R = len(x)
    d_rows: list[list[Complex]] = []
    d_x: list[Complex] = [(torch.zeros_like(rows[0][0][0]), torch.zeros_like(rows[0][0][0])) for _ in x]
    for k in range(K):
        g = grad[k, ..., 0], grad[k, ..., 1]
        g = c * g[0] + s * g[1], c * g[1] - s * g[0]
        cg = scale(-c, g)
        d_rows.append([g] + [mul(cg, conj(x_r)) for x_r in x])
        d_x = [add(d, mul(cg, conj(rows[k][1 + r]))) for r, d in enumerate(d_x)]
    for r in range(R):
        d_b = functools.reduce(add, [mul(conj(inverse[t][r]), d_x[t]) for t in range(R)])
        d_rows.append([d_b] + [scale(-c, mul(d_b, conj(x_t))) for x_t in x])
    return torch.stack([torch.stack(entry) for row in d_rows for entry in row])


def add(a: Complex, b: Complex) -> Complex:
    return a[0] + b[0], a[1] + b[1]


def sub(a: Complex, b: Complex) -> Complex:
    return a[0] - b[0], a[1] - b[1]


def mul(a: Complex, b: Complex) -> Complex:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def scale(real: Tensor | float, a: Complex) -> Complex:
    return real * a[0], real * a[1]


def conj(a: Complex) -> Complex:
    return a[0], -a[1]


def divide(a: Complex | None, b: Complex) -> Complex:
    """a / b, with None for one."""
    inverse = 1 / (b[0] * b[0] + b[1] * b[1])
    over = b[0] * inverse, -b[1] * inverse
    return over if a is None else mul(a, over)


def diagonal_kernel(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, discretization: str) -> Tensor:
    """See lra.kernels.diagonal_kernel. With powers in two levels, l = i T + j, the sum over the state is a matrix product

    K[i T + j] = 2 Re sum_n (weight_n Ab_n^(i T)) Ab_n^j, of O(N sqrt L) exponentials where the definition has N L.
    """
    weight, exponent = discretise(dt, A, B, C, discretization)
    T = 1 << ((L - 1).bit_length() + 1) // 2
    fine = torch.exp(exponent[..., None] * torch.arange(T, device=A.device))  # (H, N, T)
    coarse = torch.exp(exponent[..., None] * torch.arange(0, L, T, device=A.device))  # (H, N, I)
    rows = (2 * weight[..., None] * coarse).permute(1, 0, 3, 2).flatten(1, 2)  # (H, K I, N)
    K = torch.cat([rows.real, -rows.imag], -1) @ torch.cat([fine.real, fine.imag], -2)
    return K.unflatten(1, (len(C), -1)).transpose(0, 1).flatten(2)[..., :L]
