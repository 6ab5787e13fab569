"""How well an autoencoder reconstructs profiles."""

from typing import TypedDict

import numpy as np
import torch

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import open_wells
from ldm_ray.evaluation.scores.metrics import pearson_per_profile, r2_per_profile, squared_error_per_profile

ROWS_PER_BLOCK = 4096


class ReconstructionScores(TypedDict):
    """How well an autoencoder reconstructs wells; `n` is their number."""

    pcc: float
    r2: float
    rmse: float
    n: float


def score_reconstruction(bundle: Bundle, dataset: PairedDataset, split: str = "test") -> ReconstructionScores:
    """Score the decoder's mean at each well's mean latent, as log2 expression.

    PCC and R2 are per profile across genes, then averaged; RMSE is pooled over wells and genes.

    Source: Kim & Yoo, section 3.1 (0.956 and 0.914 on their data).

    Note:
        For targets `delta` and `residual` the base is not reconstructed but added back. These scores are easier than
        those of `absolute` and not comparable with them.
    """
    vae, base = bundle.build_vae(), bundle.target_base().of_controls(dataset)
    sums, count = np.zeros(3), 0
    for wells in open_wells(dataset, split).stream(ROWS_PER_BLOCK):
        start = base[wells.frame["basal_id"].to_numpy()]
        with torch.no_grad():
            given_back = vae.decode(vae.encode(torch.from_numpy(wells.y - start))[0]).numpy() + start
        scores = (pearson_per_profile, r2_per_profile, squared_error_per_profile)
        sums += [float(score(wells.y, given_back).sum()) for score in scores]
        count += len(wells)
    return {"pcc": sums[0] / count, "r2": sums[1] / count, "rmse": float(np.sqrt(sums[2] / count)), "n": float(count)}
