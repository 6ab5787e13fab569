"""The manifests of `deploy/kuberay/` say what KubeRay takes, which ignores a misspelt key."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ldm_ray.config import shipped_configs
from tests.deploy_files import CONSTRAINTS, MANIFESTS, ROOT, changed, keys, manifest, unknown

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
    assert options["--config"] in shipped_configs()
    assert unknown(yaml.safe_load(spec["runtimeEnvYAML"]), keys("env_vars working_dir excludes")) == []
    assert spec["entrypointNumCpus"] >= 1  # or the driver would run on the head
