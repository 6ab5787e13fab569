"""The empirical-Bayes control: a plate's few control wells, drawn towards the mean of all plates by how noisy they are.

    C_p = mu_g + plate_p + noise,   plate_p ~ N(0, B),   noise ~ N(0, W / n_p)
    b_p = mu_g + B / (B + W / n_p) (C_p - mu_g)

for each gene; g is the cell line and time of plate p, and n_p the number of wells that C_p averages.
"""

from dataclasses import dataclass

import numpy as np

from ldm_ray.effects.pooling import Floats, Numbers, kept, sum_by


@dataclass(frozen=True)
class ControlProfiles:
    """n control profiles, log2.

    Attributes:
        mean: Mean of each profile's wells, C_p, (n, n_genes).
        variance: Their variance (n_wells - 1 in the denominator), (n, n_genes); NaN where it is not known.
        n_wells: Number of wells, (n,).
        group: Number of the cell line and time, (n,).
    """

    mean: Floats
    variance: Floats
    n_wells: Numbers
    group: Numbers


@dataclass(frozen=True)
class ControlModel:
    """Variance components of control profiles, and their means.

    Attributes:
        within: W, variance of the wells of a plate, (n_genes,).
        between: B, variance of plates of one cell line and time, (n_genes,).
        mean: mu_g of each group in `groups`, (n_groups, n_genes).
        groups: Numbers of the groups with a mean, increasing.
    """

    within: Floats
    between: Floats
    mean: Floats
    groups: Numbers

    def shrunk(self, mean: Floats, n_wells: Numbers, group: Numbers) -> Floats:
        """Return the posterior mean b_p of each profile, (n, n_genes); profiles of unknown groups stay as they are.

        Args:
            mean: C_p, (n, n_genes).
            n_wells: Wells behind each, (n,).
            group: Group of each, (n,).
        """
        place = np.searchsorted(self.groups, group).clip(max=max(0, len(self.groups) - 1))
        known = self.groups[place] == group if len(self.groups) else np.zeros(len(group), bool)
        centre = self.mean[place[known]]
        out = mean.copy()
        out[known] = centre + self.weight(n_wells[known]) * (mean[known] - centre)
        return out

    def weight(self, n_wells: Numbers) -> Floats:
        """Return how much of a deviation from mu_g is kept, B / (B + W / n), (n, n_genes)."""
        return kept(self.between, self.within / n_wells[:, None])


def fit_controls(controls: ControlProfiles) -> ControlModel:
    """Fit W, B and mu_g on the control profiles of training wells.

    W pools the variances within profiles. B is the pooled variance of C_p between the profiles of a group, minus
    W mean(1 / n_p), at least 0. mu_g weighs profiles by 1 / (B + W / n_p).

    Source: Efron & Morris 1973, doi:10.1080/01621459.1973.10481350, with moments for the two variances (Searle,
    Casella & McCulloch 1992, Variance Components, chapter 3).

    Note:
        Without a profile of known variance W is unknown and taken as 0: nothing is shrunk.
    """
    known = np.asarray(np.isfinite(controls.variance).all(axis=1))
    free = np.where(known, controls.n_wells - 1, 0).astype(float)
    spread = np.where(known[:, None], controls.variance, 0.0)
    within = free @ spread / free.sum() if free.sum() else np.zeros(controls.mean.shape[1])
    groups, place = np.unique(controls.group, return_inverse=True)
    count = np.bincount(place).astype(float)
    plain = sum_by(controls.mean, place, len(groups)) / count[:, None]
    squares = ((controls.mean - plain[place]) ** 2).sum(axis=0)
    # E[squares] = sum over groups of (1 - 1 / count) sum_p (B + W / n_p).
    share = 1.0 - 1.0 / count[place]
    between = np.zeros_like(within)
    if share.sum() > 0:
        between = ((squares - within * (share / controls.n_wells).sum()) / share.sum()).clip(min=0.0)
    variance = between + within / controls.n_wells[:, None]
    weights = np.divide(1.0, variance, out=np.ones_like(variance), where=variance > 0)
    mean = sum_by(weights * controls.mean, place, len(groups)) / sum_by(weights, place, len(groups))
    return ControlModel(within, between, mean, groups.astype(np.int64))
