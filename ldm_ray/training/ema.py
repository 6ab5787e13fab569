"""Exponential moving average of a module's weights."""

import torch
from torch import Tensor, nn


class Ema:
    """Keeps averaged copies of every floating-point entry of a module's state.

    Note:
        The decay is min(decay, (1 + n) / (10 + n)) after n updates, so that the initial weights do not dominate
        short runs.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self._pairs = [(self.values[name], value) for name, value in module.state_dict(keep_vars=True).items()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the module's current state."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        floats = [(mine, theirs.detach()) for mine, theirs in self._pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floats], [theirs for _, theirs in floats], 1 - decay)
        for mine, theirs in self._pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the state for `load_state_dict`."""
        return {"updates": self.updates, **{f"values.{name}": value for name, value in self.values.items()}}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Restore the averages."""
        updates = state["updates"]
        assert isinstance(updates, int)
        self.updates = updates
        for name, value in self.values.items():
            stored = state[f"values.{name}"]
            assert isinstance(stored, Tensor)
            value.copy_(stored)
