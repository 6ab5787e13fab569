"""What a bulk prediction is, and which of its parts are there."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ldm_ray.errors import DataError
from ldm_ray.layout import CONDITIONS, ERRORS

NOTHING_GOOD = ".all.json"
"""Ending of the file that a part without any prediction leaves beside its errors."""
PART = re.compile(rf"part-(\d+)\.parquet|{ERRORS}/part-(\d+)\.parquet{re.escape(NOTHING_GOOD)}")


def part_name(part: int) -> str:
    """Return the file of a part's predictions."""
    return f"part-{part:06d}.parquet"


def parts_done(files: Iterable[str]) -> set[int]:
    """Return which parts are written.

    Args:
        files: Paths below the folder of a bulk prediction, those of its errors among them.
    """
    return {int(found[1] or found[2]) for found in map(PART.fullmatch, files) if found}


@dataclass(frozen=True)
class BulkRun:
    """What a bulk prediction is; the same for all its parts.

    Attributes:
        bundle: URL of the bundle.
        bundle_id: Checksum of its metadata.
        out: Folder URL of the results.
        source: What the conditions are: the URL of a table, or a grid's fingerprint.
        n_rows: Conditions.
        rows_per_part: Conditions a part.
        n_samples: Latent samples a condition.
        steps: Of the sampler; None: the bundle's own.
        seed: Same seed, same numbers.
        columns: Which of mean, std and basal are kept.
    """

    bundle: str
    bundle_id: str
    out: str
    source: str
    n_rows: int
    rows_per_part: int
    n_samples: int
    steps: int | None
    seed: int
    columns: tuple[str, ...]

    @property
    def n_parts(self) -> int:
        """Files of predictions."""
        return -(-self.n_rows // self.rows_per_part)

    def rows_of(self, part: int) -> int:
        """Return how many conditions a part has."""
        return min(self.rows_per_part, self.n_rows - part * self.rows_per_part)

    def described(self) -> dict[str, Any]:
        """What the manifest says, and what a run that goes on must agree with."""
        return asdict(self) | {"columns": list(self.columns), "conditions": CONDITIONS}


def described_run(manifest: Mapping[str, Any]) -> BulkRun:
    """Return the run that a manifest describes.

    Raises:
        DataError: If it is not that of a bulk prediction.
    """
    try:
        values = {field.name: manifest[field.name] for field in fields(BulkRun)}
    except KeyError as error:
        raise DataError(f"the manifest of a bulk prediction must have {error}") from None
    return BulkRun(**values | {"columns": tuple(values["columns"])})
