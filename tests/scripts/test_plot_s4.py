"""Figures of S4 show what they claim."""

import importlib

import matplotlib.pyplot as plt
import pytest
import torch
from safetensors.torch import save_file

from helpers.finished_run import small_run
from lra.training import kernel_snapshots

plot_s4 = importlib.import_module("scripts.plot_s4")
SMALL = ["task=listops", "model=s4", "scale=smoke", "model.mixer.backend=reference"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_reconstruction_is_near_the_signal():
    figure = plot_s4.plot_basis(n_state=32)
    for axis in figure.axes[3:]:
        signal, rebuilt = (line.get_xydata() for line in axis.get_lines())
        age, value = rebuilt[:, 0], rebuilt[:, 1]
        nearest = signal[abs(signal[None, :, 0] - age[:, None]).argmin(1), 1]
        assert abs(value - nearest)[20:-20].max() < 0.15


def test_eigenvalues_are_in_half_plane_and_disc():
    left, middle, right = plot_s4.plot_eigenvalues(16).axes
    assert all((line.get_ydata() >= 0).all() for line in left.get_lines())
    assert all((line.get_xdata() <= 1e-6).all() for line in middle.get_lines())
    assert all((torch.hypot(*map(torch.as_tensor, line.get_data())) < 1 + 1e-6).all() for line in right.get_lines())


def test_trained_kernels_are_those_of_the_checkpoint(tmp_path):
    stages, square = plot_s4.kernels(SMALL, None)
    assert square is None
    assert list(stages) == ["untrained"]
    changed = plot_s4.model_of(SMALL)[0]
    with torch.no_grad():
        for layer in plot_s4.layers_with_kernel(changed):
            layer.log_dt += 1
    # files of a finished and of an unfinished run
    save_file(changed.state_dict(), tmp_path / "model.safetensors")
    torch.save(changed.state_dict(), tmp_path / "best.ckpt")
    both, _ = plot_s4.kernels(SMALL, tmp_path / "model.safetensors")
    again, _ = plot_s4.kernels(SMALL, tmp_path / "best.ckpt")
    torch.testing.assert_close(both, again)
    for before, now in zip(stages["untrained"], both["untrained"], strict=True):
        torch.testing.assert_close(before, now)
    assert not torch.allclose(both["trained"][0], both["untrained"][0])
    assert len(plot_s4.plot_kernels(both, None).axes) == 16


def test_finished_run_needs_no_settings(tmp_path):
    record = small_run(tmp_path, "model=s4", "model.mixer.backend=reference", "training.steps=4")
    stages, square = plot_s4.kernels([], tmp_path / "run")
    assert square is None
    assert [len(layers) for layers in stages.values()] == [2, 2]
    kept = record.kernels[0]
    for stage, envelope in (("untrained", kept.before), ("trained", kept.after)):
        kernel = stages[stage][kept.layer][kept.feature].numpy()
        assert kernel_snapshots.envelope(kernel, kept.starts) == envelope


def test_kernels_of_images_are_images():
    _, square = plot_s4.kernels(["task=pathfinder", *SMALL[1:]], None)
    assert square is not None
    kernels = {"untrained": [torch.randn(8, 64)]}
    assert all(axis.get_images() for axis in plot_s4.plot_kernels(kernels, 8).axes)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["task=listops", "model=transformer", "scale=smoke"], "no layer of this model"),
        ([*SMALL, "--checkpoint", "nowhere.ckpt"], "nowhere.ckpt"),
        (["task=listop"], "listop"),
    ],
)
def test_mistake_is_one_line(arguments, reason, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["plot_s4.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        plot_s4.main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert reason in said
