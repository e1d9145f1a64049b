"""The card of a run on the hub: what it is, its scores with intervals, how it is used."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stratdiff.config import Config
from stratdiff.hub import is_film
from stratdiff.report import statistics
from stratdiff.report.runs import clean, title
from stratdiff.report.statistics import Estimate
from stratdiff.sinks.progress import number

_CARD = """\
---
{metadata}
---

# {name}

{seeds} of [StratDiff](https://arxiv.org/abs/2511.03828) for the environment `{env}`:
pre-trained with {base} on `{data}`, then fine-tuned online for {steps:,} steps. {score}

| {unit} | mean [95 % interval] | per seed |
|---|---|---|
{rows}

{note}
{pictures}
## How it was made

```
stratdiff train --config config.json
```

with the `config.json` of this repository, stratdiff {version} ({revision}) on {device}. If the data
were a file, give its place with `--dataset FILE`. `metrics.jsonl` has every metric, and
`summary.json` the wall times and versions.

## How it is used

```python
from stratdiff import Policy

policy = Policy.load("hf://{repo}")
action = policy.act(observation)  # NumPy in, NumPy out, within the environment's bounds
```

```
stratdiff pull {repo}                           # all files of the run
stratdiff eval hf://{repo} --episodes 100
stratdiff export hf://{repo} --numpy policy.py  # one file that needs NumPy alone
```
"""
_WHEN = {"before": "before fine-tuning", "after": "after fine-tuning"}


def card(repo: str, config: Config, summary: dict[str, Any], files: Iterable[str]) -> str:
    """The text of README.md for the repository `repo`, with metadata as the hub reads them.

    `summary` is what summary.json holds, `files` the names of the run's other files. The interval
    is a percentile bootstrap over the seeds.

    Raises:
        LookupError, TypeError, ValueError: the summary is not of a run's form.
    """
    from huggingface_hub import EvalResult, ModelCardData

    name = summary["dataset"]["name"]
    # Where a file lies is nobody's business.
    data = clean(Path(name).name if Path(name).is_absolute() else name)
    env = clean(summary["environment"] or "of the program that trained it")
    unit = "normalised score" if summary["normalized"] else "return"
    estimates = {when: _estimate(found["per_seed"]) for when, found in summary["score"].items()}
    results = [
        EvalResult(
            task_type="reinforcement-learning",
            task_name="reinforcement learning",
            dataset_type=env,
            dataset_name=env,
            metric_type="normalised_score" if summary["normalized"] else "mean_reward",
            metric_name=f"{unit}, {_WHEN[when]}",
            metric_value=_text(estimate),
        )
        for when, estimate in estimates.items()
    ]
    metadata = ModelCardData(
        library_name="stratdiff",
        pipeline_tag="reinforcement-learning",
        tags=["reinforcement-learning", "offline-to-online", "stratdiff", config.base],
        model_name=repo.rpartition("/")[2],
        eval_results=results or None,
    )
    rows = []
    for when, found in summary["score"].items():
        each = ", ".join(map(number, found["per_seed"]))
        rows.append(f"| {_WHEN[when]} | {_text(estimates[when])} | {each} |")
    mean = summary["dataset"]["mean_score"]
    if mean is not None:
        rows.append(f"| the data's mean episode | {number(mean)} | |")
    count = len(summary["seeds"])
    note = (
        f"Each number of a seed is the mean of {config.eval_episodes} episodes; the interval is a "
        "percentile bootstrap over the seeds."
        if count > 1
        else f"One seed, the mean of {config.eval_episodes} episodes: it has no interval."
    )
    if data.startswith("stratdiff/"):
        note += " The data were made by the package and are not D4RL's own, nor is the score."
    pictures = [f"![{name}]({name})" for name in files if name == "curves.png" or is_film(name)]
    return _CARD.format(
        metadata=metadata.to_yaml(),
        name=repo.rpartition("/")[2],
        repo=repo,
        seeds=f"Policies of {count} seeds" if count > 1 else "A policy",
        env=env,
        base=title(config.base),
        data=data,
        steps=config.online_steps,
        score=_split(config),
        unit=unit,
        rows="\n".join(rows),
        note=note,
        pictures="\n".join(["", *pictures, ""]) if pictures else "",
        version=summary["versions"]["stratdiff"],
        revision=f"revision {summary['git_revision']}" if summary["git_revision"] else "a release",
        device=clean(summary["device"]),
    )


def _split(config: Config) -> str:
    if config.score == "none":
        return "Nothing splits its batches: it is plain fine-tuning."
    return f"Batches are split by the rule `{config.split}` and the score `{config.score}`."


def _estimate(scores: list[float | None]) -> Estimate:
    return statistics.bootstrap(statistics.mean, [np.array(scores, float)])


def _text(estimate: Estimate) -> str:
    value = number(estimate.value)
    bounds = f" [{number(estimate.low)}, {number(estimate.high)}]" if estimate.has_interval else ""
    return value + bounds
