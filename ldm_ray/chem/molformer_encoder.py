"""MoLFormer as a compound encoder; a molecule's vector does not depend on the others in its batch."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from rdkit import Chem
from torch import Tensor

from ldm_ray.chem.checkpoint import checkpoint_folder, revision_of
from ldm_ray.chem.molformer import PREFIX, Molformer, MolformerConfig
from ldm_ray.chem.smiles_tokens import SmilesTokenizer
from ldm_ray.errors import QueryError, SettingsError
from ldm_ray.settings import EncoderSettings

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
HEAD = "lm_head."
TOKENS_AT_ONCE, ROWS_AT_ONCE = 8192, 256


class MolformerEncoder:
    """Masked mean of MoLFormer's last hidden states.

    RDKit writes molecules as canonical SMILES without isomeric marks, as in MoLFormer's training data, so stereoisomers
    share a vector.
    """

    def __init__(self, settings: EncoderSettings, device: str | torch.device | None = None) -> None:
        self._settings = settings
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def name(self) -> str:
        """`molformer-` and the checkpoint's own name."""
        return f"molformer-{self._settings.checkpoint.rstrip('/').rpartition('/')[2]}"

    @cached_property
    def revision(self) -> str:
        """Identifies the weights."""
        return revision_of(self._settings)

    @cached_property
    def dim(self) -> int:
        """Width of a vector."""
        return self._config.hidden_size

    def encode(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the vectors, shape (len(smiles), dim), float32; molecules are batched by length.

        Raises:
            QueryError: If RDKit cannot parse a molecule, or it has more tokens than the model has positions.
        """
        rows = [self._tokenizer.encode(plain_smiles(text)) for text in smiles]
        for text, row in zip(smiles, rows, strict=True):
            if len(row) > self._config.max_position_embeddings:
                limit = self._config.max_position_embeddings
                raise QueryError(
                    f"smiles must have at most {limit} tokens for MoLFormer; {text[:60]!r} has {len(row)}",
                    field="smiles",
                )
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while order:
            longest = len(rows[order[min(len(order), ROWS_AT_ONCE) - 1]])
            n = min(ROWS_AT_ONCE, max(1, TOKENS_AT_ONCE // longest))
            batch, order = order[:n], order[n:]
            vectors[batch] = self._embed([rows[i] for i in batch])
        return vectors

    def _embed(self, rows: list[list[int]]) -> np.ndarray:
        ids, mask = (torch.from_numpy(part).to(self._device) for part in self._tokenizer.pad(rows))
        with torch.inference_mode():
            return np.asarray(self._model.embed(ids, mask).float().cpu().numpy())

    @cached_property
    def _folder(self) -> Path:
        return checkpoint_folder(self._settings)

    @cached_property
    def _weights_file(self) -> Path:
        found = next((self._folder / name for name in WEIGHTS if (self._folder / name).is_file()), None)
        if found is None:
            raise SettingsError(f"{self._folder} must hold {' or '.join(WEIGHTS)}; it has neither")
        return found

    @cached_property
    def _config(self) -> MolformerConfig:
        path = self._folder / "config.json"
        if not path.is_file():
            raise SettingsError(f"{self._folder} must hold config.json; it has none")
        return MolformerConfig.from_json(json.loads(path.read_text(encoding="utf-8")))

    @cached_property
    def _tokenizer(self) -> SmilesTokenizer:
        return SmilesTokenizer.from_folder(self._folder)

    @cached_property
    def _model(self) -> Molformer:
        return load_molformer(self._config, self._weights_file).to(self._device)


def load_molformer(config: MolformerConfig, weights: Path) -> Molformer:
    """Build the module and load a published checkpoint by name, without its language-model head.

    Raises:
        SettingsError: If a tensor is missing, unexpected or of another shape.
    """
    tensors: dict[str, Tensor] = (
        safetensors.torch.load_file(weights)
        if weights.suffix == ".safetensors"
        else torch.load(weights, weights_only=True, map_location="cpu")
    )
    own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if not name.startswith(HEAD)}
    with torch.device("meta"):
        model = Molformer(config)
    state: dict[str, Tensor] = model.state_dict()
    for name in sorted(state.keys() | own.keys()):
        wanted, got = state.get(name), own.get(name)
        if wanted is None or got is None or wanted.shape != got.shape:
            sides = [None if side is None else tuple(side.shape) for side in (wanted, got)]
            raise SettingsError(f"{weights}: tensor {PREFIX}{name} must have shape {sides[0]}; got {sides[1]}")
    model.load_state_dict({name: value.float() for name, value in own.items()}, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def plain_smiles(smiles: str) -> str:
    """Return canonical SMILES without isomeric marks.

    Raises:
        QueryError: If RDKit cannot parse the molecule.
    """
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise QueryError(f"smiles must be a molecule that RDKit can parse; got {smiles!r}", field="smiles")
    return str(Chem.MolToSmiles(molecule, isomericSmiles=False))
