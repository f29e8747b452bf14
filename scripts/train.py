"""Train and evaluate one model on one task, and write the record.

    python scripts/train.py task=listops model=s4                  # the paper's recipe
    python scripts/train.py task=listops model=s4 scale=mini seed=1
    python scripts/train.py -m task=listops,pathfinder model=s4,transformer scale=mini

If the result exists, the command says so; an unfinished run continues where it stopped.
"""

import handover

import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lra.config.overrides import check_command_line
from lra.paths import CONFIGS

failed: list[str] = []  # cells of a sweep that gave no result


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> None:
    from lra.launch.job import STOPPED, one

    chosen = HydraConfig.get()
    words = {"choices": chosen.runtime.choices, "overrides": list(chosen.overrides.task)}
    if chosen.mode != RunMode.MULTIRUN:
        sys.exit(one(cfg, **words))
    # one of several cells: what goes wrong with it does not stop the others
    whole, sys.argv = sys.argv, [sys.argv[0], *words["overrides"]]  # from which Lightning starts further processes
    try:
        status = one(cfg, **words)
    except SystemExit as stop:
        status = stop.code
    except Exception:
        traceback.print_exc()
        status = 1
    finally:
        sys.argv = whole
    if status == STOPPED:
        sys.exit(STOPPED)
    if status:
        failed.append(" ".join(words["overrides"]))


def command() -> int | str:
    check_command_line(sys.argv[1:])  # before torch is imported, which takes seconds
    main()
    return f"{len(failed)} runs without a result: {'; '.join(failed)}" if failed else 0


if __name__ == "__main__":
    handover.run(command)
