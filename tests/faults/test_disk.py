"""A disk that fills up at some moment: one sentence and exit code 1, then the same bits.

The disk is a small tmpfs, or a limit on the size of files where nothing can be mounted. So much is
free that it runs out at the moment that the trial's number chooses.
"""

import shutil
import subprocess

import h5py
import numpy as np
import pytest
from trials import command, names, random, refused, result, same, spec, trials, well

SIZE = 16 * 2**20
RECORDED = 20 * 41 * 26


class Disk:
    """A folder in which so many bytes are left."""

    def __init__(self, folder):
        self.folder, self._ballast = folder, folder / ".ballast"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)]
        try:
            self.mounted = subprocess.run(mount, capture_output=True).returncode == 0
        except OSError:
            self.mounted = False

    def leave(self, free):
        """Fill the disk but for `free` bytes; what a job needs to feel it."""
        if not self.mounted:
            return {"file_size": max(free // 4, 1)}
        used = SIZE - shutil.disk_usage(self.folder).free
        with self._ballast.open("wb") as file:
            file.write(b"\0" * max(SIZE - used - free, 0))
        return {}

    def free(self):
        """Space again; the names of a disk without the ballast."""
        self._ballast.unlink(missing_ok=True)

    def close(self):
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


def used(directory):
    """Bytes of a run, with what its newest checkpoint needs beside the two before."""
    return int(1.6 * sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()))


def stopped(outcome):
    """It had space enough, or said what stopped it."""
    if outcome.code:
        refused(outcome, codes=(1,))
    return well(outcome) if outcome.code == 0 else outcome


def run_and_go_on(forks, disk, data, whole, kind, rng, shares):
    """A run on a disk that fills up, once or more often; then it ends as if it had not."""
    run = disk.folder / "run"
    for share in shares:
        limits = disk.leave(int(share * used(whole.directory)))
        stopped(forks.run(*next_step(run, data, kind), **limits))
        disk.free()
    well(forks.run(*next_step(run, data, kind)))
    same(result(run), whole.result)
    assert names(run) == names(whole.directory)


def next_step(run, data, kind):
    begun = (run / "config.json").is_file()
    return ("resume", run, "--trust-modules") if begun else command(data, run, kind)


@pytest.mark.parametrize("trial", trials(10, core=0))
def test_a_run(trial, forks, disk, small_data, plain):
    rng = random("disk run", trial)
    run_and_go_on(forks, disk, small_data, plain, "none", rng, [(trial + rng.random()) / 10])


@pytest.mark.parametrize("trial", trials(4, core=0))
def test_a_run_of_all_phases(trial, forks, disk, small_data, guided):
    rng = random("disk phases", trial)
    run_and_go_on(forks, disk, small_data, guided, "guided", rng, [(trial + rng.random()) / 4])


@pytest.mark.parametrize("trial", trials(3, core=0))
def test_a_run_and_its_continuation(trial, forks, disk, small_data, plain, record_property):
    rng = random("disk resume", trial)
    record_property("trials", 2)
    shares = sorted(rng.random(2))
    run_and_go_on(forks, disk, small_data, plain, "none", rng, shares)


@pytest.mark.parametrize("trial", trials(2, core=0))
def test_a_comparison(trial, forks, disk, small_data, plain, tmp_path):
    rng, out = random("disk compare", trial), disk.folder / "out"
    (tmp_path / "spec.toml").write_text(spec(small_data, ["none"]))
    arguments = ("compare", tmp_path / "spec.toml", "--out", out, "--trust-modules")
    limits = disk.leave(int((trial + rng.random()) / 2 * used(plain.directory)))
    outcome = forks.run(*arguments, **limits)
    stopped(outcome)
    disk.free()
    well(forks.run(*arguments))
    same(result(out / "point" / "none"), plain.result)


def again(forks, disk, arguments, free, **job):
    """A command on a disk with so much space; then with enough."""
    outcome = stopped(forks.run(*arguments, **disk.leave(free), **job))
    disk.free()
    return outcome


@pytest.mark.parametrize("trial", trials(4, core=0))
def test_a_report(trial, forks, disk, plain):
    arguments = ("report", plain.directory, "--out", disk.folder / "page")
    free = int(random("disk report", trial).integers(300_000))
    again(forks, disk, arguments, free)
    well(forks.run(*arguments))
    well(forks.run(*arguments[:3], disk.folder / "whole"))
    assert names(disk.folder / "page") == names(disk.folder / "whole")


@pytest.mark.parametrize("trial", trials(4, core=0))
def test_a_made_set(trial, forks, disk):
    free = int((trial + random("disk make", trial).random()) / 4 * 900_000)
    arguments = ("data", "make", "stratdiff/hopper-random", "--size", "6000", "--jobs", "2")
    job = {"env": {"STRATDIFF_CACHE": str(disk.folder / "cache")}}
    again(forks, disk, arguments, free, **job)
    well(forks.run(*arguments, **job))
    (file,) = (disk.folder / "cache").glob("*.hdf5")
    assert names(disk.folder / "cache") == {file.name}
    with h5py.File(file) as made:
        assert len(made["rewards"]) == 6000


@pytest.mark.parametrize("trial", trials(4, core=1))
def test_a_conversion(trial, forks, disk, recording):
    out = disk.folder / "set.hdf5"
    free = int((trial + random("disk convert", trial).random()) / 4 * 30_000)
    outcome = again(forks, disk, ("data", "convert", recording, out), free)
    assert names(disk.folder) == ({out.name} if outcome.code == 0 else set())
    if outcome.code:
        well(forks.run("data", "convert", recording, out))
    well(forks.run("data", "info", out))


@pytest.mark.parametrize("trial", trials(5, core=1))
def test_a_recorder(trial, forks, disk, tmp_path):
    """What was recorded before the disk filled up is kept, and the recording goes on."""
    path, whole = disk.folder / "set.hdf5", tmp_path / "set.hdf5"
    well(forks.run(str(whole), call="actions:record"))
    free = int((trial + random("disk recorder", trial).random()) / 5 * 2 * RECORDED)
    limits = disk.leave(free)
    outcome = stopped(forks.run(str(path), call="actions:record", **limits))
    disk.free()
    expected = rewards(whole)
    if outcome.code == 0:
        np.testing.assert_array_equal(rewards(path), expected)
        return
    partial = path.with_name("set.hdf5.partial")
    if partial.exists() and not path.exists():
        well(forks.run("data", "convert", partial, path))
        found = rewards(path)
        np.testing.assert_array_equal(found[:-1], expected[: len(found) - 1])
    assert names(disk.folder) <= {path.name, partial.name}


def rewards(path):
    with h5py.File(path) as file:
        return file["rewards"][()]


@pytest.mark.parametrize("trial", trials(2, core=0))
def test_an_export(trial, forks, disk, plain):
    path = disk.folder / "policy.safetensors"
    source = plain.directory / "policy.safetensors"
    free = (0, 4096 * (source.stat().st_size // 8192))[trial]
    arguments = (str(source), str(path))
    stopped(forks.run(*arguments, call="actions:export", **disk.leave(free)))
    disk.free()
    assert names(disk.folder) <= {path.name}
    well(forks.run(*arguments, call="actions:export"))
    assert path.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.slow
@pytest.mark.faults
def test_streams_that_are_full(stream, forks, small_data, plain, tmp_path):
    """What a run says cannot be written: the run ends all the same."""
    run = tmp_path / "run"
    outcome = forks.run(*command(small_data, run), full=[stream])
    assert outcome.code in (0, 1)
    assert "Traceback" not in outcome.text
    same(result(run), plain.result)
