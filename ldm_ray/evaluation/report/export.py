"""Sampled wells and their predictions as AnnData, for scanpy or cell-eval."""

import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import Wells
from ldm_ray.evaluation.scores.predicted import PredictedWells
from ldm_ray.storage.store import Store

WELLS = "wells.h5ad"
CELL_EVAL = "cell_eval"
CONTROL = "control"


def write_exports(store: Store, dataset: PairedDataset, wells: Wells, predictions: list[PredictedWells]) -> list[str]:
    """Write the sampled wells.

    `wells.h5ad` has measured profiles in X, every prediction in a layer, and the controls in the layers `basal` and
    `reserved`. `cell_eval/real.h5ad`, and one file for each model with draws, stack treated and control wells, with
    the columns `perturbation` and `cell_line` that cell-eval needs. A control row is the mean of the `n_wells`
    reserved wells of a plate, so it varies less than a well.

    Returns:
        Names of the files.
    """
    obs, var = _obs(dataset, wells), pd.DataFrame(index=dataset.gene_symbols)
    layers = {f"{p.model}.{p.kind}": p.y_hat for p in predictions}
    layers |= {"basal": wells.basal, "reserved": wells.reserved}
    adata = anndata.AnnData(X=wells.y, obs=obs, var=var, layers=layers)
    names = [_write(store, WELLS, adata)]
    control_rows = np.unique(wells.frame["reserved_basal_id"][wells.has_reserved].to_numpy(), return_index=True)[1]
    controls = wells.take(np.flatnonzero(wells.has_reserved)[control_rows])
    n_wells = dataset.basal["n_wells"].to_numpy()[controls.frame["reserved_basal_id"].to_numpy()]
    treatment = {"parent_smiles": "", "dose_um": 0.0, "condition_id": -1, "has_reserved": True}
    control_obs = _obs(dataset, controls).assign(perturbation=CONTROL, n_wells=n_wells, **treatment)
    control_obs.index = "control:" + controls.frame["reserved_basal_id"].astype(str).to_numpy()
    clouds = {"real": wells.y} | {p.model: p.y_hat for p in predictions if p.kind == "one_draw"}
    for name, values in clouds.items():
        both = np.concatenate([values, controls.reserved])
        stacked = anndata.AnnData(X=both, obs=pd.concat([obs, control_obs]), var=var)
        names.append(_write(store, f"{CELL_EVAL}/{name}.h5ad", stacked))
    return names


def _obs(dataset: PairedDataset, wells: Wells) -> pd.DataFrame:
    frame = wells.frame
    parents = dataset.parent_smiles[frame["compound_id"].to_numpy()].astype(str)
    labels = [
        f"{parent}|{dose:.3g}um|{time:g}h"
        for parent, dose, time in zip(parents, frame["dose_um"], frame["time_h"], strict=True)
    ]
    return pd.DataFrame(
        {
            "perturbation": labels,
            "cell_line": np.array(dataset.cells)[frame["cell_id"].to_numpy()],
            "parent_smiles": parents,
            "dose_um": frame["dose_um"].to_numpy(),
            "time_h": frame["time_h"].to_numpy(),
            "plate": frame["plate"].to_numpy(),
            "condition_id": frame["condition_id"].to_numpy(),
            "n_wells": 1,
            "has_reserved": wells.has_reserved,
        },
        index=frame["profile_id"].astype(str).to_numpy(),
    )


def _write(store: Store, name: str, adata: anndata.AnnData) -> str:
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.h5ad"
        adata.write_h5ad(part, compression="gzip")
        store.write_bytes(name, part.read_bytes())
    return name
