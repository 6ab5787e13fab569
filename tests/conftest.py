"""Shared pieces: a small simulated release, its dataset, real data, and a local Ray cluster."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ldm_ray.chem.embedding import build_encoder, encode_table, save_embeddings
from ldm_ray.config import Config, load_config
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.l1000 import read_l1000
from ldm_ray.data.prepare import prepare
from ldm_ray.data.simulate import ReleaseFiles, simulate_release
from ldm_ray.data.store import matrix

SMALL = [
    "simulate.n_profiles=1200",
    "simulate.n_cell_lines=3",
    "simulate.n_compounds=60",
    "simulate.treated_wells_per_plate=60",
    "simulate.replicates=2",
    "vae.latent_dim=8",
    "vae.encoder_widths=[32,16]",
    "denoiser.basal_widths=[16]",
    "denoiser.compound_widths=[16]",
    "denoiser.scalar_dim=4",
    "denoiser.condition_widths=[16]",
    "denoiser.hidden_widths=[32,32]",
    "denoiser.time_dim=8",
    "schedule.num_steps=50",
    "predict.steps=5",
    "encoder.n_bits=256",
    "train_vae.global_batch_size=64",
    "train_ldm.global_batch_size=64",
    "train_vae.epochs=2",
    "train_ldm.epochs=2",
]
"""Settings of a world small enough to train on in a second."""


def small_config(*overrides: str) -> Config:
    return load_config(None, [*SMALL, *overrides])


@dataclass(frozen=True)
class World:
    """A simulated release and the dataset prepared from it."""

    files: ReleaseFiles
    folder: Path
    config: Config
    dataset: PairedDataset


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    config = small_config()
    files = simulate_release(config.simulate, folder / "release", config.seed)
    root = str(folder / "data")
    prepare(read_l1000(files.gctx, files.inst_info, files.pert_info, files.gene_info), root, config)
    dataset = open_dataset(root)
    encoder = build_encoder(config.encoder)
    table = encode_table(dataset.compounds, config.encoder)
    save_embeddings(dataset.store, encoder, table["compound_id"].to_numpy(), matrix(table["embedding"]))
    return World(files, folder, config, dataset)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real L1000 files; their absence fails a CI run and skips elsewhere."""
    folder = Path(os.environ.get("LDM_RAY_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        message = f"no real data at {folder}; set LDM_RAY_REAL_DATA"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def mini_release(real_data: Path) -> tuple[Path, Path, Path, Path]:
    """The four files of the small real release: matrix, wells, perturbagens, genes."""
    folder = real_data / "gse92742_mini"
    return (
        folder / "GSE92742-mini_Level3_INF_mlr12k_n2010x978.gctx",
        folder / "GSE92742-mini_inst_info.txt",
        folder / "GSE92742-mini_pert_info.txt",
        folder / "GSE92742_Broad_LINCS_gene_info.txt",
    )


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A real local Ray cluster, shared by the tests of a session."""
    import ray

    from ldm_ray.ray_cluster import connect

    connect(small_config().ray)
    yield
    ray.shutdown()
