"""The wells that predictions are scored on, read in blocks of whole plates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.slices import Slice, WellFiles, profile_files, read_slices
from ldm_ray.data_settings import IngestSettings
from ldm_ray.errors import DataError
from ldm_ray.keys import keys_of
from ldm_ray.storage.store import matrix

COLUMNS = [
    "profile_id", "profile_key", "compound_id", "cell_id", "condition_id", "plate", "batch", "dose_um", "time_h",
    "basal_id", "reserved_basal_id",
]  # fmt: skip


@dataclass(frozen=True)
class Wells:
    """n treated wells with everything needed to predict and score them; expression is log2.

    Attributes:
        frame: `COLUMNS` and `group_id` (`PairedDataset.group_ids`), indexed 0 to n - 1.
        y: Measured profile, (n, n_genes).
        basal: The control that predictions start from, C, (n, n_genes).
        reserved: The plate's reserved control, C', (n, n_genes); `basal` in wells without one.
        has_reserved: Whether the plate has a reserved control, (n,).
    """

    frame: pd.DataFrame
    y: np.ndarray
    basal: np.ndarray
    reserved: np.ndarray
    has_reserved: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def keys(self) -> np.ndarray:
        """Key of each profile id, (n,), int64."""
        return np.asarray(self.frame["profile_key"])

    def group(self, *columns: str) -> np.ndarray:
        """Number the groups of equal values in some columns, (n,), int64."""
        return np.asarray(self.frame.groupby(list(columns), sort=True).ngroup())

    def take(self, rows: np.ndarray) -> "Wells":
        """Return the wells at `rows`, in that order."""
        frame = self.frame.iloc[rows].reset_index(drop=True)
        return Wells(frame, self.y[rows], self.basal[rows], self.reserved[rows], self.has_reserved[rows])


@dataclass(frozen=True)
class WellReader:
    """Reads wells of one side of a dataset by number, without holding them all.

    Attributes:
        files: The dataset's profile files.
        slices: Row groups of the side.
        index: `COLUMNS` and `group_id` of the side's wells, sorted by plate, with the `slice` and `position` of each;
            0 to n - 1.
        controls: Control profiles, (n_basal, n_genes).
    """

    files: WellFiles
    slices: list[Slice]
    index: pd.DataFrame
    controls: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def blocks(self, rows_per_block: int) -> list[np.ndarray]:
        """Cut the wells into blocks of whole plates, about `rows_per_block` wells each; return the wells' numbers."""
        plate = self.index["plate"].to_numpy()
        starts = np.flatnonzero(np.r_[True, plate[1:] != plate[:-1]])
        blocks, first = [], 0
        for start, stop in zip(starts, np.r_[starts[1:], len(plate)], strict=True):
            if stop - first > rows_per_block and start > first:
                blocks.append(np.arange(first, start))
                first = int(start)
        return [*blocks, np.arange(first, len(plate))]

    def read(self, rows: np.ndarray) -> Wells:
        """Read the wells at `rows`, in that order."""
        frame = self.index.iloc[rows]
        numbers, positions = frame["slice"].to_numpy(), frame["position"].to_numpy()
        wanted = np.unique(numbers)
        y = np.empty((len(rows), self.controls.shape[1]), np.float32)
        tables = read_slices(self.files, [self.slices[i] for i in wanted], ["expression"])
        for number, table in zip(wanted, tables, strict=True):
            here = np.flatnonzero(numbers == number)
            y[here] = matrix(table["expression"])[positions[here]]
        return self._wells(frame.reset_index(drop=True), y)

    def stream(self, rows_per_block: int) -> Iterator[Wells]:
        """Read all wells in blocks of whole plates."""
        for rows in self.blocks(rows_per_block):
            yield self.read(rows)

    def _wells(self, frame: pd.DataFrame, y: np.ndarray) -> Wells:
        reserved = frame["reserved_basal_id"].to_numpy()
        own = frame["basal_id"].to_numpy()
        has = reserved >= 0
        return Wells(frame, y, self.controls[own], self.controls[np.where(has, reserved, own)], has)


def open_wells(
    dataset: PairedDataset,
    split: str,
    max_profiles: int = 0,
    seed: int = 0,
    ingest: IngestSettings | None = None,
) -> WellReader:
    """List the wells of a split; their profiles are read on demand.

    Args:
        dataset: The paired dataset.
        split: train, valid or test.
        max_profiles: Number of wells to keep, drawn by seed and profile id; 0 keeps all.
        seed: Seed of that draw.
        ingest: Says how long to wait for a store.

    Raises:
        DataError: If the split is empty.
    """
    files = profile_files(dataset, ingest or IngestSettings())
    slices = files.slices(split)
    tables = list(read_slices(files, slices, COLUMNS))
    if not tables:
        raise DataError(f"{dataset.url} has no profile in split {split!r}")
    index: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    index["group_id"] = dataset.group_ids[index["compound_id"]]
    index["slice"] = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    index["position"] = np.concatenate([np.arange(len(table)) for table in tables])
    if 0 < max_profiles < len(index):
        draw = keys_of(f"{seed}:{name}" for name in index["profile_id"])
        index = index.iloc[np.sort(np.argsort(draw, kind="stable")[:max_profiles])]
    # Plates in the files' order, so that a block needs few row groups.
    first = index.groupby("plate")["slice"].transform("min")
    index = index.assign(first=first).sort_values(["first", "plate", "profile_key"], kind="stable")
    return WellReader(files, slices, index.drop(columns="first").reset_index(drop=True), dataset.basal_expression)


def load_wells(dataset: PairedDataset, split: str, max_profiles: int = 0, seed: int = 0) -> Wells:
    """Read the wells of a split into memory; arguments and errors as `open_wells`."""
    reader = open_wells(dataset, split, max_profiles, seed)
    return reader.read(np.arange(len(reader)))


@dataclass(frozen=True)
class Sample:
    """Wells kept in memory for scores that need all pairs or all replicates: a seeded draw of whole conditions.

    Attributes:
        numbers: Numbers of the wells in the reader, increasing.
        n_conditions: Number of conditions.
    """

    numbers: np.ndarray
    n_conditions: int

    def within(self, rows: np.ndarray) -> np.ndarray:
        """Return the positions in a block of wells that are in the sample."""
        return np.flatnonzero(np.isin(rows, self.numbers, assume_unique=True))


def draw_sample(index: pd.DataFrame, max_wells: int, seed: int) -> Sample:
    """Draw whole conditions until the next one would exceed `max_wells` wells."""
    condition = index["condition_id"].to_numpy()
    unique, sizes = np.unique(condition, return_counts=True)
    order = np.argsort(keys_of(f"{seed}:sample:{number}" for number in unique), kind="stable")
    count = int(np.searchsorted(np.cumsum(sizes[order]), max_wells, side="right"))
    chosen = unique[order[: max(1, count)]]
    return Sample(np.flatnonzero(np.isin(condition, chosen)), len(chosen))


def concatenate(parts: Sequence[Wells]) -> Wells:
    """Join wells."""
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    names = ("y", "basal", "reserved", "has_reserved")
    return Wells(frame, *(np.concatenate([getattr(part, name) for part in parts]) for name in names))
