"""The long convolution as it is, which transforms again for its backward, against one that keeps its spectra.

One two-sided convolution with skip, forward and backward, at the shapes of `bench.py layer`. On CUDA a third one takes
part, of two rows at a time (packed_convolution.py). All take turns, so that what else the machine does falls on them
alike; "keeping takes" is the median over rounds of its time by ours, and "keeping holds" what it has in memory
between the passes, in units of the input.
"""

import argparse
import statistics

import torch
from torch import Tensor

from benchmarks import options
from lra.ops.fftconv import PaddedFFT, kernel_gradient, kernel_spectrum, long_conv, transform_length
from lra.profiling.timing import seconds


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shapes", nargs="+", default=["16,128,1024", "4,256,4096", "1,256,16384"], metavar="B,H,L", help="sizes"
    )
    options.arguments(parser, repeats=15)


class Keeping(torch.autograd.Function):
    """`lra.ops.fftconv.LongConvFunction` with the spectra of input and kernel saved in the forward."""

    @staticmethod
    def forward(ctx, u: Tensor, kernel: Tensor, D: Tensor) -> Tensor:
        L, n = u.shape[-1], transform_length(u.shape[-1], kernel)
        k_f, y = kernel_spectrum(kernel, D, L, n), torch.empty_like(u)
        transform = PaddedFFT(u, n, kernel.dtype)
        kept = []
        for rows in transform.blocks:
            kept.append(transform(u, rows))
            y[rows] = torch.fft.irfft(kept[-1] * k_f, n=n)[..., :L]
        ctx.save_for_backward(k_f, kernel, *kept)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor):
        k_f, kernel, *kept = ctx.saved_tensors
        L, n = dy.shape[-1], transform_length(dy.shape[-1], kernel)
        du, dk_f = torch.empty_like(dy), torch.zeros_like(k_f)
        transform = PaddedFFT(dy, n, kernel.dtype)
        for rows, u_f in zip(transform.blocks, kept, strict=True):
            dy_f = transform(dy, rows)
            dk_f += (u_f.conj() * dy_f).sum(0)
            du[rows] = torch.fft.irfft(dy_f.mul_(k_f.conj()), n=n)[..., :L]
        taps = torch.fft.irfft(dk_f, n=n)
        return du, kernel_gradient(taps, kernel, L), taps[:, 0].clone()


def run(args: argparse.Namespace) -> list[dict]:
    torch.set_num_threads(args.threads or torch.get_num_threads())
    rows = []
    for shape in args.shapes:
        B, H, L = options.sizes(shape)
        print(f"B {B} H {H} L {L}", flush=True)
        rows.append(compare(B, H, L, args))
    return rows


def compare(B: int, H: int, L: int, args: argparse.Namespace) -> dict:
    """One line of the table."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    u, kernel, D = (torch.randn(*s, device=device, requires_grad=True) for s in ((B, L, H), (2, H, L), (H,)))

    def step(convolution) -> None:
        u.grad = kernel.grad = D.grad = None
        convolution(u.mT, kernel, D).sum().backward()

    ways = {"": long_conv, "keeping ": Keeping.apply} | ({"packed ": packed} if device.type == "cuda" else {})
    for convolution in ways.values():
        step(convolution)
    rounds = [[seconds(lambda c=c: step(c), device) for c in ways.values()] for _ in range(args.repeats)]
    row: dict = {"B": B, "H": H, "L": L}
    for name, times in zip(ways, zip(*rounds, strict=True), strict=True):
        row[f"{name}ms"] = 1e3 * statistics.median(times)
        if name:
            row[f"{name}takes"] = statistics.median(time / ours for time, (ours, *_) in zip(times, rounds, strict=True))
    kept = Keeping.apply(u.mT, kernel, D).grad_fn.saved_tensors
    held = sum(t.numel() * t.element_size() for t in kept if t is not kernel)
    return row | {"keeping holds": held / (u.numel() * u.element_size()), "MB more": held / 1e6}


def packed(u: Tensor, kernel: Tensor, D: Tensor) -> Tensor:
    from benchmarks.packed_convolution import Packed

    return Packed.apply(u, kernel, D, None)
