"""The description of a bulk prediction, and which of its parts exist."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict, cast

from ldm_ray.errors import DataError
from ldm_ray.layout import CONDITIONS, ERRORS, MANIFEST
from ldm_ray.storage.store import Store

NOTHING_GOOD = ".all.json"
"""Suffix of the file that a part without predictions leaves beside its errors."""
PART = re.compile(rf"part-(\d+)\.parquet|{ERRORS}/part-(\d+)\.parquet{re.escape(NOTHING_GOOD)}")


def part_name(part: int) -> str:
    """Return the file name of a part's predictions."""
    return f"part-{part:06d}.parquet"


def parts_done(files: Iterable[str]) -> set[int]:
    """Return which parts are written.

    Args:
        files: Paths below the folder of a bulk prediction, including those of its errors.
    """
    return {int(found[1] or found[2]) for found in map(PART.fullmatch, files) if found}


@dataclass(frozen=True)
class BulkRun:
    """Description of a bulk prediction, common to all its parts.

    Attributes:
        bundle: URL of the bundle.
        bundle_id: Checksum of the bundle's metadata.
        out: Folder URL of the results.
        source: Where the conditions come from: the URL of a table, or a grid's fingerprint.
        n_rows: Number of conditions.
        rows_per_part: Conditions per part.
        n_samples: Latent samples per condition.
        steps: Sampling steps; None for the bundle's.
        seed: Same seed, same numbers.
        columns: Which of mean, std and basal to keep.
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
        """Number of parts."""
        return -(-self.n_rows // self.rows_per_part)

    def rows_of(self, part: int) -> int:
        """Return how many conditions a part has."""
        return min(self.rows_per_part, self.n_rows - part * self.rows_per_part)

    def described(self) -> "BulkManifest":
        """Return the manifest of the unfinished run; a resumed run must agree with it."""
        return BulkManifest(
            bundle=self.bundle,
            bundle_id=self.bundle_id,
            out=self.out,
            source=self.source,
            n_rows=self.n_rows,
            rows_per_part=self.rows_per_part,
            n_samples=self.n_samples,
            steps=self.steps,
            seed=self.seed,
            columns=list(self.columns),
            conditions=CONDITIONS,
            done=False,
        )


class BulkCounts(TypedDict, total=False):
    """Fields of the manifest of a finished bulk prediction."""

    done: bool
    n_predicted: int
    n_errors: int


class BulkManifest(BulkCounts):
    """`manifest.json` of a bulk prediction; see `BulkRun`."""

    bundle: str
    bundle_id: str
    out: str
    source: str
    n_rows: int
    rows_per_part: int
    n_samples: int
    steps: int | None
    seed: int
    columns: list[str]
    conditions: str


def described_run(manifest: Mapping[str, object]) -> BulkRun:
    """Return the run that a manifest describes.

    Raises:
        DataError: If it is not the manifest of a bulk prediction.
    """
    try:
        own: dict[str, Any] = {field.name: manifest[field.name] for field in fields(BulkRun)}
    except KeyError as error:
        raise DataError(f"the manifest of a bulk prediction must have {error}") from None
    return BulkRun(**own | {"columns": tuple(own["columns"])})


def read_manifest(store: Store) -> BulkManifest | None:
    """Return the manifest of the bulk prediction in a folder, or None."""
    return cast("BulkManifest", store.read_json(MANIFEST)) if store.exists(MANIFEST) else None
