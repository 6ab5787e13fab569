"""What a bulk prediction is, and which of its parts are there."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict, cast

from ldm_ray.errors import DataError
from ldm_ray.layout import CONDITIONS, ERRORS, MANIFEST
from ldm_ray.storage.store import Store

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

    def described(self) -> "BulkManifest":
        """Return the manifest of the run while it lasts; a run that resumes must agree with it."""
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
    """What the manifest says of a bulk prediction at its end."""

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
        DataError: If it is not that of a bulk prediction.
    """
    try:
        own: dict[str, Any] = {field.name: manifest[field.name] for field in fields(BulkRun)}
    except KeyError as error:
        raise DataError(f"the manifest of a bulk prediction must have {error}") from None
    return BulkRun(**own | {"columns": tuple(own["columns"])})


def read_manifest(store: Store) -> BulkManifest | None:
    """Return the manifest of a folder's bulk prediction; None if there is none."""
    return cast("BulkManifest", store.read_json(MANIFEST)) if store.exists(MANIFEST) else None
