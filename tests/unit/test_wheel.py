"""The package as others install it: what its wheel holds, and that it works without the repository."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
