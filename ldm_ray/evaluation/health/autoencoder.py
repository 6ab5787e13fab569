"""Measures an autoencoder on validation wells, beside the mean of the training wells and their principal components."""

from collections.abc import Callable

import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.health import AutoencoderHealth
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import open_wells
from ldm_ray.evaluation.health.components import ROWS_PER_BLOCK, fit_components
from ldm_ray.evaluation.scores.reconstruction import ReconstructionTally
from ldm_ray.models.latent_use import latent_means, latent_use


def examine_autoencoder(
    bundle: Bundle, dataset: PairedDataset, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> AutoencoderHealth:
    """Measure the latent's use, and the reconstruction of validation wells from each well's mean latent.

    Mean and principal components are those of the target. Its base is added back before scoring, as it is to the
    decoder's output, so that all three rows score the same wells in log2 expression.

    Args:
        bundle: A bundle with an autoencoder.
        dataset: Its dataset; all validation wells are scored.
        on_progress: Called with wells scored and in total.

    Raises:
        DataError: If the dataset has no validation or training wells.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae, base = bundle.build_vae().to(device), bundle.target_base().on(dataset)
    reader = open_wells(dataset, "valid")
    on_progress(0, len(reader))
    components = fit_components(dataset, base, vae.latent_dim, bundle.config.seed)
    decoder, constant, pca = ReconstructionTally(), ReconstructionTally(), ReconstructionTally()
    means = torch.zeros(3, vae.latent_dim, dtype=torch.float64)
    for wells in reader.stream(ROWS_PER_BLOCK):
        start = base.of_wells(wells)
        target = wells.y - start
        with torch.no_grad():
            mu, log_var = vae.encode(torch.from_numpy(target).to(device))
            decoded = vae.decode(mu).cpu().numpy()
        shape = (part[:, : vae.latent_dim] for part in (mu, log_var))
        means += latent_means(*shape).cpu() * len(wells) / len(reader)
        decoder.add(wells.y, decoded + start)
        constant.add(wells.y, components.mean + start)
        pca.add(wells.y, components.reconstruct(target) + start)
        on_progress(decoder.count, len(reader))
    use = latent_use(means)
    return {
        "n_wells": decoder.count,
        "latent_dim": vae.latent_dim,
        "active_units": use.active_units,
        "kl_nats": use.kl_nats.sort(descending=True).values.tolist(),
        "decoder": decoder.scores(),
        "constant": constant.scores(),
        "pca": pca.scores(),
        "pca_components": len(components.directions),
    }
