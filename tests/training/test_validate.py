"""The critic on held-out transitions, against a loop over them in NumPy."""

import jax
import numpy as np
import runs

import stratdiff
from stratdiff.sinks.jsonl import read_metrics
from stratdiff.training.session import Session


def test_means_over_the_held_out_trajectories(tiny, tmp_path):
    """Without an environment and without online steps: offline training alone."""
    config = tiny(
        score="none", online_steps=0, eval_episodes=0, validation_fraction=0.3,
        offline_steps=40, seeds=(0, 4), env="NotInstalled-v0",
    )  # fmt: skip
    dataset = stratdiff.load_dataset(config.dataset)
    with Session(config, tmp_path / "run", reporter=runs.QUIET, dataset=dataset) as session:
        session.pretrain()
        discount, state = session.setup.algorithm.agent.discount, session.state.learned.agent
        mean, std = np.asarray(session.data.mean), np.asarray(session.data.std)
        scale = session.units.scale
        result = session.finish()
    assert result.scores == {} and result.summary["environment"] == "NotInstalled-v0"
    kept, held = dataset.hold_out(0.3)
    assert len(kept) + len(held) == len(dataset)
    np.testing.assert_allclose(mean, kept.observations[kept.transitions].mean(0), rtol=1e-4)

    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    rows = held.transitions
    obs, after = ((held.observations[i] - mean) / std for i in (rows, rows + 1))
    for seed in range(2):
        critic = jax.tree.map(lambda x, i=seed: np.asarray(x[i], float), state.target_critic)

        def q(obs, action, critic=critic):
            """The smaller of the two critics, layer by layer."""
            x = np.stack([np.concatenate([obs, action], 1)] * 2)
            *hidden, last = critic.members.layers
            for layer in hidden:
                x = np.maximum(x @ layer.weight + layer.bias[:, None], 0)
            return (x @ last.weight + last.bias[:, None])[..., 0].min(0)

        def act(rows, seed=seed):
            return result.policy.mode(held.observations[rows][None].repeat(2, 0))[seed]

        here = q(obs, held.actions[rows])
        later = np.where(held.terminals[rows], 0, q(after, act(rows + 1)))
        error = scale * held.rewards[rows] + discount * later - here
        found = {"q": here, "td_error": error**2, "advantage": q(obs, act(rows)) - here}
        for name, values in found.items():
            given = last[f"validation_{name}"][seed]
            np.testing.assert_allclose(given, values.mean(), rtol=2e-4, atol=2e-5)
