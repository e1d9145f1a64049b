"""The site: built as `make docs` does, where a link that leads nowhere fails."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import runs

import stratdiff
from stratdiff import cli

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    env = os.environ | {"PYTHONPATH": runs.SRC, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def page(site, name):
    return (site / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_it_loads_nothing_from_elsewhere(site):
    pages = list(site.glob("*.html"))
    assert len(pages) > 15
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|img|iframe)[^>]+src=\"?https?:", text) == []
        loaded = re.findall(r"<link[^>]+rel=\"?(?:stylesheet|preconnect|icon)[^>]*>", text)
        assert loaded and not any("//" in link for link in loaded)


@pytest.mark.slow
def test_the_reference_is_whole(site):
    text = page(site, "cli.html")
    for command in cli._COMMANDS:
        assert f"usage: stratdiff {command} " in text
    assert "usage: stratdiff data convert " in text
    assert "\x1b" not in text
    blocks = re.findall(r"<pre[^>]*>(.*?)</pre>", text, re.S)
    tables = [re.sub("<[^>]+>", "", block) for block in blocks if "-h, --help" in block]
    # The usage and the summary above a table are lines of their own length.
    lines = [line for table in tables for line in table.splitlines() if line[:1] in " │"]
    assert len(lines) > 100 and max(len(html.unescape(line)) for line in lines) <= 80
    text = page(site, "api.html")
    for name, module in stratdiff._PUBLIC.items():
        assert f'id="{module}.{name}"' in text
    for protocol in ("agents.base.Agent", "scores.base.Score", "splits.Split"):
        assert f'id="stratdiff.{protocol}"' in text


@pytest.mark.slow
def test_links_and_formulas_of_the_repository_are_those_of_the_site(site):
    text = page(site, "index.html")
    assert 'href="method.html"' in text and 'href="tutorial.html"' in text
    assert 'src="images/demo.png"' in text
    # Files that are no pages are named and lead nowhere.
    text = page(site, "extending.html")
    assert "<td><code>td3bc.py</code></td>" in text and 'href="../' not in text
    source = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    text = page(site, "method.html")
    assert text.count("<math ") == source.count("$$") // 2 > 5
    assert "$$" not in text
