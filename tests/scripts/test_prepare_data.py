"""scripts/prepare_data.py: what a user types, and the one line a mistake gets."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lra.paths import ROOT


@pytest.fixture(scope="module")
def script():
    import importlib.util

    path = list(sys.path)
    specification = importlib.util.spec_from_file_location("data_script", ROOT / "scripts" / "prepare_data.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    sys.path[:] = path


@pytest.fixture
def here(tmp_path):
    return ["data.source=toy", f"data.root={tmp_path}"]


def refused(script, capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        script.main([*arguments])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("prepare_data.py: ")
    return lines[-1].removeprefix("prepare_data.py: ")


def test_prepare_then_verify_then_show(script, here, tmp_path, capsys):
    script.main(["prepare", "task=pathfinder", *here])
    assert "kind toy" in capsys.readouterr().out
    script.main(["verify", "task=pathfinder", *here])
    assert "every SHA-256 as recorded" in capsys.readouterr().out
    sheet = tmp_path / "sheet.png"
    script.main(["show", "task=pathfinder", "n=3", f"to={sheet}", *here])
    assert "examples" in capsys.readouterr().out
    assert np.asarray(Image.open(sheet)).shape == (4 * 34, 4 * 34 * 3)


@pytest.mark.parametrize("command", ["show", "verify"])
def test_what_is_not_prepared_is_named_with_the_command_that_prepares_it(script, here, capsys, command):
    said = refused(script, capsys, command, "task=listops", "scale=smoke", "n=2", *here)
    words = said.partition("; .venv/bin/python scripts/prepare_data.py ")[2].split()
    assert words == ["prepare", "task=listops", "scale=smoke", *here]
    script.main(words)
    script.main([command, "task=listops", "scale=smoke", *here])


def test_show_writes_text_and_draws_in_the_terminal(script, here, capsys):
    script.main(["prepare", "task=listops", *here])
    script.main(["show", "task=listops", "n=1", *here])
    out = capsys.readouterr().out
    assert "[M" in out or "[S" in out
    assert "depth, mean" in out
    picture = script.drawing(np.eye(64, dtype=np.uint8) * 255).splitlines()
    assert len(picture) == 32
    assert picture[0].startswith("@@")


def test_show_sets_generated_data_beside_the_chosen(script, here, tmp_path, capsys):
    small = ["task=listops", "n_train=20", "n_val=5", "n_test=5", "max_len=64", "min_len=5"]
    script.main(["generate", *small, here[1]])
    script.main(["prepare", *small, *here])
    capsys.readouterr()
    script.main(["show", "n=1", *small, *here])
    (head,) = [line for line in capsys.readouterr().out.splitlines() if "toy" in line and "generated" in line][:1]
    assert head.split() == ["toy", "generated"]


def test_keys_are_those_of_training_with_or_without_the_prefix(script, here, capsys):
    script.main(["prepare", "task=pathx", "size=16", "task.n_train=8", "scale=smoke", "seed=5", *here])
    assert "'train': 8" in capsys.readouterr().out


def test_a_flipped_byte_is_status_2_and_one_line(script, here, tmp_path, capsys):
    script.main(["prepare", "task=listops", *here])
    (path,) = tmp_path.glob("listops/*/y.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"\x63")
    assert "y.npy: content differs from its SHA-256" in refused(script, capsys, "verify", "task=listops", *here)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepair", "task=listops"], "prepair: there is no such command; did you mean prepare?"),
        (["prepare"], "which task?"),
        (["prepare", "task=listopps"], "there is no such task; did you mean listops?"),
        (["prepare", "task=listops", "scale=tiny"], "there is no such scale"),
        (["prepare", "task=listops", "max_length=5"], "there is no option max_length; did you mean max_len?"),
        (["prepare", "task=listops", "data.sorce=x"], "there is no option data.sorce; did you mean data.source?"),
        (["prepare", "task=listops", "loud"], "loud: expected key=value"),
        (["prepare", "task=listops", "variant=s5"], "variant='s5': s4 or lra"),
        (["prepare", "task=image", "size=31"], "size=31: 32, 16 or 8"),
        (["generate", "task=image"], "image cannot be generated"),
        (["verify", "task=listops"], "not prepared yet"),
        (["show", "task=listops", "n=some"], "n=some: a whole number"),
        (["prepare", "task=text", "data.source=/no/such/folder"], "source=/no/such/folder: no such folder"),
        (["prepare", "task=listops", "n_train=[1"], ""),
        (["prepare", "task=listops", "n_train=many"], "n_train=many: a whole number is needed"),
        (["prepare", "task=listops", "batch_size=-3"], "batch_size=-3: a whole number"),
    ],
)
def test_a_mistake_is_status_2_and_one_line(script, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.delenv("LRA_MIRROR", raising=False)
    arguments = [*arguments, f"data.root={tmp_path}"]
    if not any(a.startswith("data.source") for a in arguments) and arguments[0] != "generate":
        arguments.append("data.source=toy")
    assert said in refused(script, capsys, *arguments)


@pytest.mark.slow
def test_the_script_runs_from_any_folder_and_does_not_hide_the_package(tmp_path):
    run = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "prepare_data.py"),
            "prepare",
            "task=image",
            "data.source=toy",
            "data.root=here",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "kind toy" in run.stdout
    assert list((tmp_path / "here" / "image").glob("toy-*/manifest.json"))
