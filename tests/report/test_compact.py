"""The compact form gives back the runs that it was made of, and only those of its form."""

import json

import pytest
from synthetic import write_run

from stratdiff.errors import UserError
from stratdiff.report import compact, results


def read(*paths):
    return results.read([str(p) for p in paths])


def names(runs):
    return [(r.task, r.base, r.variant) for r in runs]


def test_the_compact_file_gives_the_same_runs(tmp_path):
    write_run(tmp_path / "plain", score="none")
    write_run(tmp_path / "stratdiff", quantiles=False)
    write_run(tmp_path / "cut", finished=False)
    runs, left_out = read(tmp_path)
    text = compact.to_json(runs, left_out)
    (tmp_path / "results.json").write_text(text)
    again, left_again = read(tmp_path / "results.json")
    assert compact.to_json(again, left_again) == text
    assert names(again) == names(runs) and left_again == left_out
    assert text.count("\n") == 3 + 1 + 2 + 2  # a line holds a run


@pytest.mark.parametrize("spoil", ["seeds", "after", "config", "about", "evaluations"])
def test_a_spoilt_compact_file(tmp_path, spoil):
    write_run(tmp_path / "a")
    data = json.loads(compact.to_json(*read(tmp_path)))
    holder = data["runs"][0] if spoil != "seeds" else data["runs"][0]["config"]
    holder[spoil] = "x"
    (tmp_path / "results.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="no results file"):
        read(tmp_path / "results.json")
