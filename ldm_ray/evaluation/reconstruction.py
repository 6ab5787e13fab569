"""How well an autoencoder reconstructs profiles."""

import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.health import Reconstruction
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import open_wells
from ldm_ray.evaluation.scores.reconstruction import ReconstructionTally

ROWS_PER_BLOCK = 4096


class ReconstructionScores(Reconstruction):
    """How well an autoencoder reconstructs wells; `n` is their number."""

    n: float


def score_reconstruction(bundle: Bundle, dataset: PairedDataset, split: str = "test") -> ReconstructionScores:
    """Score the decoder's mean at each well's mean latent, as log2 expression.

    Source: Kim & Yoo, section 3.1 (0.956 and 0.914 on their data).

    Note:
        For targets `delta` and `residual` the base is not reconstructed but added back. These scores are easier than
        those of `absolute` and not comparable with them.
    """
    vae, base = bundle.build_vae(), bundle.target_base().on(dataset)
    tally = ReconstructionTally()
    for wells in open_wells(dataset, split).stream(ROWS_PER_BLOCK):
        start = base.of_wells(wells)
        with torch.no_grad():
            given_back = vae.decode(vae.encode(torch.from_numpy(wells.y - start))[0]).numpy() + start
        tally.add(wells.y, given_back)
    return {**tally.scores(), "n": float(tally.count)}
