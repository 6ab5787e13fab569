"""Rows sampled side by side: each as if it were alone, and as in the plain loop."""

import pytest
import torch
from torch import Tensor

from ldm_ray.config import Config, load_config
from ldm_ray.diffusion.samplers import SamplerChoice, build_plan, run_plan
from ldm_ray.keys import Purpose
from ldm_ray.models.condition import ConditionBatch
from ldm_ray.models.generate import ObservationNoise, ProfileGenerator, Sampling, row_keys
from ldm_ray.models.in_blocks import in_blocks, mean_and_var
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.prepared import prepare
from ldm_ray.models.vae import Vae
from ldm_ray.noise import mix, standard_normal

GENES, DIM = 978, 64
NETWORKS = {
    "default": [],
    "adaln": ["denoiser.architecture=adaln", "denoiser.time_embedding=sinusoidal", "denoiser.head=x0"],
    "paper": ["preset=paper"],
    "mean head and guidance": ["denoiser.mean_head=true"],
}


def config_of(name: str) -> Config:
    return load_config(None, ["encoder.n_bits=64", *NETWORKS[name]])


def model_of(config: Config) -> LatentDiffusion:
    """A network in eval mode in which every weight matters, including those that start at 0."""
    torch.manual_seed(0)
    model = LatentDiffusion(GENES, DIM, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.condition_encoder.set_scaling(torch.full((GENES,), 8.0), torch.ones(GENES))
    return model.eval()


def generator_of(name: str, rows: int = 0, guidance: float = 1.0) -> ProfileGenerator:
    config = config_of(name)
    model, vae = model_of(config), Vae(GENES, config.vae).eval()
    noise = ObservationNoise(torch.randn(GENES, 5) * 0.1, torch.rand(GENES) + 0.5)
    return ProfileGenerator(model, vae, noise, guidance, rows)


def conditions(n: int) -> tuple[ConditionBatch, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    basal = 8 + torch.randn(n, GENES, generator=generator)
    compound = (torch.rand(n, DIM, generator=generator) < 0.2).float()
    dose, time = torch.rand(n, generator=generator) * 10 + 0.1, torch.full((n,), 24.0)
    keys = mix(torch.arange(n), 5)
    return ConditionBatch(basal, compound, dose, time), basal, keys


@pytest.mark.parametrize("name", NETWORKS)
def test_a_denoiser_taken_apart_says_the_same(name: str) -> None:
    model = model_of(config_of(name))
    condition, _, keys = conditions(40)
    with torch.inference_mode():
        encoded = model.condition_encoder(condition)
        z, t = standard_normal(mix(keys, 1), model.latent_dim), torch.arange(40) * 25
        prepared = prepare(model.denoiser, model.diffusion.num_steps)
        output = prepared.output(z, t, prepared.condition_terms(encoded))
        torch.testing.assert_close(output, model.denoiser(z, t, encoded), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("choice", [
    SamplerChoice("ancestral", 7), SamplerChoice("ddim", 5, "quadratic", 0.4), SamplerChoice("dpm++2m", 6, "log_snr"),
    SamplerChoice("dpm++2m-sde", 6),
])  # fmt: skip
def test_rows_follow_the_plain_loop(choice: SamplerChoice) -> None:
    """The published loop, written out: the network as it was trained, one step after the other."""
    generator = generator_of("default")
    model, (condition, base, keys) = generator.model, conditions(9)
    how = Sampling(3, choice, seed=11)
    owner, own = row_keys(keys, 3, 11)
    with torch.inference_mode():
        encoded = model.condition_encoder(condition)[owner]

        def denoise(z_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
            step = model.reverse_step(z_t, torch.full((len(z_t),), t), encoded)
            return step.x0_hat, step.s

        z_0 = run_plan(
            denoise,
            build_plan(model.diffusion.schedule, choice),
            standard_normal(mix(own, Purpose.START), model.latent_dim),
            lambda t: standard_normal(mix(own, Purpose.REVERSE, t), model.latent_dim),
        )
        profiles = generator.vae.decode(model.unscale_latent(z_0)).view(9, 3, -1)
    samples = generator.sample(condition, base, keys, how)
    torch.testing.assert_close(samples.mean, profiles.mean(dim=1) + base, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(samples.latent_var, profiles.var(dim=1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("n_samples", [1, 5, 200])
def test_a_condition_alone_or_among_many_has_the_same_bits(name: str, n_samples: int) -> None:
    generator = generator_of(name)
    how = Sampling(n_samples, SamplerChoice(steps=3), seed=1, n_draws=min(2, n_samples))
    n = 150 if n_samples < 10 else 8
    condition, base, keys = conditions(n)
    many = generator.sample(condition, base, keys, how)
    for row in (0, 7, n // 2, n - 1):
        index = torch.tensor([row])
        one = generator.sample(condition.rows(index), base[index], keys[index], how)
        for field in ("mean", "latent_var", "draws"):
            assert torch.equal(getattr(one, field)[0], getattr(many, field)[row]), (field, row)
        if generator.has_direct_mean:
            direct = generator.direct_mean(condition.rows(index), base[index])
            assert torch.equal(direct[0], generator.direct_mean(condition, base)[row])


def test_bits_do_not_depend_on_the_threads() -> None:
    condition, base, keys = conditions(60)
    generator, how, found = generator_of("default"), Sampling(4, SamplerChoice(steps=3), 1, 2), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(generator.sample(condition, base, keys, how))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for field in ("mean", "latent_var", "draws"):
            assert torch.equal(getattr(other, field), getattr(found[0], field)), field


def test_rows_of_other_plans_share_passes() -> None:
    """Rows join and leave at any tick; each ends with the same bits as when sampled with rows of the same kind."""
    generator = generator_of("default", rows=32)
    condition, _, keys = conditions(6)
    encoded = generator.encode(condition)
    choices = [SamplerChoice("ancestral", 3), SamplerChoice("dpm++2m", 6), SamplerChoice("ddim", 4, eta=0.5)]
    _, own = row_keys(keys, 1, 0)
    rows, ended = generator.row_sampler(), {}
    at: dict[int, tuple[int, int]] = {}  # slot: condition, ticks left
    waiting = [0, 1, 2, 3, 4, 5]
    for tick in range(40):
        if tick % 2 == 0 and waiting:
            number, slot = waiting.pop(0), (tick * 7) % 32
            first, length = generator.lines(choices[number % 3])
            rows.start(torch.tensor([slot]), encoded.rows(torch.tensor([number])), own[[number]], torch.tensor([first]))
            at[slot] = (number, length)
        rows.tick()
        at = {slot: (number, left - 1) for slot, (number, left) in at.items()}
        done = {slot: number for slot, (number, left) in at.items() if left == 0}
        decoded = generator.decode(rows.latents())
        ended |= {number: decoded[slot] for slot, number in done.items()}
        at = {slot: value for slot, value in at.items() if slot not in done}
    assert sorted(ended) == list(range(6))
    for number, profile in ended.items():
        index = torch.tensor([number])
        how = Sampling(1, choices[number % 3], seed=0)
        alone = generator.sample(condition.rows(index), torch.zeros(1, GENES), keys[index], how)
        assert torch.equal(alone.mean[0], profile), number


def test_guidance_at_one_is_none_and_elsewhere_matters() -> None:
    config = load_config(None, ["encoder.n_bits=64", "denoiser.guidance_dropout=0.1"])
    model, vae = model_of(config), Vae(GENES, config.vae).eval()
    noise = ObservationNoise(torch.zeros(GENES, 1), torch.zeros(GENES))
    condition, base, keys = conditions(4)
    how = Sampling(2, SamplerChoice(steps=4), 0)
    plain, nearly, guided = (
        ProfileGenerator(model, vae, noise, weight).sample(condition, base, keys, how).mean
        for weight in (1.0, 1.0 + 1e-7, 2.0)
    )
    torch.testing.assert_close(plain, nearly, rtol=1e-4, atol=1e-4)
    assert (plain - guided).abs().max() > 1e-3


def test_blocks_have_one_size() -> None:
    seen = []

    def double(x: Tensor, y: Tensor) -> Tensor:
        seen.append(x.shape)
        return x + y[:, None]

    x, y = torch.arange(14.0).view(7, 2), torch.arange(7.0)
    torch.testing.assert_close(in_blocks(double, 3, x, y), x + y[:, None])
    assert set(seen) == {(3, 2)}
    values = torch.randn(5, 9, 4)
    mean, variance = mean_and_var(values)
    torch.testing.assert_close(mean, values.mean(dim=1))
    torch.testing.assert_close(variance, values.var(dim=1))
    assert (mean_and_var(values[:, :1])[1] == 0).all()
