"""The predictions that a table compares: baselines, the model, its ablations and, on simulated data, the truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ldm_ray.baselines.linear import fit_ridge
from ldm_ray.baselines.trivial import (
    fit_group_means,
    predict_control,
    predict_mean_delta,
    predict_train_mean,
)
from ldm_ray.chem.embedding import build_encoder
from ldm_ray.chem.fingerprint import MorganEncoder
from ldm_ray.data.controls import basal_input
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.evaluation.wells import Wells, load_wells
from ldm_ray.models.condition import Condition
from ldm_ray.predictor import Predictor
from ldm_ray.settings import EvaluateSettings

TRIVIAL = ("control", "train_mean", "mean_delta")


@dataclass(frozen=True)
class Prediction:
    """One row of the table.

    Attributes:
        model: Row name (DESIGN, section 7).
        kind: `mean`, `one_draw`, `mean_of_N` or `mean_direct`.
        y_hat: Predicted profiles, log2, (n, n_genes).
        latent_var: For a mean of N, variance over latent samples averaged over genes, (n,); else None.
        n_samples: N; 1 where it does not apply.
    """

    model: str
    kind: str
    y_hat: np.ndarray
    latent_var: np.ndarray | None = None
    n_samples: int = 1


def row_name(row: dict[str, Any]) -> str:
    """Name a row for people; a plain `mean` needs no saying."""
    return str(
        row["model"] if row["prediction"] == "mean" else f"{row['model']}, {row['prediction'].replace('_', ' ')}"
    )


@dataclass(frozen=True)
class TrueDelta:
    """Planted truth at the judged wells, each (n, n_genes): the true change, and its training mean."""

    delta: np.ndarray
    train_mean: np.ndarray


def true_delta(dataset: PairedDataset, wells: Wells, train: Wells) -> TrueDelta | None:
    """Return the planted truth of a simulated dataset, None for a real one."""
    world = dataset.truth()
    if world is None:
        return None

    def of(some: Wells) -> np.ndarray:
        frame = some.frame
        cells = np.array(dataset.cells)[frame["cell_id"].to_numpy()]
        parents = dataset.parent_smiles[frame["compound_id"].to_numpy()]
        return world.true_delta(cells, parents, frame["dose_um"].to_numpy(), frame["time_h"].to_numpy())

    return TrueDelta(of(wells), fit_group_means(train, of(train)).predict(wells))


def baseline_predictions(dataset: PairedDataset, wells: Wells, train: Wells) -> Iterator[Prediction]:
    """Yield the baselines, fitted on the training split (ridge's penalty on the validation split)."""
    yield Prediction("control", "mean", predict_control(wells))
    yield Prediction("train_mean", "mean", predict_train_mean(train, wells))
    yield Prediction("mean_delta", "mean", predict_mean_delta(train, wells))
    fingerprints = MorganEncoder().encode(dataset.parent_smiles.tolist())
    ridge = fit_ridge(train, load_wells(dataset, "valid"), fingerprints)
    yield Prediction("ridge", "mean", ridge.predict(wells, fingerprints).astype(np.float32))


def model_predictions(
    dataset: PairedDataset, wells: Wells, predictor: Predictor, settings: EvaluateSettings, seed: int
) -> Iterator[Prediction]:
    """Yield the model's draw, means and direct mean, then its two compound ablations.

    The ablations are direct means, but for head `mean`: there x0_hat at t = T is the output's error times 1 / A_T,
    over a thousand, so that no direct mean is given and the ablations are means of N.
    """
    predict, generator = predictor.bundle.config.predict, predictor.generator
    condition = conditions_of(dataset, wells, predictor)
    base = torch.from_numpy(wells.basal).to(predictor.device)
    keys = torch.from_numpy(wells.keys).to(predictor.device)
    for number, n_samples in enumerate(settings.n_samples):
        n_draws = 1 if number == 0 else 0
        samples = generator.sample(
            condition, base, keys, n_samples, predict.steps, seed, predict.rows_per_batch, n_draws
        )
        if n_draws:
            yield Prediction("ldm", "one_draw", samples.draws[:, 0].cpu().numpy())
        spread = samples.latent_var.mean(dim=1).cpu().numpy()
        yield Prediction("ldm", f"mean_of_{n_samples}", samples.mean.cpu().numpy(), spread, n_samples)
    direct = predictor.bundle.config.denoiser.head != "mean"

    def mean_of(asked: Condition) -> tuple[str, np.ndarray]:
        if direct:
            return "mean_direct", generator.direct_mean(asked, base).cpu().numpy()
        n = settings.n_samples[0]
        sampled = generator.sample(asked, base, keys, n, predict.steps, seed, predict.rows_per_batch)
        return f"mean_of_{n}", sampled.mean.cpu().numpy()

    if direct:
        yield Prediction("ldm", *mean_of(condition))
    for name, compound in (
        ("ldm-no-compound", torch.zeros_like(condition.compound)),
        ("ldm-shuffled-compound", _shuffled(dataset, wells, predictor, seed)),
    ):
        changed = Condition(condition.x_basal, compound, condition.dose_um, condition.time_h)
        yield Prediction(name, *mean_of(changed))


def oracle_prediction(wells: Wells, truth: TrueDelta) -> Prediction:
    """The best possible mean on simulated data: the control plus the true change."""
    return Prediction("oracle", "mean", wells.basal + truth.delta)


def conditions_of(dataset: PairedDataset, wells: Wells, predictor: Predictor) -> Condition:
    """Gather the model's input for some wells."""
    frame, device = wells.frame, predictor.device
    basal = basal_input(dataset, predictor.bundle.config.denoiser.basal_input)
    return Condition(
        x_basal=torch.from_numpy(basal[frame["basal_id"].to_numpy()]).to(device),
        compound=_embed(dataset, frame["compound_id"].to_numpy(), predictor),
        dose_um=torch.from_numpy(frame["dose_um"].to_numpy(np.float32)).to(device),
        time_h=torch.from_numpy(frame["time_h"].to_numpy(np.float32)).to(device),
    )


def _shuffled(dataset: PairedDataset, wells: Wells, predictor: Predictor, seed: int) -> torch.Tensor:
    """Embeddings after the structures of all compounds have been dealt anew."""
    order = np.random.default_rng([seed, 6]).permutation(len(dataset.parent_smiles))
    return _embed(dataset, order[wells.frame["compound_id"].to_numpy()], predictor)


def _embed(dataset: PairedDataset, compound_ids: np.ndarray, predictor: Predictor) -> torch.Tensor:
    unique, rows = np.unique(compound_ids, return_inverse=True)
    encoder = build_encoder(predictor.bundle.config.encoder)
    vectors = encoder.encode(dataset.parent_smiles[unique].tolist())
    return torch.from_numpy(vectors[rows]).to(predictor.device)
