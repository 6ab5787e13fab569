"""A search at the demo's size whose driver is killed midway, three times in a row."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldm_ray.data.simulate import release_files
from ldm_ray.tuning.state import load_search
from ldm_ray.tuning.trials import Search
from tests.processes import kill_driver

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]
TRIALS = 24
COMMAND = [sys.executable, "-m", "ldm_ray.cli"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's dataset and an autoencoder; `LDM_RAY_DEMO` names a finished demo."""
    if there := os.environ.get("LDM_RAY_DEMO"):
        return Path(there)
    folder, config = tmp_path_factory.mktemp("demo"), "demo"
    release = release_files(folder / "release")
    names = {"gctx": release.gctx, "inst-info": release.inst_info, "pert-info": release.pert_info}
    names |= {"gene-info": release.gene_info, "out": folder / "data"}
    steps = [
        ["simulate", "--out", str(folder / "release")],
        ["prepare", *(text for name, path in names.items() for text in (f"--{name}", str(path)))],
        ["train", "vae", "--data", str(folder / "data"), "--out", str(folder / "vae")],
    ]
    for step in steps:
        subprocess.run([*COMMAND, *step, "--config", config], check=True)
    return folder


def trials_of(out: Path) -> Search | None:
    """Read a search while it is being written; its files are replaced as a whole."""
    return load_search(str(out)) if (out / "search.json").exists() else None


def ended(search: Search | None) -> dict[int, tuple[object, ...]]:
    trials = search.trials if search else []
    return {t.number: (t.state, t.curve, dict(t.metrics), dict(t.params)) for t in trials if t.state != "running"}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_killed_search_goes_on(demo: Path, tmp_path: Path, number: int) -> None:
    """SIGKILL of the driver after some trials; started again, it ends, with every trial kept once."""
    out = tmp_path / "search"
    command = [*COMMAND, "tune", "--data", str(demo / "data"), "--vae", str(demo / "vae"), "--out", str(out)]
    command += ["--config", "tune_demo", "--set", f"tune.trials={TRIALS}"]
    began = time.monotonic()
    with (tmp_path / "first.log").open("w") as log:
        first = subprocess.Popen([*command, "--seed", str(number)], start_new_session=True, stderr=log)
    while len(ended(trials_of(out))) < 6 + 2 * number:
        assert first.poll() is None, (tmp_path / "first.log").read_text()[-2000:]
        time.sleep(1.0)
    kill_driver(first, within_s=600)
    search = trials_of(out)
    before, running = ended(search), [t.number for t in search.trials if t.state == "running"] if search else []
    again = subprocess.run([*command, "--seed", str(number), "--json"], capture_output=True, text=True, timeout=1500)
    assert again.returncode == 0, again.stderr[-2000:]
    result = load_search(str(out))
    states = [trial.state for trial in result.trials]
    assert [trial.number for trial in result.trials] == list(range(TRIALS))
    assert states.count("running") == 0
    assert states.count("stopped") > TRIALS / 2
    assert states.count("complete") >= 2
    after = ended(result)
    assert all(after[n] == kept for n, kept in before.items()), "a finished trial was repeated"
    points = [json.dumps(dict(trial.params), sort_keys=True) for trial in result.trials]
    assert len(set(points)) == TRIALS
    for trial in result.trials:
        epochs = [epoch for epoch, _ in trial.curve]
        assert epochs == list(range(1, len(epochs) + 1)), "an epoch is missing or counted twice"
    assert len(json.loads(again.stdout)["trials"]) == TRIALS
    counts = {state: states.count(state) for state in sorted(set(states))}
    took = time.monotonic() - began
    print(f"run {number}: killed with {len(before)} ended and {running} running; {counts}; {took:.0f} s")
