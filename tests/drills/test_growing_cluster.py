"""A cluster whose autoscaler starts nodes: Ray's own, on a provider whose machines are raylets on this one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.head import Head

pytestmark = pytest.mark.full

POOL = """
import json, time, ray, ray.data
from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.pool import placed_pool
from ldm_ray.settings import RaySettings


class Wait:
    def __call__(self, batch):
        until = time.monotonic() + 60
        while len([node for node in ray.nodes() if node["Alive"]]) < 2 and time.monotonic() < until:
            time.sleep(0.5)
        time.sleep(2)
        return {"node": [ray.get_runtime_context().get_node_id()]}


settings = RaySettings(actors=2)
connect(settings)
before = len(ray.nodes())
data = ray.data.from_items(list(range(8)), override_num_blocks=8)
rows = data.map_batches(Wait, batch_size=1, **placed_pool(settings, 8, 1.0).options).take_all()
print(json.dumps([before, len({row["node"] for row in rows}), len(rows)]))
"""

EMPTY = """
import json, ray
from ray._private.state import state
from ldm_ray.cluster.connect import connect, cpus_and_gpus
from ldm_ray.cluster.pool import placed_pool
from ldm_ray.settings import RaySettings

connect(RaySettings())
before = cpus_and_gpus()[0]
actors = placed_pool(RaySettings(), 8, 0.5).actors
print(json.dumps([before, actors, state.get_max_resources_from_cluster_config()]))
"""

ROOM = """
import json, ray
from ldm_ray.cluster.connect import connect
from ldm_ray.cluster.placement import wait_for_room
from ldm_ray.settings import RaySettings

connect(RaySettings())
wait_for_room([{"CPU": 1}] * 3, "3 workers of 1 CPU", 90)
print(json.dumps(len([node for node in ray.nodes() if node["Alive"]])))
"""


@pytest.fixture(scope="module")
def growing() -> Iterator[Head]:
    with Head({}, cpus=1, may_start=2) as head:
        yield head


def test_a_pool_that_is_asked_for_has_a_node_started(growing: Head) -> None:
    assert printed(growing, POOL) == [1, 2, 8]


def test_a_pool_on_a_head_that_gives_no_cpu_has_one_started() -> None:
    """Like a cluster of `cluster.yaml` that has just been started.

    Ray has a function for what an autoscaler may start, but it returns None. When the last value is no longer None,
    pools can be sized by it and `ray.actors` need not be set.
    """
    with Head({}, cpus=0, may_start=1) as idle:
        assert printed(idle, EMPTY) == [0, 1, None]


def test_workers_that_wait_for_room_have_nodes_started(growing: Head) -> None:
    assert printed(growing, ROOM) == 3


def printed(head: Head, code: str) -> Any:
    run = subprocess.run([sys.executable, "-c", code], env=head.environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
