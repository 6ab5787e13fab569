"""Encodes every profile once under a trained autoencoder, so that diffusion training reads latents, not profiles.

Beside the dataset, `latents/<id>/part-*.parquet` holds mean and log-variance of q(z | x) for each training and
validation well, in files and row groups of the profiles' own layout; the id is a checksum of the autoencoder and of
the dataset. A file that is there is not written again.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.target_base import TargetBase
from ldm_ray.cluster.pool import pool
from ldm_ray.cluster.train.ingest import SPLITS
from ldm_ray.cluster.train.stream import raise_reported, reported
from ldm_ray.config import Config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.parts import write_wells
from ldm_ray.data.slices import ID_COLUMNS, WellFiles, profile_files, read_slices
from ldm_ray.errors import LdmRayError
from ldm_ray.models.vae import Vae
from ldm_ray.schema import LATENTS
from ldm_ray.storage.store import Store, list_column, matrix

ROWS_AT_ONCE = 1024
CPUS_PER_ACTOR = 0.5


def latents_id(dataset: PairedDataset, vae: Bundle) -> str:
    """Return what names the latents of a dataset under an autoencoder."""
    digest = hashlib.sha256(vae.config.target.encode())
    for entry in dataset.manifest["files"]:
        digest.update(entry["sha256"].encode())
    for name, value in sorted(vae.tensors.items()):
        if name.startswith("vae."):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def latent_files(dataset: PairedDataset, vae: Bundle, base: TargetBase, config: Config) -> WellFiles:
    """Encode the profiles that have not been encoded yet, and return the files of latents.

    Raises:
        DataError: If a profile file is not what the manifest says.
        StoreError: If one cannot be read or written.
    """
    folder = f"{LATENTS}/{latents_id(dataset, vae)}"
    profiles = profile_files(dataset, config.ingest)
    present = set(dataset.store.names(folder))
    numbers = [i for i in range(len(profiles.entries)) if _record(i) not in present]
    if numbers:
        _encode(numbers, FileEncoder(dataset.store, folder, profiles, vae, base.of_controls(dataset)), config)
    entries = tuple(dataset.store.read_json(f"{folder}/{_record(i)}") for i in range(len(profiles.entries)))
    return WellFiles(
        profiles.filesystem, profiles.root, entries, "moments", 2 * vae.config.vae.latent_dim, profiles.wait_s
    )


def _record(number: int) -> str:
    return f"part-{number:05d}.json"


def _encode(numbers: list[int], encoder: "FileEncoder", config: Config) -> None:
    """Encode files in a pool of actors, each of which loads the autoencoder once."""
    data = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        _Encode,
        fn_constructor_args=(ray.put(encoder),),
        batch_size=1,
        batch_format="pyarrow",
        **pool(config.ray, len(numbers), CPUS_PER_ACTOR).options,
    )
    for table in data.iter_batches(batch_format="pyarrow", batch_size=None):
        raise_reported(table)


@dataclass(frozen=True)
class FileEncoder:
    """Encodes one profile file at a time.

    Attributes:
        store: The dataset's folder.
        folder: Where latents go, in the store.
        profiles: Where profiles are.
        vae: The autoencoder.
        base: What the target is measured from, for each control profile, (n_basal, n_genes).
    """

    store: Store
    folder: str
    profiles: WellFiles
    vae: Bundle
    base: np.ndarray

    def write(self, number: int, vae: Vae, device: torch.device) -> None:
        """Encode a file's training and validation wells and write them; the record comes last."""
        path = f"{self.profiles.root}/{self.profiles.entries[number]['path']}"
        slices = [piece for piece in self.profiles.slices(*SPLITS) if piece.path == path]
        columns = [*ID_COLUMNS, "split", "expression"]
        tables = [self._encoded(table, vae, device) for table in read_slices(self.profiles, slices, columns)]
        name = f"{self.folder}/part-{number:05d}"
        record: dict[str, Any] = {"path": f"{name}.parquet", "rows": 0, "groups": []}
        if tables:
            record = write_wells(self.store, f"{name}.parquet", pa.concat_tables(tables))
        self.store.write_json(f"{name}.json", record)

    def _encoded(self, table: pa.Table, vae: Vae, device: torch.device) -> pa.Table:
        x = matrix(table["expression"])
        x = x - self.base[table["basal_id"].to_numpy()]
        pieces = torch.from_numpy(np.array(x)).to(device).split(ROWS_AT_ONCE)
        with torch.no_grad():
            moments = torch.cat([torch.cat(vae.encode(piece), dim=1) for piece in pieces])
        assert pc.all(pc.is_in(table["split"], pa.array(SPLITS))).as_py()
        return table.drop_columns(["expression"]).append_column("moments", list_column(moments.cpu().numpy()))


class _Encode:
    """An actor of the pool."""

    def __init__(self, encoder: "ray.ObjectRef[FileEncoder]") -> None:
        self._encoder: FileEncoder = ray.get(encoder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._vae = self._encoder.vae.build_vae().to(self._device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        try:
            for number in batch["item"].to_pylist():
                self._encoder.write(number, self._vae, self._device)
        except LdmRayError as error:
            return reported(error)
        return batch
