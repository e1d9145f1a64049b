"""Download a file over HTTP: resumable, checked for size, renamed into place at the end."""

import errno
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stratdiff import reading
from stratdiff.data.sources import Progress
from stratdiff.errors import UserError
from stratdiff.files import lock_file

# Seconds before each further attempt.
_WAITS = (0.5, 1.0, 2.0, 4.0)
_TIMEOUT = 30.0
_BLOCK = 1 << 18


class _Cut(Exception):
    """The attempt failed; another one may succeed."""


class _Unreachable(_Cut):
    """No connection could be made."""


class _Failed(Exception):
    """This address does not give the file; another one may."""


def fetch(
    urls: Sequence[str],
    path: str | Path,
    progress: Progress | None = None,
    check: Callable[[Path], None] = lambda path: None,
) -> None:
    """Download the first of `urls` that has the file to `path`, unless that exists.

    A later call resumes from `<path>.part`. `progress` is told bytes; 0 in all where the server
    does not say. `check` raises `UserError` for a file that is not the one wanted, before it gets
    its name.

    Raises:
        UserError: no server can be reached, has the file and sends all of it; or it cannot be
            saved.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    by_hand = f"put the file at {str(path)!r} by hand"
    reasons = []
    try:
        with lock_file(path):
            if path.is_file():  # another process has downloaded it meanwhile
                return
            for url in urls:
                try:
                    _fetch(url, partial, progress, check)
                    os.replace(partial, path)
                    return _note(partial).unlink(missing_ok=True)
                except _Failed as failed:
                    reasons.append(f"{url} could not be downloaded ({failed})")
    except OSError as error:
        raise UserError(
            f"{urls[0]} could not be saved at {str(path)!r} ({error.strerror or error}); choose a "
            f"folder that can be written and has space, or {by_hand}."
        ) from error
    raise UserError(
        f"{'; '.join(reasons)}; check the network and run again, which resumes the download, name "
        f"another host with --mirror URL, or {by_hand}."
    )


def _fetch(
    url: str, partial: Path, progress: Progress | None, check: Callable[[Path], None]
) -> None:
    """Download one address into `partial`, which is then complete and checked."""
    if not url.startswith(("http://", "https://")):
        raise _Failed("an address begins with http:// or https://")
    for attempt in range(len(_WAITS) + 1):
        try:
            _attempt(url, partial, progress)
            break
        except _Cut as cut:
            # A machine that is offline is told at once, without retries.
            offline = attempt == 0 and isinstance(cut, _Unreachable)
            if offline or attempt == len(_WAITS):
                raise _Failed(str(cut)) from cut
            time.sleep(_WAITS[attempt])
        except urllib.error.HTTPError as error:
            error.close()
            raise _Failed(f"the server answers {error.code} {error.reason}") from error
        except ValueError as error:  # a malformed address
            raise _Failed(str(error)) from error
    try:
        check(partial)
    except UserError as error:
        _forget(partial)
        raise _Failed(f"what it sends is not the file: {error}") from error


def _attempt(url: str, partial: Path, progress: Progress | None) -> None:
    """Append to `partial` until it is complete.

    `_Cut`: it is not complete, or held another version and was removed. `HTTPError`: the server
    refuses for good. `OSError`: the file cannot be written.
    """
    done, known = _resumable(partial)
    headers = {"User-Agent": "stratdiff"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if known["validator"]:
            headers["If-Range"] = known["validator"]
    with _connect(urllib.request.Request(url, headers=headers), partial) as response:
        # What `If-Range` takes: a strong ETag, else the date.
        tag = response.headers["ETag"]
        strong = tag if tag and not tag.startswith("W/") else response.headers["Last-Modified"]
        found: dict[str, Any] = {"validator": strong, "total": None}
        if response.status == 206:
            span = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers["Content-Range"] or "")
            start, found["total"] = (int(span[1]), int(span[2])) if span else (None, None)
            if start != done or found != known:
                _forget(partial)
                raise _Cut("the file on the server changed in the middle")
        else:
            done = 0  # the server also sends all of it when it ignores Range
            length = response.headers["Content-Length"]
            found["total"] = int(length) if length else None
            _forget(partial)
            _note(partial).write_text(json.dumps(found))
        total = found["total"]
        if total is not None and shutil.disk_usage(partial.parent).free < total - done:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with partial.open("ab") as out:
            while block := _receive(response):
                out.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total or 0)
    if total not in (None, done):
        raise _Cut(f"the connection broke off after {done} of {total} bytes")


def _connect(request: urllib.request.Request, partial: Path) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the partial file is not the beginning of the server's file
            _forget(partial)
        elif error.code < 500 and error.code not in (408, 429):
            raise
        error.close()
        raise _Cut(f"the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        reason = error.reason
        words = reason.strerror if isinstance(reason, OSError) else None
        raise _Unreachable(words or str(reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(str(error) or type(error).__name__) from error


def _receive(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(str(error) or type(error).__name__) from error


def _note(partial: Path) -> Path:
    """The file that holds what the server said about the download in `partial`."""
    return partial.with_name(partial.name + ".json")


def _resumable(partial: Path) -> tuple[int, dict[str, Any]]:
    """(bytes already downloaded, what the server said then); 0 where that is not known."""
    try:
        known = reading.read_json(_note(partial), "note", reading.SMALL)
        return partial.stat().st_size, {key: known[key] for key in ("validator", "total")}
    except (UserError, OSError, LookupError, TypeError):
        return 0, {}


def _forget(partial: Path) -> None:
    for file in (partial, _note(partial)):
        file.unlink(missing_ok=True)
