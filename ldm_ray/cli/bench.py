"""`ldm-ray bench`: measure a bundle on this machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from ldm_ray.cli.options import ConfigFile, Data, Json, Overrides, Seed, settings
from ldm_ray.console import counting, print_json, say, show_table

if TYPE_CHECKING:
    from ldm_ray.bundle.metadata import Metadata
    from ldm_ray.diffusion.samplers import SamplerChoice

bench_app = typer.Typer(help="Measure a bundle on this machine.", no_args_is_help=True)


@bench_app.callback()
def bench() -> None:
    """Measure a bundle on this machine."""


@bench_app.command(epilog="Example: `ldm-ray bench samplers --bundle demo/ldm --data demo/data`")
def samplers(
    *,
    bundle: Annotated[str, typer.Option(help="Bundle of a diffusion model, path or URL.")],
    data: Data,
    wells: Annotated[int, typer.Option(help="Validation wells to predict.", min=8)] = 48,
    samples: Annotated[int, typer.Option(help="Latent samples per well.", min=8)] = 48,
    store: Annotated[bool, typer.Option(help="Write the recommended sampler into the bundle.")] = True,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Compare fast samplers with the full chain; the cheapest that matches it becomes the bundle's default."""
    asked = settings(config, overrides, seed)
    from ldm_ray.data.dataset import open_dataset

    dataset = open_dataset(data, asked.storage_options)
    from ldm_ray.bundle.presence import require_bundle

    require_bundle(bundle, asked.storage_options)
    from ldm_ray.bundle.bundle import check_splits, load_bundle, update_metadata
    from ldm_ray.evaluation.samplers import as_rows, recommended, score_samplers

    loaded = load_bundle(bundle, "ldm", asked.storage_options)
    loaded.check_genes(dataset.manifest["genes"], data)
    check_splits(loaded, dataset.manifest["splits"], data)
    with counting("samplers") as progress:
        scores = score_samplers(loaded, dataset, "valid", wells, samples, progress=progress)
    best = recommended(scores)
    columns = ["sampler", "steps", "spacing", "profiles/s", "energy ratio", "mean RMSE", "spread", "90% coverage"]
    show_table(
        "samplers compared with the full chain",
        columns,
        [
            [
                ("> " if score is best else "  ") + _named(score.choice),
                str(score.choice.steps),
                score.choice.spacing,
                f"{score.profiles_per_s:,.0f}",
                f"{score.energy_ratio:.3f}",
                f"{score.mean_rmse_ratio:.4f}",
                f"{score.spread_ratio:.4f}",
                f"{score.coverage:.3f}",
            ]
            for score in scores
        ],
        "ratios to the full chain with learned variance; energy: to that of a second run of it",
    )
    if best is None:
        say("no sampler is within tolerance of the full chain; the bundle keeps its own")
    else:
        said = "written into the bundle" if store else "not written"
        say(f"recommended: {_named(best.choice)}, {best.choice.steps} steps, {best.choice.spacing} ({said})")
        if store:
            changes: Metadata = {"recommended_sampler": best.choice.fields(), "samplers": as_rows(scores)}
            update_metadata(bundle, changes, asked.storage_options)
    if json:
        print_json({"recommended": best.choice.fields() if best else None, "samplers": as_rows(scores)})


def _named(choice: "SamplerChoice") -> str:
    """Name a sampler with its extra parameter."""
    more = f" eta {choice.eta:g}" if choice.eta else f" correction {choice.correction:g}" if choice.correction else ""
    return choice.kind + more
