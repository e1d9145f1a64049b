"""Sentences of errors."""

import pytest

from stratdiff.errors import Interrupted, RunStopped, TrainingDiverged, UserError, nearest, some


def test_a_sentence_stays_a_sentence_whatever_was_found():
    found = "x" * 100_000
    text = str(UserError(f"--rho is {found}; it must be between 0 and 1."))
    assert len(text) < 2000
    assert text.startswith("--rho is xxx") and text.endswith("it must be between 0 and 1.")
    assert str(UserError("short.")) == "short."


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError(""), 2),
        (TrainingDiverged(""), 2),
        (RunStopped(""), 1),
        (Interrupted(2), 130),
        (Interrupted(15), 143),
    ],
)
def test_exit_codes(error, code):
    assert error.exit_code == code


def test_lists_of_names_are_short():
    names = [f"name{i}" for i in range(1000)]
    assert some(names, 3) == "name0, name1, name2 and 997 more"
    assert some([]) == "nothing"
    assert nearest("nam5", names).count(",") == 2
