"""The prepared form: whole or not there, one writer, damage named."""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from data import prepared
from data.prepared import DataError

HEADER = {"task": "t", "edition": "e", "kind": "toy", "source": "s", "parameters": {}, "notes": []}


def write(work: Path) -> dict:
    np.save(work / "x.npy", np.arange(1000, dtype=np.uint8))
    np.save(work / "y.npy", np.zeros(1000, np.uint8))
    return {"parts": {"train": (0, 1000)}}


@pytest.fixture
def folder(tmp_path) -> Path:
    prepared.build(tmp_path / "task" / "whole", HEADER, write)
    return tmp_path / "task" / "whole"


def test_a_prepared_folder_is_not_made_again(folder):
    manifest = prepared.build(folder, HEADER, lambda work: pytest.fail("written twice"))
    assert manifest["parts"] == {"train": [0, 1000]}
    assert not list(folder.parent.glob(".*partial"))
    prepared.check_hashes(folder)


def test_an_interrupted_preparation_leaves_nothing_in_use_and_starts_again_cleanly(tmp_path):
    folder = tmp_path / "task" / "whole"

    def breaks(work):
        write(work)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared.build(folder, HEADER, breaks)
    assert not folder.exists()
    assert not list(folder.parent.glob(".*partial"))
    # what a killed process leaves is swept away as well
    stale = folder.with_name(f".{folder.name}.partial")
    stale.mkdir()
    (stale / "z.npy").write_bytes(b"half")
    assert set(prepared.build(folder, HEADER, write)["files"]) == {"x.npy", "y.npy"}


def test_a_resumable_preparation_finds_what_it_had_done(tmp_path):
    folder, calls = tmp_path / "task" / "whole", []

    def resumes(work):
        calls.append((work / "x.npy").exists())
        write(work)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"parts": {}}

    with pytest.raises(KeyboardInterrupt):
        prepared.build(folder, HEADER, resumes, resumable=True)
    assert not folder.exists()
    prepared.build(folder, HEADER, resumes, resumable=True)
    assert calls == [False, True]
    assert (folder / "manifest.json").exists()


def _slow(folder: Path, log: Path) -> None:
    def work(place: Path) -> dict:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return write(place)

    prepared.build(folder, HEADER, work)


def test_of_two_simultaneous_preparations_one_works_and_the_other_waits(tmp_path):
    folder, log = tmp_path / "task" / "whole", tmp_path / "log"
    spawn = multiprocessing.get_context("fork")
    processes = [spawn.Process(target=_slow, args=(folder, log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(log.read_text().split()) == 1
    prepared.check_hashes(folder)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    folder, log = tmp_path / "task" / "whole", tmp_path / "log"
    process = multiprocessing.get_context("fork").Process(target=_slow, args=(folder, log))
    process.start()
    while not log.exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not folder.exists()
    prepared.build(folder, HEADER, write)
    prepared.check_hashes(folder)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    folder = tmp_path / "task" / "whole"

    def full(work):
        write(work)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work / "x.npy"))

    with pytest.raises(DataError, match=r"disk full while preparing data \(\d+ MiB free\); make room") as error:
        prepared.build(folder, HEADER, full)
    assert "\n" not in str(error.value)
    assert not folder.exists()
    assert not list(folder.parent.glob(".*partial"))


def test_too_little_space_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"MiB needed, \d+ MiB free"):
        prepared.need_space(tmp_path / "not" / "there" / "yet", 1 << 60)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be written"):
        prepared.build(tmp_path / "task" / "whole", HEADER, write)


def test_refused_permission_is_one_line(tmp_path):
    def refuses(work):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(work))

    with pytest.raises(DataError, match=r"cannot be written \(Permission denied\); choose another folder"):
        prepared.build(tmp_path / "whole", HEADER, refuses)


def test_a_flipped_byte_is_named(folder):
    path = folder / "x.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    prepared.read_manifest(folder)  # the size is right: only the hash can tell
    with pytest.raises(DataError, match=r"x\.npy: content differs from its SHA-256; delete"):
        prepared.check_hashes(folder)


def test_an_array_that_did_not_fit_is_one_line_with_the_way_out(tmp_path):
    """As on a full disk, where it is numpy that fails."""

    def large(work: Path) -> dict:
        np.save(work / "x.npy", np.zeros(1 << 20, np.uint8))
        raise AssertionError("it fitted")

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(DataError, match=r"disk full while preparing .* make room or choose another folder"):
            prepared.build(tmp_path / "whole", HEADER, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_cut_off_array_is_named_when_it_is_opened(folder):
    path = folder / "x.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"x\.npy: 1127 bytes, the manifest says 1128; delete"):
        prepared.read_manifest(folder)


def test_a_missing_array_is_named(folder):
    (folder / "y.npy").unlink()
    with pytest.raises(DataError, match=r"y\.npy: missing; delete"):
        prepared.read_manifest(folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 1}',
        '{"format": 1, "files": 3}',
        '{"files": {"x.npy": {"bytes": "many"}}, "format": 1}',
        "\xff",
    ],
)
def test_a_damaged_manifest_is_one_line(folder, content):
    (folder / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match="damaged") as error:
        prepared.read_manifest(folder)
    assert "\n" not in str(error.value)


def test_a_manifest_of_another_format_or_with_strange_entries_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, said in (
        ({"format": 99}, "format 99"),
        ({"files": manifest["files"] | {"../../x.npy": {"bytes": 1, "sha256": ""}}}, "names a file"),
        ({"files": {name: file for name, file in manifest["files"].items() if name != "y.npy"}}, "is not listed"),
        ({"parts": {"train": [0]}}, "parts are not pairs of whole numbers"),
        ({"parts": {"train": [0, 1.5]}}, "parts are not pairs of whole numbers"),
        ({"notes": [3]}, "what should be text is not"),
        ({"parameters": []}, "what should be text is not"),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(DataError, match=said):
            prepared.read_manifest(folder)


def test_an_array_of_objects_is_not_loaded(folder):
    np.save(folder / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy: not an array"):
        prepared.read_array(folder, "x")
    (folder / "x.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8', ")
    with pytest.raises(DataError, match=r"x\.npy: not an array"):
        prepared.read_array(folder, "x")


def test_a_folder_someone_else_made_is_not_overwritten(tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="was not written here; move it away"):
        prepared.build(folder, HEADER, write)
    assert (folder / "thesis.txt").exists()


def test_content_hash_depends_on_content_alone(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert prepared.content_hash(prepared.read_manifest(copy)) == prepared.content_hash(prepared.read_manifest(folder))

    def other(work):
        found = write(work)
        np.save(work / "y.npy", np.ones(1000, np.uint8))
        return found

    changed = prepared.build(tmp_path / "changed", HEADER, other)
    assert prepared.content_hash(changed) != prepared.content_hash(prepared.read_manifest(folder))
