"""What is given to others: the archives, the image, the citation."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import stratdiff

ROOT = Path(__file__).parents[1]


def listed(builder):
    """What an archive takes from the repository: where each file lies, and its place in it."""
    return {
        Path(file.path).relative_to(ROOT).as_posix(): file.distribution_path
        for file in builder(str(ROOT)).recurse_included_files()
    }


@pytest.fixture(scope="module")
def tracked():
    """What git has, or would have with the next commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a repository of git")
    return {name for name in done.stdout.splitlines() if (ROOT / name).exists()}


def test_the_wheel_holds_the_package_whole_and_nothing_else(tracked):
    package = {name for name in tracked if name.startswith("src/stratdiff/")}
    assert listed(WheelBuilder) == {name: name.removeprefix("src/") for name in package}
    # Without these it would install and then fail.
    for name in ("report/templates/page.html", "data/made/snapshots/ant.safetensors", "py.typed"):
        assert f"src/stratdiff/{name}" in package


def test_the_source_archive_is_the_repository_without_what_programs_leave(tracked):
    assert set(listed(SdistBuilder)) == tracked


def test_the_archives_say_what_they_are():
    metadata = WheelBuilder(str(ROOT)).metadata
    core = metadata.core
    assert (core.name, metadata.version) == ("stratdiff", stratdiff.__version__)
    assert core.license_expression == "Apache-2.0"
    assert core.license_files == ["LICENSE"]
    assert core.requires_python == ">=3.11"


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == stratdiff.__version__
    (date,) = re.findall(rf"^## {stratdiff.__version__} - (\S+)$", text("CHANGELOG.md"), re.M)
    assert citation["date-released"] == date
    paper, method = citation["preferred-citation"], text("docs/method.md").replace("\n", " ")
    assert paper["title"] in method
    assert paper["url"] in method
    authors = [f"{one['given-names']} {one['family-names']}" for one in paper["authors"]]
    assert ", ".join(authors) in method


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_image_is_built_from_what_docker_is_given(tracked):
    copied = [
        name
        for line in re.findall(r"^COPY (.*)$", text("Dockerfile"), re.M)
        for name in line.split()[:-1]
    ]
    assert {"constraints.txt", "src"} <= set(copied)
    given = {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
    assert given == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    extras = re.search(r"^ARG EXTRAS=(.*)$", text("Dockerfile"), re.M)[1].split(",")
    known = WheelBuilder(str(ROOT)).metadata.core.optional_dependencies
    assert set(extras) <= set(known)
