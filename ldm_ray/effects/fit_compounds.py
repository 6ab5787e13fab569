"""Fits the kernel head: landmarks, the kernel's shape, normal equations by fold, penalties by gene."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ldm_ray.chem.similarity import packed
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import WellReader, Wells
from ldm_ray.data_settings import EffectsSettings
from ldm_ray.effects.compounds import CompoundEffects
from ldm_ray.effects.kernel import Conditions, KernelShape, NormalEquations, solver, whitening
from ldm_ray.effects.pooling import Floats
from ldm_ray.effects.wells import compound_folds
from ldm_ray.keys import keys_of

ROWS_PER_BLOCK = 4096
SHAPES = tuple(KernelShape(same, other) for same, other in ((0.5, 0.2), (0.65, 0.4), (0.8, 0.6), (0.95, 0.85)))
"""Tried for how much the cell lines and times have in common."""
SHAPE_CONDITIONS = 1024
"""Conditions on whose wells the shapes are compared."""


def fit_compounds(
    dataset: PairedDataset,
    train: WellReader,
    base: NDArray[np.float32],
    settings: EffectsSettings,
    seed: int,
    on_progress: Callable[[int], None],
) -> CompoundEffects:
    """Fit the kernel head to what training wells show beyond their base.

    Args:
        dataset: The paired dataset.
        train: Its training wells.
        base: Control plus plate effect of each control profile, (n_basal, n_genes), log2.
        settings: Number of landmarks.
        seed: Decides which conditions are landmarks.
        on_progress: Called with the number of wells read.
    """
    drawn = _drawn(train.index, settings.landmarks, seed)
    fingerprints = packed(dataset.parent_smiles.tolist())
    head = _without_coefficients(dataset, train, drawn, fingerprints)
    similarity = head.similarity(fingerprints)

    def equations(head: CompoundEffects, wells: Wells) -> NormalEquations:
        left = wells.y.astype(np.float64) - base[wells.frame["basal_id"]]
        similar = torch.from_numpy(similarity[wells.frame["compound_id"], : len(head.landmarks)])
        return NormalEquations.of(head.kernel(similar, conditions_of(head, wells, dataset)).double().numpy(), left)

    few = min(SHAPE_CONDITIONS, len(drawn))
    small = replace(head, landmarks=head.landmarks.take(torch.arange(few)), fingerprints=head.fingerprints[:few])
    wells = train.read(np.flatnonzero(train.index["condition_id"].isin(drawn["condition_id"].iloc[:few])))
    likely = []
    for shape in SHAPES:
        shaped = replace(small, shape=shape)
        gain = solver(equations(shaped, wells), _white(shaped)).likeliest_penalty()[1]
        likely.append(float(gain.sum()))
    head = replace(head, shape=SHAPES[int(np.argmax(likely))])

    folds = compound_folds(dataset)
    nothing = NormalEquations.of_none(len(head.landmarks), dataset.n_genes)
    parts, read = [nothing] * (int(folds.max()) + 1), 0  # a fold may be held out, and then has no training wells
    for wells in train.stream(ROWS_PER_BLOCK):
        fold = folds[wells.frame["compound_id"]]
        for number in np.unique(fold).tolist():
            parts[number] = parts[number] + equations(head, wells.take(np.flatnonzero(fold == number)))
        on_progress(read := read + len(wells))
    return _solved(head, parts)


def conditions_of(head: CompoundEffects, wells: Wells, dataset: PairedDataset) -> Conditions:
    """Return the conditions of wells."""
    frame = wells.frame
    cells = [dataset.cells[cell] for cell in frame["cell_id"]]
    return head.conditions(cells, frame["dose_um"].to_numpy(), frame["time_h"].to_numpy())


def _drawn(index: pd.DataFrame, at_most: int, seed: int) -> pd.DataFrame:
    """Draw one well of each of `at_most` conditions, in the order of the draw."""
    first = index.sort_values("profile_key").drop_duplicates("condition_id")
    draw = keys_of(f"{seed}:landmark:{name}" for name in first["profile_id"])
    return first.iloc[np.argsort(draw, kind="stable")[:at_most]]


def _without_coefficients(
    dataset: PairedDataset, train: WellReader, drawn: pd.DataFrame, fingerprints: NDArray[np.uint8]
) -> CompoundEffects:
    """Return a head with landmarks at the drawn wells' conditions."""
    cells = tuple(dataset.cells[cell] for cell in np.unique(train.index["cell_id"]))
    none, coefficients = torch.zeros(0), torch.zeros(0, 0, dataset.n_genes)
    nowhere, own = Conditions(none, none.long(), none), fingerprints[drawn["compound_id"].to_numpy()]
    head = CompoundEffects(SHAPES[0], cells, own, nowhere, coefficients.sum(dim=0), coefficients)
    names = [dataset.cells[cell] for cell in drawn["cell_id"]]
    landmarks = head.conditions(names, drawn["dose_um"].to_numpy(), drawn["time_h"].to_numpy())
    return replace(head, landmarks=landmarks)


def _white(head: CompoundEffects) -> Floats:
    similarity = torch.from_numpy(head.similarity(head.fingerprints))
    return whitening(head.kernel(similarity, head.landmarks).double().numpy())


def _solved(head: CompoundEffects, parts: list[NormalEquations]) -> CompoundEffects:
    """Solve for all wells and without each fold, with the penalties that are the likeliest for all wells."""
    white, whole = _white(head), parts[0]
    for part in parts[1:]:
        whole = whole + part
    solved = solver(whole, white)
    penalty, _ = solved.likeliest_penalty()
    without = [solver(whole - part, white).coefficients(penalty) for part in parts]
    return replace(
        head,
        coefficients=torch.tensor(solved.coefficients(penalty), dtype=torch.float32),
        without_fold=torch.tensor(np.stack(without), dtype=torch.float32),
    )
