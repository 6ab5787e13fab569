"""Moments of a split over all workers: scaling of genes and latents, and observation noise."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ldm_ray.models.generate import ObservationNoise
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae
from ldm_ray.noise import mix
from ldm_ray.training.reduce import count_over_workers, max_over_workers, sum_over_workers
from ldm_ray.training.rows import Tables, target_of
from ldm_ray.training.source import WellSource
from ldm_ray.training.steps import Latents

MOMENTS_EPOCH = -2
SMALLEST_SCALE = 1e-3


def mean_and_scale(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Per-column mean and standard deviation over all workers' rows.

    Args:
        chunks: This worker's rows in pieces, each (rows, width).

    Returns:
        Mean and standard deviation, each (width,), float32; the latter at least 0.001.
    """
    sums, count = torch.zeros(()), torch.zeros(())
    for chunk in chunks:
        v = chunk.double()
        sums = sums.to(v) + torch.stack([v.sum(0), (v**2).sum(0)])
        count = count.to(v) + len(v)
    sums, n = sum_over_workers(sums), float(sum_over_workers(count))
    mean = sums[0] / n
    scale = torch.sqrt((sums[1] / n - mean**2).clamp_min(SMALLEST_SCALE**2))
    return mean.float(), scale.float()


def target_moments(source: WellSource, tables: Tables) -> tuple[Tensor, Tensor]:
    """Moments of the training rows' target per gene, each (n_genes,)."""
    return mean_and_scale(target_of(rows, tables) for rows in source.sweep("train"))


def shape_moments(vae: Vae, source: WellSource, tables: Tables) -> tuple[Tensor, Tensor]:
    """Moments of what the autoencoder's network sees of the training rows per gene, each (n_genes,)."""
    targets = (target_of(rows, tables) for rows in source.sweep("train"))
    return mean_and_scale(x / vae.size_of(x) for x in targets)


def sampled_latents(source: WellSource, latents: Latents, seed: int) -> Iterator[Tensor]:
    """Yield the training rows' sampled latents in pieces, (rows, n_latents)."""
    for rows in source.sweep("train"):
        yield latents.sample(rows, mix(rows.keys, seed, MOMENTS_EPOCH))


def scale_latents(model: LatentDiffusion, source: WellSource, latents: Latents, seed: int, *, whiten: bool) -> Tensor:
    """Scale a model's latents by the moments of the training rows'; return the largest absolute scaled value, ()."""
    model.set_latent_scaling(*mean_and_scale(sampled_latents(source, latents, seed)))
    if whiten:
        second, count = torch.zeros(()), 0
        for z in sampled_latents(source, latents, seed):
            scaled = model.scale_latent(z).double()
            second, count = second.to(scaled) + scaled.T @ scaled, count + len(z)
        model.set_whitening(sum_over_workers(second) / sum_over_workers(torch.tensor(count).to(second)))
    largest = [model.scale_latent(z).abs().max() for z in sampled_latents(source, latents, seed)]
    return max_over_workers(torch.stack(largest).max())


def fit_observation_noise(vae: Vae, source: WellSource, tables: Tables, seed: int, rank: int) -> ObservationNoise:
    """Fit the residual of the decoder at sampled latents, low-rank plus diagonal.

    The residual is taken at a *sampled* latent: if the decoder is the regression of x on z, the decoder's mean plus
    such noise has the covariance of x. The per-gene variance is kept exactly. With `size` it is that of shapes.

    Source: Tipping & Bishop 1999, doi:10.1111/1467-9868.00196 (the M step of probabilistic PCA).

    Note:
        The remaining eigenvalues are averaged over the rank of the sample covariance, which is below the number of
        genes on small splits.

    Args:
        vae: Trained autoencoder.
        source: Its validation rows are used, on which the autoencoder was not trained.
        tables: Tables that the rows refer to.
        seed: Seed of the sampled latents.
        rank: Number of factors, reduced to at most one per 20 rows; 0 means per-gene noise only.
    """

    latents = Latents(vae, tables)
    second, squares = torch.zeros(()), torch.zeros(())
    with torch.no_grad():
        for rows in source.sweep("valid"):
            z = latents.sample(rows, mix(rows.keys, seed, MOMENTS_EPOCH))
            size = vae.size_at(z)
            residual = ((target_of(rows, tables) - vae.decode(z)) / size).double()
            second, squares = second.to(residual) + residual.T @ residual, squares.to(size) + (size**2).sum()
    count = count_over_workers(source, "valid")
    covariance = sum_over_workers(second) / count
    rank = min(rank, int(count) // 20, len(covariance) - 1)
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    rest = eigenvalues[: len(covariance) - rank].clamp_min(0).sum() / max(1, min(int(count), len(covariance)) - rank)
    strength = (eigenvalues.flip(0)[:rank] - rest).clamp_min(0)
    factor = vectors.flip(1)[:, :rank] * torch.sqrt(strength)
    variance = covariance.diagonal()
    # The factors may not explain more than 95% of a gene's variance; the rest is the gene's own.
    shared = (factor**2).sum(dim=1)
    factor = factor * torch.sqrt((0.95 * variance / shared.clamp_min(1e-12)).clamp_max(1.0))[:, None]
    own = (variance - (factor**2).sum(dim=1)).clamp_min(0)
    mean_square_size = float(sum_over_workers(squares)) / float(count)
    return ObservationNoise(factor.float(), torch.sqrt(own).float(), mean_square_size)
