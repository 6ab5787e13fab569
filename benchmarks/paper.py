"""How the model of preset `paper` gets better with training, and what each estimate of its loss, Eq. (10), is worth.

    python benchmarks/paper.py --data ROOT [--steps N ...] [--estimate NAME ...] [--seed N ...] [--json OUT]
        [--sampler-steps N ...]
    python benchmarks/paper.py --data ROOT --save WELLS.pt
    python benchmarks/paper.py --wells WELLS.pt ...

Each diffusion model is trained from scratch for its number of steps, in this process, with the package's own loop, on
the autoencoder of its seed. It is judged once, on test wells of unseen compounds; settings are chosen with
`--split valid`. `--save` writes the wells as tensors, for a machine without the libraries that read datasets. `ratio`
is the RMSE of the mean of 16 draws after the longest training over that of the matched control.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine, write
from ldm_ray.config import Config, load_config
from ldm_ray.data.lanes import lanes_of
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.models.generate import ObservationNoise, ProfileGenerator, Sampling
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae
from ldm_ray.noise import mix, standard_normal
from ldm_ray.training.loop import Fit, run_fit, start_fit
from ldm_ray.training.rows import ProfileRows, Tables, condition_of
from ldm_ray.training.source import ResidentSource, lane_plan
from ldm_ray.training.tasks import TaskInputs, build_task

ESTIMATES = {
    "pairs, importance": (),
    "pairs, uniform": ("denoiser.step_sampling=uniform",),
    "single, importance": ("denoiser.loss=nll",),
    "single, uniform": ("denoiser.loss=nll", "denoiser.step_sampling=uniform"),
}
"""How Eq. (10) is estimated; the first is the preset's."""
SAMPLER_STEPS, SAMPLES, JUDGED = (25, 50, 1000), 16, 512
STEPS_PER_TENTH = 8


@dataclass(frozen=True)
class Data:
    """A dataset's wells by split, and the tables that they refer to, on one device."""

    rows: dict[str, ProfileRows]
    tables: Tables
    training_controls: np.ndarray


def main() -> None:
    """Train, judge, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--wells", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--steps", type=int, action="append")
    parser.add_argument("--autoencoder-steps", type=int, default=1500)
    parser.add_argument("--estimate", choices=ESTIMATES, action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--sampler-steps", type=int, action="append")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--split", choices=("test", "valid"), default="test")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.save:
        torch.save(stored(arguments.data), arguments.save)
        return
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wells = torch.load(arguments.wells, weights_only=False) if arguments.wells else stored(arguments.data)
    data, rows = on_device(wells, device), []
    counts = tuple(arguments.sampler_steps or SAMPLER_STEPS)
    data.rows["judged"] = judged(data.rows[arguments.split])
    result: dict[str, Any] = {
        "what": f"preset paper, {len(data.rows['judged'])} {arguments.split} wells of unseen compounds",
        **machine(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "autoencoders": {},
    }
    for seed in arguments.seed or [0]:
        base = load_config(None, ["preset=paper", f"seed={seed}", *arguments.set])
        vae, examined = autoencoder(data, base, arguments.autoencoder_steps)
        result["autoencoders"][seed] = examined
        print(seed, examined, flush=True)
        for estimate in arguments.estimate or ["pairs, importance"]:
            config = load_config(None, ["preset=paper", f"seed={seed}", *ESTIMATES[estimate], *arguments.set])
            for steps in arguments.steps or [1000]:
                rows.append({"seed": seed, "estimate": estimate} | diffusion(data, config, vae, steps, counts))
                print(rows[-1], flush=True)
                save(result, data, rows, arguments.json)
    write(save(result, data, rows, arguments.json), arguments.json)


def save(result: dict[str, Any], data: Data, rows: list[dict[str, Any]], out: Path | None) -> dict[str, Any]:
    """Return the result so far, and write it if `out` is given."""
    references = reference_scores(data)
    longest = max(rows, key=lambda row: row["steps"])
    now = result | {"references": references, "rows": rows}
    now["ratio"] = list(longest["mean"].values())[-1]["rmse"] / references["control"]["rmse"]
    if out:
        out.write_text(json.dumps(now, indent=1) + "\n")
    return now


def stored(url: str) -> dict[str, Any]:
    """Read a dataset's wells as tensors; profiles keep all their digits."""
    from ldm_ray.chem.embedding import build_encoder, load_embeddings
    from ldm_ray.data.controls import training_controls
    from ldm_ray.data.dataset import open_dataset
    from ldm_ray.data.wells import load_wells

    dataset = open_dataset(url)
    embeddings = load_embeddings(dataset.store, build_encoder(load_config().encoder), dataset.parent_smiles.tolist())
    splits = {}
    for split in ("train", "valid", "test"):
        wells = load_wells(dataset, split)
        order, frame = np.argsort(wells.keys), wells.frame
        columns = {"keys": wells.keys, "basal": frame["basal_id"], "compound": frame["compound_id"]}
        own = {name: torch.tensor(np.asarray(column)[order].astype(np.int64)) for name, column in columns.items()}
        own |= {n: torch.tensor(frame[n].to_numpy(np.float32)[order]) for n in ("dose_um", "time_h")}
        splits[split] = own | {"expression": torch.tensor(wells.y[order])}
    assert bool((embeddings == (embeddings > 0)).all()), "fingerprints are bits"
    return {
        "splits": splits,
        "basal": torch.tensor(dataset.basal_expression),
        "bits": torch.tensor(embeddings > 0),
        "training_controls": np.asarray(training_controls(dataset)),
    }


def on_device(wells: dict[str, Any], device: torch.device) -> Data:
    """Move stored wells to a device."""
    basal = wells["basal"].to(device)
    tables = Tables(basal, basal, wells["bits"].to(device).float(), torch.zeros_like(basal))
    rows = {split: ProfileRows(**own).to(device) for split, own in wells["splits"].items()}
    return Data(rows, tables, wells["training_controls"])


def train(kind: str, data: Data, config: Config, steps: int, vae: dict[str, Tensor] | None) -> tuple[Any, Fit, float]:
    """Train for as many whole epochs as the steps need; return the built task, its fit and steps/s."""
    settings, lanes = config.optimiser(kind), config.ray.lanes
    wells = data.rows["train"]
    keys = wells.keys.cpu().numpy()
    lane = torch.from_numpy(lanes_of(keys, np.sort(keys), lanes)).to(wells.keys.device)
    plan = lane_plan(len(wells), lanes, settings.global_batch_size, 1)
    some = torch.arange(min(JUDGED, len(data.rows["valid"])), device=lane.device)
    splits = {"train": wells, "valid": data.rows["valid"].take(some)}  # keys are random, so these are a sample
    source = ResidentSource(splits, lane, plan, settings.global_batch_size // lanes, config.seed)
    torch.manual_seed(config.seed)
    built = build_task(
        TaskInputs(
            kind=kind,
            config=config,
            source=source,
            tables=data.tables,
            training_controls=data.training_controls,
            vae=vae,
        )
    )
    epochs = math.ceil(steps / plan.steps)
    settings = settings.model_copy(update={"epochs": epochs, "early_stopping_epochs": epochs})
    fit = start_fit(built.task.module, settings)
    began = time.monotonic()
    run_fit(fit, built.task, built.source, settings, config.seed, Silent())
    return built, fit, fit.step / (time.monotonic() - began)


class Silent:
    """Hooks that report nothing."""

    def on_step(self, step: int, total: int, epoch: int, loss: Tensor) -> None:
        """Ignore a step."""

    def report(self, metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
        """Ignore an epoch."""


def autoencoder(data: Data, config: Config, steps: int) -> tuple[Vae, dict[str, Any]]:
    """Train an autoencoder, and look at it on the judged wells."""
    built, fit, pace = train("vae", data, config, steps, None)
    vae: Vae = built.task.module.vae.eval().requires_grad_(requires_grad=False)
    wells, x = data.rows["train"], data.rows["judged"].expression
    centre = wells.expression.mean(dim=0)
    basis = torch.linalg.svd(wells.expression - centre, full_matrices=False)[2][: vae.latent_dim]
    with torch.no_grad():
        mu, log_var = vae.encode(x)
        given_back = vae.decode(mu)
    kl = 0.5 * (mu**2 + log_var.exp() - log_var - 1).mean(dim=0)
    examined = {
        "steps": fit.step,
        "steps_per_s": round(pace, 1),
        "active_units": int((mu.var(dim=0) > 0.01).sum()),
        "kl_nats": round(float(kl.sum()), 2),
        "dimensions_above_0.1_nats": int((kl > 0.1).sum()),
        "decoder": scores(x, given_back),
        "constant": scores(x, centre.expand_as(x)),
        "pca": scores(x, (x - centre) @ basis.T @ basis + centre) | {"components": len(basis)},
    }
    return vae, examined


def diffusion(data: Data, config: Config, vae: Vae, steps: int, counts: tuple[int, ...]) -> dict[str, Any]:
    """Train a diffusion model, and judge it on wells of unseen compounds."""
    weights = {f"vae.{name}": value for name, value in vae.state_dict().items()}
    built, fit, pace = train("ldm", data, config, steps, weights)
    model: LatentDiffusion = built.task.model.eval()
    wells = data.rows["judged"]
    condition, base = condition_of(wells, data.tables), data.tables.base[wells.basal]
    nothing = torch.zeros(base.shape[1], device=base.device)
    generator = ProfileGenerator(model, vae, ObservationNoise(nothing[:, None], nothing))
    means, largest, variance = {}, {}, {}
    for count in counts:
        how = Sampling(SAMPLES, SamplerChoice(steps=count), config.seed)
        profiles = generator.latent_profiles(condition, wells.keys, how)
        means[str(count)] = scores(wells.expression, profiles.mean(dim=1) + base)
        largest[str(count)], variance[str(count)] = float(profiles.abs().max()), float(profiles.var(dim=1).mean())
    errors, s = by_tenth(model, vae, data)
    return {
        "steps": fit.step,
        "steps_per_s": round(pace, 1),
        "kept_epoch": f"{fit.best_epoch + 1} of {fit.epoch}",
        "valid_nll": round(fit.best_loss, 5),
        "x0_error": errors,
        "s_quantiles": s,
        "mean": means,
        "mean_direct": scores(wells.expression, generator.direct_mean(condition, base)),
        "largest": largest,
        "variance_of_draws": variance,
    }


@torch.no_grad()
def by_tenth(model: LatentDiffusion, vae: Vae, data: Data) -> tuple[list[float], list[list[float]]]:
    """Return the error of x0_hat against predicting nothing, and quantiles of s, in each tenth of the chain."""
    wells, chain = data.rows["judged"], model.diffusion.num_steps
    encoded = model.condition_encoder(condition_of(wells, data.tables))
    mu, log_var = vae.encode(wells.expression)
    z_0 = model.scale_latent(mu + torch.exp(0.5 * log_var) * standard_normal(wells.keys, mu.shape[1]))
    errors, quantiles = [], []
    for tenth in range(10):
        squared, s = 0.0, []
        for part in range(STEPS_PER_TENTH):
            step = int((tenth + (part + 0.5) / STEPS_PER_TENTH) * chain / 10)
            t = torch.full((len(z_0),), step, device=z_0.device)
            z_t = model.diffusion.q_sample(z_0, t, standard_normal(mix(wells.keys, step), mu.shape[1]))
            reverse = model.reverse_step(z_t, t, encoded)
            squared += float(((reverse.x0_hat - z_0) ** 2).mean()) / STEPS_PER_TENTH
            s.append(reverse.s.flatten())
        errors.append(round(squared / float((z_0**2).mean()), 4))
        quantiles.append([round(float(np.quantile(torch.cat(s).cpu(), q)), 3) for q in (0.01, 0.5, 0.99)])
    return errors, quantiles


def judged(wells: ProfileRows) -> ProfileRows:
    """Return a random sample of wells; keys are random."""
    return wells.take(torch.arange(min(JUDGED, len(wells)), device=wells.keys.device))


def reference_scores(data: Data) -> dict[str, dict[str, float]]:
    """Score the matched control and the mean of all training wells on the judged wells."""
    wells = data.rows["judged"]
    y, mean = wells.expression, data.rows["train"].expression.mean(dim=0)
    return {"control": scores(y, data.tables.basal[wells.basal]), "train_mean_all": scores(y, mean.expand_as(y))}


def scores(y: Tensor, predicted: Tensor) -> dict[str, float]:
    """Return RMSE pooled over wells and genes, and PCC and R2 per profile, then averaged."""
    error = ((y - predicted) ** 2).double()
    a, b = (v.double() - v.double().mean(dim=1, keepdim=True) for v in (y, predicted))
    pcc = (a * b).sum(dim=1) / torch.sqrt((a**2).sum(dim=1) * (b**2).sum(dim=1))
    r2 = 1 - error.sum(dim=1) / (a**2).sum(dim=1)
    return {"rmse": float(error.mean().sqrt()), "pcc": float(pcc.mean()), "r2": float(r2.mean())}


if __name__ == "__main__":
    main()
