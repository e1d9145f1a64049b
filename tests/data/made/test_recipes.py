"""Which sets are made, and the policies that ship with the package."""

import json

import pytest

from stratdiff.data.made import recipes
from stratdiff.policy import Policy

ROWS = 3000


def test_names_and_sizes_are_d4rls():
    sizes = {name.removeprefix("stratdiff/"): r.rows for name, r in recipes.RECIPES.items()}
    assert len(sizes) == 27
    assert sizes["halfcheetah-medium-replay"] == 202_000
    assert sizes["hopper-medium-replay"] == 402_000
    assert sizes["walker2d-medium-replay"] == 302_000
    assert sizes["hopper-medium-expert"] == 2_000_000
    assert sizes["antmaze-large-diverse"] == sizes["walker2d-random"] == 1_000_000


def test_shipped_snapshots():
    files = sorted(recipes.SNAPSHOTS.glob("*.safetensors"))
    assert [f.stem for f in files] == ["ant", "halfcheetah", "hopper", "walker2d"]
    assert sum(f.stat().st_size for f in files) < 5e6
    assert all(f.stat().st_size < 2e6 for f in files)
    for file, level in zip(files[1:], (40, 44, 62), strict=True):
        about = Policy.load(file).metadata
        scores = about["stochastic_scores"]
        assert len(scores) == len(about["steps"]) >= 20
        assert scores[about["medium"]] == pytest.approx(level, rel=0.1)
        assert scores[about["expert"]] == max(scores)
        json.dumps(about)
