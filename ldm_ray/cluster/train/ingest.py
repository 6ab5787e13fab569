"""A training worker's wells, from Ray Data: kept on the device, or streamed every epoch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ldm_ray.cluster.train.stream import stream_tables
from ldm_ray.config import Config
from ldm_ray.data.lanes import keep_own, lanes_of, own_keys
from ldm_ray.data.slices import WellFiles, share, shuffled, stretch
from ldm_ray.errors import DataError
from ldm_ray.keys import Purpose
from ldm_ray.noise import mix
from ldm_ray.settings import OptimiserSettings
from ldm_ray.storage.store import matrix
from ldm_ray.training.rows import LatentRows, ProfileRows, Rows
from ldm_ray.training.source import SPLITS, EpochPlan, ResidentSource, WellSource, lane_plan, stream_plan


@dataclass(frozen=True)
class StreamSource:
    """Wells that are streamed through Ray Data every epoch; memory holds one shuffle window.

    Row groups are shuffled over the whole split by (seed, epoch), rows within windows of `window_rows`. The rows of an
    epoch do not depend on the number of workers; the rows of a batch do.
    """

    files: WellFiles
    rank: int
    world_size: int
    plan: EpochPlan
    rows_per_batch: int
    window_rows: int
    seed: int
    device: torch.device

    def count(self, split: str) -> int:
        """Return how many wells of a split are this worker's."""
        start, stop = share(self.files.count(split), self.rank, self.world_size)
        return stop - start

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Rows]:
        """Yield this worker's part of each global batch of an epoch, from `first_step` on.

        Raises:
            DataError: If fewer rows come than planned.
        """
        per_window = max(1, self.window_rows // self.rows_per_batch) * self.rows_per_batch
        own = self.plan.steps * self.rows_per_batch
        begin = self.rank * own
        skipped = first_step * self.rows_per_batch // per_window
        wanted = stretch(
            shuffled(self.files.slices("train"), self.seed, epoch), begin + skipped * per_window, begin + own
        )
        step = skipped * per_window // self.rows_per_batch
        tables = stream_tables(self.files, wanted)
        for window in _windows(tables, self.files, per_window):
            order = torch.argsort(mix(window.keys, self.seed, Purpose.ORDER, epoch), stable=True)
            for index in order.split(self.rows_per_batch):
                if step >= first_step:
                    yield window.take(index).to(self.device)
                step += 1
        if step != self.plan.steps:
            raise DataError(f"epoch {epoch} must have {self.plan.steps} batches; got {step}")

    def sweep(self, split: str) -> Iterator[Rows]:
        """Yield each of this worker's wells once, in pieces, in the order of the files."""
        start, stop = share(self.files.count(split), self.rank, self.world_size)
        rows = 0
        for table in stream_tables(self.files, stretch(self.files.slices(split), start, stop)):
            values = torch.from_numpy(matrix(table[self.files.value_column]).copy())
            yield _rows(self.files, values, _ids(table)).to(self.device)
            rows += len(table)
        if rows != stop - start:
            raise DataError(f"split {split!r} must have {stop - start} rows for worker {self.rank}; got {rows}")


def open_source(
    files: WellFiles,
    keys: Mapping[str, np.ndarray],
    config: Config,
    settings: OptimiserSettings,
    rank: int,
    world_size: int,
    device: torch.device,
) -> WellSource:
    """Open a worker's wells according to `ingest.mode`.

    Args:
        files: Profiles or latents.
        keys: Sorted keys of each split; only a resident source uses them.
        config: Settings `ingest`, `ray.lanes`, `seed`.
        settings: Settings with the global batch size.
        rank: Rank of this worker.
        world_size: Number of workers.
        device: Device for the rows.
    """
    batch = settings.global_batch_size
    if is_resident(files, config, batch, world_size):
        return _resident(files, keys, config, batch, rank, world_size, device)
    plan = stream_plan(files.count("train"), batch, world_size)
    window = config.ingest.shuffle_window_rows
    return StreamSource(files, rank, world_size, plan, batch // world_size, window, config.seed, device)


def is_resident(files: WellFiles, config: Config, global_batch_size: int, world_size: int) -> bool:
    """Tell whether a worker's wells are kept on its device.

    `auto` keeps them if they fit into `ingest.resident_mb`, and lanes, workers and batch divide each other.
    """
    if config.ingest.mode != "auto":
        return config.ingest.mode == "resident"
    size = sum(files.count(split) for split in SPLITS) * files.width * 4 / world_size
    lanes = config.ray.lanes
    return size <= config.ingest.resident_mb * 1e6 and not (lanes % world_size or global_batch_size % lanes)


def plan_of(files: WellFiles, config: Config, global_batch_size: int, world_size: int) -> EpochPlan:
    """Plan an epoch; no wells are read.

    Raises:
        SettingsError: If workers, lanes and batch do not fit together.
        DataError: If a split has too few wells.
    """
    if (n_valid := files.count("valid")) < world_size:
        raise DataError(f"the validation split must have a profile for each of {world_size} workers; got {n_valid}")
    if is_resident(files, config, global_batch_size, world_size):
        return lane_plan(files.count("train"), config.ray.lanes, global_batch_size, world_size)
    return stream_plan(files.count("train"), global_batch_size, world_size)


def _ids(table: pa.Table) -> dict[str, Tensor]:
    """Copy the small columns of a table, so that its block need not stay in the object store."""
    names = {"keys": "profile_key", "basal": "basal_id", "compound": "compound_id"}
    integers = {name: torch.from_numpy(table[column].to_numpy().astype(np.int64)) for name, column in names.items()}
    return integers | {name: torch.from_numpy(table[name].to_numpy().copy()) for name in ("dose_um", "time_h")}


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _rows(files: WellFiles, values: Tensor, ids: dict[str, Tensor]) -> Rows:
    """Combine values and ids into the kind of rows that the files hold."""
    if files.value_column == "expression":
        return ProfileRows(expression=values, **ids)
    return LatentRows(moments=values, **ids)


def _windows(tables: Iterator[pa.Table], files: WellFiles, per_window: int) -> Iterator[Rows]:
    """Cut a stream into windows of rows; the last may be shorter. Each window overwrites the one before."""
    values = np.empty((per_window, files.width), dtype=np.float32)
    held: list[dict[str, Tensor]] = []
    rows = 0
    for table in tables:
        taken = 0
        while taken < len(table):
            part = table.slice(taken, per_window - rows)
            values[rows : rows + len(part)] = matrix(part[files.value_column])
            held.append(_ids(part))
            rows, taken = rows + len(part), taken + len(part)
            if rows == per_window:
                yield _rows(files, torch.from_numpy(values), _joined(held))
                held, rows = [], 0
    if held:
        yield _rows(files, torch.from_numpy(values[:rows]), _joined(held))


def _resident(
    files: WellFiles,
    keys: Mapping[str, np.ndarray],
    config: Config,
    global_batch_size: int,
    rank: int,
    world_size: int,
    device: torch.device,
) -> ResidentSource:
    """Read a worker's lanes through Ray Data, once.

    Raises:
        DataError: If not exactly this worker's wells come, each once.
    """
    n_lanes = config.ray.lanes
    plan = lane_plan(len(keys["train"]), n_lanes, global_batch_size, world_size)
    rows = {}
    for split in SPLITS:
        own = own_keys(keys[split], n_lanes, rank, world_size)
        tables = stream_tables(files, files.slices(split), keep=partial(keep_own, own_keys=own))
        rows[split] = collect(tables, files, own, split).to(device)
    lane = torch.from_numpy(lanes_of(rows["train"].keys.cpu().numpy(), keys["train"], n_lanes)).to(device)
    return ResidentSource(rows, lane, plan, global_batch_size // n_lanes, config.seed)


def collect(tables: Iterator[pa.Table], files: WellFiles, own: np.ndarray, split: str) -> Rows:
    """Collect a stream of a worker's wells in the order of their keys; each value is copied once."""
    values = np.empty((len(own), files.width), dtype=np.float32)
    held = []
    for table in tables:
        # Wells of other workers land in wrong places; the comparison of keys below finds them.
        place = np.searchsorted(own, table["profile_key"].to_numpy()) % max(1, len(own))
        values[place] = matrix(table[files.value_column])
        held.append(_ids(table))
    ids = _joined(held) if held else {"keys": torch.zeros(0, dtype=torch.int64)}
    order = torch.argsort(ids["keys"])
    if not np.array_equal(ids["keys"][order].numpy(), own):
        came = len(order)
        raise DataError(f"a worker must get {len(own)} wells of split {split!r}, each once; got {came} from Ray Data")
    return _rows(files, torch.from_numpy(values), {name: column[order] for name, column in ids.items()})
