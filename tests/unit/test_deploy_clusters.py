"""`cluster.yaml` and `deploy/gcp.yaml` say what Ray and the clouds take: both ignore most misspelt keys."""

import copy
import functools
import json
import re
import tomllib
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from ray.autoscaler._private.providers import _get_default_config
from ray.autoscaler._private.util import prepare_config, validate_config

from ldm_ray.cluster.spot import on_demand
from tests.deploy_files import (
    CLUSTERS,
    CONSTRAINTS,
    ROOT,
    SOURCE,
    changed,
    keys,
    read,
    unknown,
)

GCP_DISK = keys(
    "autoDelete boot deviceName diskSizeGb interface mode source type",
    initializeParams=keys("description diskName diskSizeGb diskType labels provisionedIops sourceImage storagePool"),
)
GCP_INSTANCE = keys(
    "canIpForward description labels machineType metadata minCpuPlatform networkInterfaces shieldedInstanceConfig tags",
    disks=[GCP_DISK],
    guestAccelerators=[keys("acceleratorCount acceleratorType")],
    scheduling=keys("automaticRestart instanceTerminationAction maxRunDuration onHostMaintenance provisioningModel"),
    serviceAccounts=[keys("email scopes")],
)
"""Fields of an instance, of those we may use: Google's discovery document of compute v1, revision 20261106."""


@functools.cache
def run_instances() -> Shape:
    service = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")
    return service.operation_model("RunInstances").input_shape


def ec2_errors(value: Any, shape: Shape, path: str) -> list[str]:
    """What EC2's RunInstances would refuse: names of fields and choices of words, at every level."""
    if shape.type_name == "list":
        return [each for n, item in enumerate(value) for each in ec2_errors(item, shape.member, f"{path}.{n}")]
    if shape.type_name != "structure":
        choices = getattr(shape, "enum", None)
        return [f"{path} is {value}"] if choices and value not in choices else []
    found = [f"{path}.{key}" for key in value if key not in shape.members]
    below = [ec2_errors(value[key], shape.members[key], f"{path}.{key}") for key in value if key in shape.members]
    return found + [each for errors in below for each in errors]


def cluster_errors(config: dict[str, Any]) -> list[str]:
    """Errors of a cluster file: by Ray's check, in its provider, and in what Ray passes to the cloud."""
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except (ValueError, AssertionError, jsonschema.ValidationError) as error:
        return [str(error).partition("\n")[0]]
    names = "availability_zone cache_stopped_nodes module project_id region security_group type use_internal_ips"
    errors = unknown(config["provider"], keys(names), "provider")
    for name, node in config["available_node_types"].items():
        if config["provider"]["module"].endswith(".AwsSpotFirst"):
            errors += ec2_errors(node["node_config"], run_instances(), name)
        else:
            errors += unknown(node["node_config"], GCP_INSTANCE, name)
    return errors


@pytest.mark.parametrize("path", CLUSTERS)
def test_clusters_are_what_ray_and_the_clouds_take(path: str) -> None:
    """Whether accounts, images, zones and Google's machine types exist is not checked."""
    assert cluster_errors(read(path)) == []


NODE = "available_node_types.gpu"


@pytest.mark.parametrize(
    ("path", "where", "value", "says"),
    [
        ("cluster.yaml", "max_workers", None, "Global max workers should be set"),
        ("cluster.yaml", "head_node_type", "heads", "`head_node_type` must be one of"),
        ("cluster.yaml", f"{NODE}.min_workers", None, "'min_workersx' was unexpected"),
        ("cluster.yaml", f"{NODE}.min_workers", 15, "smaller than the sum of `min_workers`"),
        ("cluster.yaml", "auth.ssh_user", None, "'ssh_userx' was unexpected"),
        ("cluster.yaml", "provider.region", None, "provider.regionx"),
        ("cluster.yaml", f"{NODE}.node_config.InstanceType", None, "gpu.InstanceTypex"),
        ("cluster.yaml", f"{NODE}.node_config.InstanceType", "g6.2xlargest", "gpu.InstanceType is g6.2xlargest"),
        ("cluster.yaml", f"{NODE}.node_config.InstanceMarketOptions.MarketType", None, "MarketTypex"),
        ("cluster.yaml", f"{NODE}.node_config.InstanceMarketOptions.MarketType", "spots", "MarketType is spots"),
        ("cluster.yaml", f"{NODE}.node_config.BlockDeviceMappings.0.Ebs.VolumeSize", None, "0.Ebs.VolumeSizex"),
        ("deploy/gcp.yaml", "idle_timeout_minutes", None, "'idle_timeout_minutesx' was unexpected"),
        ("deploy/gcp.yaml", "head_node_type", "heads", "`head_node_type` must be one of"),
        ("deploy/gcp.yaml", f"{NODE}.max_workers", None, "'max_workersx' was unexpected"),
        ("deploy/gcp.yaml", f"{NODE}.node_config.scheduling.provisioningModel", None, "scheduling.provisioningModelx"),
        (
            "deploy/gcp.yaml",
            f"{NODE}.node_config.disks.0.initializeParams.diskType",
            None,
            "initializeParams.diskTypex",
        ),
    ],
)
def test_mistakes_in_clusters_are_found(path: str, where: str, value: Any, says: str) -> None:
    (error,) = cluster_errors(changed(read(path), where, value))
    assert says in error


@pytest.mark.parametrize("where", ["provider.region", f"{NODE}.node_config.InstanceType"])
def test_ray_itself_looks_into_neither(where: str) -> None:
    """Why `cluster_errors` does."""
    validate_config(prepare_config(changed(read("cluster.yaml"), where)))


@pytest.mark.parametrize(("path", "cloud"), list(zip(CLUSTERS, ("aws", "gcp"), strict=True)))
def test_nothing_is_missing_of_what_ray_says_itself_for_its_own_providers(path: str, cloud: str) -> None:
    """For a provider of type `external` it has no defaults, and `ray up` would end with a KeyError."""
    config, ray_says = read(path), _get_default_config({"type": cloud})
    assert set(ray_says) - set(config) <= {"docker"}
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert [line.split() for line in config[name]] == [line.split() for line in ray_says[name]]


@pytest.mark.parametrize("path", CLUSTERS)
def test_jobs_have_a_machine_that_is_not_taken_away(path: str) -> None:
    types = read(path)["available_node_types"]
    (name,) = (name for name, node in types.items() if "driver" in node["resources"])
    assert types[name]["resources"] == {"CPU": 0, "driver": 1}
    assert on_demand(types[name]["node_config"]) == types[name]["node_config"]
    assert on_demand(types["gpu"]["node_config"]) != types["gpu"]["node_config"]
    text = (ROOT / path).read_text()
    (asked,) = re.findall(r"ray job submit [^']*--entrypoint-resources '(.*?)'", text)
    assert list(json.loads(asked)) == ["driver"]


@pytest.mark.parametrize("path", CLUSTERS)
def test_what_machines_are_set_up_with_is_there(path: str) -> None:
    config = read(path)
    mounts = {there: here for there, here in config["file_mounts"].items() if there.startswith(SOURCE)}
    assert {there.removeprefix(SOURCE) for there in mounts} == set(mounts.values())
    assert all((ROOT / here).exists() for here in mounts.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "ldm_ray", project["readme"], *project["license-files"]} <= set(mounts.values())
    named = re.findall(rf"{SOURCE}(\S*)", " ".join(config["setup_commands"] + config["head_setup_commands"]))
    assert "constraints.txt" in named
    assert {name for name in named if name} <= set(mounts.values())
    extras = re.findall(r"ldm-ray\[(\w+)\]", " ".join(config["setup_commands"]))
    assert set(extras) <= set(project["optional-dependencies"])


def test_constraints_suit_every_build_of_torch() -> None:
    """A local version (+cpu) is on no ordinary index; without one, pip takes whichever build is to be had."""
    assert re.search(r"^torch==[\d.]+$", CONSTRAINTS, flags=re.MULTILINE)
    assert "+" not in CONSTRAINTS
