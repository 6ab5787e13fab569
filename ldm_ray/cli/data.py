"""The commands under `ldm-ray data`: describe, validate, migrate, resplit, gdsc."""

from dataclasses import asdict
from typing import Annotated

import typer

from ldm_ray.cli.options import ConfigFile, Json, Overrides, Root, settings
from ldm_ray.console import counting, print_json, say, show_table
from ldm_ray.errors import DataError

data_app = typer.Typer(no_args_is_help=True, help="Describe, check, update or resplit a paired dataset.")


@data_app.command(
    epilog="Examples:\n\n\n\n- `ldm-ray data describe runs/data`\n\n"
    "- `ldm-ray data describe s3://bucket/data --out runs/pictures`"
)
def describe(
    *,
    root: Root,
    out: Annotated[str | None, typer.Option(help="Also draw pictures, into this folder (path or URL).")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Print cell lines, compounds, doses, times, controls and splits, and what was dropped and why."""
    options = settings(config, overrides, None).storage_options
    from ldm_ray.data.dataset import open_dataset

    dataset = open_dataset(root, options)
    from ldm_ray.data.describe import describe as sections
    from ldm_ray.data.describe import describe_json
    from ldm_ray.data.pictures import draw_pictures
    from ldm_ray.storage.store import Store

    pictures = draw_pictures(dataset, Store(out, options)) if out else []
    if json:
        print_json(describe_json(dataset) | {"pictures": pictures})
        return
    for section in sections(dataset):
        show_table(section.title, section.columns, section.rows)
    if pictures:
        say("pictures: " + ", ".join(pictures))


@data_app.command(epilog="Example: `ldm-ray data validate runs/data`")
def validate(*, root: Root, config: ConfigFile = None, overrides: Overrides = None, json: Json = False) -> None:
    """Check a dataset's files: schema, ids, ranges, NaN, split leakage, checksums. Exit code 2 if a check fails."""
    options = settings(config, overrides, None).storage_options
    from ldm_ray.data.dataset import open_dataset

    dataset = open_dataset(root, options)
    from ldm_ray.data.validate import validate as check

    with counting("reading files") as progress:
        findings = check(dataset, progress)
    failed = [finding for finding in findings if finding.problems]
    if json:
        print_json({"valid": not failed, "findings": [asdict(finding) for finding in findings]})
    rows = [[finding.check, "; ".join(finding.problems) or "ok"] for finding in findings]
    show_table(root, ["check", "result"], rows)
    if failed:
        raise DataError(f"{root} fails {len(failed)} of {len(findings)} checks: {failed[0].problems[0]}")
    say(f"{root}: {dataset.manifest['n_profiles']:,} treated wells, all checks passed")


@data_app.command(epilog="Example: `ldm-ray data migrate runs/data`")
def migrate(*, root: Root, config: ConfigFile = None, overrides: Overrides = None, json: Json = False) -> None:
    """Update a dataset written by an older version to the current schema, in place."""
    options = settings(config, overrides, None).storage_options
    from ldm_ray.data.migrate import migrate as bring
    from ldm_ray.schema import SCHEMA_VERSION

    with counting("writing files") as progress:
        changed = bring(root, options, progress)
    if json:
        print_json({"migrated": changed, "schema_version": SCHEMA_VERSION})
    say(f"{root} {'now has' if changed else 'has'} schema version {SCHEMA_VERSION}")


@data_app.command(epilog="Example: `ldm-ray data resplit runs/data --unseen cell --out runs/data-cell`")
def resplit(
    *,
    root: Root,
    unseen: Annotated[
        str,
        typer.Option(help="What to hold out of training: cell, plate, both (compounds and cell lines) or scaffold."),
    ],
    out: Annotated[str, typer.Option(help="Folder for the new dataset, path or URL.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Split the same wells again: hold out cell lines, batches of plates, compounds and cell lines, or scaffolds."""
    options = settings(config, overrides, None).storage_options
    from ldm_ray.data.dataset import open_dataset
    from ldm_ray.data.resplit import UNSEEN
    from ldm_ray.data.resplit import resplit as write
    from ldm_ray.storage.store import Store

    asked = next((name for name in UNSEEN[1:] if name == unseen), None)
    if asked is None:
        raise DataError(f"--unseen must be one of {', '.join(UNSEEN[1:])}; got {unseen!r}")
    with counting("writing files") as progress:
        dataset = write(open_dataset(root, options), asked, Store(out, options), progress)
    sides = dataset.manifest["splits"]["split"]
    if json:
        print_json({"dataset": out, "unseen": unseen} | sides)
    say(f"{out}: " + ", ".join(f"{count:,} wells {side}" for side, count in sides.items()))


@data_app.command(
    epilog="Examples:\n\n\n\n- `ldm-ray data gdsc runs/data --table GDSC2_fitted_dose_response.csv`\n\n"
    "- `ldm-ray data gdsc runs/data --table GDSC1_and_2.csv --set ic50.dataset=GDSC1`"
)
def gdsc(
    *,
    root: Root,
    table: Annotated[
        str,
        typer.Option(help="GDSC's table of fitted dose responses: .csv with any separator, gzipped or not, or .xlsx."),
    ],
    config: ConfigFile = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Match GDSC's drug sensitivities to a dataset's cell lines and compounds; write them as a table beside it."""
    resolved = settings(config, overrides, None)
    options, asked = resolved.storage_options, resolved.ic50.dataset
    from ldm_ray.data.dataset import open_dataset

    dataset = open_dataset(root, options)
    from ldm_ray.data.gdsc import read_gdsc_table
    from ldm_ray.data.gdsc_join import join_gdsc
    from ldm_ray.layout import GDSC
    from ldm_ray.storage.source import source_file

    read = read_gdsc_table(source_file(table, options), asked)
    joined = join_gdsc(read, dataset)
    dataset.store.write_table(GDSC[asked], joined.table)
    url, counts = dataset.store.path(GDSC[asked]), joined.counts
    if json:
        print_json({"table": url, "form": read.form} | asdict(counts))
    say(f"{counts.rows:,} values in {url}; {counts.rows_joined:,} match a cell line and a compound of the dataset")
    cells, drugs = (counts.cell_lines_joined, counts.cell_lines), (counts.drugs_joined, counts.drugs)
    say(f"cell lines: {cells[0]:,} of {cells[1]:,}; drugs: {drugs[0]:,} of {drugs[1]:,}")
    low, high = read.rows["ln_ic50_um"].min(), read.rows["ln_ic50_um"].max()
    say(f"{table} was read as {read.form}; ln IC50 (uM) from {low:.3g} to {high:.3g}")
    for note in joined.notes:
        say(note)
