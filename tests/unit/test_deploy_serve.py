"""`serve_config.yaml` and its copy for Kubernetes say what Serve takes: it ignores most misspelt keys."""

import copy
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from ldm_ray.cluster.serve.app import ServeArguments
from tests.deploy_files import (
    changed,
    keys,
    manifest,
    read,
    unknown,
)
from tests.serve_keys import unknown_keys


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
