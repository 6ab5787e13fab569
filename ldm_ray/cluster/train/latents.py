"""Encodes a dataset's profiles to latents in a pool of actors.

Beside the dataset, `latents/<id>/part-*.parquet` holds mean and log-variance of q(z | x) for each training and
validation well, in files and row groups of the profiles' own layout; the id is a checksum of the autoencoder and of
the dataset. A file that is there is not written again.
"""

import pyarrow as pa
import ray
import ray.data
import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.target_base import TargetBase
from ldm_ray.cluster.pool import pool
from ldm_ray.cluster.reported import raise_reported, reported
from ldm_ray.config import Config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.slices import WellFiles, profile_files
from ldm_ray.errors import LdmRayError
from ldm_ray.layout import LATENTS
from ldm_ray.training.latents import FileEncoder, latents_id, record_name

CPUS_PER_ACTOR = 0.5


def latent_files(dataset: PairedDataset, vae: Bundle, base: TargetBase, config: Config) -> WellFiles:
    """Encode the profiles that have not been encoded yet, and return the files of latents.

    Raises:
        DataError: If a profile file is not what the manifest says.
        StoreError: If one cannot be read or written.
    """
    folder = f"{LATENTS}/{latents_id(dataset, vae)}"
    profiles = profile_files(dataset, config.ingest)
    present = set(dataset.store.names(folder))
    numbers = [i for i in range(len(profiles.entries)) if record_name(i) not in present]
    if numbers:
        _encode(numbers, FileEncoder(dataset.store, folder, profiles, vae, base.of_controls(dataset)), config)
    entries = tuple(dataset.store.read_json(f"{folder}/{record_name(i)}") for i in range(len(profiles.entries)))
    return WellFiles(
        profiles.filesystem, profiles.root, entries, "moments", 2 * vae.config.vae.latent_dim, profiles.wait_s
    )


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
