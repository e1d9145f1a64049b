"""`stratdiff show`: a finished run, one that was cut off, and mistakes."""

import json

import runs

from stratdiff.cli import main
from stratdiff.cli.show import lines


def shown(directory, capsys):
    assert main(["show", str(directory)]) == 0
    return capsys.readouterr().out


def test_a_finished_run(small_run, capsys):
    text = shown(small_run.directory, capsys)
    for words in (
        f"run        {small_run.directory}",
        "agent      iql, score guided, split ratio",
        "seeds      0",
        "state      finished, with cpu",
        f"return     {small_run.scores['before'][0]:.1f} before fine-tuning",
        f"return     {small_run.scores['after'][0]:.1f} after fine-tuning",
        "  --batch-size 16 ",
        "  --iql.actor-hidden 8 8",
        "  --behaviour.widths 16 8",
    ):
        assert words in text, words
    assert "--discount" not in text and "--score" not in text


def test_a_run_that_was_ended_early(small_run):
    summary = {**small_run.summary, "online_steps": 40}
    text = "\n".join(lines(small_run.directory, small_run.config, [], summary, 80))
    assert "finished after 40 of 120 online steps, with" in text


def test_it_is_one_screen(small_run, capsys, monkeypatch):
    """All but the paths, which stay whole for whoever copies them."""
    monkeypatch.setenv("COLUMNS", "80")
    rows = shown(small_run.directory, capsys).splitlines()
    assert len(rows) <= 30
    assert [row for row in rows if len(row) > 80 and "/" not in row] == []
    monkeypatch.setenv("COLUMNS", "30")
    one = shown(small_run.directory, capsys)
    assert "  --batch-size 16\n" in one and one.count("--") == "\n".join(rows).count("--")


def test_a_run_that_was_cut_off(small_run, tmp_path, capsys):
    copy = runs.copy(small_run, tmp_path / "run")
    (copy / "summary.json").unlink()
    log = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(log[:-2]))
    text = shown(copy, capsys)
    words = " ".join(text.split())  # long lines are folded
    assert f"not finished: online step 80; `stratdiff resume {copy}` goes on" in words
    assert "at online step 80" in text
    (copy / "metrics.jsonl").unlink()
    assert "not finished: no log point yet" in shown(copy, capsys)


def test_damage_is_one_sentence(small_run, tmp_path, capsys):
    copy = runs.copy(small_run, tmp_path / "run")
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps(summary | {"device": "another"}))
    assert main(["show", str(copy)]) == 2
    assert "summary.json' is damaged: its checksum is another" in capsys.readouterr().err
    (copy / "summary.json").write_text("{}")
    assert main(["show", str(copy)]) == 2
    assert "are not of a run's form (KeyError(" in capsys.readouterr().err


def test_what_is_no_run(tmp_path, capsys):
    assert main(["show", str(tmp_path)]) == 2
    assert "is no run directory: it has no config.json" in capsys.readouterr().err
