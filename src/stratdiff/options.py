"""Options as frozen dataclasses: each field's range in its annotation, read from plain tables.

An annotation such as `Fraction` is the field's type and its rule in one; a rule between several
fields stands in the dataclass's own `check`, if it has one.
"""

import dataclasses
import json
import math
import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from stratdiff.errors import UserError, nearest

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must be, as a test and in words ("--rho is 2; it must be ...")."""

    holds: Callable[[Any], bool]
    expected: str


# Steps and their products are 32-bit numbers on the device; sizes beyond these are slips.
_LONGEST = 10**9
_WIDEST = 2**16


def _between(low: int, high: int) -> Rule:
    words = f"{low} or more, and at most {high:,}"
    return Rule(lambda x: low <= x <= high, words)


Fraction = Annotated[float, Rule(lambda x: 0 <= x <= 1, "between 0 and 1")]
OpenFraction = Annotated[float, Rule(lambda x: 0 < x < 1, "between 0 and 1, exclusive")]
Rate = Annotated[float, Rule(lambda x: 0 < x <= 1, "above 0 and at most 1")]
Decay = Annotated[float, Rule(lambda x: 0 <= x < 1, "at least 0 and below 1")]
Positive = Annotated[float, Rule(lambda x: 0 < x < math.inf, "positive")]
NonNegative = Annotated[float, Rule(lambda x: 0 <= x < math.inf, "a number from 0 on")]
Steps = Annotated[int, _between(0, _LONGEST)]
Interval = Annotated[int, _between(1, _LONGEST)]
Count = Annotated[int, _between(1, _WIDEST)]
Several = Annotated[int, _between(2, _WIDEST)]
Episodes = Annotated[int, _between(0, 10_000)]
Widths = Annotated[
    tuple[int, ...],
    Rule(lambda x: all(width >= 1 for width in x), "widths of 1 or more"),
    Rule(
        lambda x: len(x) <= 64 and all(width <= _WIDEST for width in x),
        f"at most 64 widths of at most {_WIDEST:,}",
    ),
]


def _is_object(text: str) -> bool:
    try:
        return not text or isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


Object = Annotated[str, Rule(_is_object, "a JSON object, such as '{\"goal\": 5}'")]


def _is_represented(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_represented, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or -(2**63) <= value < 2**63


# Whatever else an option's own rule says, also of a part from outside.
_REPRESENTED = Rule(_is_represented, "finite, and below 2^63 where it is a whole number")


# Beside the rule of an option that may be infinite.
INFINITE = "infinite"


def _shown(value: Any) -> str:
    """The value for a message, of any length."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a part that has none."""


def check(options: Any, prefix: str = "") -> None:
    """Test every field against its rule, tables in tables included.

    Raises:
        UserError: a value breaks its rule, or values contradict each other.
    """
    for name, kind in get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name, None)
        own_rules = getattr(kind, "__metadata__", ())
        for rule in own_rules if INFINITE in own_rules else (_REPRESENTED, *own_rules):
            if isinstance(rule, Rule) and not rule.holds(value):
                flag = f"--{prefix}{name}".replace("_", "-")
                raise UserError(f"{flag} is {_shown(value)}; it must be {rule.expected}.")
        if dataclasses.is_dataclass(value):
            check(value, f"{prefix}{name}.")
    own = getattr(options, "check", None)
    if own is not None:
        own()


def from_table(kind: type[T], table: dict[str, Any], prefix: str = "") -> T:
    """The dataclass `kind` of a (nested) table, as JSON, TOML or a program gives it.

    Lists become tuples and whole numbers floats where the fields ask for them; fields that the
    table lacks keep their defaults.

    Raises:
        UserError: an option is unknown, or its value is of the wrong type.
    """
    kinds = get_type_hints(kind)
    for key in table:
        if key not in kinds:
            raise UserError(f"unknown option {prefix + key!r}; nearest: {nearest(key, kinds)}.")
    values = {key: value_of(kinds[key], value, prefix + key) for key, value in table.items()}
    return kind(**values)


def value_of(kind: Any, value: Any, name: str) -> Any:
    """The value of the option `name` as its type `kind` wants it; errors as `from_table`."""
    flag = "--" + name.replace("_", "-")
    if get_origin(kind) in (Union, types.UnionType):
        kinds = get_args(kind)
        allowed = [word for k in kinds if get_origin(k) is Literal for word in get_args(k)]
        if value in allowed or (value is None and type(None) in kinds) or type(value) in kinds:
            return value
        kind = next(k for k in kinds if k is not type(None) and get_origin(k) is not Literal)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{name} is {_shown(value)}; it must be a table of options.")
        return from_table(kind, value, f"{name}.")  # type: ignore[arg-type]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            choices = ", ".join(map(str, get_args(kind)))
            raise UserError(f"{flag} is {_shown(value)}; it must be one of {choices}.")
        return value
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        what = "whole numbers" if item is int else "texts" if item is str else "numbers"
        if not isinstance(value, list | tuple) or any(type(x) is not item for x in value):
            raise UserError(f"{flag} is {_shown(value)}; it must be a list of {what}.")
        return tuple(value)
    if kind is float and (value == "inf" or (type(value) is int and _is_represented(value))):
        return float(value)
    if isinstance(kind, type) and type(value) is not kind:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        raise UserError(f"{flag} is {_shown(value)}; it must be {words.get(kind, kind.__name__)}.")
    return value


def takes_list(kind: Any, name: str) -> bool | None:
    """Whether the option of this dotted name is itself a list; None: `kind` has no such option."""
    own, _, rest = name.partition(".")
    found = get_type_hints(kind).get(own)
    if rest:
        return takes_list(found, rest) if dataclasses.is_dataclass(found) else None
    return None if found is None else get_origin(found) is tuple


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their dotted names: `iql.expectile`."""
    return dict(_items(table, prefix))


def _items(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _items(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
