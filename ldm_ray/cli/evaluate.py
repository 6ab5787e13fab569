"""The command `ldm-ray evaluate`: Table 1, Fig. 3, Table 2."""

from typing import Annotated

import typer

from ldm_ray.cli.options import ConfigFile, Json, Overrides, Seed, settings
from ldm_ray.config import Config
from ldm_ray.console import print_json, say, show_table, spinning, staged
from ldm_ray.errors import SettingsError

EPILOG = (
    "Examples:\n\n\n\n"
    "- `ldm-ray evaluate --data runs/data --bundle runs/ldm --bundle runs/prnet --out runs/report`\n\n"
    "- `ldm-ray evaluate --table1 --data runs/data --out runs/table1 --set 'table1.seeds=[0,1,2]'`\n\n"
    "- `ldm-ray evaluate --ic50 --bundle runs/ldm --gdsc GDSC2.csv.gz --basal-profiles basal.csv.gz --out runs/ic50`"
)


def evaluate(
    *,
    out: Annotated[str, typer.Option(help="Folder for the report, path or URL.")],
    data: Annotated[str | None, typer.Option("--data", help="Folder of a paired dataset, path or URL.")] = None,
    bundle: Annotated[
        list[str] | None, typer.Option(help="Bundle of a trained model or rival, path or URL; repeatable.")
    ] = None,
    table1: Annotated[
        bool,
        typer.Option(
            "--table1",
            help="Table 1: train and judge the model and its rivals, as settings `table1.*` say.",
        ),
    ] = False,
    fig3: Annotated[bool, typer.Option("--fig3", help="Fig. 3 alone: gene-gene correlations.")] = False,
    ic50: Annotated[bool, typer.Option("--ic50", help="Table 2: drug sensitivity from predicted profiles.")] = False,
    gdsc: Annotated[
        str | None, typer.Option(help="With --ic50: GDSC table with SMILES, .csv, .csv.gz or .xlsx.")
    ] = None,
    basal_profiles: Annotated[
        str | None,
        typer.Option(help="With --ic50: untreated profiles of cell lines by Entrez id, .csv, .csv.gz or .xlsx."),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Judge models against baselines, ablations and ceilings, and write a report with intervals and pictures."""
    resolved = settings(config, overrides, seed)
    bundles = bundle or []
    if sum((table1, fig3, ic50)) > 1:
        raise SettingsError("give one of --table1, --fig3 and --ic50")
    if ic50:
        if not (bundles and gdsc and basal_profiles):
            raise SettingsError("--ic50 needs --bundle, --gdsc and --basal-profiles")
        _ic50(urls=bundles, gdsc=gdsc, basal=basal_profiles, out=out, config=resolved, json=json)
        return
    if data is None or not (bundles or table1):
        raise SettingsError("give --data, and --bundle or --table1")
    if table1 and bundles:
        raise SettingsError("--table1 trains its own models (setting `table1`); leave --bundle out")
    if table1:
        from ldm_ray.workflows.table1 import run_table1

        result = run_table1(data, out, resolved)
        if json:
            print_json(result)
        return
    _judge(data=data, urls=bundles, out=out, config=resolved, json=json, only_fig3=fig3)


def _require_bundles(urls: list[str], config: Config) -> None:
    from ldm_ray.bundle.presence import require_bundle

    for url in urls:
        require_bundle(url, config.storage_options)


def _judge(*, data: str, urls: list[str], out: str, config: Config, json: bool, only_fig3: bool) -> None:
    from ldm_ray.data.dataset import open_dataset

    dataset = open_dataset(data, config.storage_options)
    _require_bundles(urls, config)
    from ldm_ray.bundle.bundle import load_bundle
    from ldm_ray.cluster.batch.evaluate import block_runner
    from ldm_ray.evaluation.report.folder import write_figure_3, write_report
    from ldm_ray.evaluation.report.terminal import show_scores
    from ldm_ray.evaluation.suite import evaluate as judge

    bundles = [load_bundle(url, storage_options=config.storage_options) for url in urls]
    with staged() as progress:
        evaluation = judge(dataset, bundles, config.evaluate, config.seed, progress, block_runner(config))
    with spinning("writing the report"):
        written = (
            write_figure_3(out, evaluation, dataset, config)
            if only_fig3
            else write_report(out, evaluation, bundles, dataset, config)
        )
    if json:
        print_json(evaluation.metrics)
    show_scores(evaluation.metrics)
    say("written: " + ", ".join(written))


def _ic50(*, urls: list[str], gdsc: str, basal: str, out: str, config: Config, json: bool) -> None:
    _require_bundles(urls, config)
    from ldm_ray.bundle.bundle import load_bundle
    from ldm_ray.evaluation.ic50.report import ic50_tables
    from ldm_ray.workflows.ic50 import Ic50Tables, run_ic50

    bundles = [load_bundle(url, storage_options=config.storage_options) for url in urls]
    metrics, written = run_ic50(bundles, Ic50Tables(gdsc, basal), out, config)
    if json:
        print_json(metrics)
    narrow = ("PCC", "rows")  # in the files only; the terminal has no room for them
    for table in ic50_tables(metrics):
        kept = [i for i, head in enumerate(table.head) if head not in narrow]
        show_table(
            f"LN_IC50, {table.title}", [table.head[i] for i in kept], [[row[i] for i in kept] for row in table.body]
        )
    for note in metrics["notes"]:
        say(note)
    say("written: " + ", ".join(written))
