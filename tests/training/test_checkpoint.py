"""Checkpoints: of another version, of another config, damaged; only the last two are kept."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

import stratdiff
from stratdiff.errors import RunStopped, UserError
from stratdiff.training.checkpoint import FORMAT, Checkpoints, Position


def test_resume_of_another_versions_checkpoint_says_so(small_run, tmp_path):
    copy = runs.copy(small_run, tmp_path / "copy")
    for meta in copy.glob("checkpoints/*/meta/metadata"):
        meta.write_text('{"format": 2, "phase": "online", "versions": {"stratdiff": "0.0"}}')
    said = f"checkpoint of format 2, this version reads format {FORMAT}.*'stratdiff': '0.0'"
    with pytest.raises(UserError, match=said):
        stratdiff.resume(copy, reporter=runs.QUIET)


def test_resume_with_a_changed_config_says_so(small_run, tmp_path):
    copy = runs.copy(small_run, tmp_path / "copy")
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace('"online_steps": 120', '"online_steps": 200'))
    said = r"config.json of '.*copy' was changed: it has online_steps 200, not 120"
    with pytest.raises(UserError, match=said):
        stratdiff.resume(copy, reporter=runs.QUIET)


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(small_run, tmp_path):
    copy = runs.copy(small_run, tmp_path / "run")
    older, newest = sorted(int(p.name) for p in (copy / "checkpoints").iterdir())
    for path in (copy / f"checkpoints/{newest}/meta").iterdir():
        path.write_bytes(b"")
    again = stratdiff.resume(copy, reporter=runs.QUIET)
    assert again.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]
    assert runs.log_points(copy) == runs.log_points(small_run.directory)
    assert (copy / f"damaged-checkpoint-{newest}").is_dir()
    for path in (copy / f"checkpoints/{older}/meta").iterdir():
        path.write_bytes(b"")
    for path in (copy / f"checkpoints/{newest}/meta").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint that can be read"):
        stratdiff.resume(copy, reporter=runs.QUIET)


def test_a_finished_run_without_checkpoints_is_left_as_it_is(small_run, tmp_path):
    """A run that was fetched from the hub has none."""
    copy = runs.copy(small_run, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints")
    before = {p: p.is_file() and p.read_bytes() for p in copy.rglob("*")}
    with pytest.raises(UserError, match="is finished, and without its checkpoints it cannot go on"):
        stratdiff.resume(copy, reporter=runs.QUIET)
    assert {p: p.is_file() and p.read_bytes() for p in copy.rglob("*")} == before


def test_an_unfinished_run_without_checkpoints_begins_again(small_run, tmp_path, capsys):
    copy = runs.copy(small_run, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints")
    (copy / "summary.json").unlink()
    result = stratdiff.resume(copy)
    assert "has no checkpoint; it begins again" in capsys.readouterr().err
    assert result.summary["parameters_sha256"] == small_run.summary["parameters_sha256"]


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "run" / "checkpoints")
    yield made
    made.close()


def test_what_was_saved_comes_back_and_the_last_two_are_kept(checkpoints):
    assert checkpoints.restore({"a": jnp.zeros(3)}) is None
    position = Position("online", 7, episodes=[1, 2], seconds={"base": 1.5}, log_points=4)
    for step in (10, 20, 30):
        position.total_steps = step
        state = {"a": jnp.full(3, float(step)), "b": (jnp.arange(2),)}
        checkpoints.save(state, position)
    found, where = checkpoints.restore({"a": jnp.zeros(3), "b": (jnp.zeros(2, jnp.int32),)})
    np.testing.assert_array_equal(found["a"], [30, 30, 30])
    np.testing.assert_array_equal(found["b"][0], [0, 1])
    assert where == position
    (checkpoints.directory / "40.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    checkpoints.close()  # what could not be written whole goes
    assert sorted(int(p.name) for p in checkpoints.directory.iterdir()) == [20, 30]


def test_without_a_step_nothing_is_saved_again(checkpoints):
    position = Position(total_steps=10)
    checkpoints.save({"a": jnp.zeros(3)}, position)
    checkpoints.save({"a": jnp.ones(3)}, position)
    found, _ = checkpoints.restore({"a": jnp.zeros(3)})
    np.testing.assert_array_equal(found["a"], np.zeros(3))


def test_the_state_is_copied_when_it_is_saved(checkpoints):
    """The next update donates the state's buffers while the disk is still being written."""
    state = np.zeros(3, np.float32)
    checkpoints.save({"a": state}, Position(total_steps=1))
    state[:] = 5
    found, _ = checkpoints.restore({"a": jnp.zeros(3)})
    np.testing.assert_array_equal(found["a"], np.zeros(3))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"a": np.zeros(4, np.float32)}, r"at \['a'\]: found float32\[3\], expected float32\[4\]"),
        ({"a": np.zeros(3, np.int32)}, r"found float32\[3\], expected int32\[3\]"),
        ({}, r"at \['a'\]: found float32\[3\], expected nothing"),
        (
            {"a": np.zeros(3, np.float32), "b": np.zeros(1, np.float32)},
            r"at \['b'\]: found nothing, expected float32\[1\]",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_array(checkpoints, template, said):
    checkpoints.save({"a": jnp.zeros(3)}, Position(total_steps=1))
    with pytest.raises(UserError, match=said):
        checkpoints.restore(template)


# Damage

STATE = {"a": jnp.arange(300.0), "b": (jnp.zeros((2, 3), jnp.int32), jnp.ones((), bool))}


@pytest.fixture
def two(checkpoints):
    """Two checkpoints, at steps 10 and 20."""
    for step in (10, 20):
        checkpoints.save(STATE, Position(total_steps=step, options={"seeds": (0,)}))
    checkpoints.close()
    return checkpoints.directory


def reopened(directory):
    again = Checkpoints(directory)
    try:
        return again.restore(STATE), again.damaged
    finally:
        again.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damaged_byte_is_taken_for_another_value(two, tmp_path):
    """In every file of the newest checkpoint: found, or nothing that is read."""
    fallen_back = 0
    files = [path for path in (two / "20").rglob("*") if path.is_file()]
    for path in files:
        whole = path.read_bytes()
        for place in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1} if whole else ():
            damaged = bytearray(whole)
            damaged[place] ^= 4
            path.write_bytes(damaged)
            (state, position), aside = reopened(two)
            assert position.total_steps == (10 if aside else 20)
            np.testing.assert_array_equal(state["a"], STATE["a"])
            for folder in aside:  # back in its place, mended
                fallen_back += 1
                folder.rename(two / "20")
            path.write_bytes(whole)
    assert fallen_back >= len(files) / 2


def test_a_changed_number_beside_the_arrays_is_damage(two):
    (meta,) = (two / "20").glob("meta/metadata")
    meta.write_text(meta.read_text().replace('"log_points": 0', '"log_points": 1'))
    (_, position), aside = reopened(two)
    assert position.total_steps == 10 and len(aside) == 1


def test_names_of_damaged_checkpoints_that_are_taken_do_not_block(two):
    run = two.parent
    (run / "damaged-checkpoint-20").mkdir()
    (run / "damaged-checkpoint-20" / "file").touch()
    (run / "damaged-checkpoint-20-2").touch()
    for path in (two / "20" / "meta").iterdir():
        path.write_bytes(b"")
    (_, position), aside = reopened(two)
    assert position.total_steps == 10
    assert aside == [run / "damaged-checkpoint-20-3"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": -1},
        {"step": 1.5},
        {"log_points": True},
        {"total_steps": "3"},
        {"episodes": [1, -1]},
        {"episode_lengths": [None]},
        {"seconds": {"base": -1.0}},
        {"online_seconds": {"python": float("nan")}},
        {"phase": "dream"},
    ],
)
def test_a_position_that_cannot_be_is_damage(wrong):
    position = Position()
    vars(position).update(wrong)
    with pytest.raises(ValueError, match=r"count|time|phase"):
        position.check({"base", "online"})
    Position("online", 3, 10, 2, {"base": 1.0}, {}, [1], [0]).check({"base", "online"})


def test_a_position_comes_back_to_the_bit(checkpoints):
    totals = [[[0.1 + 0.2, float("nan")]], [3], [[-1, 7]]]
    saved = Position(total_steps=5, options={"iql": {"hidden": [8, 8]}}, totals=totals)
    checkpoints.save(STATE, saved)
    _, found = checkpoints.restore(STATE)
    assert json.dumps(dataclasses.asdict(found)) == json.dumps(dataclasses.asdict(saved))


def test_a_disk_without_space_for_it_never_reaches_orbax(checkpoints, monkeypatch):
    usage = shutil.disk_usage("/")
    needed = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(STATE))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed))
        with pytest.raises(RunStopped, match="could not be written \\(No space left on device\\)"):
            checkpoints.save(STATE, Position(total_steps=1))
        assert [*checkpoints.directory.iterdir()] == []
    checkpoints.save(STATE, Position(total_steps=1))
    checkpoints.close()
    assert [path.name for path in checkpoints.directory.iterdir()] == ["1"]


@pytest.mark.parametrize("method", ["save", "wait_until_finished"])
def test_what_orbax_cannot_write_is_one_sentence(tmp_path, monkeypatch, method, caplog):
    checkpoints = Checkpoints(tmp_path / "checkpoints")

    def fail(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: x/y: No space left on device [OS error 28]\n...")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, method, fail)
        with pytest.raises(RunStopped) as caught:
            checkpoints.save(STATE, Position(total_steps=1))
            checkpoints.close()
    said = f"{str(tmp_path / 'checkpoints')!r} could not be written (No space left on device); "
    assert str(caught.value).startswith(said)
    checkpoints.close()
