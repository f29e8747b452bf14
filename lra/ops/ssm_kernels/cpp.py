"""Backend "compiled": C++ loops (csrc/cauchy.cpp), built on first use; nothing of size (H, N, F) is stored.

One pass over the poles gives all sums and the Woodbury formula. The backward pass recomputes the sums, to avoid storing
J spectra, and reduces over frequencies. Through torch.compile the same formula takes 4 to 8 times as long with vectors
of 64 bytes, 4 to 6 times with 32, and compiles for 20 seconds instead of 2; one build also serves every size.

The compiler targets this processor; the variable CXXFLAGS can name another instruction set, as in
CXXFLAGS=-march=x86-64-v3. Vectors and blocks follow from the set: AVX-512, AVX2, NEON, or another of 128 bits
(csrc/simd.h).

The library is cached in the user's cache folder, by processor, compiler, flags, precision, K and R. If that folder
cannot be used, each process builds its own copy in a temporary folder.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from lra.ops.ssm_kernels.reference import discretise
from lra.ops.ssm_kernels.resolvent import expand_copies, nodes

SOURCE = Path(__file__).with_name("csrc") / "cauchy.cpp"
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math", "-march=native"]
REAL_TYPES = {torch.float32: "float", torch.float64: "double"}


@functools.cache
def unavailable_reason(device: torch.device, dtype: torch.dtype, rank: int = 1) -> str | None:
    """Why the loops cannot run, or None; the first call builds them."""
    if device.type != "cpu":
        return f"it runs on cpu, not on {device.type}"
    if dtype not in REAL_TYPES:
        return f"it computes in float32 and float64, not in {str(dtype).removeprefix('torch.')}"
    if rank > 2:
        return f"it supports ranks 0 to 2, not {rank}"
    try:
        library(dtype, 1, rank)
    except RuntimeError as error:
        return str(error)
    return None


def spectrum(L: int, *parameters: Tensor) -> Tensor:
    """See lra.ops.ssm_kernels.autograd."""
    C = parameters[3]
    out = C.new_empty(*C.shape[:2], L // 2 + 1, 2)
    run("spectrum", L, without_copies(*parameters), [out])
    return out


def spectrum_gradients(L: int, grad: Tensor, *parameters: Tensor) -> list[Tensor]:
    """See lra.ops.ssm_kernels.autograd."""
    inputs, S = without_copies(*parameters), len(parameters[1])
    gradients = [torch.empty_like(x) for x in inputs]
    run("spectrum_backward", L, inputs, [grad, *gradients])
    if len(inputs[0]) > S:
        for i in (1, 2, 4):
            gradients[i] = gradients[i].unflatten(-3, (-1, S)).sum(-4)
    return gradients


def without_copies(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor) -> tuple[Tensor, ...]:
    """Expand A, B, P (..., S, N, 2) to (..., H, N, 2), because the loops read one system per feature."""
    copies = (expand_copies(torch.view_as_complex(x), len(dt)).contiguous() for x in (A, B, P))
    A, B, P = map(torch.view_as_real, copies)
    return dt, A, B, C, P


class Parameters(ctypes.Structure):
    """Addresses of dt, A, B, C and P, or of their gradients."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("dt", "A", "B", "C", "P")]


def run(function: str, L: int, inputs: tuple[Tensor, ...], others: list[Tensor]) -> None:
    """Call a function of the library. others: the output, or the incoming gradient and the gradients to write."""
    dt, A, _, C, P = inputs
    (H, N), F = A.shape[:2], L // 2 + 1
    tables = [node_table(L, dt.dtype), node_table(L, torch.float64)]
    # with less work than this, a thread costs more than it saves
    threads = torch.get_num_threads() if H * N * F > 2**16 else 1
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (*tables, others[0])]
    gradients = [Parameters(*(x.data_ptr() for x in others[1:]))] if others[1:] else []
    numbers = [ctypes.c_long(n) for n in (H, N, F, tables[0].shape[1])]
    parameters = Parameters(*(x.data_ptr() for x in inputs))
    call = getattr(library(dt.dtype, len(C), len(P)), function)
    call(parameters, *pointers, *gradients, *numbers, ctypes.c_int(threads))


@functools.lru_cache(maxsize=32)
def node_table(L: int, dtype: torch.dtype) -> Tensor:
    """s, c, s^2, c^2, -2 s c, each rounded once; (5, F rounded up to 16), padded so that D = -1."""
    s, c = nodes(L, torch.float64, torch.device("cpu"))
    padding = -len(s) % 16
    s, c = torch.nn.functional.pad(s, (0, padding), value=1.0), torch.nn.functional.pad(c, (0, padding))
    return torch.stack([s, c, s * s, c * c, -2 * s * c]).to(dtype)


@functools.cache
def library(dtype: torch.dtype, K: int, R: int) -> ctypes.CDLL:
    """The loops for K outputs and rank R, built unless they are in the cache folder.

    raises  RuntimeError if there is no compiler, it fails, or no folder can hold the library
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        raise RuntimeError("no C++ compiler found (install g++ or set CXX)")
    defines = [f"-DREAL={REAL_TYPES[dtype]}", f"-DOUTPUTS={K}", f"-DRANK={R}"]
    flags = [*FLAGS, *shlex.split(os.environ.get("CXXFLAGS", "")), *defines]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    sources = [file.read_text() for file in sorted([SOURCE, *SOURCE.parent.glob("*.h")])]
    key = "\0".join([*sources, version, processor(), *flags])
    name, command = f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.so", [compiler, *flags]
    try:
        return load_or_build(command, cache_folder() / name)
    except OSError as error:
        reason = error.strerror or error
    try:
        with tempfile.TemporaryDirectory() as folder:
            return load_or_build(command, Path(folder) / name)
    except OSError:
        raise RuntimeError(
            f"the cache folder cannot be used ({reason}): set XDG_CACHE_HOME to a folder where files can be run"
        ) from None


@functools.cache
def instruction_set() -> str:
    """Name of the instruction set that the loops were built for."""
    return ctypes.c_char_p.in_dll(library(torch.float32, 1, 1), "instruction_set").value.decode()


def load_or_build(command: list[str], path: Path) -> ctypes.CDLL:
    """Load the library, built first if it is not there. Processes may build at once: each renames its own file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            build = [*command, str(SOURCE), "-o", str(built)]
            done = subprocess.run(build, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
                raise RuntimeError(f"{command[0]} cannot build {SOURCE.name}: {reason}")
            built.replace(path)
    return ctypes.CDLL(str(path))


def cache_folder() -> Path:
    """raises  FileNotFoundError if the user has no home, as in some containers"""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lra" / "kernels"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None


def processor() -> str:
    """Describe the processor as far as -march=native depends on it."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text().splitlines()
    return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features", "CPU part"))}))


def diagonal_kernel(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, L: int, discretization: str) -> Tensor:
    """See lra.ops.ssm_kernels.dispatch.diagonal_kernel. With l = i T + j the sum over poles is a matrix product:

    K[i T + j] = 2 Re sum_n (weight_n Ab_n^(i T)) Ab_n^j, with O(N sqrt L) exponentials instead of N L.
    """
    weight, exponent = discretise(dt, A, B, C, discretization)
    T = 1 << ((L - 1).bit_length() + 1) // 2
    fine = torch.exp(exponent[..., None] * torch.arange(T, device=A.device))  # (H, N, T)
    coarse = torch.exp(exponent[..., None] * torch.arange(0, L, T, device=A.device))  # (H, N, I)
    rows = (2 * weight[..., None] * coarse).permute(1, 0, 3, 2).flatten(1, 2)  # (H, K I, N)
    K = torch.cat([rows.real, -rows.imag], -1) @ torch.cat([fine.real, fine.imag], -2)
    return K.unflatten(1, (len(C), -1)).transpose(0, 1).flatten(2)[..., :L]
