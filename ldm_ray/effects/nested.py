"""Nested random effects of treated wells: cell line and time, batch of plates within it, plate within the batch.

    y = D_g + batch_b + plate_p + rest
    D_g ~ N(mean, V_g),   batch_b ~ N(0, V_b),   plate_p ~ N(0, V_p),   rest ~ N(0, V_w)

for each gene. What plates share is no effect of a compound. A plate with training wells gets nearly its own mean, a
new plate of a known batch the batch's, and a new batch gets f D_g.
"""

from dataclasses import dataclass

import numpy as np

from ldm_ray.effects.pooling import Floats, Numbers, kept, sum_by


@dataclass(frozen=True)
class PlateSums:
    """Sums over the training wells of n plates, which one pass over the wells adds up.

    A plate that holds two cell lines or times counts as two.

    Attributes:
        total: Sum of the wells' changes, (n, n_genes).
        count: Number of wells, (n,).
        squares: Sum of squares over all wells, (n_genes,).
        group: Number of each plate's cell line and time, from 0, (n,).
        batch: Number of each plate's batch within its group, from 0, (n,); batches of two groups differ.
    """

    total: Floats
    count: Numbers
    squares: Floats
    group: Numbers
    batch: Numbers


@dataclass(frozen=True)
class Components:
    """Variances of wells within a plate, plates within a batch, batches within a group, groups; each (n_genes,)."""

    well: Floats
    plate: Floats
    batch: Floats
    group: Floats


@dataclass(frozen=True)
class NestedEffects:
    """Posterior means of the effects, log2.

    Attributes:
        components: The variances.
        everywhere: Mean of D_g, for cell lines that are not in training, (n_genes,).
        group: D_g, (n_groups, n_genes).
        batch: D_g + batch_b, (n_batches, n_genes).
        plate: D_g + batch_b + plate_p, (n_plates, n_genes).
        factor: f, the share of D_g that a new batch is given, in [0, 1].
    """

    components: Components
    everywhere: Floats
    group: Floats
    batch: Floats
    plate: Floats
    factor: float


def fit_nested(sums: PlateSums) -> NestedEffects:
    """Fit variances, effects and f.

    With the variances given, the effects are best linear unbiased predictions, from the leaves up: a plate's mean has
    variance V_p + V_w / n_p about its batch, a batch's precision-weighted mean V_b + 1 / sum of precisions about D_g,
    and so on.

    Source: Robinson 1991, doi:10.1214/ss/1177011926.
    """
    parts = fit_components(sums)
    n_groups, n_batches = int(sums.group.max()) + 1, int(sums.batch.max()) + 1
    batch_group = np.zeros(n_batches, np.int64)
    batch_group[sums.batch] = sums.group
    mean = sums.total / sums.count[:, None]
    noise = parts.well / sums.count[:, None]
    batch_mean, batch_noise = _pooled(mean, parts.plate + noise, sums.batch, n_batches)
    group_mean, group_noise = _pooled(batch_mean, parts.batch + batch_noise, batch_group, n_groups)
    one = np.zeros(n_groups, np.int64)
    everywhere = _pooled(group_mean, parts.group + group_noise, one, 1)[0][0]
    group = everywhere + kept(parts.group, group_noise) * (group_mean - everywhere)
    batch = group[batch_group] + kept(parts.batch, batch_noise) * (batch_mean - group[batch_group])
    plate = batch[sums.batch] + kept(parts.plate, noise) * (mean - batch[sums.batch])
    return NestedEffects(parts, everywhere, group, batch, plate, leave_batch_out(sums, batch_group))


def fit_components(sums: PlateSums) -> Components:
    """Estimate the variances by the method of moments: sums of squares between levels equal their expectations.

    Source: Searle, Casella & McCulloch 1992, Variance Components, section 5.3 (Henderson's method 1 for nested
    unbalanced data), clipped at 0 from the wells upwards.
    """
    n = sums.count.astype(float)
    of_batch, of_group = np.bincount(sums.batch, n), np.bincount(sums.group, n)
    batch_group = np.zeros(len(of_batch), np.int64)
    batch_group[sums.batch] = sums.group
    batch_total = sum_by(sums.total, sums.batch, len(of_batch))
    group_total = sum_by(batch_total, batch_group, len(of_group))
    # Sums of squares of the means of plates, batches, groups and everything, and how often each variance is in them.
    plates, batches, groups = (
        (total**2 / count[:, None]).sum(axis=0)
        for total, count in ((sums.total, n), (batch_total, of_batch), (group_total, of_group))
    )
    whole, n_wells = sums.total.sum(axis=0) ** 2 / n.sum(), n.sum()
    n_plates, n_batches, n_groups = len(n), len(of_batch), len(of_group)
    plate_in = [(n**2 / of_batch[sums.batch]).sum(), (n**2 / of_group[sums.group]).sum(), (n**2).sum() / n_wells]
    batch_in = [(of_batch**2 / of_group[batch_group]).sum(), (of_batch**2).sum() / n_wells]
    well = _share(sums.squares - plates, n_wells - n_plates)
    plate = _share(plates - batches - (n_plates - n_batches) * well, n_wells - plate_in[0])
    left = batches - groups - (n_batches - n_groups) * well - (plate_in[0] - plate_in[1]) * plate
    batch = _share(left, n_wells - batch_in[0])
    left = groups - whole - (n_groups - 1) * well - (plate_in[1] - plate_in[2]) * plate
    group = _share(left - (batch_in[0] - batch_in[1]) * batch, n_wells - (of_group**2).sum() / n_wells)
    return Components(well, plate, batch, group)


def leave_batch_out(sums: PlateSums, batch_group: Numbers) -> float:
    """Return f: what share of the other batches' mean change best predicts the wells of a batch, in [0, 1].

        f = sum_b <D_-b, S_b> / sum_b n_b |D_-b|^2

    S_b and n_b are sum and number of the wells of batch b, D_-b the mean change of its cell line and time without it.
    It is 0 if no cell line and time has two batches.
    """
    n_batches, n_groups = len(batch_group), int(batch_group.max()) + 1
    own, count = sum_by(sums.total, sums.batch, n_batches), np.bincount(sums.batch, sums.count)
    total, number = sum_by(own, batch_group, n_groups)[batch_group], np.bincount(batch_group, count)[batch_group]
    others = number > count
    rest = (total - own)[others] / (number - count)[others, None]
    above, below = float((rest * own[others]).sum()), float(count[others] @ (rest**2).sum(axis=1))
    return min(1.0, max(0.0, above / below)) if below else 0.0


def _pooled(mean: Floats, variance: Floats, place: Numbers, count: int) -> tuple[Floats, Floats]:
    """Pool means by precision; return the pooled means and their variances, (count, width) each.

    Where a variance is 0, as it is for a gene that never varies, all means count alike.
    """
    weight = 1.0 / variance.clip(min=1e-12)
    total = sum_by(weight, place, count)
    return sum_by(weight * mean, place, count) / total, 1.0 / total


def _share(value: Floats, of: float) -> Floats:
    """Return value / of, at least 0; 0 without degrees of freedom."""
    return (value / of).clip(min=0.0) if of > 1e-9 else np.zeros_like(value)
