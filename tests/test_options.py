"""Rules beside the fields, tables to dataclasses, and the sentences of errors."""

import dataclasses
import math
import re
from typing import Annotated, Literal

import pytest

from stratdiff.errors import UserError
from stratdiff.options import (
    Count,
    Decay,
    Episodes,
    Fraction,
    Interval,
    NonNegative,
    OpenFraction,
    Positive,
    Rate,
    Rule,
    Several,
    Steps,
    Widths,
    check,
    flat,
    from_table,
    value_of,
)


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: Rate = 0.5
    hidden_layers: Annotated[Widths, Rule(lambda x: len(x) >= 2, "two or more widths")] = (4, 4)
    low: float = 0.0
    high: float = 1.0

    def check(self):
        if self.low > self.high:
            raise UserError(f"--inner.low is {self.low}; it must be at most --inner.high.")


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str = "x"
    count: Count = 3
    mode: Literal["slow", "fast"] = "slow"
    on: bool = False
    limit: float | None = None
    labels: tuple[str, ...] = ()
    inner: Inner = dataclasses.field(default_factory=Inner)


def sentence(function, *arguments):
    """The error's sentence: one, and it ends with a full stop."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Fraction, (0.0, 0.5, 1.0), (-0.1, 1.1, math.nan)),
        (OpenFraction, (0.01, 0.99), (0.0, 1.0, math.nan)),
        (Rate, (1e-6, 1.0), (0.0, 1.1, math.nan)),
        (Decay, (0.0, 0.999), (1.0, -0.1, math.nan)),
        (Positive, (1e-9, 1e9), (0.0, -1.0, math.inf, math.nan)),
        (NonNegative, (0.0, 1e9), (-1e-9, math.inf, math.nan)),
        (Steps, (0, 10**9), (-1, 10**9 + 1, 2**63)),
        (Interval, (1, 10**9), (0, 10**9 + 1)),
        (Count, (1, 65_536), (0, -1, 65_537)),
        (Several, (2, 10, 65_536), (1, 0, 65_537)),
        (Episodes, (0, 10_000), (-1, 10_001)),
        (Widths, ((), (1,), (256, 65_536)), ((0,), (4, -1), (65_537,), (1,) * 65)),
        (int, (0, -(2**63), 2**63 - 1), (2**63, -(2**63) - 1, 10**70)),
        (float, (0.0, -1e300), (math.nan, math.inf, -math.inf)),
        (tuple[int, ...], ((2**62,), ()), ((1, 2**63),)),
    ],
)
def test_ranges(kind, inside, outside):
    options = dataclasses.make_dataclass("Options", [("batch_size", kind)], frozen=True)
    for value in inside:
        check(options(value))
    for value in outside:
        found = sentence(check, options(value), "iql.")
        # The flag as it is typed, the value, and what it must be.
        assert re.fullmatch(r"--iql\.batch-size is .*; it must be .*\.", found)
        assert repr(value)[:77] in found


def test_rules_of_tables_in_tables_and_between_fields():
    check(Outer())
    found = sentence(check, Outer(inner=Inner(rate=2.0)))
    assert found == "--inner.rate is 2.0; it must be above 0 and at most 1."
    # Both rules of a field hold: the annotation's own and that of the type inside it.
    assert "two or more widths" in sentence(check, Outer(inner=Inner(hidden_layers=(4,))))
    assert "widths of 1 or more" in sentence(check, Outer(inner=Inner(hidden_layers=(4, 0))))
    assert "at most --inner.high" in sentence(check, Outer(inner=Inner(low=2.0)))


def test_a_table_becomes_the_dataclass():
    table = {
        "name": "y",
        "mode": "fast",
        "on": True,
        "limit": 3,
        "labels": ["a", "b"],
        "inner": {"rate": 1, "hidden_layers": [8, 2]},
    }
    found = from_table(Outer, table)
    assert found == Outer("y", 3, "fast", True, 3.0, ("a", "b"), Inner(1.0, (8, 2)))
    # A whole number where a fraction is asked for is one.
    assert type(found.limit) is type(found.inner.rate) is float
    assert from_table(Outer, {}) == Outer()
    assert from_table(Outer, {"limit": None}).limit is None
    # What a program or JSON gives of the dataclass is read back.
    assert from_table(Outer, dataclasses.asdict(found)) == found


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"coumt": 3}, "unknown option 'coumt'; nearest: count"),
        ({"inner": {"ratio": 1.0}}, "unknown option 'inner.ratio'; nearest: rate"),
        ({"inner": 3}, "inner is 3; it must be a table of options."),
        ({"count": 3.0}, "--count is 3.0; it must be a whole number."),
        ({"count": True}, "--count is True; it must be a whole number."),
        ({"limit": "3"}, "--limit is '3'; it must be a number."),
        ({"name": 3}, "--name is 3; it must be a text."),
        ({"on": 1}, "--on is 1; it must be true or false."),
        ({"mode": "medium"}, "--mode is 'medium'; it must be one of slow, fast."),
        ({"labels": "ab"}, "--labels is 'ab'; it must be a list of texts."),
        (
            {"inner": {"hidden_layers": [8.0]}},
            "--inner.hidden-layers is [8.0]; it must be a list of whole numbers.",
        ),
        ({"inner": {"hidden_layers": 8}}, "must be a list of whole numbers."),
    ],
)
def test_bad_tables_are_told_in_a_sentence(table, words):
    assert words in sentence(from_table, Outer, table)


def test_flat_names():
    table = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {}}
    assert flat(table) == {"a": 1, "b.c": 2, "b.d.e": 3}


def test_a_message_shows_the_beginning_of_what_is_long():
    options = dataclasses.make_dataclass("Options", [("batch_size", Count)], frozen=True)
    for value in (10**4299, 10**5000):  # Python writes the first one, and refuses the second
        assert len(sentence(check, options(value))) < 200
    for value in (tuple(range(10**6)), "x" * 10**6):
        assert len(sentence(value_of, int, value, "batch_size")) < 200


def test_a_whole_number_that_no_float_holds_is_a_sentence():
    assert "--rho is 1000" in sentence(value_of, float, 10**400, "rho")
