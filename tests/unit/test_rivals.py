"""The published rivals: sizes, learning, sampling."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ldm_ray.config import load_config
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.diffusion.schedule import scaled_linear_schedule
from ldm_ray.errors import SettingsError
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import ProfileSampler, Sampling
from ldm_ray.models.rivals import build_baseline
from ldm_ray.models.rivals.generate import PertditGenerator, PrnetGenerator
from ldm_ray.models.rivals.prnet import Prnet
from ldm_ray.settings import RIVAL_KINDS, OptimiserSettings, PertditSettings
from ldm_ray.training.loop import learning_rate_at, plateaus, run_fit, start_fit
from ldm_ray.training.rival_steps import SMALLEST_VARIANCE, RivalTask, gaussian_nll_loss
from ldm_ray.training.rows import ProfileRows, Rows, Tables, expression_of
from ldm_ray.training.source import ResidentSource, lane_plan

GENES, DRUG_DIM, COMPOUNDS = 24, 16, 12
SMALL = PertditSettings(model_dim=32, n_blocks=1, n_heads=2)
PARAMETERS = {"prnet": 551_204, "pertdit-cross": 2_163_713, "pertdit-catcross": 2_162_433, "pertdit-ada": 2_423_553}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", RIVAL_KINDS)
def test_sizes_are_the_published_ones(kind: str) -> None:
    model = build_baseline(kind, n_genes=978, embedding_dim=1024)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[kind]


def test_pertdit_schedule_is_the_published_one() -> None:
    schedule = scaled_linear_schedule(50, 0.002, 0.4)
    assert schedule.alpha_bar[-1].item() == pytest.approx(2.4e-4, rel=0.02)
    np.testing.assert_allclose(np.diff(schedule.beta.sqrt().numpy(), n=2), 0, atol=1e-12)


@dataclass(frozen=True)
class Toy:
    """Wells of y = control + log10(dose + 1) W bits + noise."""

    source: ResidentSource
    tables: Tables
    valid: Rows


@pytest.fixture(scope="module")
def toy() -> Toy:
    generator = torch.Generator().manual_seed(0)
    bits = (torch.rand(COMPOUNDS, DRUG_DIM, generator=generator) < 0.4).float()
    effect = torch.randn(DRUG_DIM, GENES, generator=generator)
    basal = 8 + torch.randn(4, GENES, generator=generator)

    def rows(n: int, first: int) -> ProfileRows:
        compound = torch.randint(COMPOUNDS, (n,), generator=generator)
        own = torch.randint(4, (n,), generator=generator)
        dose = 10 ** (2 * torch.rand(n, generator=generator))
        y = basal[own] + torch.log10(dose + 1)[:, None] * (bits[compound] @ effect) * 0.5
        y = y + 0.3 * torch.randn(n, GENES, generator=generator)
        return ProfileRows(
            keys=torch.arange(first, first + n),
            expression=y,
            basal=own,
            compound=compound,
            dose_um=dose,
            time_h=torch.full((n,), 24.0),
        )

    train, valid = rows(1024, 0), rows(128, 5000)
    source = ResidentSource({"train": train, "valid": valid}, torch.arange(1024) % 16, lane_plan(1024, 16, 64, 1), 4, 0)
    return Toy(source, Tables(basal, basal, bits, basal), valid)


class Quiet:
    def on_step(self, step: int, total: int, epoch: int, loss: Tensor) -> None: ...
    def report(self, metrics: object, state: object) -> None: ...


def trained(toy: Toy, kind: str, epochs: int) -> tuple[ProfileSampler, list[dict[str, float]]]:
    config = load_config(None, [f"pertdit.{key}={value}" for key, value in SMALL.model_dump().items()])
    torch.manual_seed(0)
    model = build_baseline(kind, GENES, DRUG_DIM, SMALL)
    if not isinstance(model, Prnet):
        y = expression_of(toy.source.rows["train"])
        model.set_scaling(y.mean(0), y.std(0))
    task = RivalTask(model, toy.tables, config, torch.device("cpu"))
    settings = OptimiserSettings(epochs=epochs, learning_rate=3e-3, warmup_steps=20, ema_decay=0.0, weight_decay=0.0)
    fit = start_fit(task.module, settings)
    run_fit(fit, task, toy.source, settings, 0, Quiet())
    model.eval()
    return (PrnetGenerator(model) if isinstance(model, Prnet) else PertditGenerator(model, SMALL)), fit.history


def asked(toy: Toy) -> ConditionBatch:
    rows = toy.valid
    return ConditionBatch(toy.tables.basal[rows.basal], toy.tables.embeddings[rows.compound], rows.dose_um, rows.time_h)


@pytest.mark.parametrize(
    ("kind", "epochs"),
    [
        ("prnet", 40),
        ("pertdit-cross", 60),
        pytest.param("pertdit-catcross", 60, marks=pytest.mark.full),
        pytest.param("pertdit-ada", 60, marks=pytest.mark.full),
    ],
)
def test_each_learns_a_planted_effect_and_beats_the_control(toy: Toy, kind: str, epochs: int) -> None:
    sampler, history = trained(toy, kind, epochs)
    assert history[-1]["valid_loss"] < 0.9 * history[0]["valid_loss"] or history[-1]["valid_loss"] < 0
    condition, y = asked(toy), expression_of(toy.valid)
    samples = sampler.sample(condition, condition.x_basal, toy.valid.keys, Sampling(8, SamplerChoice(), 0, n_draws=2))
    rmse = float(((samples.mean - y) ** 2).mean().sqrt())
    control = float(((condition.x_basal - y) ** 2).mean().sqrt())
    assert rmse < 0.8 * control, (rmse, control)
    # a row's sample does not depend on the other rows
    few = sampler.sample(
        condition.rows(slice(5, 9)), condition.x_basal[5:9], toy.valid.keys[5:9], Sampling(8, SamplerChoice(), 0, 2)
    )
    torch.testing.assert_close(few.mean, samples.mean[5:9], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(few.draws, samples.draws[5:9], rtol=1e-4, atol=1e-4)


def test_prnets_loss_is_torchs() -> None:
    torch.manual_seed(0)
    mean, y, variance = torch.randn(4, 7), torch.randn(4, 7), 3e-6 * torch.rand(4, 7)
    wanted = functional.gaussian_nll_loss(mean, y, variance, eps=SMALLEST_VARIANCE)
    torch.testing.assert_close(gaussian_nll_loss(mean, y, variance), wanted, rtol=0, atol=0)


def test_a_half_covered_token_is_padded() -> None:
    model = build_baseline("pertdit-cross", 10, 8, PertditSettings(model_dim=16, n_blocks=1, genes_per_token=4))
    tokens = model.drug_tokens(torch.rand(3, 8), torch.ones(3))  # type: ignore[union-attr,operator]
    assert model(torch.rand(3, 10), torch.rand(3, 10), tokens, torch.zeros(3).long()).shape == (3, 10)


def test_rates_warm_up_from_a_share_and_halve_at_plateaus() -> None:
    pertdit = OptimiserSettings(learning_rate=1e-3, warmup_steps=5000, warmup_share=0.5, cosine_steps=1_000_000)
    assert learning_rate_at(0, 10, pertdit) == pytest.approx(5e-4, rel=1e-3)
    assert learning_rate_at(5000, 10, pertdit) == pytest.approx(1e-3, rel=1e-3)
    assert learning_rate_at(10**6, 10, pertdit) == pytest.approx(5e-5)
    losses = [1.0, 0.5, *[0.6] * 11, 0.4, *[0.4] * 10]
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=10)
    for number, loss in enumerate(losses):
        scheduler.step(loss)
        assert 0.5 ** plateaus(losses[: number + 1], 10) == optimiser.param_groups[0]["lr"]


def test_bad_names_and_widths_are_said() -> None:
    with pytest.raises(SettingsError, match="--kind must be one of prnet, pertdit-cross"):
        build_baseline("nonsense")
    with pytest.raises(SettingsError, match="must be a multiple of n_heads = 4; got 30"):
        build_baseline("pertdit-ada", settings=PertditSettings(model_dim=30))
