"""Contents of a paired dataset's `manifest.json`."""

from typing import Literal, NotRequired, TypedDict, cast

from ldm_ray.layout import MANIFEST
from ldm_ray.storage.source import SourceIdentity
from ldm_ray.storage.store import Store


class Gene(TypedDict):
    """One gene of a profile; `entrez_id` is 0 where the source has no id."""

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
    """A written file, with its size and checksum."""

    bytes: int
    sha256: str


class CleaningStep(TypedDict):
    """Wells removed by one cleaning rule; `compounds_after` counts parent structures.

    `examples` say what the rule removed, most frequent first.
    """

    rule: str
    wells_before: int
    removed: int
    wells_after: int
    compounds_after: int | None
    examples: NotRequired[list[str]]


class PaperCounts(TypedDict):
    """Counts reported in the paper."""

    profiles: int
    cell_lines: int
    compounds: int


class Splits(TypedDict):
    """How wells were split, and the number on each side.

    Attribute `unit` is `group` if compounds are on a side by group (schema version 3); before, by parent SMILES. Only a
    dataset made from another has `by`, `of` and `fold`: what is unseen in its test side, checksums of the other
    dataset's files, and the fold used as validation side.
    """

    definition: str
    seed: int
    test_fraction: float
    valid_fraction: float
    n_folds: int
    split: dict[str, int]
    cell_split: dict[str, int]
    plate_split: dict[str, int]
    unit: NotRequired[str]
    by: NotRequired[str]
    of: NotRequired[str]
    fold: NotRequired[int]


def by_of(splits: Splits) -> str:
    """Return what is unseen in the test side: `compound`, as prepare writes it, `cell`, `plate` or `both`."""
    return splits.get("by", "compound")


CountName = Literal["n_profiles", "n_compounds", "n_cell_lines", "n_conditions"]


class Counts(TypedDict):
    """Size of a dataset."""

    n_profiles: int
    n_compounds: int
    n_cell_lines: int
    n_conditions: int


class Counted(Counts):
    """How a release became a dataset.

    Attributes:
        paper_counts: The paper's counts, for comparison.
        counts: Counts of the release's reader, by name.
        cleaning: Cleaning rules in order.
        pairing_levels: Number of treated wells by the level of their control.
        control_profiles: Number of control profiles by role.
        wells_without_reserved_control: Number of treated wells without a reserved control.
        missing_genes: Symbols of landmark genes that the release lacks.
        notes: Notes for the reader.
        splits: Definition and sizes of the splits.
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
        schema_version: Schema version of the tables.
        plan: Checksum of the release and settings it was made from.
        simulated: Whether the release is simulated.
        settings: The groups of settings it was made with, as JSON.
        sources: The release's files.
    """

    schema_version: int
    plan: str
    simulated: bool
    settings: dict[str, dict[str, object]]
    sources: list[SourceIdentity]


class Manifest(Summary):
    """The whole `manifest.json`: the summary, the files, and the genes in the order of every profile."""

    files: list[FileEntry]
    genes: list[Gene]


def read_manifest(store: Store) -> Manifest:
    """Read a dataset's manifest; the caller must check its schema version."""
    return cast(Manifest, store.read_json(MANIFEST))
