"""What the `manifest.json` of a paired dataset holds."""

from typing import Literal, NotRequired, TypedDict, cast

from ldm_ray.layout import MANIFEST
from ldm_ray.storage.store import Store


class Gene(TypedDict):
    """One gene of a profile; `entrez_id` is 0 where the source gives none."""

    entrez_id: int
    symbol: str


class WellFile(TypedDict):
    """A Parquet file of treated wells, or of their latents.

    `groups` holds [split, rows] for each row group; every row group belongs to one split.
    """

    path: str
    rows: int
    groups: list[list[str | int]]


class FileEntry(WellFile):
    """A file that was written, with its size and checksum."""

    bytes: int
    sha256: str


class SourceIdentity(TypedDict):
    """A file of the release: a local one has a checksum, an object in a store the ETag that the store gave it."""

    name: str
    bytes: int
    sha256: NotRequired[str]
    etag: NotRequired[str]


class CleaningStep(TypedDict):
    """What one cleaning rule removed; `compounds_after` counts parent structures."""

    rule: str
    wells_before: int
    removed: int
    wells_after: int
    compounds_after: int | None


class PaperCounts(TypedDict):
    """The counts that the paper reports."""

    profiles: int
    cell_lines: int
    compounds: int


class Splits(TypedDict):
    """How wells were split, and how many are on each side.

    `by`, `of` and `fold` are there only in a dataset made from another: what its test side has that training has not,
    checksums of that other dataset's files, and the fold that is the validation side.
    """

    definition: str
    seed: int
    test_fraction: float
    valid_fraction: float
    n_folds: int
    split: dict[str, int]
    cell_split: dict[str, int]
    plate_split: dict[str, int]
    by: NotRequired[str]
    of: NotRequired[str]
    fold: NotRequired[int]


CountName = Literal["n_profiles", "n_compounds", "n_cell_lines", "n_conditions"]


class Counts(TypedDict):
    """How much a dataset holds."""

    n_profiles: int
    n_compounds: int
    n_cell_lines: int
    n_conditions: int


class Counted(Counts):
    """How a release became a dataset.

    Attributes:
        paper_counts: For comparison.
        counts: What the reader of the release counted, by name.
        cleaning: The rules, in order.
        pairing_levels: Treated wells by the level on which their control was found.
        control_profiles: Control profiles by role.
        wells_without_reserved_control: Treated wells.
        missing_genes: Symbols of landmark genes that the release lacks.
        notes: For the reader.
        splits: How wells were split.
    """

    paper_counts: PaperCounts
    counts: dict[str, int]
    cleaning: list[CleaningStep]
    pairing_levels: dict[str, int]
    control_profiles: dict[str, int]
    wells_without_reserved_control: int
    missing_genes: list[str]
    notes: list[str]
    splits: Splits


class Summary(Counted):
    """A manifest without its long lists.

    Attributes:
        schema_version: Of the dataset's tables.
        plan: Checksum of the release and settings that made it.
        simulated: Whether its genes are made up.
        settings: The groups of settings that made it, as JSON.
        sources: The release's files.
    """

    schema_version: int
    plan: str
    simulated: bool
    settings: dict[str, dict[str, object]]
    sources: list[SourceIdentity]


class Manifest(Summary):
    """All that `manifest.json` holds: the summary, the files, and the genes in the order of every profile."""

    files: list[FileEntry]
    genes: list[Gene]


def read_manifest(store: Store) -> Manifest:
    """Read a dataset's manifest; whether its schema version is ours, the caller has yet to ask."""
    return cast(Manifest, store.read_json(MANIFEST))
