"""Fetching: interrupted, resumed, shared, checked, and impossible. The server is on 127.0.0.1."""

import errno
import hashlib
import http.server
import io
import json
import multiprocessing
import os
import re
import socket
import threading
from pathlib import Path

import pytest

from generators import _download
from generators._download import ChecksumError, DownloadError, OfflineError, cached_path, fetch
from generators._families import PACKAGES
from generators._files import OutputError
from generators._public import public

DATA = bytes(range(256)) * 12_000  # three blocks
DIGEST = hashlib.sha256(DATA).hexdigest()


class Server:
    """What the requests found, and how they are answered."""

    def __init__(self) -> None:
        self.data, self.etag, self.ranges, self.length, self.status = DATA, '"one"', True, True, 200
        self.break_after: list[int] = []  # bytes after which successive answers break off
        self.requests: list[str | None] = []  # their Range headers
        state = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                state.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/models/net.pkl"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.requests.append(wanted)
        handler.close_connection = True
        if self.status != 200:
            return handler.send_error(self.status)
        start, total = 0, len(self.data)
        current = handler.headers.get("If-Range") in (None, self.etag)
        if wanted and self.ranges and current:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= total:
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{total}")
                handler.send_header("Content-Length", "0")
                return handler.end_headers()
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            handler.send_response(200)
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.length:
            handler.send_header("Content-Length", str(total - start))
        handler.end_headers()
        body = self.data[start:]
        handler.wfile.write(body[: self.break_after.pop(0)] if self.break_after else body)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(_download.time, "sleep", lambda _: None)
    return tmp_path / "cache" / "checkpoints"


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name.partition("net.pkl")[2] for path in folder.iterdir())


def test_a_file_is_fetched_once(server, cache):
    seen = []
    path = fetch(server.url, sha256=DIGEST, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == DATA and path.parent == cache and path == cached_path(server.url)
    assert seen[0] == (0, len(DATA)) and seen[-1] == (len(DATA), len(DATA)) and sorted(seen) == seen
    assert fetch(server.url) == path and server.requests == [None]
    assert leftovers(cache) == ["", ".lock", ".sha256"]


def test_names_and_folders_can_be_chosen_but_not_escaped(server, tmp_path):
    path = fetch(server.url, filename="ffhq.pkl", cache_dir=tmp_path / "elsewhere")
    assert path == tmp_path / "elsewhere" / "ffhq.pkl" and path.read_bytes() == DATA
    other = server.url.replace("models", "other")
    assert cached_path(server.url) != cached_path(other), "two files of one name share no place"
    assert cached_path("https://host/a/%2e%2e%2fb c.pkl").name.endswith("-b_c.pkl")
    for name in ("../net.pkl", ".."):
        with pytest.raises(ValueError, match="without folders"):
            fetch(server.url, filename=name)
    with pytest.raises(ValueError, match="expected http"):
        fetch("file:///etc/passwd")
    with pytest.raises(ValueError, match="64 hexadecimal"):
        fetch(server.url, sha256="abc")


@pytest.mark.parametrize("etag", ['"one"', 'W/"one"', None])
def test_an_interruption_in_the_middle_is_resumed(server, etag):
    server.etag, server.break_after = etag, [1_000_000, 500_000]
    assert fetch(server.url, sha256=DIGEST).read_bytes() == DATA
    assert server.requests == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, cache):
    server.break_after = [1_000_000] + [0] * 4
    with pytest.raises(DownloadError, match="1000000 bytes have arrived and are kept") as caught:
        fetch(server.url, sha256=DIGEST)
    assert not isinstance(caught.value, OfflineError)
    assert leftovers(cache) == [".lock", ".part", ".part.json"]
    server.requests.clear()
    assert fetch(server.url, sha256=DIGEST).read_bytes() == DATA
    assert server.requests == ["bytes=1000000-"]


def test_a_server_without_ranges_starts_again(server):
    server.ranges, server.break_after = False, [1_000_000]
    assert fetch(server.url, sha256=DIGEST).read_bytes() == DATA
    assert server.requests == [None, "bytes=1000000-"]


def test_a_server_without_ranges_or_lengths_still_works(server):
    server.ranges = server.length = False
    assert fetch(server.url).read_bytes() == DATA


@pytest.mark.parametrize("etag", ['"two"', 'W/"two"'])
def test_a_file_that_changed_in_between_is_not_stitched_together(server, etag):
    server.etag = etag.replace("two", "one")
    server.break_after = [1_000_000] + [0] * 4
    with pytest.raises(DownloadError):
        fetch(server.url)
    server.data, server.etag = DATA[::-1], etag
    assert fetch(server.url).read_bytes() == DATA[::-1]


def test_a_file_whose_size_changed_is_not_stitched_together(server):
    server.etag, server.break_after = None, [1_000_000] + [0] * 4
    with pytest.raises(DownloadError):
        fetch(server.url)
    server.data = DATA[:2_000_000]
    assert fetch(server.url).read_bytes() == DATA[:2_000_000]


def test_a_part_that_was_complete_needs_no_second_download(server, cache):
    path = cached_path(server.url)
    path.parent.mkdir(parents=True)
    path.with_name(path.name + ".part").write_bytes(DATA)
    path.with_name(path.name + ".part.json").write_text(json.dumps({"url": server.url, "size": len(DATA)}))
    assert fetch(server.url, sha256=DIGEST).read_bytes() == DATA
    assert server.requests == [f"bytes={len(DATA)}-"]


def test_a_part_of_something_else_is_not_used(server, cache):
    path = cached_path(server.url, "net.pkl")
    path.parent.mkdir(parents=True)
    path.with_name("net.pkl.part").write_bytes(b"x" * 100)
    path.with_name("net.pkl.part.json").write_text(json.dumps({"url": "http://elsewhere/", "size": len(DATA)}))
    assert fetch(server.url, filename="net.pkl").read_bytes() == DATA


def test_a_wrong_hash_is_refused_and_nothing_is_kept(server, cache):
    with pytest.raises(ChecksumError, match=f"{DIGEST}, expected {'0' * 64}"):
        fetch(server.url, sha256="0" * 64)
    assert leftovers(cache) == [".lock"]


def test_the_first_hash_is_noted_and_holds_from_then_on(server, cache):
    path = fetch(server.url)
    note = path.with_name(path.name + ".sha256")
    assert note.read_text() == f"{DIGEST}  {path.name}\n"
    path.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(ChecksumError, match="Delete it and call again"):
        fetch(server.url)
    path.unlink()
    server.data = DATA[::-1]
    with pytest.raises(ChecksumError, match=DIGEST):
        fetch(server.url)
    note.unlink()
    assert fetch(server.url).read_bytes() == DATA[::-1]


def test_a_published_hash_outranks_the_noted_one(server, cache):
    path = fetch(server.url)
    path.with_name(path.name + ".sha256").write_text(f"{'0' * 64}  {path.name}\n")
    assert fetch(server.url, sha256=DIGEST.upper()) == path
    assert path.with_name(path.name + ".sha256").read_text().startswith(DIGEST)


def test_offline_says_what_to_fetch_and_where_to_put_it(cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/net.pkl"
    with pytest.raises(OfflineError) as caught:
        fetch(url, sha256=DIGEST)
    for part in (f"from {url}", f"to   {cached_path(url)}", f"expected sha256: {DIGEST}"):
        assert part in str(caught.value)
    with pytest.raises(OfflineError, match="not published"):
        fetch(url)
    cached_path(url).write_bytes(DATA)  # fetched by other means
    assert fetch(url, sha256=DIGEST).read_bytes() == DATA
    assert cached_path(url).with_name(cached_path(url).name + ".sha256").exists()


def test_a_server_that_falls_silent_counts_as_broken(cache):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/net.pkl"
        with pytest.raises(OfflineError, match="timed out"):
            fetch(url, timeout=0.3)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusal_says_so(server, status):
    server.status = status
    with pytest.raises(DownloadError, match=rf"answers {status} .*(?s:.*)Fetch it by other means"):
        fetch(server.url)
    assert len(server.requests) == 1


def test_a_disk_that_fills_is_named_and_what_has_arrived_is_kept(server, monkeypatch):
    part = cached_path(server.url).with_name(cached_path(server.url).name + ".part")

    class Small(io.FileIO):
        """A file on a disk with room for a million bytes."""

        def write(self, block):
            if self.tell() + len(block) > 1_000_000:
                super().write(block[:1_000_000 - self.tell()])
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(block)

    with monkeypatch.context() as patch:
        patch.setattr(_download, "open", lambda path, mode: (Small if path == part else open)(path, mode), raising=False)
        with pytest.raises(OutputError) as caught:
            fetch(server.url, sha256=DIGEST)
    assert str(caught.value) == (
        f"cannot write {part}: No space left on device (downloads are kept below PROBES_CACHE; 1000000 bytes have arrived and "
        "are kept, calling again goes on from there); free some space or choose another folder")
    assert fetch(server.url, sha256=DIGEST).read_bytes() == DATA and server.requests == [None, "bytes=1000000-"]


def test_a_cache_that_is_read_only_is_named_and_gives_what_it_holds(server, cache, monkeypatch):
    def read_only(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    path = fetch(server.url)
    path.with_name(path.name + ".sha256").unlink()
    monkeypatch.setattr("tempfile.mkstemp", read_only)
    assert fetch(server.url) == path                    # noting its hash is a service
    for owner, function in ((os, "mkdir"), (_download, "open")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, read_only, raising=False)
            named = r"cannot write .*/net.pkl.part: Read-only file system \(downloads are kept below PROBES_CACHE\); choose"
            with pytest.raises(OutputError, match=named):
                fetch(server.url, filename="net.pkl", cache_dir=cache / "new")


def _fetch(url: str, queue) -> None:
    queue.put(str(fetch(url)))


def test_two_processes_share_one_download(server, cache):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_fetch, args=(server.url, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    paths = {queue.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join(timeout=120)
    assert paths == {str(cached_path(server.url))} and server.requests == [None]


def test_the_public_catalogue_is_well_formed():
    entries = public()
    for name, entry in entries.items():
        assert entry.name == name and re.fullmatch(rf"({entry.family}|sd)-[a-z0-9-]+", name)
        assert entry.url.startswith("https://") and (entry.config_url or "https://").startswith("https://")
        assert entry.family in PACKAGES and 16 <= entry.resolution <= 1024
        assert entry.license and entry.description and entry.source.startswith("https://github.com/")
        assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        match = re.search(r"res(\d+)|-(\d+)x\d+\.pkl", entry.url)
        assert match is None or int(match[1] or match[2]) == entry.resolution
    assert len({entry.url for entry in entries.values()}) == len(entries)
    assert {entry.family for entry in entries.values()} == set(PACKAGES)
    assert entries["stylegan2-ffhq"].resolution == 256 and entries["vqgan-ffhq"].fid == 9.6
    assert entries["stylegan-xl-imagenet-256"].fid == 2.26
