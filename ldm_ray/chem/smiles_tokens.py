"""SMILES to token ids, as in MoLFormer's training."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldm_ray.errors import SettingsError

TOKEN = re.compile(
    r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>|\*|\$|\%[0-9]{2}|[0-9])"
)
"""Schwaller et al. 2018, doi:10.1039/C8SC02339E; characters that do not match are skipped, as published."""
BEGIN, END, PAD, UNKNOWN = "<bos>", "<eos>", "<pad>", "<unk>"
FILES = ("tokenizer.json", "vocab.json")


@dataclass(frozen=True)
class SmilesTokenizer:
    """A vocabulary: token to id."""

    vocabulary: dict[str, int]

    @staticmethod
    def from_folder(folder: Path) -> "SmilesTokenizer":
        """Read the vocabulary of a checkpoint, from `tokenizer.json` or `vocab.json`.

        Raises:
            SettingsError: If the folder has neither file, or a special token is missing.
        """
        found = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if found is None:
            raise SettingsError(f"{folder} must hold {' or '.join(FILES)}; it has neither")
        values = json.loads(found.read_text(encoding="utf-8"))
        vocabulary = values["model"]["vocab"] if found.name == FILES[0] else values
        missing = [token for token in (BEGIN, END, PAD, UNKNOWN) if token not in vocabulary]
        if missing:
            raise SettingsError(f"{found} must have the token {missing[0]}; it does not")
        return SmilesTokenizer({str(token): int(number) for token, number in vocabulary.items()})

    def encode(self, smiles: str) -> list[int]:
        """Return the ids of a molecule, including begin and end."""
        unknown = self.vocabulary[UNKNOWN]
        inner = [self.vocabulary.get(token, unknown) for token in TOKEN.findall(smiles)]
        return [self.vocabulary[BEGIN], *inner, self.vocabulary[END]]

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and mask of several molecules, each (n, longest), int64."""
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self.vocabulary[PAD], dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return ids, mask
