"""Tables that describe a dataset to a scientist."""

from dataclasses import dataclass
from typing import cast

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.manifest import Summary
from ldm_ray.data.resplit import by_of

HELD_OUT = {
    "compound": "by compound",
    "cell": "used: by cell line",
    "plate": "used: by batch of plates",
    "both": "used: by compound and cell line",
}


@dataclass(frozen=True)
class Section:
    """One table of the description."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def describe(dataset: PairedDataset) -> list[Section]:
    """Return the tables of `ldm-ray data describe`."""
    manifest = dataset.manifest
    frame = dataset.profiles(["cell_id", "dose_um", "time_h", "pairing_level", "split", "basal_id"]).to_pandas()
    paper = manifest["paper_counts"]
    sizes = [
        ["treated wells", f"{manifest['n_profiles']:,}", f"{paper['profiles']:,}"],
        ["compounds (parent structures)", f"{manifest['n_compounds']:,}", f"{paper['compounds']:,}"],
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
    dropped.insert(0, ["duplicate instance ids", f"{counts['duplicate_instance_ids']:,}", "", ""])
    dropped.insert(1, ["wells without a profile", f"{counts['wells_without_profile']:,}", "", ""])
    dropped += [[note, "", "", ""] for note in manifest["notes"]]
    if manifest["missing_genes"]:
        dropped.append([f"landmark genes missing: {len(manifest['missing_genes'])}", "", "", ""])
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
        Section("Cell lines", ["cell line", "wells", "hours"], by_cell),
        Section("Doses (um)", ["dose", "wells"], doses),
        Section("Controls (DMSO)", ["paired on", "treated wells", "control wells each"], pairing),
        Section("Splits (wells)", ["", HELD_OUT[by_of(dataset)], "by cell line", "by batch of plates"], splits),
    ]


def describe_json(dataset: PairedDataset) -> Summary:
    """Return the manifest for `--json`, without its long lists."""
    short = {key: value for key, value in dataset.manifest.items() if key not in ("genes", "files")}
    return cast(Summary, short)
