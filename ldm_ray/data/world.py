"""The planted biology of the simulated release: its true deltas and its noise.

The expression of a treated well is

    y = basal_cell + plate + D(cell, compound, dose, time) + treated_plate + noise
    D = g_cell (1 - e^(-t/tau_0)) + sum_m w_m h(dose) (1 - e^(-t/tau_m)) s_cell,m v_cell,m
    h(dose) = dose^n / (dose^n + EC50^n)

with one programme of genes v_m per mechanism (shared pathways plus private genes, modulated by the cell line),
mechanism weights w and EC50 that follow from the compound's scaffold and substituents except for an idiosyncratic
share, and low-rank plus diagonal noise. D is the *true delta*; plate, treated-plate and well terms are noise. D is
scaled so that the deltas of two replicates correlate as the settings ask.
"""

import io
from dataclasses import dataclass, fields
from enum import IntEnum, unique

import numpy as np

from ldm_ray.data.molecules import SITE_A, SITE_B, choose_molecules
from ldm_ray.data_settings import SimulateSettings
from ldm_ray.errors import QueryError

TIMES_H = (6.0, 24.0)
COMMON_DOSE_UM = 10.0
DOSES_UM = (0.12, 0.37, 1.11, 3.33, 30.0)
"""Every compound is tested at the common dose and at two of these."""
N_PATHWAYS = 10
NOISE_RANK = 8


@unique
class Planted(IntEnum):
    """What the numbers of a simulated release are drawn for. They are data: no other seed changes them."""

    WORLD = 1
    PLATES = 2
    GENES = 3
    WELLS = 4
    SENSITIVITY = 41
    IC50 = 42


def planted_numbers(seed: int, what: Planted, *parts: int) -> np.random.Generator:
    """Return numpy's generator for a part of a simulated release."""
    return np.random.default_rng([seed, what, *parts])


@dataclass(frozen=True)
class World:
    """Everything that determines a true delta and its noise.

    Shapes: G genes, C cell lines, M mechanisms, N compounds, R noise factors. Expression is log2.
    """

    entrez_ids: np.ndarray  # (G,)
    cell_names: np.ndarray  # (C,)
    cell_basal: np.ndarray  # (C, G)
    cell_response: np.ndarray  # (C, G), response common to all treatments
    programmes: np.ndarray  # (C, M, G)
    sensitivity: np.ndarray  # (C, M)
    tau_h: np.ndarray  # (M + 1,), the last one for the common response
    parent_smiles: np.ndarray  # (N,)
    weights: np.ndarray  # (N, M)
    ec50_um: np.ndarray  # (N,)
    hill: np.ndarray  # (N,)
    noise_factor: np.ndarray  # (G, R)
    noise_sd: np.ndarray  # (G,), noise outside the factors
    plate_factor: np.ndarray  # (G, R)
    treated_plate_factor: np.ndarray  # (G, R)

    @property
    def n_genes(self) -> int:
        """Number of landmark genes."""
        return len(self.entrez_ids)

    def delta(self, cell: np.ndarray, compound: np.ndarray, dose_um: np.ndarray, time_h: np.ndarray) -> np.ndarray:
        """Noiseless true delta of conditions.

        Args:
            cell: Index into `cell_names`, shape (n,).
            compound: Index into `parent_smiles`, shape (n,).
            dose_um: Micromolar, shape (n,).
            time_h: Hours, shape (n,).

        Returns:
            log2 change from the untreated cell line, shape (n, G), float32.
        """
        ratio = (dose_um / self.ec50_um[compound]) ** self.hill[compound]
        onset = 1.0 - np.exp(-time_h[:, None] / self.tau_h)
        activity = self.weights[compound] * (ratio / (1 + ratio))[:, None] * onset[:, :-1] * self.sensitivity[cell]
        delta = onset[:, -1:] * self.cell_response[cell]
        for index in np.unique(cell):
            rows = cell == index
            delta[rows] += activity[rows] @ self.programmes[index]
        return np.asarray(delta, dtype=np.float32)

    def true_delta(
        self, cell_names: np.ndarray, parent_smiles: np.ndarray, dose_um: np.ndarray, time_h: np.ndarray
    ) -> np.ndarray:
        """True delta of conditions given by name, shape (n, G); see `delta`.

        Raises:
            QueryError: If the release lacks a cell line or compound.
        """
        cell = _positions(self.cell_names, cell_names, "cell line")
        compound = _positions(self.parent_smiles, parent_smiles, "compound")
        return self.delta(cell, compound, np.asarray(dose_um, float), np.asarray(time_h, float))

    def true_mean(
        self, cell_names: np.ndarray, parent_smiles: np.ndarray, dose_um: np.ndarray, time_h: np.ndarray
    ) -> np.ndarray:
        """Noiseless expression of conditions, log2, shape (n, G)."""
        cell = _positions(self.cell_names, cell_names, "cell line")
        return np.asarray(self.cell_basal[cell] + self.true_delta(cell_names, parent_smiles, dose_um, time_h))

    def noise_covariance(self) -> np.ndarray:
        """Covariance of a treated well around its plate's mean control, the same for every condition, (G, G)."""
        factors = np.concatenate([self.noise_factor, self.treated_plate_factor], axis=1).astype(float)
        return np.asarray(factors @ factors.T + np.diag(self.noise_sd.astype(float) ** 2))

    def for_genes(self, entrez_ids: np.ndarray) -> "World":
        """Return the same world with these genes, in this order.

        Raises:
            QueryError: If the release lacks a gene.
        """
        index = _positions(self.entrez_ids, entrez_ids, "gene")
        by_row = ("entrez_ids", "noise_factor", "noise_sd", "plate_factor", "treated_plate_factor")
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {name: values[name][index] for name in by_row}
        values |= {name: values[name][..., index] for name in ("cell_basal", "cell_response", "programmes")}
        return World(**values)

    def to_bytes(self) -> bytes:
        """Serialise as an .npz archive."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        return buffer.getvalue()

    @staticmethod
    def from_bytes(content: bytes) -> "World":
        """Read what `to_bytes` wrote; nothing is unpickled."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return World(**{field.name: arrays[field.name] for field in fields(World)})


def build_world(settings: SimulateSettings, entrez_ids: np.ndarray, seed: int) -> World:
    """Draw the planted biology; the same seed gives the same world."""
    rng = planted_numbers(seed, Planted.WORLD)
    n_genes, n_cells, n_mechanisms = len(entrez_ids), settings.n_cell_lines, settings.n_mechanisms
    n_compounds = settings.n_compounds or min(17_766, max(60, settings.n_profiles // 25))
    molecules = choose_molecules(n_compounds, n_mechanisms, rng)
    n_compounds = len(molecules.parent_smiles)

    programmes_basal = rng.normal(size=(12, n_genes)) * (rng.random((12, n_genes)) < 0.3)
    gene_level = rng.uniform(5.0, 12.0, n_genes)
    cell_basal = gene_level + 0.7 * rng.normal(size=(n_cells, 12)) @ programmes_basal
    cell_basal += 0.25 * rng.normal(size=(n_cells, n_genes))

    shared, modulation = _programmes(rng, n_cells, n_mechanisms, n_genes)
    common = rng.normal(size=n_genes) * (rng.random(n_genes) < 0.3)
    cell_response = 0.6 * common * (1 + 0.5 * rng.normal(size=(n_cells, n_genes)))
    weights = _mechanism_weights(settings, molecules.mechanism, molecules.site_b, rng)
    log_ec50 = (
        0.3
        + 0.4 * rng.normal(size=len(SITE_A))[molecules.site_a]
        + 0.3 * rng.normal(size=len(SITE_B))[molecules.site_b]
        + settings.idiosyncratic_share * 0.5 * rng.normal(size=n_compounds)
    )
    unscaled = World(
        entrez_ids=np.asarray(entrez_ids, dtype=np.int64),
        cell_names=np.array([f"SIMC{i + 1:03d}" for i in range(n_cells)]),
        cell_basal=cell_basal.astype(np.float32),
        cell_response=cell_response.astype(np.float32),
        programmes=(shared * modulation).astype(np.float32),
        sensitivity=np.exp(0.4 * rng.normal(size=(n_cells, n_mechanisms))),
        tau_h=np.exp(rng.normal(np.log(8.0), 0.5, n_mechanisms + 1)),
        parent_smiles=molecules.parent_smiles,
        weights=weights,
        ec50_um=10.0**log_ec50,
        hill=rng.uniform(0.8, 2.0, n_compounds),
        **_noise(settings, n_genes, rng),
    )
    return _scaled_to_replicates(unscaled, settings, rng)


def _programmes(
    rng: np.random.Generator, n_cells: int, n_mechanisms: int, n_genes: int
) -> tuple[np.ndarray, np.ndarray]:
    pathways = rng.normal(size=(N_PATHWAYS, n_genes)) * (rng.random((N_PATHWAYS, n_genes)) < 0.25)
    private = 1.5 * rng.normal(size=(n_mechanisms, n_genes)) * (rng.random((n_mechanisms, n_genes)) < 0.15)
    shared = 0.5 * rng.normal(size=(n_mechanisms, N_PATHWAYS)) @ pathways + private
    shared /= np.linalg.norm(shared, axis=1, keepdims=True) / np.sqrt(n_genes)
    return shared, 1 + 0.3 * rng.normal(size=(n_cells, n_mechanisms, n_genes))


def _mechanism_weights(
    settings: SimulateSettings, mechanism: np.ndarray, site_b: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Scaffold decides the main mechanism, substituent b a second one; the rest is the compound's own."""
    n, m = len(mechanism), settings.n_mechanisms
    weights = np.zeros((n, m))
    weights[np.arange(n), mechanism] = 1.0
    weights[np.arange(n), rng.integers(0, m, len(SITE_B))[site_b]] += 0.35
    own = rng.normal(size=(n, m))
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    share = settings.idiosyncratic_share
    return np.asarray(np.sqrt(1 - share) * weights + np.sqrt(share) * own)


def _noise(settings: SimulateSettings, n_genes: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Half of the well noise, and all plate effects, are shared between genes through low-rank factors."""
    sd = settings.well_noise_sd_log2 * np.exp(0.25 * rng.normal(size=n_genes))

    def factor(scale: np.ndarray | float) -> np.ndarray:
        loadings = rng.normal(size=(n_genes, NOISE_RANK))
        loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
        return np.asarray(loadings * np.broadcast_to(scale, n_genes)[:, None], dtype=np.float32)

    return {
        "noise_factor": factor(sd * np.sqrt(0.5)),
        "noise_sd": (sd * np.sqrt(0.5)).astype(np.float32),
        "plate_factor": factor(settings.plate_effect_sd_log2),
        "treated_plate_factor": factor(settings.treated_plate_effect_sd_log2),
    }


def _scaled_to_replicates(world: World, settings: SimulateSettings, rng: np.random.Generator) -> World:
    """Scale the effects so that the median correlation of replicate deltas is as wanted.

    Two replicates on different plates share only D. Pairs of them are drawn once, with the noise of the well, of the
    mean of its controls and of the treated plate; the scale is found by bisection.
    """
    n = 512
    compound = rng.integers(0, len(world.parent_smiles), n)
    cell = rng.integers(0, len(world.cell_names), n)
    dose = np.where(rng.random(n) < 1 / 3, COMMON_DOSE_UM, rng.choice(DOSES_UM, n))
    delta = world.delta(cell, compound, dose, rng.choice(TIMES_H, n))
    well = np.sqrt(1 + 1 / max(1, settings.dmso_wells_per_plate // 2))
    noise = rng.standard_normal((2, n, NOISE_RANK)) @ world.noise_factor.T * well
    noise += rng.standard_normal((2, n, world.n_genes)) * world.noise_sd * well
    noise += rng.standard_normal((2, n, NOISE_RANK)) @ world.treated_plate_factor.T
    low, high = 0.0, 5.0
    for _ in range(16):
        scale = (low + high) / 2
        first, second = (scale * delta + part for part in noise)
        correlation = np.median(_row_correlation(first, second))
        low, high = (scale, high) if correlation < settings.replicate_delta_correlation else (low, scale)
    values = {field.name: getattr(world, field.name) for field in fields(world)}
    values["cell_response"] = (world.cell_response * scale).astype(np.float32)
    values["programmes"] = (world.programmes * scale).astype(np.float32)
    return World(**values)


def _positions(known: np.ndarray, wanted: np.ndarray, what: str) -> np.ndarray:
    where = {str(name): i for i, name in enumerate(known)}
    missing = next((str(name) for name in wanted if str(name) not in where), None)
    if missing is not None:
        raise QueryError(f"the simulated truth has no {what} {missing!r}")
    return np.array([where[str(name)] for name in wanted], dtype=np.int64)


def _row_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return np.asarray((a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1)))
