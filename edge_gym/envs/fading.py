"""How links fade from step to step, for all lanes at a time."""

from __future__ import annotations

import numpy as np

from edge_gym.core.state import LaneArray, LaneState
from edge_gym.physics.channel import Channel
from edge_gym.runtime.streams import Purpose, Streams
from edge_gym.typing import IntArray


class Fading(LaneState):
    """The power gains of every lane's links; a problem names it in ``state_parts``.

    A step's gains follow from the lane's streams and the number of the step: actions never shift
    them.

    Args:
        n_lanes: Number of lanes.
        channel: How links fade.
        links: Shape of a lane's links.

    Attributes:
        gain: Of the current step, ``(n_lanes, *links)``.
        memory: What the channel carries to the next, ``(n_lanes, memory, *links)``.
    """

    gain = LaneArray(np.float64, lambda fading: fading.links, reset=1)
    memory = LaneArray(np.float64, lambda fading: (fading.channel.memory, *fading.links))

    def __init__(self, n_lanes: int, channel: Channel, links: tuple[int, ...]) -> None:
        super().__init__(n_lanes)
        self.channel = channel
        self.links = links

    def advance(self, streams: Streams, lanes: IntArray, step: IntArray) -> None:
        """Draw the gains of a step.

        Args:
            streams: What is drawn from.
            lanes: ``(m,)``.
            step: Number of each lane's step, ``(m,)``; at 0 nothing is remembered.
        """
        normals = streams.normals(lanes, Purpose.CHANNEL, (self.channel.n_drawn, *self.links), step)
        begun = (step > 0).reshape(-1, *[1] * len(self.links))
        gain, memory = self.channel.step(
            np.moveaxis(normals, 1, 0), np.moveaxis(self.memory[lanes], 1, 0), begun
        )
        self.gain[lanes], self.memory[lanes] = gain, np.moveaxis(memory, 0, 1)
