"""One part of a bulk prediction: conditions in, a table of predictions and a table of errors out."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from ldm_ray.errors import QueryError
from ldm_ray.layout import CONDITIONS, ERRORS
from ldm_ray.prediction.bulk.conditions import COLUMNS, read_part
from ldm_ray.prediction.bulk.memory import keep_freed_memory
from ldm_ray.prediction.bulk.run import NOTHING_GOOD, BulkRun, part_name
from ldm_ray.prediction.predictor import Predictor
from ldm_ray.prediction.queries import PreparedQuery, Query
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store, list_column


@dataclass(frozen=True)
class PartCounts:
    """Numbers of conditions in a part that were predicted and refused."""

    rows: int
    errors: int


class PartPredictor:
    """Predicts parts; builds the networks once.

    Args:
        run: The bulk prediction.
        storage_options: fsspec's arguments by protocol.
        threads: Torch threads; 0 leaves the number unchanged.
    """

    def __init__(self, run: BulkRun, storage_options: StorageOptions, threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        keep_freed_memory()
        self._run, self._store = run, Store(run.out, storage_options)
        self.predictor = Predictor.from_bundle(run.bundle, storage_options=storage_options)

    def write(self, part: int) -> PartCounts:
        """Predict one part and write it, errors first; return how many rows were predicted and refused."""
        conditions = read_part(self._store, CONDITIONS, part)
        first = part * self._run.rows_per_part
        good, prepared, errors = self._prepare(conditions)
        if errors:
            numbers = [number for number, _ in errors]
            refused = conditions.iloc[numbers].assign(row=first + np.array(numbers), reason=[why for _, why in errors])
            table = pa.Table.from_pandas(refused[["row", *COLUMNS, "reason"]], preserve_index=False)
            self._store.write_table(f"{ERRORS}/{part_name(part)}", table)
        if prepared:
            self._store.write_table(part_name(part), self._predict(first + np.array(good), prepared))
        else:
            self._store.write_json(f"{ERRORS}/{part_name(part)}{NOTHING_GOOD}", {"part": part})
        return PartCounts(len(prepared), len(errors))

    def _prepare(self, conditions: pd.DataFrame) -> tuple[list[int], list[PreparedQuery], list[tuple[int, str]]]:
        reader, good, prepared, errors = self.predictor.reader, list[int](), list[PreparedQuery](), []
        numbers = {name: pd.to_numeric(conditions[name], errors="coerce").to_numpy() for name in COLUMNS[2:]}
        rows = zip(conditions["smiles"], conditions["cell"], numbers["dose_um"], numbers["time_h"], strict=True)
        for number, (smiles, cell, dose_um, time_h) in enumerate(rows):
            try:
                prepared.append(reader.prepare(Query(smiles or "", float(dose_um), float(time_h), cell or "")))
                good.append(number)
            except QueryError as error:
                errors.append((number, str(error)))
        return good, prepared, errors

    def _predict(self, rows: np.ndarray, prepared: list[PreparedQuery]) -> pa.Table:
        run, predictor = self._run, self.predictor
        how = predictor.sampling(run.n_samples, run.steps, run.seed)
        predictions = predictor.predictions(prepared, predictor.sample(prepared, how))
        columns: dict[str, Any] = {
            "row": rows,
            "smiles": [item.query.smiles for item in prepared],
            "parent_smiles": [item.parent for item in prepared],
            "cell": [item.query.cell for item in prepared],
            "dose_um": [item.query.dose_um for item in prepared],
            "time_h": [item.query.time_h for item in prepared],
            "similarity": predictions.similarity.astype(np.float32),
            "out_of_domain": predictions.out_of_domain,
            "note": list(predictions.notes),
        }
        columns |= {name: list_column(getattr(predictions, name)) for name in run.columns}
        settings = json.dumps(run.described() | {"sampler": asdict(how.sampler)})
        return pa.table(columns).replace_schema_metadata({"genes": "\t".join(predictions.genes), "settings": settings})
