"""Names as they are shown."""

import pytest

from stratdiff.report.runs import clean, title


def test_titles():
    assert [title(x) for x in ("iql", "calql", "sac", "none")] == ["IQL", "Cal-QL", "SAC", "plain"]
    assert title("guided") == "guided"
    assert title("my.package.scores:Novelty") == "Novelty"
    assert title("a:b:Name\x1b[31m") == "Name?[31m"


def test_clean():
    assert clean("ρ = 0.1\n") == "ρ = 0.1?"
    assert clean("") == "?"
    assert clean("x" * 200) == "x" * 120 and clean("x" * 200, 4000) == "x" * 200
    with pytest.raises(ValueError, match="expected a name, got 3"):
        clean(3)
