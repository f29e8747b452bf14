"""Lightning's Trainer as every training here uses it: silent, with our own checkpoints, loaders and progress bar."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.accelerators import Accelerator, CUDAAccelerator, MPSAccelerator, XLAAccelerator
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from lra.errors import UserError
from lra.training.checkpoint import AtomicCheckpointIO
from lra.training.config import Hardware


def silence_libraries() -> None:
    """Keep log lines and known warnings of Lightning out of the progress bar."""
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        # our loaders are not torch DataLoaders and have no workers
        "num_workers",
        "does not have many workers",
        "treespec, LeafSpec",
        "Checkpoint directory.*exists",
        "You are using a CUDA device.*Tensor Cores",
        # our sums are reduced over all processes before they are logged
        "sync_dist=True",
        "`srun` command is available",
        "broadcast_buffers.* is deprecated",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}.*")


def ensure_available(accelerator: str, option: str) -> None:
    """UserError if this machine lacks the accelerator; call it before data is made or a run starts."""
    cuda, mps, tpu = CUDAAccelerator, MPSAccelerator, XLAAccelerator
    kinds: dict[str, list[type[Accelerator]]] = {"gpu": [cuda, mps], "cuda": [cuda], "mps": [mps], "tpu": [tpu]}
    wanted = kinds.get(accelerator)
    if wanted and not any(kind.is_available() for kind in wanted):
        raise UserError(f"{option}={accelerator}: PyTorch finds no {accelerator} here", hint=f"{option}=auto")


def compile_blocks(model: nn.Module) -> None:
    """Compile the residual blocks one by one; UserError if the model has none."""
    blocks = getattr(getattr(model, "encoder", None), "blocks", None)
    if blocks is None:
        raise UserError("trainer.compile=true: this model has no residual blocks to compile", hint="leave it out")
    for block in blocks:
        block.compile()


def make_trainer(
    hardware: Hardware, *, folder: Path, max_steps: int, callbacks: list[Callback], **options: Any
) -> pl.Trainer:
    """A Trainer for this hardware; `options` are further arguments of it.

    raises  UserError if there are fewer devices than requested
    """
    try:
        trainer = pl.Trainer(
            accelerator=hardware.accelerator,
            # buffers are the same in all processes, or each process's own sums
            strategy="auto" if hardware.processes == 1 else DDPStrategy(broadcast_buffers=False),
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            precision=hardware.precision,  # type: ignore[arg-type]
            deterministic=hardware.deterministic,
            max_steps=max_steps,
            max_epochs=-1,
            check_val_every_n_epoch=None,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
            **options,
        )
    except MisconfigurationException as error:
        asked = f"trainer.accelerator={hardware.accelerator}, trainer.devices={hardware.devices}"
        raise UserError(f"{asked}: {error}") from None
    if trainer.strategy.root_device.type == "cpu":
        # torch's optimisers look for a GPU at each step; Lightning's setting makes them load NVIDIA's library for that
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    return trainer
