"""Lane i of a vector environment is the scalar environment seeded s + i to the bit, at any size."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import rollouts
from rollouts import assert_same, lane_of, random_actions

from edge_gym.learning.online import NetworkLearner

SEED = 20
LEARNERS = {"learner": "mlp", "retrain_every": 2, "train_steps": 3}
TINY: list[tuple[str, dict[str, Any]]] = [
    *(
        (name, {"batch_size": size})
        for name in ("TaskAllocation-v0", "UpdateScheduling-v0", "Offloading-v0")
        for size in (1, 2, 3, 4)
    ),
    *(
        (name, {**LEARNERS, "batch_size": size, "image_size": side})
        for name in ("RetransmissionMulticlass-v0", "DataSchedulingMulticlass-v0")
        for size, side in ((1, 28), (2, 28), (3, 14), (4, 7))
    ),
    *(("RetransmissionCNN-v0", {"batch_size": size, "retrain_every": 2}) for size in (1, 2, 3, 4)),
    ("BatchSlot-v0", {"max_batch": 2}),
]


# With full data sets, those of torchvision's networks left out: a step of theirs takes minutes.
FULL = sorted(name for name in rollouts.NEEDS_DATA if not name.startswith("BatchSlot"))
WITHOUT_DATA = [name for name in rollouts.NAMES if name not in rollouts.NEEDS_DATA]


def assert_lanes_equal_scalars(name: str, n_lanes: int, steps: int, **fields: Any) -> None:
    vector: Any = gym.make_vec(f"edge_gym/{name}", n_lanes, **fields)
    scalars: dict[int, Any] = {
        lane: gym.make(f"edge_gym/{name}", **fields).unwrapped
        for lane in {0, n_lanes // 2, n_lanes - 1}
    }
    observations, infos = vector.reset(seed=SEED)
    for lane, env in scalars.items():
        assert_same(
            (lane_of(observations, lane), info_of(infos, lane)), env.reset(seed=SEED + lane)
        )
    streams = [random_actions(vector.single_action_space, lane) for lane in range(n_lanes)]
    for _ in range(steps):
        actions = [next(stream) for stream in streams]
        observations, *results, infos = vector.step(np.array(actions))
        for lane, env in list(scalars.items()):
            ours = (lane_of(observations, lane), *(result[lane].item() for result in results))
            step = env.step(actions[lane])
            assert_same((*ours, info_of(infos, lane)), step)
            if step[2] or step[3]:
                del scalars[lane]


def info_of(infos: dict[str, Any], lane: int) -> dict[str, Any]:
    return {
        key: value[lane].item()
        for key, value in infos.items()
        if not key.startswith("_") and infos[f"_{key}"][lane]
    }


@pytest.mark.parametrize("name", [*WITHOUT_DATA, *rollouts.parameters(FULL, quick=WITHOUT_DATA)])
def test_at_the_sizes_that_are_the_default(name: str) -> None:
    assert_lanes_equal_scalars(name, 7, 3)


@pytest.mark.slow
@pytest.mark.parametrize("n_lanes", [1, 20, 64])
@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_for_any_number_of_lanes(name: str, n_lanes: int) -> None:
    assert_lanes_equal_scalars(name, n_lanes, 3 if n_lanes == 64 else 8)


@pytest.mark.parametrize(
    ("name", "fields"), TINY, ids=[f"{name}-{[*fields.values()]}" for name, fields in TINY]
)
def test_with_tiny_batches(name: str, fields: dict[str, Any]) -> None:
    assert_lanes_equal_scalars(name, 5, 6, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("n_lanes", [2, 20, 64])
@pytest.mark.parametrize(
    ("name", "fields"), TINY, ids=[f"{name}-{[*fields.values()]}" for name, fields in TINY]
)
def test_with_tiny_batches_in_many_lanes(name: str, fields: dict[str, Any], n_lanes: int) -> None:
    assert_lanes_equal_scalars(name, n_lanes, 6, **fields)


def learned(lanes: list[int], side: int, n_classes: int, **options: Any) -> dict[str, Any]:
    """Return what networks learn whose samples follow from the numbers of their lanes."""
    learner = NetworkLearner(len(lanes), (1, side, side), n_classes, train_steps=3, **options)
    index, rngs = np.arange(len(lanes)), [np.random.default_rng(lane) for lane in lanes]
    learner.reset(index, rngs)
    for t in range(3):
        draws = [np.random.default_rng([lane, t]) for lane in lanes]
        samples = np.stack([rng.standard_normal(side**2, np.float32) for rng in draws])
        learner.append(index, samples, np.array([rng.integers(n_classes) for rng in draws]))
        learner.fit(index, rngs)
    rows = np.arange(550)
    features = np.random.default_rng(0).standard_normal((550, side**2), np.float32)
    labels = rows % n_classes
    assessment = learner.assess_rows(index, features, labels, np.tile(rows[:5], (len(lanes), 1)))
    score = learner.score(index, features, labels, np.tile(rows, (len(lanes), 1)))
    return {"weights": learner.parameters.numpy(), **assessment._asdict(), **score._asdict()}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 32])
@pytest.mark.parametrize(
    ("architecture", "side", "n_classes", "hidden_size"),
    [
        ("mlp", 7, 3, 17),
        ("mlp", 8, 2, 1),
        ("mlp", 14, 10, 64),
        ("mlp", 28, 10, 64),
        ("cnn", 7, 3, 1),
        ("cnn", 14, 10, 1),
    ],
)
def test_networks_of_any_size(
    architecture: str, side: int, n_classes: int, hidden_size: int, batch_size: int
) -> None:
    options = {"architecture": architecture, "hidden_size": hidden_size, "batch_size": batch_size}
    together = learned(list(range(20)), side, n_classes, **options)
    for lanes in ([3], [19], [2, 9], [1, 5, 7, 8, 11, 13, 19]):
        for part, values in learned(lanes, side, n_classes, **options).items():
            np.testing.assert_array_equal(values, together[part][lanes], err_msg=part)
