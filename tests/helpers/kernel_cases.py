"""Test systems for the kernels, and errors of values and gradients."""

import torch

from lra.ops.hippo import nplr


def system(H: int, N: int, K: int, R: int, dtype=None, device="cpu") -> list[torch.Tensor]:
    """dt, A, B, C, P of HiPPO-LegS with S4's time steps; P is random unless R is 1. float32 unless dtype is given."""
    torch.manual_seed(0)
    A, P, B, _ = nplr("legs", 2 * N)
    if R != 1:
        P = torch.randn(R, N, dtype=torch.complex128)
    dt = torch.logspace(-3, -1, H, dtype=torch.float64)
    C = torch.randn(K, H, N, dtype=torch.complex128)
    parameters = [dt, A.repeat(H, 1), B.repeat(H, 1), C, P[:, None].repeat(1, H, 1)]
    # round to float32 first, so that every precision gets the same numbers
    parameters = [x.to(device, torch.complex64 if x.is_complex() else torch.float32) for x in parameters]
    return [x.to(torch.promote_types(x.dtype, dtype or torch.float32)) for x in parameters]


def value_and_gradients(function, parameters, seed=1):
    parameters = [x.clone().requires_grad_() for x in parameters]
    y = function(*parameters)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*y.shape, dtype=torch.complex128 if y.is_complex() else torch.float64, generator=generator)
    gradients = torch.autograd.grad(y, parameters, weight.to(y), allow_unused=True)
    return {"value": y, **dict(zip(["dt", "A", "B", "C", "P"], gradients, strict=False))}


def errors(found, exact):
    """Relative error of the value and of each gradient, in the 2-norm."""
    return {
        name: ((x - exact[name]).norm() / exact[name].norm().clamp(min=1e-12)).item()
        for name, x in found.items()
        if x is not None and x.numel()
    }
