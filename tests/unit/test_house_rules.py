"""The rules of the house that a linter cannot see."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "ldm_ray"


def modules(folder: str = "") -> list[str]:
    files = sorted((PACKAGE / folder).rglob("*.py"))
    return [".".join(("ldm_ray", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in files]


def imported_by(names: list[str], tmp_path: Path) -> set[str]:
    """Import modules in a fresh interpreter and empty folder; return what is loaded afterwards."""
    code = f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return set(run.stdout.split())


def test_data_and_chem_know_no_torch(tmp_path: Path) -> None:
    """Ray Data's tasks import these; torch would cost each of their processes seconds."""
    pretrained = {f"ldm_ray.chem.{name}" for name in ("molformer", "molformer_encoder", "hub")}
    loaded = imported_by([name for name in modules("data") + modules("chem") if name not in pretrained], tmp_path)
    assert not {"torch", "ray"} & loaded


def test_importing_everything_does_nothing(tmp_path: Path) -> None:
    names = [name for name in modules() if not name.endswith("__init__")]
    imported_by(names, tmp_path)
    assert list(tmp_path.iterdir()) == []
    check = (
        f"import importlib, ray\nfor name in {names!r}: importlib.import_module(name)\nassert not ray.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True)


def test_diffusion_and_models_know_no_files() -> None:
    for folder in ("diffusion", "models"):
        for path in (PACKAGE / folder).glob("*.py"):
            assert not imports(path) & {"os", "pathlib", "fsspec", "json", "io", "h5py", "pyarrow", "pandas"}, path


def test_diffusion_knows_no_network() -> None:
    for path in (PACKAGE / "diffusion").glob("*.py"):
        assert not {name for name in imports(path) if name.startswith(("torch.nn", "ldm_ray.models"))}, path


def imports(path: Path) -> set[str]:
    """Names of the modules that a file imports, in either form."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_sizes() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 80, (path, node.name)
