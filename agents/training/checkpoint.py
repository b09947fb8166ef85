"""All that a model of stable-baselines3 needs to go on as if it had never stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from edge_gym.agents.algorithms.base import Algorithm
from edge_gym.agents.training.variation import ByTurns
from edge_gym.integrations.sb3_imports import BaseAlgorithm

_REPLAY_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num")


def model_state(model: BaseAlgorithm, algorithm: Algorithm) -> dict[str, Any]:
    """Return a model's state between two rollouts, random generators included."""
    state: dict[str, Any] = {
        "policy": model.policy.state_dict(),
        **{name: found.state_dict() for name, found in algorithm.optimizers(model).items()},
        "counters": {name: getattr(model, name) for name in (*_COUNTERS, *algorithm.counters)},
        "last_observations": model._last_obs,
        "last_episode_starts": model._last_episode_starts,
        "episodes": list(model.ep_info_buffer or ()),
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": np.random.get_state(legacy=False),  # noqa: NPY002 - SB3 draws from it
        "action_rng": model.action_space.np_random.bit_generator.state,
    }
    if model.device.type == "cuda":
        state["cuda_rng"] = torch.cuda.get_rng_state(model.device)
    if isinstance(model, ByTurns):
        state["places"] = model.places_state()
    if algorithm.replays:
        buffer = _replay_buffer(model)
        state["replay"] = {"pos": buffer.pos, "full": buffer.full}
        for name in _REPLAY_ARRAYS:
            state["replay"][name] = getattr(buffer, name)[: buffer.size()]
    return state


def set_model_state(model: BaseAlgorithm, algorithm: Algorithm, state: Mapping[str, Any]) -> None:
    """Restore what ``model_state`` returned, in a model made by the same recipe."""
    model.policy.load_state_dict(state["policy"])
    for name, optimizer in algorithm.optimizers(model).items():
        optimizer.load_state_dict(state[name])
    for name in (*_COUNTERS, *algorithm.counters):
        setattr(model, name, state["counters"][name])
    model._last_obs = state["last_observations"]
    model._last_episode_starts = state["last_episode_starts"]
    model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    torch.set_rng_state(state["torch_rng"])
    np.random.set_state(state["numpy_rng"])  # noqa: NPY002 - SB3 draws from it
    model.action_space.np_random.bit_generator.state = state["action_rng"]
    if model.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_rng"], model.device)
    if isinstance(model, ByTurns):
        model.set_places_state(state["places"])
    if algorithm.replays:
        buffer = _replay_buffer(model)
        buffer.pos, buffer.full = state["replay"]["pos"], state["replay"]["full"]
        for name in _REPLAY_ARRAYS:
            getattr(buffer, name)[: buffer.size()] = state["replay"][name]


def _replay_buffer(model: Any) -> Any:
    assert model.replay_buffer is not None  # made with the model
    return model.replay_buffer
