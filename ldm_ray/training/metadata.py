"""What a bundle says of the data it was trained on."""

import hashlib
from typing import Any

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.schema import MANIFEST


def dataset_metadata(dataset: PairedDataset) -> dict[str, Any]:
    """Genes, sources and counts of the training data."""
    manifest = dataset.manifest
    return {
        "genes": manifest["genes"],
        "trained_on": {
            "manifest_sha256": hashlib.sha256(dataset.store.read_bytes(MANIFEST)).hexdigest(),
            "sources": manifest["sources"],
            "n_profiles": manifest["n_profiles"],
            "splits": manifest["splits"],
            "simulated": manifest["simulated"],
        },
    }
