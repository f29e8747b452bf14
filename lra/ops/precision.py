"""Precision of state-space computations when parameters or inputs are float16 or bfloat16."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; other precisions unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def exact(x: Tensor) -> Tensor:
    """x in float64, or complex128 if it is complex."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off; it does not exist for the device "meta"."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
