"""The deployment files say what Ray, the clouds and KubeRay take: most of them ignore a misspelt key."""

import copy
import fnmatch
import functools
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from ldm_ray.ray_serve import ServeArguments
from tests.serve_keys import unknown_keys

ROOT = Path(__file__).parents[2]
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
    config = json.loads(json.dumps(config))  # an anchor's mapping is one object wherever it stands
    *parents, last = path.split(".")
    place = config
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
    place[last if value is not None else f"{last}x"] = place.pop(last, 1) if value is None else value
    return config


# The cluster launcher.

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
    """What is wrong with a cluster: by Ray's word, in its provider, and in what Ray hands on to the cloud."""
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except (ValueError, jsonschema.ValidationError) as error:
        return [str(error).partition("\n")[0]]
    providers = keys("availability_zone cache_stopped_nodes project_id region security_group type use_internal_ips")
    errors = unknown(config["provider"], providers, "provider")
    for name, node in config["available_node_types"].items():
        if config["provider"]["type"] == "aws":
            errors += ec2_errors(node["node_config"], run_instances(), name)
        else:
            errors += unknown(node["node_config"], GCP_INSTANCE, name)
    return errors


@pytest.mark.parametrize("path", CLUSTERS)
def test_clusters_are_what_ray_and_the_clouds_take(path: str) -> None:
    """Whether accounts, images, zones and Google's machine types exist is not checked."""
    assert cluster_errors(read(path)) == []


NODE = "available_node_types.gpu-spot"


@pytest.mark.parametrize(
    ("path", "where", "value", "says"),
    [
        ("cluster.yaml", "max_workers", None, "'max_workersx' was unexpected"),
        ("cluster.yaml", "head_node_type", "heads", "`head_node_type` must be one of"),
        ("cluster.yaml", f"{NODE}.min_workers", None, "'min_workersx' was unexpected"),
        ("cluster.yaml", f"{NODE}.min_workers", 15, "smaller than the sum of `min_workers`"),
        ("cluster.yaml", "auth.ssh_user", None, "'ssh_userx' was unexpected"),
        ("cluster.yaml", "provider.region", None, "provider.regionx"),
        ("cluster.yaml", f"{NODE}.node_config.InstanceType", None, "gpu-spot.InstanceTypex"),
        ("cluster.yaml", f"{NODE}.node_config.InstanceType", "g6.2xlargest", "gpu-spot.InstanceType is g6.2xlargest"),
        ("cluster.yaml", f"{NODE}.node_config.InstanceMarketOptions.MarketType", None, "MarketTypex"),
        ("cluster.yaml", f"{NODE}.node_config.InstanceMarketOptions.MarketType", "spots", "MarketType is spots"),
        ("cluster.yaml", f"{NODE}.node_config.BlockDeviceMappings.0.Ebs.VolumeSize", None, "0.Ebs.VolumeSizex"),
        ("deploy/gcp.yaml", "idle_timeout_minutes", None, "'idle_timeout_minutesx' was unexpected"),
        ("deploy/gcp.yaml", "head_node_type", "heads", "`head_node_type` must be one of"),
        ("deploy/gcp.yaml", f"{NODE}.priority", None, "'priorityx' was unexpected"),
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


# KubeRay. Fields of the ray.io/v1 API of KubeRay 1.6.2 (docs/reference/api.md of that release), all of them, and of
# pods those that we use.

RESOURCES = keys("requests limits")
REFERENCE = keys("", secretKeyRef=keys("name key optional"))
CONTAINER = keys(
    "name image imagePullPolicy workingDir",
    env=[keys("name value", valueFrom=REFERENCE)],
    ports=[keys("name containerPort")],
    resources=RESOURCES,
    securityContext=keys("allowPrivilegeEscalation"),
)
POD = keys(
    "nodeSelector restartPolicy serviceAccountName terminationGracePeriodSeconds",
    containers=[CONTAINER],
    securityContext=keys("runAsNonRoot runAsUser runAsGroup fsGroup"),
    tolerations=[keys("key operator effect value")],
)
TEMPLATE = keys("", metadata=keys("annotations labels"), spec=POD)
HEAD = keys("headService enableIngress resources labels rayStartParams serviceType", template=TEMPLATE)
WORKERS = keys(
    "suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds resources labels rayStartParams"
    " scaleStrategy numOfHosts",
    template=TEMPLATE,
)
CLUSTER = keys(
    "suspend managedBy headServiceAnnotations enableInTreeAutoscaling rayVersion",
    upgradeStrategy=keys("type"),
    authOptions=keys("enableK8sTokenAuth secretName mode"),
    autoscalerOptions=keys(
        "image imagePullPolicy securityContext idleTimeoutSeconds upscalingMode version env envFrom volumeMounts",
        resources=RESOURCES,
    ),
    gcsFaultToleranceOptions=keys(
        "redisUsername externalStorageNamespace redisAddress", redisPassword=keys("value", valueFrom=REFERENCE)
    ),
    headGroupSpec=HEAD,
    workerGroupSpecs=[WORKERS],
)
JOB = keys(
    "activeDeadlineSeconds backoffLimit submitterPodTemplate metadata clusterSelector managedBy deletionStrategy"
    " entrypoint runtimeEnvYAML jobId submissionMode entrypointResources entrypointNumCpus entrypointNumGpus"
    " ttlSecondsAfterFinished preRunningDeadlineSeconds shutdownAfterJobFinishes suspend",
    rayClusterSpec=CLUSTER,
    submitterConfig=keys("backoffLimit"),
)
SERVICE = keys(
    "rayClusterDeletionDelaySeconds serveService managedBy serveConfigV2 excludeHeadPodFromServeSvc",
    upgradeStrategy=keys("type clusterUpgradeOptions"),
    rayClusterConfig=CLUSTER,
)
KINDS = {"RayCluster": CLUSTER, "RayJob": JOB, "RayService": SERVICE}
METADATA = keys("name namespace annotations labels")
ACCOUNT = keys("apiVersion kind", metadata=METADATA)
CONTAINER_RESOURCES = {"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"}
QUANTITY = re.compile(r"\d+(m|[KMGT]i)?")


def manifest(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The service account and the Ray resource of a file."""
    account, resource = yaml.safe_load_all((ROOT / path).read_text())
    return account, resource


def manifest_errors(resource: dict[str, Any]) -> list[str]:
    schema = keys("apiVersion kind", metadata=METADATA, spec=KINDS[resource["kind"]])
    return unknown(resource, schema, resource["kind"])


def cluster_of(resource: dict[str, Any]) -> dict[str, Any]:
    below = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(resource["kind"])
    cluster: dict[str, Any] = resource["spec"][below] if below else resource["spec"]
    return cluster


def pods(resource: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = cluster_of(resource)
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("path", MANIFESTS)
def test_manifests_are_what_kuberay_takes(path: str) -> None:
    account, resource = manifest(path)
    assert (account["apiVersion"], account["kind"]) == ("v1", "ServiceAccount")
    assert unknown(account, ACCOUNT) == []
    assert resource["apiVersion"] == "ray.io/v1"
    assert resource["kind"].lower() == Path(path).stem
    assert manifest_errors(resource) == []
    cluster = cluster_of(resource)
    assert cluster["rayVersion"] == re.findall(r"^ray==(.+)$", CONSTRAINTS, flags=re.MULTILINE)[0]
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == ["gpu", "cpu"]
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("raycluster", "metadata.name"),
        ("raycluster", "spec.workerGroupSpecs"),
        ("raycluster", "spec.workerGroupSpecs.0.maxReplicas"),
        ("raycluster", "spec.gcsFaultToleranceOptions.redisAddress"),
        ("raycluster", "spec.gcsFaultToleranceOptions.redisPassword.valueFrom.secretKeyRef.key"),
        ("raycluster", "spec.headGroupSpec.template.spec.containers.0.resources.limits"),
        ("raycluster", "spec.workerGroupSpecs.1.template.spec.serviceAccountName"),
        ("rayjob", "spec.rayClusterSpec"),
        ("rayjob", "spec.shutdownAfterJobFinishes"),
        ("rayjob", "spec.rayClusterSpec.autoscalerOptions.idleTimeoutSeconds"),
        ("rayservice", "spec.serveConfigV2"),
        ("rayservice", "spec.rayClusterConfig.authOptions.mode"),
        ("rayservice", "spec.rayClusterConfig.workerGroupSpecs.0.template.spec.tolerations.0.effect"),
    ],
)
def test_misspelt_fields_of_manifests_are_found(path: str, where: str) -> None:
    _, resource = manifest(f"deploy/kuberay/{path}.yaml")
    assert manifest_errors(changed(resource, where)) == [f"{resource['kind']}.{where}x"]


@pytest.mark.parametrize("path", MANIFESTS)
def test_pods_get_what_they_ask_for(path: str) -> None:
    """Ray counts on the limits, so requests are the same; a group that is called gpu has one."""
    account, resource = manifest(path)
    for pod, group in zip(pods(resource), ("head", "gpu", "cpu"), strict=True):
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        (container,) = pod["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert {"cpu", "memory"} <= set(resources["limits"]) <= CONTAINER_RESOURCES
        assert all(QUANTITY.fullmatch(quantity) for quantity in resources["limits"].values())
        assert ("nvidia.com/gpu" in resources["limits"]) == (group == "gpu") == bool(pod.get("tolerations"))
    options = cluster_of(resource)["autoscalerOptions"]["resources"]
    assert options["requests"] == options["limits"]


def test_manifests_agree() -> None:
    accounts = [manifest(path)[0] for path in MANIFESTS]
    assert accounts[0] == accounts[1] == accounts[2]
    containers = [pod["containers"][0] for path in MANIFESTS for pod in pods(manifest(path)[1])]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {container["image"] for container in containers} == {f"YOUR-REGISTRY/ldm-ray:{version}"}
    names = [manifest(path)[1]["metadata"]["name"] for path in MANIFESTS]
    assert len(set(names)) == 3  # services are named after them
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name) for name in names)


def test_manifests_hold_no_secret() -> None:
    for path in MANIFESTS:
        _, resource = manifest(path)
        assert not [env for pod in pods(resource) for env in pod["containers"][0].get("env", []) if "value" in env]
        assert "value" not in cluster_of(resource).get("gcsFaultToleranceOptions", {}).get("redisPassword", {})


def test_the_job_runs_what_is_there() -> None:
    spec = manifest("deploy/kuberay/rayjob.yaml")[1]["spec"]
    program, script, *arguments = shlex.split(spec["entrypoint"])
    assert (program, script) == ("python", "jobs/pipeline.py")
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options["--out"] == "s3://YOUR-BUCKET/run"
    assert (ROOT / script).is_file()
    assert (ROOT / options["--config"]).is_file()
    assert unknown(yaml.safe_load(spec["runtimeEnvYAML"]), keys("env_vars working_dir excludes")) == []
    assert spec["entrypointNumCpus"] >= 1  # or the driver would run on the head


# Serve.


def served() -> Any:
    return yaml.safe_load(manifest("deploy/kuberay/rayservice.yaml")[1]["spec"]["serveConfigV2"])


def application(settings: Any) -> Any:
    """Settings without what a place decides: URLs of bundles and resources."""
    settings = copy.deepcopy(settings)
    (one,) = settings["applications"]
    one["args"]["bundles"] = list(one["args"]["bundles"])
    for deployment in one["deployments"]:
        del deployment["ray_actor_options"]
        if "user_config" in deployment:
            deployment["user_config"]["bundles"] = list(deployment["user_config"]["bundles"])
    return settings


def test_the_service_serves_the_same_application() -> None:
    assert application(served()) == application(read("serve_config.yaml"))


@pytest.mark.parametrize("settings", [read("serve_config.yaml"), served()], ids=["serve_config.yaml", "rayservice"])
def test_the_shipped_settings_are_what_serve_knows(settings: Any) -> None:
    ServeDeploySchema(**copy.deepcopy(settings))
    assert unknown_keys(settings) == []
    for one in settings["applications"]:
        ServeArguments(**one["args"])
        assert [deployment["name"] for deployment in one["deployments"]] == ["api", "encoder", "sampler"]
        (told,) = (deployment["user_config"] for deployment in one["deployments"] if "user_config" in deployment)
        assert told["bundles"] == one["args"]["bundles"]
        assert unknown(told, keys("bundles version")) == []


DEPLOYMENT = "applications.0.deployments.0"
SILENT = (
    "proxy_location",
    "http_options.request_timeout_s",
    "grpc_options.port",
    "applications.0.route_prefix",
    f"{DEPLOYMENT}.max_ongoing_requests",
    f"{DEPLOYMENT}.health_check_period_s",
    f"{DEPLOYMENT}.ray_actor_options.num_cpus",
    f"{DEPLOYMENT}.autoscaling_config.min_replicas",
)
LOUD = ("logging_config.encoding", "tracing_config.enabled", f"{DEPLOYMENT}.logging_config.log_level")


@pytest.mark.parametrize("where", SILENT + LOUD)
def test_misspelt_settings_of_serve_are_found(where: str) -> None:
    assert unknown_keys(changed(read("serve_config.yaml"), where)) == [f"{where}x"]


@pytest.mark.parametrize("where", SILENT)
def test_serve_itself_takes_them(where: str) -> None:
    """Why `unknown_keys` is there."""
    ServeDeploySchema(**changed(read("serve_config.yaml"), where))


# The image.


def ignored(path: str) -> bool:
    """Whether `.dockerignore` keeps a file from the builder: the last pattern that fits it or a folder of it says."""
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
    context = pods(manifest(MANIFESTS[0])[1])[0]["securityContext"]
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
