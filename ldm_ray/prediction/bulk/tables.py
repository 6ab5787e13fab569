"""Tables of queries in, tables of predictions out."""

import json
import tempfile
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
import pyarrow as pa

from ldm_ray.errors import QueryError
from ldm_ray.prediction.bulk.conditions import COLUMNS, NAME, Conditions, open_conditions
from ldm_ray.prediction.bulk.rows import queries_of
from ldm_ray.prediction.predictor import Predictions, Query
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import list_column, split_url


def read_queries(url: str, storage_options: StorageOptions | None = None) -> list[Query]:
    """Read a whole table of queries; columns and formats as in `open_conditions`.

    Raises:
        QueryError: If it is no table of queries, holds no row, or a row is no query; names the row.
        StoreError: If the table cannot be read.
    """
    return queries_in(open_conditions(url, storage_options))


def queries_in(conditions: Conditions) -> list[Query]:
    """Return all conditions of an opened table as queries; errors as in `read_queries`."""
    asked = list[Query]()
    for table in conditions.tables():
        for query in queries_of(table, len(asked)):
            if isinstance(query, QueryError):
                raise query
            asked.append(query)
    if not asked:
        raise QueryError("the table of conditions holds no row")
    return asked


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
    own = COLUMNS if queries[0].name is None else (NAME, *COLUMNS)
    columns = {column: [getattr(query, column) for query in queries] for column in own}
    columns["similarity"] = predictions.similarity.tolist()
    columns["out_of_domain"] = predictions.out_of_domain.tolist()
    columns["note"] = list(predictions.notes)
    if name.lower().endswith(".parquet"):
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
