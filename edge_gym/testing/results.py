"""What checks compare: results of environments, their parts and lanes, and actions to take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


def parts_of(observation: Any) -> dict[str, Any]:
    """Return an observation's parts, named as ``tables`` names them."""
    return observation if isinstance(observation, dict) else {"": observation}


def lane_of(observations: Any, lane: int) -> Any:
    """Return one lane's observation out of those of all."""
    if isinstance(observations, dict):
        return {part: values[lane] for part, values in observations.items()}
    return observations[lane]


def info_of(infos: Mapping[str, Any], lane: int) -> dict[str, Any]:
    """Return one lane's info from a vector environment's."""
    return {
        key: value[lane].item()
        for key, value in infos.items()
        if not key.startswith("_") and infos[f"_{key}"][lane]
    }


def is_same(ours: Any, theirs: Any) -> bool:
    """Return whether two results are equal in structure, types and values."""
    try:
        assert_same(ours, theirs)
    except AssertionError:
        return False
    return True


def assert_same(ours: Any, theirs: Any, tolerance: float = 0.0, what: str = "results") -> None:
    """Compare results, nested dictionaries of arrays included: structure, types and values.

    Args:
        ours: One.
        theirs: The other.
        tolerance: Relative and absolute, of numbers that are no integers.
        what: Named in messages.

    Raises:
        AssertionError: If they differ; the message says where.
    """
    kinds = f"{what}: {type(ours).__name__} and {type(theirs).__name__}"
    if isinstance(ours, Mapping):
        assert isinstance(theirs, Mapping), kinds
        assert ours.keys() == theirs.keys(), f"{what}: {sorted(ours)} and {sorted(theirs)}"
        for key in ours:
            assert_same(ours[key], theirs[key], tolerance, f"{what}, {key}")
    elif isinstance(ours, (tuple, list)):
        assert len(ours) == len(theirs), f"{what}: {len(ours)} and {len(theirs)} items"
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, tolerance, f"{what}, item {i}")
    elif isinstance(ours, np.ndarray) and ours.dtype == object:
        assert theirs.dtype == object, kinds
        assert_same(list(ours), list(theirs), tolerance, what)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype, f"{what}: {ours.dtype} and {theirs.dtype}"
        assert ours.shape == theirs.shape, f"{what}: shapes {ours.shape} and {theirs.shape}"
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=what)
    elif isinstance(ours, float):
        assert type(ours) is type(theirs), kinds
        close = np.isclose(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)
        assert ours == theirs or close, f"{what}: {ours} and {theirs}"
    else:
        assert type(ours) is type(theirs), kinds
        assert ours == theirs, f"{what}: {ours} and {theirs}"


def random_actions(space: gym.Space[Any], seed: int = 0) -> Iterator[Any]:
    """Yield random actions that do not depend on Gymnasium's way of sampling.

    Sent a mask, ``(A,)``, in place of ``next``, it yields a possible one of discrete actions.
    """
    rng = np.random.default_rng(seed)
    mask: NDArray[np.bool_] | None = None
    while True:
        if isinstance(space, gym.spaces.Discrete):
            if mask is None:
                mask = yield int(space.start + rng.integers(space.n))
            else:
                mask = yield int(space.start + rng.choice(np.flatnonzero(mask)))
        elif isinstance(space, gym.spaces.MultiDiscrete):
            if mask is None:
                mask = yield space.start + rng.integers(space.nvec)
            else:
                parts = np.split(mask, np.cumsum(space.nvec)[:-1])
                chosen = [rng.choice(np.flatnonzero(part)) for part in parts]
                mask = yield space.start + np.array(chosen)
        else:
            assert isinstance(space, gym.spaces.Box), f"no actions to draw in {space}"
            mask = yield rng.uniform(space.low, space.high).astype(space.dtype)
