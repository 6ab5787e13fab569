"""A reader's files, small: the repository, a release, a bucket, and what README's commands have made of them."""

import gzip
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ldm_ray.config import merged, nested
from tests.conftest import SMALL
from tests.docs_pages import ROOT, Command
from tests.docs_shell import Shell
from tests.molformer_checkpoint import SMALL as SMALL_MOLFORMER
from tests.molformer_checkpoint import write_checkpoint
from tests.s3_server import S3Server

SMALLER = (
    *SMALL,
    "evaluate.min_compounds_per_plate=2",
    "evaluate.bootstrap_draws=20",
    "predict.n_samples=4",
    "evaluate.n_samples=[4]",
    "table1.rivals=[prnet]",
    "train_prnet.epochs=2",
    "reproduce.pertdit_hours=0",
    "reproduce.paper=[vae.latent_dim=8, schedule.num_steps=50, predict.steps=5, train_vae.epochs=2,"
    " train_vae.min_steps=0, train_ldm.epochs=2, train_ldm.min_steps=0]",
    "tune.trials=3",
    "tune.random_trials=2",
)
"""Laid over every file of `ldm_ray/configs/`; `tune.space` and the target stay."""

SMALLER_SPACE = {"schedule.num_steps": {"choices": [20, 50]}, "predict.steps": {"choices": [5, 10]}}

NEEDS = {
    "docs/dataset.md": ("runs/data",),
    "docs/reproduce.md": ("demo",),
    "docs/reports.md": ("runs/data", "runs/ldm", "runs/prnet"),
    "docs/samplers.md": ("demo",),
    "docs/serving.md": ("demo",),
    "docs/bulk.md": ("demo",),
    "docs/tracking.md": ("runs/data", "runs/vae", "runs/ldm"),
    "docs/tuning.md": ("demo", "runs/data"),
    "docs/monitoring.md": ("demo", "runs/data", "runs/vae", "runs/ldm"),
    "docs/cost.md": ("runs/data",),
    "docs/air-gapped.md": ("demo", "runs/data"),
}
"""What a page takes for granted that README's commands have made."""

FULL = "GSE92742_Broad_LINCS"
RELEASE = "--gctx L3.gctx --inst-info inst_info.txt --pert-info pert_info.txt --gene-info gene_info.txt"
MAKERS = {
    "demo": "ldm-ray demo --out demo --config demo",
    "runs/data": f"ldm-ray prepare {RELEASE} --out runs/data",
    "runs/vae": "ldm-ray train vae --data runs/data --out runs/vae --config demo",
    "runs/ldm": "ldm-ray train ldm --data runs/data --vae runs/vae --out runs/ldm --config demo",
    "runs/prnet": "ldm-ray train baseline --kind prnet --data runs/data --out runs/prnet --config demo",
}
"""How that is made where only one page is run, each after what stands before it."""

TAKES = {"runs/vae": ("runs/data",), "runs/ldm": ("runs/vae",), "runs/prnet": ("runs/data",)}

COPIED = (
    ".gitignore", "CITATION.cff", "LICENSE", "Makefile", "README.md", "cluster.yaml", "constraints.txt", "deploy",
    "docs", "jobs", "ldm_ray", "pyproject.toml", "serve_config.yaml", "tests",
)  # fmt: skip


class Reader:
    """State shared by all pages: the small release, the bucket, and the results of README's commands.

    Args:
        folder: An empty one.
        s3: A running server.
    """

    def __init__(self, folder: Path, s3: S3Server) -> None:
        self._folder, self._s3 = folder, s3
        self._ray = tempfile.TemporaryDirectory(prefix="d", dir="/tmp")  # sockets need a short path
        self._release = folder / "release"
        self.made = folder / "readme"

    def shell(self, page: str) -> Shell:
        """Return a terminal in the page's folder, with what it needs."""
        folder = self.made if page == "README.md" else self._folder / Path(page).stem
        self._copy_repository(folder)
        self._copy_files(folder, (ROOT / page).read_text(encoding="utf-8"))
        shell = Shell(folder, self._environment(folder))
        for name in NEEDS.get(page, ()):
            shutil.copytree(self._make(name), folder / name)
        self._fill_bucket(folder)
        return shell

    def _environment(self, folder: Path) -> dict[str, str]:
        own = {
            "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "RAY_TMPDIR": self._ray.name,
            "COLUMNS": "120",
        }
        return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own | self._s3.environment

    def _copy_repository(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in COPIED:
            if (ROOT / name).is_dir():
                unwanted = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, folder / name, ignore=unwanted, dirs_exist_ok=True)
            elif (ROOT / name).is_file():
                shutil.copy2(ROOT / name, folder / name)
        for name in ("pyproject.toml", "constraints.txt"):
            os.utime(folder / name, (0, 0))  # older than the environment, so that make has nothing to install
        if not (folder / ".venv").exists():
            (folder / ".venv").symlink_to(ROOT / ".venv")
        for path in (folder / "ldm_ray" / "configs").glob("*.yaml"):
            path.write_text(yaml.safe_dump(small_settings(yaml.safe_load(path.read_text())), sort_keys=False))

    def _copy_files(self, folder: Path, text: str) -> None:
        """Provide the files that a page names."""
        for path in self._small_files():
            if path.name in text and not (folder / path.name).exists():
                shutil.copytree(path, folder / path.name) if path.is_dir() else shutil.copyfile(
                    path, folder / path.name
                )

    def _small_files(self) -> list[Path]:
        """Make, once, the files that pages name: releases, tables of queries, a pretrained encoder."""
        if not self._release.exists():
            (self._release / "models").mkdir(parents=True)
            real = Path(os.environ.get("LDM_RAY_REAL_DATA", ROOT.parent / "shared" / "data"))
            genes = real / "gse92742_mini" / f"{FULL}_gene_info.txt"
            if not genes.is_file():
                print(f"no real data at {real}; set LDM_RAY_REAL_DATA for the pages about it", flush=True)
            self._simulate(genes)
            if genes.is_file():
                packed(genes, self._release / f"{genes.name}.gz")
                shutil.copyfile(real / "prnet_demo_HT115.h5ad", self._release / "Lincs_L1000.h5ad")
            queries = conditions()
            queries.to_csv(self._release / "queries.csv", index=False)
            queries.to_parquet(self._release / "many.parquet", index=False)
            write_checkpoint(self._release / "models" / "molformer", SMALL_MOLFORMER, seed=0)
        return [path for path in self._release.iterdir() if path.name != "sim"]

    def _simulate(self, genes: Path) -> None:
        """Write the simulated release under the names of README, and of the real one."""
        sim = self._release / "sim"
        small = [part for text in SMALL if text.startswith("simulate.") for part in ("--set", text)]
        command = [str(ROOT / ".venv/bin/ldm-ray"), "simulate", "--out", str(sim), *small]
        command += ["--gene-info", str(genes)] if genes.is_file() else []
        subprocess.run(command, check=True, capture_output=True)
        for name in ("inst_info.txt", "pert_info.txt", "gene_info.txt"):
            packed(sim / f"SIM_Level3_{name}", self._release / f"{FULL}_{name}.gz")
            (sim / f"SIM_Level3_{name}").rename(self._release / name)
        packed(sim / "SIM_Level3.gctx", self._release / f"{FULL}_Level3_INF_mlr12k_n1319138x12328.gctx.gz")
        (sim / "SIM_Level3.gctx").rename(self._release / "L3.gctx")
        (sim / "ic50.csv.gz").rename(self._release / "gdsc2.csv.gz")
        (sim / "basal_profiles.csv.gz").rename(self._release / "basal.csv.gz")

    def _make(self, name: str) -> Path:
        """Return the results of README's commands, running them if necessary."""
        if not (self.made / name).exists():
            self._copy_repository(self.made)
            self._copy_files(self.made, MAKERS[name])
            for earlier in TAKES.get(name, ()):
                self._make(earlier)
            print(f"setup            {MAKERS[name]}", flush=True)
            Shell(self.made, self._environment(self.made)).run(Command("setup", 0, MAKERS[name]))
        return self.made / name

    def _fill_bucket(self, folder: Path) -> None:
        """Leave in `s3://bucket/` what pages read from there, and nothing of another page."""
        import s3fs

        self._small_files()
        fs = s3fs.S3FileSystem(**self._s3.options["s3"], skip_instance_cache=True)
        if fs.exists("bucket"):
            for path in fs.ls("bucket"):
                fs.rm(path, recursive=True)
        else:
            fs.mkdir("bucket")
        for name in ("many.parquet", "queries.csv"):
            fs.put(str(self._release / name), f"bucket/{name}")
        if (folder / "runs" / "ldm").is_dir():
            fs.put(str(folder / "runs" / "ldm"), "bucket/models/ldm", recursive=True)


def small_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings of `ldm_ray/configs/` made small."""
    space = (values.get("tune") or {}).get("space", {})
    for text in SMALLER:
        key, _, value = text.partition("=")
        if key not in space:
            values = merged(values, nested(key.split("."), yaml.safe_load(value)))
    return merged(values, {"tune": {"space": space | {k: v for k, v in SMALLER_SPACE.items() if k in space}}})


def packed(path: Path, to: Path) -> None:
    """Write a gzipped copy."""
    to.write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))


def conditions() -> pd.DataFrame:
    """Return a few conditions that a model of the simulated release can answer."""
    rows = [(smiles, cell, dose, 24.0) for smiles in ("CCO", "c1ccccc1O") for cell in ("SIMC001", "SIMC002")
            for dose in (1.0, 10.0)]  # fmt: skip
    return pd.DataFrame(rows, columns=["smiles", "cell", "dose_um", "time_h"])
