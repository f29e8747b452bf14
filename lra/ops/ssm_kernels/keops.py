"""The sums of lra.ops.ssm_kernels.resolvent as KeOps reductions, on CPU or GPU, differentiated by KeOps.

pykeops compiles on first use and a failure may abort the process, so availability is tested in a child process.
"""

import functools
import subprocess
import sys

import torch
from torch import Tensor

from lra.ops.ssm_kernels.reference import discretise, woodbury
from lra.ops.ssm_kernels.resolvent import nodes, pole_coefficients

PROBE = """
import torch
from pykeops.torch import Genred
x = torch.ones(2, 1, device="{device}")
y = Genred("x * y", ["x = Vi(1)", "y = Vj(1)"], "Sum", axis=1)(x, x, backend="{backend}")
assert y.sum() == 4, y
"""
BACKENDS = {"cpu": "CPU", "cuda": "GPU"}


@functools.cache
def unavailable_reason(device: torch.device, dtype: torch.dtype, rank: int = 1) -> str | None:
    """Why KeOps cannot reduce on this device, or None; tested once, in a child process."""
    if device.type not in BACKENDS:
        return f"it runs on cpu and cuda, not on {device.type}"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not in {str(dtype).removeprefix('torch.')}"
    probe = PROBE.format(device=device, backend=BACKENDS[device.type])
    try:
        child = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return "a test reduction did not finish within 300 seconds"
    if child.returncode:
        lines = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        return f"a test reduction failed: {lines[-1]}"
    return None


def nplr_spectrum(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor, L: int) -> Tensor:
    """See lra.ops.ssm_kernels.dispatch.nplr_spectrum."""
    alpha, beta, p, q = pole_coefficients(dt, A, B, C, P)
    s, c = nodes(L, dt.dtype, dt.device)
    K, R, J = len(C), len(P), len(p)
    x = "(Square(c) * beta - Square(s))"
    y = "(IntCst(-2) * s * c * alpha)"
    size = f"(Square({x}) + Square({y}))"
    re, im = f"({x} / {size})", f"(-{y} / {size})"
    formula = f"Concat(c * {re} * q - s * {im} * p, c * {im} * q + s * {re} * p)"
    variables = ["s = Vi(1)", "c = Vi(1)", "alpha = Vj(1)", "beta = Vj(1)", f"p = Vj({J})", f"q = Vj({J})"]
    inputs = (s[None, :, None], c[None, :, None], alpha[..., None], beta[..., None], p.movedim(0, -1), q.movedim(0, -1))
    sums = sum_over_j(formula, variables, inputs)  # (H, F, 2 J)
    sums = torch.complex(*sums.movedim(-1, 0).chunk(2)).unflatten(0, (K + R, 1 + R))
    half_turn = torch.complex(c, s)
    return half_turn * woodbury(sums[:K, 0], sums[:K, 1:], sums[K:, 0], sums[K:, 1:], c)


def diagonal_kernel(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, discretization: str) -> Tensor:
    """See lra.ops.ssm_kernels.dispatch.diagonal_kernel."""
    weight, exponent = discretise(dt, A, B, C, discretization)
    formula = "Exp(l * x) * (Cos(l * y) * u - Sin(l * y) * v)"
    variables = ["l = Vi(1)", "x = Vj(1)", "y = Vj(1)", f"u = Vj({len(C)})", f"v = Vj({len(C)})"]
    positions = torch.arange(L, dtype=dt.dtype, device=dt.device)[None, :, None]
    x, y = exponent.real[..., None], exponent.imag[..., None]
    u, v = weight.real.movedim(0, -1), weight.imag.movedim(0, -1)
    return 2 * sum_over_j(formula, variables, (positions, x, y, u, v)).movedim(-1, 0)


def sum_over_j(formula: str, variables: list[str], inputs: tuple[Tensor, ...]) -> Tensor:
    import pykeops
    from pykeops.torch import Genred

    # otherwise it prints every formula it compiles
    pykeops.set_verbose(False)
    reduction = Genred(formula, variables, reduction_op="Sum", axis=1, sum_scheme="kahan_scheme")
    return reduction(*(x.contiguous() for x in inputs), backend=BACKENDS[inputs[-1].device.type])
