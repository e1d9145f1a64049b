import json

import numpy as np
import pytest

from benchmarks import ordering


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_measures(rng):
    a = rng.normal(size=50)
    assert ordering.correlation(a, np.exp(a)) == pytest.approx(1)
    assert ordering.correlation(a, -a) == pytest.approx(-1)
    assert ordering.same_side(a, np.exp(a)) == 1
    assert ordering.same_side(a, -a) == 0
    online = np.arange(50) >= 20
    pairs = a[online][:, None] > a[~online][None]
    assert ordering.auc(a, online) == pytest.approx(pairs.mean())
    assert ordering.auc(np.zeros(50), online) == 0.5
    assert ordering.summary([1.0, 3.0]) == [2.0, 1.0]


@pytest.mark.slow
def test_small(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STRATDIFF_CACHE", str(tmp_path))
    out = tmp_path / "results" / "ordering.json"
    result = ordering.main(["--small", "--out", str(out)])
    assert json.loads(out.read_text())["by_guidance_scale"] == result["by_guidance_scale"]
    assert result["sizes"]["batches"] == ordering.SMALL.batches
    printed = capsys.readouterr().out
    assert set(result["by_guidance_scale"]) == {"3", "0"}
    for scale, found in result["by_guidance_scale"].items():
        scores = found["scores"]
        assert f"w = {scale}: against the references" in printed
        for name, row in scores.items():
            assert f"| {name} |" in printed or "half" in name or "exact Q" in name
            for what, (mean, error) in row.items():
                low = -1 if "correlation" in what else 0
                assert low <= mean <= 1 + 1e-9
                assert 0 <= error < 1
        for name in (*ordering.REFERENCES, ordering.DEFAULT, "guided 50 multistep"):
            assert scores[name][f"rank correlation: {name}"] == pytest.approx([1, 0])
            assert scores[name][f"same side: {name}"] == [1, 0]
        default = f"rank correlation: {ordering.DEFAULT}"
        assert scores[ordering.BFLOAT][default][0] > 0.9
        assert scores[ordering.OTHER_NOISE][default][0] < 0.9
        for m in ordering.SUPPORTS:
            assert found["pairs"][f"support {m}: bf16 differences of Q, float32 Q"][0] > 0.9
        effective = found["numbers"]["effective samples of the kernel reference"][0]
        assert 1 <= effective <= ordering.SMALL.reference_samples * (1 + 1e-5)
    plain = result["by_guidance_scale"]["0"]["numbers"]
    assert plain["largest difference of weights, bf16 Q"] == [0, 0]
