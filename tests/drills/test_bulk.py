"""200,000 conditions to Parquet on a real S3 server, with the driver killed twice: in the end one row each."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ldm_ray.bundle.bundle import save_bundle
from ldm_ray.layout import MANIFEST
from ldm_ray.prediction.bulk.run import part_name
from ldm_ray.storage.store import Store
from tests.bundles import random_bundle
from tests.conftest import World
from tests.processes import kill_driver
from tests.s3_server import BUCKET, S3Server

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]
ROWS, ROWS_PER_PART, BAD = 200_000, 4000, 20
KILLED_AT = (10, 30)
WAIT_S = 600


def test_two_hundred_thousand_rows_killed_twice(world: World, s3: S3Server, tmp_path: Path) -> None:
    save_bundle(random_bundle(world), str(tmp_path / "bundle"))
    numbers = np.arange(ROWS)
    frame = pd.DataFrame({"smiles": ["C" * (1 + i % 40) + "O" for i in numbers], "cell": "SIMC001"})
    frame["dose_um"] = np.where(numbers % (ROWS // BAD) == 7, -1.0, 0.001 * (1 + numbers))
    frame.assign(time_h=24.0).to_parquet(tmp_path / "many.parquet")
    out = f"s3://{BUCKET}/drill-bulk"
    command = [sys.executable, "-m", "ldm_ray.cli", "predict", "--bundle", str(tmp_path / "bundle"), "--out", out]
    command += ["--conditions", str(tmp_path / "many.parquet"), "--n-samples", "1", "--steps", "5", "--json"]
    command += ["--set", f"predict.rows_per_part={ROWS_PER_PART}", "--set", "predict.columns=[mean]"]
    environment, store = os.environ | s3.environment, Store(out, s3.options)
    fs, root = store.arrow()

    def written() -> dict[str, float]:
        """Existing parts, and when they were written."""
        names = [name for name in store.names() if name.startswith("part-")] if store.exists(MANIFEST) else []
        return {name: fs.get_file_info(f"{root}/{name}").mtime.timestamp() for name in names}

    kept: dict[str, float] = {}
    for n_parts in KILLED_AT:
        driver = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + WAIT_S
        while len(written()) < n_parts:
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        kill_driver(driver)
        now = written()
        assert kept.items() <= now.items(), "a part was written again"
        assert len(now) < ROWS // ROWS_PER_PART
        kept = now
    last = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S)
    assert last.returncode == 0, last.stderr[-2000:]
    result = json.loads(last.stdout)
    assert (result["n_predicted"], result["n_errors"], result["done"]) == (ROWS - BAD, BAD, True)
    assert kept.items() <= written().items(), "a part was written again"
    rows = []
    for part in range(ROWS // ROWS_PER_PART):
        table = pq.read_table(f"{root}/{part_name(part)}", filesystem=fs)
        rows.append(table["row"].to_numpy())
        values = table["mean"].combine_chunks().values.to_numpy()
        assert len(values) == 978 * len(table)
        assert np.isfinite(values).all()
    errors = pd.concat(
        [store.read_table(f"errors/{name}").to_pandas() for name in store.names("errors") if name.endswith(".parquet")]
    )
    everything = np.concatenate([*rows, errors["row"].to_numpy()])
    assert np.array_equal(np.sort(everything), numbers), "a row is missing or there twice"
    assert errors["reason"].str.endswith(": dose_um must be a number above 0; got -1.0").all()
