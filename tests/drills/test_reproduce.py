"""The paper's section 3 as one command, killed midway: a small simulated release, a few steps of each model."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldm_ray.data.simulate import release_files
from tests.processes import kill_driver

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]
COMMAND = [sys.executable, "-m", "ldm_ray.cli"]
SMALL = (
    "checks=warn",
    "ray.num_workers=1",
    "train_vae.epochs=2",
    "train_ldm.epochs=2",
    "train_prnet.epochs=2",
    "train_pertdit.epochs=1",
    "predict.calibration_wells=32",
    "predict.steps=5",
    "evaluate.max_profiles=100",
    "evaluate.n_samples=[4]",
    "evaluate.bootstrap_draws=20",
    "table1.seeds=[0,1]",
    "table1.rivals=[prnet]",
    "reproduce.pertdit_wells=8",
    "reproduce.paper=[train_vae.min_steps=60,train_vae.epochs=1,train_ldm.min_steps=60,train_ldm.epochs=1]",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 1,500 treated wells."""
    folder = tmp_path_factory.mktemp("small")
    release = release_files(folder / "release")
    names = {"gctx": release.gctx, "inst-info": release.inst_info, "pert-info": release.pert_info}
    names |= {"gene-info": release.gene_info, "out": folder / "data"}
    steps = [
        ["simulate", "--out", str(folder / "release"), "--set", "simulate.n_profiles=1500"],
        ["prepare", *(text for name, path in names.items() for text in (f"--{name}", str(path)))],
    ]
    for step in steps:
        subprocess.run([*COMMAND, *step, "--config", "demo"], check=True)
    return folder / "data"


def test_a_killed_campaign_goes_on(data: Path, tmp_path: Path) -> None:
    """SIGKILL of the driver after the first seed; started again, it repeats nothing that had ended, and says all."""
    out = tmp_path / "paper"
    asked = ["reproduce", "--data", str(data), "--out", str(out), "--config", "demo", "--pertdit-hours", "0.002"]
    command = [*COMMAND, *asked, *(part for setting in SMALL for part in ("--set", setting))]
    judged = out / "table1/compound/seed0/metrics.json"
    with (tmp_path / "first.log").open("w") as log:
        first = subprocess.Popen(command, start_new_session=True, stderr=log)
    while not judged.exists():
        assert first.poll() is None, (tmp_path / "first.log").read_text()[-2000:]
        time.sleep(0.5)
    kill_driver(first, within_s=600)
    ended = {path: path.stat().st_mtime_ns for path in [judged, *out.glob("folds/**/*.json")]}
    assert len(ended) > 1
    again = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in ended} == ended, "something that had ended was done again"
    page = (out / "report.html").read_text()
    for heading in ("Table 1", "Fig. 3", "PertDiT at its published size"):
        assert heading in page, heading
    other = [*command, "--set", "train_ldm.epochs=9"]
    refused = subprocess.run(other, capture_output=True, text=True, timeout=300, check=False)
    assert refused.returncode == 2
    assert "settings" in refused.stderr
    assert "Traceback" not in refused.stderr
