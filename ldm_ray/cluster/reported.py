"""Errors of Ray Data tasks, which travel to the driver as blocks."""

import pyarrow as pa

from ldm_ray import errors
from ldm_ray.errors import LdmRayError

ERROR = "error"


def reported(error: LdmRayError) -> pa.Table:
    """Return an error as a block: of an exception, Ray Data passes on only the text of its traceback."""
    return pa.table({ERROR: [type(error).__name__, str(error)]})


def raise_reported(table: pa.Table) -> None:
    """Raise the error that a block stands for, if any."""
    if ERROR in table.column_names:
        kind, message = table[ERROR].drop_null().to_pylist()  # Ray Data may have joined it with rows
        raise getattr(errors, kind)(message)
