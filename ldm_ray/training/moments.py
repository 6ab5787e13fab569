"""Moments of a split over all workers: scaling of genes and latents, and the observation noise."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ldm_ray.models.generate import ObservationNoise
from ldm_ray.models.vae import Vae
from ldm_ray.noise import mix
from ldm_ray.training.loop import rows_over_workers, sum_over_workers
from ldm_ray.training.rows import Rows, Tables, target_of
from ldm_ray.training.steps import sampled_latent

MOMENTS_EPOCH = -2
ROWS_AT_ONCE = 2048
SMALLEST_SCALE = 1e-3


def mean_and_scale(rows: Rows, values: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Per-column mean and standard deviation over all workers' rows.

    Args:
        rows: This worker's rows.
        values: Maps row numbers (batch,) to values (batch, width).

    Returns:
        Mean and standard deviation, each (width,), float32; the latter at least 0.001.
    """
    sums = torch.stack([torch.stack([v.sum(0), (v**2).sum(0)]) for v in _chunks(rows, values)]).sum(0)
    sums = sum_over_workers(sums)
    count = rows_over_workers(rows)
    mean = sums[0] / count
    scale = torch.sqrt((sums[1] / count - mean**2).clamp_min(SMALLEST_SCALE**2))
    return mean.float(), scale.float()


def target_moments(rows: Rows, tables: Tables, target: str) -> tuple[Tensor, Tensor]:
    """Moments of the target per gene, each (n_genes,)."""
    return mean_and_scale(rows, lambda index: target_of(rows, tables, index, target))


def latent_moments(vae: Vae, rows: Rows, tables: Tables, target: str, seed: int) -> tuple[Tensor, Tensor]:
    """Moments of the sampled latents, each (latent_dim,)."""
    return mean_and_scale(rows, lambda index: _latents(vae, rows, tables, target, seed, index))


def fit_observation_noise(vae: Vae, rows: Rows, tables: Tables, target: str, seed: int, rank: int) -> ObservationNoise:
    """Fit the residual of the decoder at sampled latents, low-rank plus diagonal.

    The residual is taken at a *sampled* latent: where the decoder is the regression of x on z, decoder mean
    plus such noise then has the covariance of x. Its per-gene variance is kept exactly.

    Source: Tipping & Bishop 1999, doi:10.1111/1467-9868.00196 (the M step of probabilistic PCA).

    Note:
        The eigenvalues left over are averaged over the rank of the sample covariance, which is below the number
        of genes on small splits.

    Args:
        vae: Trained autoencoder.
        rows: Rows that it was not trained on.
        tables: What the rows refer to.
        target: `absolute` or `delta`.
        seed: Decides the sampled latents.
        rank: Factors wanted; no more than one per 20 rows are kept, 0 for per-gene noise.
    """

    def residual(index: Tensor) -> Tensor:
        x = target_of(rows, tables, index, target)
        return x - vae.decode(_latents(vae, rows, tables, target, seed, index))

    with torch.no_grad():
        second = torch.stack([value.T @ value for value in _chunks(rows, residual)]).sum(0)
    count = rows_over_workers(rows)
    covariance = sum_over_workers(second) / count
    rank = min(rank, int(count) // 20, len(covariance) - 1)
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    rest = eigenvalues[: len(covariance) - rank].clamp_min(0).sum() / max(1, min(int(count), len(covariance)) - rank)
    strength = (eigenvalues.flip(0)[:rank] - rest).clamp_min(0)
    factor = vectors.flip(1)[:, :rank] * torch.sqrt(strength)
    variance = covariance.diagonal()
    # A factor may not explain more than 95% of a gene; the rest of its variance stays its own.
    shared = (factor**2).sum(dim=1)
    factor = factor * torch.sqrt((0.95 * variance / shared.clamp_min(1e-12)).clamp_max(1.0))[:, None]
    own = (variance - (factor**2).sum(dim=1)).clamp_min(0)
    return ObservationNoise(factor.float(), torch.sqrt(own).float())


def _latents(vae: Vae, rows: Rows, tables: Tables, target: str, seed: int, index: Tensor) -> Tensor:
    keys = mix(rows.keys[index], seed, MOMENTS_EPOCH)
    return sampled_latent(vae, target_of(rows, tables, index, target), keys)


def _chunks(rows: Rows, values: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    for index in torch.arange(len(rows), device=rows.keys.device).split(ROWS_AT_ONCE):
        yield values(index).double()
