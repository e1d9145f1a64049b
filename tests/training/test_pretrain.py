"""Pre-training: phases in scans, seeds side by side, what the score stores with D_off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from steps import same, setup

from stratdiff.phases import StorePhase
from stratdiff.training import pretrain
from stratdiff.training.state import stream


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere seeds are vmapped")
@pytest.mark.parametrize(
    "phase", ["base", *(pytest.param(p, marks=pytest.mark.slow) for p in ("behaviour", "energy"))]
)
def test_a_seed_among_others_has_the_bits_of_its_own_run(tiny, phase):
    config = tiny(base="calql", score="none" if phase == "base" else "guided")

    def after(seeds):
        made, state, data, stored = setup(config, seeds)
        return pretrain.run_steps(made, phase, state, data, stored, jnp.asarray(0), 5)

    start = setup(config, (2,))[1]
    both, alone = after((0, 2)), after((2,))
    assert same(jax.tree.map(lambda x: x[1:], both), alone)
    assert not same(alone[0], start)


@pytest.mark.slow
def test_a_phase_trains_its_own_part_and_no_other(tiny):
    made, state, data, stored = setup(tiny())
    for phase in made.algorithm.phases():
        if isinstance(phase, StorePhase):
            continue
        before = jax.tree.map(np.asarray, state)
        state, total = pretrain.run_steps(made, phase.name, state, data, stored, jnp.asarray(0), 2)
        changed = pretrain.with_part(state, phase, pretrain.trained_part(before, phase))
        assert same(changed, before)
        assert not same(state, before)
        assert total.count.tolist() == [2]


def test_support_of_a_transition_does_not_depend_on_its_neighbours(tiny):
    made, state, data, support = setup(tiny())
    index = 123
    keys = jax.vmap(lambda s: stream(s, "support", index))(state.seed)
    obs = data.states(data.rows[index])[None]
    one = jax.tree.map(lambda x: x[0], state.learned.score)
    alone = made.algorithm.score.store(one, obs, keys)
    np.testing.assert_allclose(alone[0], support[0, index], rtol=1e-4, atol=1e-5)
    assert np.ptp(np.asarray(support[0, index]), axis=0).max() > 0
