"""Random wells and models of the real shapes, and the precisions to compute in."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_ray.config import Config, load_config
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import ObservationNoise, ProfileGenerator
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae
from ldm_ray.noise import mix
from ldm_ray.training.rows import LatentRows, ProfileRows, Rows, Tables
from ldm_ray.training.source import ResidentSource, lane_plan
from ldm_ray.training.steps import Latents, LdmTask, Task, VaeTask

KINDS = ("vae", "ldm")
PRECISIONS = ("fp32", "tf32", "bf16")
SAMPLER = SamplerChoice(steps=5, correction=0.1)
"""What `ldm-ray bench samplers` chose for the demo (docs/speed.md)."""
FACTORS = 16


@dataclass(frozen=True)
class Sizes:
    """Numbers of training wells, validation wells, genes, controls and compounds, and the width of an embedding."""

    wells: int
    valid: int
    genes: int
    controls: int
    compounds: int
    embedding: int
    settings: tuple[str, ...] = ()


FULL = Sizes(wells=836_841, valid=8192, genes=978, controls=3000, compounds=17_766, embedding=2048)
FEW = Sizes(wells=16_384, valid=64, genes=978, controls=300, compounds=1000, embedding=2048)
SMALL = Sizes(wells=1024, valid=256, genes=978, controls=50, compounds=100, embedding=2048)
TOY_SETTINGS = (
    "vae.latent_dim=6",
    "vae.encoder_widths=[12, 8]",
    "denoiser.basal_widths=[8]",
    "denoiser.compound_widths=[8]",
    "denoiser.condition_widths=[12]",
    "denoiser.hidden_widths=[16, 16]",
)
TOY = Sizes(wells=128, valid=32, genes=20, controls=7, compounds=11, embedding=24, settings=TOY_SETTINGS)


@contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """Compute matrix products in a precision; `bf16` is torch's autocast, `fp32` the product's own.

    Weights are cast at every use: autocast would otherwise keep those of the first step until the block ends.
    """
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16", cache_enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision("highest")


def demo_config(*overrides: str) -> Config:
    """Return the demo's settings."""
    return load_config("demo", list(overrides))


@dataclass(frozen=True)
class Wells:
    """Random wells and their tables on a device.

    Attributes:
        sizes: Their numbers.
        config: All settings.
        device: Where they are.
        drawn_on: Where they are drawn; the same wells need the same place.
        dtype: Type of their numbers and of the models.
    """

    sizes: Sizes
    config: Config
    device: torch.device
    drawn_on: torch.device
    dtype: torch.dtype = torch.float32

    def tables(self) -> Tables:
        """Controls around 8 log2 and sparse fingerprints."""
        basal = self._draw(1).normal(self.sizes.controls, self.sizes.genes).add_(8)
        basal, embeddings = self._here(basal), self._fingerprints(self._draw(2), self.sizes.compounds)
        return Tables(basal, basal, embeddings, basal)

    def source(self, kind: str, batch: int) -> ResidentSource:
        """Hold the wells of both splits, as profiles (`vae`) or latents (`ldm`)."""
        lanes, sizes = self.config.ray.lanes, self.sizes
        rows = {split: self._rows(kind, n) for split, n in (("train", sizes.wells), ("valid", sizes.valid))}
        lane = torch.arange(sizes.wells, device=self.device) * lanes // sizes.wells
        return ResidentSource(rows, lane, lane_plan(sizes.wells, lanes, batch, 1), batch // lanes, self.config.seed)

    def _rows(self, kind: str, n: int) -> Rows:
        draw, sizes, latent_dim = self._draw(n), self.sizes, self.config.vae.latent_dim
        ids = {
            "keys": mix(torch.arange(n, device=self.device), n).sort().values,
            "basal": draw.integers(sizes.controls, n).to(self.device),
            "compound": draw.integers(sizes.compounds, n).to(self.device),
            "dose_um": self._here(draw.uniform(n) * 10 + 0.1),
            "time_h": self._times(draw, n),
        }
        if kind == "vae":
            return ProfileRows(**ids, expression=self._here(draw.normal(n, sizes.genes).add_(8)))
        moments = draw.normal(n, 2 * latent_dim)
        moments[:, latent_dim:] -= 2
        return LatentRows(**ids, moments=self._here(moments))

    def conditions(self, n: int) -> tuple[ConditionBatch, Tensor, Tensor]:
        """Draw conditions, with their bases and keys."""
        draw = self._draw(n)
        basal = self._here(draw.normal(n, self.sizes.genes).add_(8))
        dose_um, keys = self._here(draw.uniform(n) * 10 + 0.1), mix(torch.arange(n, device=self.device), 5)
        return ConditionBatch(basal, self._fingerprints(draw, n), dose_um, self._times(draw, n)), basal, keys

    def _draw(self, seed: int) -> "_Draw":
        return _Draw(self.drawn_on, seed)

    def _here(self, values: Tensor) -> Tensor:
        return values.to(self.device, self.dtype)

    def _times(self, draw: "_Draw", n: int) -> Tensor:
        return self._here(torch.tensor([6.0, 24.0, 48.0], device=self.drawn_on)[draw.integers(3, n)])

    def _fingerprints(self, draw: "_Draw", n: int) -> Tensor:
        return self._here(draw.uniform(n, self.sizes.embedding) < 0.02)

    def task(self, kind: str) -> Task:
        """Build the task of a model, in which every weight matters."""
        vae, model = self.models()
        if kind == "vae":
            return VaeTask(vae, self.tables(), self.config)
        tables = self.tables()
        return LdmTask(model, Latents(vae.requires_grad_(requires_grad=False), tables), tables, self.config)

    def models(self) -> tuple[Vae, LatentDiffusion]:
        """Build both models, the same on every device; weights that start at 0 are moved."""
        torch.manual_seed(0)
        vae = Vae(self.sizes.genes, self.config.vae)
        model = LatentDiffusion(self.sizes.genes, self.sizes.embedding, self.config)
        with torch.no_grad():
            for parameter in [*vae.parameters(), *model.parameters()]:
                parameter.add_(0.01 * torch.randn_like(parameter))
        genes = self.sizes.genes
        model.condition_encoder.set_scaling(torch.full((genes,), 8.0), torch.ones(genes))
        return vae.to(self.device, self.dtype), model.to_device(self.device).to(self.dtype)

    def generator(self) -> ProfileGenerator:
        """Build the sampler of profiles."""
        vae, model = self.models()
        genes = self.sizes.genes
        noise = ObservationNoise(torch.zeros(genes, FACTORS, device=self.device), torch.ones(genes, device=self.device))
        return ProfileGenerator(model.eval(), vae.eval(), noise)


class _Draw:
    def __init__(self, device: torch.device, seed: int) -> None:
        self._device, self._generator = device, torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self._device, generator=self._generator)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self._device, generator=self._generator)

    def integers(self, high: int, n: int) -> Tensor:
        return torch.randint(high, (n,), device=self._device, generator=self._generator)
