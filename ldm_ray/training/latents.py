"""Encodes every profile once with a trained autoencoder, so that diffusion training reads latents, not profiles."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.manifest import WellFile
from ldm_ray.data.parts import write_wells
from ldm_ray.data.slices import ID_COLUMNS, WellFiles, read_slices
from ldm_ray.effects.wells import DatasetBase
from ldm_ray.models.vae import Vae
from ldm_ray.storage.store import Store, list_column, matrix
from ldm_ray.training.source import SPLITS

ROWS_AT_ONCE = 1024


def latents_id(dataset: PairedDataset, vae: Bundle) -> str:
    """Return the name of a dataset's latents under an autoencoder."""
    digest = hashlib.sha256(vae.config.target.encode())
    for entry in dataset.manifest["files"]:
        digest.update(entry["sha256"].encode())
    for name, value in sorted(vae.tensors.items()):
        if name.startswith("vae."):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def record_name(number: int) -> str:
    """Return the name of the record of a profile file's latents, which is written last."""
    return f"part-{number:05d}.json"


@dataclass(frozen=True)
class FileEncoder:
    """Encodes one profile file at a time.

    Attributes:
        store: The dataset's folder.
        folder: Folder of the latents, in the store.
        profiles: The profile files.
        vae: The autoencoder.
        base: What the target is measured from.
    """

    store: Store
    folder: str
    profiles: WellFiles
    vae: Bundle
    base: DatasetBase

    def write(self, number: int, vae: Vae, device: torch.device) -> None:
        """Encode a file's training and validation wells and write them; the record is written last."""
        path = f"{self.profiles.root}/{self.profiles.entries[number]['path']}"
        slices = [piece for piece in self.profiles.slices(*SPLITS) if piece.path == path]
        columns = [*ID_COLUMNS, "split", "expression"]
        tables = [self._encoded(table, vae, device) for table in read_slices(self.profiles, slices, columns)]
        name = f"{self.folder}/part-{number:05d}"
        record: WellFile = {"path": f"{name}.parquet", "rows": 0, "groups": []}
        if tables:
            record = write_wells(self.store, f"{name}.parquet", pa.concat_tables(tables))
        self.store.write_json(f"{name}.json", record)

    def _encoded(self, table: pa.Table, vae: Vae, device: torch.device) -> pa.Table:
        numbers = (table[name].to_numpy() for name in ("basal_id", "compound_id", "dose_um", "time_h"))
        x = matrix(table["expression"]) - self.base.of(*numbers)
        pieces = torch.from_numpy(np.array(x)).to(device).split(ROWS_AT_ONCE)
        with torch.no_grad():
            moments = torch.cat([torch.cat(vae.encode(piece), dim=1) for piece in pieces])
        assert pc.all(pc.is_in(table["split"], pa.array(SPLITS))).as_py()
        return table.drop_columns(["expression"]).append_column("moments", list_column(moments.cpu().numpy()))
