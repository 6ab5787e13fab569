"""The command `ldm-ray pipeline`: from a release to predictions, in one folder at any URL."""

from typing import Annotated

import typer

from ldm_ray.cli.options import (
    AllowMissingGenes,
    ConfigFile,
    DoseUnit,
    Gctx,
    GeneInfo,
    H5ad,
    InstInfo,
    Json,
    Layer,
    Overrides,
    Overwrite,
    PertInfo,
    Seed,
    TimeUnit,
    settings,
)
from ldm_ray.console import print_json, say, show_table

EPILOG = (
    "Examples:\n\n\n\n"
    "- simulated data: `ldm-ray pipeline --out s3://bucket/run --config demo`\n\n"
    "- PRnet's h5ad: `ldm-ray pipeline --h5ad s3://bucket/Lincs_L1000.h5ad --out s3://bucket/run`\n\n"
    "- progress: `ldm-ray status s3://bucket/run`"
)


def pipeline(
    *,
    out: Annotated[str, typer.Option(help="Folder for all results, path or URL.")],
    gctx: Gctx = None,
    inst_info: InstInfo = None,
    pert_info: PertInfo = None,
    gene_info: GeneInfo = None,
    h5ad: H5ad = None,
    layer: Layer = "",
    dose_unit: DoseUnit = "",
    time_unit: TimeUnit = "",
    allow_missing_genes: AllowMissingGenes = False,
    conditions: Annotated[
        str | None, typer.Option(help="Table to predict: smiles, cell, dose_um, time_h; default: the held-out wells.")
    ] = None,
    overwrite: Overwrite = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Prepare, embed, train, evaluate and predict; without release files, on simulated data.

    To resume after an interruption, run the same command again: finished steps are not repeated.
    """
    resolved = settings(config, overrides, seed)
    from ldm_ray.data.releases.paths import ReleasePaths
    from ldm_ray.data.releases.release import ReleaseOptions
    from ldm_ray.workflows.pipeline import Pipeline

    options = ReleaseOptions(allow_missing_genes, dose_unit, time_unit, layer)
    wells, compounds = tuple(inst_info or ()), tuple(pert_info or ())
    paths = ReleasePaths(tuple(gctx or ()), wells, compounds, gene_info, h5ad, options)
    done = Pipeline(out, resolved, paths, conditions).run(overwrite=overwrite)
    if json:
        print_json(done)
    rows = [[step["name"], step["state"], f"{step['seconds']:.0f}", step["out"]] for step in done["steps"]]
    show_table(f"pipeline in {out}", ["step", "state", "seconds", "result"], rows)
    say(f"report: {out.rstrip('/')}/report/report.html")
