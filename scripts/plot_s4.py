"""Plot HiPPO bases, eigenvalues, and convolution kernels of S4 before and after training.

python scripts/plot_s4.py                                                   # docs/figures/*.png
python scripts/plot_s4.py --format svg --out figures task=pathx model=s4d   # kernels of another model, untrained
python scripts/plot_s4.py --checkpoint runs/mini/pathfinder/s4/0-12ab34cd   # before and after that run
"""

import handover

import argparse
import math
from pathlib import Path

import matplotlib
import torch
from hydra.utils import instantiate

matplotlib.use("agg")

import matplotlib.pyplot as plt

from lra import hub
from lra.config.compose import COMPOSITION_ERRORS, composed, explained
from lra.config.overrides import die, parse_arguments
from lra.io.atomic import ensure_writable, write_figure
from lra.launch import evaluation
from lra.ops.hippo import basis, bilinear, nplr, transition, zoh
from lra.paths import ROOT
from lra.training import weights
from lra.training.checkpoint import read_state
from lra.training.kernel_snapshots import layers_with_kernel, representative_features

NAMES = {"legs": "LegS", "legt": "LegT", "fout": "FouT", "random": "random"}
MARKS = {
    "legs": {"color": "C0", "marker": "."},
    "legt": {"color": "C1", "marker": "x"},
    "fout": {"color": "C2", "marker": "+"},
    "random": {"color": "C3", "marker": "^"},
}
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "savefig.dpi": 110,
}


def plot_basis(n_state: int = 32) -> plt.Figure:
    """Basis functions of the HiPPO state, and the history of a signal reconstructed from it."""
    dt, span = 2e-3, 3.0
    t = torch.arange(-12, 0, dt, dtype=torch.float64)
    signal = torch.sin(2.3 * t) + 0.5 * torch.sin(5.1 * t + 1) + 0.4 * torch.tanh(8 * (t + 0.8))
    age = torch.linspace(0, span, 600, dtype=torch.float64)
    past = age <= 2
    figure, axes = plt.subplots(2, 3, figsize=(8.4, 4.2), sharex=True, layout="constrained")
    for column, measure in zip(axes.T, ("legs", "legt", "fout"), strict=True):
        p, weight = basis(measure, 6, age)
        # the sine of frequency zero is no function
        for n in (0, 2, 3, 4) if measure == "fout" else range(4):
            column[0].plot(-age, p[n] * weight, lw=1)
        column[0].set_title(f"{NAMES[measure]}: basis times weight")

        Ab, Bb = zoh(*transition(measure, n_state), dt)
        x = torch.zeros(n_state, dtype=torch.float64)
        for u in signal:
            x = Ab @ x + Bb * u
        p, _ = basis(measure, n_state, age)
        seen = torch.ones_like(past) if measure == "legs" else past
        column[1].plot(t[t > -span], signal[t > -span], color="0.7", lw=3, label="input")
        column[1].plot(-age[seen], (x @ p)[seen], lw=1, label=f"from {n_state} states")
        column[1].set(xlabel="time before now", ylim=(-2.4, 2.4))
    axes[1, 0].legend(loc="lower left")
    return figure


def plot_eigenvalues(n_state: int = 64) -> plt.Figure:
    """Continuous eigenvalues of the normal parts and of the matrices, and discrete ones of the LegS normal part."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(8.4, 3.0), layout="constrained")
    points = {"ls": "none", "ms": 4}
    for measure, mark in MARKS.items():
        A = nplr(measure, n_state, torch.Generator().manual_seed(0)).A
        left.plot(range(len(A)), A.imag, label=NAMES[measure], **mark, **points)
        if measure == "legs":
            # a triangular matrix has its eigenvalues on the diagonal, and a solver would not find them
            values = -torch.arange(1.0, n_state + 1) + 0j
        else:
            values = torch.linalg.eigvals(transition(measure, n_state, torch.Generator().manual_seed(0))[0])
        middle.plot(values.real, values.imag, **mark, **points)
    left.set(title=f"normal part, N = {n_state}", xlabel="pair", ylabel="imaginary part")
    left.set_yscale("symlog", linthresh=1)
    left.legend(handletextpad=0.2)
    middle.set(title="matrix A", xlabel="real part")
    middle.set_xscale("symlog", linthresh=1)
    middle.set_yscale("symlog", linthresh=1)
    circle = torch.linspace(0, 2 * math.pi, 200)
    right.plot(circle.cos(), circle.sin(), color="0.8", lw=1)
    A, B = transition("legs", n_state)
    normal = A + torch.outer(B, B) / 2
    for dt, marker in ((0.001, "."), (0.01, "x"), (0.1, "+")):
        values = torch.linalg.eigvals(bilinear(normal, B, dt)[0])
        right.plot(values.real, values.imag, marker=marker, label=f"dt = {dt:g}", **points)
    right.set(title="LegS normal part, bilinear", xlabel="real part", aspect="equal")
    right.legend(loc="center", handletextpad=0.2)
    return figure


def plot_kernels(stages: dict[str, list[torch.Tensor]], square: int | None, rows: int = 4) -> plt.Figure:
    """Kernels of the first and the last layer, as curves, or as pictures if the sequence is a square image.

    stages  "untrained" and optionally "trained" -> forward kernels (H, L), one tensor for each layer
    square  side of the image whose rows form the sequence, None for other sequences
    """
    layers = sorted({0, len(next(iter(stages.values()))) - 1})
    names = [(stage, layer) for layer in layers for stage in stages]
    shape = (1.5 * len(names), 1.3 * rows + 0.3) if square else (2.2 * len(names), 1.1 * rows + 0.4)
    figure, axes = plt.subplots(rows, len(names), figsize=shape, layout="constrained", squeeze=False)
    kernels_of = list(stages.values())
    for column, (stage, layer) in zip(axes.T, names, strict=True):
        chosen = representative_features(kernels_of[0][layer], kernels_of[-1][layer], rows)
        for axis, h in zip(column, chosen, strict=False):
            k = stages[stage][layer][h].numpy()
            if square:
                limit = abs(k).max()
                axis.imshow(k.reshape(square, square), cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
            else:
                axis.plot(k, lw=0.8)
                axis.tick_params(labelbottom=axis is column[-1])
                axis.axhline(0, color="0.8", lw=0.5, zorder=0)
            if stage == "untrained":
                axis.set_ylabel(f"feature {h}")
        column[0].set_title(f"{stage}, layer {layer + 1}")
        if not square:
            column[-1].set_xlabel("positions ago")
    return figure


def model_of(overrides: list[str]) -> tuple[torch.nn.Module, int, bool]:
    """The configured model before training, the length of its sequences, and whether they are images."""
    try:
        cfg = composed(parse_arguments(overrides).overrides)["cfg"]
    except COMPOSITION_ERRORS as error:
        raise explained(error, overrides) from None
    torch.manual_seed(cfg.seed)
    module = instantiate(cfg.task)
    return instantiate(cfg.model, spec=module.spec), module.spec.max_len, "size" in cfg.task


def finished(path: Path) -> tuple[torch.nn.Module, int, bool, dict[str, torch.Tensor]]:
    """Of a finished run: model before training, length, whether images, and trained weights. May raise ValueError."""
    path = path / "model.safetensors" if path.is_dir() else path
    values, record = weights.load(path)
    if record is None:
        raise ValueError(f"{path}: weights without a record; name the run's task=, model=, scale= and seed=")
    torch.manual_seed(record.seed)
    module, net = evaluation.build(record, str(path))
    return net, module.spec.max_len, "size" in record.config["task"], values


def kernels(overrides: list[str], checkpoint: Path | None) -> tuple[dict[str, list[torch.Tensor]], int | None]:
    """Kernels before training and in the checkpoint, and the side of an image (None for other sequences).

    Without overrides the configuration is that of the checkpoint's record.
    """
    values = None
    if checkpoint is not None and not overrides:
        net, length, image, values = finished(checkpoint)
    else:
        net, length, image = model_of(overrides or ["task=listops", "model=s4", "scale=mini"])
        if checkpoint is not None:
            whole = checkpoint.suffix == ".safetensors"
            values = weights.load(checkpoint)[0] if whole else read_state(checkpoint)
    if not layers_with_kernel(net):
        name = " ".join(overrides) or checkpoint
        raise ValueError(f"{name}: no layer of this model has a convolution kernel; try model=s4")

    def now() -> list[torch.Tensor]:
        with torch.no_grad():
            return [layer.kernel(length)[0].clone() for layer in layers_with_kernel(net)]

    stages = {"untrained": now()}
    if values is not None:
        weights.fill(net, values, str(checkpoint))
        stages["trained"] = now()
    return stages, math.isqrt(length) if image else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/figures", help="folder of the figures")
    parser.add_argument("--format", choices=("png", "svg", "pdf"), default="png", help="of the figures; default: png")
    parser.add_argument(
        "--checkpoint",
        help="folder or model.safetensors of a run, or hf://user/name; another file: name task, model, scale, seed",
    )
    parser.add_argument("overrides", nargs="*", help="task=, model=, scale=, seed= as for scripts/train.py")
    args = parser.parse_args()
    try:
        ensure_writable(args.out, "--out=/some/dir")
        checkpoint = None if args.checkpoint is None else hub.located(args.checkpoint)
        draw(*kernels(args.overrides, checkpoint), args.out, args.format)
    except (ValueError, OSError, RuntimeError) as error:
        die(error, "plot_s4.py")
    return 0


def draw(stages: dict[str, list[torch.Tensor]], square: int | None, out: Path, suffix: str) -> None:
    """All figures into the folder `out`; stages, square  see `plot_kernels`."""
    with plt.rc_context(STYLE):
        figures = {
            "hippo_basis": plot_basis(),
            "eigenvalues": plot_eigenvalues(),
            "kernels": plot_kernels(stages, square),
        }
        for name, figure in figures.items():
            path = out / f"{name}.{suffix}"
            write_figure(figure, path, hint="--out=/some/dir")
            print(path)


if __name__ == "__main__":
    handover.run(main)
