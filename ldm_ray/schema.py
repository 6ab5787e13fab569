"""The contracts of the paired dataset: its tables, their columns and its manifest version."""

import pyarrow as pa

SCHEMA_VERSION = 4

SPLITS = ("train", "valid", "test")
PAIRING_LEVELS = ("plate", "batch", "cell_time")


def expression_type(n_genes: int) -> pa.DataType:
    """Return the column type of a profile: `n_genes` float32 values, log2."""
    return pa.list_(pa.float32(), n_genes)


def profiles_schema(n_genes: int) -> pa.Schema:
    """Return the columns of `profiles/part-*.parquet`, one row per treated well.

    `batch` is the batch of the plate: its name without the number of the replicate.

    The columns used in training come last and side by side, so reading them takes one request per row group.
    """
    return pa.schema(
        [
            ("profile_id", pa.string()),
            ("cell_id", pa.int16()),
            ("condition_id", pa.int32()),
            ("plate", pa.string()),
            ("batch", pa.string()),
            ("well", pa.string()),
            ("reserved_basal_id", pa.int32()),
            ("pairing_level", pa.string()),
            ("split", pa.string()),
            ("fold", pa.int8()),
            ("cell_split", pa.string()),
            ("plate_split", pa.string()),
            ("profile_key", pa.int64()),
            ("basal_id", pa.int32()),
            ("compound_id", pa.int32()),
            ("dose_um", pa.float32()),
            ("time_h", pa.float32()),
            ("expression", expression_type(n_genes)),
        ]
    )


def basal_schema(n_genes: int) -> pa.Schema:
    """Return the columns of `basal.parquet`, one row per control profile.

    `plate` is the plate's name; the batch's name for profiles pooled over a batch; empty for profiles pooled over a
    cell line and time. `variance` is the variance of the profile's wells for each gene, with n_wells - 1 in the
    denominator; NaN for a single well, and in datasets migrated from a version that did not keep it.
    """
    return pa.schema(
        [
            ("basal_id", pa.int32()),
            ("cell_id", pa.int16()),
            ("plate", pa.string()),
            ("time_h", pa.float32()),
            ("role", pa.string()),
            ("n_wells", pa.int32()),
            ("expression", expression_type(n_genes)),
            ("variance", expression_type(n_genes)),
        ]
    )


COMPOUNDS_SCHEMA = pa.schema(
    [
        ("compound_id", pa.int32()),
        ("source_ids", pa.list_(pa.string())),
        ("names", pa.list_(pa.string())),
        ("smiles", pa.string()),
        ("parent_smiles", pa.string()),
        ("inchikey", pa.string()),
        ("group", pa.string()),
        ("flag", pa.string()),
        ("n_profiles", pa.int32()),
    ]
)

CELLS_SCHEMA = pa.schema([("cell_id", pa.int16()), ("name", pa.string()), ("n_profiles", pa.int32())])


def embeddings_schema(dim: int, metadata: dict[str, str]) -> pa.Schema:
    """Return the columns of `embeddings/<encoder>.parquet`, with encoder name and revision as metadata."""
    return pa.schema([("smiles", pa.string()), ("embedding", pa.list_(pa.float32(), dim))], metadata=metadata)
