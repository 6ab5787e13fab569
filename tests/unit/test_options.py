"""The choices of network, sampling and target that a search may vary, each against its definition."""

import itertools
import math

import numpy as np
import pytest
import torch

from ldm_ray.bundle.target_base import TargetBase, fit_target_base
from ldm_ray.config import Config, load_config
from ldm_ray.data.dataset import PairedDataset
from ldm_ray.data.wells import load_wells
from ldm_ray.diffusion.samplers import SamplerChoice
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.denoiser import AdaLnDenoiser, sines
from ldm_ray.models.generate import ObservationNoise, ProfileGenerator, Sampling
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae, vae_loss
from ldm_ray.noise import mix
from ldm_ray.prediction.predictor import Predictor, Query
from ldm_ray.training.monitor import pearson
from ldm_ray.training.rows import Tables
from ldm_ray.training.step_sampling import ROWS_BEFORE_USE, StepSampler
from ldm_ray.training.steps import (
    DiffusionBatch,
    Latents,
    LdmLossModule,
    LdmTask,
    VaeBatch,
    VaeLossModule,
    VaeTask,
)
from tests.bundles import random_bundle
from tests.conftest import World

GENES, EMBEDDING, BATCH = 7, 11, 5


def small(*overrides: str) -> Config:
    sizes = ["vae.latent_dim=3", "vae.encoder_widths=[6]", "denoiser.basal_widths=[4]", "denoiser.compound_widths=[4]"]
    widths = ["denoiser.condition_widths=[6]", "denoiser.hidden_widths=[8, 8]", "schedule.num_steps=20"]
    return load_config(None, [*sizes, *widths, "predict.steps=5", *overrides])


def built(*overrides: str) -> LatentDiffusion:
    torch.manual_seed(1)
    return LatentDiffusion(GENES, EMBEDDING, small(*overrides)).eval()


def asked(n: int = BATCH) -> ConditionBatch:
    generator = torch.Generator().manual_seed(3)
    basal, compound = torch.randn(n, GENES, generator=generator), torch.rand(n, EMBEDDING, generator=generator)
    return ConditionBatch(basal, compound, 1 + torch.rand(n, generator=generator), torch.full((n,), 24.0))


def generator_of(model: LatentDiffusion, guidance: float = 1.0) -> ProfileGenerator:
    torch.manual_seed(2)
    vae = Vae(GENES, small().vae).eval()
    return ProfileGenerator(model, vae, ObservationNoise(torch.zeros(GENES, 1), torch.zeros(GENES)), guidance)


def test_a_loss_module_lies_where_its_model_does() -> None:
    config, nothing = small("denoiser.step_sampling=importance"), torch.zeros(0, GENES, device="meta")
    tables = Tables(nothing, nothing, nothing, nothing)
    vae = Vae(GENES, config.vae).to("meta")
    model = LatentDiffusion(GENES, EMBEDDING, config).to("meta")
    for module in (VaeTask(vae, tables, config).module, LdmTask(model, Latents(vae, tables), tables, config).module):
        assert {tensor.device.type for tensor in module.state_dict().values()} == {"meta"}


class TestStepSampling:
    """Eq. (18) of Nichol & Dhariwal: steps in proportion to the root of the second moment, losses reweighted."""

    KEYS = mix(torch.arange(40_000), 5)

    def trained(self, num_steps: int = 100) -> tuple[StepSampler, torch.Tensor]:
        sampler = StepSampler(num_steps, importance=True).train()
        loss = 1.0 + 30.0 * torch.exp(-torch.arange(num_steps) / 5.0)  # large at the first steps, like that of a bound
        for epoch in range(60):
            t, _ = sampler.draw(mix(self.KEYS[:2000], epoch))
            sampler.update(t, loss[t])
        return sampler, loss

    def test_probabilities_follow_the_loss(self) -> None:
        sampler, loss = self.trained()
        wanted = 0.99 * loss / loss.sum() + 0.01 / 100
        torch.testing.assert_close(sampler.probabilities(), wanted, rtol=0.02, atol=0)

    def test_the_expected_loss_stays_and_its_variance_falls(self) -> None:
        sampler, loss = self.trained()
        t, weight = sampler.draw(self.KEYS)
        weighed = weight * loss[t]
        assert float(weighed.mean()) == pytest.approx(float(loss.mean()), rel=4 * float(weighed.std()) / 200 / 2)
        assert float(weighed.var()) < 0.05 * float(loss.var())

    def test_steps_are_uniform_until_all_have_been_seen_and_outside_of_training(self) -> None:
        sampler = StepSampler(100, importance=True).train()
        sampler.update(torch.arange(98).repeat(ROWS_BEFORE_USE), torch.ones(98 * ROWS_BEFORE_USE))
        torch.testing.assert_close(sampler.probabilities(), torch.full((100,), 0.01))
        trained, _ = self.trained()
        t, weight = trained.eval().draw(self.KEYS)
        assert torch.equal(t, StepSampler(100, importance=False).draw(self.KEYS)[0])
        assert torch.equal(weight, torch.ones(len(t)))

    def test_stretches_of_a_long_chain_share_a_moment(self) -> None:
        sampler = StepSampler(4000, importance=True)
        assert sampler.second_moment.shape == (1000,)
        t, _ = sampler.train().draw(self.KEYS)
        assert (int(t.min()), int(t.max())) == (0, 3999)

    def test_moments_are_part_of_a_checkpoint(self) -> None:
        config = small("denoiser.step_sampling=importance")
        module = LdmLossModule(LatentDiffusion(GENES, EMBEDDING, config), config)
        assert {"steps.second_moment", "steps.seen"} <= set(module.state_dict())


def test_sines_are_those_of_the_transformer() -> None:
    """Against the published formula, one entry at a time."""
    out = sines(torch.tensor([[0.0], [3.0]]), 4)
    for row, position in enumerate((0.0, 3.0)):
        for i in range(4):
            angle = position * 10_000 ** (-i / 3)
            assert float(out[row, i]) == pytest.approx(math.sin(angle), abs=1e-6)
            assert float(out[row, 4 + i]) == pytest.approx(math.cos(angle), abs=1e-6)


def test_an_output_of_zero_starts_as_the_posterior_mean_of_gaussian_latents() -> None:
    model = built("denoiser.zero_output=true", "denoiser.head=v")
    z_t, t = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(0)), torch.arange(BATCH)
    step = model.reverse_step(z_t, t, torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(1)))
    signal = torch.sqrt(model.diffusion.schedule.alpha_bar[t])[:, None].float()
    torch.testing.assert_close(step.x0_hat, signal * z_t)


def test_adaln_blocks_start_as_the_identity() -> None:
    """Gates of 0: neither condition nor step can be seen before training, and both can after a step of it."""
    model = built("denoiser.architecture=adaln", "denoiser.time_embedding=sinusoidal")
    assert isinstance(model.denoiser, AdaLnDenoiser)
    z_t, t = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(0)), torch.arange(BATCH)
    one, other = (model.denoiser(z_t, t, torch.full((BATCH, 6), value)) for value in (0.0, 5.0))
    assert torch.equal(one, other)
    assert (
        not built("denoiser.architecture=adaln", "denoiser.zero_output=true")
        .denoiser(z_t, t, z_t.new_ones(BATCH, 6))
        .any()
    )
    module, config = LdmLossModule(model, small("denoiser.architecture=adaln")), asked()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(3):
        optimiser.zero_grad()
        module(DiffusionBatch(torch.randn(BATCH, 3), config, torch.arange(BATCH))).loss.backward()
        optimiser.step()
    one, other = (model.denoiser(z_t, t, torch.full((BATCH, 6), value)) for value in (0.0, 5.0))
    assert not torch.allclose(one, other)


def test_guidance_extrapolates_from_no_compound() -> None:
    """x0 = without + w (with - without): w = 1 changes nothing, w = 0 forgets the compound, and it is linear in w."""
    model = built("denoiser.guidance_dropout=0.2", "denoiser.head=x0")
    with torch.no_grad():
        assert model.condition_encoder.no_compound is not None
        model.condition_encoder.no_compound.normal_(generator=torch.Generator().manual_seed(7))
    condition, base = asked(), torch.zeros(BATCH, GENES)
    means = {w: generator_of(model, w).direct_mean(condition, base) for w in (0.0, 1.0, 2.0)}
    torch.testing.assert_close(means[2.0], 2 * means[1.0] - means[0.0], rtol=1e-4, atol=1e-4)
    other = ConditionBatch(condition.x_basal, condition.compound.flip(0), condition.dose_um, condition.time_h)
    torch.testing.assert_close(generator_of(model, 0.0).direct_mean(other, base), means[0.0])
    assert not torch.allclose(generator_of(model, 2.0).direct_mean(other, base), means[2.0])
    keys = torch.arange(BATCH)
    plain, guided = (
        generator_of(model, w).sample(condition, base, keys, Sampling(2, SamplerChoice(steps=5), 0)) for w in (1.0, 3.0)
    )
    assert not torch.allclose(plain.mean, guided.mean)


def test_rows_trained_without_their_compound_are_a_share() -> None:
    config = small("denoiser.guidance_dropout=0.25")
    module = LdmLossModule(LatentDiffusion(GENES, EMBEDDING, config), config)
    without = module.train()._without_compound(torch.arange(20_000))
    assert without is not None
    assert float(without.float().mean()) == pytest.approx(0.25, abs=0.01)
    assert module.eval()._without_compound(torch.arange(20)) is None


def test_the_regression_head_carries_the_mean_and_diffusion_the_rest() -> None:
    """Its value is added to every sample, is the direct mean, and its gradient comes from its own error alone."""
    model = built("denoiser.mean_head=true")
    condition, base, keys = asked(), torch.zeros(BATCH, GENES), torch.arange(BATCH)
    before = generator_of(model).sample(condition, base, keys, Sampling(2, SamplerChoice(steps=5), 0)).mean
    with torch.no_grad():
        assert model.mean_head is not None
        model.mean_head.of_condition.bias += 1.5
    generator = generator_of(model)
    after = generator.sample(condition, base, keys, Sampling(2, SamplerChoice(steps=5), 0)).mean
    shift = generator.vae.decode(torch.full((1, 3), 1.5)) - generator.vae.decode(torch.zeros(1, 3))
    torch.testing.assert_close(after - before, shift.expand(BATCH, -1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        generator.direct_mean(condition, base), generator.vae.decode(torch.full((BATCH, 3), 1.5))
    )
    module = LdmLossModule(model, small("denoiser.mean_head=true")).eval()
    z_0 = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(0))
    module(DiffusionBatch(z_0, condition, keys)).loss.backward()
    wanted = 2 * (1.5 - z_0).mean(dim=0) / 3
    torch.testing.assert_close(model.mean_head.of_condition.bias.grad, wanted, rtol=1e-4, atol=1e-6)


def test_the_divergence_rises_in_training_and_is_whole_in_validation() -> None:
    config = small("vae.kl_warmup_steps=3", "vae.kl_weight=2.0")
    module = VaeLossModule(Vae(GENES, config.vae), config)
    batch = VaeBatch(torch.randn(BATCH, GENES, generator=torch.Generator().manual_seed(0)), torch.arange(BATCH))
    weights = []
    for mode in (True, True, True, True, True, False):
        with torch.no_grad():
            losses = module.train(mode)(batch)
        weights.append(float((losses.loss - losses.parts["reconstruction"]) / losses.parts["kl"]))
    assert weights == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0], rel=1e-3)


def test_free_bits_cost_nothing() -> None:
    """Below the bound the penalty is the bound itself, and has no gradient; above it is the divergence."""
    torch.manual_seed(0)
    vae, x = Vae(GENES, small().vae), torch.randn(BATCH, GENES)
    eps = torch.zeros(BATCH, 3)
    free, plain = (vae_loss(vae, x, eps, 1.0, "mean", bits) for bits in (50.0, 0.0))
    assert (free.loss - free.reconstruction).item() == pytest.approx(2 * math.log(2) * 50.0, rel=1e-6)
    (free.loss - free.reconstruction).backward()
    assert vae.mu_head.weight.grad is None or not vae.mu_head.weight.grad.any()
    little = vae_loss(vae, x, eps, 1.0, "mean", 1e-9)
    assert little.loss.item() == pytest.approx(plain.loss.item(), rel=1e-6)
    assert free.kl.item() == plain.kl.item()  # the divergence itself is reported


def test_dropout_of_the_autoencoder_is_keyed() -> None:
    torch.manual_seed(0)
    vae, x = Vae(GENES, small("vae.dropout=0.5").vae).train(), torch.randn(BATCH, GENES)
    keys = torch.arange(BATCH)
    assert torch.equal(vae.encode(x, keys)[0], vae.encode(x, keys)[0])
    assert not torch.equal(vae.encode(x, keys)[0], vae.encode(x, keys + 9)[0])
    assert torch.equal(vae.eval().encode(x, keys)[0], vae.encode(x)[0])


class TestResidualTarget:
    """The base is the control plus f times the mean change; f by least squares from the other plates."""

    def brute_force(self, dataset: PairedDataset) -> float:
        wells = load_wells(dataset, "train")
        frame = wells.frame.reset_index(drop=True)
        delta = (wells.y - wells.basal).astype(float)
        above = below = 0.0
        for row in range(len(frame)):
            same = (frame["cell_id"] == frame["cell_id"][row]) & (frame["time_h"] == frame["time_h"][row])
            others = (same & (frame["plate"] != frame["plate"][row])).to_numpy()
            if others.any():
                mean = delta[others].mean(axis=0)
                above, below = above + float(mean @ delta[row]), below + float(mean @ mean)
        return above / below

    def test_the_factor_is_the_least_squares_one(self, world: World) -> None:
        base = fit_target_base(world.dataset, "residual")
        assert base.factor == pytest.approx(self.brute_force(world.dataset), rel=1e-6)
        assert 0 < base.factor < 1

    def test_what_is_added_back_is_what_was_taken(self, world: World) -> None:
        """A decoder that says 0 predicts the base, from a bundle that holds it: for queries and for wells alike."""
        dataset = world.dataset
        base = fit_target_base(dataset, "residual")
        bundle = random_bundle(world, "target=residual")
        for name, value in bundle.tensors.items():
            if name.startswith("vae.decoder"):
                value.zero_()
        own = Predictor(bundle)
        cell, time_h = next(iter(base.shift))
        answer = own.predict([Query("CCO", 1.0, time_h, cell)])
        np.testing.assert_allclose(answer.delta[0], base.of_group(cell, time_h), atol=1e-5)
        np.testing.assert_allclose(bundle.target_base().on(dataset).table, base.of_controls(dataset), atol=1e-6)

    def test_a_cell_line_without_training_wells_takes_the_mean_of_all(self) -> None:
        shift = {("A", 6.0): np.full(3, 1.0, np.float32), ("A", 24.0): np.full(3, 2.0, np.float32)}
        base = TargetBase("residual", 0.5, shift, np.full(3, 9.0, np.float32))
        values = [base.of_group(*group)[0] for group in (("A", 7.0), ("A", 99.0), ("B", 6.0))]
        assert values == [1.0, 2.0, 9.0]

    def test_the_other_targets_read_nothing(self, world: World) -> None:
        controls = world.dataset.basal_expression
        assert not fit_target_base(world.dataset, "absolute").of_controls(world.dataset).any()
        np.testing.assert_array_equal(fit_target_base(world.dataset, "delta").of_controls(world.dataset), controls)


def test_pearson_is_numpys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 9))
    ours = pearson(torch.tensor(a), torch.tensor(b)).numpy()
    np.testing.assert_allclose(ours, [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])


@pytest.mark.parametrize(
    ("architecture", "embedding", "head"),
    list(itertools.product(("concat", "adaln"), ("scalar", "sinusoidal"), (True, False))),
)
def test_every_network_overfits_one_batch(architecture: str, embedding: str, head: bool) -> None:
    config = small(
        f"denoiser.architecture={architecture}", f"denoiser.time_embedding={embedding}", "denoiser.dropout=0",
        f"denoiser.mean_head={head}", "denoiser.compound_dropout=0",
    )  # fmt: skip
    torch.manual_seed(0)
    module = LdmLossModule(LatentDiffusion(GENES, EMBEDDING, config), config)
    batch = DiffusionBatch(torch.randn(BATCH, 3), asked(), torch.arange(BATCH))
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    errors = []
    for _ in range(150):
        losses = module(batch)
        optimiser.zero_grad()
        losses.loss.backward()
        optimiser.step()
        errors.append(float(losses.parts["x0_mse"]))
    assert errors[-1] < 0.3 * errors[0]
