"""`stratdiff completion`: a script by which a shell completes commands, options and values."""

import argparse
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from stratdiff.agents.base import AGENTS
from stratdiff.cli.parsing import parse
from stratdiff.config import RunOptions
from stratdiff.data.sources import entries
from stratdiff.errors import UserError
from stratdiff.scores.base import SCORES
from stratdiff.splits import SPLITS


@dataclasses.dataclass(frozen=True)
class _Completion:
    """Write a shell's completion script to standard output."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]] = tyro.MISSING
    """Which shell."""


def main(args: list[str]) -> int:
    """Write a script."""
    parsed = parse(_Completion, args, "completion")
    try:
        import shtab
    except ImportError as error:
        raise UserError(
            "completion needs shtab; install it with pip install 'stratdiff[completion]'."
        ) from error
    print(shtab.complete(_parser(shtab.FILE), parsed.shell))
    if parsed.shell == "bash":  # a folder is followed by a slash, not by a space
        print("complete -o bashdefault -o filenames -F _shtab_stratdiff stratdiff")
    return 0


def _parser(file: Any) -> argparse.ArgumentParser:
    """All commands and options as shtab reads them; `file` is how it completes paths."""
    from stratdiff.cli import _COMMANDS

    parser = argparse.ArgumentParser("stratdiff")
    for flag in ("--version", "--debug"):
        parser.add_argument(flag, action="store_true")
    commands = parser.add_subparsers()
    for name, module in _COMMANDS.items():
        found = importlib.import_module(f"stratdiff.cli.{module}")
        if name == "data":  # what has no help is not completed
            parts = commands.add_parser(name, help=_first_line(found)).add_subparsers()
            for part, function in found._COMMANDS.items():
                _add(parts, part, function, _of_function(function), file)
        elif name == "train":
            _add(commands, name, found, _of_train(), file)
        else:
            kind = getattr(found, f"_{name.title()}")
            _add(commands, name, kind, _of_dataclass(kind), file)
    return parser


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0].replace("`", "")


Option = tuple[str, Any]
"""A name as on the command line, and the type with its annotations."""


def _of_dataclass(kind: Any, prefix: str = "") -> Iterator[Option]:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        plain = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        if dataclasses.is_dataclass(plain):
            yield from _of_dataclass(plain, f"{prefix}{name}.")
        else:
            yield prefix + name, hint


def _of_function(function: Any) -> Iterator[Option]:
    hints = get_type_hints(function, include_extras=True)
    return ((name, hints[name]) for name in inspect.signature(function).parameters)


def _of_train() -> Iterator[Option]:
    """Of every part of the package, since the script does not know which one will be chosen."""
    from stratdiff.cli.train import _Start

    words: dict[str, Any] = {kinds.option[2:]: kinds for kinds in (AGENTS, SCORES, SPLITS)}
    names = {option: tuple(kinds.names()) for option, kinds in words.items()}
    names["dataset"] = tuple(entry.name for entry in entries())
    for kind in (_Start, RunOptions, *_options(SCORES), *_options(SPLITS)):
        for name, hint in _of_dataclass(kind):
            yield name, Literal[names[name]] if name in names else hint
    yield "from", str  # as people write --from-run
    for name in AGENTS.names():
        agent = AGENTS.find(name)
        yield from _of_dataclass(agent.options, f"{agent.name}.")


def _options(kinds: Any) -> list[Any]:
    return [kinds.find(name).options for name in kinds.names()]


def _add(
    commands: Any, command: str, documented: Any, options: Iterator[Option], file: Any
) -> None:
    """Add a command with its options."""
    parser = commands.add_parser(command, help=_first_line(documented))
    for name, hint in dict(options).items():
        marks = getattr(hint, "__metadata__", ())
        kind = get_args(hint)[0] if marks else hint
        flag = f"--{name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction)
            continue
        several = get_origin(kind) is tuple
        choices = get_args(kind) if get_origin(kind) is Literal else None
        positional = any("Positional" in str(mark) for mark in marks)
        action = parser.add_argument(
            name if positional else flag, nargs="*" if several else None, choices=choices
        )
        if kind in (str, tuple[str, ...]):
            action.complete = file
