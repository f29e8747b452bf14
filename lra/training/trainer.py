"""Lightning as every training here uses it: silent, and with checkpoints, loaders and progress of our own."""

import logging
import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.accelerators import Accelerator, CUDAAccelerator, MPSAccelerator, XLAAccelerator
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lra.training.checkpoint import WholeFiles
from lra.training.config import Hardware


def quiet() -> None:
    """Keep the libraries from talking over the progress bar."""
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # our loaders are no torch DataLoaders: they have no workers to advise about
    warnings.filterwarnings("ignore", message=".*num_workers.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists.*")
    warnings.filterwarnings("ignore", message=".*You are using a CUDA device.*Tensor Cores.*")
    # our sums are taken over all processes before they are logged
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated.*")


def ensure_there(accelerator: str, option: str) -> None:
    """ValueError if this machine has not what the run is to use: before data is made and a run begun."""
    cuda, mps, tpu = CUDAAccelerator, MPSAccelerator, XLAAccelerator
    kinds: dict[str, list[type[Accelerator]]] = {"gpu": [cuda, mps], "cuda": [cuda], "mps": [mps], "tpu": [tpu]}
    wanted = kinds.get(accelerator)
    if wanted and not any(kind.is_available() for kind in wanted):
        none = f"PyTorch finds no {accelerator} on this machine"
        raise ValueError(f"{option}={accelerator}: {none}; {option}=auto takes what there is")


class Unprofiled(PassThroughProfiler):
    """Measures nothing, at less cost: Lightning asks a hundred times a step, and its own makes a generator each."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> nullcontext:  # type: ignore[override]
        return self.nothing


def trainer_for(
    hardware: Hardware, *, folder: Path, max_steps: int, clip: float | None, callbacks: list[Callback], **more: Any
) -> pl.Trainer:
    """more: further arguments of Lightning's Trainer. ValueError if there are fewer devices than asked for."""
    try:
        trainer = pl.Trainer(
            accelerator=hardware.accelerator,
            # the buffers are equal everywhere, or each process's own sums
            strategy="auto" if hardware.processes == 1 else DDPStrategy(broadcast_buffers=False),
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            precision=hardware.precision,  # type: ignore[arg-type]
            deterministic=hardware.deterministic,
            max_steps=max_steps,
            max_epochs=-1,
            check_val_every_n_epoch=None,
            gradient_clip_val=clip,
            callbacks=callbacks,
            plugins=[WholeFiles()],
            profiler=Unprofiled(),
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
            **more,
        )
    except MisconfigurationException as error:
        asked = f"trainer.accelerator={hardware.accelerator}, trainer.devices={hardware.devices}"
        raise ValueError(f"{asked}: {error}") from None
    if trainer.strategy.root_device.type == "cpu":
        # torch's optimizers ask at each step whether there is a GPU, and Lightning has them ask NVIDIA's library, which
        # is looked for anew each time
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    return trainer
