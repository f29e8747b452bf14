"""Train and evaluate one model on one task, and write the record.

    python scripts/train.py task=listops model=s4                  # the paper's recipe
    python scripts/train.py task=listops model=s4 scale=mini seed=1
    python scripts/train.py -m task=listops scale=mini optimizer.lr=0.001,0.003,0.01 # a sweep, ranked at its end

If the result exists, the command says so; an unfinished run continues where it stopped.
"""

import handover

import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lra.config.compose import cell_of, run_hydra
from lra.config.overrides import die
from lra.launch.grid import STOPPED
from lra.launch.lock import has_result, path_of
from lra.launch.sweep import Sweep
from lra.paths import CONFIGS
from lra.records.store import load

sweep = Sweep()


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> None:
    chosen = HydraConfig.get()
    choices = dict(chosen.runtime.choices)
    try:
        overrides = list(chosen.overrides.task)
    except OmegaConfBaseException as error:  # an override refers to a key that does not exist
        die(error)
    if chosen.mode != RunMode.MULTIRUN:
        sys.exit(run(cfg, choices, overrides))
    sweep.announce(chosen.job.num, overrides)
    # a failure does not stop the other runs
    arguments, sys.argv = sys.argv, [sys.argv[0], *overrides]  # Lightning starts further processes from sys.argv
    status: int | str | None = 1
    try:
        status = run(cfg, choices, overrides)
    except SystemExit as stop:
        status = stop.code
    except Exception:
        traceback.print_exc()
    finally:
        sys.argv = arguments
    if status == STOPPED:
        sys.exit(STOPPED)
    record = None if status else load(path_of(cfg.results, cell_of(cfg, choices=choices, overrides=overrides)))
    sweep.add(overrides, record)


def run(cfg: DictConfig, choices: dict[str, str], overrides: list[str]) -> int:
    if has_result(cfg, choices=choices, overrides=overrides):
        return 0
    from lra.launch import job  # imports torch, which takes seconds

    return job.one(cfg, choices=choices, overrides=overrides)


def command() -> int | str:
    run_hydra(main, "train", sweep=sweep.begin)
    for line in sweep.ranking():
        print(line)
    return f"{len(sweep.failed)} runs without a result: {'; '.join(sweep.failed)}" if sweep.failed else 0


if __name__ == "__main__":
    handover.run(command)
