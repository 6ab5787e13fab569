"""How far a query is from what a model was trained on: nearest training compound, cell line, dose and time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from ldm_ray.chem.similarity import packed, tanimoto
from ldm_ray.data.dataset import PairedDataset

FAR = 0.3
"""Below this Tanimoto similarity (ECFP4 bits), the nearest training compound counts as another chemotype."""


class StoredDomain(TypedDict):
    """Cell lines of training, and its smallest and largest dose and time, as JSON values."""

    cells: list[str]
    dose_um: list[float]
    time_h: list[float]


@dataclass(frozen=True)
class Domain:
    """What a model was trained on.

    Attributes:
        fingerprints: Packed ECFP4 bits of the training compounds, (n_compounds, n_bytes), uint8.
        cells: Cell lines of training.
        dose_um: Smallest and largest dose, micromolar.
        time_h: Smallest and largest time, hours.
    """

    fingerprints: np.ndarray
    cells: frozenset[str]
    dose_um: tuple[float, float]
    time_h: tuple[float, float]

    @staticmethod
    def from_bundle(stored: StoredDomain, fingerprints: np.ndarray) -> "Domain":
        """Rebuild what `training_domain` returned."""
        (lowest, highest), (shortest, longest) = stored["dose_um"], stored["time_h"]
        return Domain(fingerprints, frozenset(stored["cells"]), (lowest, highest), (shortest, longest))

    def similarity(self, parents: Sequence[str]) -> np.ndarray:
        """Return the Tanimoto similarity of each parent SMILES to its nearest training compound, (n,)."""
        unique, rows = np.unique(np.asarray(parents, dtype=str), return_inverse=True)
        nearest = [float(tanimoto(bits, self.fingerprints).max(initial=0.0)) for bits in packed(unique.tolist())]
        return np.asarray(nearest)[rows]

    def notes(self, similarity: float, cell: str, dose_um: float, time_h: float) -> list[str]:
        """Say in which ways a query is out of domain; an empty list if it is not."""
        notes = []
        if similarity < FAR:
            notes.append(f"nearest training compound has Tanimoto similarity {similarity:.2f}, below {FAR:g}")
        if cell not in self.cells:
            notes.append(f"cell line {cell} not in training" if cell else "basal profile given, cell line unknown")
        for name, value, (low, high) in (("dose_um", dose_um, self.dose_um), ("time_h", time_h, self.time_h)):
            if not low <= value * (1 + 1e-6) or not value <= high * (1 + 1e-6):
                notes.append(f"{name} {value:g} outside the training range {low:g} to {high:g}")
        return notes


def training_domain(dataset: PairedDataset) -> tuple[StoredDomain, np.ndarray]:
    """Return what a bundle stores about its training wells: metadata, and packed fingerprints."""
    frame = dataset.profiles(["compound_id", "cell_id", "dose_um", "time_h"], "train").to_pandas()
    parents = dataset.parent_smiles[np.unique(frame["compound_id"])].tolist()
    stored: StoredDomain = {
        "cells": [dataset.cells[cell] for cell in np.unique(frame["cell_id"])],
        "dose_um": [float(frame["dose_um"].min()), float(frame["dose_um"].max())],
        "time_h": [float(frame["time_h"].min()), float(frame["time_h"].max())],
    }
    return stored, packed(parents)
