"""One part of a bulk prediction: conditions in, a table of predictions and a table of errors out."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ldm_ray.errors import QueryError
from ldm_ray.layout import CONDITIONS, ERRORS
from ldm_ray.prediction.bulk.conditions import NAME
from ldm_ray.prediction.bulk.memory import keep_freed_memory
from ldm_ray.prediction.bulk.rows import queries_of
from ldm_ray.prediction.bulk.run import NOTHING_GOOD, BulkRun, part_name
from ldm_ray.prediction.bulk.staging import read_part
from ldm_ray.prediction.predictor import Predictor
from ldm_ray.prediction.queries import PreparedQuery
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
        good, prepared, errors = self._prepare(conditions, first)
        if errors:
            refused = conditions.take(list(errors)).add_column(
                0, "row", pa.array([first + number for number in errors])
            )
            table = refused.append_column("reason", pa.array(list(errors.values())))
            self._store.write_table(f"{ERRORS}/{part_name(part)}", table.replace_schema_metadata())
        if prepared:
            self._store.write_table(part_name(part), self._predict(first + np.array(good), prepared))
        else:
            self._store.write_json(f"{ERRORS}/{part_name(part)}{NOTHING_GOOD}", {"part": part})
        return PartCounts(len(prepared), len(errors))

    def _prepare(self, conditions: pa.Table, first: int) -> tuple[list[int], list[PreparedQuery], dict[int, str]]:
        """Return the numbers of the rows that can be answered, these rows prepared, and why others are refused."""
        good, prepared, errors = list[int](), list[PreparedQuery](), dict[int, str]()
        for number, query in enumerate(queries_of(conditions, first)):
            try:
                if isinstance(query, QueryError):
                    raise query
                prepared.append(self.predictor.reader.prepare(query))
                good.append(number)
            except QueryError as error:
                errors[number] = str(error)
        return good, prepared, errors

    def _predict(self, rows: np.ndarray, prepared: list[PreparedQuery]) -> pa.Table:
        run, predictor = self._run, self.predictor
        how = predictor.sampling(run.n_samples, run.steps, run.seed)
        predictions = predictor.predictions(prepared, predictor.sample(prepared, how))
        columns: dict[str, Any] = {"row": rows}
        if prepared[0].query.name is not None:
            columns[NAME] = [item.query.name for item in prepared]
        columns |= {
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
