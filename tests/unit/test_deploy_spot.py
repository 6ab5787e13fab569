"""`ldm_ray.cluster.spot` starts an on-demand machine where a spot machine is refused, which Ray itself does not."""

import sys
import time
import types
from collections.abc import Iterator
from typing import Any, ClassVar

import botocore.exceptions
import pytest
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.instance_manager import InstanceManager
from ray.autoscaler.v2.instance_manager.instance_storage import InstanceStorage
from ray.autoscaler.v2.instance_manager.node_provider import CloudInstance, LaunchNodeError
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.storage import InMemoryStorage
from ray.autoscaler.v2.instance_manager.subscribers.cloud_instance_updater import CloudInstanceUpdater
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import (  # type: ignore[attr-defined]  # made when it is imported
    ClusterResourceState,
    NodeState,
    NodeStatus,
    ResourceRequestByCount,
)
from ray.core.generated.instance_manager_pb2 import NodeKind  # type: ignore[attr-defined]  # likewise

from ldm_ray.cluster import spot
from tests.deploy_files import CLUSTERS, read

AWS_SPOT = {"InstanceType": "g6.2xlarge", "SubnetIds": ["a", "b"], "InstanceMarketOptions": {"MarketType": "spot"}}


class Machine:
    instance_id = id = "i-1"
    state_reason = None
    state: ClassVar = {"Name": "pending"}


class Ec2:
    """Has some spot machines and any number of others."""

    def __init__(self, code: str, spots: int = 0) -> None:
        self.code, self.spots = code, spots
        self.started: list[str] = []

    def create_instances(self, **asked: Any) -> list[Machine]:
        spot = "InstanceMarketOptions" in asked
        if spot and not self.spots:
            raise botocore.exceptions.ClientError({"Error": {"Code": self.code, "Message": "no"}}, "RunInstances")
        self.spots -= spot
        self.started.append("spot" if spot else "on-demand")
        return [Machine()]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray's own provider of AWS under ours; boto3, which it is built on, is where clusters are started only."""
    before = set(sys.modules)
    parts: dict[str, dict[str, Any]] = {
        "boto3": {"__version__": "1.43.117", "resource": lambda *_, **__: None},
        "boto3.exceptions": {"ResourceNotExistsError": Exception},
        "boto3.resources": {},
        "boto3.resources.base": {"ServiceResource": object},
    }
    for name, contents in parts.items():
        module = types.ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    spot._provider.cache_clear()
    yield spot.AwsSpotFirst({"region": "us-west-2", "cache_stopped_nodes": False}, "ldm-ray")
    spot._provider.cache_clear()
    for name in set(sys.modules) - before:
        if ".aws" in name:
            del sys.modules[name]


def test_the_rest_is_on_demand_where_spot_machines_end(aws: Any) -> None:
    aws.ec2_fail_fast = Ec2("InsufficientInstanceCapacity", spots=1)
    aws.create_node(AWS_SPOT, {"ray-user-node-type": "gpu"}, 3)
    assert aws.ec2_fail_fast.started == ["spot", "on-demand", "on-demand"]
    assert "InstanceMarketOptions" in AWS_SPOT


@pytest.mark.parametrize("code", ["MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow", "Unsupported"])
def test_quota_price_and_zone_are_reasons_too(aws: Any, code: str) -> None:
    aws.ec2_fail_fast = Ec2(code)
    aws.create_node(AWS_SPOT, {}, 1)
    assert aws.ec2_fail_fast.started == ["on-demand"]


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "InvalidAMIID.NotFound", "UnsupportedOperation"])
def test_mistakes_are_not(aws: Any, code: str) -> None:
    aws.ec2_fail_fast = Ec2(code)
    with pytest.raises(Exception, match=code):
        aws.create_node(AWS_SPOT, {}, 1)
    assert aws.ec2_fail_fast.started == []


class Google:
    """Fails as Ray's provider of Google Cloud does: with the error of the operation, in a bare Exception."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.started: list[dict[str, str]] = []

    def create_node(self, base_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        assert count == 1
        scheduling = base_config.get("scheduling", {})
        if "provisioningModel" in scheduling or self.code == "RESOURCE_NOT_FOUND":
            raise Exception({"errors": [{"code": self.code, "message": "no"}]})
        self.started.append(scheduling)
        return {str(len(self.started)): {}}


class GoogleSpotFirst(spot.SpotFirst, Google):
    pass


@pytest.mark.parametrize("name", ["gpu", "cpu"])
def test_googles_machines_stay_what_they_are_but_for_spot(name: str) -> None:
    config = read("deploy/gcp.yaml")["available_node_types"][name]["node_config"]
    provider = GoogleSpotFirst("ZONE_RESOURCE_POOL_EXHAUSTED")
    assert list(provider.create_node(config, {}, 2)) == ["1", "2"]
    assert provider.started == [{"onHostMaintenance": "TERMINATE"}] * 2
    with pytest.raises(Exception, match="RESOURCE_NOT_FOUND"):
        GoogleSpotFirst("RESOURCE_NOT_FOUND").create_node(config, {}, 1)


def test_the_files_name_what_is_there(aws: Any) -> None:
    modules = [read(path)["provider"]["module"] for path in CLUSTERS]
    assert modules == ["ldm_ray.cluster.spot.AwsSpotFirst", "ldm_ray.cluster.spot.GcpSpotFirst"]
    from ray.autoscaler._private.providers import _get_node_provider_cls

    assert type(aws) is _get_node_provider_cls(read("cluster.yaml")["provider"])
    with pytest.raises(AttributeError, match="got Azure"):
        spot.Azure  # noqa: B018


# Why it is needed.


class NoSpot:
    """A cloud without spot machines."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.errors: list[LaunchNodeError] = []

    def launch(self, shape: dict[str, int], request_id: str) -> None:
        self.asked += shape
        self.errors += [LaunchNodeError(name, count, request_id, time.time_ns()) for name, count in shape.items()]

    def poll_errors(self) -> list[LaunchNodeError]:
        errors, self.errors = self.errors, []
        return errors


def autoscaling() -> AutoscalingConfig:
    """`cluster.yaml` with Ray's own provider and a type of node for each kind of machine, as Ray's documents advise."""
    config = read("cluster.yaml")
    types = config["available_node_types"]
    gpu = types.pop("gpu") | {"node_config": {}, "resources": {"CPU": 8, "GPU": 1}}
    types |= {"gpu-spot": gpu | {"priority": 1}, "gpu-on-demand": gpu | {"priority": 0}}
    return AutoscalingConfig(config | {"provider": {"type": "aws"}}, skip_content_hash=True)


def test_ray_itself_asks_again_for_a_machine_that_was_refused() -> None:
    """When this fails, Ray has learned it: two types of node with priorities may then do without `cluster/spot.py`."""
    cloud, monitor = NoSpot(), CloudResourceMonitor()
    instances = InstanceManager(
        InstanceStorage("session", InMemoryStorage()),
        [CloudInstanceUpdater(cloud), monitor],  # type: ignore[arg-type]  # all that is asked of it here
    )
    head = NodeState(
        node_id=b"head",
        instance_id="i-head",
        ray_node_type_name="head",
        status=NodeStatus.RUNNING,
        total_resources={"node:__internal_head__": 1},
    )
    running = CloudInstance(
        cloud_instance_id="i-head", node_type="head", node_kind=NodeKind.HEAD, is_running=True, request_id=""
    )
    gpu = ResourceRequestByCount(request=ResourceRequestUtil.make({"GPU": 1}), count=1)
    scheduler = ResourceDemandScheduler()
    for _ in range(5):
        Reconciler.reconcile(
            instance_manager=instances,
            scheduler=scheduler,
            cloud_provider=cloud,  # type: ignore[arg-type]  # all that is asked of it here
            cloud_resource_monitor=monitor,
            ray_cluster_resource_state=ClusterResourceState(node_states=[head], pending_resource_requests=[gpu]),
            non_terminated_cloud_instances={"i-head": running},
            autoscaling_config=autoscaling(),
            cloud_provider_errors=list(cloud.poll_errors()),
        )
    assert len(cloud.asked) >= 2
    assert set(cloud.asked) == {"gpu-spot"}
    assert monitor.get_recoverable_resource_availabilities() == {}
