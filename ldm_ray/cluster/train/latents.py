"""Encodes a dataset's profiles to latents in a pool of actors.

Beside the dataset, `latents/<id>/part-*.parquet` holds mean and log-variance of q(z | x) for each training and
validation well, in the same files and row groups as the profiles; the id is a checksum of autoencoder and dataset.
Existing files are not written again.
"""

from typing import cast

import ray
import ray.data
import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.cluster.pool import map_in_pool, pool_of
from ldm_ray.config import Config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.manifest import WellFile
from ldm_ray.data.slices import WellFiles, profile_files
from ldm_ray.effects.wells import DatasetBase
from ldm_ray.layout import LATENTS
from ldm_ray.training.latents import FileEncoder, latents_id, record_name

CPUS_PER_ACTOR = 0.5


def latent_files(dataset: PairedDataset, vae: Bundle, base: DatasetBase, config: Config) -> WellFiles:
    """Encode the profiles that lack latents, and return the files of latents.

    Raises:
        DataError: If a profile file does not match the manifest.
        StoreError: If a file cannot be read or written.
    """
    folder = f"{LATENTS}/{latents_id(dataset, vae)}"
    profiles = profile_files(dataset, config.ingest)
    present = set(dataset.store.names(folder))
    numbers = [i for i in range(len(profiles.entries)) if record_name(i) not in present]
    if numbers:
        encoder = ray.put(FileEncoder(dataset.store, folder, profiles, vae, base))
        actors = pool_of(config.ray, len(numbers), CPUS_PER_ACTOR)
        for _ in map_in_pool(_EncodeFiles, (encoder,), numbers, actors):
            pass  # the files are the result
    records = (dataset.store.read_json(f"{folder}/{record_name(i)}") for i in range(len(profiles.entries)))
    entries = tuple(cast(WellFile, record) for record in records)
    return WellFiles(
        profiles.filesystem, profiles.root, entries, "moments", 2 * vae.config.vae.n_latents, profiles.wait_s
    )


class _EncodeFiles:
    """Encodes profile files; loads the autoencoder once."""

    def __init__(self, encoder: "ray.ObjectRef[FileEncoder]") -> None:
        self._encoder: FileEncoder = ray.get(encoder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._vae = self._encoder.vae.build_vae().to(self._device)

    def work(self, item: int) -> None:
        """Encode the file with this number."""
        self._encoder.write(item, self._vae, self._device)
