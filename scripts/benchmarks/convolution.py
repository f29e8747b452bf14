"""The long convolution, which transforms again in its backward pass, against one that saves its spectra.

One two-sided convolution with skip, forward and backward, at the shapes of `bench.py layer`. On CUDA, one that packs
two rows into one transform (packed_convolution.py) takes part. All take turns; "keeping takes" is the median over
rounds of the saving one's time divided by ours, "keeping holds" its memory between the passes in units of the input.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import options
from benchmarks.options import Row
from lra.ops.fftconv import PaddedFFT, circular_kernel, kernel_gradient, long_conv, transform_length


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shapes", nargs="+", default=options.SHAPES, metavar="B,H,L", help="sizes")
    options.arguments(parser, repeats=15)


class Keeping(torch.autograd.Function):
    """`lra.ops.fftconv.LongConvFunction` with the spectra of input and kernel saved in the forward pass."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, kernel: Tensor, D: Tensor) -> Tensor:
        L, n = u.shape[-1], transform_length(u.shape[-1], kernel)
        k_f, y = torch.fft.rfft(circular_kernel(kernel, D, L, n)), torch.empty_like(u)
        transform = PaddedFFT(u, n, kernel.dtype)
        spectra = []
        for rows in transform.blocks:
            spectra.append(transform(u, rows))
            y[rows] = torch.fft.irfft(spectra[-1] * k_f, n=n)[..., :L]
        ctx.save_for_backward(k_f, kernel, *spectra)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k_f, kernel, *spectra = ctx.saved_tensors
        L, n = dy.shape[-1], transform_length(dy.shape[-1], kernel)
        du, dk_f = torch.empty_like(dy), torch.zeros_like(k_f)
        transform = PaddedFFT(dy, n, kernel.dtype)
        for rows, u_f in zip(transform.blocks, spectra, strict=True):
            dy_f = transform(dy, rows)
            dk_f += (u_f.conj() * dy_f).sum(0)
            du[rows] = torch.fft.irfft(dy_f.mul_(k_f.conj()), n=n)[..., :L]
        circular = torch.fft.irfft(dk_f, n=n)
        return du, kernel_gradient(circular, kernel, L), circular[:, 0].clone()


def run(args: argparse.Namespace) -> list[Row]:
    rows = []
    for shape in args.shapes:
        B, H, L = options.sizes(shape)
        print(f"B {B} H {H} L {L}", flush=True)
        rows.append(compare(B, H, L, args))
    return rows


def compare(B: int, H: int, L: int, args: argparse.Namespace) -> Row:
    torch.manual_seed(0)
    u, kernel, D = (torch.randn(*s, device=args.device, requires_grad=True) for s in ((B, L, H), (2, H, L), (H,)))
    convolutions: dict[str, Callable[..., Tensor]] = {"": long_conv, "keeping ": Keeping.apply}
    if u.device.type == "cuda":
        from benchmarks.packed_convolution import Packed

        convolutions["packed "] = lambda u, kernel, D: Packed.apply(u, kernel, D, None)

    def step(convolution: Callable[..., Tensor]) -> None:
        u.grad = kernel.grad = D.grad = None
        convolution(u.mT, kernel, D).sum().backward()

    for convolution in convolutions.values():
        step(convolution)
    rounds = options.in_turns([lambda c=c: step(c) for c in convolutions.values()], args.device, args.repeats)
    row: Row = {"B": B, "H": H, "L": L}
    for i, name in enumerate(convolutions):
        row[f"{name}ms"] = 1e3 * statistics.median(times[i] for times in rounds)
        if name:
            row[f"{name}takes"] = options.median_ratio(rounds, i, 0)
    saved = Keeping.apply(u.mT, kernel, D).grad_fn.saved_tensors
    saved_bytes = sum(t.nbytes for t in saved if t is not kernel)
    return row | {"keeping holds": saved_bytes / u.nbytes, "MB more": saved_bytes / 1e6}
