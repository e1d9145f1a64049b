"""Checkpoints: of another version, of another config, damaged; only the last two are kept."""

import jax.numpy as jnp
import numpy as np
import pytest
import runs

import stratdiff
from stratdiff.errors import UserError
from stratdiff.training.checkpoint import FORMAT, Checkpoints, Position


def test_resume_of_another_versions_checkpoint_says_so(small_run, tmp_path):
    copy = runs.copy(small_run, tmp_path / "copy")
    for meta in copy.glob("checkpoints/*/meta/metadata"):
        meta.write_text(meta.read_text().replace(f'"format": {FORMAT}', '"format": 0'))
    said = f"checkpoint of format 0, this version reads format {FORMAT}"
    with pytest.raises(UserError, match=said):
        stratdiff.resume(copy, reporter=runs.QUIET)


def test_resume_with_a_changed_config_says_so(small_run, tmp_path):
    copy = runs.copy(small_run, tmp_path / "copy")
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace('"online_steps": 120', '"online_steps": 200'))
    with pytest.raises(UserError, match=r"does not fit its config.json"):
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
    checkpoints.close()
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
