"""What a script of `jobs/` does with its arguments, and its last line."""

import json
import sys
from collections.abc import Callable

import pytest

from ldm_ray.cli import job
from ldm_ray.errors import DataError

Run = Callable[..., tuple[int, dict[str, object], str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `train vae` as a job; return its exit code, its last line and its log."""

    def run_one(*arguments: str) -> tuple[int, dict[str, object], str]:
        monkeypatch.setattr(sys, "argv", ["jobs/train_vae.py", *arguments])
        with pytest.raises(SystemExit) as end:
            job.run_job("train", "vae")
        out, log = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, json.loads(out.splitlines()[-1]), log

    return run_one


def test_a_forgotten_value_is_an_error(run: Run) -> None:
    code, last, log = run("--data", "d", "--out")
    assert (code, last["exit_code"], last["job"]) == (2, 2, "train vae")
    assert "--out" in log


def test_what_goes_wrong_is_in_the_last_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, last, log = run("--data", "/nowhere", "--out", "/nowhere/vae")
    assert (code, last["exit_code"], last["out"]) == (2, 2, "/nowhere/vae")
    assert "error: /nowhere" in log

    def broken() -> None:
        raise RuntimeError("a worker has died")

    monkeypatch.setattr(job, "main", broken)
    code, last, log = run("--data", "d", "--out", "/v")
    assert (code, last["exit_code"]) == (1, 1)
    assert "Traceback" in log
    assert "a worker has died" in log


@pytest.mark.parametrize("arguments", [("--out", "runs/vae"), ("--out=runs/vae",)])
def test_a_result_that_would_go_with_the_job_is_refused(
    arguments: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> None:
        raise DataError("begun")

    monkeypatch.setattr(job, "main", made)
    assert run("--data", "d", *arguments)[0] == 1  # not by `ray job submit`: the folder stays
    monkeypatch.setenv(job.SUBMITTED, "{}")
    code, last, log = run("--data", "d", *arguments)
    assert (code, last["exit_code"]) == (2, 2)
    assert "--out 'runs/vae' would be deleted with the job's working directory; wanted a URL or an absolute path" in log
    assert run("--data", "d", "--out", "s3://bucket/vae")[0] == 1
