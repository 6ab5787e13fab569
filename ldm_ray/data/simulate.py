"""The simulated release: files in exactly the GSE92742 layout, with the errors of real files.

Plates are drawn in threads, each from its own seed, and appended to the GCTX. So memory does not grow with the number
of profiles, and the result does not depend on the number of threads.
"""

import csv
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from ldm_ray.data.releases.gctx import GctxWriter
from ldm_ray.data.releases.genes import N_LANDMARKS, read_gene_info
from ldm_ray.data.simulate_ic50 import simulate_ic50, write_csv_gz
from ldm_ray.data.world import COMMON_DOSE_UM, DOSES_UM, TIMES_H, Planted, World, build_world, planted_numbers
from ldm_ray.data_settings import SimulateSettings
from ldm_ray.errors import DataError, StoreError
from ldm_ray.layout import SIMULATION, TRUTH

INST_INFO_COLUMNS = (
    "inst_id", "rna_plate", "rna_well", "pert_id", "pert_iname", "pert_type", "pert_dose", "pert_dose_unit",
    "pert_time", "pert_time_unit", "cell_id",
)  # fmt: skip
PERT_INFO_COLUMNS = (
    "pert_id", "pert_iname", "pert_type", "is_touchstone", "inchi_key_prefix", "inchi_key", "canonical_smiles",
    "pubchem_cid",
)  # fmt: skip
GENE_INFO_COLUMNS = ("pr_gene_id", "pr_gene_symbol", "pr_gene_title", "pr_is_lm", "pr_is_bing")
N_OTHER_GENES = 22
PREFIX = "SIM_Level3"
BAD_SMILES = ("-666", "restricted", "C1CC(", "not_a_molecule", "[Xx]C", "c1ccc")
N_RARE = 4


@dataclass(frozen=True)
class Batch:
    """One library plate run in one cell line at one time; each replicate is a plate."""

    name: str
    cell: int
    time_h: float
    compounds: np.ndarray
    doses_um: np.ndarray
    replicates_without_dmso: tuple[int, ...] = ()


@dataclass(frozen=True)
class ReleaseFiles:
    """Paths of a release's files."""

    gctx: Path
    inst_info: Path
    pert_info: Path
    gene_info: Path
    truth: Path
    ic50: Path
    basal_profiles: Path


def release_files(folder: Path) -> ReleaseFiles:
    """Return the paths of a simulated release."""
    return ReleaseFiles(
        folder / f"{PREFIX}.gctx",
        folder / f"{PREFIX}_inst_info.txt",
        folder / f"{PREFIX}_pert_info.txt",
        folder / f"{PREFIX}_gene_info.txt",
        folder / TRUTH,
        folder / "ic50.csv.gz",
        folder / "basal_profiles.csv.gz",
    )


def simulate_release(
    settings: SimulateSettings,
    folder: Path,
    seed: int,
    gene_info: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReleaseFiles:
    """Write a simulated release.

    Args:
        settings: Sizes and noise; `n_profiles` treated wells survive the cleaning rules.
        folder: A local folder that holds no release yet.
        seed: The same seed gives the same files.
        gene_info: A real gene table whose landmark genes are used instead of made-up ones.
        on_progress: Called with plates done and in total.

    Raises:
        DataError: If the folder already holds a release, or the gene table is not valid.
    """
    files = release_files(folder)
    if files.gctx.exists():
        raise DataError(f"{folder} already holds a release; remove it or choose another --out")
    genes = _gene_table(gene_info)
    landmarks = genes.loc[genes["pr_is_lm"] == "1", "pr_gene_id"].astype(np.int64).to_numpy()
    world = build_world(settings, landmarks, seed)
    batches = list(_plan(settings, world, planted_numbers(seed, Planted.PLATES)))
    plates = [(batch, replicate) for batch in batches for replicate in range(settings.replicates)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        genes.to_csv(files.gene_info, sep="\t", index=False)
        _pert_info(world).to_csv(files.pert_info, sep="\t", index=False)
        files.truth.write_bytes(world.to_bytes())
        for path, table in zip((files.ic50, files.basal_profiles), simulate_ic50(world, seed), strict=True):
            write_csv_gz(table, path)
        planted = _write_plates(settings, world, genes, plates, files, seed, on_progress)
        summary = {"simulated": True, "seed": seed, "settings": json.loads(settings.model_dump_json())}
        (folder / SIMULATION).write_text(json.dumps(summary | {"planted": planted}, indent=2) + "\n")
    except BaseException as error:
        for path in (*vars(files).values(), folder / SIMULATION):
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"{folder} cannot be written: {error}") from error
        raise
    return files


def _gene_table(gene_info: Path | None) -> pd.DataFrame:
    """Return landmark genes and some others; made-up ids lie above all real Entrez ids."""
    if gene_info is not None:
        real = read_gene_info(gene_info)
        missing = [name for name in GENE_INFO_COLUMNS if name not in real.columns]
        if missing:
            raise DataError(f"{gene_info} must have the column {missing[0]!r}")
        others = real[real["pr_is_lm"] != "1"].head(N_OTHER_GENES)
        return pd.concat([real[real["pr_is_lm"] == "1"], others], ignore_index=True)[list(GENE_INFO_COLUMNS)]
    n = N_LANDMARKS + N_OTHER_GENES
    landmark = np.where(np.arange(n) < N_LANDMARKS, "1", "0")
    rows = {
        "pr_gene_id": [str(990_000_001 + i) for i in range(n)],
        "pr_gene_symbol": [f"SIMG{i + 1:04d}" for i in range(n)],
        "pr_gene_title": [f"simulated gene {i + 1}" for i in range(n)],
        "pr_is_lm": landmark,
        "pr_is_bing": np.ones(n, dtype=int).astype(str),
    }
    return pd.DataFrame(rows)[list(GENE_INFO_COLUMNS)]


def _pert_id(compound: int) -> str:
    return f"SIM-K{compound + 1:08d}"


def _pert_info(world: World) -> pd.DataFrame:
    named = [(_pert_id(i), f"simulated-{i + 1}", text) for i, text in enumerate(world.parent_smiles)]
    bad = [(f"SIM-BAD{i}", f"unusable-{i}", text) for i, text in enumerate(BAD_SMILES)]
    rare = [(f"SIM-RARE{i}", f"rare-{i}", "C" * (5 + i) + "N") for i in range(N_RARE)]
    orphan = [("SIM-ORPHAN", "orphan", "CCCCCCCCCO")]
    frame = pd.DataFrame(named + bad + rare + orphan, columns=["pert_id", "pert_iname", "canonical_smiles"])
    frame = frame.assign(pert_type="trt_cp")
    for column in PERT_INFO_COLUMNS:
        if column not in frame:
            frame[column] = "-666"
    return frame[list(PERT_INFO_COLUMNS)]


def _plan(settings: SimulateSettings, world: World, rng: np.random.Generator) -> Iterator[Batch]:
    """Lay the compounds out on library plates and run each in several cell lines and times."""
    doses_per_compound = 3
    n_compounds = len(world.parent_smiles)
    group = min(n_compounds, settings.treated_wells_per_plate // doses_per_compound)
    groups = np.array_split(rng.permutation(n_compounds), -(-n_compounds // group))
    places = [(cell, time) for cell in range(len(world.cell_names)) for time in TIMES_H]
    orders = [rng.permutation(len(places)) for _ in groups]
    left, number = settings.n_profiles, 0
    n_batches = _count_batches(settings, groups)
    while left > 0:
        compounds = groups[number % len(groups)]
        cell, time = places[orders[number % len(groups)][(number // len(groups)) % len(places)]]
        others = np.array([rng.choice(DOSES_UM, 2, replace=False) for _ in compounds])
        doses = np.concatenate([np.full((len(compounds), 1), COMMON_DOSE_UM), others], axis=1)
        wells = min(doses.size, -(-left // settings.replicates))
        batch = Batch(
            name=f"SIM{number + 1:03d}_{world.cell_names[cell]}_{int(time)}H",
            cell=cell,
            time_h=time,
            compounds=np.tile(compounds, doses_per_compound)[:wells],
            doses_um=doses.T.reshape(-1)[:wells],
        )
        if settings.dirt and number == n_batches // 2:
            batch = replace(batch, replicates_without_dmso=(0,))
        yield batch
        left -= wells * settings.replicates
        number += 1


def _count_batches(settings: SimulateSettings, groups: list[np.ndarray]) -> int:
    per_batch = np.mean([len(group) for group in groups]) * 3 * settings.replicates
    return max(1, round(settings.n_profiles / float(per_batch)))


def _write_plates(
    settings: SimulateSettings,
    world: World,
    genes: pd.DataFrame,
    plates: list[tuple[Batch, int]],
    files: ReleaseFiles,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, int]:
    order = planted_numbers(seed, Planted.GENES).permutation(len(genes))
    gene_ids = genes["pr_gene_id"].to_numpy(dtype=str)[order]

    def draw(number: int) -> tuple[pd.DataFrame, np.ndarray]:
        batch, replicate = plates[number]
        rng = planted_numbers(seed, Planted.WELLS, number)
        wells = _plate_wells(settings, world, batch, replicate, number, rng)
        return wells, _expression(settings, world, wells, len(genes), rng)[:, order]

    planted = {"treated_wells": 0, "unparsable_smiles": 0, "rare_compound": 0, "no_dose": 0, "no_control": 0}
    planted |= {"duplicate_instance": 0}
    numbers = iter(range(len(plates)))
    with (
        GctxWriter(files.gctx, gene_ids) as gctx,
        files.inst_info.open("w", newline="", encoding="utf-8") as text,
        ThreadPoolExecutor(settings.threads) as pool,
    ):
        table = csv.writer(text, delimiter="\t", lineterminator="\n")
        table.writerow(INST_INFO_COLUMNS)
        done = 0
        while window := list(islice(numbers, 4 * settings.threads)):
            for wells, expression in pool.map(draw, window):
                gctx.append(wells["inst_id"].to_list(), expression)
                table.writerows(wells[list(INST_INFO_COLUMNS)].itertuples(index=False))
                for kind, count in wells["planted"].value_counts().items():
                    if kind in planted:
                        planted[str(kind)] += int(count)
                if settings.dirt and done == 0:
                    table.writerows(wells[list(INST_INFO_COLUMNS)].head(3).itertuples(index=False))
                    planted["duplicate_instance"] += 3
                done += 1
                on_progress(done, len(plates))
    return planted


def _plate_wells(
    settings: SimulateSettings,
    world: World,
    batch: Batch,
    replicate: int,
    number: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return the wells of one plate, with the columns of inst_info and the simulator's own."""
    units = ("µM", "uM", "um")
    rows: list[dict[str, object]] = []

    def add(kind: str, pert_id: str, name: str, pert_type: str, dose: str, unit: str, **own: object) -> None:
        rows.append(
            {"planted": kind, "pert_id": pert_id, "pert_iname": name, "pert_type": pert_type}
            | {"pert_dose": dose, "pert_dose_unit": unit, "compound": -1, "dose_um": 1.0}
            | own
        )

    for i, (compound, dose) in enumerate(zip(batch.compounds, batch.doses_um, strict=True)):
        text, unit = _dose_text(float(dose), units[(i + number) % 3], dirt=settings.dirt, i=i, replicate=replicate)
        kind = "TRT_CP" if settings.dirt and i % 40 == 7 else "trt_cp"
        own = {"compound": int(compound), "dose_um": float(dose)}
        add("treated_wells", _pert_id(compound), f"simulated-{compound + 1}", kind, text, unit, **own)
    if replicate not in batch.replicates_without_dmso:
        for _ in range(settings.dmso_wells_per_plate):
            add("control", "DMSO", "DMSO", "ctl_vehicle", "-666", "-666")
    if settings.dirt:
        _add_dirt(add, number)
    frame = pd.DataFrame(rows)
    plate = f"{batch.name}_X{replicate + 1}"
    positions = rng.permutation(384)[: len(frame)]
    wells = [f"{'ABCDEFGHIJKLMNOP'[p // 24]}{p % 24 + 1:02d}" for p in positions]
    orphan = frame["planted"] == "no_control"
    return frame.assign(
        inst_id=[f"{plate}_B1:{well}" for well in wells],
        rna_plate=plate,
        rna_well=wells,
        pert_time=np.where(orphan, "48", f"{batch.time_h:g}"),
        pert_time_unit="h",
        cell_id=str(world.cell_names[batch.cell]),
        cell=batch.cell,
        time_h=batch.time_h,
    )


def _add_dirt(add: Callable[..., None], number: int) -> None:
    """Add wells as in real releases that `prepare` must drop, each counted under the rule that drops it."""
    bad = number % len(BAD_SMILES)
    add("unparsable_smiles", f"SIM-BAD{bad}", f"unusable-{bad}", "trt_cp", "10", "uM")
    add("other", "SIM-SH1", "SIMG0001", "trt_sh", "-666", "-666")
    add("other", "SIM-VEC", "EMPTY_VECTOR", "ctl_vector", "-666", "-666")
    add("other", _pert_id(0), "simulated-1", "trt_poscon", "10", "uM")
    if number % 4 == 0:
        add("no_dose", _pert_id(1), "simulated-2", "trt_cp", "-666", "-666")
    if number < 2 * N_RARE:
        add("rare_compound", f"SIM-RARE{number % N_RARE}", f"rare-{number % N_RARE}", "trt_cp", "10", "uM")
    if number < 6:
        add("no_control", "SIM-ORPHAN", "orphan", "trt_cp", "10", "uM")


def _dose_text(dose_um: float, unit: str, *, dirt: bool, i: int, replicate: int) -> tuple[str, str]:
    """Write a dose as real files do: in various units, and 1.11 as 1.1 on some plates."""
    if dirt and i % 16 == 3:
        return f"{dose_um * 1000:g}", "nM"
    if dirt and i % 50 == 11:
        return f"{dose_um / 1000:g}", "mM"
    if dirt and replicate == 1 and dose_um == 1.11:
        return "1.1", unit
    return f"{dose_um:g}", unit


def _expression(
    settings: SimulateSettings, world: World, wells: pd.DataFrame, n_genes_out: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw expression of a plate's wells, log2, shape (wells, n_genes_out); non-landmark genes are mixtures."""
    n, rank = len(wells), world.noise_factor.shape[1]
    cell = wells["cell"].to_numpy()
    treated = wells["compound"].to_numpy() >= 0
    values = world.cell_basal[cell] + world.plate_factor @ rng.normal(size=rank)
    part = wells[treated]
    values[treated] += world.delta(
        part["cell"].to_numpy(),
        part["compound"].to_numpy(),
        part["dose_um"].to_numpy(),
        part["time_h"].to_numpy(),
    ) + world.treated_plate_factor @ rng.normal(size=rank)
    values += rng.standard_normal((n, rank), dtype=np.float32) @ world.noise_factor.T
    values += rng.standard_normal((n, world.n_genes), dtype=np.float32) * world.noise_sd
    extra = n_genes_out - world.n_genes
    mixtures = 0.5 * (values[:, :extra] + values[:, extra : 2 * extra])
    return np.concatenate([values, mixtures], axis=1).astype(np.float32).round(4)
