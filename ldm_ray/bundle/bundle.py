"""Model bundles: a folder with settings, weights and metadata at any URL, loaded without unpickling."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor

from ldm_ray import __version__
from ldm_ray.bundle.card import model_card
from ldm_ray.bundle.metadata import BundleKind, Metadata, StoredBase, read_metadata
from ldm_ray.bundle.presence import require_bundle
from ldm_ray.bundle.residuals import Residuals, restored_residuals
from ldm_ray.bundle.stored_effects import restored_effects
from ldm_ray.bundle.target_base import Base, TargetBase
from ldm_ray.config import Config, config_from_dict
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.manifest import Gene, Splits, by_of
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.errors import BundleError
from ldm_ray.layout import CARD, CONFIG, METADATA, WEIGHTS
from ldm_ray.models.generate import ObservationNoise
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.rivals.build import build_baseline
from ldm_ray.models.rivals.pertdit import PertDit
from ldm_ray.models.rivals.prnet import Prnet
from ldm_ray.models.vae import Vae
from ldm_ray.settings import RIVAL_KINDS, BasalInput
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Bundle:
    """A trained model and everything needed to use it.

    Attributes:
        kind: `vae`, `ldm` (which holds its autoencoder too), or a rival's name.
        config: The settings that built it.
        metadata: Genes, encoder, cell lines, training data and history.
        tensors: Weights by name; the prefix names the network.
    """

    kind: BundleKind
    config: Config
    metadata: Metadata
    tensors: dict[str, Tensor]

    @property
    def gene_symbols(self) -> list[str]:
        """Gene symbols in the order of every profile."""
        return [gene["symbol"] for gene in self.metadata["genes"]]

    @property
    def n_genes(self) -> int:
        """Length of a profile."""
        return len(self.metadata["genes"])

    def build_vae(self) -> Vae:
        """Rebuild the autoencoder, in eval mode."""
        vae = Vae(self.n_genes, self.config.vae)
        self._load(vae, "vae.")
        return vae.eval()

    def build_ldm(self) -> LatentDiffusion:
        """Rebuild the diffusion model, in eval mode."""
        model = LatentDiffusion(self.n_genes, self.metadata["encoder"]["dim"], self.config)
        self._load(model, "ldm.")
        return model.eval()

    def build_baseline(self) -> Prnet | PertDit:
        """Rebuild a rival's network, in eval mode."""
        model = build_baseline(self.kind, self.n_genes, self.metadata["encoder"]["dim"], self.config.pertdit)
        self._load(model, "net.")
        return model.eval()

    @property
    def basal_input(self) -> BasalInput:
        """Which control the model is conditioned on; the rivals see the matched one."""
        return "matched" if self.kind in RIVAL_KINDS else self.config.denoiser.basal_input

    def sampler_choice(self) -> SamplerChoice:
        """Return the sampler of predictions: the best one measured, or else the one in the settings."""
        return SamplerChoice(**self.metadata["recommended_sampler"])

    def target_base(self) -> Base:
        """Return what the model's target is measured from."""
        if "effects" in self.metadata:
            return restored_effects(self.metadata["effects"], self.tensors)
        nothing: StoredBase = {"factor": 0.0, "groups": []}
        described = self.metadata.get("base", nothing)
        none = torch.zeros(1, self.n_genes)
        *shifts, everywhere = self.tensors.get("base.shift", none).numpy()
        groups = [(str(cell), float(time_h)) for cell, time_h in described["groups"]]
        shift = dict(zip(groups, shifts, strict=True))
        return TargetBase(self.config.target, described["factor"], shift, everywhere)

    def residuals(self) -> Residuals | None:
        """Return what the mean model leaves of some training wells, if there is one."""
        groups = self.metadata.get("residual_groups")
        return None if groups is None else restored_residuals(groups, self.tensors)

    def observation_noise(self) -> ObservationNoise:
        """Return the noise that each draw adds to the decoder's mean."""
        size = float(self.tensors.get("noise.mean_square_size", 1.0))
        return ObservationNoise(self.tensors["noise.factor"], self.tensors["noise.sd"], size)

    def check_genes(self, genes: Sequence[Gene], where: str) -> None:
        """Refuse data with other genes, or genes in another order.

        Raises:
            BundleError: If they differ; names the first difference.
        """
        own = self.metadata["genes"]
        for position, (mine, theirs) in enumerate(zip(own, genes, strict=False)):
            same = mine["entrez_id"] == theirs["entrez_id"] and (
                mine["entrez_id"] or mine["symbol"] == theirs["symbol"]
            )
            if not same:
                raise BundleError(
                    f"gene {position} of {where} must be {mine['symbol']} ({mine['entrez_id']}), as in the bundle;"
                    f" got {theirs['symbol']} ({theirs['entrez_id']})"
                )
        if len(own) != len(genes):
            raise BundleError(f"{where} must have the bundle's {len(own)} genes; got {len(genes)}")

    def _load(self, module: torch.nn.Module, prefix: str) -> None:
        part = {name.removeprefix(prefix): v for name, v in self.tensors.items() if name.startswith(prefix)}
        try:
            module.load_state_dict(part)
        except RuntimeError as error:
            raise BundleError(
                f"the bundle's weights do not fit its settings: {' '.join(str(error).split())[:200]}"
            ) from None


def check_splits(bundle: Bundle, dataset_splits: Splits, where: str) -> None:
    """Refuse data split differently from the bundle's, whose test compounds the model may have trained on.

    Raises:
        BundleError: If they differ; names both splits.
    """
    trained, given = _test_side(bundle.metadata["trained_on"]["splits"]), _test_side(dataset_splits)
    if trained != given:
        raise BundleError(f"the bundle was trained with splits {trained}; {where} has {given}: its test compounds leak")


def _test_side(splits: Splits) -> dict[str, float | str]:
    """Return what determines the test wells."""
    by = by_of(splits)
    return {
        "seed": splits["seed"],
        "test_fraction": splits["test_fraction"],
        "valid_fraction": splits["valid_fraction"],
        "by": by,
        "unit": splits.get("unit", "parent") if by in ("compound", "both") else by,
    }


def save_bundle(bundle: Bundle, url: str, storage_options: StorageOptions | None = None) -> None:
    """Write a bundle; metadata comes last, so that half a bundle never counts as one."""
    store = Store(url, storage_options or {})
    store.remove(METADATA)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in bundle.tensors.items()}
    store.write_json(CONFIG, bundle.config.model_dump(mode="json"))
    store.write_bytes(WEIGHTS, safetensors.torch.save(tensors))
    header: Metadata = {"format_version": FORMAT_VERSION, "kind": bundle.kind, "ldm_ray_version": __version__}
    store.write_bytes(CARD, model_card(bundle.kind, header | bundle.metadata).encode())
    store.write_json(METADATA, header | bundle.metadata)


def checksum(metadata: Metadata) -> str:
    """Identify a bundle by its metadata: version, training data and history."""
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()[:16]


def update_metadata(url: str, changes: Metadata, storage_options: StorageOptions | None = None) -> None:
    """Change entries of a bundle's metadata in place, and update its model card; weights stay as they are."""
    store = Store(url, storage_options or {})
    metadata = read_metadata(store) | changes
    store.write_bytes(CARD, model_card(metadata["kind"], metadata).encode())
    store.write_json(METADATA, metadata)


def load_bundle(url: str, kind: str | None = None, storage_options: StorageOptions | None = None) -> Bundle:
    """Read a bundle.

    Raises:
        BundleError: If there is no bundle, or it is damaged, of another format or of another kind.
    """
    store = Store(url, storage_options or {})
    require_bundle(url, storage_options)
    metadata = read_metadata(store)
    if metadata.get("format_version") != FORMAT_VERSION:
        raise BundleError(f"{url} must have bundle format {FORMAT_VERSION}; got {metadata.get('format_version')}")
    if kind is not None and metadata.get("kind") != kind:
        raise BundleError(f"{url} must be a bundle of kind {kind!r}; got {metadata.get('kind')!r}")
    try:
        tensors = safetensors.torch.load(store.read_bytes(WEIGHTS))
    except safetensors.SafetensorError as error:
        raise BundleError(f"{url}/{WEIGHTS} is damaged: {error}") from None
    noise = ("noise.factor", "noise.sd")
    names, weights = {
        "vae": (("genes",), noise),
        "ldm": (ANSWERING, (*noise, *ANSWERING_TENSORS)),
    }.get(metadata["kind"], (ANSWERING, ANSWERING_TENSORS))
    missing = [name for name in names if name not in metadata] + [name for name in weights if name not in tensors]
    if missing:
        raise BundleError(f"{url} is damaged: it lacks {missing[0]!r}")
    return Bundle(metadata["kind"], config_from_dict(store.read_json(CONFIG)), metadata, tensors)


LARGEST_LATENT = "latents.largest"
"""Name of the largest absolute value of a scaled training latent among a diffusion model's tensors."""
ANSWERING = ("genes", "encoder", "cells", "domain")
ANSWERING_TENSORS = ("cells.basal", "train.fingerprints", "sd_scale")
"""What a bundle that answers queries holds besides its weights."""


def prefixed(prefix: str, module: torch.nn.Module) -> dict[str, Tensor]:
    """Return a module's state under names with a prefix."""
    return {prefix + name: value for name, value in module.state_dict().items()}


def check_autoencoder(vae: Bundle, dataset: PairedDataset, config: Config) -> None:
    """Refuse an autoencoder with other genes, another test side or another target.

    Raises:
        BundleError: If it does not fit; names the difference.
    """
    vae.check_genes(dataset.manifest["genes"], dataset.url)
    check_splits(vae, dataset.manifest["splits"], dataset.url)
    if vae.config.target != config.target:
        raise BundleError(f"the autoencoder was trained with target {vae.config.target!r}; got {config.target!r}")
