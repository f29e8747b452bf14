"""scripts/prepare_data.py: prepare, verify, generate, show, and one line for every mistake."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lra.paths import ROOT
from scripts import prepare_data


@pytest.fixture
def toy(tmp_path):
    return ["data.source=toy", f"data.root={tmp_path}"]


def refused(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stop:
        prepare_data.main([*words])
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_prepare_verify_show(toy, tmp_path, capsys):
    prepare_data.main(["prepare", "task=pathfinder", *toy])
    assert "kind toy" in capsys.readouterr().out
    prepare_data.main(["verify", "task=pathfinder", *toy])
    assert "every SHA-256 as recorded" in capsys.readouterr().out
    sheet = tmp_path / "sheet.png"
    prepare_data.main(["show", "-n", "3", "--to", str(sheet), "task=pathfinder", *toy])
    assert "examples" in capsys.readouterr().out
    assert np.asarray(Image.open(sheet)).shape == (4 * 34, 4 * 34 * 3)


@pytest.mark.parametrize("command", ["show", "verify"])
def test_hint_prepares_missing_data(toy, capsys, command):
    settings = ["task=listops", "scale=smoke", *toy]
    hint = refused(capsys, command, *settings).partition("hint: .venv/bin/python scripts/prepare_data.py ")[2].split()
    assert hint == ["prepare", *settings]
    prepare_data.main(hint)
    prepare_data.main([command, *settings])


def test_show_prints_text_and_drawings(toy, capsys):
    prepare_data.main(["prepare", "task=listops", *toy])
    prepare_data.main(["show", "-n", "1", "task=listops", *toy])
    out = capsys.readouterr().out
    assert "[M" in out or "[S" in out
    assert "depth, mean" in out
    picture = prepare_data.drawing(np.eye(64, dtype=np.uint8) * 255).splitlines()
    assert len(picture) == 32
    assert picture[0].startswith("@@")


def test_show_compares_with_generated_data(toy, capsys):
    sizes = ["task.n_train=20", "task.n_val=5", "task.n_test=5", "task.max_len=64", "task.min_len=5"]
    settings = ["task=listops", *sizes, toy[1]]
    prepare_data.main(["generate", *settings])
    prepare_data.main(["prepare", *settings, toy[0]])
    capsys.readouterr()
    prepare_data.main(["show", "-n", "1", *settings, toy[0]])
    (head,) = [line for line in capsys.readouterr().out.splitlines() if "toy" in line and "generated" in line][:1]
    assert head.split() == ["toy", "generated"]


def test_settings_are_those_of_training(toy, capsys):
    prepare_data.main(["prepare", "task=pathx", "task.size=16", "task.n_train=8", "scale=smoke", "seed=5", *toy])
    assert "'train': 8" in capsys.readouterr().out


def test_flipped_byte_is_one_line(toy, tmp_path, capsys):
    prepare_data.main(["prepare", "task=listops", *toy])
    (path,) = tmp_path.glob("listops/*/y.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"\x63")
    assert "y.npy: content differs from its SHA-256" in refused(capsys, "verify", "task=listops", *toy)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["prepair", "task=listops"], "invalid choice: 'prepair'"),
        (["prepare"], "no task is given"),
        (["prepare", "task=listopps"], "no such task"),
        (["prepare", "task=listops", "scale=tiny"], "no such scale"),
        (["prepare", "task=listops", "task.max_length=5"], "did you mean task.max_len?"),
        (["prepare", "task=listops", "n_train=5"], "did you mean task.n_train?"),
        (["prepare", "task=listops", "data.sorce=x"], "did you mean data.source?"),
        (["prepare", "task=listops", "loud"], "'loud': not a setting"),
        (["prepare", "task=listops", "task.variant=s5"], "s5"),
        (["prepare", "task=image", "task.size=31"], "size=31"),
        (["generate", "task=image"], "image cannot be generated"),
        (["verify", "task=listops"], "not prepared yet"),
        (["show", "-n", "some", "task=listops"], "invalid int value: 'some'"),
        (["prepare", "task=text", "data.source=/no/such/folder"], "/no/such/folder: no such folder"),
        (["prepare", "task=listops", "task.n_train=[1"], ""),
        (["prepare", "task=listops", "task.n_train=many"], "n_train=many"),
        (["prepare", "task=listops", "task.batch_size=-3"], "batch_size=-3"),
    ],
)
def test_a_mistake_is_one_line(words, line, tmp_path, capsys, monkeypatch):
    words = [*words, f"data.root={tmp_path}"]
    if not any(word.startswith("data.source") for word in words) and words[0] != "generate":
        words.append("data.source=toy")
    assert line in refused(capsys, *words)


@pytest.mark.slow
def test_runs_from_any_folder(tmp_path):
    words = ["prepare", "task=image", "data.source=toy", "data.root=here"]
    command = [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), *words]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert "kind toy" in run.stdout
    assert list((tmp_path / "here" / "image").glob("toy-*/manifest.json"))
