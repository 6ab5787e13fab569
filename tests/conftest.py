"""Shared pieces: a small simulated release, its dataset, real data, and a local Ray cluster."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm_ray.chem.embedding import build_encoder, save_embeddings
from ldm_ray.cli.app import main
from ldm_ray.cluster.train.ingest import collect
from ldm_ray.config import Config, load_config
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.lanes import keep_own, lanes_of, own_keys
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.l1000 import read_l1000
from ldm_ray.data.simulate import ReleaseFiles, simulate_release
from ldm_ray.data.slices import ID_COLUMNS, WellFiles, read_slices
from ldm_ray.training.source import ResidentSource, lane_plan
from tests.s3_server import S3Server, free_port

# One actor less a Train run: it only watches for nodes that are about to be taken away, and here none is.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

LONGEST_FIRST = (
    "end_to_end/test_command_line.py",
    "ray/test_tune.py",
    "ray/test_training.py",
    "ray/test_training_models.py",
    "ray/test_serve.py",
    "ray/test_jobs.py",
    "ray/test_predict.py",
    "object_store/test_s3.py",
    "ray/test_serve_command.py",
    "ray/test_data.py",
    "serving/test_hostile.py",
)
"""Files of half a minute and more: workers take file by file, and so they end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


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
    smiles = dataset.parent_smiles.tolist()
    save_embeddings(dataset.store, encoder, smiles, encoder.encode(smiles))
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


def resident_source(
    files: WellFiles, config: Config, global_batch_size: int, rank: int, world_size: int
) -> ResidentSource:
    """A worker's lanes, read without Ray by the functions that Ray's tasks run."""
    lanes = config.ray.lanes
    rows, lane = {}, torch.zeros(0)
    for split in ("valid", "train"):
        tables = list(read_slices(files, files.slices(split), [*ID_COLUMNS, files.value_column]))
        keys = np.sort(np.concatenate([table["profile_key"].to_numpy() for table in tables]))
        own = own_keys(keys, lanes, rank, world_size)
        rows[split] = collect((keep_own(table, own) for table in tables), files, own, split)
        lane = torch.from_numpy(lanes_of(own, keys, lanes))
    plan = lane_plan(files.count("train"), lanes, global_batch_size, world_size)
    return ResidentSource(rows, lane, plan, global_batch_size // lanes, config.seed)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, shared by the tests of a session; each takes its own folder."""
    with S3Server(tmp_path_factory.mktemp("s3"), free_port()) as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A real local Ray cluster, shared by the tests of a session."""
    import ray

    from ldm_ray.cluster.connect import connect

    connect(small_config().ray)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Said:
    """What a command printed: standard output, and standard error."""

    stdout: str
    stderr: str


Command = Callable[..., Said]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `ldm-ray` in this process, which has imported everything already, and check its exit code."""
    monkeypatch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

    def run(*arguments: str, code: int = 0) -> Said:
        monkeypatch.setattr(sys, "argv", ["ldm-ray", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert end.value.code == code, err
        return Said(out, err)

    return run
