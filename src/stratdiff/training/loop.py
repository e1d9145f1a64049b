"""`train`, `resume` and `evaluate`: a session and the environments that Gymnasium makes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff import process
from stratdiff.config import OUTSIDE, Config, read_config
from stratdiff.data.dataset import Dataset
from stratdiff.errors import BadEnvironment, RunStopped, UserError
from stratdiff.policy import Policy
from stratdiff.sinks.progress import Reporter
from stratdiff.training.environments import Environments, Given, find_environments
from stratdiff.training.evaluate import Evaluator, episode_seed
from stratdiff.training.run import OnEval
from stratdiff.training.session import Session
from stratdiff.training.summary import Result

# Called with the session; a true value ends the run.
OnStep = Callable[[Session], Any]


def train(
    config: Config,
    out: str | Path,
    dataset: Dataset | None = None,
    reporter: Reporter | None = None,
    shared: Path | None = None,
    env: Given = None,
    on_eval: OnEval | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """Pre-train and fine-tune by `config`; the run directory `out` must be new or empty.

    `dataset`: data in memory instead of the config's name (`resume` then needs it again).
    `shared`: folder in which runs share phases that are the same (training/shared.py).
    `env`: a Gymnasium environment, or a function that makes one, instead of a name; a single
    environment serves one seed, with `eval_episodes=0`.
    `on_eval(point, metrics)` is called after every evaluation, `on_step(session)` after every
    online step. A true value that one returns in the online phase ends the run there: it is
    finished, and `resume` would go on to its last step.

    Raises:
        UserError: bad input (nothing is written), or a loss that is no longer finite.
    """
    config.validate()
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"output directory {str(out)!r} is a file; give another --out.")
    # What starts with a dot was left by a process that was killed.
    there = [p for p in out.iterdir() if not p.name.startswith(".")] if out.exists() else []
    if (out / "config.json").is_file():
        raise UserError(
            f"output directory {str(out)!r} already holds a run; give another --out, or go on with "
            f"`stratdiff resume {out}` if it was cut off."
        )
    if there:
        raise UserError(
            f"output directory {str(out)!r} already holds {there[0].name!r}, but no run; give "
            "another --out, or empty it."
        )
    return _whole(config, out, dataset, reporter, shared, env, on_eval, on_step)


def resume(
    directory: str | Path,
    dataset: Dataset | None = None,
    reporter: Reporter | None = None,
    shared: Path | None = None,
    env: Given = None,
    on_eval: OnEval | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """Resume a run that was cut off; the result is bit-identical to that of an uninterrupted run.

    `on_eval` and `on_step` as of `train`.

    Raises:
        UserError: the directory holds no run, or its checkpoint cannot be used here.
    """
    directory = Path(directory)
    config = run_config(directory)
    return _whole(config, directory, dataset, reporter, shared, env, on_eval, on_step)


def _whole(
    config: Config,
    directory: Path,
    dataset: Dataset | None,
    reporter: Reporter | None,
    shared: Path | None,
    env: Given,
    on_eval: OnEval | None,
    on_step: OnStep | None,
) -> Result:
    if config.env == OUTSIDE and env is None:
        raise UserError(
            f"the environment of the run {str(directory)!r} is the calling program's, and none was "
            "given; give it from that program, as stratdiff.train(..., env=...) or "
            "stratdiff.resume(directory, env=...), or drive a stratdiff.Session."
        )
    opened = Session(config, directory, dataset, env, reporter, shared, True, on_eval)
    with opened as session, process.deferring():
        session.pretrain()
        if not session.done:
            drive(session, session.environments, on_step)
        return session.finish()


def drive(session: Session, environments: Environments, on_step: OnStep | None = None) -> None:
    """Run the online steps that are left, one environment a seed."""
    envs: list[Any] = []
    try:
        envs += environments.make(len(session.config.seeds))
        obs = np.stack([_enter_episode(session, i, env) for i, env in enumerate(envs)])
        while not session.done:
            actions = session.act(obs)
            if session.done:  # an evaluation was the last
                break
            steps = [env.step(a)[:4] for env, a in zip(envs, actions, strict=True)]
            after, reward, terminated, truncated = (list(part) for part in zip(*steps, strict=True))
            session.observe(reward, after, terminated, truncated)
            if on_step is not None and on_step(session):
                session.end()
            obs = np.array(after)
            for i, env in enumerate(envs):
                if terminated[i] or truncated[i]:
                    obs[i] = _enter_episode(session, i, env)
    except BadEnvironment as error:
        raise session.stopped(error.fact) from error
    finally:
        environments.close(envs)


def _enter_episode(session: Session, i: int, env: Any) -> np.ndarray:
    """Start the current episode of seed i, and go on to where the run stands in it."""
    number, length = session.episode(i)
    obs, _ = env.reset(seed=episode_seed(session.config.seeds[i], 0, number))
    if length == 0:
        return obs
    again = session.replay_episode(i, env, obs)
    if again is not None:
        return again
    session.abandon_episode(i)
    return _enter_episode(session, i, env)


def evaluate(directory: str | Path, episodes: int, seed: int | None) -> dict[str, Any]:
    """Episodes of a run's newest policies: returns and scores per seed.

    `seed` chooses the episodes; None: those of the run's own evaluations. Values are NaN where the
    environment gave one that is not finite.

    Raises:
        UserError: the directory holds no run with a policy, or the environment fails.
    """
    directory = Path(directory)
    config = run_config(directory)
    if config.env == OUTSIDE:
        raise UserError(
            f"the run {str(directory)!r} has no environment by name; evaluate its policy in the "
            "program that trained it."
        )
    policy = Policy.load(directory / "policy.safetensors")
    seeds = config.seeds if seed is None else (seed,) * len(config.seeds)
    evaluated = dataclasses.replace(config, eval_episodes=episodes)
    environments = find_environments(evaluated, None, len(seeds) * episodes)
    task = environments.task
    evaluator = Evaluator(environments, seeds, episodes)
    try:
        returns = evaluator(policy)
    except BadEnvironment as error:
        raise RunStopped(f"{error} The run itself is not changed.") from error
    finally:
        evaluator.close()
    scores = np.vectorize(task.score, otypes=[float])(returns)
    return {
        "environment": task.env_id,
        "seeds": list(config.seeds),
        "return": returns.mean(1).tolist(),
        "score": scores.mean(1).tolist(),
        "score_std": scores.std(1).tolist(),
    }


def run_config(directory: Path) -> Config:
    """The config of a run's directory.

    Raises:
        UserError: it is none.
    """
    if not (directory / "config.json").is_file():
        raise UserError(f"{str(directory)!r} is no run directory: it has no config.json.")
    return read_config(directory / "config.json")
