"""Tables that describe a dataset to a scientist."""

from collections import Counter
from dataclasses import dataclass
from typing import TypedDict, cast

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.groups import straddling
from ldm_ray.data.manifest import Summary, by_of

HELD_OUT = {
    "compound": "by compound",
    "cell": "used: by cell line",
    "plate": "used: by batch of plates",
    "both": "used: by compound and cell line",
    "scaffold": "used: by scaffold",
}

READER_COUNTS = {
    "duplicate_instance_ids": "wells that stand twice in the tables",
    "wells_that_failed_qc": "wells that failed quality control (qc_pass)",
    "wells_without_profile": "wells without a profile in the matrix",
    "profiles_without_well": "profiles without a well in the tables",
    "duplicate_profiles": "profiles that stand in several matrices",
}


@dataclass(frozen=True)
class Section:
    """One table of the description."""

    title: str
    columns: list[str]
    rows: list[list[str]]


class GroupCounts(TypedDict):
    """How many groups of compounds (parents that a model may not tell apart) a dataset has.

    Attributes:
        groups: All.
        several_spellings: Those of more than one parent structure.
        on_two_sides: Those on two sides of the split or in two folds; there must be none.
        flagged: Compounds by flag.
    """

    groups: int
    several_spellings: int
    on_two_sides: int
    flagged: dict[str, int]


class Described(Summary):
    """A dataset's manifest without its long lists, and its groups of compounds."""

    compound_groups: GroupCounts


def count_groups(dataset: PairedDataset) -> GroupCounts:
    """Count the groups of a dataset's compounds."""
    sizes = Counter(dataset.groups.tolist())
    wells = dataset.profiles(["compound_id", "split", "fold"]).to_pandas()
    found = straddling(wells.assign(group=dataset.groups[wells["compound_id"]]), by_of(dataset.manifest["splits"]))
    flags = Counter(flag for flag in dataset.compounds["flag"].to_pylist() if flag)
    return {
        "groups": len(sizes),
        "several_spellings": sum(size > 1 for size in sizes.values()),
        "on_two_sides": len({*found["split"], *found["fold"]}),
        "flagged": dict(sorted(flags.items())),
    }


def describe(dataset: PairedDataset) -> list[Section]:
    """Return the tables of `ldm-ray data describe`."""
    manifest = dataset.manifest
    frame = dataset.profiles(["cell_id", "dose_um", "time_h", "pairing_level", "split", "basal_id"]).to_pandas()
    paper, groups = manifest["paper_counts"], count_groups(dataset)
    sizes = [
        ["treated wells", f"{manifest['n_profiles']:,}", f"{paper['profiles']:,}"],
        ["compounds (parent structures)", f"{manifest['n_compounds']:,}", f"{paper['compounds']:,}"],
        ["groups of compounds (one connectivity)", f"{groups['groups']:,}", ""],
        ["groups of several spellings", f"{groups['several_spellings']:,}", ""],
        ["groups on two sides, or in two folds", f"{groups['on_two_sides']:,}", ""],
        *([f"compounds flagged {flag}", f"{count:,}", ""] for flag, count in groups["flagged"].items()),
        ["cell lines", f"{manifest['n_cell_lines']:,}", f"{paper['cell_lines']:,}"],
        ["conditions", f"{manifest['n_conditions']:,}", ""],
        ["genes", f"{dataset.n_genes:,}", "978"],
    ]
    dropped = [
        [
            step["rule"],
            f"{step['removed']:,}",
            f"{step['wells_after']:,}",
            f"{step['compounds_after'] or 0:,}",
        ]
        for step in manifest["cleaning"]
    ]
    counts = manifest["counts"]
    before = [[text, f"{counts[name]:,}", "", ""] for name, text in READER_COUNTS.items() if counts.get(name)]
    dropped = [*before, *dropped]
    if manifest["missing_genes"]:
        dropped.append([f"landmark genes missing: {len(manifest['missing_genes'])}", "", "", ""])
    examples = [
        [f"{step['rule']}: {', '.join(step['examples'])}"]
        for step in manifest["cleaning"]
        if step["removed"] and step.get("examples")
    ]
    examples += [[f"note: {note}"] for note in manifest["notes"]]
    cells = frame.groupby("cell_id").agg(wells=("dose_um", "size"), times=("time_h", lambda t: sorted(set(t))))
    cells = cells.sort_values("wells", ascending=False)
    by_cell = [
        [dataset.cells[int(cell)], f"{row.wells:,}", ", ".join(f"{t:g}" for t in row.times)]
        for cell, row in cells.head(20).iterrows()
    ]
    if len(cells) > 20:
        by_cell.append([f"and {len(cells) - 20} more", f"{cells['wells'].iloc[20:].sum():,}", ""])
    quantiles = frame["dose_um"].quantile([0, 0.25, 0.5, 0.75, 1])
    doses = [["min / quartiles / max", " / ".join(f"{value:.3g}" for value in quantiles)]]
    doses += [[f"{dose:g}", f"{count:,}"] for dose, count in frame["dose_um"].value_counts().head(8).items()]
    controls = dataset.basal.select(["basal_id", "n_wells"]).to_pandas().set_index("basal_id")["n_wells"]
    per_well = frame["basal_id"].map(controls)
    levels = {"plate": "same plate", "batch": "same batch", "cell_time": "same cell line and time"}
    pairing = [
        [levels[level], f"{count:,}", f"{per_well[frame['pairing_level'] == level].mean():.1f}"]
        for level, count in frame["pairing_level"].value_counts().items()
    ]
    pairing.append(["treated wells without reserved control", f"{manifest['wells_without_reserved_control']:,}", ""])
    splits = [
        [
            name,
            *(f"{manifest['splits'][column].get(name, 0):,}" for column in ("split", "cell_split", "plate_split")),
        ]
        for name in ("train", "valid", "test")
    ]
    return [
        Section(f"{dataset.url}", ["", "here", "the paper"], sizes),
        Section("What cleaning dropped", ["rule", "removed", "wells left", "compounds left"], dropped),
        Section("Examples and notes", ["what each rule removed, most frequent first"], examples),
        Section("Cell lines", ["cell line", "wells", "hours"], by_cell),
        Section("Doses (um)", ["dose", "wells"], doses),
        Section("Controls (DMSO)", ["paired on", "treated wells", "control wells each"], pairing),
        Section(
            "Splits (wells)", ["", HELD_OUT[by_of(manifest["splits"])], "by cell line", "by batch of plates"], splits
        ),
    ]


def describe_json(dataset: PairedDataset) -> Described:
    """Return the description for `--json`."""
    short = {key: value for key, value in dataset.manifest.items() if key not in ("genes", "files")}
    return cast(Described, short | {"compound_groups": count_groups(dataset)})
