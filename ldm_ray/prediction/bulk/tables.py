"""Tables of queries in, tables of predictions out."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
import pyarrow as pa

from ldm_ray.errors import QueryError
from ldm_ray.prediction.bulk.conditions import COLUMNS, read_tables
from ldm_ray.prediction.predictor import Predictions, Query
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import list_column, split_url


def read_queries(url: str, storage_options: StorageOptions | None = None) -> list[Query]:
    """Read a whole table of queries; columns and formats as in `read_tables`.

    Raises:
        QueryError: If the format is unknown, a column is missing, the table is empty, or a dose or time is no number.
        StoreError: If the table cannot be read.
    """
    rows = [row for table in read_tables(url, storage_options) for row in table.to_pylist()]
    if not rows:
        raise QueryError(f"{url} holds no query")
    return [_query(url, number, row) for number, row in enumerate(rows, start=1)]


def _query(url: str, number: int, row: Mapping[str, str | None]) -> Query:
    def value(name: str) -> float:
        try:
            return float(row[name] or "")
        except ValueError:
            message = f"{url}, row {number}: {name} must be a number above 0; got {row[name]!r}"
            raise QueryError(message, field=name) from None

    return Query(row["smiles"] or "", value("dose_um"), value("time_h"), row["cell"] or "")


def write_predictions(
    url: str,
    queries: list[Query],
    predictions: Predictions,
    settings: dict[str, Any] | None = None,
    storage_options: StorageOptions | None = None,
) -> None:
    """Write predictions as Parquet (lists `basal`, `mean`, `std`, genes in the metadata) or as h5ad.

    In the h5ad, X is the mean, layers hold `basal`, `std` and `delta`, and obs the queries. Bundle, samples, steps and
    seed are kept in the Parquet metadata `settings`, or in `uns`.
    """
    store, name = split_url(url, storage_options)
    columns = {column: [getattr(query, column) for query in queries] for column in COLUMNS}
    columns["similarity"] = predictions.similarity.tolist()
    columns["out_of_domain"] = predictions.out_of_domain.tolist()
    columns["note"] = list(predictions.notes)
    if name.endswith(".parquet"):
        metadata = {"genes": "\t".join(predictions.genes), "settings": json.dumps(settings or {})}
        arrays = {key: list_column(getattr(predictions, key)) for key in ("basal", "mean", "std")}
        table = pa.table(columns | arrays)
        store.write_table(name, table.replace_schema_metadata(metadata))
        return
    adata = anndata.AnnData(
        X=predictions.mean,
        obs=pd.DataFrame(columns, index=[str(i) for i in range(len(queries))]),
        var=pd.DataFrame(index=list(predictions.genes)),
        uns={"settings": settings or {}},
        layers={"basal": predictions.basal, "std": predictions.std, "delta": predictions.delta},
    )
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.h5ad"
        adata.write_h5ad(part)
        store.write_bytes(name, part.read_bytes())
