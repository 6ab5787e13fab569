"""All steps from a release to predictions, in one folder at any URL; finished steps are not repeated."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from ldm_ray.bundle.bundle import load_bundle
from ldm_ray.cluster.batch.evaluate import block_runner
from ldm_ray.cluster.batch.predict import BulkPrediction, predict_many, remove_predictions
from ldm_ray.cluster.batch.prepare import part_runner
from ldm_ray.cluster.train.run import Run
from ldm_ray.config import FREE_TO_CHANGE, Config, dump_config, read_settings
from ldm_ray.console import counting, say, spinning, staged
from ldm_ray.data.dataset import PairedDataset, open_dataset
from ldm_ray.data.prepare import prepare
from ldm_ray.data.releases.paths import ReleasePaths
from ldm_ray.data.simulate import release_files, simulate_release
from ldm_ray.errors import DataError
from ldm_ray.evaluation.report.folder import write_report
from ldm_ray.evaluation.suite import evaluate
from ldm_ray.layout import (
    DATA,
    LDM,
    MANIFEST,
    METADATA,
    METRICS,
    PIPELINE,
    PLAN,
    PREDICTIONS,
    RELEASE,
    REPORT,
    RUN,
    SETTINGS,
    SIMULATION,
    SOURCE,
    VAE,
)
from ldm_ray.prediction.bulk.conditions import COLUMNS, SCHEMA, open_conditions
from ldm_ray.storage.store import Store
from ldm_ray.workflows.pipeline_state import PipelineRecord, PipelineState
from ldm_ray.workflows.steps import encode_compounds, trained

FOLDERS = (RELEASE, DATA, VAE, LDM, REPORT, PREDICTIONS)
FREE_GROUPS = {*FREE_TO_CHANGE} - {"simulate", "prepare", "evaluate"}  # these decide results of other steps
FREE_KEYS = {"prepare": {"workers": True}, "evaluate": {"workers": True}}
"""Settings that do not affect results; training itself checks how wells are dealt to workers."""


class Pipeline:
    """The steps of one pipeline, with results in `<out>/data`, `vae`, `ldm`, `report` and `predictions`.

    Args:
        out: Folder URL for all results.
        config: Settings of all steps.
        paths: Files of the release; by default one is simulated, in `<out>/release`.
        conditions: URL of a table to predict; by default the held-out conditions of the dataset.
    """

    def __init__(
        self, out: str, config: Config, paths: ReleasePaths | None = None, conditions: str | None = None
    ) -> None:
        self.store, self.config = Store(out, config.storage_options), config
        self._paths, self._conditions = paths or ReleasePaths(), conditions
        simulated = [] if self._paths.given else [("simulate", RELEASE, SIMULATION, self._simulate)]
        self._steps: list[tuple[str, str, str, Callable[[], object]]] = [
            *simulated,
            ("prepare", DATA, MANIFEST, self._prepare),
            ("embed", DATA, "", self._embed),
            ("train vae", VAE, METADATA, self._train_vae),
            ("train ldm", LDM, METADATA, self._train_ldm),
            ("evaluate", REPORT, METRICS, self._evaluate),
            ("predict", PREDICTIONS, "", self._predict),
        ]

    def run(self, *, overwrite: bool = False) -> PipelineRecord:
        """Run the unfinished steps, or all steps with `overwrite`; return the contents of `pipeline.json`.

        Raises:
            DataError: If the folder holds another run and `overwrite` is false, or the release lacks a file.
        """
        if self._paths.given:
            self._paths.check()
        if overwrite and self.store.exists(SETTINGS):
            self._remove()
        self._check_folder()
        state = PipelineState(self.store, [(name, self.url(folder)) for name, folder, *_ in self._steps])
        for name, folder, marker, step in self._steps:
            if self._is_done(folder, marker):
                say(f"{name}: {self.url(folder)} already exists")
                state.skip(name)
                continue
            with state.running(name):
                step()
        return state.record

    def url(self, folder: str) -> str:
        """Return the URL of a step's result."""
        return self.store.path(folder)

    @property
    def dataset(self) -> PairedDataset:
        """The paired dataset, once it is prepared."""
        return open_dataset(self.url(DATA), self.config.storage_options)

    def _remove(self) -> None:
        """Remove all results: first the marks of finished steps, last the settings, which mark the folder as ours."""
        for _, folder, marker, _ in self._steps:
            if marker:
                self.store.remove(f"{folder}/{marker}")
        for folder in (VAE, LDM):
            self.store.remove(f"{folder}/{RUN}")
        remove_predictions(Store(self.url(PREDICTIONS), self.config.storage_options))
        for name in (*FOLDERS, PIPELINE, SOURCE, SETTINGS):
            self.store.remove(name)

    def _check_folder(self) -> None:
        """Record settings and release, or refuse a folder that was made with others.

        Raises:
            DataError: If the folder was made with another release or settings, or by other commands.
        """
        made = [folder for folder in FOLDERS if self.store.exists(folder)]
        release = json.loads(json.dumps(asdict(self._paths)))  # as it is read back: lists, not tuples
        if made:
            otherwise = "--overwrite replaces it, or choose another --out"
            if not self.store.exists(SETTINGS):
                raise DataError(f"{self.store.url} holds {', '.join(made)} of other commands; choose another --out")
            if self._fixed(read_settings(self.store.read_bytes(SETTINGS))) != self._fixed(self.config):
                raise DataError(f"{self.store.url} holds a run with other settings; {otherwise}")
            if self.store.exists(SOURCE) and self.store.read_json(SOURCE) != release:
                raise DataError(f"{self.store.url} holds a run of another release; {otherwise}")
        self.store.write_json(SOURCE, release)
        self.store.write_bytes(SETTINGS, dump_config(self.config).encode())

    def _fixed(self, config: Config) -> dict[str, Any]:
        """Return the settings that must not change when this pipeline is resumed."""
        free = FREE_GROUPS if self._is_done(REPORT, METRICS) else FREE_GROUPS | {"evaluate"}
        return config.model_dump(mode="json", exclude={**FREE_KEYS, **dict.fromkeys(free, True)})

    def _is_done(self, folder: str, marker: str) -> bool:
        """Tell whether a step has written its last file; a step without such a marker checks that itself."""
        return bool(marker) and self.store.exists(f"{folder}/{marker}")

    def _simulate(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            with counting("simulating plates") as progress:
                simulate_release(self.config.simulate, Path(folder), self.config.seed, on_progress=progress)
            names = sorted(path.name for path in Path(folder).iterdir() if path.name != SIMULATION)
            for name in [*names, SIMULATION]:  # the marker last
                self.store.write_bytes(f"{RELEASE}/{name}", (Path(folder) / name).read_bytes())

    def _release(self) -> ReleasePaths:
        if self._paths.given:
            return self._paths
        files = release_files(Path())
        gctx, inst_info, pert_info, gene_info = (
            self.store.path(f"{RELEASE}/{name}")
            for name in (files.gctx, files.inst_info, files.pert_info, files.gene_info)
        )
        return ReleasePaths((gctx,), (inst_info,), (pert_info,), gene_info)

    def _prepare(self) -> None:
        with spinning("reading tables"):
            release = self._release().open(self.config.storage_options)
        resume = self.store.exists(f"{DATA}/{PLAN}")
        with counting("writing treated wells") as progress:
            runner = part_runner(self.config)
            manifest = prepare(release, self.url(DATA), self.config, on_progress=progress, resume=resume, run=runner)
        for step in manifest["cleaning"]:
            say(f"  {step['removed']:>7,} wells removed, {step['wells_after']:>7,} left: {step['rule']}")

    def _embed(self) -> None:
        encode_compounds(self.dataset, self.config)

    def _train_vae(self) -> None:
        trained(Run(kind="vae", dataset=self.dataset, out=self.url(VAE), config=self.config), "autoencoder")

    def _train_ldm(self) -> None:
        vae = load_bundle(self.url(VAE), "vae", self.config.storage_options)
        run = Run(kind="ldm", dataset=self.dataset, out=self.url(LDM), config=self.config, vae=vae)
        trained(run, "latent diffusion")

    def _evaluate(self) -> None:
        config, dataset = self.config, self.dataset
        bundles = [load_bundle(self.url(LDM), storage_options=config.storage_options)]
        with staged() as progress:
            evaluation = evaluate(dataset, bundles, config.evaluate, config.seed, progress, block_runner(config))
        with spinning("writing the report"):
            write_report(self.url(REPORT), evaluation, bundles, dataset, config)

    def _predict(self) -> None:
        source = self._conditions or f"held-out conditions of {self.url(DATA)}"
        with counting("conditions") as progress:
            manifest = predict_many(
                BulkPrediction(
                    tables=self._tables,
                    source=source,
                    bundle=self.url(LDM),
                    out=self.url(PREDICTIONS),
                    config=self.config,
                ),
                progress,
            )
        refused = f"; {manifest['n_errors']:,} refused, see errors/" if manifest["n_errors"] else ""
        say(f"{manifest['n_predicted']:,} predictions in {self.url(PREDICTIONS)}{refused}")

    def _tables(self) -> Iterator[pa.Table]:
        if self._conditions is not None:
            conditions = open_conditions(self._conditions, self.config.storage_options)
            if conditions.unusual:
                say(conditions.unusual)
            yield from conditions.tables()
            return
        yield held_out_conditions(self.dataset)


def held_out_conditions(dataset: PairedDataset) -> pa.Table:
    """Return the unique conditions of the test wells, in the form of `predict --conditions`."""
    columns = ["condition_id", "compound_id", "cell_id", "dose_um", "time_h"]
    wells = dataset.profiles(columns, "test").to_pandas().drop_duplicates("condition_id")
    values = {
        "smiles": dataset.parent_smiles[wells["compound_id"]],
        "cell": [dataset.cells[cell] for cell in wells["cell_id"]],
        "dose_um": [f"{dose:.6g}" for dose in wells["dose_um"]],
        "time_h": [f"{time:.6g}" for time in wells["time_h"]],
    }
    return pa.table([pa.array(values[name], pa.string()) for name in COLUMNS], schema=SCHEMA)
