"""Fetching checkpoints once, into a cache, so that an interruption costs nothing and a wrong file is never used.

    <cache>/<8 hex digits of the URL's hash>-<name>      the file, complete and checked
    ...                        .sha256                   its hash: the published one, or that of the first download
    ...                        .part, .part.json         what has arrived, and which version of the file it is part of
    ...                        .lock                     held while fetching: two processes share one download

The cache is `$PROBES_CACHE/checkpoints`, by default `~/.cache/probes/checkpoints`.
"""

import hashlib
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ._files import OutputError, atomic, cache_folder, file_sha256

BLOCK = 1 << 20
ATTEMPTS = 4
Progress = Callable[[int, int | None], None]


class DownloadError(RuntimeError):
    """The file could not be fetched; the message says where to get it and where to put it."""


class OfflineError(DownloadError, ConnectionError):
    """The server could not be reached at all."""


class ChecksumError(DownloadError):
    """The file is not the one that was asked for."""


class _Interrupted(Exception):
    """The connection broke; what has arrived is kept and another attempt may go on from there."""


class _Unusable(Exception):
    """What has arrived is not part of what the server has now: start again."""


def cached_path(url: str, filename: str | None = None, cache_dir: str | os.PathLike | None = None) -> Path:
    """Where `fetch` puts the file, and finds one that was put there by hand."""
    if filename is None:
        base = re.sub(r"[^\w.-]", "_", urllib.parse.unquote(urllib.parse.urlsplit(url).path).rsplit("/", 1)[-1])
        filename = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{base or 'download'}"
    if Path(filename).name != filename or filename == "..":
        raise ValueError(f"filename={filename!r}: expected a name without folders; give the folder as cache_dir")
    return (Path(cache_dir) if cache_dir is not None else cache_folder("checkpoints")) / filename


def fetch(
    url: str,
    sha256: str | None = None,
    filename: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """The local copy of `url`, downloaded at the first call and checked at every one.

    Args:
        url: http or https.
        sha256: the expected hash. Without one the hash of the first download counts from then on.
        filename: its name in the cache; by default from the URL.
        cache_dir: by default `cache_folder("checkpoints")`.
        progress: called with (bytes so far, bytes in total or None); by default a bar, on terminals.
        timeout: seconds without an answer or a byte after which the connection counts as broken.

    Raises:
        OfflineError: the server cannot be reached, and the file is not in the cache.
        ChecksumError: the file has another hash.
        DownloadError: the server refuses, or the connection keeps breaking; what has arrived is kept.
        OutputError: the cache cannot be written: a full disk, a read-only folder and the like; what has arrived is kept.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"url={url!r}: expected http:// or https://; open a local file by its path instead")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256={sha256!r}: expected 64 hexadecimal digits")
    path = cached_path(url, filename, cache_dir)
    if path.exists():  # complete, for it got its name last
        return _checked(path, (sha256 or _recorded(path) or "").lower() or None)
    part = _beside(path, ".part")
    with _storing(part):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(_beside(path, ".lock"), "ab")
    with _locked(lock):
        expected = (sha256 or _recorded(path) or "").lower() or None
        if path.exists():  # another process was quicker
            return _checked(path, expected)
        with _reporter(progress, path.name) as report:
            _download(url, part, path, expected, report, timeout)
        found = file_sha256(part)
        if expected is not None and found != expected:
            _discard(part)
            raise ChecksumError(
                f"{url} was downloaded with sha256 {found}, expected {expected}; the download was deleted. Something "
                "on the way changed it, or its publisher did: if you trust that, correct the sha256 argument, or "
                f"delete {_beside(path, '.sha256')} where the expectation came from there."
            )
        with _storing(part):
            _record(path, found)
            os.replace(part, path)
            _discard(part)
        return path


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextmanager
def _storing(part: Path) -> Iterator[None]:
    """Where the block cannot write: an OutputError that names `part`, what gives downloads another place, and what is kept."""
    try:
        yield
    except OSError as error:
        kept = f"; {_size(part)} bytes have arrived and are kept, calling again goes on from there" if _size(part) else ""
        raise OutputError(error.errno, f"{error.strerror or error} (downloads are kept below PROBES_CACHE{kept})",
                          str(part)) from error


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part, ".json").unlink(missing_ok=True)


def _recorded(path: Path) -> str | None:
    """The hash noted beside the file, as `sha256sum` writes it."""
    try:
        digest = _beside(path, ".sha256").read_text().split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
    return digest if re.fullmatch(r"[0-9a-f]{64}", digest) else None


def _record(path: Path, digest: str) -> None:
    with atomic(_beside(path, ".sha256")) as temporary:
        temporary.write_text(f"{digest}  {path.name}\n")


def _checked(path: Path, expected: str | None) -> Path:
    found = file_sha256(path)
    if expected is not None and found != expected:
        raise ChecksumError(
            f"{path} has sha256 {found}, expected {expected}: it is damaged or was replaced. Delete it and call again."
        )
    if _recorded(path) != found:
        with suppress(OSError):  # a cache that is only read, and shared, or full
            _record(path, found)
    return path


def _download(url: str, part: Path, path: Path, expected: str | None, report: Progress, timeout: float) -> None:
    """Fills `part`; goes on after an interruption as long as attempts bring anything, and a few times more."""
    reached, idle, arrived = False, 0, _size(part)
    while True:
        try:
            return _attempt(url, part, report, timeout)
        except urllib.error.HTTPError as error:
            raise DownloadError(
                f"{url} answers {error.code} {error.reason}. {_by_hand(url, path, expected)}"
            ) from error
        except _Unusable:
            _discard(part)
            reached, reason = True, "the file on the server keeps changing"
        except _Interrupted as error:
            reached, reason = True, str(error)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        size = _size(part)
        idle = 0 if size > arrived else idle + 1
        arrived = max(arrived, size)
        if not reached or idle >= ATTEMPTS:
            kept = f" {size} bytes have arrived and are kept; calling again goes on from there." if size else ""
            kind = DownloadError if reached else OfflineError
            raise kind(f"{url} could not be fetched: {reason}.{kept} {_by_hand(url, path, expected)}")
        time.sleep(0.2 * 2**idle)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _by_hand(url: str, path: Path, expected: str | None) -> str:
    digest = f"expected sha256: {expected}" if expected else "its sha256 is not published and will be noted there"
    return f"Fetch it by other means:\n  from {url}\n  to   {path.absolute()}\n({digest}); then call again."


def _attempt(url: str, part: Path, report: Progress, timeout: float) -> None:
    """One request, from where `part` ends."""
    have = _size(part)
    known = _known(part) if have else {}
    if have and known.get("url") != url:
        raise _Unusable
    headers = {"User-Agent": "probes", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if known.get("etag") and not known["etag"].startswith("W/"):
            headers["If-Range"] = known["etag"]
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            if _total(error.headers.get("Content-Range")) == have and known.get("size") in (None, have):
                return
            raise _Unusable from error
        raise
    with response:
        if url.startswith("https:") and not response.geturl().startswith("https:"):
            raise DownloadError(f"{url} leads to {response.geturl()}, which is not encrypted; it was not followed.")
        version = {key: response.headers.get(key) for key in ("ETag", "Last-Modified")}
        if response.status == 206:
            total = _total(response.headers.get("Content-Range"))
            same = all(known.get(key.lower()) in (None, value) for key, value in version.items())
            if not have or not same or _start(response.headers.get("Content-Range")) != have:
                raise _Unusable
            if None not in (total, known.get("size")) and total != known["size"]:
                raise _Unusable
        else:  # the whole file: the server knows no ranges, or the file has changed
            length = response.headers.get("Content-Length")
            have, total = 0, int(length) if length and length.isdigit() else None
        note = {"url": url, "size": total, **{key.lower(): value for key, value in version.items()}}
        with _storing(part):  # of the network's errors, none leaves `_copy` as an OSError
            with atomic(_beside(part, ".json")) as temporary:
                temporary.write_text(json.dumps(note))
            with open(part, "ab" if have else "wb") as file:
                _copy(response, file, have, total, report)


def _copy(response: Any, file: BinaryIO, have: int, total: int | None, report: Progress) -> None:
    report(have, total)
    while True:
        try:
            block = response.read(BLOCK)
        except http.client.IncompleteRead as error:
            file.write(error.partial)
            raise _Interrupted(f"the connection broke after {have + len(error.partial)} bytes") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(f"the connection broke after {have} bytes: {error}") from error
        if not block:
            break
        file.write(block)
        have += len(block)
        report(have, total)
    file.flush()
    os.fsync(file.fileno())
    if total is not None and have < total:
        raise _Interrupted(f"the connection ended after {have} of {total} bytes")
    if total is not None and have > total:
        raise _Unusable


def _known(part: Path) -> dict[str, Any]:
    try:
        known = json.loads(_beside(part, ".json").read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _start(content_range: str | None) -> int | None:
    match = re.match(r"bytes (\d+)-", content_range or "")
    return int(match[1]) if match else None


def _total(content_range: str | None) -> int | None:
    match = re.search(r"/(\d+)$", content_range or "")
    return int(match[1]) if match else None


@contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    """Held by one process at a time; the system releases it when a process ends, however it ends."""
    with file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _reporter(progress: Progress | None, name: str) -> Iterator[Progress]:
    """The caller's `progress`, or a bar on a terminal, or nothing."""
    if progress is not None or not sys.stderr.isatty():
        yield progress or (lambda done, total: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
