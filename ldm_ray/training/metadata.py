"""What a bundle says of the data it was trained on."""

from typing import Any

import numpy as np

from ldm_ray.data.dataset import PairedDataset


def dataset_metadata(dataset: PairedDataset) -> dict[str, Any]:
    """Genes, sources and counts of the training data."""
    manifest = dataset.manifest
    return {
        "genes": manifest["genes"],
        "trained_on": {
            "sources": manifest["sources"],
            "n_profiles": manifest["n_profiles"],
            "splits": manifest["splits"],
            "simulated": manifest["simulated"],
        },
    }


def cell_table(dataset: PairedDataset) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Mean training control per cell line and time.

    Returns:
        Entries `{"cell", "time_h", "n_wells"}`, and their profiles, (entries, n_genes), float32, log2.
    """
    used = np.unique(dataset.profiles(["basal_id"], "train")["basal_id"].to_numpy())
    basal = dataset.basal.select(["cell_id", "time_h", "n_wells"]).to_pandas().iloc[used].reset_index(drop=True)
    entries, profiles = [], []
    for (cell, time_h), part in basal.groupby(["cell_id", "time_h"], sort=True):
        weights = part["n_wells"].to_numpy(dtype=float)
        profiles.append(np.average(dataset.basal_expression[used[part.index]], axis=0, weights=weights))
        entries.append({"cell": dataset.cells[int(cell)], "time_h": float(time_h), "n_wells": int(weights.sum())})
    return entries, np.asarray(profiles, dtype=np.float32)
