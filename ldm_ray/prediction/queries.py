"""Queries of users, checked and prepared for a model."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldm_ray.bundle.bundle import Bundle
from ldm_ray.bundle.domain import Domain
from ldm_ray.chem.smiles import one_drug
from ldm_ray.data.cell_names import CellNames
from ldm_ray.errors import QueryError
from ldm_ray.keys import key_of
from ldm_ray.prediction.lru import Lru

KNOWN_SIMILARITIES = 16_384


@dataclass(frozen=True)
class Query:
    """What would this compound do to these cells, at this dose and after this time?

    Attributes:
        smiles: The compound; its counter-ions are left out, see `ldm_ray.chem.parent`.
        dose_um: Dose, micromolar, above 0.
        time_h: Exposure, hours, above 0.
        cell: A cell line that the bundle knows; its mean training control at the nearest time is used. Case and
            punctuation may differ where only one of the bundle's cell lines can be meant.
        basal: A control profile instead, log2, (n_genes,), in the bundle's gene order.
        name: The compound's name, which tables of predictions keep; None if there are no names.
        place: Where the query was written, for instance `queries.csv, line 5`; errors begin with it.
    """

    smiles: str
    dose_um: float
    time_h: float
    cell: str = ""
    basal: np.ndarray | None = None
    name: str | None = None
    place: str = ""


@dataclass(frozen=True)
class PreparedQuery:
    """A checked query.

    Attributes:
        query: The original query.
        cell: Its cell line, as the bundle writes it.
        parent: Parent structure of the compound.
        basal: The control, log2, (n_genes,).
        origin: Identifies the control, for caches and keys.
        key: Key of its noise.
        note: Note on its compound, cell line and control, or empty.
    """

    query: Query
    cell: str
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
        self._names = CellNames(self._rows)
        self._cell_basal = bundle.tensors["cells.basal"].numpy()
        self.target_base = bundle.target_base()
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
            QueryError: If it cannot be answered; says where it was written.
        """
        try:
            return self._prepared(query)
        except QueryError as error:
            raise error.at(query.place) from None

    def prepare_all(self, queries: Sequence[Query]) -> list[PreparedQuery]:
        """Check and prepare queries.

        Raises:
            QueryError: If one cannot be answered; says which.
        """
        prepared = list[PreparedQuery]()
        for number, query in enumerate(queries):
            try:
                prepared.append(self.prepare(query))
            except QueryError as error:
                unnamed = len(queries) > 1 and not query.place
                raise error.at(f"query {number} (counted from 0)" if unnamed else "") from None
        return prepared

    def _prepared(self, query: Query) -> PreparedQuery:
        for name, value in (("dose_um", query.dose_um), ("time_h", query.time_h)):
            if not (math.isfinite(value) and value > 0):
                raise QueryError(f"{name} must be a number above 0; got {value}", field=name)
        compound = one_drug(query.smiles)
        cell = self._cell(query)
        basal, origin, control = self._basal(query, cell)
        renamed = "" if cell == query.cell else f"cell line {query.cell!r} read as {cell}"
        note = "; ".join(filter(None, (renamed, compound.note, control)))
        key = key_of(compound.parent_smiles, origin, f"{query.dose_um:.6g}", f"{query.time_h:.6g}")
        return PreparedQuery(query, cell, compound.parent_smiles, basal, origin, key, note)

    def base(self, prepared: Sequence[PreparedQuery]) -> np.ndarray:
        """Return the base of the target without the effect of compounds, log2, (n, n_genes)."""
        of_query = self.target_base.of_query
        return np.stack([of_query(item.basal, item.cell, item.query.time_h) for item in prepared])

    def judge(self, prepared: Sequence[PreparedQuery]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Return each query's similarity to the nearest training compound, whether it is out of domain, and notes."""
        similarity = self.similarity([item.parent for item in prepared])
        outside = [
            self.domain.notes(float(near), item.cell, item.query.dose_um, item.query.time_h)
            for near, item in zip(similarity, prepared, strict=True)
        ]
        notes = tuple(
            "; ".join([*more, *([item.note] if item.note else [])])
            for item, more in zip(prepared, outside, strict=True)
        )
        return similarity, np.array([bool(more) for more in outside]), notes

    def similarity(self, parents: Sequence[str]) -> np.ndarray:
        """Return the Tanimoto similarity of parent SMILES to the nearest training compound, (n,)."""
        return np.array(self._similarity.fetch(parents, lambda new: self.domain.similarity(new).tolist()))

    def _cell(self, query: Query) -> str:
        """Return the cell line as the bundle writes it; beside a basal profile it may be unknown."""
        names = self._names.candidates(query.cell)
        if len(names) == 1:
            return names[0]
        if query.basal is not None:
            return query.cell
        if names:
            raise QueryError(
                f"cell line {query.cell!r} may be {' or '.join(names)}; write the one that is meant", field="cell"
            )
        near = difflib.get_close_matches(query.cell.upper(), self.cell_lines, n=3, cutoff=0.3)
        hint = f"; near matches: {', '.join(near)}" if near else f"; known: {', '.join(self.cell_lines[:12])}"
        raise QueryError(f"cell line {query.cell!r} is not in the bundle{hint}", field="cell")

    def _basal(self, query: Query, cell: str) -> tuple[np.ndarray, str | bytes, str]:
        if query.basal is not None:
            basal = np.asarray(query.basal, dtype=np.float32)
            if basal.shape != (self.n_genes,) or not np.isfinite(basal).all():
                raise QueryError(
                    f"basal must be {self.n_genes} finite log2 values; got shape {basal.shape}", field="basal"
                )
            return basal, basal.tobytes(), ""
        row = min(self._rows[cell], key=lambda i: (abs(self._cells[i]["time_h"] - query.time_h), i))
        time_h = self._cells[row]["time_h"]
        note = "" if time_h == query.time_h else f"control of {cell} taken at {time_h:g} h, the nearest time"
        return self._cell_basal[row], f"{cell}@{time_h:g}", note
