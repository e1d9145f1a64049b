"""Parts by name and by module:Class, and which names may be imported."""

import sys
import textwrap

import pytest

from stratdiff import registry
from stratdiff.agents import AGENTS
from stratdiff.errors import UserError
from stratdiff.registry import Registry
from stratdiff.scores import SCORES
from stratdiff.splits import SPLITS


@pytest.fixture
def nobody_trusted(monkeypatch):
    """As in a new process: nothing has been named."""
    monkeypatch.setattr(registry, "_trusted", set())


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module outside the package, imported once."""
    (tmp_path / "parts_of_mine.py").write_text(
        textwrap.dedent(
            """
            class Good:
                name, run = "good", None

            class Lacking:
                name = "lacking"

            instance = Good()
            """
        )
    )
    (tmp_path / "broken_part.py").write_text("raise RuntimeError('no such device')\n")
    (tmp_path / "this_part_exits.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "parts_of_mine"
    sys.modules.pop("parts_of_mine", None)


PARTS = Registry("--part", {"ours": "fractions:Fraction"}, ("name", "run"))


def refused(name, *words):
    with pytest.raises(UserError) as caught:
        PARTS.find(name)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    for word in ("--part", *words):
        assert word in text
    return text


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        (AGENTS, ("iql", "calql", "sac", "rebrac")),
        (SCORES, ("none", "random", "origin", "guided", "support", "likelihood")),
        (SPLITS, ("ratio", "exchange")),
    ],
)
def test_the_packages_own_parts(parts, names, nobody_trusted):
    assert parts.names() == names
    for name in names:
        assert name in parts
        # A part's name in options and files is the one it is found by.
        assert parts.find(name).name == name
    assert "mine" not in parts


def test_an_own_part_is_imported_when_it_is_asked_for(nobody_trusted):
    from fractions import Fraction

    assert PARTS.find("ours") is Fraction


def test_an_unknown_name_is_told_the_known_ones():
    refused("theirs", "'theirs'", "ours", "module:Class")


def test_a_module_class_that_was_named_is_imported(module, nobody_trusted):
    name = f"{module}:Good"
    # What to write instead: the flag for all modules, or the option with this name.
    refused(name, "--trust-modules", f"--part {name}", "`stratdiff train`")
    # Nothing of it was run.
    assert module not in sys.modules
    registry.trust(name)
    assert PARTS.find(name).name == "good"
    assert registry.trusted() == [name]
    # That name alone.
    refused(f"{module}:Lacking", "--trust-modules")


def test_all_modules_can_be_trusted(module, nobody_trusted):
    registry.trust("*")
    assert PARTS.find(f"{module}:Good").name == "good"


def test_a_plain_name_trusts_nothing(module, nobody_trusted):
    registry.trust(module, "iql", "")
    assert registry.trusted() == []
    refused(f"{module}:Good", "--trust-modules")


def test_what_cannot_be_imported(module, nobody_trusted):
    registry.trust("*")
    refused("no_module_of_that_name:Good", "could not be imported", "ModuleNotFoundError")
    refused("broken_part:Good", "could not be imported", "RuntimeError: no such device")
    refused("this_part_exits:Good", "could not be imported", "SystemExit: 0")
    refused(f"{module}:Goood", "has no 'Goood'", "nearest: Good")
    refused(f"{module}:", "has no ''")


def test_what_is_no_part(module, nobody_trusted):
    registry.trust("*")
    refused(f"{module}:Lacking", "has no 'run'", "docs/extending.md")
    refused(f"{module}:instance", "is no class")
