"""What a run needs of the memory: counted by hand, told, and refused where it is not there."""

import jax
import numpy as np
import pytest

from stratdiff.config import make_config
from stratdiff.data.device import DeviceData
from stratdiff.errors import UserError
from stratdiff.training import memory
from stratdiff.training.state import Setup


def setup(base="iql", score="guided", capacity=100, **options):
    config = make_config("demo", base=base, score=score, dataset="memory", **options)
    return Setup(
        config.algorithm(11, 3, 1.0), 11, 3, 256, (128, 128), 100, 1, 0, capacity, 1000, None
    )


def data(rows):
    """`rows` transitions of 11 states and 3 actions."""
    wide, flat = np.zeros((rows, 11), np.float32), np.zeros(rows, np.float32)
    narrow, mean = np.zeros((rows, 3), np.float32), np.zeros(11, np.float32)
    arrays = (wide, narrow, flat, np.zeros(rows, bool), flat, np.zeros(rows, np.int32), mean, mean)
    return DeviceData(*map(jax.numpy.asarray, arrays))


@pytest.mark.parametrize("base", ["iql", "calql", "sac", "rebrac"])
def test_the_shapes_are_those_of_the_state(base):
    small = {base: {"actor_hidden": [8], "critic_hidden": [8]}, "behaviour": {"widths": [8, 8]}}
    made = setup(base, "none" if base == "sac" else "support", **small)
    shapes, state = made.shapes(), made._init_one(3)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for found, expected in zip(jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


def test_the_parts_are_counted():
    found = memory.needs(setup(capacity=1000), 2, data(500))
    # 8 support actions of 3 numbers with each row, for both seeds.
    assert found["stored with them"] == 2 * 500 * 8 * 3 * 4
    assert found["data"] == 500 * (4 * (11 + 3 + 1 + 1 + 1) + 1) + 2 * 11 * 4
    # States, actions, rewards, ends, returns-to-go and support actions; and a copy of them.
    row = 4 * (2 * 11 + 3 + 1 + 1 + 8 * 3) + 1
    assert found["replay buffers"] == 2 * 2 * (1000 * row + 4)
    more = memory.needs(setup(capacity=1000), 6, data(500))
    assert more["networks"] == 3 * found["networks"]


def test_the_line_names_what_is_needed_and_what_there_is(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 16 * 10**9)
    line = memory.check(setup(capacity=1_000_000), 5, data(500))
    assert line.startswith("memory ") and " GB of 16.00 GB (" in line and "replay buffers" in line


def test_more_than_there_is_is_refused_without_being_allocated():
    huge = setup(capacity=10**9, iql={"critic_hidden": [65_536] * 8})
    with pytest.raises(UserError, match=r"needs about [\d,]+\.\d+ GB of .* more than there is"):
        memory.check(huge, 1000, data(10))


def test_the_limit_of_a_control_group_counts(monkeypatch, tmp_path):
    whole = memory.available()
    assert whole > 2**28
    for text, expected in (("1000000", 1_000_000), ("max", whole), ("9" * 19, whole)):
        (tmp_path / "memory.max").write_text(f"{text}\n")
        monkeypatch.setattr(memory, "_GROUPS", (str(tmp_path / "memory.max"), "/nowhere"))
        assert memory.available() == pytest.approx(expected, rel=0 if text == "1000000" else 1)


def test_a_part_from_outside_that_draws_with_numpy_is_said_to_be_unknown(monkeypatch):
    made = setup()

    def init(self, key):
        return np.asarray(jax.random.key_data(key))

    monkeypatch.setattr(type(made.algorithm), "init", init)
    assert "not estimated" in memory.check(made, 1, data(10))
