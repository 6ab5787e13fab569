"""Bundles of untrained models, for tests that need any valid bundle."""

import torch

from ldm_ray.bundle.bundle import LARGEST_LATENT, Bundle, prefixed
from ldm_ray.bundle.metadata import answering_parts, base_parts, dataset_metadata
from ldm_ray.bundle.target_base import fit_base
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae
from tests.conftest import World, small_config

SMILES = "CC(=O)Oc1ccccc1C(=O)O"


def random_bundle(world: World, *overrides: str) -> Bundle:
    torch.manual_seed(0)
    config = small_config(*overrides)
    answering, tensors = answering_parts(world.dataset, config)
    described, shifts = base_parts(fit_base(world.dataset, config))
    metadata = dataset_metadata(world.dataset) | answering | described | {"history": []}
    dim = answering["encoder"]["dim"]
    tensors |= shifts | prefixed("vae.", Vae(978, config.vae)) | prefixed("ldm.", LatentDiffusion(978, dim, config))
    tensors[LARGEST_LATENT] = torch.tensor(5.0)
    return Bundle("ldm", config, metadata, tensors | random_noise())


def random_autoencoder(world: World, *overrides: str) -> Bundle:
    """An autoencoder without a diffusion model around it."""
    torch.manual_seed(0)
    config = small_config(*overrides)
    described, shifts = base_parts(fit_base(world.dataset, config))
    vae = Vae(978, config.vae)
    vae.set_scaling(torch.randn(978) * 0.1, torch.rand(978) + 0.5)
    tensors = shifts | prefixed("vae.", vae) | random_noise()
    return Bundle(
        "vae", config, dataset_metadata(world.dataset) | described | {"history": [], "best_epoch": 0}, tensors
    )


def random_noise() -> dict[str, torch.Tensor]:
    return {"noise.factor": torch.randn(978, 3) * 0.2, "noise.sd": torch.rand(978) + 0.3}
