"""A full disk or a read-only folder is one line that names the file and the way out, and nothing is lost."""

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.whole_runs import Run, assert_same
from lra.config.compose import composed
from lra.io.atomic import ensure_writable, write_figure, write_whole
from lra.io.strict_json import write_atomically
from lra.launch import job
from lra.paths import ROOT
from scripts import bench, lra_all, plot_s4, prepare_data

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
        job.one(**arguments)
    assert stop.value.code == 2
    line = last_line(capsys.readouterr().err)
    assert line.startswith(f"train.py: {FORBIDDEN}/lra/smoke/")
    assert f"write elsewhere with {asked}" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("place", "write"),
    [("file", ensure_writable), ("file/below", ensure_writable), ("folder", write_whole), ("file/below", write_whole)],
)
def test_a_file_or_folder_in_the_way_is_named_with_the_way_out(place, write, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    content = {"content": b""} if write is write_whole else {}
    with pytest.raises(OSError, match=r"cannot be written \(.+\): write elsewhere with out=/some/dir; ") as refused:
        write(tmp_path / place, cure="out=/some/dir", **content)
    assert str(refused.value).startswith(f"{tmp_path / place}: ")
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["file", "folder"]


@needs_forbidden
@pytest.mark.parametrize(("script", "out"), [("tables.py", "--out=/some/dir"), ("report.py", "--out=/some/file.html")])
def test_tables_and_report_say_where_they_cannot_be_written(script, out):
    command = [sys.executable, str(ROOT / "scripts" / script), f"--out={FORBIDDEN}/lra/x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{FORBIDDEN}/lra/x" in done.stderr
    assert f"write elsewhere with {out}" in done.stderr


@needs_forbidden
@pytest.mark.parametrize(
    ("script", "words", "way_out"),
    [
        (bench, ["kernel", f"--json={FORBIDDEN}/lra/x.json"], "--json=/some/file"),
        (bench, ["kernel", f"--plot={FORBIDDEN}/lra/x.png"], "--plot=/some/file"),
        (plot_s4, [f"--out={FORBIDDEN}/lra"], "--out=/some/dir"),
        (lra_all, ["--scale=smoke", f"--results={FORBIDDEN}/lra"], "--results=/some/dir"),
        (lra_all, ["--scale=smoke", "--results=RESULTS", f"runs={FORBIDDEN}/lra"], "runs=/some/dir"),
        (
            prepare_data,
            ["show", "task=image", "data.source=toy", f"to={FORBIDDEN}/lra/x.png", "data.root=RESULTS"],
            "to=/some/file.png",
        ),
    ],
    ids=["bench-json", "bench-plot", "plot_s4", "grid-results", "grid-runs", "data"],
)
def test_benchmarks_pictures_and_grids_say_where_they_cannot_be_written(
    script, words, way_out, tmp_path, monkeypatch, capsys
):
    # what would be measured for minutes is not begun
    monkeypatch.setattr("benchmarks.kernel.run", lambda args: pytest.fail("measured before it was refused"))
    monkeypatch.setattr(plot_s4, "kernels", lambda *_: pytest.fail("drawn before it was refused"))
    monkeypatch.setattr(lra_all, "WorkerPool", lambda *_: pytest.fail("begun before it was refused"))
    words = [word.replace("RESULTS", str(tmp_path)) for word in words]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *words])
    try:
        if script is prepare_data:
            prepare_data.main(["prepare", *words[1:3], words[-1]])
        status = script.main(words) if script is prepare_data else script.main()
    except SystemExit as stop:
        status = stop.code
    # a text given to sys.exit is what is printed, with status 1
    line = last_line(status if isinstance(status, str) else capsys.readouterr().err)
    assert status not in (0, None)
    assert f"{FORBIDDEN}/lra" in line
    assert f"write elsewhere with {way_out}" in line


# calls that write, and why what they write is never half of a result; lra.io.atomic has the one that replaces files
WRITING = {"write_text", "write_bytes", "open", "touch", "save", "save_checkpoint", "savefig", "savez", "dump"}
WRITING |= {"copy2", "copyfile", "copyfileobj", "copytree", "to_csv", "tofile", "imsave", "export_chrome_trace"}
MAY_WRITE = {
    "lra/io/atomic.py beside.open": "the one place",
    "lra/io/atomic.py tried.touch": "empty, and removed at once",
    "lra/io/atomic.py figure.savefig": "into memory",
    "lra/training/checkpoint.py torch.save": "into memory",
    "lra/training/checkpoint.py trainer.save_checkpoint": "goes to WholeFiles",
    "lra/training/checkpoint.py self.save": "its own, two lines above",
    "lra/training/run.py weights.save": "lra.training.weights, which writes whole",
    "lra/records/pictures.py image.save": "into memory",
    "lra/training/weights.py safetensors.torch.save": "into memory",
    "scripts/benchmarks/loop.py Path(answer).write_text": "of a process, read once it has ended",
    "scripts/benchmarks/step.py profiler.export_chrome_trace": "a trace for the eye",
    "lra/launch/slurm.py cell.log.write_text": "empties a log",
    "lra/launch/slurm.py Path(self.log).open": "a log",
    "scripts/wandb_dashboard.py made.save": "W&B's own",
    "scripts/prepare_data.py enlarged.save": "into memory",
    "lra/tracking.py path.write_text": "a copy of the record in W&B's folder",
    "lra/tracking.py self.run.save": "W&B's own",
    "lra/launch/lock.py (folder / 'claim').open": "a lock",
    "lra/launch/local.py log.open": "a log",
    "lra/launch/job.py path.open": "a log of traces",
}


def writes(path: Path) -> list[str]:
    """Calls of a source that write, or may."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = ast.unparse(node.func)
            given = [*node.args, *(word.value for word in node.keywords)]
            modes = [str(a.value) for a in given if isinstance(a, ast.Constant)]
            reads = name.endswith("open") and not any(set(m) <= set("rwxabt+") and set(m) & set("wxa+") for m in modes)
            found += [name] if name.split(".")[-1] in WRITING and not reads else []
    return found


def test_nothing_is_written_but_whole_or_for_a_stated_reason():
    sources = [p for folder in ("lra", "models", "scripts") for p in sorted((ROOT / folder).rglob("*.py"))]
    found = {f"{path.relative_to(ROOT)} {name}" for path in sources for name in writes(path)}
    assert found == set(MAY_WRITE)


def test_a_picture_is_put_in_place_whole_or_not_at_all(tmp_path, monkeypatch):
    class Figure:
        content = b"older"

        def savefig(self, file, *, format, dpi):
            assert (format, dpi) == ("png", 120)
            file.write(self.content)
            if self.content == b"half":
                raise KeyboardInterrupt

    path = tmp_path / "plot.png"
    write_figure(Figure(), path, dpi=120)
    Figure.content = b"half"
    with pytest.raises(KeyboardInterrupt):
        write_figure(Figure(), path, dpi=120)
    Figure.content = b"newer"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="cannot be written"):
            write_figure(Figure(), path, dpi=120)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


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
