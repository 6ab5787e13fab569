"""The model card, written into each bundle as README.md."""

from collections.abc import Mapping, Sequence

from ldm_ray.bundle.health import Health
from ldm_ray.bundle.health_tables import (
    DENOISER_HEAD,
    RECONSTRUCTION_HEAD,
    denoiser_rows,
    denoiser_text,
    latent_text,
    reconstruction_rows,
)
from ldm_ray.bundle.metadata import EpochRow, Metadata

WHAT = {
    "vae": "Autoencoder of 978-gene L1000 expression profiles; the first half of a latent diffusion model.",
    "ldm": "Latent diffusion model of drug-induced gene expression: from a cell line, a compound, a dose and a time to"
    " the expression of 978 landmark genes (log2) and its uncertainty.",
}
RIVAL = "Our implementation of the published model {kind}, trained on the same wells for comparison."
USAGE = """\
```python
from ldm_ray.prediction.predictor import Predictor, Query

predictor = Predictor.from_bundle("URL-OF-THIS-FOLDER")
predictions = predictor.predict([Query("CC(=O)Oc1ccccc1C(=O)O", dose_um=10, time_h=24, cell=predictor.cell_lines[0])])
predictions.mean, predictions.std, predictions.notes
```
"""
USES = """\
For ranking hypotheses: which compounds to measure, at which dose, in which cell line. A prediction says how expression
in a well would differ from its control, as far as bulk L1000 profiles of cultured cells tell. It is no evidence of
efficacy or safety, and must not guide the treatment of patients.

Check `out_of_domain` and `notes` before using a prediction: the model also answers for compounds unlike the training
compounds, for other cell lines, and for doses or times outside the ranges below, where it was never tested.
"""
LIMITS = """\
- Effects of most compounds are small compared with the noise of replicate wells; see the ceilings in the report.
- It predicts landmark genes as L1000 measures them; what the platform cannot see, the model cannot either.
- Held-out compounds are new to the model, but its cell lines are not; new cell lines are harder.
- Its standard deviations were calibrated on validation wells of the training data, and hold for similar data.
"""


def model_card(kind: str, metadata: Metadata) -> str:
    """Write the card of a bundle.

    Args:
        kind: Kind of the bundle.
        metadata: Contents of `metadata.json`.
    """
    trained = metadata.get("trained_on", {})
    head = "---\nlibrary_name: ldm_ray\ntags: [gene-expression, L1000, drug-response, diffusion]\n---\n\n"
    parts = [f"# {kind}\n", WHAT.get(kind, RIVAL.format(kind=kind)) + "\n"]
    health = metadata.get("health", {})
    parts += [f"**Check failed: {line}.**\n" for line in health.get("failed", [])]
    if trained.get("simulated"):
        parts.append(
            "**Trained on simulated data: its genes are made up, and its predictions have no biological meaning.**\n"
        )
    parts += ["## Use\n", USAGE, USES] if kind != "vae" else []
    parts += ["## Trained on\n", _table(_training_rows(metadata))]
    if history := metadata.get("history"):
        parts += ["## On validation wells\n", _table(_scores(history, metadata.get("best_epoch", -1)))]
        parts.append("To score it on test wells, with baselines and ceilings: `ldm-ray evaluate`.\n")
    parts += ["## Checks of its parts\n", *_checks(health)] if health else []
    parts += ["## Limits\n", LIMITS] if kind != "vae" else []
    return head + "\n".join(parts)


def _training_rows(metadata: Metadata) -> dict[str, str]:
    trained, domain = metadata.get("trained_on", {}), metadata.get("domain", {})
    rows = {}
    if trained:
        splits = trained["splits"]
        rows["treated wells in the dataset"] = f"{trained['n_profiles']:,}"
        rows["files"] = ", ".join(source["name"] for source in trained["sources"])
        rows["held out"] = (
            f"{splits['test_fraction']:.0%} test by {splits.get('by', 'compound')}, seed {splits['seed']}"
        )
        rows["dataset (sha256 of its manifest)"] = trained["manifest_sha256"]
    if domain:
        rows["cell lines"] = f"{len(domain['cells'])}: {', '.join(domain['cells'][:12])}" + (
            ", ..." if len(domain["cells"]) > 12 else ""
        )
        rows["doses (um)"] = " to ".join(f"{dose:.3g}" for dose in domain["dose_um"])
        rows["times (h)"] = " to ".join(f"{time:g}" for time in domain["time_h"])
    if encoder := metadata.get("encoder"):
        rows["compound encoder"] = f"{encoder['name']} ({encoder['revision']})"
    if sampler := metadata.get("recommended_sampler"):
        rows["sampler"] = f"{sampler['kind']}, {sampler['steps']} steps"
    rows["ldm_ray"] = str(metadata.get("ldm_ray_version", ""))
    return rows


def _scores(history: list[EpochRow], best: int) -> dict[str, str]:
    kept = history[best]
    scores = {name: f"{value:.4g}" for name, value in sorted(kept.items()) if name.startswith("valid")}
    return {"epochs": f"{len(history)}, number {int(kept['epoch']) + 1} kept"} | scores


def _checks(health: Health) -> list[str]:
    sections = []
    if "autoencoder" in health:
        measured = health["autoencoder"]
        sections += [latent_text(measured) + "\n", _lines([RECONSTRUCTION_HEAD, *reconstruction_rows(measured)])]
    if "denoiser" in health:
        sections += [denoiser_text(health["denoiser"]) + "\n"]
        sections += [_lines([DENOISER_HEAD, *denoiser_rows(health["denoiser"])])]
    return sections


def _table(rows: Mapping[str, str]) -> str:
    return _lines([["", ""], *map(list, rows.items())])


def _lines(rows: Sequence[Sequence[str]]) -> str:
    """Write a table whose first row is its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body, ""])
