"""Original archives: download with progress and resume, check, unpack safely.

An archive is untrusted input: nothing in it runs, nothing is written outside the target folder, and the folder appears
only after the whole archive was read and its checksums matched.
"""

import gzip
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath

from data.prepared import DataError, disk_errors, file_hash, locked, need_space
from lra.console import progress_bar

BLOCK = 1 << 20
TIMEOUT = 30  # seconds without an answer
HEADER = 1 << 20  # maximum bytes that describe a member of an archive: they are read into memory
MEMBERS = 5_000_000  # maximum members of an archive: even an empty file takes space


@dataclass(frozen=True)
class Archive:
    """An original file on a server.

    file      its name on disk
    url       its address
    n_bytes   its size; approximate, if `exact` is false
    unpacked  maximum size of its content; more is refused
    md5       published MD5; without one, the SHA-256 of the first download is stored next to the file
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
    with progress_bar(f"checking {path.name}", path.stat().st_size, in_bytes=True) as advance:
        return file_hash(path, kind, advance)


def check(path: Path, archive: Archive) -> None:
    """Raise DataError unless the file is the original, as far as its size or hash is known."""
    hint = f"delete {path} and download it again"
    size = path.stat().st_size
    if archive.exact and size != archive.n_bytes:
        raise DataError(f"{path}: {size} bytes, the original has {archive.n_bytes}", hint=hint)
    kind = "sha256" if archive.md5 is None else "md5"
    stored = path.with_name(path.name + ".sha256")
    known = archive.md5 or (stored.read_text().split()[0] if stored.is_file() and stored.stat().st_size else None)
    if known is not None and (found := hash_of(path, kind)) != known:
        raise DataError(f"{path}: damaged, {kind.upper()} {found}, expected {known}", hint=hint)


def fetch(archive: Archive, folder: Path, alternative: str) -> Path:
    """Path of the archive in `folder`, downloaded if it is missing; a broken download is resumed.

    alternative  what to do without network, for the error message
    raises       DataError
    """
    path = folder / archive.file
    with disk_errors(folder), locked(path):
        if path.exists():
            check(path, archive)
            return path
        part = path.with_name(path.name + ".part")
        try:
            _download(archive, part)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            kept = f"repeat the command to resume at {part.stat().st_size >> 20} MiB; " if part.exists() else ""
            problem = f"{archive.url} ({archive.size}) cannot be downloaded: {reason}"
            raise DataError(problem, hint=f"{kept}without network, {alternative}") from None
        try:
            check(part, archive)
        except DataError:
            part.unlink()
            raise
        if archive.md5 is None:
            path.with_name(path.name + ".sha256").write_text(f"{hash_of(part, 'sha256')}  {path.name}\n")
        part.replace(path)
        return path


def _download(archive: Archive, part: Path) -> None:
    """Append the missing bytes to `part`; start over if the file on the server changed or it cannot resume."""
    tag = part.with_name(part.name + ".etag")
    done = part.stat().st_size if part.exists() and tag.exists() else 0
    request = urllib.request.Request(archive.url, headers={"User-Agent": "lra"})
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", tag.read_text())
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
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
            progress_bar(f"downloading {archive.file}", total, done=done, in_bytes=True) as advance,
        ):
            while block := answer.read(BLOCK):
                file.write(block)
                advance(len(block))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection broke at {part.stat().st_size} of {total} bytes")
    tag.unlink(missing_ok=True)


def unpack(path: Path, into: Path, wanted: str, *, limit: int) -> Path:
    """Unpack the folder `wanted` of a tar, compressed or not, to `into`/`wanted`, completely or not at all.

    Every member is checked, in `wanted` or not: a path out of the folder, a link, a device, more than `limit` bytes in
    total, more than MEMBERS members, or a header of more than HEADER bytes is refused.
    raises  DataError
    """
    target = into / wanted
    flat = wanted.replace("/", "_")
    with disk_errors(into), locked(into / flat):
        if target.is_dir():
            return target
        work = into / f".{flat}.partial"
        shutil.rmtree(work, ignore_errors=True)
        try:
            _extract(path, work, wanted, limit)
            if not (work / wanted).is_dir():
                raise DataError(f"{path}: has no folder {wanted}", hint="is this the original archive?")
            target.parent.mkdir(parents=True, exist_ok=True)
            (work / wanted).replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return target


def _opened(file: BufferedReader) -> BufferedReader | gzip.GzipFile:
    return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file


class BoundedReader:
    """A stream that reads at most up to `end`, so that the header of a member cannot fill the memory."""

    def __init__(self, path: Path, stream: BufferedReader | gzip.GzipFile):
        self.path, self.stream = path, stream
        self.position, self.end = 0, HEADER

    def read(self, n: int) -> bytes:
        content = self.stream.read(n)
        self.position += len(content)
        if self.position > self.end:
            raise DataError(f"{self.path}: the header of a member has more than {HEADER:,} bytes; refused")
        return content


def _extract(path: Path, work: Path, wanted: str, limit: int) -> None:
    damaged = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError)
    total = members = before = 0
    with path.open("rb") as file, progress_bar(f"unpacking {path.name}", path.stat().st_size, in_bytes=True) as advance:
        content = _opened(file)
        bounded = BoundedReader(path, content)
        try:
            with tarfile.open(fileobj=bounded, mode="r|") as tar:  # type: ignore[call-overload]
                for member in tar:
                    _check_member(path, member, work)
                    total, members = total + member.size, members + 1
                    if total > limit:
                        raise DataError(f"{path}: unpacks to more than {limit:,} bytes; refused")
                    if members > MEMBERS:
                        raise DataError(f"{path}: has more than {MEMBERS:,} members; refused")
                    # the end of this member, and room for the header of the next
                    bounded.end = tar.offset + HEADER
                    if member.isfile() and PurePosixPath(member.name).is_relative_to(wanted):
                        tar.extract(member, work, set_attrs=False, filter="data")
                    advance(file.tell() - before)
                    before = file.tell()
            # read to the end, where gzip compares its checksum
            while content.read(BLOCK):
                pass
        except DataError:
            raise
        except damaged as error:
            raise DataError(f"{path}: cut off or damaged ({error})", hint="delete it and download it again") from None
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            name = Path(error.filename or ".").name
            raise DataError(f"{path}: {name!r} is both a file and a folder; refused, nothing was unpacked") from None


def _check_member(path: Path, member: tarfile.TarInfo, folder: Path) -> None:
    """Raise DataError unless the member is a plain file or folder that stays inside `folder`."""
    try:
        tarfile.data_filter(member, str(folder))
    except tarfile.FilterError as error:
        raise DataError(f"{path}: {str(error)[:200]}; refused, nothing was unpacked") from None
    # the filter allows links within the folder and makes absolute paths relative
    if not (member.isfile() or member.isdir()) or member.name.startswith("/") or "\\" in member.name:
        problem = f"{path}: member {member.name[:80]!r} is a link or does not have a relative path"
        raise DataError(f"{problem}; refused, nothing was unpacked")
