"""What our speed is compared with: d3rlpy's algorithms, and StratDiff in eager PyTorch.

`CASES` maps a name to a builder. The builder makes data and networks and returns `run(n)`, which
does n updates of 256 transitions, the drawing of their batches included, and returns when they are
done. Everything runs on the CPU with PyTorch's default number of threads.

d3rlpy runs the two lines of its own training loop (`QLearningAlgoBase.fitter`), without that loop's
progress bar, timers and log files: `sample_transition_batch`, then `update`. Its data lies in an
`MDPDataset` as its users have it; the list inside is faster to draw from than the deque of its
FIFO buffer. Sizes and rates are the method's for locomotion. Differences that it does not let one
set: its Cal-QL computes every return-to-go anew from the rewards of the rest of the episode, and
takes the target's action at the policy's mean.
"""

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[int], None]

ROWS, EPISODE, OBS_DIM, ACTION_DIM, SUPPORT = 100_000, 1000, 17, 6, 16
BATCH, HIDDEN, DISCOUNT, POLYAK = 256, [256, 256], 0.99, 0.005


def made_up_rows(seed: int) -> dict[str, np.ndarray]:
    """Random walks in normalised states; episodes of 1000 steps that a time limit ends."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(ROWS, OBS_DIM))
    return {
        "obs": obs.astype(np.float32),
        "action": rng.uniform(-1, 1, (ROWS, ACTION_DIM)).astype(np.float32),
        "reward": rng.normal(size=ROWS).astype(np.float32),
        "next_obs": (obs + 0.1 * rng.normal(size=obs.shape)).astype(np.float32),
        "terminal": np.zeros(ROWS, np.float32),
        "support": rng.uniform(-1, 1, (ROWS, SUPPORT, ACTION_DIM)).astype(np.float32),
    }


def _d3rlpy_run(
    make_config: Callable[..., object],
    hidden: list[int] = HIDDEN,
    batch_size: int = BATCH,
    **options: Any,
) -> Run:
    """The update loop of a d3rlpy algorithm.

    `make_config(encoder, **options)` gives its configuration.
    """
    # Its notices belong on stderr.
    with contextlib.redirect_stdout(sys.stderr):
        import d3rlpy

        d3rlpy.seed(0)
        data = made_up_rows(0)
        timeouts = np.zeros(ROWS, np.float32)
        timeouts[EPISODE - 1 :: EPISODE] = 1
        dataset = d3rlpy.dataset.MDPDataset(
            data["obs"],
            data["action"],
            data["reward"],
            data["terminal"],
            timeouts=timeouts,
            action_space=d3rlpy.ActionSpace.CONTINUOUS,
        )
        encoder = d3rlpy.models.VectorEncoderFactory(hidden, activation="relu")
        algo = make_config(encoder, **options).create(device="cpu")
        algo.build_with_dataset(dataset)

    def run(n: int) -> None:
        for _ in range(n):
            algo.update(dataset.sample_transition_batch(batch_size))

    return run


def iql_config(encoder: object) -> Any:
    """d3rlpy's IQL with two critics; a dataclass."""
    import d3rlpy

    return d3rlpy.algos.IQLConfig(
        actor_learning_rate=3e-4,
        critic_learning_rate=3e-4,
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        value_encoder_factory=encoder,
        batch_size=BATCH,
        gamma=DISCOUNT,
        tau=POLYAK,
        n_critics=2,
        expectile=0.7,
        weight_temp=3.0,
        max_weight=100.0,
    )


def calql_config(encoder: object, n_action_samples: int = 10) -> Any:
    """d3rlpy's Cal-QL with two critics and α = 10 fixed (no Lagrange multiplier).

    Its conservative term is `initial_alpha · conservative_weight · (gap - alpha_threshold)`; the
    threshold is a constant without influence on the gradient once α is fixed.
    """
    import d3rlpy

    return d3rlpy.algos.CalQLConfig(
        actor_learning_rate=1e-4,
        critic_learning_rate=3e-4,
        temp_learning_rate=1e-4,
        alpha_learning_rate=0.0,
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        batch_size=BATCH,
        gamma=DISCOUNT,
        tau=POLYAK,
        n_critics=2,
        initial_alpha=1.0,
        conservative_weight=10.0,
        alpha_threshold=0.0,
        n_action_samples=n_action_samples,
    )


def eager_stratdiff() -> Run:
    """`eager_reference.EagerStratDiff` with untrained networks: the work is the same."""
    import torch

    from benchmarks.eager_reference import EagerStratDiff, Transitions

    def data(seed: int) -> tuple[Transitions, torch.Tensor]:
        rows = {name: torch.from_numpy(x) for name, x in made_up_rows(seed).items()}
        support = rows.pop("support")
        return Transitions(**rows), support

    torch.manual_seed(0)
    learner = EagerStratDiff(data(0), data(1))

    def run(n: int) -> None:
        for _ in range(n):
            learner.update()

    return run


CASES: dict[str, Callable[..., Run]] = {
    "d3rlpy iql": functools.partial(_d3rlpy_run, iql_config),
    "d3rlpy calql": functools.partial(_d3rlpy_run, calql_config),
    "eager stratdiff iql guided": eager_stratdiff,
}
