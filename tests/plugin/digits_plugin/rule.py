"""A rule of one's own for the problem of one's own."""

from __future__ import annotations

import numpy as np

from digits_plugin.problem import LEVELS
from edge_gym.baselines import Baseline


class SpendEvenly(Baseline):
    """Spend the energy evenly over the uploads that are left."""

    name = "spend-evenly"
    source = "digits-plugin"
    needs = {"": ("energy_left", "uploads_left")}

    def act(self, observations, masks=None):
        """Return the highest level that an even share of the energy pays for."""
        table = self.tables[""]
        energy = table.read(observations, "energy_left") * self.config.energy
        share = energy / np.maximum(table.read(observations, "uploads_left"), 1)
        return (LEVELS[1:] <= share[..., None] + 1e-9).sum(axis=-1)
