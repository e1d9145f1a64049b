"""Run directories as `train/run.py` leaves them, with made-up numbers.

`python tests/report/synthetic.py DIR [--sweep]` writes a whole comparison to look at.
"""

import json
import sys
from pathlib import Path

import numpy as np

QUANTILES = {10: -1.3, 25: -0.7, 50: 0.0, 75: 0.7, 90: 1.3}

CONFIG = {
    "dataset": "", "env": "HalfCheetah-v4", "base": "iql", "score": "guided", "split": "ratio",
    "rho": 0.5, "guidance_scale": 3.0, "recipe": "locomotion", "reward_scale": 0.0, "seeds": [],
    "offline_steps": 4000, "behaviour_steps": 4000, "energy_steps": 1000, "online_steps": 10_000,
    "utd": 1, "batch_size": 256, "offline_fraction": 0.5, "online_warmup": 1000,
    "log_interval": 500, "offline_eval_interval": 5000, "eval_interval": 1000,
    "eval_episodes": 20, "checkpoint_seconds": 60.0, "save_policies": False,
    "iql": {"expectile": 0.7, "actor_hidden": [256, 256]},
    "behaviour": {"widths": [128, 64, 32], "support_actions": 8},
    "energy": {"hidden": [64, 64, 64]}, "inverse_temperature": 3.0,
}  # fmt: skip
PLAIN = ("none", "random")  # scores that pre-train nothing


def write_run(
    directory,
    *,
    task="stratdiff/halfcheetah-medium-replay",
    gain=10.0,
    start=40.0,
    seeds=(0, 1, 2),
    finished=True,
    normalized=True,
    quantiles=True,
    log_points=20,
    extra_phases=(),
    old=False,
    **options,
):
    """A run whose score climbs from `start` by `gain`; options are those of its config.json.

    `old`: as runs were written whose `method` and `alignment` said what `score` does now, and
    whose β stood with the energy model's options.
    """
    given = {"dataset": task, "seeds": list(seeds), "log_interval": 10_000 // log_points} | options
    config = {
        key: value | given.get(key, {}) if isinstance(value, dict) else given.get(key, value)
        for key, value in CONFIG.items()
    }
    config |= {key: value for key, value in given.items() if key not in config}
    n, rng = len(seeds), np.random.default_rng([sum(map(ord, str(directory))), *seeds])
    shared = [np.random.default_rng([s, sum(map(ord, task))]).normal(0, 2) for s in seeds]
    before = start + np.array(shared)

    def row(values):
        return [None if not np.isfinite(v) else float(f"{v:.6g}") for v in values]

    records, clock = [], 0.0

    def add(phase, step, **metrics):
        nonlocal clock
        clock += 3.0
        record = {"phase": phase, "step": step, "time": round(clock, 3)}
        records.append(record | {k: row(v) for k, v in metrics.items()})

    def evaluation(score):
        return {"score": score, "score_std": np.ones(n), "return": 120 * score - 280}

    for k in range(1, 5):
        near = before * (1 - 0.5 ** (k * 2)) if k < 4 else before
        add("base", k * config["offline_steps"] // 4, critic_loss=np.ones(n), q_mean=near,
            **evaluation(near))  # fmt: skip
    if config["score"] not in PLAIN:
        add("behaviour", config["behaviour_steps"], behaviour_loss=np.ones(n))
    add("online", 0, **evaluation(before))
    split = config["score"] != "none"
    points = log_points if finished else log_points // 3
    for k in range(1, points + 1):
        step, x = k * config["log_interval"], k / log_points
        score = before + gain * x ** (1 / 2) + rng.normal(0, 1.5, n)
        nothing_yet = step <= config["online_warmup"]
        metrics = {"critic_loss": rng.random(n), "q_mean": 1.2 * score + 5 * x}
        if split:
            gap = np.full(n, np.nan) if nothing_yet else 0.5 + 0.3 * x + rng.normal(0, 0.03, n)
            metrics |= {
                "exchange_count": np.full(n, 128.0),
                "exchange_fraction": 0.5 - 0.2 * x + rng.normal(0, 0.02, n),
                "alignment_auc": gap,
                "alignment_threshold": np.exp(3 + x + rng.normal(0, 0.05, n)),
            }
            for origin, shift in (("offline", 0.0), ("online", 1.5 * x)):
                hide = nothing_yet and origin == "online"
                for q, z in QUANTILES.items() if quantiles else ():
                    value = np.exp(3 + x + shift + 1.4 * z + rng.normal(0, 0.03, n))
                    metrics[f"alignment_q{q}_{origin}"] = value * (np.nan if hide else 1)
                mean = np.full(n, np.nan if hide else np.exp(3 + shift))
                metrics |= {f"alignment_mean_{origin}": mean, f"alignment_std_{origin}": mean / 2}
        due = step % config["eval_interval"] == 0 or step == config["online_steps"]
        add("online", step, **metrics, **(evaluation(score) if due else {}))
    directory = Path(directory)
    directory.mkdir(parents=True)
    written = config
    if old:
        method = {"none": "base", "random": "random"}.get(config["score"], "stratdiff")
        alignment = config["score"] if method == "stratdiff" else "guided"
        written = {k: v for k, v in config.items() if k not in ("score", "split")}
        written |= {"method": method, "alignment": alignment}
        beta = {"inverse_temperature": written.pop("inverse_temperature")}
        written["energy"] = config["energy"] | beta
    (directory / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if not finished:
        return directory
    scored = [r for r in records if "score" in r]
    pretrained = [r for r in scored if r["phase"] == "base" or r["step"] == 0]
    ends = {"before": pretrained[-1]["score"], "after": scored[-1]["score"]}
    seconds = {"base": 150.9, "behaviour": 17.0, "support": 19.3, "energy": 7.6, "online": 131.5}
    if config["score"] in PLAIN:
        seconds = {k: v for k, v in seconds.items() if k in ("base", "online")}
    if extra_phases:
        online = seconds.pop("online")
        seconds |= dict.fromkeys(extra_phases, 60.0) | {"online": online}
    updates = {"base": config["offline_steps"], "online": config["online_steps"]}
    summary = {
        "score": {k: {"per_seed": v, "mean": float(np.mean(v))} for k, v in ends.items()},
        "normalized": normalized,
        "seeds": list(seeds),
        "online_steps": config["online_steps"],
        "dataset": {
            "name": task, "fingerprint": "26ff928b6a099438", "transitions": 201798,
            "episodes": 202, "mean_score": start - 9.3,
        },
        "environment": config["env"],
        "seconds": seconds,
        "online_seconds": {"device": 98.69, "environment": 2.34, "compile": 8.39, "python": 13.67},
        "updates_per_second": {k: round(v * n / seconds[k], 2) for k, v in updates.items()},
        "parameters_sha256": ["0" * 64] * n,
        "versions": {"python": "3.11.7", "stratdiff": "0.1.0", "jax": "0.10.2"},
        "git_revision": "994ff71",
        "device": "cpu",
    }  # fmt: skip
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return directory


def write_comparison(root, sweep=False):
    """Two bases, four tasks, four variants, five seeds; SAC on one; one run cut off."""
    root, seeds = Path(root), (0, 1, 2, 3, 4)
    tasks = [f"stratdiff/{t}" for t in (
        "halfcheetah-medium-replay", "hopper-medium-v2", "walker2d-medium-expert",
        "antmaze-large-diverse",
    )]  # fmt: skip
    for b, base in enumerate(("iql", "calql")):
        for t, task in enumerate(tasks):
            same = {"task": task, "seeds": seeds, "base": base, "start": 20.0 + 15 * t + 5 * b}
            where = root / base / task.split("/")[1]
            write_run(where / "plain", score="none", gain=6 + 3 * t, **same)
            write_run(where / "random split", score="random", gain=7 + 3 * t, **same)
            write_run(where / "stratdiff", gain=12 + 4 * t, **same)
            write_run(where / "support density", score="support", gain=9 + 4 * t, **same)
    write_run(root / "sac" / "rlpd", base="sac", score="none", task=tasks[1], start=2, gain=60,
              seeds=seeds)  # fmt: skip
    write_run(root / "iql" / "hopper-medium-v2" / "cut off", task=tasks[1], finished=False)
    for rho in (0.1, 0.25, 0.75, 0.9) if sweep else ():
        write_run(root / "iql" / "hopper-medium-v2" / f"ρ = {rho}", base="iql", task=tasks[1],
                  rho=rho, seeds=seeds, start=35, gain=16 - 20 * (rho - 0.5) ** 2)  # fmt: skip


if __name__ == "__main__":
    write_comparison(sys.argv[1], "--sweep" in sys.argv)
