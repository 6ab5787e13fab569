"""A Ray head started by `ray start`, separate from all other clusters of this machine, and jobs submitted to it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.processes import kill_tree, tree
from tests.s3_server import free_port

ROOT = Path(__file__).parents[1]
READY_S = 90.0
BIN = Path(sys.executable).parent
FAKE_CLOUD = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
FAKE_HEAD = "f" * 51 + "00000"
AUTOSCALED = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_enable_autoscaler_v2": "1",  # as `ray up` and KubeRay do
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD,
}
COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


class Head:
    """`ray start --head` on free ports; jobs find it by its dashboard.

    Args:
        environment: Environment of the head, and so of its jobs.
        cpus: CPUs of the head.
        may_start: Number of one-CPU nodes that its autoscaler may start, as raylets on this machine.
    """

    def __init__(self, environment: dict[str, str], cpus: int = 2, may_start: int = 0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="r", dir="/tmp")  # sockets need a short path
        self.address = f"http://127.0.0.1:{free_port()}"
        # Of its own: a cluster's address is left there, and `ray.init()` elsewhere would join it.
        self._environment = os.environ | environment | {"RAY_TMPDIR": self._folder.name, "RAY_AUTH_MODE": "disabled"}
        self._environment["PATH"] = f"{BIN}:{os.environ['PATH']}"  # as where the environment is activated
        self._environment.pop("RAY_ADDRESS", None)
        self._cpus = cpus
        self._may_start = may_start
        if may_start:
            self._environment |= AUTOSCALED

    def __enter__(self) -> "Head":
        self.gcs = f"127.0.0.1:{free_port()}"
        ports = ["--node-ip-address=127.0.0.1", f"--port={self.gcs.rsplit(':', 1)[1]}"]
        ports += [f"--dashboard-port={self.address.rsplit(':', 1)[1]}"]
        ports += [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
        ports += ["--min-worker-port=0", "--max-worker-port=0"]  # any; the default range may include ports found free
        command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", *ports]
        command += [f"--num-cpus={self._cpus}", f"--object-store-memory={300 * 2**20}"]
        command += self._autoscaling()
        self._log = (Path(self._folder.name) / "head.log").open("w+")
        self._process = subprocess.Popen(
            command, env=self._environment, stdout=self._log, stderr=self._log, start_new_session=True
        )
        until = time.monotonic() + READY_S
        while not self._ready():
            assert self._process.poll() is None, Path(self._log.name).read_text()
            assert time.monotonic() < until, Path(self._log.name).read_text()
            time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        kill_tree(self._process.pid)
        self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def _autoscaling(self) -> list[str]:
        if not self._may_start:
            return []
        provider = {"type": "external", "module": FAKE_CLOUD, "head_node_id": FAKE_HEAD, "launch_multiple": True}
        config = {
            "cluster_name": "growing",
            "max_workers": self._may_start,
            "idle_timeout_minutes": 1,
            "upscaling_speed": 1.0,
            "provider": provider | {"gcs_address": self.gcs},
            "auth": {},
            "docker": {},
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": self._cpus}, "node_config": {}, "max_workers": 0},
                "more": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": self._may_start},
            },
            **{f"{kind}_commands": [] for kind in COMMANDS},
            **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
        }
        path = Path(self._folder.name) / "autoscaling.json"
        path.write_text(json.dumps(config))
        return [f"--autoscaling-config={path}"]

    @property
    def pid(self) -> int:
        """Process below which the head's own are."""
        return self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        """Of a driver that joins."""
        return self._environment | {"RAY_ADDRESS": self.gcs}

    @contextmanager
    def node(self, cpus: int) -> Iterator[int]:
        """Join one more node while the block runs; yield the process below which its own are."""
        command = [str(BIN / "ray"), "start", f"--address={self.gcs}", "--block", "--disable-usage-stats"]
        command += [f"--num-cpus={cpus}", "--min-worker-port=0", "--max-worker-port=0", "--node-ip-address=127.0.0.1"]
        command += [f"--object-store-memory={300 * 2**20}", f"--dashboard-agent-listen-port={free_port()}"]
        before = self._nodes()
        process = subprocess.Popen(
            command, env=self._environment, stdout=self._log, stderr=self._log, start_new_session=True
        )
        try:
            until = time.monotonic() + READY_S
            while not self._nodes() - before:
                assert process.poll() is None, Path(self._log.name).read_text()
                assert time.monotonic() < until, Path(self._log.name).read_text()
                time.sleep(0.5)
            yield process.pid
        finally:
            below = tree(process.pid)
            process.terminate()  # in order, so that the head knows at once, unless its raylet was killed
            process.wait()
            for pid in below:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def submit(self, script: str, *arguments: str, job_id: str = "", wait: bool = True) -> tuple[int, str]:
        """Run `ray job submit` as README says; return its exit code and what it printed."""
        command = ["submit", "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml"]
        command += [*(["--submission-id", job_id] if job_id else []), *([] if wait else ["--no-wait"])]
        return self.job(*command, "--", "python", *([script] if script else []), *arguments)

    def job(self, *arguments: str) -> tuple[int, str]:
        """Run `ray job`."""
        done = subprocess.run(
            [str(BIN / "ray"), "job", arguments[0], "--address", self.address, *arguments[1:]],
            cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def info(self, job_id: str) -> dict[str, Any]:
        """Return a job's status on the head."""
        with urllib.request.urlopen(f"{self.address}/api/jobs/{job_id}") as answer:
            return dict(json.loads(answer.read()))

    def log(self, job_id: str) -> str:
        """Return a job's log so far."""
        return self.job("logs", job_id)[1]

    def _nodes(self) -> set[str]:
        """Ids of the nodes that are alive, or whose death the head has not noticed yet."""
        with urllib.request.urlopen(f"{self.address}/nodes?view=summary") as answer:
            summary = json.loads(answer.read())["data"]["summary"]
        return {node["raylet"]["nodeId"] for node in summary if node["raylet"].get("state") == "ALIVE"}

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/api/jobs/", timeout=2):
                return True
        except OSError:
            return False


def last_line(log: str) -> dict[str, Any]:
    """Return the last line of a job's log that is a JSON object."""
    lines = [line for line in log.splitlines() if line.startswith("{")]
    return dict(json.loads(lines[-1]))
