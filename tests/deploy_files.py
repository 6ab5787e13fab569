"""The deployment files, and a comparison of their keys with known ones."""

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CLUSTERS = ("cluster.yaml", "deploy/gcp.yaml")
MANIFESTS = ("deploy/kuberay/raycluster.yaml", "deploy/kuberay/rayjob.yaml", "deploy/kuberay/rayservice.yaml")
TEXTS = (*CLUSTERS, *MANIFESTS, "deploy/README.md", "deploy/Dockerfile", ".dockerignore", "serve_config.yaml")
SOURCE = "/home/ubuntu/ldm-ray/"
"""Where the repository lies on the machines of `cluster.yaml`."""
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def keys(names: str, **more: Any) -> dict[str, Any]:
    """Schema of a mapping: `names` with anything below, and others with schemas of their own."""
    return dict.fromkeys(names.split()) | more


def unknown(value: Any, schema: Any, path: str = "") -> list[str]:
    """What a schema does not have: None allows anything, a list has items of one kind."""
    if schema is None:
        return []
    if not isinstance(value, type(schema)):
        return [f"{path} is a {type(value).__name__}"]
    if isinstance(schema, list):
        return [each for n, item in enumerate(value) for each in unknown(item, schema[0], f"{path}.{n}")]
    found = [f"{path}.{key}" for key in value if key not in schema]
    return found + [
        each for key in value if key in schema for each in unknown(value[key], schema[key], f"{path}.{key}")
    ]


def changed(config: Any, path: str, value: Any = None) -> Any:
    """Set what is at a dotted path; without a value, misspell its last key."""
    config = json.loads(json.dumps(config))  # an anchor's mapping is the same object at every reference
    *parents, last = path.split(".")
    place = config
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
    place[last if value is not None else f"{last}x"] = place.pop(last, 1) if value is None else value
    return config


def manifest(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The service account and the Ray resource of a file."""
    account, resource = yaml.safe_load_all((ROOT / path).read_text())
    return account, resource
