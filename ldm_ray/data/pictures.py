"""Pictures of `ldm-ray data describe --out`: counts of wells, and distributions of expression."""

import io
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.storage.store import Store, matrix

MOST_CELLS, MOST_DOSES = 30, 16
SAMPLED_FILES = 4
BLUE, GREY = "#2b6ca3", "#8a8a8a"


def draw_pictures(dataset: PairedDataset, store: Store) -> list[str]:
    """Draw the pictures of a dataset into a folder; return their URLs."""
    frame = dataset.profiles(["cell_id", "dose_um", "time_h", "split"]).to_pandas()
    figures = {
        "profiles_per_cell.png": _cells(frame["cell_id"].to_numpy(), frame["split"].to_numpy(), dataset),
        "dose_time_grid.png": _grid(frame["dose_um"].to_numpy(), frame["time_h"].to_numpy()),
        "expression.png": _expression(dataset),
    }
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=130, format="png")
        store.write_bytes(name, buffer.getvalue())
    return [store.path(name) for name in figures]


def _cells(cell_id: np.ndarray, split: np.ndarray, dataset: PairedDataset) -> Figure:
    n_cells = len(dataset.cells)
    counts = {name: np.bincount(cell_id[split == name], minlength=n_cells) for name in ("train", "valid", "test")}
    order = np.argsort(-sum(counts.values()))[:MOST_CELLS]
    figure = Figure(figsize=(8, 0.6 + 0.24 * len(order) + 0.8), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(order))
    for (name, count), shade in zip(counts.items(), (BLUE, "#7fb3dc", "#d9a441"), strict=True):
        axes.barh(np.arange(len(order)), count[order], left=left, label=name, color=shade)
        left += count[order]
    axes.set_yticks(np.arange(len(order)), [dataset.cells[i] for i in order])
    axes.invert_yaxis()
    axes.set_xlabel("treated wells")
    more = f" (the largest {len(order)} of {n_cells})" if n_cells > len(order) else ""
    axes.set_title(f"Treated wells by cell line{more}", loc="left")
    axes.legend(title="split by compound", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _grid(dose_um: np.ndarray, time_h: np.ndarray) -> Figure:
    """Counts by dose and time; if there are many doses, they are binned evenly on the log scale."""
    times = np.unique(time_h)
    doses, which = np.unique(dose_um.round(3), return_inverse=True)
    labels = [f"{dose:g}" for dose in doses]
    if len(doses) > MOST_DOSES:
        edges = np.geomspace(doses[0], doses[-1] * 1.0001, MOST_DOSES + 1)
        which = np.clip(np.searchsorted(edges, dose_um, side="right") - 1, 0, MOST_DOSES - 1)
        labels = [f"{low:.2g} to {high:.2g}" for low, high in pairwise(edges)]
    counts = np.zeros((len(times), len(labels)), dtype=int)
    np.add.at(counts, (np.searchsorted(times, time_h), which), 1)
    figure = Figure(figsize=(1.6 + 0.62 * len(labels), 1.9 + 0.45 * len(times)), layout="constrained")
    axes = figure.subplots()
    shade = np.log10(counts + 1)
    axes.imshow(shade, cmap="Blues", aspect="auto", vmin=0)
    for row, column in np.argwhere(counts > 0):
        dark = shade[row, column] > 0.6 * shade.max()
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=7,
                  color="white" if dark else "black")  # fmt: skip
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(times)), [f"{time:g}" for time in times])
    axes.set_xlabel("dose (µM)")
    axes.set_ylabel("time (h)")
    axes.set_title("Treated wells by dose and time", loc="left")
    return figure


def _expression(dataset: PairedDataset) -> Figure:
    """Distributions of treated wells' values and of their changes from the control, in a few files."""
    entries = dataset.manifest["files"]
    step = max(1, len(entries) // SAMPLED_FILES)
    names = [entry["path"] for entry in entries[::step][:SAMPLED_FILES]]
    table = dataset.store.read_tables(names, ["expression", "basal_id"])
    values = matrix(table["expression"])
    change = values - dataset.basal_expression[table["basal_id"].to_numpy()]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(dataset.basal_expression.ravel(), bins=120, density=True, color=GREY, alpha=0.6, label="controls")
    left.hist(values.ravel(), bins=120, density=True, histtype="step", color=BLUE, label="treated wells")
    left.set_xlabel("expression (log2)")
    left.set_ylabel("density")
    left.set_title("Expression", loc="left")
    left.legend(frameon=False)
    span = float(np.quantile(np.abs(change), 0.999))
    right.hist(change.ravel(), bins=np.linspace(-span, span, 121), density=True, color=BLUE)
    right.set_yscale("log")
    right.set_xlabel("change from the matched control (log2)")
    right.set_title(f"Change, {len(values):,} wells", loc="left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
