"""The card of a run: its metadata as the hub's own library reads them, numbers by hand."""

from huggingface_hub import ModelCard

from stratdiff.config import make_config
from stratdiff.report.card import card

SUMMARY = {
    "score": {
        "before": {"per_seed": [10.0, 20.0, 60.0], "mean": 30.0},
        "after": {"per_seed": [50.0, None, 70.0], "mean": None},
    },
    "normalized": True,
    "seeds": [0, 1, 2],
    "dataset": {"name": "stratdiff/hopper-medium", "mean_score": 41.13},
    "environment": "Hopper-v4",
    "versions": {"stratdiff": "0.1.0"},
    "git_revision": None,
    "device": "cpu",
}


def test_metadata_and_scores():
    config = make_config("demo", base="calql", score="support")
    text = card("me/hopper", config, SUMMARY, ["curves.png", "film.gif", "config.json"])
    found = ModelCard(text).data
    assert found.library_name == "stratdiff" and "calql" in found.tags
    before, after = found.eval_results
    assert (before.dataset_type, before.metric_name) == (
        "Hopper-v4", "normalised score, before fine-tuning",
    )  # fmt: skip
    # Each of 27 draws of three seeds has 3.7 %, the two extreme ones too: more than 2.5 %.
    assert before.metric_value == "30.0 [10.0, 60.0]"
    assert after.metric_value.startswith("60.0 [50.0, 70.0]")
    assert "| after fine-tuning | 60.0 [50.0, 70.0] | 50.0, —, 70.0 |" in text
    assert "| the data's mean episode | 41.1 | |" in text
    assert "not D4RL's own" in text
    assert "![curves.png](curves.png)" in text and "![film.gif](film.gif)" in text
    assert 'Policy.load("hf://me/hopper")' in text


def test_one_seed_has_no_interval_and_a_path_is_nobodys_business():
    one = {"per_seed": [10.0], "mean": 10.0}
    about = SUMMARY | {"score": {"after": one}, "seeds": [0], "normalized": False}
    about |= {"dataset": {"name": "/home/me/secret/arm.hdf5", "mean_score": None}}
    about |= {"environment": "", "git_revision": "abc"}
    text = card("me/arm", make_config("demo", env="A-v0"), about, [])
    assert "| after fine-tuning | 10.0 | 10.0 |" in text and "has no interval" in text
    assert "secret" not in text and "`arm.hdf5`" in text
    assert "revision abc" in text
    (result,) = ModelCard(text).data.eval_results
    assert result.metric_type == "mean_reward" and result.metric_value == "10.0"
