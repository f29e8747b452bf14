"""The weights of a finished run and its record in one safetensors file, which needs nothing beside it and runs no code.

The header of the file holds the record, and with it the resolved configuration, as JSON under the name `record`, and
under `sha256` a checksum of the weights: the format itself has none, and a flipped bit would be another weight.
"""

import hashlib
import json
import struct
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from lra.io.atomic import atomic_write
from lra.records.record import Record, parse


def save(path: Path, model: nn.Module, record: Record) -> None:
    """Write both, whole or not at all; OSError of one line where the disk refuses."""
    tensors = {k: v.contiguous().cpu() for k, v in model.state_dict().items()}
    sha256 = checksum(safetensors.torch.save(tensors))
    content = safetensors.torch.save(tensors, {"record": record.text(), "sha256": sha256})
    atomic_write(path, content, hint="runs=/some/dir", temporary=path.with_suffix(".tmp"))


def checksum(content: bytes) -> str:
    """SHA-256 of all tensors of a safetensors file: names, types, shapes, places and bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + content[8 + length :]).hexdigest()


def load(path: Path) -> tuple[dict[str, Tensor], Record | None]:
    """Weights and record of a file; a file of weights alone has no record, and one of others no checksum.

    raises  ValueError, one line naming the file, if it is not there, damaged or no such file
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.get("sha256", found := checksum(path.read_bytes())) != found:
            raise ValueError("the weights differ from their checksum")
    except Exception as error:  # a damaged header fails in many ways, none of which runs code
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a whole safetensors file ({reason}); copy it again") from None
    return weights, parse(header["record"], where=str(path)) if "record" in header else None


def fill(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Put weights into a model. ValueError, one line, if they are another model's."""
    known = model.state_dict()
    stray, missing = sorted(set(weights) - set(known)), sorted(set(known) - set(weights))
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(known[name].shape)}"
        for name in known
        if isinstance(known[name], torch.Tensor)
        and name in weights
        and not name.endswith("_extra_state")
        and weights[name].shape != known[name].shape
    ]
    wrong = [*shapes, *(f"{n} is missing" for n in missing), *(f"{n} is not of this model" for n in stray)]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(f"{where}: the weights are not those of the configured model: {wrong[0]}{more}")
    model.load_state_dict(weights)
