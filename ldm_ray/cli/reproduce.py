"""The command `ldm-ray reproduce`: the paper's section 3."""

from typing import Annotated

import typer

from ldm_ray.cli.options import ConfigFile, Data, Json, Overrides, Seed, settings
from ldm_ray.console import print_json, say
from ldm_ray.errors import SettingsError

EPILOG = (
    "Examples:\n\n\n\n"
    "- `ldm-ray reproduce --data demo/data --out runs/paper --config demo --set 'table1.seeds=[0,1,2]'`\n\n"
    "- with Table 2: `ldm-ray reproduce --data runs/data --out runs/paper --ic50 GDSC2.csv.gz"
    " --basal-profiles basal.csv.gz`\n\n"
    "- only Table 1 and Fig. 3: `ldm-ray reproduce --data runs/data --out runs/paper"
    " --pertdit-hours 0 --set reproduce.folds=false`"
)


def reproduce(
    *,
    data: Data,
    out: Annotated[str, typer.Option(help="Folder for all results, path or URL.")],
    ic50: Annotated[
        str | None, typer.Option(help="For Table 2: GDSC table with SMILES, .csv, .csv.gz or .xlsx.")
    ] = None,
    basal_profiles: Annotated[
        str | None,
        typer.Option(help="With --ic50: untreated profiles of cell lines by Entrez id, .csv, .csv.gz or .xlsx."),
    ] = None,
    pertdit_hours: Annotated[
        float | None, typer.Option(help="Hours to train PertDiT at its published size (1); 0: leave it out.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Train and judge what the paper's section 3 compares, and say where its claims hold on these data.

    The settings are those of the default model and the rivals; the paper's model is preset `paper`. To resume after an
    interruption, run the same command again.
    """
    more = [] if seed is None else [f"table1.seeds=[{seed}]"]
    if seed is not None and any(text.replace(" ", "").startswith("table1.seeds=") for text in overrides or []):
        raise SettingsError("give --seed or --set table1.seeds, not both")
    more += [] if pertdit_hours is None else [f"reproduce.pertdit_hours={pertdit_hours}"]
    resolved = settings(config, overrides, seed, *more)
    if (ic50 is None) != (basal_profiles is None):
        raise SettingsError("give --ic50 and --basal-profiles, or neither")
    from ldm_ray.data.dataset import open_dataset

    open_dataset(data, resolved.storage_options)
    from ldm_ray.evaluation.report.paper import summary_of
    from ldm_ray.workflows.ic50 import Ic50Tables
    from ldm_ray.workflows.reproduce import run_reproduce

    tables = Ic50Tables(ic50, basal_profiles) if ic50 and basal_profiles else None
    result = run_reproduce(data, out, resolved, tables)
    lines = summary_of(result)
    if json:
        print_json({"page": f"{out.rstrip('/')}/report.html", "summary": lines, "seconds": dict(result.seconds)})
    for line in lines:
        say(line)
    say(f"page: {out.rstrip('/')}/report.html")
