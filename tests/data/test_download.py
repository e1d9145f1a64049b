"""Downloads from a local server that behaves as badly as real ones."""

import contextlib
import errno
import json
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from stratdiff.data import download
from stratdiff.errors import UserError

CONTENT = np.random.default_rng(0).bytes(1_500_000)


class Server(ThreadingHTTPServer):
    """Serves `content`; the attributes say how badly."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, '"one"'
        self.ranges = True  # whether Range is honoured
        self.cuts = []  # bytes after which each of the coming answers breaks off; None: it does not
        self.codes = []  # statuses of the coming answers, in place of the content
        self.extra = 0  # bytes that are announced and never sent
        self.requests = []  # headers of every request

    def handle_error(self, request, address):
        pass


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        if server.codes and (code := server.codes.pop(0)):
            self.send_error(code)
            return
        start = 0
        asked = self.headers["Range"]
        fresh = self.headers["If-Range"] in (None, server.etag)
        if server.ranges and asked and fresh:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) + server.extra))
        if start:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(body[:cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_WAITS", (0.0,) * 3)
    with Server() as server:
        server.url = f"http://127.0.0.1:{server.server_port}/set.hdf5"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "datasets" / "set.hdf5"


def refused(url, path, *words):
    with pytest.raises(UserError) as caught:
        download.fetch([url], path)
    message = str(caught.value)
    for word in (url, str(path), *words):
        assert word in message, (word, message)
    assert "\n" not in message
    assert not path.exists()
    return message


def left(path):
    lock = f".{path.name}.lock"  # stays, and is empty
    return sorted(file.name for file in path.parent.iterdir() if file.name != lock)


def test_whole_file_with_progress(server, path):
    calls = []
    download.fetch([server.url], path, lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert left(path) == ["set.hdf5"]
    done = [d for d, _ in calls]
    assert done == sorted(done) and len(done) > 2 and done[-1] == len(CONTENT)
    assert {t for _, t in calls} == {len(CONTENT)}
    assert "Range" not in server.requests[0]


def test_cut_downloads_go_on_where_they_broke_off(server, path):
    server.cuts = [400_000, 300_000, None]
    calls = []
    download.fetch([server.url], path, lambda done, total: calls.append(done))
    assert path.read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [None, "bytes=400000-", "bytes=700000-"]
    assert [r.get("If-Range") for r in server.requests] == [None, '"one"', '"one"']
    assert calls == sorted(calls)
    assert left(path) == ["set.hdf5"]


def test_the_part_is_kept_for_the_next_run(server, path):
    server.cuts = [100_000] * 4
    refused(server.url, path, "broke off after 400000 of 1500000 bytes", "run again")
    assert left(path) == ["set.hdf5.part", "set.hdf5.part.json"]
    note = json.loads(path.with_name("set.hdf5.part.json").read_text())
    assert note == {"validator": '"one"', "total": len(CONTENT)}
    server.requests.clear()
    download.fetch([server.url], path)
    assert path.read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == ["bytes=400000-"]


def test_a_server_without_ranges_starts_over(server, path):
    server.ranges = False
    server.cuts = [400_000, 300_000, None]
    download.fetch([server.url], path)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("before", "after", "content"),
    [
        ('"one"', '"two"', CONTENT[::-1]),
        ('"one"', '"one"', CONTENT[::-1] + b"more"),
        (None, None, CONTENT[::-1] + b"more"),
        ('W/"one"', 'W/"one"', CONTENT[::-1] + b"more"),
    ],
)
def test_a_file_that_changed_starts_over(server, path, before, after, content):
    """Told by the ETag; without a strong one, or with the old one, by the size."""
    server.etag = before
    server.cuts = [300_000] * 4
    refused(server.url, path, "broke off")
    server.content, server.etag = content, after
    download.fetch([server.url], path)
    assert path.read_bytes() == content
    assert left(path) == ["set.hdf5"]
    # HTTP allows no weak one in If-Range.
    assert {r.get("If-Range") for r in server.requests} <= {None, '"one"'}


def test_a_part_longer_than_the_file_starts_over(server, path):
    server.cuts = [1_000_000] + [0] * 3
    refused(server.url, path, "broke off")
    server.content = CONTENT[:500_000]  # the same ETag
    download.fetch([server.url], path)
    assert path.read_bytes() == server.content
    assert len(server.requests) == 6


@pytest.mark.parametrize("note", [None, "", "[]", "{}"])
def test_a_part_of_unknown_origin_starts_over(server, path, note):
    path.parent.mkdir()
    path.with_name("set.hdf5.part").write_bytes(b"x" * 1000)
    if note is not None:
        path.with_name("set.hdf5.part.json").write_text(note)
    download.fetch([server.url], path)
    assert path.read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [None]


def test_wrong_size(server, path):
    server.extra = 7
    server.ranges = False
    refused(server.url, path, "1500000 of 1500007 bytes")


def test_server_errors_are_tried_again(server, path):
    server.codes = [503, 429]
    download.fetch([server.url], path)
    assert path.read_bytes() == CONTENT
    server.requests.clear()
    server.codes = [500] * 9
    path.unlink()
    refused(server.url, path, "500 Internal Server Error")
    assert len(server.requests) == 4


@pytest.mark.parametrize(("code", "words"), [(404, "404 Not Found"), (403, "403 Forbidden")])
def test_refusals_are_final(server, path, code, words):
    server.codes = [code]
    refused(server.url, path, words, "by hand")
    assert len(server.requests) == 1
    assert left(path) == []


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_nothing_listens(path):
    """The real waits: a message at once."""
    refused(f"http://127.0.0.1:{free_port()}/set.hdf5", path, "Connection refused", "by hand")


def test_unknown_host(path, monkeypatch):
    def offline(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    refused("http://no-such-host.invalid/set.hdf5", path, "Name or service not known")


def test_the_network_may_come_back(server, path, monkeypatch):
    """After a cut a refused connection is tried again."""
    connect, calls = socket.create_connection, []

    def flaky(*arguments, **options):
        calls.append(None)
        if len(calls) == 2:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return connect(*arguments, **options)

    monkeypatch.setattr(socket, "create_connection", flaky)
    server.cuts = [400_000]
    download.fetch([server.url], path)
    assert path.read_bytes() == CONTENT
    assert len(calls) == 3


def test_silent_server(path, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.1)
    monkeypatch.setattr(download, "_WAITS", (0.0,))
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as sock:
        refused(f"http://127.0.0.1:{sock.getsockname()[1]}/set.hdf5", path, "timed out")


def test_no_space(server, path, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1_000_000))
    refused(server.url, path, "No space left on device", "has space")
    assert not path.with_name("set.hdf5.part").exists()


def test_folder_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("")
    refused(server.url, tmp_path / "file" / "set.hdf5", "could not be saved")


def test_a_file_that_is_there_is_kept(server, path):
    path.parent.mkdir()
    path.write_bytes(b"old")
    download.fetch([server.url], path)
    assert path.read_bytes() == b"old" and not server.requests


def test_downloads_that_start_together_are_one(server, path):
    start = threading.Barrier(3)

    def fetch(_):
        start.wait()
        download.fetch([server.url], path)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(fetch, range(3)))
    assert path.read_bytes() == CONTENT and left(path) == ["set.hdf5"]
    assert len(server.requests) == 1
