"""Machines for Ray's cluster launcher: spot machines, or on-demand machines if no spot machine is available.

`cluster.yaml` names `AwsSpotFirst` and `deploy/gcp.yaml` `GcpSpotFirst` as their provider of type `external`. Without
them Ray 2.60 asks for a refused spot machine again and again, whatever other node types there are: its autoscaler
tries another type only after a machine was granted but did not start.
"""

import logging
import re
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)

NOT_TO_BE_HAD = re.compile(
    r"\b(InsufficientInstanceCapacity|InsufficientCapacity|UnfulfillableCapacity|Unsupported"
    r"|MaxSpotInstanceCountExceeded|SpotMaxPriceTooLow"
    r"|ZONE_RESOURCE_POOL_EXHAUSTED(_WITH_DETAILS)?|STOCKOUT|QUOTA_EXCEEDED|quotaExceeded)\b"
)
"""What EC2 and Google answer if capacity, quota or price rule out a spot machine; other errors are mistakes."""


def on_demand(node_config: dict[str, Any]) -> dict[str, Any]:
    """Return a machine's configuration without its spot options, on AWS or Google Cloud."""
    config = {key: value for key, value in node_config.items() if key != "InstanceMarketOptions"}
    if "scheduling" in config:
        spot_only = ("provisioningModel", "instanceTerminationAction")
        config["scheduling"] = {key: value for key, value in config["scheduling"].items() if key not in spot_only}
    return config


class SpotFirst:
    """Asks one of Ray's node providers, the next base class, for spot machines first."""

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Start machines one by one, so that on-demand machines make up for missing spot machines.

        Args:
            node_config: Configuration of the node type in `cluster.yaml`.
            tags: Ray's tags; they name the node type, which stays the same.
            count: Number of machines.

        Returns:
            The cloud's description of each machine, by id.
        """
        created: dict[str, Any] = {}
        for _ in range(count):
            created |= self._create_one(node_config, tags)
        return created

    def _create_one(self, node_config: dict[str, Any], tags: dict[str, str]) -> dict[str, Any]:
        create = super().create_node  # type: ignore[misc]  # the provider's, next in the bases
        try:
            return create(node_config, tags, 1) or {}
        except Exception as error:
            instead = on_demand(node_config)
            if instead == node_config or not NOT_TO_BE_HAD.search(str(error)):
                raise
            logger.warning("No spot machine is available, asking for an on-demand machine: %s", error)
        return create(instead, tags, 1) or {}


@cache
def _provider(name: str) -> type:
    # Each needs its cloud's package, which is installed only where clusters are started.
    provider: type
    if name == "AwsSpotFirst":
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider as provider
    else:
        from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider as provider
    return type(name, (SpotFirst, provider), {"__module__": __name__})


def __getattr__(name: str) -> type:
    """Build a provider when Ray asks for it by name."""
    if name in {"AwsSpotFirst", "GcpSpotFirst"}:
        return _provider(name)
    raise AttributeError(f"{__name__} has AwsSpotFirst and GcpSpotFirst; got {name}")
