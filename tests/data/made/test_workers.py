"""The same bits with any number of processes; a cut loses little."""

import numpy as np
import pytest
from logged import KEYS, arrays_of

from stratdiff.data.made import lanes, recipes, store, workers
from stratdiff.errors import RunStopped, UserError

ROWS = 3000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"), [("hopper-medium-replay", 10_000), ("antmaze-umaze", 6000)]
)
def test_the_same_bits_with_any_number_of_processes(cache, name, rows, monkeypatch):
    keys = (*KEYS, "infos/goal")
    found, spawned, real = [], [], workers._spawn
    monkeypatch.setattr(workers, "_spawn", lambda *a: spawned.append(len(a[2])) or real(*a))
    for jobs in (1, 3):
        path = store.make(f"stratdiff/{name}", rows, jobs=jobs)
        found.append(arrays_of(path, keys))
        path.unlink()
    assert found[0].keys() == found[1].keys()
    for key in found[0]:
        np.testing.assert_array_equal(found[0][key], found[1][key])
    assert spawned == [2]  # as many as there are chunks
    assert len(found[0]["rewards"]) == rows
    other = arrays_of(store.make(f"stratdiff/{name}", rows, seed=1))
    assert (other["observations"] != found[0]["observations"]).any()
    left = {p.name for p in cache.iterdir()}
    assert {n for n in left if not n.endswith(".lock")} == {
        store.cached(f"stratdiff/{name}", rows, 1).name
    }


@pytest.mark.slow
def test_interrupted_generation_goes_on(cache, monkeypatch):
    name, rows = "stratdiff/hopper-random", 10_000
    made, real = [], lanes.Part.chunk

    def chunk(self, number, before, tick):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(number)
        return real(self, number, before, tick)

    monkeypatch.setattr(lanes.Part, "chunk", chunk)
    with pytest.raises(KeyboardInterrupt):
        store.make(name, rows, jobs=1)
    assert not list(cache.glob("*.hdf5"))
    assert len(list(cache.glob("*/*.npz"))) == 1
    calls = []
    monkeypatch.setattr(lanes.Part, "chunk", lambda s, n, b, t: calls.append(n) or real(s, n, b, t))
    again = arrays_of(store.make(name, rows, jobs=1))
    assert made == [0] and calls == [1]
    monkeypatch.undo()
    monkeypatch.setenv("STRATDIFF_CACHE", str(cache / "other"))
    fresh = arrays_of(store.make(name, rows, jobs=1))
    for key in fresh:
        np.testing.assert_array_equal(again[key], fresh[key])


def test_a_damaged_chunk_is_made_again(cache, monkeypatch):
    made = []

    def chunk(self, number, before, tick):
        made.append(number)
        return {"rewards": np.arange(80) + 100 * number, "lanes": np.full(8, 10)}

    monkeypatch.setattr(lanes.Part, "chunk", chunk)
    part = lanes.Part(recipes.find("stratdiff/antmaze-umaze"), 10_000, 0)
    whole = workers.collect(part, cache, 1, None)["rewards"]
    kept = (cache / "0.npz").read_bytes()
    flipped = bytearray(kept)
    flipped[len(kept) // 2] ^= 1  # found by the checksum of the zip file
    for damage in (b"", b"no zip", bytes(flipped)):
        (cache / "0.npz").write_bytes(damage)
        made.clear()
        np.testing.assert_array_equal(workers.collect(part, cache, 1, None)["rewards"], whole)
        assert made == [0]


def test_a_process_that_is_killed_is_a_sentence(cache, monkeypatch):
    part = lanes.Part(recipes.find("stratdiff/hopper-random"), 100_000, 0)
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    real = workers.subprocess.Popen
    monkeypatch.setattr(
        workers.subprocess, "Popen", lambda command, **o: real([command[0], "-c", code], **o)
    )
    with pytest.raises(RunStopped, match=r"hopper-random ended with -9 .*run the command again"):
        workers._spawn(part, cache, [[0], [1]], lambda *_: None)


def test_worker_errors_reach_the_user(cache, monkeypatch):
    # A chunk that cannot be written in a process of its own.
    part = lanes.Part(recipes.find("stratdiff/hopper-random"), 100_000, 0)
    with pytest.raises(UserError, match="could not be written"):
        workers._spawn(part, cache / "missing", [[0], [1]], lambda *_: None)
