"""Writes one and the same wells in the layouts that people have them in."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from ldm_ray.data.releases.gctx import COLUMN_IDS, MATRIX, ROW_IDS
from ldm_ray.data.releases.paths import ReleasePaths

N_GENES, N_OTHER_GENES = 978, 3
DRUGS = ("CC(=O)Oc1ccccc1C(=O)O", "CN1CCN(c2ccc(F)cc2)CC1", "CCOc1ccccc1", "O=C(N)c1cccnc1", "Cl.CN(C)CCO")
DOSES_UM = (0.04, 0.37, 1.11, 3.33, 10.0, 88.8)
TIMES_H = (6.0, 24.0)


@dataclass(frozen=True)
class Truth:
    """Wells as they are, whatever a file says: `frame`, their values `x` (wells, genes), and `genes`."""

    frame: pd.DataFrame
    x: np.ndarray
    genes: pd.DataFrame


def some_wells(seed: int, n_plates: int = 3, wells: int = 12, controls: int = 5) -> Truth:
    """Draw treated wells and DMSO controls on a few plates."""
    rng = np.random.default_rng(seed)
    rows = []
    for plate in range(n_plates):
        cell, time = ("A375", "697", "MCF7")[plate % 3], TIMES_H[plate % 2]
        name = f"CPC{plate // 2:03d}_{cell}_{time:g}H_X{plate % 2 + 1}"
        for number in range(wells + controls):
            drug = int(rng.integers(len(DRUGS))) if number < wells else -1
            rows.append(
                {
                    "profile_id": f"{name}_B5:{number:03d}",
                    "plate": name,
                    "well": f"{'ABCDEFGH'[number % 8]}{number // 8 + 1:02d}",
                    "source_id": f"BRD-{drug:03d}" if drug >= 0 else "DMSO",
                    "name": f"drug-{drug}" if drug >= 0 else "DMSO",
                    "kind": "trt_cp" if drug >= 0 else "ctl_vehicle",
                    "smiles": DRUGS[drug] if drug >= 0 else "",
                    "cell": cell,
                    "dose_um": float(rng.choice(DOSES_UM)) if drug >= 0 else np.nan,
                    "time_h": time,
                }
            )
    n = N_GENES + N_OTHER_GENES
    genes = pd.DataFrame({"symbol": [f"GENE{i}" for i in range(n)], "entrez": 5000 + 7 * np.arange(n)})
    genes["landmark"] = np.arange(n) < N_GENES
    return Truth(pd.DataFrame(rows), rng.uniform(4, 14, (len(rows), n)).astype(np.float32), genes)


class Writer:
    """Writes a truth, with everything random that must not matter: orders, units, types of ids, extra columns."""

    def __init__(self, truth: Truth, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, np.random.default_rng(seed)
        order = self.rng.permutation(len(truth.frame))
        genes = self.rng.permutation(len(truth.genes))
        self.truth = Truth(
            truth.frame.iloc[order].reset_index(drop=True), truth.x[order][:, genes], truth.genes.iloc[genes]
        )
        folder.mkdir(parents=True, exist_ok=True)

    def gse92742(self) -> ReleasePaths:
        """The four files of GSE92742."""
        wells = self._wells("inst_id rna_plate rna_well pert_id pert_iname pert_type cell_id", "pert_dose", "pert_time")
        return self._tables(wells, [slice(None)])

    def gse70138(self) -> ReleasePaths:
        """GSE70138: det_plate and det_well, dates in the names."""
        wells = self._wells("inst_id det_plate det_well pert_id pert_iname pert_type cell_id", "pert_dose", "pert_time")
        wells["pert_mfc_id"] = wells["pert_id"]
        return self._tables(wells, [slice(None)])

    def lincs2020(self) -> ReleasePaths:
        """CMap LINCS 2020: controls in a matrix of their own, a row per target, wells that failed QC."""
        wells = self._wells(
            "sample_id rna_plate rna_well pert_id cmap_name pert_type cell_iname", "pert_dose", "pert_time"
        )
        wells["qc_pass"], wells["det_plate"] = "1", wells["rna_plate"] + "_B5"
        failed = wells.head(3).assign(sample_id=["failed:1", "failed:2", "failed:3"], qc_pass="0")
        is_treated = (self.truth.frame["kind"] == "trt_cp").to_numpy()
        paths = self._tables(pd.concat([wells, failed]), [is_treated, ~is_treated])
        genes = pd.DataFrame({"gene_id": self.truth.genes["entrez"], "gene_symbol": self.truth.genes["symbol"]})
        genes["feature_space"] = np.where(self.truth.genes["landmark"], "landmark", "inferred")
        compounds = self._compounds("pert_id cmap_name canonical_smiles")
        twice = pd.concat([compounds.assign(target=name) for name in ("T1", "T2")])
        files = {"gene_info": self._tsv(genes, "geneinfo"), "pert_info": (self._tsv(twice, "compoundinfo"),)}
        return replace(paths, **files)  # type: ignore[arg-type]

    def prnet(self) -> ReleasePaths:
        """PRnet's merged h5ad: plates of two phases in columns of their own."""
        obs = self._wells("id rna_plate rna_well pert_id condition pert_type cell_type", "pert_dose", "pert_time")
        obs["canonical_smiles"] = self.truth.frame["smiles"].to_numpy()
        second = (self.truth.frame["cell"] == "697").to_numpy()
        for kind in ("plate", "well"):
            obs[f"det_{kind}"] = obs[f"rna_{kind}"].where(second)
            obs[f"rna_{kind}"] = obs[f"rna_{kind}"].where(~second)
        return self._h5ad(obs)

    def scperturb(self) -> ReleasePaths:
        """scPerturb's columns, as a zarr store or a sparse h5ad; controls known by their name only."""
        obs = self._wells("id plate well pert_id perturbation kind cell_line", "dose_value", "time")
        control = (self.truth.frame["kind"] == "ctl_vehicle").to_numpy()
        obs = obs.assign(perturbation=np.where(control, "control", obs["perturbation"]))
        obs = obs.drop(columns=["pert_id", "kind"])
        obs["smiles"] = self.truth.frame["smiles"].to_numpy()
        return self._h5ad(obs, zarr=bool(self.rng.integers(2)))

    def _wells(self, names: str, dose: str, time: str) -> pd.DataFrame:
        """Return the wells' table with other names, shuffled columns, amounts in various units."""
        frame = self.truth.frame
        own = ["profile_id", "plate", "well", "source_id", "name", "kind", "cell"]
        table = frame[own].set_axis(names.split(), axis=1)
        table[dose], table[f"{dose.removesuffix('_value')}_unit"] = self._amounts(
            frame["dose_um"], (("uM", 1.0), ("nM", 1e-3), ("µM", 1.0), ("mM", 1e3), ("micromolar", 1.0))
        )
        table[time], table[f"{time}_unit"] = self._amounts(
            frame["time_h"], (("h", 1.0), ("min", 1 / 60), ("hours", 1.0))
        )
        table["batch_note"] = [f"note {i}" for i in range(len(table))]
        return table[self.rng.permutation(table.columns)]

    def _amounts(self, values: pd.Series, units: tuple[tuple[str, float], ...]) -> tuple[list[str], list[str]]:
        chosen = [units[int(i)] for i in self.rng.integers(len(units), size=len(values))]
        texts = ["-666" if np.isnan(v) else f"{v / factor:.9g}" for v, (_, factor) in zip(values, chosen, strict=True)]
        return texts, ["-666" if text == "-666" else unit for text, (unit, _) in zip(texts, chosen, strict=True)]

    def _compounds(self, names: str) -> pd.DataFrame:
        treated = self.truth.frame[self.truth.frame["kind"] == "trt_cp"]
        return treated[["source_id", "name", "smiles"]].drop_duplicates().set_axis(names.split(), axis=1)

    def _tables(self, wells: pd.DataFrame, parts: list[slice] | list[np.ndarray]) -> ReleasePaths:
        genes = pd.DataFrame({"pr_gene_id": self.truth.genes["entrez"], "pr_gene_symbol": self.truth.genes["symbol"]})
        genes["pr_is_lm"] = self.truth.genes["landmark"].astype(int)
        matrices = []
        for number, part in enumerate(parts):
            matrices.append(str(self.folder / f"level3_{number}.gctx"))
            self._gctx(Path(matrices[-1]), part)
        shuffled = wells.iloc[self.rng.permutation(len(wells))]
        return ReleasePaths(
            tuple(matrices),
            (self._tsv(shuffled, "inst_info"),),
            (self._tsv(self._compounds("pert_id pert_iname canonical_smiles"), "pert_info"),),
            self._tsv(genes, "gene_info"),
        )

    def _gctx(self, path: Path, part: slice | np.ndarray) -> None:
        genes = self.truth.genes["entrez"].to_numpy()
        ids: dict[str, np.ndarray] = {
            "integer": genes,
            "float": genes.astype(float),
            "bytes": genes.astype("S12"),
            "text": genes.astype(str).astype(h5py.string_dtype()),
            "float text": np.char.add(genes.astype(str), ".0").astype("S12"),
        }
        with h5py.File(path, "w") as file:
            file[MATRIX] = self.truth.x[part]
            file[ROW_IDS] = ids[str(self.rng.choice(list(ids)))]
            file[COLUMN_IDS] = self.truth.frame["profile_id"].to_numpy()[part].astype("S64")

    def _h5ad(self, obs: pd.DataFrame, *, zarr: bool = False) -> ReleasePaths:
        genes = self.truth.genes
        name = str(self.rng.choice(["symbol", "entrez"]))
        var = pd.DataFrame({"note": np.zeros(len(genes))}, index=genes[name].astype(str))
        x = sparse.csr_matrix(self.truth.x) if self.rng.integers(2) else self.truth.x
        data = anndata.AnnData(x, obs.set_index(obs["id"].to_numpy()).drop(columns="id"), var)
        path = self.folder / ("wells.zarr" if zarr else "wells.h5ad")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.write_zarr(path) if zarr else data.write_h5ad(path)
        table = pd.DataFrame({"pr_gene_id": genes["entrez"], "pr_gene_symbol": genes["symbol"]})
        table["pr_is_lm"] = genes["landmark"].astype(int)
        return ReleasePaths(gene_info=self._tsv(table, "gene_info"), h5ad=str(path))

    def _tsv(self, table: pd.DataFrame, name: str) -> str:
        path = self.folder / f"{name}.txt"
        table[self.rng.permutation(table.columns)].to_csv(path, sep="\t", index=False)
        return str(path)


LAYOUTS: dict[str, Callable[[Writer], ReleasePaths]] = {
    "gse92742": Writer.gse92742,
    "gse70138": Writer.gse70138,
    "lincs2020": Writer.lincs2020,
    "prnet": Writer.prnet,
    "scperturb": Writer.scperturb,
}
