"""Loops in C++ (loops.cpp), built on first use by the machine's compiler; (H, N, F) lives in registers only.

One pass over the poles gives all sums and, behind it, the Woodbury formula. The backward computes the sums again rather
than keep J spectra, and reduces over the frequencies. The same loops through torch.compile were slower and took most of
a minute to compile where this takes a second; and what is built here serves every size.

The library is kept in the user's cache folder, one for each processor, compiler, precision, K and R. Where that cannot
be written, or nothing may be run from it, every process builds its own, in a folder that goes at once.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from lra.ops.ssm_kernels.reference import discretise
from lra.ops.ssm_kernels.resolvent import nodes

SOURCE = Path(__file__).with_name("csrc") / "cauchy.cpp"
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math", "-march=native"]
REALS = {torch.float32: "float", torch.float64: "double"}


@functools.cache
def unavailable_reason(device: torch.device, dtype: torch.dtype, rank: int = 1) -> str | None:
    """The reason the loops cannot run, or None; the first call builds them."""
    if device.type != "cpu":
        return f"it runs on cpu, not on {device.type}"
    if dtype not in REALS:
        return f"it computes in float32 and float64, not in {str(dtype).removeprefix('torch.')}"
    if rank > 2:
        return f"it knows ranks 0, 1 and 2, not {rank}"
    try:
        library(dtype, 1, rank)
    except RuntimeError as error:
        return str(error)
    return None


def spectrum(L: int, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor) -> Tensor:
    """See lra.ops.ssm_kernels.autograd."""
    out = C.new_empty(*C.shape[:2], L // 2 + 1, 2)
    call("spectrum", L, whole(dt, A, B, C, P), [out])
    return out


def spectrum_gradients(L: int, grad: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor) -> list[Tensor]:
    """See lra.ops.ssm_kernels.autograd."""
    inputs = whole(dt, A, B, C, P)
    gradients = [torch.empty_like(x) for x in inputs]
    call("spectrum_backward", L, inputs, [grad, *gradients])
    if len(A) < len(dt):
        for i in (1, 2, 4):
            gradients[i] = gradients[i].unflatten(-3, (-1, len(A))).sum(-4)
    return gradients


def whole(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor) -> tuple[Tensor, ...]:
    """The loops know no copies: every feature reads its own."""
    n = len(dt) // len(A)
    if n > 1:
        A, B, P = A.repeat(n, 1, 1), B.repeat(n, 1, 1), P.repeat(1, n, 1, 1)
    return dt, A, B, C, P


class Parameters(ctypes.Structure):
    """Where dt, A, B, C and P lie, or their gradients."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("dt", "A", "B", "C", "P")]


def call(function: str, L: int, inputs: tuple[Tensor, ...], rest: list[Tensor]) -> None:
    dt, A, _, C, P = inputs
    (H, N), F = A.shape[:2], L // 2 + 1
    tables = [node_table(L, dt.dtype), node_table(L, torch.float64)]
    # below this much work a thread costs more than it saves
    threads = torch.get_num_threads() if H * N * F > 2**16 else 1
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (*tables, rest[0])]
    gradients = [Parameters(*(x.data_ptr() for x in rest[1:]))] if rest[1:] else []
    numbers = [ctypes.c_long(n) for n in (H, N, F, tables[0].shape[1])]
    parameters = Parameters(*(x.data_ptr() for x in inputs))
    run = getattr(library(dt.dtype, len(C), len(P)), function)
    run(parameters, *pointers, *gradients, *numbers, ctypes.c_int(threads))


@functools.lru_cache(maxsize=32)
def node_table(L: int, dtype: torch.dtype) -> Tensor:
    """s, c, s^2, c^2, -2 s c, each rounded once; (5, F rounded up to 16), with D = -1 in the padding."""
    s, c = nodes(L, torch.float64, torch.device("cpu"))
    padding = -len(s) % 16
    s, c = torch.nn.functional.pad(s, (0, padding), value=1.0), torch.nn.functional.pad(c, (0, padding))
    return torch.stack([s, c, s * s, c * c, -2 * s * c]).to(dtype)


@functools.cache
def library(dtype: torch.dtype, K: int, R: int) -> ctypes.CDLL:
    """The loops for K outputs and rank R, built if they are not in the cache folder.

    raises  RuntimeError if there is no compiler, it fails, or no folder takes what it builds
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        raise RuntimeError("there is no C++ compiler: install g++, or set CXX to one")
    defines = [f"-DREAL={REALS[dtype]}", f"-DOUTPUTS={K}", f"-DRANK={R}"]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    sources = [file.read_text() for file in sorted([SOURCE, *SOURCE.parent.glob("*.h")])]
    built_from = "\0".join([*sources, version, processor(), *FLAGS, *defines])
    name, command = f"{hashlib.sha256(built_from.encode()).hexdigest()[:24]}.so", [compiler, *FLAGS, *defines]
    try:
        return loaded(command, cache_folder() / name)
    except OSError as error:
        refusal = error.strerror or error
    try:
        with tempfile.TemporaryDirectory() as own:
            return loaded(command, Path(own) / name)
    except OSError:
        cure = "set XDG_CACHE_HOME to a folder that can be written and run from"
        raise RuntimeError(f"the cache folder cannot keep what is built ({refusal}): {cure}") from None


def loaded(command: list[str], path: Path) -> ctypes.CDLL:
    if not path.exists():
        build(command, path)
    return ctypes.CDLL(str(path))


def build(command: list[str], path: Path) -> None:
    """Two processes may build at once: each its own file, moved into place whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / "loops.so"
        run = subprocess.run([*command, str(SOURCE), "-o", str(made)], capture_output=True, text=True, check=False)
        if run.returncode:
            reason = next((line for line in run.stderr.splitlines() if "error" in line), run.stderr[:200])
            raise RuntimeError(f"{command[0]} cannot build {SOURCE.name}: {reason}")
        made.replace(path)


def cache_folder() -> Path:
    """raises  FileNotFoundError for a user without a home, as containers have them"""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lra" / "kernels"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None


def processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )


def diagonal_kernel(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, discretization: str) -> Tensor:
    """See `dispatch.diagonal_kernel`. With powers in two levels, l = i T + j, the sum over poles is a matrix product:

    K[i T + j] = 2 Re sum_n (weight_n Ab_n^(i T)) Ab_n^j, of O(N sqrt L) exponentials where the definition has N L.
    """
    weight, exponent = discretise(dt, A, B, C, discretization)
    T = 1 << ((L - 1).bit_length() + 1) // 2
    fine = torch.exp(exponent[..., None] * torch.arange(T, device=A.device))  # (H, N, T)
    coarse = torch.exp(exponent[..., None] * torch.arange(0, L, T, device=A.device))  # (H, N, I)
    rows = (2 * weight[..., None] * coarse).permute(1, 0, 3, 2).flatten(1, 2)  # (H, K I, N)
    K = torch.cat([rows.real, -rows.imag], -1) @ torch.cat([fine.real, fine.imag], -2)
    return K.unflatten(1, (len(C), -1)).transpose(0, 1).flatten(2)[..., :L]
