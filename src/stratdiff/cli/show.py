"""`stratdiff show`: a run on one screen."""

import dataclasses
import shutil
import textwrap
from pathlib import Path
from typing import Any

import tyro

from stratdiff import hub
from stratdiff.cli.parsing import Trust, parse
from stratdiff.config import Config, config_of, flat_options, read_config
from stratdiff.errors import UserError
from stratdiff.reading import read_table
from stratdiff.sinks.jsonl import read_metrics
from stratdiff.sinks.progress import number

# What a run is, which the first lines say.
_SAID = ("dataset", "env", "env_kwargs", "recipe", "base", "score", "split", "seeds", "track")


@dataclasses.dataclass(frozen=True)
class _Show(Trust):
    """Show what a run is, what came out, where its time went and what differs from the defaults."""

    directory: tyro.conf.Positional[str] = tyro.MISSING
    """The run directory, or hf://owner/repo on the Hugging Face hub."""


def main(args: list[str]) -> int:
    """Show a run."""
    parsed = parse(_Show, args, "show")
    directory = hub.local(parsed.directory)
    if not (directory / "config.json").exists():
        raise UserError(
            f"{parsed.directory!r} is no run directory: it has no config.json. "
            "`stratdiff train` makes one, and says where."
        )
    config = read_config(directory / "config.json")
    log, summary = directory / "metrics.jsonl", directory / "summary.json"
    records = read_metrics(log) if log.exists() else []
    found = read_table(summary, "summary") if summary.exists() else None
    try:
        width = shutil.get_terminal_size().columns
        for line in lines(directory, config, records, found, width):
            indent = len(line) - len(line.lstrip())
            # Paths stay whole, for whoever copies them.
            fold: Any = {"break_long_words": False, "break_on_hyphens": False}
            print(textwrap.fill(line, width, subsequent_indent=" " * (indent or 11), **fold))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the files of {parsed.directory!r} are not of a run's form ({error!r}); put them back "
            "from a copy."
        ) from error
    return 0


def lines(
    directory: Path,
    config: Config,
    records: list[dict[str, Any]],
    summary: dict[str, Any] | None,
    width: int,
) -> list[str]:
    """The screen. `records` are the run's log points; `summary` None: it is not finished.

    Options stand side by side where `width` columns have room; other lines may be longer.
    """
    out = [
        f"run        {directory}",
        f"data       {config.dataset}, environment {config.env or 'that of the data'}, "
        f"recipe {config.recipe}",
        f"agent      {config.base}, score {config.score}"
        + (f", split {config.split}" if config.score != "none" else ""),
        f"seeds      {' '.join(map(str, config.seeds))}",
    ]
    if summary:
        version = summary["versions"]["stratdiff"]
        done = summary.get("online_steps", config.online_steps)
        early = f" after {done:,} of {config.online_steps:,} online steps"
        how = "finished" + early * (done < config.online_steps)
        out += [f"state      {how}, with {summary['device']}, stratdiff {version}"]
    else:
        last = records[-1] if records else None
        where = f"{last['phase']} step {last['step']:,}" if last else "no log point yet"
        out += [f"state      not finished: {where}; `stratdiff resume {directory}` goes on"]
    out += _scores(records, summary)
    if summary:
        out += _times(summary)
    others = [f"{name} {value}" for name, value in _differences(config)] or ["none"]
    return [*out, "options that differ from the paper's:", *_columns(others, width)]


def _columns(words: list[str], width: int) -> list[str]:
    """The words in columns, from left to right."""
    each = max(map(len, words)) + 2
    n = max(width // each, 1)
    rows = (words[i : i + n] for i in range(0, len(words), n))
    return ["".join(f"  {word:<{each - 2}}" for word in row).rstrip() for row in rows]


def _scores(records: list[dict[str, Any]], summary: dict[str, Any] | None) -> list[str]:
    what = "score" if summary is None or summary["normalized"] else "return"
    if summary and summary["score"]:
        out = []
        for when, found in summary["score"].items():
            each = ", ".join(map(number, found["per_seed"]))
            out += [f"{what:<11}{number(found['mean'])} {when} fine-tuning ({each})"]
        data = summary["dataset"]["mean_score"]
        return out if data is None else [*out, f"{'':<11}{number(data)} the data's mean episode"]
    scored = [r for r in records if "score" in r]
    if not scored:
        return []
    last = scored[-1]
    each = ", ".join(map(number, last["score"]))
    return [f"{what:<11}{each} at {last['phase']} step {last['step']:,}"]


def _times(summary: dict[str, Any]) -> list[str]:
    spent = summary["seconds"]
    total = sum(spent.values())
    shares = ", ".join(f"{name} {_time(s)}" for name, s in spent.items() if s >= 0.05)
    out = [f"time       {_time(total)}: {shares}"]
    online = summary["online_seconds"]
    whole = sum(online.values())
    if whole:
        parts = ", ".join(f"{name} {100 * s / whole:.0f} %" for name, s in online.items())
        out += [f"           online: {parts}"]
    return out


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _differences(config: Config) -> list[tuple[str, str]]:
    """(option as on the command line, value) where it is not the paper preset's."""
    same = {"base": config.base, "score": config.score, "split": config.split}
    usual = flat_options(config_of(same, "paper", config.recipe))
    own = flat_options(config)
    return [
        (f"--{name.replace('_', '-')}", _value(value))
        for name, value in own.items()
        if name not in _SAID and usual.get(name) != value
    ]


def _value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
