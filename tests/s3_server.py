"""A real S3 server on this machine: SeaweedFS on loopback, for tests, benchmarks and `make s3`.

python -m tests.s3_server [--folder FOLDER] [--port PORT]
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY, SECRET, BUCKET = "ldm-ray", "not-a-secret", "ldm-ray"
READY_S = 60.0


@dataclass
class S3Server:
    """A SeaweedFS process with one bucket and one pair of credentials.

    Attributes:
        folder: Folder of its data; a server restarted there has the same data.
        port: Port of the S3 interface; `port + 1000` and on serve SeaweedFS itself.
    """

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def endpoint(self) -> str:
        """URL of the S3 interface."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a user would export to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def options(self) -> dict[str, Any]:
        """The same as `storage_options`."""
        return {"s3": {"key": KEY, "secret": SECRET, "endpoint_url": self.endpoint}}

    def start(self) -> "S3Server":
        """Start the process and wait until it serves the bucket."""
        self.folder.mkdir(parents=True, exist_ok=True)
        users = self.folder / "s3.json"
        identity = {
            "name": "ldm-ray",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        public = {"name": "anonymous", "actions": ["Read:public", "List:public"]}
        users.write_text(json.dumps({"identities": [identity, public]}))
        command = [str(Path(sys.executable).parent / "weed"), "-logtostderr=true", "-v=0", "server"]
        command += [f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=200"]
        command += ["-master.volumeSizeLimitMB=256", "-master.volumePreallocate=false", "-s3", "-filer"]
        command += [f"-s3.port={self.port}", f"-s3.config={users}"]
        names = ("master", "volume", "filer")
        for number, name in enumerate(names, start=1):
            command += [f"-{name}.port={self.port + number}", f"-{name}.port.grpc={self.port + 10 + number}"]
        # Unused catalogues, on ports that a second server would need too.
        command += [f"-s3.port.grpc={self.port + 20}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._wait()
        return self

    def kill(self) -> None:
        """Kill it as a crash would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self) -> "S3Server":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _wait(self) -> None:
        import s3fs

        options = self.options["s3"] | {"skip_instance_cache": True}
        deadline = time.monotonic() + READY_S
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"the S3 server stopped: {(self.folder / 'weed.log').read_text()[-2000:]}")
            try:
                fs = s3fs.S3FileSystem(**options, config_kwargs={"retries": {"max_attempts": 1}})
                for bucket in (BUCKET, "public"):
                    fs.makedirs(bucket, exist_ok=True)
                    fs.pipe_file(f"{bucket}/.ready", b"yes")
                return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)


def free_port() -> int:
    """Return a port that is free, with the others SeaweedFS needs, below the range of outgoing connections."""
    while True:
        port = random.randrange(12_000, 32_000)
        if all(_is_free(port + offset) for offset in (0, 1, 2, 3, 11, 12, 13, 20)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A local S3 server.")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--port", type=int, default=8333)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="ldm-ray-s3-"))
    with S3Server(folder, arguments.port) as server:
        print(f"# S3 on {server.endpoint}, data in {folder}, bucket s3://{BUCKET}; in another shell:")
        for name, value in server.environment.items():
            print(f"export {name}={value}")
        print("# stop with Ctrl-C", flush=True)
        try:
            assert server.process is not None
            server.process.wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
