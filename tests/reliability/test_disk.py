"""A full disk or a read-only folder gives one line with the path and a hint, and loses nothing."""

import errno
import os
import sys
from pathlib import Path

import pytest

from helpers.whole_runs import Run, assert_same
from lra.config.compose import composed
from lra.io.atomic import atomic_write, ensure_writable, write_figure
from lra.launch import job
from scripts import bench, lra_all, plot_s4, prepare_data, report, tables

# nobody, not even root, can create a file here
READ_ONLY = Path("/sys")
needs_read_only = pytest.mark.skipif(not READ_ONLY.is_dir(), reason="this system has no /sys")


def last_line(text: str) -> str:
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


@pytest.mark.nightly
def test_full_disk_stops_a_run_and_loses_nothing(start, tmp_path):
    reference, run = (Run(tmp_path / name, start, "model=transformer", data=tmp_path / "data") for name in ("a", "b"))
    assert reference.process().wait() == 0, reference.output()
    stopped = run.process()
    assert stopped.until(run.saved_since(0)), run.output()
    stopped.kill()
    stopped.wait()
    folder = run.folder()
    assert folder
    kept = {p.name: p.read_bytes() for p in folder.glob("*.ckpt")}
    # too small a limit for a checkpoint, large enough for the record
    assert run.process(largest_file=min(map(len, kept.values())) // 2).wait() == 2, run.output()
    line = last_line(run.output())
    assert line.startswith(f"train.py: {folder}/")
    assert ".ckpt: cannot be written (File too large, " in line
    assert "make room, or write elsewhere with runs=/some/dir" in line
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert run.process().wait() == 0, run.output()
    assert_same(run, reference)


@needs_read_only
@pytest.mark.parametrize("option", ["results", "runs"])
def test_read_only_folder_is_refused_before_training(option, tmp_path, capsys):
    folders = {"results": f"{tmp_path}/results", "runs": f"{tmp_path}/runs", option: f"{READ_ONLY}/lra"}
    words = ["task=listops", "model=transformer", "scale=smoke", "wandb.mode=disabled", f"data.root={tmp_path}/data"]
    arguments = composed([*words, *(f"{name}={folder}" for name, folder in folders.items())])
    with pytest.raises(SystemExit) as stop:
        job.one(**arguments)
    assert stop.value.code == 2
    line = last_line(capsys.readouterr().err)
    assert line.startswith(f"train.py: {READ_ONLY}/lra/smoke/")
    assert f"write elsewhere with {option}=/some/dir" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("place", ["folder", "file/below"])
def test_blocked_path_is_named_with_a_hint(place, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    path = tmp_path / place
    with pytest.raises(OSError, match=rf"{path}: cannot be written \(.+with out=/some/dir"):
        atomic_write(path, b"", hint="out=/some/dir")
    with pytest.raises(OSError, match=r"file: cannot be written \(.+with out=/some/dir"):
        ensure_writable(tmp_path / "file", hint="out=/some/dir")
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["file", "folder"]


SHOW = ["show", "task=image", "data.source=toy", "data.root=RESULTS", f"--to={READ_ONLY}/lra/x.png"]


@needs_read_only
@pytest.mark.parametrize(
    ("script", "words", "hint"),
    [
        (bench, ["kernel", f"--json={READ_ONLY}/lra/x.json"], "--json=/some/file"),
        (bench, ["kernel", f"--plot={READ_ONLY}/lra/x.png"], "--plot=/some/file"),
        (plot_s4, [f"--out={READ_ONLY}/lra"], "--out=/some/dir"),
        (tables, [f"--out={READ_ONLY}/lra"], "--out=/some/dir"),
        (report, [f"--out={READ_ONLY}/lra/x"], "--out=/some/file.html"),
        (lra_all, ["--scale=smoke", f"--results={READ_ONLY}/lra"], "--results=/some/dir"),
        (lra_all, ["--scale=smoke", "--results=RESULTS", f"runs={READ_ONLY}/lra"], "runs=/some/dir"),
        (prepare_data, SHOW, "to=/some/file.png"),
    ],
    ids=["bench-json", "bench-plot", "plot_s4", "tables", "report", "grid-results", "grid-runs", "data"],
)
def test_unwritable_output_is_refused_before_work(script, words, hint, tmp_path, monkeypatch, capsys):
    # none of the long work may begin
    for owner, name in (("benchmarks.kernel", "run"), (plot_s4, "kernels"), (lra_all, "WorkerPool")):
        target = (f"{owner}.{name}",) if isinstance(owner, str) else (owner, name)
        monkeypatch.setattr(*target, lambda *_: pytest.fail("began before it was refused"))
    words = [word.replace("RESULTS", str(tmp_path)) for word in words]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *words])
    try:
        if script is prepare_data:
            prepare_data.main(["prepare", *words[1:4]])
        status = script.main(words) if script is prepare_data else script.main()
    except SystemExit as stop:
        status = stop.code
    # sys.exit with a text prints it and exits with status 1
    line = last_line(status if isinstance(status, str) else capsys.readouterr().err)
    assert status not in (0, None)
    assert f"{READ_ONLY}/lra" in line
    assert hint in line


def test_interrupted_figure_leaves_the_old_file(tmp_path):
    class Figure:
        def __init__(self, content: bytes):
            self.content = content

        def savefig(self, file, *, format, dpi):
            assert (format, dpi) == ("png", 120)
            file.write(self.content)
            if self.content == b"half":
                raise KeyboardInterrupt

    path = tmp_path / "plot.png"
    write_figure(Figure(b"older"), path, dpi=120)
    with pytest.raises(KeyboardInterrupt):
        write_figure(Figure(b"half"), path, dpi=120)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize(("owner", "call"), [(Path, "open"), (os, "fsync"), (Path, "replace")])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, number, owner, call):
    path = tmp_path / "table.md"
    atomic_write(path, "older")

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, fail)
        with pytest.raises(OSError, match="cannot be written") as error:
            atomic_write(path, "newer", hint="--out=/some/dir")
    message = str(error.value)
    assert message.startswith(f"{path}: cannot be written ({os.strerror(number)}")
    assert ("make room" in message) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]
