"""Trains 20 steps of each case, alone or as one of two gloo processes; started by `test_ddp.py`, one file per case.

Arguments: rank, world size, port, dataset root, output folder, cases (JSON: settings, kind and precision by name).
"""

import json
import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ldm_ray.bundle.target_base import fit_target_base
from ldm_ray.chem.embedding import build_encoder, load_embeddings
from ldm_ray.config import Config, config_from_dict
from ldm_ray.data.controls import basal_input
from ldm_ray.data.dataset import open_dataset
from ldm_ray.data.slices import profile_files
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae
from ldm_ray.training.loop import run_fit, start_fit
from ldm_ray.training.rows import Tables
from ldm_ray.training.steps import Latents, LdmTask, VaeTask
from tests.conftest import resident_source
from tests.ray import normalised

STEPS = 20


class Hooks:
    """Keeps the gradients of the last step before they are cleared."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.gradients = module, {}  # type: ignore[var-annotated]

    def on_step(self, step: int, total: int, epoch: int, loss: torch.Tensor) -> None:
        if step == STEPS:
            self.gradients = {n: p.grad.clone() for n, p in self.module.named_parameters() if p.grad is not None}

    def report(self, metrics: dict[str, Any], state: dict[str, Any] | None) -> None:
        return


def main(rank: int, world_size: int, port: int, root: str, out: Path, cases: dict[str, dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
    for name, case in cases.items():
        config = config_from_dict(case["settings"])
        torch.save(train(rank, world_size, config, root, case["kind"], case["precision"]), out / f"{name}.pt")
    if world_size > 1:
        (out / "sync_batch_norm.txt").write_text(said_by_sync_batch_norm())
        torch.save(normalised.findings(rank, world_size), out / "normalised.pt")
        (out / "exchanges.json").write_text(json.dumps([normalised.exchanges(groups) for groups in (1, 2)]))
        dist.destroy_process_group()


def said_by_sync_batch_norm() -> str:
    """What torch's own batch normalisation across processes says on a CPU."""
    try:
        torch.nn.SyncBatchNorm(5)(torch.randn(6, 5))
    except ValueError as error:
        return str(error)
    return ""


def train(rank: int, world_size: int, config: Config, root: str, kind: str, precision: str) -> dict[str, Any]:
    dataset = open_dataset(root)
    settings = config.train_vae if kind == "vae" else config.train_ldm
    files = profile_files(dataset, config.ingest)
    source = resident_source(files, config, settings.global_batch_size, rank, world_size)
    vectors = load_embeddings(dataset.store, build_encoder(config.encoder), dataset.parent_smiles.tolist())
    base = fit_target_base(dataset, config.target).on(dataset).table
    arrays = (dataset.basal_expression, basal_input(dataset, config.denoiser.basal_input), vectors, base)
    tables = Tables(*(torch.from_numpy(np.array(values)) for values in arrays))
    torch.manual_seed(0)
    vae = Vae(dataset.n_genes, config.vae)
    model = LatentDiffusion(dataset.n_genes, vectors.shape[1], config)
    if precision == "float64":
        vae, model = vae.double(), model.double()
        tables = Tables(*(getattr(tables, f.name).double() for f in fields(tables) if f.name != "effects"))
        rows = {
            split: replace(part, **{n: getattr(part, n).double() for n in ("expression", "dose_um", "time_h")})
            for split, part in source.rows.items()
        }
        source = replace(source, rows=rows)
    latents = Latents(vae, tables)
    task = VaeTask(vae, tables, config) if kind == "vae" else LdmTask(model, latents, tables, config)
    source = replace(source, plan=replace(source.plan, steps=STEPS // 2))
    fit = start_fit(task.module, settings)
    fit.best = {}
    hooks = Hooks(task.module)
    load = task.module.load_state_dict
    raw: dict[str, torch.Tensor] = {}

    def keep_raw(state: dict[str, torch.Tensor], **kwargs: object) -> object:
        if fit.step == STEPS and not raw:  # the last epoch's validation begins by setting the raw weights aside
            raw.update({name: value.clone() for name, value in task.module.state_dict().items()})
        return load(state, **kwargs)

    task.module.load_state_dict = keep_raw  # type: ignore[assignment,method-assign]
    run_fit(fit, task, source, settings, 0, hooks)
    return {"weights": raw, "gradients": hooks.gradients, "history": fit.history}


if __name__ == "__main__":
    _, rank, world_size, port, root, out, cases = sys.argv
    main(int(rank), int(world_size), int(port), root, Path(out), json.loads(cases))
