"""The image of `deploy/Dockerfile`, and what all deployment files name."""

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from tests.deploy_files import CLUSTERS, MANIFESTS, ROOT, TEXTS, manifest


def ignored(path: str) -> bool:
    """Whether `.dockerignore` hides a file from the builder: the last pattern that matches it or its folder decides."""
    parts = PurePosixPath(path).parts
    prefixes = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        if pattern.startswith("**/"):
            fits = any(fnmatch.fnmatchcase(part, pattern.removeprefix("**/")) for part in parts)
        else:
            fits = any("/" not in name and fnmatch.fnmatchcase(name, pattern) for name in prefixes)
        out = not line.startswith("!") if fits else out
    return out


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy/Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word]


def test_the_image_gets_the_files_that_it_copies() -> None:
    copied = [
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert {"pyproject.toml", "constraints.txt", "ldm_ray", "jobs"} <= set(copied)
    for source in copied:
        files = [ROOT / source] if (ROOT / source).is_file() else list((ROOT / source).rglob("*.*"))
        names = [str(file.relative_to(ROOT)) for file in files if "__pycache__" not in file.parts]
        assert names, source
        assert not [name for name in names if ignored(name)]
    assert all(ignored(name) for name in (".venv/bin/python", ".git/config", "ldm_ray/data/__pycache__/a.pyc"))


def test_the_image_has_a_python_that_will_do_and_no_root() -> None:
    bases = {rest.split()[0] for word, rest in instructions() if word == "FROM"}
    assert len(bases) == 1
    major, minor = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-\w+", bases.pop()).groups()  # type: ignore[union-attr]
    assert (int(major), int(minor)) >= (3, 11)
    (user,) = (rest for word, rest in instructions() if word == "USER")
    context = manifest(MANIFESTS[0])[1]["spec"]["headGroupSpec"]["template"]["spec"]["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    installed = next(rest for word, rest in instructions() if word == "RUN" and "apt-get" in rest)
    assert "wget" in installed.split()  # KubeRay's check of workers that serve


def test_the_image_installs_what_the_package_requires() -> None:
    (code,) = re.findall(r"python -c '(.+?)' >", " ".join(rest for word, rest in instructions() if word == "RUN"))
    environment = os.environ | {"EXTRAS": "azure,gcs"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert run.stdout.splitlines() == [*project["dependencies"], *extras["azure"], *extras["gcs"]]


# All of them.


@pytest.mark.parametrize("path", TEXTS)
def test_files_that_are_named_are_there(path: str) -> None:
    text = (ROOT / path).read_text()
    named = re.findall(r"(?<![\w/.-])(?:deploy|docs|jobs|ldm_ray|tests)/[\w./-]*\.\w+", text)
    named += re.findall(r"\b(?:cluster\.yaml|constraints\.txt|pyproject\.toml|serve_config\.yaml)\b", text)
    linked = [Path(path).parent / link for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert [name for name in [*named, *linked] if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", CLUSTERS + MANIFESTS)
def test_what_is_to_be_replaced_is_listed(path: str) -> None:
    text = (ROOT / path).read_text()
    placeholder = r"(?:ami-)?YOUR(?:-[A-Z]+)+"
    listing = re.compile(rf"^#   ({placeholder})  .*$", flags=re.MULTILINE)
    used = set(re.findall(placeholder, listing.sub("", text)))
    assert set(listing.findall(text)) == used
    assert len(listing.findall(text)) == len(used)
