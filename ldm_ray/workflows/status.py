"""Reads the status of a run of any kind from its folder, using only what the run itself has written."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, cast

from ldm_ray.errors import DataError, LdmRayError
from ldm_ray.layout import (
    CONDITIONS,
    ERRORS,
    JOURNAL,
    MANIFEST,
    METADATA,
    PAGE,
    PIPELINE,
    PLAN,
    REPORT,
    REPRODUCTION,
    RUN_RECORD,
    SEARCH,
    UNFINISHED,
)
from ldm_ray.prediction.bulk.run import BulkManifest, described_run, part_name, parts_done
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store
from ldm_ray.tracking.record import RunRecord, epochs_wanted, read_record
from ldm_ray.workflows.folder import SILENT_S, Ending, Folder, FolderStatus
from ldm_ray.workflows.pipeline_state import StepRecord, read_steps

SILENT_UNITS = 3
"""Silence is tolerated for this many epochs or parts, if that is longer than `SILENT_S`."""
SILENT_STEP_S = 3600.0
"""`SILENT_S` for pipeline steps that write only at their end."""
PACE_S = 600.0
"""Seconds over which the pace of a bulk prediction is measured."""
SAME_COMMAND = "run the same command again"
RESUME = "run the same command with --resume"


def read_status(url: str, storage_options: StorageOptions | None = None, now: datetime | None = None) -> FolderStatus:
    """Read the status of a folder.

    Args:
        url: Folder of a run of any kind, or of a dataset.
        storage_options: fsspec's arguments by protocol.
        now: The current time.

    Raises:
        DataError: If the folder does not exist, or holds nothing of ours.
        StoreError: If it cannot be read.
    """
    store = Store(url, storage_options or {})
    folder = Folder(store, store.files(), now or datetime.now(UTC))
    if not folder.files and not store.exists():
        raise DataError(f"{url} does not exist")
    readers: tuple[tuple[str, Callable[[Folder], FolderStatus | None]], ...] = (
        (PIPELINE, _pipeline),
        (REPRODUCTION, _reproduction),
        (SEARCH, _search),
        (RUN_RECORD, _training),
        (METADATA, _bundle),
        (MANIFEST, _manifest),
        (PLAN, _unfinished),
        (CONDITIONS, _staging),
    )
    for name, read in readers:
        if name in folder.files and (found := read(folder)):
            return found
    runs = sum(path.endswith(f"/{RUN_RECORD}") for path in folder.files)
    hint = f"; for the {runs} training runs below it: ldm-ray runs {url}" if runs else ""
    what = "training run, search, bulk prediction, pipeline, reproduction or dataset"
    raise DataError(f"{url} holds no {what}{hint}")


def _training(folder: Folder) -> FolderStatus | None:
    try:
        run = read_record(folder.store)
    except DataError:
        return None  # another program's run.json
    epoch_s = run.seconds / run.epochs if run.epochs else 0.0
    ended: dict[str, Ending] = {
        "finished": {"state": "finished"},
        "stopped": {"state": "finished", "said": "stopped early by its search"},
        "failed": {"state": "failed", "said": "ended with an error or Ctrl-C", "go_on": RESUME},
        "diverged": {"state": "failed", "said": "the loss became NaN or infinite: lower the learning rate"},
    }
    how = ended.get(run.status) or folder.unended(RESUME, max(SILENT_S, SILENT_UNITS * epoch_s))
    how["said"] = "; ".join([*([how["said"]] if "said" in how else []), *run.warnings])
    look = (f"ldm-ray runs {folder.url}", f"tensorboard --logdir {folder.url}")
    return FolderStatus(
        url=folder.url,
        kind="training",
        what=run.kind,
        unit="epochs",
        done=run.epochs,
        total=epochs_wanted(run),
        rows_per_s=run.last.get("wells_per_s"),
        figures=_losses(run),
        look=look,
        **how,
        **folder.seen(),
    )


def _losses(run: RunRecord) -> dict[str, float | int | str]:
    """Return the last epoch's step, losses and share of time spent waiting, and the best validation loss."""
    names = ("step", "train_loss", "valid_loss", "data_wait")
    figures: dict[str, float | int | str] = {name: run.last[name] for name in names if name in run.last}
    if run.best:
        figures["best_valid_loss"] = run.best["valid_loss"]
    return figures | ({"worker_failures": run.failures} if run.failures else {})


def _bundle(folder: Folder) -> FolderStatus | None:
    """A bundle without the record of its run: copied, or exported from a search."""
    metadata = folder.store.read_json(METADATA)
    if "kind" not in metadata or "history" not in metadata:
        return None
    epochs = len(metadata["history"])
    look = (f"ldm-ray evaluate --bundle {folder.url} ...",)
    return FolderStatus(
        folder.url, "training", metadata["kind"], "finished", "epochs", epochs, epochs, look=look, **folder.seen()
    )


def _search(folder: Folder) -> FolderStatus:
    # Optuna and the tables take a second to import, and only a search needs them.
    from ldm_ray.tuning.journal import driver_of
    from ldm_ray.tuning.state import load_search
    from ldm_ray.tuning.tables import summary

    search = load_search(folder.url, folder.store.storage_options)
    ended, wanted, best = summary(search)
    written = (JOURNAL, "trials/", "vaes/")  # not the report, which anyone may write
    pid, lives = driver_of(folder.store)
    how: Ending = {"state": "finished" if ended >= wanted else "running"}
    if ended < wanted and lives is None:  # its driver is on another machine
        how = folder.unended(SAME_COMMAND, among=written)
    elif ended < wanted and not lives:
        how = {"state": "interrupted", "go_on": SAME_COMMAND, "said": f"its process, {pid}, is gone"}
    states = [trial.state for trial in search.trials]
    return FolderStatus(
        url=folder.url,
        kind="search",
        what=", ".join(objective.title for objective in search.objectives),
        unit="trials",
        done=ended,
        total=wanted,
        figures={name: states.count(name) for name in ("complete", "stopped", "failed", "running")} | {"best": best},
        look=(f"ldm-ray tune report {folder.url}", f"ldm-ray tune export {folder.url} --out BUNDLE"),
        **how,
        **folder.seen(*written),
    )


def _manifest(folder: Folder) -> FolderStatus | None:
    """A prepared dataset or a bulk prediction: both have a `manifest.json`."""
    manifest = folder.store.read_json(MANIFEST)
    if "schema_version" in manifest:
        counts = ("n_profiles", "n_compounds", "n_cell_lines")
        parts = len(manifest.get("files", []))
        figures = {name: manifest[name] for name in counts if name in manifest}
        look = (f"ldm-ray data describe {folder.url}",)
        what = "treated wells"
        return FolderStatus(
            folder.url,
            "dataset",
            what,
            "finished",
            "parts",
            parts,
            parts,
            figures=figures,
            look=look,
            **folder.seen(),
        )
    return _bulk(folder, cast(BulkManifest, manifest)) if "rows_per_part" in manifest else None


def _bulk(folder: Folder, manifest: BulkManifest) -> FolderStatus:
    run = described_run(manifest)
    done = sorted(parts_done(folder.files))
    times = sorted((at, part) for part in done if (at := folder.files.get(part_name(part))))
    recent = [(at, part) for at, part in times if times[-1][0] - at <= timedelta(seconds=PACE_S)]
    seconds = (recent[-1][0] - recent[0][0]).total_seconds() if recent else 0.0
    rows_per_s = sum(run.rows_of(part) for _, part in recent[1:]) / seconds if seconds else None
    part_s = seconds / max(1, len(recent) - 1)
    own = ("part-", ERRORS, CONDITIONS, MANIFEST)
    how: Ending = {"state": "finished"}
    if not manifest.get("done"):
        how = folder.unended(SAME_COMMAND, max(SILENT_S, SILENT_UNITS * part_s), own)
    figures = {"rows": sum(map(run.rows_of, done)), "rows_of": run.n_rows}
    ended: tuple[Literal["n_predicted", "n_errors"], ...] = ("n_predicted", "n_errors")
    figures |= {name: manifest[name] for name in ended if name in manifest}
    refused = any(path.startswith(f"{ERRORS}/") for path in folder.files)
    return FolderStatus(
        url=folder.url,
        kind="bulk prediction",
        what=f"{run.source} by {run.bundle}",
        unit="parts",
        done=len(done),
        total=run.n_parts,
        rows_per_s=rows_per_s and round(rows_per_s, 1),
        figures=figures,
        look=(folder.store.path("part-*.parquet"), *([folder.store.path(f"{ERRORS}/")] if refused else [])),
        **how,
        **folder.seen(*own),
    )


def _staging(folder: Folder) -> FolderStatus:
    """A bulk prediction that is still staging its conditions, which come before its manifest."""
    how = folder.unended(SAME_COMMAND)
    return FolderStatus(
        folder.url, "bulk prediction", "staging conditions", unit="parts", done=0, **how, **folder.seen()
    )


def _unfinished(folder: Folder) -> FolderStatus:
    """An unfinished prepare; only its command knows how many parts it will have."""
    done = sum(path.startswith(f"{UNFINISHED}/part-") for path in folder.files)
    how = folder.unended(RESUME)
    return FolderStatus(folder.url, "dataset", "treated wells", unit="parts", done=done, **how, **folder.seen())


def _pipeline(folder: Folder) -> FolderStatus:
    steps = read_steps(folder.store)
    states = [step["state"] for step in steps]
    current = next((step for step in steps if step["state"] in ("running", "failed", "interrupted")), None)
    within = _within(folder, current) if current else None
    page = f"{REPORT}/{PAGE}"
    how: Ending = {"state": "interrupted", "go_on": SAME_COMMAND}
    if steps and states.count("done") == len(steps):
        how = {"state": "finished"}
    elif not current:  # between two steps
        how = folder.unended(SAME_COMMAND)
    elif current["state"] == "failed":
        how = {"state": "failed", "go_on": SAME_COMMAND, "said": current.get("error", "")}
    elif current["state"] == "running":
        if within and within.state in ("running", "interrupted"):
            how["state"] = within.state
        else:
            how = folder.unended(SAME_COMMAND, SILENT_STEP_S)
    if how["state"] == "running":
        how.pop("go_on", None)
    return FolderStatus(
        url=folder.url,
        kind="pipeline",
        what=current["name"] if current else "all steps",
        unit="steps",
        done=states.count("done"),
        total=len(steps),
        look=(folder.store.path(page),) if page in folder.files else (),
        steps=tuple(steps),
        within=within,
        **how,
        **folder.seen(),
    )


def _reproduction(folder: Folder) -> FolderStatus:
    """The paper's section 3; its page is written last, and a stage's time when the stage ends."""
    seconds = folder.store.read_json(REPRODUCTION)["seconds"]
    done = PAGE in folder.files
    how: Ending = {"state": "finished"} if done else folder.unended(SAME_COMMAND, SILENT_STEP_S)
    return FolderStatus(
        url=folder.url,
        kind="reproduction",
        what=f"the paper's section 3; ended: {', '.join(seconds) or 'none'}",
        unit="stages",
        done=len(seconds),
        figures={f"{name}_s": round(value, 1) for name, value in seconds.items()},
        look=(folder.store.path(PAGE),) if done else (f"ldm-ray runs {folder.url}",),
        **how,
        **folder.seen(),
    )


def _within(folder: Folder, step: StepRecord) -> FolderStatus | None:
    """Read the status of a step's result; None if there is nothing yet, or nothing with a status."""
    out = step.get("out", "")
    if not out or out.rstrip("/") == folder.url.rstrip("/"):
        return None
    try:
        return read_status(out, folder.store.storage_options, folder.now)
    except LdmRayError:
        return None
