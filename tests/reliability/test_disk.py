"""A full disk or a read-only folder is one line that names the file and the way out, and nothing is lost."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from whole_runs import Run, assert_same

from lra.jsonfile import write_atomically
from scripts import train
from scripts.composition import composed

ROOT = Path(__file__).resolve().parents[2]
# a folder in which nobody, root included, can make a file
FORBIDDEN = Path("/sys")
needs_forbidden = pytest.mark.skipif(not FORBIDDEN.is_dir(), reason="this system has no /sys")


def last_line(text: str) -> str:
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


@pytest.mark.nightly
def test_a_disk_that_fills_up_ends_a_run_in_one_line_and_costs_nothing(start, tmp_path):
    whole, run = (
        Run(tmp_path / name, start, "model=transformer", data=tmp_path / "data") for name in ("whole", "full")
    )
    assert whole.process().wait() == 0, whole.said()
    stopped = run.process()
    assert stopped.until(run.saved_since(0)), run.said()
    stopped.kill()
    stopped.wait()
    kept = {p.name: p.read_bytes() for p in run.folder().glob("*.ckpt")}
    # a checkpoint has more bytes than a file may have now; the record of a running run has fewer
    assert run.process(largest_file=min(map(len, kept.values())) // 2).wait() == 2, run.said()
    line = last_line(run.said())
    assert line.startswith(f"train.py: {run.folder()}/")
    assert ".ckpt: cannot be written (File too large, " in line
    assert line.endswith("make room, or write elsewhere with runs=/some/dir; what was there is untouched")
    assert {name: (run.folder() / name).read_bytes() for name in kept} == kept
    assert run.process().wait() == 0, run.said()
    assert_same(run, whole)


@needs_forbidden
@pytest.mark.parametrize(("option", "asked"), [("results", "results=/some/dir"), ("runs", "runs=/some/dir")])
def test_a_read_only_folder_is_one_line_before_anything_is_trained(option, asked, tmp_path, capsys):
    folders = {"results": f"{tmp_path}/results", "runs": f"{tmp_path}/runs", option: f"{FORBIDDEN}/lra"}
    words = ["task=listops", "model=transformer", "scale=smoke", "wandb.mode=disabled", f"data.root={tmp_path}/data"]
    arguments = composed([*words, *(f"{name}={folder}" for name, folder in folders.items())])
    with pytest.raises(SystemExit) as stop:
        train.one(**arguments)
    assert stop.value.code == 2
    line = last_line(capsys.readouterr().err)
    assert line.startswith(f"train.py: {FORBIDDEN}/lra/smoke/")
    assert f"write elsewhere with {asked}" in line
    assert not (tmp_path / "data").exists()


@needs_forbidden
@pytest.mark.parametrize(("script", "out"), [("tables.py", "--out=/some/dir"), ("report.py", "--out=/some/file.html")])
def test_tables_and_report_say_where_they_cannot_be_written(script, out):
    command = [sys.executable, str(ROOT / "scripts" / script), f"--out={FORBIDDEN}/lra/x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{FORBIDDEN}/lra/x" in done.stderr
    assert f"write elsewhere with {out}" in done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("when", ["open", "fsync", "replace"])
def test_a_refused_write_leaves_the_older_file_whole_and_nothing_beside_it(tmp_path, monkeypatch, number, when):
    path = tmp_path / "table.md"
    write_atomically(path, "older")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os if when == "fsync" else Path, when, refuse)
        with pytest.raises(OSError, match="cannot be written") as caught:
            write_atomically(path, "newer", cure="--out=/some/dir")
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be written ({os.strerror(number)}")
    assert ("make room" in message) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]
