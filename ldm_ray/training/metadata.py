"""What a bundle says of the data it was trained on."""

from typing import Any

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
