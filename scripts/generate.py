"""Draw pictures or text from the weights of a finished run, token after token.

    python scripts/generate.py checkpoint=runs/paper/cifar_density/s4_unet/0-1a2b3c4d n=16            # samples.png
    python scripts/generate.py checkpoint=... given=0.5                     # the lower halves of test pictures
    python scripts/generate.py checkpoint=runs/paper/wikitext2/s4/0-5e6f7a8b prompt='The old house' temperature=0.8

The same seed gives the same tokens on the same machine. Exit status 2: nothing could be generated.
"""

import handover

import re
import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from lra.config.compose import plain, run_hydra
from lra.config.overrides import die
from lra.io.strict_json import check
from lra.launch.generation import Generation, run
from lra.paths import CONFIGS


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="generate")
def main(cfg: DictConfig) -> None:
    try:
        if OmegaConf.is_missing(cfg, "checkpoint"):
            die("checkpoint is missing; hint: checkpoint=runs/paper/cifar_density/s4_unet/0-1a2b3c4d", "generate.py")
        run(check(plain(cfg), Generation, ""))
    except (ValueError, OSError) as error:
        die(error, "generate.py")


def command() -> None:
    sys.argv[1:] = [quoted(word) for word in sys.argv[1:]]
    run_hydra(main, "generate")


def quoted(word: str) -> str:
    """The prompt in quotation marks for Hydra, whose grammar gives commas, brackets and the like a meaning."""
    key, _, text = word.partition("=")
    if key != "prompt" or re.fullmatch(r"'.*'|\".*\"", text, re.DOTALL):
        return word
    # a backslash before a quotation mark or at the end is doubled: Hydra reads it as an escape there only; ${ would be
    # the value of a setting
    text = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return "prompt='" + text.replace("${", "\\${") + "'"


if __name__ == "__main__":
    handover.run(command)
