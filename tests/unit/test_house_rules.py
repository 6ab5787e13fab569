"""The house rules that a linter cannot check."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ldm_ray

PACKAGE = Path(__file__).parents[2] / "ldm_ray"


def modules(folder: str = "") -> list[str]:
    files = sorted((PACKAGE / folder).rglob("*.py"))
    return [".".join(("ldm_ray", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in files]


def imported_by(names: list[str], tmp_path: Path, check: str = "") -> set[str]:
    """Import modules in a fresh interpreter and empty folder; return what is loaded afterwards, and check it there."""
    code = f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\nprint(*sys.modules)\n{check}"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return set(run.stdout.split())


def test_data_and_chem_know_no_torch(tmp_path: Path) -> None:
    """Ray Data's tasks import these; torch would cost each of their processes seconds."""
    pretrained = {f"ldm_ray.chem.{name}" for name in ("molformer", "molformer_encoder", "hub")}
    loaded = imported_by([name for name in modules("data") + modules("chem") if name not in pretrained], tmp_path)
    assert not {"torch", "ray"} & loaded


SLOW = {"torch", "ray", "pandas", "scipy", "sklearn", "rdkit", "anndata", "matplotlib"}
"""Seconds of import, all together."""
UNKNOWN_KEY = "--set vae.kl_wait=1"
REFUSED = (
    "predict",
    "predict --bundle b",
    "predict --bundle nowhere --smiles C --cell A --dose-um 1 --time-h 1",
    "serve --bundle nowhere",
    "status nowhere",
    "runs nowhere",
    "train baseline --kind gan --data d --out x",
    "train vae --data d --out x --resume --overwrite",
    "evaluate --ic50 --bundle nowhere --gdsc g --basal-profiles b --out x",
    "train vae --data nowhere --out x",
    "train vae --data d --out x --folds 2",
    "train ldm --data nowhere --vae v --out x",
    "train baseline --kind prnet --data nowhere --out x",
    "tune --data nowhere --out x",
    "embed --data nowhere",
    "reproduce --data nowhere --out x",
    "reproduce --data d --out x --ic50 g",
    "evaluate --data nowhere --bundle b --out x",
    "bench samplers --data nowhere --bundle b",
    "data describe nowhere",
    "data validate nowhere",
    "demo --config nowhere",
    "demo --config nowhere.yaml",
    f"simulate --out x {UNKNOWN_KEY}",
    f"prepare --out x {UNKNOWN_KEY}",
    f"pipeline --out x {UNKNOWN_KEY}",
    f"serve --bundle b {UNKNOWN_KEY}",
    f"status x {UNKNOWN_KEY}",
    f"runs x {UNKNOWN_KEY}",
    f"data migrate x {UNKNOWN_KEY}",
    f"data resplit x --unseen cell --out y {UNKNOWN_KEY}",
    f"data gdsc x --table t {UNKNOWN_KEY}",
)


def test_what_is_refused_is_refused_before_slow_imports(tmp_path: Path) -> None:
    code = f"""
import sys
from ldm_ray.cli.app import main
for line in {REFUSED!r}:
    sys.argv = ["ldm-ray", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert end.code == 2, line
    else:
        raise AssertionError(line)
    slow = {SLOW!r} & sys.modules.keys()
    assert not slow, (line, slow)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_front_door_opens_when_somebody_knocks(tmp_path: Path) -> None:
    assert {name for name in imported_by(["ldm_ray"], tmp_path) if name.startswith("ldm_ray")} == {"ldm_ray"}
    from ldm_ray.prediction.predictor import Predictor
    from ldm_ray.prediction.queries import Query
    from ldm_ray.serving.client import Client

    assert (ldm_ray.Predictor, ldm_ray.Query, ldm_ray.Client) == (Predictor, Query, Client)
    assert set(ldm_ray.__all__) <= set(dir(ldm_ray))
    with pytest.raises(AttributeError, match="module 'ldm_ray' has no attribute 'Predicter'"):
        ldm_ray.Predicter  # type: ignore[attr-defined]  # noqa: B018


def test_importing_everything_does_nothing(tmp_path: Path) -> None:
    names = [name for name in modules() if not name.endswith("__init__")]
    imported_by(names, tmp_path, "import ray\nassert not ray.is_initialized()")
    assert list(tmp_path.iterdir()) == []


def test_diffusion_and_models_know_no_files() -> None:
    for folder in ("diffusion", "models"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert not imports(path) & {"os", "pathlib", "fsspec", "json", "io", "h5py", "pyarrow", "pandas"}, path


def test_diffusion_knows_no_network() -> None:
    for path in (PACKAGE / "diffusion").rglob("*.py"):
        assert not {name for name in imports(path) if name.startswith(("torch.nn", "ldm_ray.models"))}, path


def test_the_package_fits_on_a_screen() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 12
    assert not [path for path in PACKAGE.rglob("*.py") if path.name.startswith(("ray_", "cli_"))]


def ray_outside_the_edge(package: Path) -> list[str]:
    """Files that import Ray and do not lie in cluster/."""
    return [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] != "cluster"
        and any(name.split(".")[0] == "ray" for name in imports(path))
    ]


def formulas_at_the_edge(package: Path) -> list[str]:
    """Files of cluster/ that import what computes."""
    computing = ("ldm_ray.diffusion", "ldm_ray.models")
    return [
        str(path.relative_to(package))
        for path in (package / "cluster").rglob("*.py")
        if any(name.startswith(computing) for name in imports(path))
    ]


def loops_between_folders(package: Path) -> list[list[str]]:
    """Groups of folders that import each other, directly or by way of others; subfolders count by themselves."""
    graph: dict[str, set[str]] = {}
    files = {module_of(path, package): path for path in package.rglob("*.py")}
    for name, path in files.items():
        for target in imports(path):
            if target.startswith("ldm_ray.") and folder_of(target, files) != folder_of(name, files):
                graph.setdefault(folder_of(name, files), set()).add(folder_of(target, files))
    reached = {folder: reachable(graph, folder) for folder in graph}
    return sorted(
        {tuple(sorted({folder} | {other for other in reached[folder] if folder in reached.get(other, ())}))
         for folder in graph if folder in reached[folder]}
    )  # fmt: skip


def module_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(("ldm_ray", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def folder_of(module: str, files: dict[str, Path]) -> str:
    """The folder of a module; modules beside the folders are each a room of their own."""
    path = files.get(module)
    if path is None or path.name == "__init__.py":
        return module
    parent = module.rpartition(".")[0]
    return module if parent == "ldm_ray" else parent


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen


def test_the_rooms_are_apart() -> None:
    assert ray_outside_the_edge(PACKAGE) == []
    assert formulas_at_the_edge(PACKAGE) == []
    assert loops_between_folders(PACKAGE) == []


@pytest.mark.parametrize(
    ("where", "line", "check"),
    [
        ("workflows/demo.py", "import ray", ray_outside_the_edge),
        ("training/loop.py", "from ray.train import report", ray_outside_the_edge),
        ("cluster/train/worker.py", "from ldm_ray.models.vae import Vae", formulas_at_the_edge),
        ("cluster/pool.py", "from ldm_ray.diffusion import schedule", formulas_at_the_edge),
        ("storage/store.py", "from ldm_ray.data.dataset import open_dataset", loops_between_folders),
        ("evaluation/scores/wells.py", "from ldm_ray.evaluation.suite import evaluate", loops_between_folders),
    ],
)
def test_a_planted_import_is_found(
    where: str, line: str, check: Callable[[Path], list[object]], tmp_path: Path
) -> None:
    copy = tmp_path / "ldm_ray"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert not check(copy)
    path = copy / where
    path.write_text(f"{line}\n{path.read_text()}")
    assert check(copy)


def imports(path: Path) -> set[str]:
    """Names of the modules that a file imports, in either form, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_sizes() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 80, (path, node.name)
