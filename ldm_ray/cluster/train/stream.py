"""Ray Data pipelines from treated wells to training workers.

A worker does not take what `streaming_split` happens to deal it, but reads exactly the rows of its plan
(`ldm_ray.data.slices`). The plan does not depend on timing, so rows can be counted, all workers have equally many
batches, and an interrupted run resumes where it was.

Functions that run inside Ray Data's tasks live in modules without torch: a task's process first imports the module of
its function, and importing torch takes longer than the work.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from ldm_ray.cluster.placement import CPUS_PER_READ
from ldm_ray.cluster.reported import raise_reported, reported
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.parts import ROWS_PER_GROUP
from ldm_ray.data.slices import ID_COLUMNS, Slice, WellFiles, read_slices
from ldm_ray.errors import DataError, LdmRayError

SLICES_PER_TASK = 2
BLOCKS_AHEAD = 6
Filter = Callable[[pa.Table], pa.Table]


class WellsDatasource(Datasource):
    """Reads slices of wells, a few per task."""

    def __init__(self, files: WellFiles, slices: Sequence[Slice], columns: Sequence[str], keep: Filter | None) -> None:
        self._files, self._slices, self._columns, self._keep = files, slices, columns, keep

    def estimate_inmemory_data_size(self) -> int:
        """Return the size of all values in bytes."""
        return sum(piece.rows for piece in self._slices) * 4 * self._files.width

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return the tasks, in the order of the slices."""
        tasks = []
        for start in range(0, len(self._slices), SLICES_PER_TASK):
            part = self._slices[start : start + SLICES_PER_TASK]
            rows = None if self._keep else sum(piece.rows for piece in part)
            size = sum(piece.rows for piece in part) * 4 * self._files.width
            metadata = BlockMetadata(num_rows=rows, size_bytes=size, input_files=None, exec_stats=None)
            tasks.append(ReadTask(partial(_read_part, self._files, part, self._columns, self._keep), metadata))
        return tasks


def _read_part(
    files: WellFiles, slices: Sequence[Slice], columns: Sequence[str], keep: Filter | None
) -> Iterator[pa.Table]:
    try:
        for table in read_slices(files, slices, columns):
            yield table if keep is None else keep(table)
    except LdmRayError as error:
        yield reported(error)


def stream_tables(files: WellFiles, slices: Sequence[Slice], keep: Filter | None = None) -> Iterator[pa.Table]:
    """Stream the needed columns of slices through Ray Data, in order.

    Args:
        files: Files that the slices are of.
        slices: Slices to read.
        keep: Filter for each table, applied in the task that reads it.

    Raises:
        DataError: If a row group does not match the manifest.
        StoreError: If the store does not answer in time.
    """
    if not slices:
        return
    columns = [*ID_COLUMNS, files.value_column]
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    # Smaller than a full row group, so that Ray Data does not join row groups.
    context.target_max_block_size = max(1, int(0.7 * ROWS_PER_GROUP * 4 * files.width))
    source = WellsDatasource(files, slices, columns, keep)
    data = ray.data.read_datasource(
        source,
        override_num_blocks=-(-len(slices) // SLICES_PER_TASK),
        num_cpus=CPUS_PER_READ,
    )
    for table in data.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=BLOCKS_AHEAD):
        raise_reported(table)
        if len(table):
            yield table


def sorted_keys(dataset: PairedDataset, split: str) -> np.ndarray:
    """Return the keys of a split's profiles, sorted, (n,), int64.

    Raises:
        DataError: If the split is empty.
    """
    keys = dataset.profiles(["profile_key"], split)["profile_key"].to_numpy()
    if not len(keys):
        raise DataError(f"{dataset.url} has no profile in split {split!r}")
    return np.sort(keys)
