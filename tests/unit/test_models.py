"""The networks: published shapes, keyed dropout, and losses that equal their equations."""

import math
from dataclasses import replace

import pytest
import torch

from ldm_ray.config import load_config
from ldm_ray.errors import SettingsError, ShapeError
from ldm_ray.models.batch_norm import GlobalBatchNorm, normalise_in_groups
from ldm_ray.models.blocks import KeyedDropout, Mlp, Norm, side_by_side
from ldm_ray.models.condition import ConditionBatch, ConditionEncoder
from ldm_ray.models.ldm import LatentDiffusion
from ldm_ray.models.vae import Vae, reparameterise, vae_loss
from ldm_ray.settings import VaeSettings
from ldm_ray.training.source import check_groups
from tests.conftest import small_config

GENES, EMBEDDING, BATCH = 7, 11, 3


def condition(batch: int = BATCH) -> ConditionBatch:
    g = torch.Generator().manual_seed(1)
    return ConditionBatch(
        torch.randn(batch, GENES, generator=g),
        torch.randn(batch, EMBEDDING, generator=g),
        torch.tensor([0.1, 1.0, 10.0] * batch)[:batch],
        torch.tensor([6.0, 24.0, 96.0] * batch)[:batch],
    )


def test_paper_preset_has_the_published_layers() -> None:
    config = load_config(None, ["preset=paper"])
    vae, model = Vae(978, config.vae), LatentDiffusion(978, 768, config)
    encoder = model.condition_encoder
    assert [block.linear.out_features for block in vae.encoder.blocks] == [512, 256, 256]
    assert vae.mu_head.out_features == 256
    assert encoder.joint.blocks[0].linear.in_features == 576
    assert [block.linear.out_features for block in encoder.basal.blocks] == [512, 512, 256, 256]
    assert [block.linear.out_features for block in encoder.compound.blocks] == [512, 256, 256]
    assert [block.linear.out_features for block in encoder.joint.blocks] == [512, 256, 256]
    assert [block.linear.in_features for block in model.denoiser.blocks] == [256 + 128 + 256, 768, 768]
    assert model.denoiser.output.out_features == 512
    assert isinstance(model.denoiser.blocks[0].norm, torch.nn.BatchNorm1d)
    assert (config.target, model.head, model.diffusion.num_steps) == ("absolute", "v", 1000)
    literal = load_config(None, ["preset=paper-literal"])
    assert shapes(LatentDiffusion(978, 768, literal)) == shapes(model)
    assert shapes(Vae(978, literal.vae)) == shapes(vae)


def shapes(module: torch.nn.Module) -> list[torch.Size]:
    return [parameter.shape for parameter in module.parameters()]


def test_vae_loss_is_equation_2() -> None:
    vae = Vae(GENES, small_config("vae.standardise=false").vae)
    x, eps = torch.randn(BATCH, GENES), torch.randn(BATCH, 8)
    mu, log_var = vae.encode(x)
    x_hat = vae.decode(mu + torch.exp(log_var / 2) * eps)
    kl = mu**2 + torch.exp(log_var) - log_var - 1
    mean = vae_loss(vae, x, eps, 0.5, "mean").loss
    torch.testing.assert_close(mean, ((x - x_hat) ** 2).mean() + 0.5 * kl.mean())
    literal = vae_loss(vae, x, eps, 0.5, "sum").loss * GENES
    torch.testing.assert_close(literal, ((x - x_hat) ** 2).sum(1).mean() + 0.5 * kl.sum(1).mean())


def test_linear_decoder_of_the_mean_latent_is_the_mean_of_decoded_latents() -> None:
    """Why the default's direct mean is exact: decoding and averaging commute."""
    vae = Vae(GENES, small_config().vae)
    vae.set_scaling(torch.randn(GENES), torch.rand(GENES) + 0.5)
    z = torch.randn(50, 8)
    torch.testing.assert_close(vae.decode(z.mean(0, keepdim=True)), vae.decode(z).mean(0, keepdim=True))


def test_keyed_dropout_follows_the_row() -> None:
    dropout, h = KeyedDropout(0.5, salt=1), torch.ones(4, 64)
    keys = torch.tensor([5, 6, 7, 5])
    out = dropout(h, keys)
    assert torch.equal(out[0], out[3])
    assert not torch.equal(out[0], out[1])
    assert torch.equal(dropout(h[1:3], keys[1:3]), out[1:3])
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropout.eval()(h, keys), h)


def test_global_batch_norm_alone_is_batch_norm() -> None:
    ours, theirs, x = GlobalBatchNorm(5), torch.nn.BatchNorm1d(5), torch.randn(6, 5)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("norms", [("none", "none"), ("layer", "none"), ("batch", "batch")])
def test_networks_side_by_side_are_the_same_networks(norms: tuple[Norm, Norm]) -> None:
    deep, flat = Mlp(3, (6, 5, 4), norms[0], dropout=0.5, salt=1), Mlp(2, (7,), norms[1], input_dropout=0.5, salt=2)
    x, y, keys = torch.randn(8, 3), torch.randn(8, 2), torch.arange(8)
    together = side_by_side([deep, flat], [x, y], keys)
    assert torch.equal(together[0], deep(x, keys))
    assert torch.equal(together[1], flat(y, keys))


def test_condition_parts_all_reach_the_output() -> None:
    encoder = ConditionEncoder(GENES, EMBEDDING, small_config().denoiser).eval()
    base = condition()
    out = encoder(base)
    changed = {
        "x_basal": ConditionBatch(base.x_basal + 1, base.compound, base.dose_um, base.time_h),
        "compound": ConditionBatch(base.x_basal, base.compound + 1, base.dose_um, base.time_h),
        "dose_um": ConditionBatch(base.x_basal, base.compound, base.dose_um * 10, base.time_h),
        "time_h": ConditionBatch(base.x_basal, base.compound, base.dose_um, base.time_h * 2),
    }
    for name, other in changed.items():
        assert not torch.allclose(encoder(other), out), name
    with pytest.raises(ShapeError, match="x_basal must have 7 genes; got 5"):
        encoder(ConditionBatch(base.x_basal[:, :5], base.compound, base.dose_um, base.time_h))
    with pytest.raises(ShapeError, match="compound must have width 11"):
        encoder(ConditionBatch(base.x_basal, base.compound[:, :5], base.dose_um, base.time_h))


def test_groups_of_lanes_are_normalised_apart() -> None:
    """Group g is the lanes g, g + 2, ...; running moments are the mean of the groups'."""
    layer = GlobalBatchNorm(3, momentum=0.3)
    normalise_in_groups(layer, groups=2, lanes=4)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1]) + 2
    out, group = layer(x), torch.arange(20) // 5 % 2
    own = [torch.nn.BatchNorm1d(3, momentum=0.3) for _ in range(2)]
    for number, reference in enumerate(own):
        torch.testing.assert_close(out[group == number], reference(x[group == number]))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(layer, name), sum(getattr(one, name) for one in own) / 2)
    torch.testing.assert_close(layer.eval()(x), (x - layer.running_mean) / torch.sqrt(layer.running_var + layer.eps))


def test_groups_that_workers_or_batches_would_tear_apart_are_refused() -> None:
    check_groups(4, 16, 256, 2)
    check_groups(1, 16, 100, 3)
    with pytest.raises(SettingsError, match="workers must divide denoiser.norm_groups = 4; got 3"):
        check_groups(4, 16, 256, 3)
    with pytest.raises(SettingsError, match="must be a multiple of ray.lanes = 16; got 100"):
        check_groups(4, 16, 100, 2)
    with pytest.raises(SettingsError, match="must be at least 32, two wells in each; got 16"):
        check_groups(16, 16, 16, 1)
    with pytest.raises(SettingsError, match=r"norm_groups must divide ray.lanes = 16; got 3"):
        load_config(None, ["denoiser.norm_groups=3"])


def sized(dim: int = 4) -> Vae:
    torch.manual_seed(0)
    vae = Vae(GENES, VaeSettings(latent_dim=dim, size=True, encoder_widths=(16,))).eval()
    vae.unit.copy_(torch.rand(GENES) + 0.5)
    vae.set_scaling(torch.zeros(GENES), vae.unit)
    return vae


def test_a_louder_well_has_the_same_shape_and_a_larger_size() -> None:
    vae, x = sized(), torch.randn(5, GENES)
    quiet, loud = vae.encode(x)[0], vae.encode(3.0 * x)[0]
    torch.testing.assert_close(loud[:, :-1], quiet[:, :-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loud[:, -1], quiet[:, -1] + math.log(3.0))
    torch.testing.assert_close(quiet[:, -1].exp() ** 2, ((x / vae.unit) ** 2).mean(dim=1))
    torch.testing.assert_close(vae.decode(loud), 3.0 * vae.decode(quiet), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vae.size_at(loud), vae.size_of(3.0 * x))


def test_loud_wells_weigh_no_more_than_others_and_their_size_is_no_chance() -> None:
    vae, x, eps = sized(), torch.randn(6, GENES), torch.randn(6, 4)
    factors = torch.rand(6, 1) * 10 + 0.1
    own, scaled = (vae_loss(vae, rows, eps, 0.1, "mean") for rows in (x, factors * x))
    torch.testing.assert_close(own.loss, scaled.loss, rtol=1e-4, atol=1e-5)
    mu, log_var = vae.encode(x)
    z = reparameterise(mu, log_var, torch.randn(6, 5))
    torch.testing.assert_close(z[:, -1], mu[:, -1])
    assert (z[:, :-1] != mu[:, :-1]).all()


def test_whitened_latents_are_uncorrelated_and_come_back() -> None:
    config = load_config(None, ["denoiser.whiten=true", "vae.latent_dim=6", "vae.size=true"])
    model = LatentDiffusion(GENES, 8, config)
    z = torch.randn(4000, 7) @ torch.randn(7, 7) + 3.0
    model.set_latent_scaling(z.mean(dim=0), z.std(dim=0, correction=0))
    scaled = model.scale_latent(z)
    model.set_whitening(scaled.T @ scaled / len(z))
    white = model.scale_latent(z)
    torch.testing.assert_close(white.T @ white / len(z), torch.eye(7), rtol=0, atol=2e-3)
    torch.testing.assert_close(model.unscale_latent(white), z, rtol=1e-3, atol=1e-3)


def test_a_hidden_compound_changes_nothing() -> None:
    config = load_config(None, ["denoiser.compound_input=false", "vae.latent_dim=6"])
    torch.manual_seed(0)
    model = LatentDiffusion(GENES, 8, config).eval()
    batch = ConditionBatch(torch.randn(3, GENES), torch.rand(3, 8), torch.rand(3) + 0.1, torch.rand(3))
    other = replace(batch, compound=torch.rand(3, 8))
    encoder = model.condition_encoder
    torch.testing.assert_close(encoder(batch), encoder(other), rtol=0, atol=0)
    parts = encoder.encode_basal(batch.x_basal), encoder.encode_compound(batch.compound)
    torch.testing.assert_close(encoder.join(*parts, batch.dose_um, batch.time_h), encoder(batch))
