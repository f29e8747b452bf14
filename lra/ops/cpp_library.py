"""C++ loops for the CPU (csrc), built on first use and called through ctypes.

The compiler targets this processor; the variable CXXFLAGS can name another instruction set, as in
CXXFLAGS=-march=x86-64-v3. Vectors and blocks follow from the set: AVX-512, AVX2, NEON, or another of 128 bits
(csrc/simd.h).

A library is cached in the user's cache folder, by source, processor, compiler, flags and definitions. If that folder
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

FOLDER = Path(__file__).with_name("csrc")
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math", "-march=native"]


@functools.cache
def library(name: str, *definitions: str) -> ctypes.CDLL:
    """The library of csrc/<name>.cpp with these definitions, such as "RANK=1"; built unless it is cached.

    raises  RuntimeError if there is no compiler, it fails, or no folder can hold the library
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        raise RuntimeError("no C++ compiler found (install g++ or set CXX)")
    source = FOLDER / f"{name}.cpp"
    flags = [*FLAGS, *shlex.split(os.environ.get("CXXFLAGS", "")), *(f"-D{x}" for x in definitions)]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    sources = [file.read_text() for file in sorted([source, *FOLDER.glob("*.h")])]
    key = "\0".join([*sources, version, processor(), *flags])
    file, command = f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.so", [compiler, *flags, str(source)]
    try:
        return load_or_build(command, cache_folder() / file)
    except OSError as error:
        reason = error.strerror or error
    try:
        with tempfile.TemporaryDirectory() as folder:
            return load_or_build(command, Path(folder) / file)
    except OSError:
        raise RuntimeError(
            f"the cache folder cannot be used ({reason}): set XDG_CACHE_HOME to a folder where files can be run"
        ) from None


def load_or_build(command: list[str], path: Path) -> ctypes.CDLL:
    """Load the library, built first if it is not there. Processes may build at once: each renames its own file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            done = subprocess.run([*command, "-o", str(built)], capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
                raise RuntimeError(f"{command[0]} cannot build {Path(command[-1]).name}: {reason}")
            built.replace(path)
    return ctypes.CDLL(str(path))


@functools.cache
def instruction_set(library: ctypes.CDLL) -> str:
    """Name of the instruction set that the library was built for."""
    name = ctypes.c_char_p.in_dll(library, "instruction_set").value
    assert name is not None
    return name.decode()


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
