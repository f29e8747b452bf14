"""What a run ran on and when: versions, hardware, the commit of the code and the time, for its record."""

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

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "numpy",
    "scipy",
    "numba",
    "hydra-core",
    "omegaconf",
    "wandb",
    "safetensors",
    "pykeops",
    "triton",
)


def versions() -> dict[str, str]:
    """Versions of Python, CUDA (where torch has it) and the packages a result may depend on; absent ones left out."""
    import torch

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def hardware(device: "torch.device | str" = "cpu") -> Hardware:
    """The machine as a record states it; `device` is where the model lives."""
    import torch

    device = torch.device(device)
    processor = processor_name()
    name = processor
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type != "cpu":
        name = device.type
    return Hardware(
        device=name,
        processor=processor,
        cores=cores(),
        threads=torch.get_num_threads(),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        system=f"{platform.system()} {platform.machine()}",
    )


def now() -> str:
    """The time, UTC to the second, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def git(root: Path | None = None) -> Git:
    """Commit and state of the repository at `root` (default: of this code); results/ does not make it dirty.

    Where the code was copied without its repository, $LRA_GIT_COMMIT may name the commit it was exported from.
    """
    root = root or ROOT
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        exported = os.environ.get("LRA_GIT_COMMIT", "")
        known = re.fullmatch(r"[0-9a-f]{40}", exported) is not None
        return Git(commit=exported, dirty=False) if known else Git(commit=None, dirty=None)
    return Git(commit=commit, dirty=bool(_git(root, "status", "--porcelain", "--", ".", ":(exclude)results")))


def git_command(root: Path, *arguments: str) -> list[str]:
    """The command. A clone may belong to somebody else, as a mounted one does in a container: its code is being run."""
    return ["git", "-c", "safe.directory=*", "-C", str(root), *arguments]


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(git_command(root, *arguments), capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
