"""Drug sensitivity in the simulated world, in the layout of the real files (`data/gdsc.py` reads both).

The planted truth of cell line c and compound i is

    ln IC50 [uM] = 2 + ln EC50_i - sum_m w_im (k_m + 2.5 ln s_cm) + 0.5 noise

with the compound's EC50 and mechanism weights w and the cell line's sensitivity s from `World`, and a lethality k_m
for each mechanism. The same w and s decide the expression, so a predicted profile carries information about the
interaction of drug and cell line that neither carries alone.
"""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd

from ldm_ray.data.world import Planted, World, planted_numbers

MAX_DRUGS = 240
LETHALITY_SD = 1.5
SENSITIVITY_EFFECT = 2.5
NOISE_SD = 0.5
TESTED_FRACTION = 0.9
REPEATED_FRACTION = 0.02
FRACTION_WITHOUT_SMILES = 0.1
UNKNOWN_CELL_LINE = "SIM-OTHER"


def true_ln_ic50_um(world: World, seed: int) -> np.ndarray:
    """Noiseless ln IC50 (uM) of every cell line and compound, (n_cells, n_compounds)."""
    rng = planted_numbers(seed, Planted.SENSITIVITY)
    lethality = LETHALITY_SD * rng.normal(size=world.weights.shape[1])
    killing = (lethality + SENSITIVITY_EFFECT * np.log(world.sensitivity)) @ world.weights.T
    return np.asarray(2.0 + np.log(world.ec50_um) - killing)


def simulate_ic50(world: World, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw a dose-response table and the untreated profiles of its cell lines, with the errors of real files.

    Cell lines are spelled differently than in the profiles, one has no profile, some drugs have no SMILES, some pairs
    are not tested and some are tested twice.

    Returns:
        Columns CELL_LINE_NAME, DRUG_NAME, LN_IC50, SMILES; and `cell_id` and one column per Entrez id, log2.
    """
    rng = planted_numbers(seed, Planted.IC50)
    truth = true_ln_ic50_um(world, seed)
    drugs = np.sort(rng.permutation(truth.shape[1])[:MAX_DRUGS])
    # One more row: a cell line without a profile.
    truth = np.concatenate([truth, truth.mean(axis=0, keepdims=True)])[:, drugs]
    spelled = [f"{name[:4]}-{name[4:]}" for name in world.cell_names] + [UNKNOWN_CELL_LINE]
    has_smiles = rng.random(len(drugs)) >= FRACTION_WITHOUT_SMILES
    times = (rng.random(truth.shape) < TESTED_FRACTION).astype(int)
    times += (times > 0) & (rng.random(truth.shape) < REPEATED_FRACTION)
    # Sorted by drug, then by cell line, as in the real file.
    drug, cell = (np.repeat(index.ravel(), times.T.ravel()) for index in np.indices(times.T.shape))
    measured = truth[cell, drug] + NOISE_SD * rng.normal(size=len(cell))
    ic50 = pd.DataFrame(
        {
            "CELL_LINE_NAME": np.array(spelled)[cell],
            "DRUG_NAME": [f"simulated-{number + 1}" for number in drugs[drug]],
            "LN_IC50": [f"{value:.6f}" for value in measured],
            "SMILES": np.where(has_smiles[drug], world.parent_smiles[drugs[drug]], ""),
        }
    )
    basal = pd.DataFrame(world.cell_basal.astype(np.float64).round(4), columns=world.entrez_ids.astype(str))
    basal.insert(0, "cell_id", world.cell_names)
    return ic50, basal


def write_csv_gz(frame: pd.DataFrame, path: Path) -> None:
    """Write a compressed table whose bytes depend on the table alone."""
    path.write_bytes(gzip.compress(frame.to_csv(index=False).encode(), mtime=0))
