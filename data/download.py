"""Original archives: fetched with progress, continued after a break, checked, unpacked without trust.

An archive is a stranger's file. Nothing in it is run, nothing leaves the folder it is unpacked into, and a folder
appears only when the whole archive was read and its checksums held.
"""

import gzip
import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from data.prepared import DataError, flush, locked, need_space, plain_errors
from lra.console import bar, say

PIECE = 1 << 20
SECONDS = 30  # without an answer, after which a server counts as gone
HEADER = 1 << 20  # bytes that describe a member, at most: they are read into memory
MEMBERS = 5_000_000  # of an archive, at most: also an empty file takes room


@dataclass(frozen=True)
class Archive:
    """An original file.

    file      its name on disk
    url       where it is fetched from
    n_bytes   its size; about, if `exact` is false
    unpacked  bytes it may unpack to at most; more is refused
    md5       published MD5, if there is one; without, the SHA-256 of the first fetch is kept beside it
    """

    file: str
    url: str
    n_bytes: int
    unpacked: int
    md5: str | None = None
    exact: bool = True

    @property
    def size(self) -> str:
        return f"{'' if self.exact else 'about '}{self.n_bytes / 1e6:,.0f} MB"


LRA = Archive(
    "lra_release.gz",
    "https://storage.googleapis.com/long-range-arena/lra_release.gz",
    7_700_000_000,
    40_000_000_000,
    exact=False,
)


def hash_of(path: Path, kind: str) -> str:
    with path.open("rb") as file, bar(f"checking {path.name}", path.stat().st_size, in_bytes=True) as advance:
        state = hashlib.new(kind, usedforsecurity=False)
        while piece := file.read(PIECE):
            state.update(piece)
            advance(len(piece))
    return state.hexdigest()


def check(path: Path, archive: Archive) -> None:
    """Raise DataError unless the file is the original, as far as that is known."""
    cure = f"delete {path} and fetch it again"
    size = path.stat().st_size
    if archive.exact and size != archive.n_bytes:
        raise DataError(f"{path}: {size} bytes, the original has {archive.n_bytes}; {cure}")
    kind = "sha256" if archive.md5 is None else "md5"
    noted = path.with_name(path.name + ".sha256")
    known = archive.md5 or (noted.read_text().split()[0] if noted.is_file() and noted.stat().st_size else None)
    if known is not None and (found := hash_of(path, kind)) != known:
        raise DataError(f"{path}: {kind.upper()} {found}, expected {known}; the file is damaged: {cure}")


def fetch(archive: Archive, folder: Path, instead: str) -> Path:
    """The archive in `folder`, fetched unless it is there; a broken transfer goes on where it stopped.

    instead  what the message proposes where there is no network
    raises   DataError
    """
    path = folder / archive.file
    with plain_errors(folder), locked(path, say):
        if path.exists():
            check(path, archive)
            return path
        part = path.with_name(path.name + ".part")
        try:
            _transfer(archive, part)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            kept = f"; {part.stat().st_size >> 20} MiB are kept, the same command goes on" if part.exists() else ""
            raise DataError(
                f"{archive.url} ({archive.size}) cannot be fetched: {reason}{kept}; without network, {instead}"
            ) from None
        try:
            check(part, archive)
        except DataError:
            part.unlink()
            raise
        if archive.md5 is None:
            path.with_name(path.name + ".sha256").write_text(f"{hash_of(part, 'sha256')}  {path.name}\n")
        part.replace(path)
        return path


def _transfer(archive: Archive, part: Path) -> None:
    """Append to `part` what is missing; begin anew if the server's file has changed or it cannot continue."""
    tag = part.with_name(part.name + ".etag")
    done = part.stat().st_size if part.exists() and tag.exists() else 0
    request = urllib.request.Request(archive.url, headers={"User-Agent": "lra"})
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", tag.read_text())
    try:
        answer = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # the part is as long as the file, or longer: `check` decides
        return
    with answer:
        if answer.status != 206:
            done = 0
        if etag := answer.headers.get("ETag"):
            tag.write_text(etag)
        else:
            tag.unlink(missing_ok=True)
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        need_space(part, (total or archive.n_bytes) - done)
        with (
            part.open("ab" if done else "wb") as file,
            bar(f"fetching {archive.file}", total, done=done, in_bytes=True) as advance,
        ):
            while piece := answer.read(PIECE):
                file.write(piece)
                advance(len(piece))
            flush(file)
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection broke at {part.stat().st_size} of {total} bytes")
    tag.unlink(missing_ok=True)


def unpack(path: Path, into: Path, wanted: str, *, limit: int) -> Path:
    """Unpack the folder `wanted` of a tar, compressed or not, to `into`/`wanted`, whole or not at all.

    Every member of the archive is examined, wanted or not: an absolute path, "..", a link, a device, more than
    `limit` bytes in all, more than MEMBERS members, or a description of more than HEADER bytes ends it.
    raises  DataError
    """
    target = into / wanted
    with plain_errors(into), locked(into / wanted.replace("/", "_"), say):
        if target.is_dir():
            return target
        work = into / f".{wanted.replace('/', '_')}.partial"
        shutil.rmtree(work, ignore_errors=True)
        try:
            _extract(path, work, wanted, limit)
            if not (work / wanted).is_dir():
                raise DataError(f"{path}: holds no folder {wanted}; is this the original archive?")
            target.parent.mkdir(parents=True, exist_ok=True)
            (work / wanted).replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return target


@contextmanager
def _opened(path: Path, file: IO[bytes]) -> Iterator[IO[bytes]]:
    magic = file.read(2)
    file.seek(0)
    if magic == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=file) as content:
            yield content  # type: ignore[misc]
    else:
        yield file


class Bounded:
    """A file that hands out bytes up to `until`, so that no header of a tar can claim the memory of the machine."""

    def __init__(self, path: Path, file: IO[bytes]):
        self.path, self.file = path, file
        self.given, self.until = 0, HEADER

    def read(self, n: int) -> bytes:
        content = self.file.read(n)
        self.given += len(content)
        if self.given > self.until:
            raise DataError(f"{self.path}: describes a member in more than {HEADER:,} bytes; refused")
        return content


def _extract(path: Path, work: Path, wanted: str, limit: int) -> None:
    damaged = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError)
    total = members = 0
    with path.open("rb") as file, bar(f"unpacking {path.name}", path.stat().st_size, in_bytes=True) as advance:
        before = 0
        try:
            with _opened(path, file) as content:
                bounded = Bounded(path, content)
                with tarfile.open(fileobj=bounded, mode="r|") as tar:  # type: ignore[call-overload]
                    for member in tar:
                        name = safe_name(path, member)
                        total, members = total + member.size, members + 1
                        if total > limit:
                            raise DataError(f"{path}: unpacks to more than {limit:,} bytes; refused")
                        if members > MEMBERS:
                            raise DataError(f"{path}: has more than {MEMBERS:,} members; refused")
                        # where this member ends, and room for what describes the next
                        bounded.until = tar.offset + HEADER
                        if member.isfile() and name.is_relative_to(wanted):
                            (work / name).parent.mkdir(parents=True, exist_ok=True)
                            with tar.extractfile(member) as source, (work / name).open("wb") as copy:  # type: ignore[union-attr]
                                shutil.copyfileobj(source, copy, PIECE)
                        advance(file.tell() - before)
                        before = file.tell()
                # a checksum stands at the end of the compressed stream: read on to have it compared
                while content.read(PIECE):
                    pass
        except damaged as error:
            raise DataError(f"{path}: cut off or damaged ({error}); delete it and fetch it again") from None
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            both = Path(error.filename or ".").name
            raise DataError(
                f"{path}: names {both!r} as a file and as a folder; refused, nothing was unpacked"
            ) from None


def safe_name(path: Path, member: tarfile.TarInfo) -> PurePosixPath:
    """The member's path if it stays inside and is a plain file or folder; raises DataError."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        raise DataError(f"{path}: member {member.name[:80]!r} leads out of the folder; refused, nothing was unpacked")
    if not (member.isfile() or member.isdir()):
        raise DataError(f"{path}: member {member.name[:80]!r} is a link or a device; refused, nothing was unpacked")
    return name
