"""The trackers, read back with their own libraries: every log point once, however often cut off."""

import json
import shutil
import sqlite3
import struct
import sys
import zlib
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
import runs
from PIL import Image

import stratdiff
from stratdiff.errors import RunStopped, UserError
from stratdiff.sinks import trackers
from stratdiff.sinks.base import SINKS, LogPoint, Sink
from stratdiff.sinks.jsonl import NAME, MetricsLog, log_points

SEEDS = (3, 5)
# (phase, its step, steps of all phases, values of the two seeds): a run whose phases have 20, 5 and
# 20 steps. The first online evaluation is at the step of the last offline log point.
POINTS = [
    ("base", 10, 10, [1.0, 2.0]),
    ("base", 20, 20, [2.0, 3.0]),
    ("energy", 5, 25, [3.0, np.nan]),
    ("online", 0, 25, [4.0, 6.0]),
    ("online", 10, 35, [5.0, 8.0]),
    ("online", 20, 45, [6.0, 10.0]),
]
MEANS = {
    "base/score": [(10, 1.5), (20, 2.5)],
    "online/score": [(25, 5.0), (35, 6.5), (45, 8.0)],
    "final/before": [(45, 1.5)],
}
OF_SEED = {
    3: {
        "base/score": [(10, 1.0), (20, 2.0)],
        "energy/score": [(25, 3.0)],
        "online/score": [(25, 4.0), (35, 5.0), (45, 6.0)],
        "final/before": [(45, 1.0)],
        "final/after": [(45, 3.0)],
    },
    5: {
        "base/score": [(10, 2.0), (20, 3.0)],
        "online/score": [(25, 6.0), (35, 8.0), (45, 10.0)],
        "final/before": [(45, 2.0)],
    },
}
SUMMARY = {
    "score": {
        "before": {"per_seed": [1.0, 2.0], "mean": 1.5},
        "after": {"per_seed": [3.0, None], "mean": None},
    }
}
# As trackers show it in which all seeds are one run.
NAMED = MEANS | {
    name.replace("/", "_by_seed/") + f"_{seed}": points
    for seed, curves in OF_SEED.items()
    for name, points in curves.items()
}


@pytest.fixture
def config(tiny):
    return tiny(seeds=SEEDS, iql={"expectile": 0.8}).to_table()


def drive(name, directory, config, first, last, finish=False):
    """A process's share of a run: log points `first` to `last`, then it ends."""
    sinks = [MetricsLog(directory, config), SINKS.find(name)(directory, config)]
    assert all(isinstance(sink, Sink) for sink in sinks)
    for sink in sinks:
        sink.rewind(first, 0)
    for i, (phase, step, total, values) in enumerate(POINTS[first:last], first):
        for sink in sinks:
            sink.log(LogPoint(phase, step, total, 2.0 * i), {"score": np.array(values)})
    if finish:
        for sink in sinks:
            sink.finish(SUMMARY)
    for sink in sinks:
        sink.close()


def cut_off(name, directory, config):
    """A run that is cut off while it is online, with log points after its checkpoint."""
    directory.mkdir()
    drive(name, directory, config, 0, 5)
    Image.new("RGB", (30, 20), "red").save(directory / "curves.png")
    (directory / "video").mkdir()
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "blue")]
    frames[0].save(directory / trackers.FILM, save_all=True, append_images=frames[1:])
    drive(name, directory, config, 3, 6, finish=True)


def test_log_points_are_what_was_logged(tmp_path, config):
    sink = MetricsLog(tmp_path, config)
    for i, (phase, step, total, values) in enumerate(POINTS):
        sink.log(LogPoint(phase, step, total, 0.5 * i), {"score": np.array(values)})
    sink.close()
    read = [*log_points(tmp_path / NAME)]
    assert [point[:3] for point, _ in read] == [point[:3] for point in POINTS]
    for i, (point, metrics) in enumerate(read):
        assert point.seconds == 0.5 * i
        np.testing.assert_array_equal(metrics["score"], POINTS[i][3])


def test_log_points_of_a_whole_run(small_run):
    read = [point for point, _ in log_points(small_run.directory / NAME)]
    lengths = {"base": 0, "behaviour": 60, "energy": 120, "online": 160}
    assert {point.phase for point in read} == {*lengths}
    assert all(point.total_step == lengths[point.phase] + point.step for point in read)


# ---- TensorBoard


def accumulated(folder):
    """A run of a log directory, with all its events."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    everything = dict.fromkeys(accumulator.STORE_EVERYTHING_SIZE_GUIDANCE, 0)
    found = accumulator.EventAccumulator(str(folder), everything)
    found.Reload()
    return found


def scalars(found):
    tags = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def test_tensorboard_has_every_point_once(tmp_path, config):
    directory = tmp_path / "run"
    cut_off("tensorboard", directory, config)
    mean = accumulated(directory / "tensorboard" / "mean")
    assert scalars(mean) == MEANS
    for seed, curves in OF_SEED.items():
        assert scalars(accumulated(directory / "tensorboard" / f"seed_{seed}")) == curves
    # Relative times are training times: two seconds from point to point.
    times = [event.wall_time for event in mean.Scalars("online/score")]
    np.testing.assert_allclose(np.diff(times), 2.0, atol=1e-4)
    for tag, path, size in (("curves", "curves.png", (30, 20)), ("video", trackers.FILM, (16, 12))):
        (picture,) = mean.Images(tag)
        assert (picture.width, picture.height, picture.step) == (*size, 45)
        assert picture.encoded_image_string == (directory / path).read_bytes()


def test_tensorboard_knows_the_hyperparameters(tmp_path, config):
    metadata = pytest.importorskip("tensorboard.plugins.hparams.metadata")
    from tensorboard.plugins.hparams import plugin_data_pb2

    directory = tmp_path / "run"
    cut_off("tensorboard", directory, config)
    content = accumulated(directory / "tensorboard" / "mean").PluginTagToContent("hparams")
    data = {tag: plugin_data_pb2.HParamsPluginData.FromString(x) for tag, x in content.items()}
    found = data[metadata.SESSION_START_INFO_TAG].session_start_info.hparams
    assert found["iql.expectile"].number_value == 0.8
    assert found["seeds"].string_value == "3 5"
    assert found["normalize_states"].bool_value is True
    experiment = data[metadata.EXPERIMENT_TAG].experiment
    assert [m.name.tag for m in experiment.metric_infos] == ["final/before", "final/after"]
    assert {info.name for info in experiment.hparam_infos} == {*found}
    assert data[metadata.SESSION_END_INFO_TAG].session_end_info.end_time_secs > 0


def test_one_seed_is_one_tensorboard_run(tmp_path, tiny):
    config = tiny(seeds=(3,)).to_table()
    (tmp_path / NAME).touch()
    sink = SINKS.find("tensorboard")(tmp_path, config)
    sink.rewind(0, 0)
    sink.log(LogPoint("base", 10, 10, 1.0), {"score": np.array([2.5])})
    sink.close()
    assert scalars(accumulated(tmp_path / "tensorboard")) == {"base/score": [(10, 2.5)]}
    assert not [path for path in (tmp_path / "tensorboard").iterdir() if path.is_dir()]


def test_a_tracker_that_fails_does_not_stop_the_run(tmp_path, config, capsys):
    sinks = [MetricsLog(tmp_path, config), SINKS.find("tensorboard")(tmp_path, config)]
    for sink in sinks:
        sink.rewind(0, 0)
    for file in sinks[1]._files.values():
        file.close()  # as a disk that is gone
    for phase, step, total, values in POINTS:
        for sink in sinks:
            sink.log(LogPoint(phase, step, total, 0.0), {"score": np.array(values)})
    for sink in sinks:
        sink.finish(SUMMARY)
        sink.close()
    said = capsys.readouterr().err
    assert said.count("warning: --track tensorboard failed (ValueError") == 1
    assert f"`stratdiff resume {tmp_path}` gives it what it missed." in said
    assert len(runs.log_points(tmp_path)) == 6
    drive("tensorboard", tmp_path, config, 6, 6)  # `resume` of the finished run
    assert scalars(accumulated(tmp_path / "tensorboard/mean"))["online/score"] == [
        (25, 5.0), (35, 6.5), (45, 8.0),
    ]  # fmt: skip


# ---- W&B


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """W&B without an account, whatever the machine has."""
    module = pytest.importorskip("wandb")
    for variable in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_NAME", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    module.teardown()
    yield module
    module.teardown()


def wandb_records(path):
    """The records of a .wandb file: LevelDB's log format, protocol buffers in it."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""  # after the file's own header
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, at)
        part = data[at + 7 : at + 7 + length]
        assert zlib.crc32(bytes([kind]) + part) == checksum
        at += 7 + length
        parts += part
        if kind in (1, 4):  # the whole of a record, or its last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def wandb_history(directory):
    """(config, rows of the history) of the one offline run of a run's directory."""
    sys.modules["wandb"].teardown()  # its own process has written everything
    (path,) = (directory / "wandb").glob("offline-run-*/*.wandb")
    config, rows = {}, []
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "run":
            config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return config, rows


def test_wandb_has_every_point_once(tmp_path, config, wandb):
    directory = tmp_path / "run"
    cut_off("wandb", directory, config)
    (folder,) = (directory / "wandb").glob("*-run-*")
    assert folder.name.endswith(trackers.run_id(directory))
    found, rows = wandb_history(directory)
    assert found["iql.expectile"] == 0.8 and found["seeds"] == "3 5"
    assert [row["_step"] for row in rows] == [*range(8)]
    curves = {}
    for row in rows[:-1]:
        for name in row.keys() - {"total_step", "_step", "_timestamp", "_runtime"}:
            curves.setdefault(name, []).append((row["total_step"], row[name]))
    assert curves == NAMED
    for name, kind, path in (("curves", "image", "curves.png"), ("video", "video", trackers.FILM)):
        assert rows[-1][f"{name}/_type"] == f"{kind}-file"
        stored = folder / "files" / rows[-1][f"{name}/path"]
        assert stored.read_bytes() == (directory / path).read_bytes()


def test_wandb_sends_a_server_only_what_it_lacks(tmp_path, config, wandb):
    """As after a resume online, where the server says how many rows it has."""

    class Server:
        step, rows = 2, []

        def log(self, row, step):
            self.rows.append((step, row["total_step"]))

    sink = SINKS.find("wandb")(tmp_path, config)
    sink._run = Server()
    for phase, step, total, values in POINTS:
        sink.log(LogPoint(phase, step, total, 0.0), {"score": np.array(values)})
    assert Server.rows == [(2, 25), (3, 25), (4, 35), (5, 45)]


def test_wandb_asks_for_no_account(tmp_path, config, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    wandb.teardown()
    (tmp_path / NAME).touch()
    sink = SINKS.find("wandb")(tmp_path, config)
    with pytest.raises(UserError, match="no W&B account is configured; run `wandb login`, or set"):
        sink.rewind(0, 0)


def test_wandb_that_cannot_be_opened_stops_the_run(tmp_path, config, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    (tmp_path / NAME).touch()
    sink = SINKS.find("wandb")(tmp_path, config)
    with pytest.raises(RunStopped, match=r"--track wandb could not be opened .*WANDB_MODE=offline"):
        sink.rewind(0, 0)
    sink.close()


# ---- trackio


@pytest.fixture
def trackio(monkeypatch, tmp_path):
    """trackio, loaded with a store of its own; an older one than is supported counts as missing."""
    try:
        found = version("trackio")
    except PackageNotFoundError:
        pytest.skip("trackio is not installed")
    if tuple(map(int, found.split(".")[:2])) < (0, 43):
        pytest.skip(f"trackio {found} is older than 0.43")
    for name in [name for name in sys.modules if name.split(".")[-1] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("trackio.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    for variable in ("TRACKIO_PROJECT", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)


def test_trackio_has_every_point_once(tmp_path, config, trackio, capsys):
    directory = tmp_path / "run"
    cut_off("trackio", directory, config)
    with sqlite3.connect(tmp_path / "store" / "stratdiff.db") as store:
        rows = [*store.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id")]
        ((_, stored),) = store.execute("SELECT run_name, config FROM configs")
    store.close()
    assert {name for name, _, _ in rows} == {f"run-{trackers.run_id(directory)}"}
    curves, media = {}, {}
    for _, step, text in rows:
        for name, value in json.loads(text).items():
            if isinstance(value, dict):
                media[name] = value["_type"]
            else:
                curves.setdefault(name, []).append((step, value))
    assert curves == NAMED
    assert media == {"curves": "trackio.image", "video": "trackio.video"}
    assert json.loads(stored)["iql.expectile"] == 0.8
    assert capsys.readouterr().out == ""


# ---- what they share


@pytest.mark.slow
def test_a_whole_run_that_is_cut_off_has_the_same_bits_and_curves(tmp_path, tiny, wandb):
    """Three trackers at once; the last log points before the end are after the checkpoint."""
    options = {"seeds": SEEDS, "checkpoint_seconds": 600.0}
    plain = stratdiff.train(tiny(**options), tmp_path / "plain", reporter=runs.QUIET)
    directory = tmp_path / "run"
    config = tiny(track=("wandb", "tensorboard", "video"), **options)
    with stratdiff.Session(config, directory, reporter=runs.QUIET, drives=True) as session:
        session.pretrain()
        runs.Driver(session).drive(stop=70)
    folder = directory / "tensorboard" / "mean"
    cut = scalars(accumulated(folder))["online/q_mean"]
    assert len(cut) == 3
    result = stratdiff.resume(directory, reporter=runs.QUIET)
    digests = "parameters_sha256"
    assert result.summary[digests] == plain.summary[digests]
    assert runs.log_points(directory) == runs.log_points(plain.directory)

    curves = scalars(accumulated(folder))
    wanted = {}
    for point, metrics in log_points(directory / NAME):
        for name, values in metrics.items():
            if np.isfinite(values.mean()):
                found = wanted.setdefault(f"{point.phase}/{name}", [])
                found.append((point.total_step, values.mean()))
    scores = result.summary["score"]
    wanted |= {f"final/{when}": [(280, found["mean"])] for when, found in scores.items()}
    assert curves.keys() == wanted.keys()
    for name, points in wanted.items():
        np.testing.assert_allclose(curves[name], points, rtol=2e-5)
    # Those of the first part are there once, and unchanged.
    np.testing.assert_allclose(curves["online/q_mean"][:3], cut, rtol=2e-5)

    _, rows = wandb_history(directory)
    assert [row["_step"] for row in rows] == [*range(len(runs.log_points(directory)) + 2)]
    rows = [row for row in rows if "online/q_mean" in row]
    assert [(row["total_step"], row["online/q_mean"]) for row in rows] == [
        (step, pytest.approx(value, rel=2e-5)) for step, value in curves["online/q_mean"]
    ]
    # The policy that fine-tuning started from is kept, and filmed beside the last one.
    assert [path.name for path in (directory / "policies").iterdir()] == [
        "step_000000000.safetensors"
    ]
    films = sorted(path.name for path in (directory / "video").iterdir())
    assert films == ["before_after.gif", "step_000000000.gif"]
    assert (folder.parent / "mean").is_dir() and accumulated(folder).Images("video")


def test_a_missing_or_old_library_is_one_sentence(monkeypatch):
    with pytest.raises(UserError) as found:
        trackers.require("no_such_tracker", "1.2")
    assert str(found.value) == (
        "--track no_such_tracker needs the package no_such_tracker, 1.2 or newer, which is not "
        "installed; pip install 'stratdiff[no_such_tracker]' adds it."
    )
    with pytest.raises(UserError, match=r"numpy, 99\.0 or newer, which is version 2\.\S+ here;"):
        trackers.require("numpy", "99.0")
    assert trackers.require("numpy", "1.9") is np
    monkeypatch.setattr(trackers.metadata, "version", lambda name: "3.0")
    with pytest.raises(UserError, match=r"which cannot be imported \(ModuleNotFoundError: No mod"):
        trackers.require("no_such_tracker", "1.2")


def test_a_missing_library_stops_a_run_before_anything_is_written(tiny, tmp_path, monkeypatch):
    def missing(name):
        raise trackers.metadata.PackageNotFoundError

    monkeypatch.setattr(trackers.metadata, "version", missing)
    monkeypatch.delitem(sys.modules, "stratdiff.sinks.wandb", raising=False)
    with pytest.raises(UserError, match=r"pip install 'stratdiff\[wandb\]' adds it"):
        stratdiff.train(tiny(track=("wandb",)), tmp_path / "run", reporter=runs.QUIET)
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_names_the_known_ones():
    with pytest.raises(UserError, match="one of tensorboard, wandb, trackio, video, or a class"):
        SINKS.find("mlflow")


def test_a_run_keeps_its_id(tmp_path):
    first = trackers.run_id(tmp_path)
    assert trackers.run_id(tmp_path) == first
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert trackers.run_id(tmp_path / "copy") == first
    (tmp_path / "tracker_id").write_text("../../x")
    with pytest.raises(UserError, match=r"which is no run id of 8 hexadecimal digits"):
        trackers.run_id(tmp_path)
