"""Queries of users, checked and prepared for a model."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.domain import Domain
from ldm_ray.chem.smiles import parent_smiles
from ldm_ray.errors import QueryError
from ldm_ray.keys import key_of
from ldm_ray.prediction.lru import Lru

KNOWN_SIMILARITIES = 16_384


@dataclass(frozen=True)
class Query:
    """What would this compound do to these cells, at this dose and after this time?

    Attributes:
        smiles: The compound; salts and other spellings of the same parent structure are the same compound.
        dose_um: Dose, micromolar, above 0.
        time_h: Exposure, hours, above 0.
        cell: A cell line that the bundle knows; its mean training control at the nearest time is used.
        basal: A control profile instead, log2, (n_genes,), in the bundle's gene order.
    """

    smiles: str
    dose_um: float
    time_h: float
    cell: str = ""
    basal: np.ndarray | None = None


@dataclass(frozen=True)
class PreparedQuery:
    """A checked query.

    Attributes:
        query: The original query.
        parent: Parent structure of the compound.
        basal: The control, log2, (n_genes,).
        origin: Identifies the control, for caches and keys.
        key: Key of its noise.
        note: Note on its control, or empty.
    """

    query: Query
    parent: str
    basal: np.ndarray
    origin: str | bytes
    key: int
    note: str


class QueryReader:
    """Checks queries against what a bundle knows."""

    def __init__(self, bundle: Bundle) -> None:
        self.n_genes, self._cells = bundle.n_genes, bundle.metadata["cells"]
        self._rows: dict[str, list[int]] = {}
        for row, entry in enumerate(self._cells):
            self._rows.setdefault(entry["cell"], []).append(row)
        self._cell_basal = bundle.tensors["cells.basal"].numpy()
        self._target_base = bundle.target_base()
        self.domain = Domain.from_bundle(bundle.metadata["domain"], bundle.tensors["train.fingerprints"].numpy())
        self._similarity = Lru[str, float](KNOWN_SIMILARITIES)

    @property
    def cell_lines(self) -> list[str]:
        """The cell lines that a query may name."""
        return sorted(self._rows)

    def times_h(self, cell: str) -> list[float]:
        """Return the times at which a cell line's control is known, hours."""
        return sorted(entry["time_h"] for entry in self._cells if entry["cell"] == cell)

    def prepare(self, query: Query) -> PreparedQuery:
        """Check and prepare one query.

        Raises:
            QueryError: If it cannot be answered.
        """
        for name, value in (("dose_um", query.dose_um), ("time_h", query.time_h)):
            if not (math.isfinite(value) and value > 0):
                raise QueryError(f"{name} must be a number above 0; got {value}", field=name)
        parent = parent_smiles(query.smiles)
        basal, origin, note = self._basal(query)
        key = key_of(parent, origin, f"{query.dose_um:.6g}", f"{query.time_h:.6g}")
        return PreparedQuery(query, parent, basal, origin, key, note)

    def base(self, prepared: Sequence[PreparedQuery]) -> np.ndarray:
        """Return the base of the target, log2, (n, n_genes)."""
        basal, target = np.stack([item.basal for item in prepared]), self._target_base.target
        if target == "absolute":
            return np.zeros_like(basal)
        if target == "residual":
            of_group = self._target_base.of_group
            return basal + np.stack([of_group(item.query.cell, item.query.time_h) for item in prepared])
        return basal

    def judge(self, prepared: Sequence[PreparedQuery]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Return each query's similarity to the nearest training compound, whether it is out of domain, and notes."""
        similarity = self.similarity([item.parent for item in prepared])
        outside = [
            self.domain.notes(float(near), item.query.cell, item.query.dose_um, item.query.time_h)
            for near, item in zip(similarity, prepared, strict=True)
        ]
        notes = tuple(
            "; ".join([*([item.note] if item.note else []), *more])
            for item, more in zip(prepared, outside, strict=True)
        )
        return similarity, np.array([bool(more) for more in outside]), notes

    def similarity(self, parents: Sequence[str]) -> np.ndarray:
        """Return the Tanimoto similarity of parent SMILES to the nearest training compound, (n,)."""
        return np.array(self._similarity.fetch(parents, lambda new: self.domain.similarity(new).tolist()))

    def _basal(self, query: Query) -> tuple[np.ndarray, str | bytes, str]:
        if query.basal is not None:
            basal = np.asarray(query.basal, dtype=np.float32)
            if basal.shape != (self.n_genes,) or not np.isfinite(basal).all():
                raise QueryError(
                    f"basal must be {self.n_genes} finite log2 values; got shape {basal.shape}", field="basal"
                )
            return basal, basal.tobytes(), ""
        rows = self._rows.get(query.cell)
        if not rows:
            near = difflib.get_close_matches(query.cell.upper(), self.cell_lines, n=3, cutoff=0.3)
            hint = f"; near matches: {', '.join(near)}" if near else f"; known: {', '.join(self.cell_lines[:12])}"
            raise QueryError(f"cell line {query.cell!r} is not in the bundle{hint}", field="cell")
        row = min(rows, key=lambda i: (abs(self._cells[i]["time_h"] - query.time_h), i))
        time_h = self._cells[row]["time_h"]
        note = "" if time_h == query.time_h else f"control of {query.cell} taken at {time_h:g} h, the nearest time"
        return self._cell_basal[row], f"{query.cell}@{time_h:g}", note
