"""Data sets on the Hugging Face hub: HDF5 files of data set repositories, `hf://owner/repo/FILE`."""

import dataclasses
from pathlib import Path

from stratdiff import hub
from stratdiff.data import hdf5
from stratdiff.data.dataset import Dataset
from stratdiff.data.sources import Entry, Progress, Source
from stratdiff.reading import machine_memory


class Hub(Source):
    """Files that are read as `hdf5` reads one from the disk, each fetched when it is first named.

    A name does not tell its environment, on which a run's recipe depends, and the file does.
    """

    keeps_hdf5 = True

    def find(self, name: str) -> Entry:
        """See `Source`; the library shows the download. A file may be as large as the memory."""
        path = hub.data_file(name, machine_memory())
        return dataclasses.replace(hdf5.Files("").find(str(path)), name=name)

    def local(self, entry: Entry) -> Path | None:
        return hub.cached_data_file(entry.name)

    def load(self, entry: Entry, env: str = "", progress: Progress | None = None) -> Dataset:
        path = hub.data_file(entry.name, machine_memory())
        file = dataclasses.replace(entry, name=str(path))
        return dataclasses.replace(hdf5.Files("").load(file, env, progress), name=entry.name)
