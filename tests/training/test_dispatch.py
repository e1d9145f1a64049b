"""A compiled step with a flat state: results, donation, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stratdiff.training.dispatch import Carried


def count(carry, constant, new):
    total, (steps,) = carry["total"], carry["steps"]
    return {"total": total + constant["factor"] * new, "steps": (steps + 1,)}


def start(value):
    return {"total": jnp.full(3, value, jnp.float32), "steps": (jnp.zeros((), jnp.int32),)}


def test_steps_are_carried():
    carried = Carried(count, start(1.0), {"factor": jnp.asarray(2.0)})
    for new in (1, 2, 3):
        carried(np.float32(new))
    np.testing.assert_array_equal(carried.carry["total"], np.full(3, 13.0))
    assert int(carried.leaf(lambda carry: carry["steps"][0])) == 3
    np.testing.assert_array_equal(carried.leaf(lambda carry: carry["total"]), np.full(3, 13.0))


def test_it_goes_on_from_what_it_is_given():
    carried = Carried(count, start(1.0), {"factor": jnp.asarray(2.0)})
    carried(np.float32(1))
    carried.set(start(5.0), {"factor": jnp.asarray(1.0)})
    carried(np.float32(1))
    np.testing.assert_array_equal(carried.carry["total"], np.full(3, 6.0))


def test_the_carry_is_donated():
    first = start(1.0)
    carried = Carried(count, first, {"factor": jnp.asarray(2.0)})
    carried(np.float32(1))
    assert first["total"].is_deleted()
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(first["total"])


def test_a_step_is_compiled_once_for_all_its_loops():
    traced = []

    def step(carry, constant, new):
        traced.append(new)
        return count(carry, constant, new)

    for _ in range(2):
        carried = Carried(step, start(0.0), {"factor": jnp.asarray(2.0)})
        for new in (1, 2):
            carried(np.float32(new))
    assert len(traced) == 1
    assert jax.tree.structure(carried.carry) == jax.tree.structure(start(0.0))
