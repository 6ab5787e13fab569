"""The name of every file and folder that ldm-ray writes, each defined once."""

SETTINGS = "settings.yaml"
"""The settings that a dataset, run, pipeline or demo was made with."""

# A paired dataset.
MANIFEST = "manifest.json"
"""Written last, in a dataset and in a bulk prediction."""
PROFILES = "profiles"
BASAL = "basal.parquet"
COMPOUNDS = "compounds.parquet"
CELLS = "cells.parquet"
EMBEDDINGS = "embeddings"
LATENTS = "latents"
TRUTH = "truth.npz"
GDSC = {"GDSC1": "gdsc1.parquet", "GDSC2": "gdsc2.parquet"}
UNFINISHED = ".unfinished"
"""Folder of an unfinished prepare: its plan, the records of its parts, its controls."""
PLAN = f"{UNFINISHED}/plan.json"

# A simulated release.
SIMULATION = "simulation.json"
"""What was planted; written last."""

# A bundle.
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
METADATA = "metadata.json"
"""Written last: without it there is no bundle."""
CARD = "README.md"

# A training run, in the folder of its bundle.
RUN = "run"
"""Ray Train's own folder; it exists until the run has finished."""
RUN_RECORD = "run.json"
HISTORY = "history.json"
SHARE = "workers.json"
"""How many workers an unfinished run has and whether they stream, which decides what wells a step takes."""
CHECKPOINT_STATE, CHECKPOINT_TENSORS = "state.pt", "tensors.safetensors"
TENSORBOARD = "tensorboard"
FOLDS = "folds.json"

# A search.
SEARCH = "search.json"
JOURNAL = "journal"
DRIVER = "driver.json"
TRIALS = "trials.csv"

# A report.
METRICS = "metrics.json"
PAGE = "report.html"
REPRODUCTION = "reproduce.json"
"""What a campaign of `ldm-ray reproduce` was begun with, and its times."""
PLANNED = "plan.json"
"""What a time budget was found to allow."""

# A bulk prediction, beside its manifest.
CONDITIONS = "conditions.parquet"
ERRORS = "errors"

# A pipeline.
PIPELINE = "pipeline.json"
SOURCE = "source.json"

# The folders of a pipeline or demo.
RELEASE, DATA, VAE, LDM, REPORT, PREDICTIONS = "release", "data", "vae", "ldm", "report", "predictions"
