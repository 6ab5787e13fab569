"""Machines for Ray's cluster launcher: spot ones, and on-demand ones where no spot machine is to be had.

`cluster.yaml` names `AwsSpotFirst`, `deploy/gcp.yaml` `GcpSpotFirst`, as provider of type `external`. By itself Ray
2.60 asks for a spot machine that is refused again and again, whatever other type of node there is: its autoscaler
prefers another type only after a machine that was given did not start.
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
"""What EC2 and Google say where capacity, quota or price stand against a spot machine; other errors are mistakes."""


def on_demand(node_config: dict[str, Any]) -> dict[str, Any]:
    """Return a machine's configuration without what makes it a spot machine, on AWS or Google Cloud."""
    config = {key: value for key, value in node_config.items() if key != "InstanceMarketOptions"}
    if "scheduling" in config:
        spot_only = ("provisioningModel", "instanceTerminationAction")
        config["scheduling"] = {key: value for key, value in config["scheduling"].items() if key not in spot_only}
    return config


class SpotFirst:
    """Asks a node provider of Ray, which is named after it among a class's bases, for spot machines first."""

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Start machines, one by one: where there are some spot machines but not enough, the rest is on-demand.

        Args:
            node_config: What `cluster.yaml` says of the type of node.
            tags: Ray's own; they name the type of node, which stays the same.
            count: How many.

        Returns:
            What the cloud says of each, by its id.
        """
        created: dict[str, Any] = {}
        for _ in range(count):
            created |= self._create_one(node_config, tags)
        return created

    def _create_one(self, node_config: dict[str, Any], tags: dict[str, str]) -> dict[str, Any]:
        create = super().create_node  # type: ignore[misc]  # of the provider after this class
        try:
            return create(node_config, tags, 1) or {}
        except Exception as error:
            instead = on_demand(node_config)
            if instead == node_config or not NOT_TO_BE_HAD.search(str(error)):
                raise
            logger.warning("No spot machine is to be had, so an on-demand one is asked for: %s", error)
        return create(instead, tags, 1) or {}


@cache
def _provider(name: str) -> type:
    # Each needs a package of its cloud, which is there where clusters are started and nowhere else.
    provider: type
    if name == "AwsSpotFirst":
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider as provider
    else:
        from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider as provider
    return type(name, (SpotFirst, provider), {"__module__": __name__})


def __getattr__(name: str) -> type:
    """Build a provider when Ray asks for it by its name."""
    if name in {"AwsSpotFirst", "GcpSpotFirst"}:
        return _provider(name)
    raise AttributeError(f"{__name__} has AwsSpotFirst and GcpSpotFirst; got {name}")
