"""Made sets on disk: parts of several, names, the cache."""

import numpy as np
import pytest
from logged import arrays_of

from stratdiff.data import hdf5
from stratdiff.data.made import store
from stratdiff.data.sources import load_dataset
from stratdiff.errors import UserError

ROWS = 3000


@pytest.mark.slow
def test_medium_expert_is_both(cache):
    both = arrays_of(store.make("stratdiff/hopper-medium-expert", 2 * ROWS))
    medium, expert = (
        arrays_of(store.make(f"stratdiff/hopper-{v}", ROWS)) for v in ("medium", "expert")
    )
    cut = np.flatnonzero(medium["terminals"] + medium["timeouts"])[-1] + 1
    for key in both:
        np.testing.assert_array_equal(both[key], np.concatenate([medium[key][:cut], expert[key]]))


@pytest.mark.slow
def test_mixed_is_all_three(cache):
    mixed = arrays_of(store.make("stratdiff/hopper-mixed", 3 * ROWS + 1))
    parts = [
        arrays_of(store.make(f"stratdiff/hopper-{v}", n))
        for v, n in (("random", ROWS), ("medium", ROWS), ("expert", ROWS + 1))
    ]
    cuts = [np.flatnonzero(p["terminals"] + p["timeouts"])[-1] + 1 for p in parts[:2]] + [ROWS + 1]
    for key in mixed:
        whole = np.concatenate([p[key][:cut] for p, cut in zip(parts, cuts, strict=True)])
        np.testing.assert_array_equal(mixed[key], whole)


def test_names_that_do_not_exist(cache):
    with pytest.raises(UserError, match="stratdiff/hopper-medium") as error:
        store.make("stratdiff/hopper-medum")
    assert "'stratdiff/hopper-medum'" in str(error.value)
    with pytest.raises(UserError, match=r"--size is 1; it must be 2"):
        store.make("stratdiff/hopper-medium", 1)
    with pytest.raises(UserError, match="unknown data set"):
        load_dataset("stratdiff/hopper-medum")


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("STRATDIFF_CACHE", str(blocked / "inside"))
    with pytest.raises(UserError, match="STRATDIFF_CACHE"):
        store.make("stratdiff/hopper-random", 100)


def test_metadata(cache):
    import mujoco

    about = hdf5.read_attributes(store.make("stratdiff/hopper-random", 500, seed=4))
    assert about["name"] == "stratdiff/hopper-random"
    assert (about["seed"], about["env_id"]) == (4, "Hopper-v4")
    assert about["mujoco"] == mujoco.__version__


def test_runs_that_start_together_make_a_set_once(cache):
    # Threads have their own file descriptions, so the lock holds between them as between processes.
    from concurrent.futures import ThreadPoolExecutor

    made, real = [], store._make

    def count(*args):
        made.append(args)
        real(*args)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(store, "_make", count)
        paths = list(
            pool.map(lambda _: store.make("stratdiff/hopper-random", 500, jobs=1), range(3))
        )
    assert len(set(paths)) == len(made) == 1


def test_a_damaged_set_is_made_again(cache):
    path = store.make("stratdiff/hopper-random", 500, jobs=1)
    before = arrays_of(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert store.make("stratdiff/hopper-random", 500, jobs=1) == path
    for key, array in arrays_of(path).items():
        np.testing.assert_array_equal(array, before[key])
    made = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes()[:-10])  # an earlier version's: without a checksum
    kept = path.stat().st_mtime_ns
    store.make("stratdiff/hopper-random", 500, jobs=1)
    assert path.stat().st_mtime_ns == kept != made
