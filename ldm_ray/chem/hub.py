"""Any SMILES encoder that transformers can load (for example ChemBERTa), with masked-mean pooling."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ldm_ray.chem.checkpoint import checkpoint_folder, revision_of
from ldm_ray.chem.molformer_encoder import plain_smiles
from ldm_ray.errors import SettingsError
from ldm_ray.settings import EncoderSettings

ROWS_AT_ONCE = 64


class HubEncoder:
    """`AutoModel` and `AutoTokenizer` of a checkpoint; code from the hub runs only if the settings allow it."""

    def __init__(self, settings: EncoderSettings, device: str | torch.device | None = None) -> None:
        self._settings = settings
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def name(self) -> str:
        """`hub-` and the checkpoint's name."""
        return f"hub-{self._settings.checkpoint.strip('/').replace('/', '--')}"

    @cached_property
    def revision(self) -> str:
        """Identifies the weights."""
        return revision_of(self._settings)

    @cached_property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self._parts[1].config.hidden_size)

    def encode(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the vectors, shape (len(smiles), dim), float32."""
        tokenizer, model = self._parts
        texts = [plain_smiles(text) for text in smiles]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(order), ROWS_AT_ONCE):
            rows = order[start : start + ROWS_AT_ONCE]
            batch = tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt").to(self._device)
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state
            weight = batch["attention_mask"][:, :, None].to(hidden.dtype)
            vectors[rows] = ((hidden * weight).sum(1) / weight.sum(1)).float().cpu().numpy()
        return vectors

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        trust = {"trust_remote_code": self._settings.trust_remote_code}
        folder = checkpoint_folder(self._settings)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
            model = AutoModel.from_pretrained(folder, **trust)
        except (OSError, ValueError, KeyError) as error:
            raise SettingsError(
                f"encoder.checkpoint {self._settings.checkpoint!r} cannot be loaded by transformers:"
                f" {' '.join(str(error).split())[:200]}"
            ) from None
        return tokenizer, model.to(self._device).eval()
