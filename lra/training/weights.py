"""Weights of a finished run and its record in one safetensors file: self-contained, and loading it runs no code.

The header holds the record (and so the resolved configuration) as JSON under `record`, and a checksum of the weights
under `sha256`; the format itself has no checksum, so a flipped bit would go unnoticed.
"""

import difflib
import hashlib
import json
import struct
from pathlib import Path

import safetensors.torch
from safetensors import safe_open
from torch import Tensor, nn

from lra.errors import UserError
from lra.io.atomic import atomic_write
from lra.records.record import Record, parse


class Damaged(UserError):
    """A file that is not an intact safetensors file, and why."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: not an intact safetensors file ({reason})", hint="copy it again")
        self.reason = reason


def save(path: Path, model: nn.Module, record: Record) -> None:
    """Write weights and record as one atomic write; OSError in one line on a disk error."""
    tensors = {k: v.contiguous().cpu() for k, v in model.state_dict().items()}
    atomic_write(path, serialised(tensors, record), hint="runs=/some/dir", temporary=path.with_suffix(".tmp"))


def serialised(tensors: dict[str, Tensor], record: Record) -> bytes:
    """Content of a file of weights with their record."""
    sha256 = checksum(safetensors.torch.save(tensors))
    return safetensors.torch.save(tensors, {"record": record.text(), "sha256": sha256})


def checksum(content: bytes) -> str:
    """SHA-256 of all tensors of a safetensors file: names, types, shapes, offsets and bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + content[8 + length :]).hexdigest()


def load(path: Path) -> tuple[dict[str, Tensor], Record | None]:
    """Weights and record of a file. Files from elsewhere may lack the record and the checksum.

    raises  UserError if the file does not exist; Damaged, one, if it is not an intact safetensors file
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.get("sha256", found := checksum(path.read_bytes())) != found:
            raise ValueError("the weights do not match their checksum")
    except Exception as error:  # a damaged header fails in many ways, none of which runs code
        raise Damaged(path, " ".join(str(error).split())) from None
    return weights, parse(header["record"], where=str(path)) if "record" in header else None


def file_of(given: Path) -> Path:
    """The file of weights in a run's folder, or the file itself.

    raises  UserError with the nearest finished runs if there is none
    """
    path = given / "model.safetensors" if given.is_dir() else given
    if path.is_file():
        return path
    if (given / "last.ckpt").is_file():
        raise UserError(f"{given}: this run is not finished", hint="its command resumes it")
    finished = sorted(str(found.parent) for found in Path("runs").rglob("model.safetensors"))
    near = difflib.get_close_matches(str(given), finished, n=3, cutoff=0.0)
    hint = f"nearest finished runs: {', '.join(near)}" if near else "no run under runs/ is finished"
    raise UserError(f"{given}: no finished run, and no file of weights", hint=hint)


def fill(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load weights into a model; UserError if names or shapes differ."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:300]
        raise UserError(f"{where}: the weights are not those of the configured model: {reason}") from None
