"""Test the weights of a finished run again, and compare with the recorded accuracy.

    python scripts/evaluate.py checkpoint=runs/mini/listops/s4/0-1a2b3c4d           # a run's folder, or its file
    python scripts/evaluate.py checkpoint=hf://me/s4-listops                        # of the Hugging Face Hub; @revision
    python scripts/evaluate.py checkpoint=model.safetensors data.source=/some/dir   # weights from elsewhere
    python scripts/evaluate.py checkpoint=runs/mini/text/s4/0-1a2b3c4d length=2048  # on inputs of up to that length
    python scripts/evaluate.py checkpoint=runs/paper/wikitext2/s4/0-5e6f7a8b carry=true  # windows know the text before

The file holds the weights and, in its header, the record with the resolved configuration. That configuration may name
classes of this repository and nothing else. Exit status 0: the same number of right answers as recorded, or another
length was asked for; 1: a different number; 2: it could not be tested.
"""

import handover

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from lra.config.compose import plain, run_hydra
from lra.config.overrides import die
from lra.io.strict_json import check
from lra.launch.evaluation import Evaluation, evaluate
from lra.paths import CONFIGS


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    try:
        if OmegaConf.is_missing(cfg, "checkpoint"):
            die("checkpoint is missing; hint: checkpoint=runs/mini/listops/s4/0-1a2b3c4d", "evaluate.py")
        options = check(plain(cfg), Evaluation, "")
        sys.exit(evaluate(options))
    except (ValueError, OSError) as error:
        die(error, "evaluate.py")


def command() -> None:
    run_hydra(main, "evaluate")


if __name__ == "__main__":
    handover.run(command)
