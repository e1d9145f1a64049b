"""`stratdiff train`: its options are the run's own and those of the chosen parts, no others."""

import dataclasses
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import tyro

from stratdiff import registry
from stratdiff.cli.parsing import show_result
from stratdiff.config import (
    Config,
    RunOptions,
    config_of,
    of_other_part,
    table_to_config,
)
from stratdiff.errors import UserError
from stratdiff.presets import PRESETS, PROTOCOLS, Preset, Protocol, override, translated
from stratdiff.reading import SMALL, read_table
from stratdiff.training.loop import train

# Options that decide which others there are, and their defaults.
_EARLY = ("preset", "protocol", "recipe", "dataset", "env", "base", "score", "split")
_NAMES_CODE = ("dataset", "env", "base", "score", "split")


@dataclasses.dataclass(frozen=True)
class _Start:
    """Options that choose the defaults of all others."""

    preset: Preset = "demo"
    """demo: minutes on two CPU cores; paper: the paper's lengths and sizes."""
    protocol: Protocol = "stratdiff"
    """A baseline as a set of options: rlpd or wsrl; stratdiff: none."""
    config: str = ""
    """A run's config.json: repeat that run; other options override it."""
    out: str = ""
    """Run directory; empty: runs/DATASET-BASE-SCORE-TIME."""
    trust_modules: bool = False
    """Import every module:Name that a config or a data file names."""


@dataclasses.dataclass(frozen=True)
class _Early:
    """The options of `_EARLY`, read before the others are known."""

    preset: str | None = None
    protocol: str | None = None
    recipe: str | None = None
    dataset: str | None = None
    env: str | None = None
    base: str | None = None
    score: str | None = None
    split: str | None = None
    config: str | None = None
    from_run: str | None = None
    track: tuple[str, ...] = ()
    trust_modules: bool = False


def main(args: list[str]) -> int:
    """Pre-train on logged data, then fine-tune online with stratified updates."""
    start, config = _parse(args)
    config.validate()
    name = Path(config.dataset).name.removesuffix(".hdf5")
    parts = (part.rpartition(":")[2] for part in (config.base, config.score))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = start.out or "-".join(("runs/" + name, *parts, stamp))
    return show_result(train(config, out))


def _parse(args: list[str]) -> tuple[_Start, Config]:
    # `from` is a word of Python, so no field can have that name.
    args = [re.sub("^--from(?=$|=)", "--from-run", word) for word in args]
    early, _ = tyro.cli(
        _Early,
        args=args,
        return_unknown_args=True,
        add_help=False,
        console_outputs=not {"-h", "--help"} & {*args},
    )
    if early.trust_modules:
        registry.trust("*")
    given = {key: value for key in _EARLY if (value := getattr(early, key)) is not None}
    registry.trust(*(given[key] for key in _NAMES_CODE if key in given), *early.track)
    if early.config or early.from_run:
        default = _from_file(early.config or str(Path(early.from_run or "", "config.json")), given)
        if early.from_run:
            default = dataclasses.replace(default, from_run=early.from_run)
    else:
        preset, recipe = given.pop("preset", "demo"), given.pop("recipe", "")
        default = config_of(given, preset, recipe, whole=False)
    agent_name = default.agent_name
    parts: list[tuple[str, Any, Any]] = [
        ("start", _Start, dataclasses.field(default_factory=_Start)),
        ("run", RunOptions, default.run),
        ("scoring", type(default.scoring), default.scoring),
        ("splitting", type(default.splitting), default.splitting),
    ]
    fields = [
        (name, Annotated[kind, tyro.conf.arg(name="")], value)
        for name, kind, value in parts
        if dataclasses.fields(kind)
    ]
    kind = dataclasses.make_dataclass(
        "Train",
        [*fields, (agent_name, type(default.agent), default.agent)],
        frozen=True,
        namespace={"__doc__": main.__doc__},
    )
    known = {f.name for _, k, _ in parts for f in dataclasses.fields(k)} | {agent_name}
    for word in args:
        option = word.split("=")[0]
        name = option.removeprefix("--").split(".")[0].replace("-", "_")
        if option.startswith("--") and name not in known and (where := of_other_part(option)):
            raise UserError(
                f"{option} is an option of {where}, and this run has --base {default.base} "
                f"--score {default.score} --split {default.split}; leave it out, or choose that."
            )
    parsed: Any = tyro.cli(kind, args=args, prog="stratdiff train")
    config = Config(
        **{f.name: getattr(parsed.run, f.name) for f in dataclasses.fields(RunOptions)},
        agent=getattr(parsed, agent_name),
        scoring=getattr(parsed, "scoring", default.scoring),
        splitting=getattr(parsed, "splitting", default.splitting),
    )
    return parsed.start, config


def _from_file(path: str, given: dict[str, str]) -> Config:
    """The config of a file, with what the command line says of `_EARLY` in its place.

    A preset gives the options that the file does not have; a protocol replaces the file's.
    """
    own, note = translated(read_table(path, "config file", SMALL))
    if note:
        print(f"{path}: {note}.", file=sys.stderr)
    table: dict[str, Any] = {}
    changes = dict(given)
    preset, protocol = (changes.pop(key, "") for key in ("preset", "protocol"))
    for layer in (PRESETS.get(preset, {}), own, PROTOCOLS.get(protocol, {})):
        override(table, layer)
    if {"dataset", "env"} & changes.keys():  # the other one's own, in full
        defaults = ("env", "env_kwargs", "env_spec", "max_episode_steps")
        changes = {key: getattr(RunOptions, key) for key in defaults} | changes
    return table_to_config(table | changes, f"config file {path!r}", whole=not protocol)
