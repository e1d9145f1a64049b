"""The table of `benchmarks.latency`."""

import sys

from benchmarks import latency


def test_three_times_for_one_state_and_for_many(monkeypatch, capsys):
    policy = latency.random_policy(3, 2, 4)
    monkeypatch.setattr(latency, "random_policy", lambda: policy)
    monkeypatch.setattr(latency.measure, "__defaults__", (0.01,))
    monkeypatch.setattr(sys, "argv", ["latency"])
    latency.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["1", "256"]
    for cell in (cell for row in rows for cell in row[1:]):
        median, high = cell.replace("(", "").replace(")", "").split()
        assert 0 < float(median) <= float(high)
