"""Prepared data: complete or absent, one writer at a time, damage named in one line."""

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
    prepared.save_arrays(work, x=np.arange(1000, dtype=np.uint8), y=np.zeros(1000, np.uint8))
    return {"parts": {"train": (0, 1000)}}


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "task" / "name"


@pytest.fixture
def folder(target) -> Path:
    prepared.build(target, HEADER, write)
    return target


def test_prepared_folder_is_not_written_twice(folder):
    manifest = prepared.build(folder, HEADER, lambda work: pytest.fail("written twice"))
    assert manifest["parts"] == {"train": [0, 1000]}
    assert not list(folder.parent.glob(".*partial"))
    prepared.check_hashes(folder)


def test_interrupted_preparation_leaves_nothing(target):
    def interrupted(work):
        write(work)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared.build(target, HEADER, interrupted)
    assert not target.exists()
    assert not list(target.parent.glob(".*partial"))
    # files of a killed process are deleted as well
    stale = target.with_name(f".{target.name}.partial")
    stale.mkdir()
    (stale / "z.npy").write_bytes(b"half")
    assert set(prepared.build(target, HEADER, write)["files"]) == {"x.npy", "y.npy"}


def test_resumable_preparation_keeps_its_files(target):
    calls = []

    def resumes(work):
        calls.append((work / "x.npy").exists())
        write(work)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"parts": {}}

    with pytest.raises(KeyboardInterrupt):
        prepared.build(target, HEADER, resumes, resumable=True)
    assert not target.exists()
    prepared.build(target, HEADER, resumes, resumable=True)
    assert calls == [False, True]
    assert (target / "manifest.json").exists()


def _slow(folder: Path, log: Path) -> None:
    def work(place: Path) -> dict:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return write(place)

    prepared.build(folder, HEADER, work)


def test_second_writer_waits_and_finds_the_work_done(target, tmp_path):
    log, fork = tmp_path / "log", multiprocessing.get_context("fork")
    processes = [fork.Process(target=_slow, args=(target, log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(log.read_text().split()) == 1
    prepared.check_hashes(target)


def test_lock_of_a_killed_process_is_free(target, tmp_path):
    log = tmp_path / "log"
    process = multiprocessing.get_context("fork").Process(target=_slow, args=(target, log))
    process.start()
    while not log.exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not target.exists()
    prepared.build(target, HEADER, write)
    prepared.check_hashes(target)


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.ENOSPC, r"No space left on device, \d+ MiB free\).* make room"), (errno.EACCES, "Permission denied")],
)
def test_disk_error_is_one_line_and_leaves_nothing(target, number, hint):
    def fails(work):
        write(work)
        raise OSError(number, os.strerror(number), str(work / "x.npy"))

    with pytest.raises(OSError, match=rf"cannot be written \({hint}.*data\.root=/some/dir") as error:
        prepared.build(target, HEADER, fails)
    assert "\n" not in str(error.value)
    assert not target.exists()
    assert not list(target.parent.glob(".*partial"))


def test_numpys_incomplete_write_is_a_full_disk(target):
    def large(work: Path) -> dict:
        np.save(work / "x.npy", np.zeros(1 << 20, np.uint8))
        raise AssertionError("it fitted")

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(OSError, match=r"No space left on device.* make room"):
            prepared.build(target, HEADER, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in target.parent.iterdir() if path.is_dir()] == []


def test_unreadable_source_is_named(target, tmp_path):
    source = tmp_path / "mirror" / "a.tsv"
    with pytest.raises(DataError, match=r"mirror/a\.tsv: cannot be read \(No such file"):
        prepared.build(target, HEADER, lambda work: source.read_bytes())


def test_missing_space_is_noticed_before_writing(tmp_path):
    with pytest.raises(DataError, match=r"MiB needed, \d+ MiB free"):
        prepared.need_space(tmp_path / "not" / "there" / "yet", 1 << 60)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot be written"):
        prepared.build(tmp_path / "root" / "task" / "name", HEADER, write)


def test_flipped_byte_is_named(folder):
    path = folder / "x.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    prepared.read_manifest(folder)  # the size is right: only the hash can tell
    with pytest.raises(DataError, match=r"x\.npy: content differs from its SHA-256; hint: delete"):
        prepared.check_hashes(folder)


def test_cut_off_or_missing_array_is_named(folder):
    path = folder / "x.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"x\.npy: 1127 bytes, the manifest says 1128; hint: delete"):
        prepared.read_manifest(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"x\.npy: missing; hint: delete"):
        prepared.read_manifest(folder)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"format": 1}', '{"files": {"x.npy": {"bytes": "many"}}, "format": 1}', "\xff"],
)
def test_damaged_manifest_is_one_line(folder, content):
    (folder / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match="damaged") as error:
        prepared.read_manifest(folder)
    assert "\n" not in str(error.value)


def test_wrong_manifest_entry_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    files = manifest["files"]
    for change, message in (
        ({"format": 99}, "format 99"),
        ({"files": files | {"../../x.npy": {"bytes": 1, "sha256": ""}}}, "not an array of the folder"),
        ({"files": {"x.npy": files["x.npy"]}}, "is not listed"),
        ({"files": files | {"x.npy": {"bytes": 1128}}}, "sha256"),
        ({"parts": {"train": [0]}}, "parts are not pairs of whole numbers"),
        ({"parts": {"train": [0, 1.5]}}, "parts are not pairs of whole numbers"),
        ({"notes": [3]}, "wrong type"),
        ({"parameters": []}, "wrong type"),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(DataError, match=message):
            prepared.read_manifest(folder)


def test_array_of_objects_is_not_loaded(folder):
    path = folder / "x.npy"
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy: not an array"):
        prepared.read_array(path)
    path.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8', ")
    with pytest.raises(DataError, match=r"x\.npy: not an array"):
        prepared.read_array(path)


def test_users_own_folder_is_not_overwritten(tmp_path):
    folder = tmp_path / "name"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="is not prepared data; hint: move it away"):
        prepared.build(folder, HEADER, write)
    assert (folder / "thesis.txt").exists()


def test_content_hash_depends_on_content_alone(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    known = prepared.content_hash(prepared.read_manifest(folder))
    assert prepared.content_hash(prepared.read_manifest(copy)) == known

    def other(work):
        written = write(work)
        np.save(work / "y.npy", np.ones(1000, np.uint8))
        return written

    assert prepared.content_hash(prepared.build(tmp_path / "changed", HEADER, other)) != known
