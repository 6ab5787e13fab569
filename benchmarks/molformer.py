"""Molecules per second that MoLFormer encodes, at its published size (12 layers x 768) with random weights.

    python benchmarks/molformer.py [--size small|full] [--json OUT]

`ratio_to_unsorted` is molecules/s over molecules/s of the same module without sorting by length: batches of 256 in the
given order, each padded to its longest molecule.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import machine, seconds, write
from tests.molformer_checkpoint import PUBLISHED, write_checkpoint

MOLECULES = {"small": 512, "full": 4096}


def main() -> None:
    """Encode the simulator's molecules both ways, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=MOLECULES, default="small")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_checkpoint(Path(scratch) / "random", PUBLISHED, seed=0)
        result = run(folder, MOLECULES[arguments.size])
    write(result | machine(), arguments.json)


def run(folder: Path, n: int) -> dict[str, Any]:
    """Encode `n` molecules, sorted and unsorted by length."""
    from ldm_ray.chem.embedding import build_encoder
    from ldm_ray.chem.molformer_encoder import MolformerEncoder, plain_smiles
    from ldm_ray.data.molecules import choose_molecules
    from ldm_ray.settings import EncoderSettings

    smiles = [str(text) for text in choose_molecules(n, 16, np.random.default_rng(0)).parent_smiles]
    encoder = build_encoder(EncoderSettings(kind="molformer", checkpoint=str(folder)))
    assert isinstance(encoder, MolformerEncoder)
    encoder.encode(smiles[:8])
    started = time.monotonic()
    vectors = encoder.encode(smiles)
    rate = n / seconds(started)
    tokens = [encoder._tokenizer.encode(plain_smiles(text)) for text in smiles]
    started = time.monotonic()
    plain = np.concatenate([encoder._embed(tokens[start : start + 256]) for start in range(0, n, 256)])
    unsorted = n / seconds(started)
    return {
        "what": f"{n} molecules of {np.mean([len(row) for row in tokens]):.0f} tokens on average, CPU",
        "threads": torch.get_num_threads(),
        "molecules_per_s": round(rate, 1),
        "unsorted_molecules_per_s": round(unsorted, 1),
        "ratio_to_unsorted": round(rate / unsorted, 3),
        "largest_difference": float(np.abs(vectors - plain).max()),
    }


if __name__ == "__main__":
    main()
