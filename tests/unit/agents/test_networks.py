"""Networks over devices against plain loops, and what they must not depend on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from market import market

from edge_gym.agents.networks import deep_sets as networks
from edge_gym.agents.networks.activations import IN_PLACE
from edge_gym.agents.networks.deep_sets import (
    DeviceArchitecture,
    DeviceScores,
    DeviceSummary,
    JointLinear,
)
from edge_gym.agents.networks.scaling import ScaledParts

WIDTHS = {"devices": 3, "samples": 4, "system": 2}
SHAPES = [
    DeviceArchitecture({**WIDTHS}, "sample", (6, 5), "tanh", "none"),
    DeviceArchitecture({**WIDTHS}, "sample", (6, 5), "relu", "mean"),
    DeviceArchitecture({**WIDTHS}, "sample", (6, 5, 4), "elu", "mean-max"),
    DeviceArchitecture({**WIDTHS}, "device", (6, 5), "tanh", "none"),
    DeviceArchitecture({**WIDTHS}, "device", (6, 5), "tanh", "mean-max"),
    DeviceArchitecture({"devices": 3, "system": 2}, "device", (6, 5), "tanh", "none"),
    DeviceArchitecture({"devices": 3, "system": 2}, "device", (6, 5), "tanh", "mean"),
    DeviceArchitecture({"devices": 3, "system": 2}, "device", (6, 5, 3), "relu", "mean-max"),
    DeviceArchitecture({"devices": 3, "system": 2}, "device", (6, 5), "tanh", "mean", outputs=3),
]
SYSTEM_SHAPES = [
    DeviceArchitecture({**WIDTHS}, "system", (6, 5), "tanh", "mean", outputs=4),
    DeviceArchitecture({"devices": 3, "system": 2}, "system", (6, 5, 4), "relu", "mean", outputs=7),
]


def shape_name(shape: DeviceArchitecture) -> str:
    return f"{shape.actions_per}-{shape.finest}-{shape.context}-{shape.outputs}"


def draw_parts(shape: DeviceArchitecture, rows: int, k: int, n: int) -> dict[str, torch.Tensor]:
    """Scaled parts in double precision; some samples are absent, all of device 1 in row 0."""
    rng = np.random.default_rng(rows + 10 * k + 100 * n)
    parts = {
        "devices": torch.tensor(rng.normal(size=(rows, k, 3))),
        "system": torch.tensor(rng.normal(size=(rows, 2))),
    }
    if shape.finest == "samples":
        parts["samples"] = torch.tensor(rng.normal(size=(rows, k, n, 4)))
        parts["present"] = torch.tensor(rng.random((rows, k, n)) < 0.7)
        parts["present"][0, 1] = False
    return parts


def networks_of(shape: DeviceArchitecture) -> tuple[DeviceScores, DeviceSummary]:
    torch.manual_seed(3)
    return DeviceScores(shape).double(), DeviceSummary(shape).double()


def test_joint_linear_is_a_layer_on_inputs_side_by_side() -> None:
    torch.manual_seed(0)
    layer = JointLinear([4, 3, 2], 5)
    fine, middle, coarse = torch.randn(6, 7, 4), torch.randn(6, 1, 3), torch.randn(1, 1, 2)
    wide = torch.cat([fine, middle.expand(6, 7, 3), coarse.expand(6, 7, 2)], dim=-1)
    expected = torch.nn.functional.linear(wide, layer.weight, layer.bias)
    torch.testing.assert_close(layer(fine, middle, coarse), expected)


def plain_scores(network: DeviceScores, parts: Mapping[str, Any]) -> tuple[list[float], Any]:
    """What the network says of one state, by loops; and the pools of all."""
    shape, weights = network.shape, {k: v.numpy() for k, v in network.state_dict().items()}
    functions: dict[str, Any] = {
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    }
    act = functions[shape.activation]

    def dense(name: str, *inputs: Any) -> Any:
        return weights[f"{name}.weight"] @ np.concatenate(inputs) + weights[f"{name}.bias"]

    def pool(rows: list[Any]) -> Any:
        if not rows:
            return np.zeros(network.encoder.pooled)
        pools = [np.mean(rows, axis=0), np.max(rows, axis=0)]
        return np.concatenate(pools[: 1 + network.encoder.largest])

    def pool_pools(pools: list[Any]) -> Any:
        units = shape.hidden[0]
        if not pools:
            return np.zeros(network.encoder.pooled)
        mean, largest = np.mean(pools, axis=0)[:units], np.max(pools, axis=0)[units:]
        return np.concatenate([mean, largest])

    devices, system = parts["devices"].numpy(), parts["system"].numpy()
    scores = []
    if shape.finest == "devices":
        own = [act(dense("encoder.layer", device, system)) for device in devices]
        everything = pool(own)
        context = [] if shape.context == "none" else [everything]
        inputs = [(embedding, *context) for embedding in own]
    else:
        samples, present = parts["samples"].numpy(), parts["present"].numpy()
        embeddings = [
            [act(dense("encoder.layer", s, devices[k], system)) for s in samples[k]]
            for k in range(len(devices))
        ]
        held = [
            [e for e, there in zip(*row, strict=True) if there]
            for row in zip(embeddings, present, strict=True)
        ]
        pools = [pool(rows) for rows in held]
        everything = pool_pools([p for p, rows in zip(pools, held, strict=True) if rows])
        if shape.actions_per == "device":
            context = [] if shape.context == "none" else [everything]
            inputs = [(own, *context) for own in pools]
        else:
            inputs = [
                (e,) if shape.context == "none" else (e, pools[k], everything)
                for k, row in enumerate(embeddings)
                for e in row
            ]
    for row in inputs:
        hidden = act(dense("joint", *row))
        for layer in range(len(shape.hidden) - 2):
            hidden = act(dense(f"trunk.{2 * layer}", hidden))
        scores.extend(dense("score", hidden))
    return scores, everything


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_device_networks_equal_plain_loops(shape: DeviceArchitecture) -> None:
    scores, summary = networks_of(shape)
    parts = draw_parts(shape, 4, 5, 3)
    with torch.no_grad():
        found, features = scores(parts), summary(parts)
        for row in range(4):
            one = {part: values[row] for part, values in parts.items()}
            expected, _ = plain_scores(scores, one)
            np.testing.assert_allclose(found[row], expected, rtol=1e-10)
            assert np.std(expected) > 1e-3
            torch.testing.assert_close(scores(one), found[row])
            reference = DeviceScores(replace(shape, context="mean-max")).double()
            reference.encoder.load_state_dict(summary.encoder.state_dict())
            _, everything = plain_scores(reference, one)
            hidden = summary.joint(torch.tensor(everything), one["system"])
            expected_features = summary.trunk(IN_PLACE[shape.activation](hidden))
            torch.testing.assert_close(features[row], expected_features)


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_device_networks_are_equivariant(shape: DeviceArchitecture) -> None:
    scores, summary = networks_of(shape)
    for rows, k, n in ((3, 5, 4), (2, 2, 1), (2, 9, 6)):
        parts = draw_parts(shape, rows, k, n)
        rng = np.random.default_rng(5)
        devices = rng.permutation(k)
        permuted = {**parts, "devices": parts["devices"][:, devices]}
        order = devices
        if shape.finest == "samples":
            slots = np.stack([rng.permutation(n) for _ in range(k)])
            for part in ("samples", "present"):
                permuted[part] = parts[part][:, devices[:, None], slots]
            if shape.actions_per == "sample":
                order = (devices[:, None] * n + slots).ravel()
        order = (order[:, None] * shape.outputs + np.arange(shape.outputs)).ravel()
        assert scores(parts).shape == (rows, len(order))
        torch.testing.assert_close(scores(permuted), scores(parts)[:, order])
        torch.testing.assert_close(summary(permuted), summary(parts))
        if k > 2:
            assert not torch.allclose(scores(permuted), scores(parts))


@pytest.mark.parametrize("shape", SYSTEM_SHAPES, ids=shape_name)
def test_system_networks_score_summaries(shape: DeviceArchitecture) -> None:
    """They do not change with the devices' order, nor with how many devices there are."""
    torch.manual_seed(3)
    network = networks.scores_network(shape).double()
    assert isinstance(network, networks.SystemScores)
    for k in (2, 7):
        parts = draw_parts(shape, 3, k, 2)
        found = network(parts)
        assert found.shape == (3, shape.outputs)
        torch.testing.assert_close(found, network.score(network.summary(parts)))
        backwards = {p: v if p == "system" else v.flip(1) for p, v in parts.items()}
        torch.testing.assert_close(network(backwards), found)
        assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_context_is_what_scores_know_of_others(shape: DeviceArchitecture) -> None:
    scores, _ = networks_of(shape)
    parts = draw_parts(shape, 3, 4, 2)
    changed = {**parts, "devices": parts["devices"].clone()}
    changed["devices"][:, 3] += 1
    before, after = scores(parts).reshape(3, 4, -1), scores(changed).reshape(3, 4, -1)
    assert torch.equal(before[:, :3], after[:, :3]) == (shape.context == "none")
    if shape.actions_per == "sample":
        assert not torch.equal(before[:, 3], after[:, 3])


@pytest.mark.parametrize("shape", SHAPES[:5], ids=shape_name)
def test_absent_samples_do_not_count(shape: DeviceArchitecture) -> None:
    """Empty slots, full of anything, and devices without samples change nothing for the others."""
    scores, summary = networks_of(shape)
    parts = draw_parts(shape, 3, 4, 2)
    parts["present"][:] = True
    padded = {
        "devices": torch.cat([parts["devices"], torch.randn(3, 2, 3)], dim=1).double(),
        "system": parts["system"],
        "samples": 9 * torch.randn(3, 6, 5, 4).double(),
        "present": torch.zeros(3, 6, 5, dtype=torch.bool),
    }
    padded["samples"][:, :4, :2] = parts["samples"]
    padded["present"][:, :4, :2] = True
    found, expected = scores(padded), scores(parts)
    if shape.actions_per == "sample":
        found = found.reshape(3, 6, 5)[:, :4, :2].flatten(1)
    torch.testing.assert_close(found[:, : expected.shape[1]], expected)
    torch.testing.assert_close(summary(padded), summary(parts))
    without_mask = {part: values for part, values in parts.items() if part != "present"}
    torch.testing.assert_close(scores(without_mask), expected)
    nothing = {**parts, "present": torch.zeros_like(parts["present"])}
    for network in (scores, summary):
        network.zero_grad()
        network(nothing).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
        assert network(nothing).isfinite().all()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for network in networks_of(SHAPES[2]):
        parts = draw_parts(SHAPES[2], 7, 3, 2)
        results = []
        for size in (2**19, 1, 3 * 3 * 2 * 6):
            monkeypatch.setattr(networks, "_CHUNK", size)
            network.zero_grad()
            output = network(parts)
            output.square().sum().backward()
            gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
            results.append([output.detach(), *gradients])
        for other in results[1:]:
            for ours, theirs in zip(results[0], other, strict=True):
                torch.testing.assert_close(ours, theirs)


def test_impossible_architectures() -> None:
    with pytest.raises(ValueError, match="no way to score each sample of devices, system"):
        DeviceArchitecture({"devices": 1, "system": 1}, "sample", (4, 4), "tanh", "mean")
    with pytest.raises(ValueError, match="no way to score each server"):
        DeviceArchitecture(WIDTHS, "server", (4, 4), "tanh", "mean")
    with pytest.raises(ValueError, match="sees devices, system and perhaps samples, not devices"):
        DeviceArchitecture({"devices": 1}, "device", (4, 4), "tanh", "mean")
    with pytest.raises(ValueError, match=r"two layers at least.*got \[4\]"):
        DeviceArchitecture(WIDTHS, "device", (4,), "tanh", "mean")


def test_parts_are_scaled_by_their_tables() -> None:
    tables = market().tables
    extractor = ScaledParts(None, {part: table.scaling() for part, table in tables.items()}, 1)
    observation = {
        "devices": torch.tensor([[2.5, 7.0]]),
        "samples": torch.tensor([[[1.6, 1.0], [0.1, 0.0]]]),
        "system": torch.tensor([0.0]),
    }
    before = copy.deepcopy(observation)
    parts = extractor(observation)
    torch.testing.assert_close(parts["devices"], torch.tensor([[1.0, 5.0]]))
    torch.testing.assert_close(parts["samples"], torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]))
    torch.testing.assert_close(parts["system"], torch.tensor([-1.0]))
    assert parts["present"].tolist() == [[True, False]]
    for part, values in before.items():
        assert torch.equal(values, observation[part])
