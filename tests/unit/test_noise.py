"""Keyed randomness: right distribution, and a function of its key alone."""

import numpy as np
import pytest
import torch
from scipy import stats

from ldm_ray.data.world import Planted
from ldm_ray.keys import Purpose, key_of, keys_of
from ldm_ray.noise import _halves, keep_mask, mix, standard_normal, uniform_integers

KEYS = torch.from_numpy(keys_of(f"profile-{i}" for i in range(4000)))


def test_normals_are_standard_and_independent() -> None:
    z = standard_normal(mix(KEYS, 3), 51)
    assert z.shape == (4000, 51)
    assert stats.kstest(z.flatten()[::7].numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(z.T).fill_diagonal_(0.0)
    assert correlation.abs().max() < 5 / np.sqrt(4000)


def test_noise_of_a_row_does_not_depend_on_the_rows_around_it() -> None:
    whole = standard_normal(mix(KEYS, 1, 2), 7)
    assert torch.equal(standard_normal(mix(KEYS[100:103], 1, 2), 7), whole[100:103])
    assert torch.equal(standard_normal(mix(KEYS.flip(0), 1, 2), 7), whole.flip(0))


def test_seed_epoch_and_purpose_all_matter() -> None:
    first = standard_normal(mix(KEYS, 1, 2, 3), 5)
    for parts in ((2, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3), (1, 2)):
        other = standard_normal(mix(KEYS, *parts), 5)
        assert abs(float((first * other).mean())) < 0.03, parts


def test_a_tensor_part_equals_the_same_number() -> None:
    assert torch.equal(mix(KEYS, 5, torch.full_like(KEYS, -9)), mix(KEYS, 5, -9))


def test_uniform_integers_cover_their_range() -> None:
    drawn = uniform_integers(mix(KEYS, 8), 10)
    assert stats.chisquare(torch.bincount(drawn, minlength=10).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_keep_mask_keeps_the_wanted_share(keep: float) -> None:
    assert abs(float(keep_mask(KEYS, 33, keep).float().mean()) - keep) < 0.01


def test_keys_are_the_same_everywhere() -> None:
    """Golden, from `key_of` itself: another value would change every result of every saved seed."""
    assert key_of("CPC006_HT115_6H_X1_B5_DUO52HI53LO:H24") == -1431554848967090809
    assert key_of("a", "bc") != key_of("ab", "c")


def test_stream_is_splitmix64() -> None:
    """Against the published algorithm in plain integers."""
    mask = (1 << 64) - 1

    def splitmix64(seed: int, count: int) -> list[int]:
        out = []
        for _ in range(count):
            seed = (seed + 0x9E3779B97F4A7C15) & mask
            z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            out.append(z ^ (z >> 31))
        return out

    assert splitmix64(1234567, 1) == [6457827717110365317]  # the algorithm's usual test vector
    keys = torch.tensor([1234567, -1])
    high, low = _halves(keys, 4)
    for row, key in enumerate(keys.tolist()):
        bits = [(int(h) << 32) | int(x) for h, x in zip(high[row], low[row], strict=True)]
        assert bits == splitmix64(key & mask, 4)


def test_a_planted_world_and_what_is_measured_of_it_share_no_stream() -> None:
    """`ORDER` is mixed into torch's keys and never seeds numpy."""
    assert set(map(int, Planted)) & set(map(int, Purpose)) == {Purpose.ORDER}


def test_no_purpose_of_one_seed_is_another_purpose_of_the_next() -> None:
    """Seeds were once made by addition: purpose 12 of seed 0 was purpose 11 of seed 1."""
    keys = torch.arange(50)
    purposes = (Purpose.ORACLE_WELL, Purpose.ORACLE_PLATE)
    drawn = {tuple(mix(keys, seed, purpose).tolist()) for seed in range(4) for purpose in purposes}
    assert len(drawn) == 8
