"""push and pull against a hub of the test, and what takes hf:// names."""

import json
import re
import shutil
import sys
from pathlib import Path

import fakehub
import numpy as np
import pytest
import runs

from stratdiff import Policy
from stratdiff.cli import main

REPO = "me/point"
KEY = ("model", REPO)
# Of huggingface_hub's own upload of large files.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fakehub.serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def run(small_run, tmp_path):
    run = runs.copy(small_run, tmp_path / "run")
    (run / "film.gif").write_bytes(b"GIF89a of the test")
    (run / "notes.txt").write_text("mine")
    return run


def said(capsys):
    """What a command wrote on standard error: one sentence."""
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    return text


def test_there_and_back(hub, run, tmp_path, monkeypatch, capsys, small_run):
    """Every byte of the run's files; the policy acts, and the commands take its name."""
    assert main(["push", str(run), REPO]) == 0
    assert hub.address in capsys.readouterr().out
    pushed = hub.repos[KEY]
    names = ["config.json", "curves.png", "film.gif", "metrics.jsonl", "policy.safetensors"]
    assert sorted(pushed) == ["README.md", *names, "summary.json"]
    for name in pushed.keys() - {"README.md"}:
        assert pushed[name] == (run / name).read_bytes(), name
    assert any(method == "PUT" for method, _ in hub.asked)  # large files went as such
    assert KEY not in hub.private

    monkeypatch.chdir(tmp_path)
    assert main(["pull", REPO]) == 0
    pulled = tmp_path / "runs" / "point"
    assert {p.name: p.read_bytes() for p in pulled.iterdir()} == pushed
    obs = np.array([0.3, -1.0])
    expected = Policy.load(run / "policy.safetensors").act(obs)
    np.testing.assert_array_equal(Policy.load(pulled / "policy.safetensors").act(obs), expected)
    np.testing.assert_array_equal(Policy.load(f"hf://{REPO}").act(obs), expected)
    commit = hub.sha(KEY)
    by_file = Policy.load(f"hf://{REPO}@{commit}/policy.safetensors")
    np.testing.assert_array_equal(by_file.act(obs), expected)

    capsys.readouterr()
    assert main(["export", f"hf://{REPO}", "--numpy", str(tmp_path / "policy.py")]) == 0
    assert main(["show", f"hf://{REPO}"]) == 0
    assert main(["eval", f"hf://{REPO}", "--episodes", "2"]) == 0
    shown = capsys.readouterr().out
    after = small_run.summary["score"]["after"]["per_seed"][0]
    assert f"{after:.1f}" in shown and "agent      iql" in shown
    # What was fetched once works without the hub.
    hub.down = True
    np.testing.assert_array_equal(Policy.load(f"hf://{REPO}").act(obs), expected)


def test_a_private_repository(hub, run, tmp_path, capsys, monkeypatch):
    assert main(["push", str(run), f"hf://{REPO}", "--private"]) == 0
    assert KEY in hub.private
    assert main(["pull", REPO, "--out", str(tmp_path / "mine")]) == 0
    capsys.readouterr()
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    shutil.rmtree(tmp_path / "cache")
    assert main(["pull", REPO, "--out", str(tmp_path / "other")]) == 2
    assert "HF_TOKEN" in (text := said(capsys)) and "hf auth login" in text
    assert not (tmp_path / "other").exists()
    assert main(["push", str(run), REPO]) == 2
    assert "HF_TOKEN" in said(capsys)
    # Nothing goes to a public one by mistake.
    monkeypatch.setenv("HF_TOKEN", fakehub.TOKEN)
    hub.put("me/public", {})
    assert main(["push", str(run), "me/public", "--private"]) == 2
    assert "is public" in said(capsys)
    assert not hub.repos["model", "me/public"]
    assert main(["push", str(run), "others/point"]) == 2
    assert "hf auth login" in said(capsys)


def test_what_is_not_pushed(hub, run, tmp_path, capsys):
    for repo in ("point", "me/point/more/x", "me/../x", "me/po int"):
        assert main(["push", str(run), repo]) == 2
        assert "expected owner/repo" in said(capsys)
    assert main(["push", str(tmp_path), REPO]) == 2
    assert "no policy.safetensors" in said(capsys)
    (run / "summary.json").write_text(json.dumps({"score": {}}))
    assert main(["push", str(run), REPO]) == 2
    assert "not of a run's form" in said(capsys)
    (run / "policy.safetensors").write_bytes(b"no policy")
    assert main(["push", str(run), REPO]) == 2
    assert "could not be read as safetensors" in said(capsys)
    assert not hub.repos


HOSTILE = {
    "../../escaped.gif": b"x",
    "deep/policy.safetensors": b"x",
    ".bashrc": b"x",
    "code.py": b"x",
    "-rf.gif": b"x",
}


def test_what_is_pulled_is_a_runs(hub, run, tmp_path, capsys):
    """Names that no run has are left alone; sizes are looked at before anything is fetched."""
    assert main(["push", str(run), REPO]) == 0
    hub.put(REPO, HOSTILE)
    out = tmp_path / "deep" / "out"
    assert main(["pull", REPO, "--out", str(out)]) == 0
    assert not {p.name for p in out.iterdir()} & {"escaped.gif", ".bashrc", "code.py", "-rf.gif"}
    assert not [path for _, path in hub.asked if "escaped" in path or "code.py" in path]
    capsys.readouterr()
    assert main(["pull", REPO, "--out", str(out)]) == 2
    assert "already exists" in said(capsys)

    other = str(tmp_path / "other")
    hub.declared = {"film.gif": 2**40}
    assert main(["pull", REPO, "--out", other]) == 2
    assert "1,024.0 GiB" in said(capsys)
    hub.declared = {"film.gif": 3}
    assert main(["pull", REPO, "--out", other]) == 2
    assert "changed while it was fetched" in said(capsys)
    hub.declared = {}
    hub.put(REPO, {"policy.safetensors": b"\x80\x04pickle"})
    assert main(["pull", REPO, "--out", other]) == 2
    assert "could not be read as safetensors" in said(capsys)
    hub.put("me/empty", {"model.bin": b"x"})
    assert main(["pull", "me/empty", "--out", other]) == 2
    assert "no file 'policy.safetensors' (found: model.bin)" in said(capsys)
    assert main(["pull", "me/none", "--out", other]) == 2
    assert "check the name" in said(capsys)
    assert main(["pull", f"{REPO}@nothing", "--out", other]) == 2
    assert "no such revision" in said(capsys)
    assert not (tmp_path / "other").exists()


def test_without_the_hub(run, tmp_path, capsys, monkeypatch):
    with fakehub.serving(monkeypatch, tmp_path / "cache") as hub:
        from huggingface_hub.utils import _http

        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
        hub.down = True
        assert main(["push", str(run), REPO]) == 1
        assert "could not be reached" in said(capsys)
        assert main(["show", f"hf://{REPO}"]) == 1
        assert "could not be reached" in said(capsys)
    assert main(["pull", REPO]) == 1  # nobody listens there any more
    assert "HF_ENDPOINT" in said(capsys)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["pull", REPO]) == 2
    assert "pip install 'stratdiff[hub]'" in said(capsys)


PAGE = (Path(__file__).parents[2] / "docs" / "hub.md").read_text()


def test_the_commands_of_the_page(hub, run, data_file, tmp_path, monkeypatch, capsys):
    """docs/hub.md, command by command, with the run where the page has it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/mine")
    hub.put("me/data", {"clumsy.hdf5": data_file.read_bytes()}, "dataset")
    lines = re.findall(r"^stratdiff (.*?)(?: +#.*)?$", PAGE, re.M)
    assert len(lines) == 7
    for line in lines:
        words = line.replace("--episodes 100", "--episodes 1").split()
        if words[0] == "train":  # everything but the run itself
            words = ["data", "info", words[words.index("--dataset") + 1]]
        assert main(words) == 0, line
    assert "point" in capsys.readouterr().out
    (python,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    found = {"observation": np.array([0.5, 0.5])}
    exec(python, found)
    np.testing.assert_array_equal(
        found["action"], Policy.load(run / "policy.safetensors").act(found["observation"])
    )
