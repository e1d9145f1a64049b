"""Files on the Hugging Face hub: a run's, and data sets'. The library does the transfer.

What is fetched is somebody else's: only files of the names that are wanted are taken, their sizes
are looked at first, and `reading` reads them. Endpoint, token and cache are the library's own
(HF_ENDPOINT, HF_TOKEN, HF_HOME).
"""

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stratdiff.errors import RunStopped, UserError, last_line, some

PREFIX = "hf://"
"""How names start: `hf://owner/repo`, `hf://owner/repo@revision/file`."""
POLICY, CARD = "policy.safetensors", "README.md"
RUN = (POLICY, "config.json", "summary.json", "metrics.jsonl", "curves.png")
"""The files of a run that are pushed and pulled, beside its films and the card."""
LIMIT = 2**31
"""Bytes that the files of a run may have together."""
_FILM = re.compile(r"\w[\w .-]*\.(mp4|gif)")
_LOG_IN = "log in with `hf auth login`, or give a token in the environment variable HF_TOKEN"


def is_name(text: Any) -> bool:
    """Whether something stands for a place on the hub."""
    return isinstance(text, str) and text.startswith(PREFIX)


def is_film(name: str) -> bool:
    """Whether the file of a run is a film that is pushed with it."""
    return _FILM.fullmatch(name) is not None


def check(name: str) -> None:
    """Refuse what is no `owner/repo`.

    Raises:
        UserError: it is not, or the library is not installed.
    """
    if _repository(name).path_in_repo:
        raise UserError(f"{name!r} names a file; expected owner/repo.")


def local(name: str, only: tuple[str, ...] = ()) -> Path:
    """The run directory, or the file in it, that a command was given; one on the hub is fetched.

    It lies in the library's cache, and is taken from there where the hub cannot be reached.
    `only`: names of files, instead of all those of a run.

    Raises:
        UserError: see `download`.
        RunStopped: see `download`; it was not fetched before either.
    """
    if not is_name(name):
        return Path(name)
    uri = _parse(name)
    file = str(uri.path_in_repo)
    try:
        found = download(name, (file,) if file else only)
    except RunStopped:
        with _asking(name):
            from huggingface_hub import try_to_load_from_cache

            place = {"repo_id": uri.id, "revision": uri.revision, "repo_type": "model"}
            cached = try_to_load_from_cache(filename=file or POLICY, **place)
        if not isinstance(cached, str):
            raise
        found = {file or POLICY: Path(cached)}
    path = found[file] if file else next(iter(found.values()))
    return path if file else path.parent


def download(name: str, only: tuple[str, ...] = ()) -> dict[str, Path]:
    """The files of a run on the hub by their names, in the library's cache.

    `name`: `owner/repo`, with or without `hf://` before it and `@revision` behind it; `only`: these
    files, all of which must be there.

    Raises:
        UserError: there is no such repository or file for this user, it holds no policy, or its
            files are too large.
        RunStopped: the hub cannot be reached.
    """
    uri = _repository(name)
    sizes = _sizes(uri)
    missing = [file for file in only or (POLICY,) if file not in sizes]
    if missing:
        raise UserError(
            f"{name!r} has no file {missing[0]!r} (found: {some(sizes)}); give a repository that "
            "`stratdiff push` has made."
        )
    wanted = only or [file for file in sizes if file in (*RUN, CARD) or is_film(file)]
    total = sum(sizes[file] for file in wanted)
    if total > LIMIT:
        raise UserError(
            f"{name!r} has {total / 2**30:,.1f} GiB of a run's files, and a run has less than "
            f"{LIMIT / 2**30:.0f}; it is not one that `stratdiff push` has made."
        )
    return {file: _fetch(uri, file, sizes[file]) for file in wanted}


@functools.cache
def data_file(name: str, limit: int) -> Path:
    """A file of a data set repository, `hf://owner/repo/file`, of at most `limit` bytes.

    It lies in the library's cache, and is taken from there where the hub cannot be reached. A
    process asks for it once.

    Raises:
        UserError: there is none for this user, or it is larger.
        RunStopped: the hub cannot be reached, and it was not fetched before.
    """
    uri, cached = _parse(name, "dataset"), cached_data_file(name)
    file = uri.path_in_repo
    try:
        sizes = _sizes(uri)
    except RunStopped:
        if cached is None:
            raise
        return cached
    if file not in sizes:
        raise UserError(f"{name!r} is not on the hub; the repository has {some(sizes)}.")
    if sizes[file] > limit:
        raise UserError(
            f"{name!r} has {sizes[file] / 2**30:,.1f} GiB and this machine has memory for "
            f"{limit / 2**30:,.1f}; use a smaller set, or a larger machine."
        )
    return _fetch(uri, file, sizes[file])


def cached_data_file(name: str) -> Path | None:
    """Where `data_file` has put a file before; None: nowhere."""
    uri = _parse(name, "dataset")
    if not uri.path_in_repo:
        raise UserError(f"{name!r} names no file; give hf://owner/repo/FILE.hdf5.")
    with _asking(name):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(uri.id, uri.path_in_repo, None, uri.revision, "dataset")
    return Path(found) if isinstance(found, str) else None


def upload(name: str, files: Mapping[str, Path | bytes], private: bool, message: str) -> str:
    """Make the repository `owner/repo` if there is none, and commit the files; its address.

    Raises:
        UserError: this user may not, or `private` is wanted and the repository is a public one.
        RunStopped: the hub cannot be reached.
    """
    uri = _repository(name)
    with _asking(name):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        made = api.create_repo(uri.id, private=private or None, exist_ok=True)
        if private and not api.repo_info(made.repo_id).private:
            raise UserError(
                f"{name!r} is there already and is public, so --private cannot hold; make it "
                "private on the hub, or give another name."
            )
        api.create_commit(
            made.repo_id,
            [CommitOperationAdd(file, _given(content)) for file, content in files.items()],
            commit_message=message,
        )
        return str(made)


def _given(content: Path | bytes) -> str | bytes:
    return content if isinstance(content, bytes) else str(content)


def _repository(name: str) -> Any:
    """As `_parse`, where `hf://` may be left out."""
    return _parse(name if is_name(name) else PREFIX + name)


def _parse(name: str, kind: str = "model") -> Any:
    """The library's record of a name: `id`, `revision`, `path_in_repo`.

    A data set's may stand with and without `datasets/`.
    """
    with _asking(name):
        from huggingface_hub.errors import HfUriError
        from huggingface_hub.utils import parse_hf_uri, validate_repo_id

        text = name
        if kind == "dataset" and not name.startswith(f"{PREFIX}datasets/"):
            text = f"{PREFIX}datasets/{name.removeprefix(PREFIX)}"
        try:
            uri = parse_hf_uri(text)
            validate_repo_id(uri.id)
            if uri.type != kind:
                raise ValueError(f"it is a {uri.type}'s, not a {kind}'s")
        except (HfUriError, ValueError) as error:
            raise UserError(
                f"{name!r} is no name of a repository on the hub ({last_line(error)}); expected "
                "owner/repo."
            ) from error
        return uri


def _sizes(uri: Any) -> dict[str, int]:
    """The size of every file of a repository."""
    with _asking(str(uri.id)):
        from huggingface_hub import HfApi

        kind = {"repo_type": uri.type, "revision": uri.revision}
        info: Any = HfApi().repo_info(uri.id, **kind, files_metadata=True)
        return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _fetch(uri: Any, file: str, size: int) -> Path:
    with _asking(f"{uri.id}/{file}"):
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(uri.id, file, repo_type=uri.type, revision=uri.revision))
    if path.stat().st_size != size:
        raise UserError(
            f"{uri.id}/{file} changed while it was fetched; run the same command again."
        )
    return path


@contextlib.contextmanager
def _asking(name: str) -> Iterator[None]:
    """Turn what the library raises into one sentence.

    Raises:
        UserError: the library is not installed, or the hub has nothing of the name for this user.
        RunStopped: the hub cannot be reached.
    """
    try:
        from huggingface_hub import constants, errors
        from huggingface_hub.utils import logging
    except ImportError as error:
        raise UserError(
            f"{name!r} is on the hub, which needs huggingface_hub, and that is not installed; "
            "pip install 'stratdiff[hub]'."
        ) from error
    logging.set_verbosity_error()  # of every attempt to reach it
    try:
        yield
    except UserError:
        raise
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise UserError(f"{name!r} has no such revision or file ({_said(error)}).") from error
    except (errors.RepositoryNotFoundError, errors.LocalTokenNotFoundError) as error:
        raise UserError(
            f"{name!r} is not on {constants.ENDPOINT}, or not for this user ({_said(error)}); "
            f"check the name, and {_LOG_IN}."
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"{name!r}: {constants.ENDPOINT} refuses this user ({_said(error)}); {_LOG_IN} "
                "that may write there."
            ) from error
        raise _unreachable(name, constants.ENDPOINT, error) from error
    except Exception as error:  # of the network, by its libraries
        raise _unreachable(name, constants.ENDPOINT, error) from error


def _unreachable(name: str, endpoint: str, error: Exception) -> RunStopped:
    return RunStopped(
        f"{name!r}: {endpoint} could not be reached, or gave no answer ({_said(error)}); check the "
        "network and HF_ENDPOINT, and run the same command again."
    )


def _said(error: Exception) -> str:
    """The first line of an error."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
