"""Ray Data pipelines: treated wells to training workers, compounds through an encoder.

The functions that run inside Ray Data's tasks live in modules without torch: a task's process imports the
module of its function first, and importing torch costs it more than the work.
"""

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
import torch
from ray.train import DataConfig

from ldm_ray.chem.embedding import CompoundEncoder, encode_table
from ldm_ray.config import EncoderSettings
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.lanes import keep_lanes, lanes_of
from ldm_ray.data.store import matrix
from ldm_ray.errors import DataError
from ldm_ray.keys import keys_of
from ldm_ray.training.rows import Rows

PROFILES = "profiles"
TRAINING_COLUMNS = ["profile_id", "basal_id", "compound_id", "dose_um", "time_h", "expression", "split"]


def read_profiles(dataset: PairedDataset) -> ray.data.Dataset:
    """Stream treated wells, the columns that training needs and no others."""
    fs, _ = dataset.store.arrow()
    return ray.data.read_parquet(dataset.profile_paths, filesystem=fs).select_columns(TRAINING_COLUMNS)


def sorted_keys(dataset: PairedDataset, split: str) -> np.ndarray:
    """Return the keys of a split's profile ids, sorted, (n,), int64.

    Raises:
        DataError: If the split is empty.
    """
    names = dataset.profiles(["profile_id"], split)["profile_id"].to_pylist()
    if not names:
        raise DataError(f"{dataset.url} has no profile in split {split!r}")
    return np.sort(keys_of(names))


class LaneDataConfig(DataConfig):
    """Deals wells to workers by lane, so that a worker's wells do not depend on timing.

    Args:
        keys: The sorted keys of each split that is wanted.
        n_lanes: Number of lanes.
    """

    def __init__(self, keys: dict[str, np.ndarray], n_lanes: int) -> None:
        super().__init__(datasets_to_split=[])
        self._keys, self._n_lanes = keys, n_lanes

    def configure(
        self,
        datasets: dict[str, ray.data.Dataset],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Return each worker's iterators."""
        return [
            {
                name: data.map_batches(
                    partial(
                        keep_lanes,
                        sorted_keys=self._keys,
                        n_lanes=self._n_lanes,
                        rank=rank,
                        world_size=world_size,
                    ),
                    batch_format="pyarrow",
                    batch_size=None,
                ).iterator()
                for name, data in datasets.items()
            }
            for rank in range(world_size)
        ]


def collect_rows(
    shard: Any,
    sorted_keys: dict[str, np.ndarray],
    n_lanes: int,
    rank: int,
    world_size: int,
    device: torch.device,
) -> dict[str, Rows]:
    """Pull a worker's shard through Ray Data once and keep it on the device, each split in the order of keys.

    Raises:
        DataError: If not exactly this worker's wells came, each once.
    """
    tables = [table for table in shard.iter_batches(batch_format="pyarrow", batch_size=4096) if len(table)]
    if not tables:
        raise DataError("a worker got no profile; use fewer workers")
    whole = pa.concat_tables(tables)
    rows = {}
    for split, keys in sorted_keys.items():
        own = keys[np.arange(len(keys)) % n_lanes % world_size == rank]
        rows[split] = _rows(whole.filter(pc.equal(whole["split"], split)), split, own, keys, n_lanes, device)
    return rows


def embed_compounds(dataset: PairedDataset, encoder: CompoundEncoder, settings: EncoderSettings) -> pa.Table:
    """Encode every compound of a dataset, in parallel; columns `compound_id` and `embedding`.

    Raises:
        DataError: If not every compound came out.
    """
    data = ray.data.from_arrow(dataset.compounds.select(["compound_id", "parent_smiles"]))
    encoded = data.map_batches(partial(encode_table, settings=settings), batch_format="pyarrow", batch_size=1024)
    tables = list(encoded.iter_batches(batch_format="pyarrow", batch_size=None))
    table = pa.concat_tables(tables).sort_by("compound_id")
    if len(table) != len(dataset.compounds):
        raise DataError(f"{len(dataset.compounds)} compounds went into {encoder.name}; {len(table)} came out")
    return table


def _rows(
    table: pa.Table, split: str, wanted: np.ndarray, keys: np.ndarray, n_lanes: int, device: torch.device
) -> Rows:
    own = table["key"].to_numpy()
    order = np.argsort(own)
    if not len(own) or not np.array_equal(own[order], wanted):
        raise DataError(f"a worker wants {len(wanted)} wells of split {split!r}, each once; Ray Data gave {len(own)}")
    columns = {
        "keys": own,
        "lane": lanes_of(own, keys, n_lanes),
        "expression": matrix(table["expression"]),
        "basal": table["basal_id"].to_numpy().astype(np.int64),
        "compound": table["compound_id"].to_numpy().astype(np.int64),
        "dose_um": table["dose_um"].to_numpy(),
        "time_h": table["time_h"].to_numpy(),
    }
    return Rows(**{name: torch.from_numpy(values[order]).to(device) for name, values in columns.items()})
