"""Stack the policies of a SAC run into the snapshot file that ships with the package.

    python scripts/pack_snapshots.py RUN_DIR OUT.safetensors --medium 44

The run must have been made with `--save-policies True`; docs/datasets.md has the commands. Every
kept policy plays EPISODES episodes with stochastic actions, as in data collection; `medium` is the
first one near the given score, `expert` the best one.
"""

import argparse
from pathlib import Path

import numpy as np

from stratdiff.policy import Policy
from stratdiff.tasks import Task, find_task, make_env

EPISODES = 20


def stochastic_score(task: Task, policy: Policy) -> float:
    """Mean normalised score of `EPISODES` episodes."""
    envs = [make_env(task.env_id) for _ in range(EPISODES)]
    rng = np.random.default_rng(0)
    obs = np.stack([env.reset(seed=i)[0] for i, env in enumerate(envs)])
    returns, running = np.zeros(EPISODES), np.ones(EPISODES, bool)
    while running.any():
        noise = rng.standard_normal((1, EPISODES, task.action_dim)).astype(np.float32)
        action = policy.sample(obs[None], noise)[0]
        for i in np.flatnonzero(running):
            obs[i], reward, terminated, truncated, _ = envs[i].step(action[i])
            returns[i] += float(reward)
            running[i] = not (terminated or truncated)
    return float(np.mean([task.score(r) for r in returns]))


def renormalized(policy: Policy, like: Policy) -> Policy:
    """The same function of raw states, on the state normalisation of `like`."""
    (weight, bias), *rest = policy.layers
    scale = like.obs_std / policy.obs_std
    shift = (like.obs_mean - policy.obs_mean) / policy.obs_std
    first = (weight * scale[:, None], bias + np.einsum("i,pio->po", shift, weight))
    return Policy(
        policy.kind, [first, *rest], like.obs_mean, like.obs_std, metadata=policy.metadata
    )


def main() -> None:
    """Choose, stack, measure; weights in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--medium", type=float, required=True, help="score of the medium policy")
    parser.add_argument("--near", type=float, default=0.1, help="relative distance that is near")
    parser.add_argument("--every", type=int, default=10_000, help="steps between two kept policies")
    parser.add_argument("--sparse-after", type=int, default=10**9, help="from this step on ...")
    parser.add_argument("--sparse-every", type=int, default=1, help="... keep only these steps")
    parser.add_argument("--onto", type=Path, help="a snapshot file whose policies come first")
    args = parser.parse_args()
    found = [Policy.load(path) for path in sorted((args.run / "policies").glob("*.safetensors"))]
    kept = []
    for policy in found:
        step = policy.metadata["step"]
        every = args.sparse_every if step > args.sparse_after else args.every
        if step > 0 and step % every == 0:
            kept.append(policy)
    steps = [p.metadata["step"] for p in kept]
    task = find_task(kept[0].metadata["environment"])
    if args.onto:
        base = Policy.load(args.onto)
        kept = [base, *(renormalized(p, base) for p in kept)]
        steps = [*base.metadata["steps"], *(f"+{step}" for step in steps)]
    stacked = Policy(
        kept[0].kind,
        [
            (
                np.concatenate([p.layers[i][0] for p in kept]).astype(np.float16),
                np.concatenate([p.layers[i][1] for p in kept]).astype(np.float16),
            )
            for i in range(len(kept[0].layers))
        ],
        kept[0].obs_mean,
        kept[0].obs_std,
        metadata={"environment": task.env_id, "steps": steps},
    )
    stacked.save(args.out)
    half = Policy.load(args.out)  # scores are those of the rounded weights
    scores = [stochastic_score(task, half[i : i + 1]) for i in range(len(half))]
    stacked.metadata |= {
        "stochastic_scores": [round(score, 2) for score in scores],
        "medium": next(i for i, s in enumerate(scores) if abs(s / args.medium - 1) < args.near),
        "expert": int(np.argmax(scores)),
    }
    stacked.save(args.out)
    print(f"{len(stacked)} policies, {args.out.stat().st_size / 1e6:.2f} MB")
    for key, value in stacked.metadata.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
