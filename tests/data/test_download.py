"""Archives: downloaded, resumed, checked, unpacked safely."""

import contextlib
import gzip
import hashlib
import http.server
import io
import tarfile
import threading
import tracemalloc
from pathlib import Path

import pytest

from data import download
from data.download import Archive
from data.prepared import DataError

BODY = bytes(range(256)) * 2000


class Server(http.server.BaseHTTPRequestHandler):
    """Serves BODY and parts of it; `breaks_at` cuts the connection, `etag` can change."""

    breaks_at: int | None = None
    etag = '"one"'
    ranges: list[str | None]

    def do_GET(self):
        begin = 0
        asked = self.headers.get("Range")
        type(self).ranges.append(asked)
        if asked and self.headers.get("If-Range") == self.etag:
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if begin else 200)
        self.send_header("ETag", self.etag)
        self.send_header("Content-Length", str(len(BODY) - begin))
        self.end_headers()
        self.wfile.write(BODY[begin : self.breaks_at])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"ranges": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        handler.url = f"http://127.0.0.1:{running.server_port}/file.gz"
        yield handler
        running.shutdown()
        thread.join()


def original(url: str, **changes) -> Archive:
    known = {"file": "file.gz", "url": url, "n_bytes": len(BODY), "unpacked": 1 << 30} | changes
    return Archive(**known)


def test_broken_download_resumes(server, tmp_path):
    server.breaks_at = 100_000
    with pytest.raises(DataError, match=r"cannot be downloaded.*to resume at .*without network, do this"):
        download.fetch(original(server.url), tmp_path, "do this")
    assert not (tmp_path / "file.gz").exists()
    server.breaks_at = None
    assert download.fetch(original(server.url), tmp_path, "").read_bytes() == BODY
    assert server.ranges == [None, "bytes=100000-"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".file.gz.lock", "file.gz", "file.gz.sha256"]
    # no request for a file that is there
    download.fetch(original("http://127.0.0.1:9/"), tmp_path, "")


def test_file_changed_on_the_server_starts_over(server, tmp_path):
    server.breaks_at = 100_000
    with pytest.raises(DataError):
        download.fetch(original(server.url), tmp_path, "")
    server.breaks_at, server.etag = None, '"two"'
    assert download.fetch(original(server.url), tmp_path, "").read_bytes() == BODY


def test_download_with_a_wrong_hash_is_deleted(server, tmp_path):
    with pytest.raises(DataError, match=r"damaged, MD5 \w+, expected 0+;"):
        download.fetch(original(server.url, md5="0" * 32), tmp_path, "")
    assert not list(tmp_path.glob("file*"))
    assert download.fetch(original(server.url, md5=hashlib.md5(BODY).hexdigest()), tmp_path, "").exists()


def test_damaged_archive_differs_from_its_hash(server, tmp_path):
    path = download.fetch(original(server.url), tmp_path, "")
    path.write_bytes(BODY[:-1] + b"!")
    with pytest.raises(DataError, match=r"damaged, SHA256 \w+, expected \w+; hint: delete"):
        download.fetch(original(server.url), tmp_path, "")
    path.write_bytes(BODY[:-1])
    with pytest.raises(DataError, match=r"511999 bytes, the original has 512000"):
        download.fetch(original(server.url), tmp_path, "")


def test_no_network_is_one_line_with_an_alternative(tmp_path):
    nowhere = original("http://127.0.0.1:9/file.gz", n_bytes=7_700_000_000, exact=False)
    with pytest.raises(DataError) as error:
        download.fetch(nowhere, tmp_path, "give a folder")
    message = str(error.value)
    assert message.startswith("http://127.0.0.1:9/file.gz (about 7,700 MB) cannot be downloaded: ")
    assert message.endswith("; hint: without network, give a folder")
    assert "\n" not in message


def tar(path: Path, *members, compressed: bool = True) -> Path:
    """Each member is (name, bytes) or a TarInfo."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
    path.write_bytes(gzip.compress(content.getvalue()) if compressed else content.getvalue())
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("compressed", [True, False])
def test_only_the_wanted_folder_is_unpacked(tmp_path, compressed):
    path = tar(
        tmp_path / "a.gz", ("out/in/a.tsv", b"1"), ("out/a.tsv", b"2"), ("out/in/deep/b", b"3"), compressed=compressed
    )
    target = download.unpack(path, tmp_path / "raw", "out/in", limit=100)
    assert {str(p.relative_to(tmp_path / "raw")) for p in (tmp_path / "raw").rglob("[!.]*") if p.is_file()} == {
        "out/in/a.tsv",
        "out/in/deep/b",
    }
    path.unlink()
    assert download.unpack(path, tmp_path / "raw", "out/in", limit=100) == target


@pytest.mark.parametrize(
    "member",
    [
        ("/etc/passwd", b"x"),
        ("out/../../x", b"x"),
        ("..", b"x"),
        ("out\\..\\x", b"x"),
        special("out/in/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("out/in/link", tarfile.SYMTYPE, "a.tsv"),
        special("out/in/link", tarfile.LNKTYPE, "../../x"),
        special("out/in/null", tarfile.CHRTYPE),
        special("out/in/pipe", tarfile.FIFOTYPE),
        # refused even outside the wanted folder
        special("elsewhere/link", tarfile.SYMTYPE, "/"),
    ],
)
def test_unsafe_archive_is_refused_completely(tmp_path, member):
    path = tar(tmp_path / "a.gz", ("out/in/a.tsv", b"1"), member)
    with pytest.raises(DataError, match="refused, nothing was unpacked"):
        download.unpack(path, tmp_path / "inner" / "raw", "out/in", limit=100)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != path and not p.name.endswith(".lock")]


def test_archive_bomb_is_refused_by_size(tmp_path):
    path = tar(tmp_path / "a.gz", ("out/in/zeros", bytes(50_000_000)))
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"unpacks to more than 1,000,000 bytes; refused"):
        download.unpack(path, tmp_path / "raw", "out/in", limit=1_000_000)
    assert not (tmp_path / "raw" / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_header_bomb_is_refused_within_memory(tmp_path, kind):
    bomb = tarfile.TarInfo("././@LongLink")
    bomb.type, bomb.size = kind, 64 << 20
    plain = tarfile.TarInfo("out/in/a")
    path = tmp_path / "a.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for block in (plain.tobuf(), bomb.tobuf(tarfile.GNU_FORMAT), *[bytes(1 << 20)] * 64):
            file.write(block)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"header of a member has more than 1,048,576 bytes"):
        download.unpack(path, tmp_path / "raw", "out/in", limit=1 << 40)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    assert not (tmp_path / "raw" / "out").exists()


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MEMBERS", 10)
    for n, refused in ((10, False), (11, True)):
        path = tar(tmp_path / "a.gz", *[(f"out/in/{i}", b"") for i in range(n)])
        with pytest.raises(DataError, match="has more than 10 members") if refused else contextlib.nullcontext():
            download.unpack(path, tmp_path / str(n), "out/in", limit=100)
        assert (tmp_path / str(n) / "out").exists() == (not refused)


def test_large_members_and_long_names_are_unpacked(tmp_path):
    long = "out/in/" + "/".join(["d" * 90] * 3)
    path = tar(tmp_path / "a.gz", ("out/in/a", bytes(3 << 20)), (long, b"x"), ("elsewhere", bytes(3 << 20)))
    target = download.unpack(path, tmp_path / "raw", "out/in", limit=1 << 30)
    assert (target / "a").stat().st_size == 3 << 20
    assert (tmp_path / "raw" / long).read_bytes() == b"x"


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_cut_off_archive_is_one_line_and_leaves_nothing(tmp_path, kept):
    noise = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(250)) * 40
    path = tar(tmp_path / "a.gz", ("out/in/a", noise), ("out/in/b", noise[::-1]))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match=r"cut off or damaged|has no folder") as error:
        download.unpack(path, tmp_path / "raw", "out/in", limit=1 << 30)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "raw" / "out").exists()


def test_flipped_bit_is_noticed_or_harmless(tmp_path):
    path = tar(tmp_path / "a.gz", ("out/in/a", bytes(range(256)) * 4))
    content = path.read_bytes()
    noticed = 0
    for position in range(0, len(content), 3):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        into = tmp_path / str(position)
        try:
            target = download.unpack(path, into, "out/in", limit=1 << 30)
            assert (target / "a").read_bytes() == bytes(range(256)) * 4
        except DataError:
            noticed += 1
            assert not (into / "out").exists()
    assert noticed > 0.9 * len(content) / 3


def test_archive_without_the_folder_is_refused(tmp_path):
    path = tar(tmp_path / "a.gz", ("holiday/photo.jpg", b"x"))
    with pytest.raises(DataError, match="has no folder out/in; hint: is this the original"):
        download.unpack(path, tmp_path / "raw", "out/in", limit=100)
