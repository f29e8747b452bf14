"""Environment of a run, for its record: versions, hardware, commit of the code, time."""

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lra.paths import ROOT
from lra.records.record import Git, Hardware

if TYPE_CHECKING:
    import torch

PACKAGES = ["torch", "pytorch-lightning", "numpy", "scipy", "numba", "hydra-core", "omegaconf", "wandb"]
PACKAGES += ["safetensors", "pykeops", "triton"]


def versions() -> dict[str, str]:
    """Versions of Python, CUDA (if torch has it) and the installed packages on which results may depend."""
    import torch

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def hardware(device: "torch.device | str" = "cpu") -> Hardware:
    """The machine; `device` is that of the model."""
    import torch

    device = torch.device(device)
    names = {"cpu": processor_name, "cuda": lambda: torch.cuda.get_device_name(device)}
    return Hardware(
        device=names.get(device.type, lambda: device.type)(),
        processor=processor_name(),
        cores=cores(),
        threads=torch.get_num_threads(),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        system=f"{platform.system()} {platform.machine()}",
    )


def now() -> str:
    """The current time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's name, or its architecture if the system does not tell."""
    with contextlib.suppress(FileNotFoundError):
        if found := re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def git(root: Path | None = None) -> Git:
    """Commit and state of the repository at `root` (default: of this code); changes in results/ do not make it dirty.

    For code copied without its repository, $LRA_GIT_COMMIT may name the commit it was exported from.
    """
    root = root or ROOT
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        exported = os.environ.get("LRA_GIT_COMMIT", "")
        known = re.fullmatch(r"[0-9a-f]{40}", exported) is not None
        return Git(commit=exported, dirty=False) if known else Git(commit=None, dirty=None)
    return Git(commit=commit, dirty=bool(_git(root, "status", "--porcelain", "--", ".", ":(exclude)results")))


def git_command(root: Path, *arguments: str) -> list[str]:
    """Command line of git that also reads a repository of another user, such as one mounted in a container."""
    return ["git", "-c", "safe.directory=*", "-C", str(root), *arguments]


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(git_command(root, *arguments), capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
