"""Fuzzed input files: a correct result or a DataError of one line, and nothing outside the folder."""

import contextlib
import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from data import download, listops, pathfinder, prepared, retrieval
from data.generators import listops as generate_listops
from data.prepared import DataError

NAMES = st.one_of(
    st.sampled_from(["out/in/a", "out/in/../../../x", "/tmp/x", "..", ".", "", "out/in", "out\\..\\x", "out/in/\x00a"]),
    st.text(st.sampled_from("out/in.\\\x00é~ "), max_size=12),
)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"Z"]
)


def damaged(draw, content: bytes) -> bytes:
    """The content with some bytes changed, cut off or inserted."""
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        if content:
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    if draw(st.booleans()):
        at = draw(st.integers(0, len(content)))
        content[at:at] = draw(st.binary(max_size=20))
    return bytes(content)


def one_line(call, *arguments) -> object:
    """The result, or None after a DataError of one line; any other exception is a failure."""
    try:
        return call(*arguments)
    except DataError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None


@contextlib.contextmanager
def written(name: str, content: bytes):
    """A file in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


@st.composite
def archives(draw) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for _ in range(draw(st.integers(0, 4))):
            info = tarfile.TarInfo(draw(NAMES))
            info.type = draw(KINDS)
            info.linkname = draw(NAMES)
            body = draw(st.binary(max_size=30)) if info.isfile() else b""
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    archive = content.getvalue()
    if draw(st.booleans()):
        archive = gzip.compress(archive, 1)
    return damaged(draw, archive)


def unpack_stays_inside(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        outside = Path(place) / "outer"
        (outside / "raw").mkdir(parents=True)
        path = Path(place) / "archive"
        path.write_bytes(content)
        before = sorted(p for p in Path(place).rglob("*") if "raw" not in p.parts)
        found = one_line(lambda: download.unpack(path, outside / "raw", "out/in", limit=1000))
        assert sorted(p for p in Path(place).rglob("*") if "raw" not in p.parts) == before
        kept = [p for p in (outside / "raw").rglob("*") if not p.name.endswith(".lock")]
        assert not any(p.is_symlink() for p in kept)
        assert (found is None) == (not kept)


@st.composite
def listops_lines(draw) -> bytes:
    tokens = st.lists(st.sampled_from(["[MAX", "[SM", "]", "(", ")", "7", "10", "X", "\t", "é", "\0"]), max_size=15)
    lines = ["Source\tTarget"]
    lines += [
        " ".join(draw(tokens)) + draw(st.sampled_from(["\t3", "\t", "", "\t12", "\tx", "\t3\r"])) for _ in range(3)
    ]
    return damaged(draw, ("\n".join(lines) + "\n").encode())


def listops_file_is_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        work = Path(place) / "work"
        work.mkdir()
        for split in listops.COUNTS:
            (Path(place) / f"basic_{split}.tsv").write_bytes(content)
        if one_line(listops.write_official, Path(place), work) is not None:
            assert np.load(work / "y.npy").max() <= 9
            assert np.load(work / "x.npy").max() < len(generate_listops.VOCAB)


@st.composite
def pngs(draw) -> bytes:
    content = io.BytesIO()
    side = draw(st.sampled_from([8, 8, 9]))
    Image.new(draw(st.sampled_from(["L", "RGB", "1", "P"])), (side, side)).save(
        content, draw(st.sampled_from(["PNG", "PNG", "BMP"]))
    )
    return damaged(draw, content.getvalue())


def image_is_read_or_refused(content: bytes) -> None:
    with written("a.png", content) as path:
        pixels = one_line(pathfinder.read_image, path, 8)
        assert pixels is None or (pixels.shape == (64,) and pixels.dtype == np.uint8)


@st.composite
def image_lists(draw) -> bytes:
    if draw(st.booleans()):
        content = io.BytesIO()
        rows = [["imgs/0", f"sample_{i}.png", str(i), "1"] for i in range(3)]
        np.save(content, np.array(rows, draw(st.sampled_from([object, str]))), allow_pickle=True)
        return damaged(draw, content.getvalue())
    parts = st.sampled_from(["imgs/0", "..", "/", "sample_0.png", "0", "1", "2", "é", "a\\b", "nan"])
    lines = [" ".join(draw(st.lists(parts, max_size=6))) for _ in range(3)]
    return damaged(draw, "\n".join(lines).encode())


def image_list_is_read_or_refused(content: bytes) -> None:
    with written("0.npy", content) as path:
        for image, label in one_line(lambda: list(pathfinder.metadata(path))) or []:
            assert label in (0, 1)
            assert os.path.normpath(path.parent / image).startswith(str(path.parent))


@st.composite
def pair_lines(draw) -> bytes:
    cells = st.sampled_from(["0.0", "1.0", "1", "2", "", "A1", "text", '"quoted', "é"])
    lines = ["\t".join(draw(st.lists(cells, min_size=0, max_size=6))) for _ in range(3)]
    return damaged(draw, "\n".join(lines).encode())


def pair_file_is_read_or_refused(content: bytes) -> None:
    with written("new_aan_pairs.train.tsv", content) as path:
        for _, row in one_line(lambda: list(retrieval.fields(path, 5))) or []:
            assert len(row) == 5
            assert float(row[0]) in (0, 1)
        one_line(lambda: list(retrieval.official(path.parent, "train")))


@st.composite
def prepared_files(draw) -> tuple[str, bytes]:
    name = draw(st.sampled_from(["manifest.json", "x.npy"]))
    if name == "x.npy" or draw(st.booleans()):
        return name, damaged(draw, (PREPARED / name).read_bytes())
    keys = st.sampled_from(["format", "files", "parts", "kind", "x.npy", "bytes", "sha256", "task"])
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=8,
    )
    known = json.loads((PREPARED / name).read_text()) if draw(st.booleans()) else {}
    return name, json.dumps(known | draw(st.dictionaries(keys, values, max_size=5))).encode()


PREPARED = Path(tempfile.mkdtemp()) / "intact"


@pytest.fixture(scope="module", autouse=True)
def _prepared():
    def write(work):
        prepared.save_arrays(work, x=np.arange(20, dtype=np.uint8), y=np.zeros(20, np.uint8))
        return {"parts": {"train": (0, 20)}}

    header = {"task": "t", "edition": "e", "kind": "toy", "source": "s", "parameters": {}, "notes": []}
    prepared.build(PREPARED, header, write)
    yield
    shutil.rmtree(PREPARED.parent)


def prepared_folder_opens_or_is_refused(content: tuple[str, bytes]) -> None:
    name, changed = content
    with tempfile.TemporaryDirectory() as place:
        for intact in ("manifest.json", "x.npy", "y.npy"):
            shutil.copy(PREPARED / intact, place)
        (Path(place) / name).write_bytes(changed)
        if (manifest := one_line(prepared.read_manifest, Path(place))) is not None:
            assert all(range(*ends) is not None for ends in manifest["parts"].values())
            array = one_line(prepared.read_array, Path(place) / "x.npy")
            assert array is None or array.dtype != object
            one_line(prepared.check_hashes, Path(place))


CASES = [
    pytest.param(archives(), unpack_stays_inside, id="archives"),
    pytest.param(listops_lines(), listops_file_is_read_or_refused, id="listops"),
    pytest.param(pngs(), image_is_read_or_refused, id="images"),
    pytest.param(image_lists(), image_list_is_read_or_refused, id="image-lists"),
    pytest.param(pair_lines(), pair_file_is_read_or_refused, id="pairs"),
    pytest.param(prepared_files(), prepared_folder_opens_or_is_refused, id="prepared"),
]


@pytest.fixture
def tiny_listops(monkeypatch):
    monkeypatch.setattr(listops, "COUNTS", {"train": 3, "val": 3, "test": 3})


@pytest.mark.usefixtures("tiny_listops")
@pytest.mark.parametrize("examples", [60, pytest.param(2500, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(("files", "check"), CASES)
def test_any_content_is_read_or_refused(files, check, examples, fuzz):
    fuzz(check, examples, content=files)
