"""TensorBoard: event files in DIR/tensorboard, one run for the mean and one for every seed.

They are written here and now, with TensorBoard's own record writer: a full disk is found at once,
where tensorboardX's queue would wait for ever for a thread that has died.
"""

import time
from pathlib import Path
from typing import Any

from PIL import Image

from stratdiff.files import writing
from stratdiff.sinks.base import LogPoint
from stratdiff.sinks.trackers import Tracker, require

require("tensorboard", "2.16")

from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: E402
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2  # noqa: E402
from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: E402

_PREFIX = "events.out.tfevents"


class TensorBoard(Tracker):
    """The `Sink`. On opening, the event files are written anew from metrics.jsonl."""

    title = "tensorboard"

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        super().__init__(directory, config)
        self.folder = directory / "tensorboard"
        self._files: dict[int | None, RecordWriter] = {}

    def begin(self) -> None:
        """Open an event file for the mean, and with several seeds one for each of them."""
        several = len(self.seeds) > 1
        folders = {None: self.folder / "mean" if several else self.folder}
        if several:
            folders |= {seed: self.folder / f"seed_{seed}" for seed in self.seeds}
        with writing(self.folder):
            for folder in folders.values():
                folder.mkdir(parents=True, exist_ok=True)
                for old in folder.glob(f"{_PREFIX}.*"):
                    old.unlink()
            # Steps of a resumed run keep their distance in time.
            now = time.time()
            self._start = now - self.last.seconds
            for seed, folder in folders.items():
                path = folder / f"{_PREFIX}.{int(1e6 * now)}.stratdiff"
                self._files[seed] = RecordWriter(path.open("wb"))
                self._add(seed, event_pb2.Event(wall_time=now, file_version="brain.Event:2"))
            self._add_options()

    def write(self, point: LogPoint, values: list[tuple[int | None, str, float]]) -> None:
        """Scalars, the step being that of all phases together."""
        for seed in self._files:
            found = [
                summary_pb2.Summary.Value(tag=name, simple_value=value)
                for of, name, value in values
                if of == seed
            ]
            self._add_summary(seed, found, point)

    def show(self, pictures: dict[str, Path]) -> None:
        """Images; a GIF moves. The session of the hyperparameters ends."""
        found = []
        for name, path in pictures.items():
            with Image.open(path) as picture:
                width, height = picture.size
            image = summary_pb2.Summary.Image(
                encoded_image_string=path.read_bytes(), width=width, height=height, colorspace=3
            )
            found.append(summary_pb2.Summary.Value(tag=name, image=image))
        self._add_summary(None, found, self.last)
        ended = plugin_data_pb2.SessionEndInfo(
            status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time()
        )
        self._add_hparams(metadata.SESSION_END_INFO_TAG, session_end_info=ended)

    def end(self) -> None:
        """Close the files."""
        while self._files:
            self._files.popitem()[1].close()

    def _add_options(self) -> None:
        """The hyperparameters of the run, and by which scores to compare it."""
        metrics = [
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f"final/{when}"))
            for when in ("before", "after")
        ]
        infos, started = [], plugin_data_pb2.SessionStartInfo(start_time_secs=self._start)
        for name, value in self.options.items():
            infos.append(api_pb2.HParamInfo(name=name))
            if isinstance(value, str):
                infos[-1].type = api_pb2.DATA_TYPE_STRING
                started.hparams[name].string_value = value
            elif isinstance(value, bool):
                infos[-1].type = api_pb2.DATA_TYPE_BOOL
                started.hparams[name].bool_value = value
            else:
                infos[-1].type = api_pb2.DATA_TYPE_FLOAT64
                started.hparams[name].number_value = value
        experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)
        self._add_hparams(metadata.EXPERIMENT_TAG, experiment=experiment)
        self._add_hparams(metadata.SESSION_START_INFO_TAG, session_start_info=started)

    def _add_hparams(self, tag: str, **content: Any) -> None:
        data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
        plugin = metadata.create_summary_metadata(data)
        value = summary_pb2.Summary.Value(tag=tag, metadata=plugin, tensor=metadata.NULL_TENSOR)
        self._add_summary(None, [value], self.last._replace(total_step=0))

    def _add_summary(self, seed: int | None, values: list[Any], point: LogPoint) -> None:
        event = event_pb2.Event(
            wall_time=self._start + point.seconds,
            step=point.total_step,
            summary=summary_pb2.Summary(value=values),
        )
        self._add(seed, event)

    def _add(self, seed: int | None, event: Any) -> None:
        self._files[seed].write(event.SerializeToString())
        self._files[seed].flush()
