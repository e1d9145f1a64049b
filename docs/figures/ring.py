"""Eight Gaussians on a ring: behaviour samples and guided samples against their targets.

`python docs/figures/ring.py` trains both models (a minute or two on a CPU core) and draws
docs/images/ring.png. tests/diffusion/test_ring.py checks the numbers with the same code.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from stratdiff.diffusion.behaviour import BehaviourConfig, BehaviourModel, BehaviourState
from stratdiff.diffusion.energy import EnergyConfig, EnergyModel, EnergyState
from stratdiff.diffusion.sampler import dpm_solver, guided

IMAGE = Path(__file__).parents[1] / "images" / "ring.png"

RADIUS, STD, MODES = 0.7, 0.05, 8
ANGLES = 2 * np.pi * np.arange(MODES) / MODES
CENTRES = RADIUS * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
BETA = 1.5
# Twice the default, so that what is left is training alone.
SOLVER_STEPS = 30
# (learning rate, share of the updates)
PHASES = ((3e-3, 0.6), (3e-4, 0.4))

Behaviour = tuple[BehaviourModel, BehaviourState]
Energy = tuple[EnergyModel, EnergyState]


def q_value(action: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
    """Q(a) = the first coordinate: right is better."""
    return action[..., 0]


def guided_weights() -> np.ndarray:
    """Mode weights of μ exp(β Q). With a linear Q and equal variances: ∝ exp(β Q(centre))."""
    weights = np.exp(BETA * CENTRES[:, 0])
    return weights / weights.sum()


def draw(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """Samples of the ring."""
    mode_key, noise_key = jax.random.split(key)
    mode = jax.random.randint(mode_key, (n,), 0, MODES)
    return jnp.asarray(CENTRES)[mode] + STD * jax.random.normal(noise_key, (n, 2))


def draw_guided(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """Samples of μ exp(β Q): other mode weights, and every mode moved by β STD²."""
    mode_key, noise_key = jax.random.split(key)
    mode = jax.random.choice(mode_key, MODES, (n,), p=jnp.asarray(guided_weights()))
    shift = jnp.array([BETA * STD**2, 0.0])
    return jnp.asarray(CENTRES)[mode] + shift + STD * jax.random.normal(noise_key, (n, 2))


def fit(
    build: Callable[[float], Any], batch: Callable[..., tuple], updates: int, key: PRNGKeyArray
) -> tuple[Any, Any]:
    """Train the model `build(learning_rate)` on `batch(key)` through PHASES."""

    def run(rate: float, state: Any, keys: Array) -> Any:
        def step(state: Any, key: PRNGKeyArray) -> tuple[Any, None]:
            data_key, update_key = jax.random.split(key)
            return build(rate).update(state, *batch(data_key), update_key)[0], None

        return jax.jit(lambda s, ks: jax.lax.scan(step, s, ks)[0])(state, keys)

    init_key, *phase_keys = jax.random.split(key, 1 + len(PHASES))
    model = build(PHASES[0][0])
    state = model.init(init_key)
    for (rate, share), phase_key in zip(PHASES, phase_keys, strict=True):
        state = run(rate, state, jax.random.split(phase_key, int(share * updates)))
    return model, state


def train_behaviour(
    key: PRNGKeyArray, updates: int, widths: tuple[int, ...] = (64, 32)
) -> Behaviour:
    """The behaviour model of the ring; the observation is a constant zero."""

    def build(rate: float) -> BehaviourModel:
        config = BehaviourConfig(
            widths=widths, learning_rate=rate, ema=0.995, solver_steps=SOLVER_STEPS
        )
        return BehaviourModel(config, obs_dim=1, action_dim=2)

    return fit(build, lambda k: (jnp.zeros((256, 1)), draw(k, 256)), updates, key)


def support(
    behaviour: Behaviour, key: PRNGKeyArray, states: int
) -> Float[Array, "states support 2"]:
    """Unguided actions of `states` copies of the one state."""
    model, state = behaviour
    keys = jax.random.split(key, states)
    return jax.jit(model.support)(state, jnp.zeros((states, 1)), keys)


def train_energy(
    key: PRNGKeyArray,
    pool: Float[Array, "states support 2"],
    updates: int,
    hidden: tuple[int, ...],
) -> Energy:
    """The energy model on a fixed pool of support actions, as in offline training."""

    def build(rate: float) -> EnergyModel:
        config = EnergyConfig(hidden=hidden, learning_rate=rate)
        return EnergyModel(config, obs_dim=1, action_dim=2)

    def batch(key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        actions = pool[jax.random.choice(key, len(pool), (64,))]
        return jnp.zeros((64, 1)), actions, BETA * q_value(actions)

    return fit(build, batch, updates, key)


def sample_guided(
    behaviour: Behaviour, energy: Energy, key: PRNGKeyArray, n: int
) -> Float[Array, "n 2"]:
    """Samples of μ exp(β Q): guidance scale 1."""
    (model, state), (_, energy_state) = behaviour, energy
    obs = jnp.zeros((n, 1))
    score = guided(model.score(state.ema, obs), lambda a, t: energy_state.net(obs, a, t), 1.0)
    noise = jax.random.normal(key, (n, 2))
    return jax.jit(lambda z: dpm_solver(score, z, model.sde, model.config.solver_steps))(noise)


def nearest_mode(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of samples nearest to each centre, and every sample's offset from its centre."""
    actions = np.asarray(actions, np.float64).reshape(-1, 2)
    mode = np.square(actions[:, None] - CENTRES).sum(-1).argmin(1)
    return np.bincount(mode, minlength=MODES) / len(actions), actions - CENTRES[mode]


def main() -> None:
    """Train, sample and draw."""
    keys = jax.random.split(jax.random.key(0), 6)
    n = 16_384
    behaviour = train_behaviour(keys[0], 12_000)
    pool = support(behaviour, keys[1], n // 16)
    energy = train_energy(keys[2], pool, 20_000, (64, 64, 64))
    panels = {
        "Behaviour data: target": draw(keys[3], n),
        "Behaviour model, unguided": pool.reshape(-1, 2),
        "Target of guidance: μ(a) exp(β Q(a))": draw_guided(keys[4], n),
        "Guided samples": sample_guided(behaviour, energy, keys[5], n),
    }
    figure, axes = plt.subplots(2, 2, figsize=(7.6, 8), sharex=True, sharey=True)
    bins = np.linspace(-1, 1, 81)
    expected = (np.full(MODES, 1 / MODES), guided_weights())
    for i, (axis, (title, samples)) in enumerate(zip(axes.flat, panels.items(), strict=True)):
        samples = np.asarray(samples)
        axis.hist2d(samples[:, 0], samples[:, 1], bins=(bins, bins), cmap="viridis", vmax=120)
        shares = expected[i // 2] if i % 2 == 0 else nearest_mode(samples)[0]
        for (x, y), share in zip(CENTRES, shares, strict=True):
            axis.text(0.6 * x, 0.6 * y, f"{share:.1%}", color="white", ha="center", va="center")
        axis.set_title(title)
        axis.set_aspect("equal")
        axis.set_xticks([-1, 0, 1])
        axis.set_yticks([-1, 0, 1])
    figure.suptitle(
        f"Eight Gaussians on a ring, Q = first coordinate, β = {BETA}, {SOLVER_STEPS} solver steps."
        "\nNumbers: share of each mode, exact (left) and sampled (right)",
        fontsize=11,
    )
    figure.tight_layout()
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGE, dpi=90)
    for title, samples in panels.items():
        shares, offset = nearest_mode(np.asarray(samples))
        print(f"{title}: shares {np.round(shares, 3)}, std in modes {offset.std():.4f}")


if __name__ == "__main__":
    main()
