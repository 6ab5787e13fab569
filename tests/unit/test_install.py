"""How the package is installed: what its wheel holds, and that the lock is complete."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

TORCHS_OWN = ("nvidia-", "cuda-", "triton")
"""What torch needs on Linux, of the versions that it names itself."""


def test_the_lock_has_all_that_anything_needs() -> None:
    """`make install` takes it without dependencies."""
    lines = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]
    lock = {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in lines}
    assert len(lock) == len(lines)
    text = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, build = text["project"], text["build-system"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"], *build["requires"]]
    left, seen = [Requirement(line) for line in asked], set()
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if name.startswith(TORCHS_OWN) or (name, *sorted(wanted.extras)) in seen:
            continue
        seen.add((name, *sorted(wanted.extras)))
        assert name in lock, wanted
        assert wanted.specifier.contains(lock[name], prereleases=True), (wanted, lock[name])
        for line in map(Requirement, requires(name) or []):
            if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                left.append(line)
    assert lock.keys() == {name for name, *_ in seen} | {"pip"}


def test_the_wheel_is_the_whole_package_and_nothing_else(tmp_path: Path) -> None:
    source, unpacked, empty = (tmp_path / name for name in ("source", "unpacked", "empty"))
    shutil.copytree(ROOT / "ldm_ray", source / "ldm_ray", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "unit", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wanted = {str(path.relative_to(source)) for path in (source / "ldm_ray").rglob("*") if path.is_file()}

    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, *build, str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(unpacked)
    assert held == wanted
    assert {f"ldm_ray/{name}" for name in (
        "py.typed", "configs/demo.yaml", "pages/templates/report.html.j2", "serving/web/index.html"
    )} <= held  # fmt: skip

    code = "from ldm_ray import config; print(config.__file__, config.load_config('demo').predict.steps)"
    empty.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env={"PYTHONPATH": str(unpacked)}, capture_output=True, text=True
    )
    assert run.stderr == ""
    file, steps = run.stdout.split()
    assert Path(file).is_relative_to(unpacked)
    assert int(steps) == 25  # the demo's; 50 by default
