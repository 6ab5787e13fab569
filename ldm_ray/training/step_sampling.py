"""Draws the step of the chain that a training row is noised to."""

import torch
from torch import Tensor, nn

from ldm_ray.noise import uniform, uniform_integers
from ldm_ray.training.reduce import sum_over_workers

BINS = 1000
DECAY = 0.95
UNIFORM_SHARE = 0.01
ROWS_BEFORE_USE = 32


class StepSampler(nn.Module):
    """Draws steps uniformly, or in proportion to the root of the second moment of their divergence.

    In the latter case each row's loss is weighted by the inverse of its step's relative probability, which keeps the
    expected loss and lowers its variance.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), Eq. (18).

    Note:
        Moments are kept for each step, or for 1000 equal stretches of a longer chain, over all workers. 1% of the draws
        stay uniform, and all of them until every stretch has seen 32 rows. The moments are buffers, hence part of
        checkpoints.
    """

    second_moment: Tensor
    seen: Tensor

    def __init__(self, num_steps: int, *, importance: bool) -> None:
        super().__init__()
        self.num_steps, self.importance = num_steps, importance
        if importance:
            bins = min(BINS, num_steps)
            self.register_buffer("second_moment", torch.zeros(bins))
            self.register_buffer("seen", torch.zeros(bins))

    def probabilities(self) -> Tensor:
        """Probability of each stretch, (bins,)."""
        root = torch.sqrt(self.second_moment).clamp_min(1e-12)
        by_moment = (1 - UNIFORM_SHARE) * root / root.sum() + UNIFORM_SHARE / len(root)
        # Chosen on the device: a step that waits for an answer cannot be captured as a CUDA graph.
        return torch.where((self.seen < ROWS_BEFORE_USE).any(), 1 / len(root), by_moment)

    def draw(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return zero-based steps and the weights of their losses, each (batch,); uniform outside training.

        Args:
            keys: Keys of the draws, (batch,), int64.
        """
        if not (self.importance and self.training):
            return uniform_integers(keys, self.num_steps), torch.ones(len(keys), device=keys.device)
        u = uniform(keys)
        p = self.probabilities().double()
        edges = torch.cumsum(p, 0)
        chosen = torch.searchsorted(edges, u).clamp_max(len(p) - 1)
        within = (u - (edges[chosen] - p[chosen])) / p[chosen]
        t = ((chosen + within) / len(p) * self.num_steps).long().clamp(0, self.num_steps - 1)
        return t, (1 / (len(p) * p[chosen])).float()

    @torch.no_grad()
    def update(self, t: Tensor, loss: Tensor) -> None:
        """Update the moments with unweighted divergences of rows, (batch,); every worker must call this."""
        if not (self.importance and self.training):
            return
        chosen = (t * len(self.seen)) // self.num_steps
        sums = torch.zeros(2, len(self.seen), dtype=torch.float64, device=t.device)
        sums[0].index_add_(0, chosen, loss.detach().double() ** 2)
        sums[1].index_add_(0, chosen, torch.ones_like(loss, dtype=torch.float64))
        squares, rows = sum_over_workers(sums)
        present = rows > 0
        # A stretch's first rows set its moment; later rows update it.
        keep = torch.where(self.seen > 0, DECAY, 0.0)
        moved = keep * self.second_moment + (1 - keep) * (squares / rows.clamp_min(1)).to(self.second_moment.dtype)
        self.second_moment.copy_(torch.where(present, moved, self.second_moment))
        self.seen.add_(rows.to(self.seen.dtype))
