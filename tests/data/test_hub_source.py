"""Data sets on a hub of the test."""

import fakehub
import pytest

from stratdiff import hub as transfer
from stratdiff.data import hdf5, sources
from stratdiff.errors import RunStopped, UserError

FILE = "deep/clumsy.hdf5"


@pytest.fixture
def hub(monkeypatch, tmp_path, data_file):
    transfer.data_file.cache_clear()
    with fakehub.serving(monkeypatch, tmp_path / "cache", token="") as hub:
        hub.put("me/data", {FILE: data_file.read_bytes()}, "dataset")
        yield hub
    transfer.data_file.cache_clear()


@pytest.mark.parametrize("kind", ["", "datasets/"])
def test_a_file_of_a_repository(hub, data_file, kind):
    name = f"hf://{kind}me/data/{FILE}"
    dataset = sources.load(name)
    assert dataset.fingerprint == hdf5.read(data_file).fingerprint
    assert dataset.name == name
    assert dataset.env_id == sources.environment_of(name) == hdf5.read(data_file).env_id
    assert sources.absolute(name) == name and not sources.is_file(name)
    source, entry = sources.locate(name)
    assert source.local(entry).read_bytes() == data_file.read_bytes()
    asked = len(hub.asked)
    sources.load(name)
    assert len(hub.asked) == asked  # once a process
    transfer.data_file.cache_clear()
    hub.down = True
    assert sources.load(name).fingerprint == dataset.fingerprint  # and without the hub


def test_what_is_refused(hub, monkeypatch):
    hub.put("me/data", {"page.hdf5": b"<html>"}, "dataset")
    for name, said in (
        ("hf://me/data/other.hdf5", r"not on the hub; the repository has deep/clumsy.hdf5"),
        ("hf://me/data", "names no file"),
        ("hf://me", "expected owner/repo"),
        ("hf://me/none/x.hdf5", "HF_TOKEN"),
        ("hf://me/data/page.hdf5", "could not be opened as HDF5"),
    ):
        with pytest.raises(UserError, match=said):
            sources.load(name)
    hub.declared = {FILE: 2**60}
    with pytest.raises(UserError, match="this machine has memory for"):
        sources.load(f"hf://me/data/{FILE}")
    hub.down = True
    with pytest.raises(RunStopped, match="could not be reached"):
        sources.load(f"hf://me/data/{FILE}")
