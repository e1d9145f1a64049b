"""What commands share: the table at the end of a run."""

import dataclasses

from stratdiff.cli.parsing import show_result


def test_the_table_at_the_end_of_a_run(small_run, capsys):
    assert show_result(small_run) == 0
    out = capsys.readouterr().out
    before, after = (small_run.scores[when][0] for when in ("before", "after"))
    for word in ("return", "before", "after", f"{before:.1f}", f"{after:.1f}", "curves.png"):
        assert word in out
    assert f"mean episode of the data: {small_run.summary['dataset']['mean_score']:.1f}" in out


def test_a_run_without_evaluations_has_no_scores_to_show(small_run, capsys):
    summary = small_run.summary | {"score": {}}
    summary["dataset"] = summary["dataset"] | {"mean_score": None}
    assert show_result(dataclasses.replace(small_run, summary=summary)) == 0
    out = capsys.readouterr().out
    assert "before" not in out and "mean episode" not in out and "results in" in out
