"""The rules of data scheduling against their formulas, plain references and Monte Carlo."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import rollouts
from rollouts import NAMES, SMALL, lane_of
from scipy.stats import norm

from edge_gym.baselines import applicable_baselines, find_baseline, make_baseline
from edge_gym.baselines.data_scheduling.rule import Seen
from edge_gym.envs.data_scheduling.actions import action_codec
from edge_gym.envs.data_scheduling.config import DataSchedulingConfig
from edge_gym.envs.data_scheduling.embeddings import EMBEDDING_SIZE
from edge_gym.envs.data_scheduling.observation import observation_tables
from edge_gym.evaluation.rollouts import make_lanes, run_episodes

K, N = 4, 3
SCHEDULING = rollouts.parameters(name for name in NAMES if name.startswith("DataScheduling"))
WITHOUT_LABELS = {
    "round-robin": {},
    "proportional-fair": {},
    "channel-aware": {},
    "data-aware": {},
    "importance-aware": {},
    "global-diversity": {},
}
ON_LOSS = ["zero-one-loss", "hinge-loss", "hinge-loss-sqrt", "loss-power"]
SERVER = {"labels": "server"}
NETWORK = {"learner": "mlp", "classes": None}


class Made:
    """What a rule is made for: a configuration and the observation's tables, nothing to run."""

    spec = None

    def __init__(self, lanes: int = 1, **fields: Any) -> None:
        fields = {"n_devices": K, "buffer_size": N, **fields}
        self.config = DataSchedulingConfig(**fields)
        self.tables = observation_tables(self.config)
        self.codec = action_codec(self.config)
        self.action_space = self.codec.space
        self.num_envs = lanes
        self.problem = self.unwrapped = self


def observe(env: Made, leading: tuple[int, ...] = (), **columns: Any) -> dict[str, Any]:
    """Fill columns by name, the rest with zeros; all samples are present unless it is said."""
    k, n = env.config.n_devices, env.config.buffer_size
    shapes = {"devices": (*leading, k), "samples": (*leading, k, n), "system": leading}
    parts = {
        part: np.zeros((*shape, len(env.tables[part])), np.float32)
        for part, shape in shapes.items()
    }
    for name, values in {"present": 1, **columns}.items():
        part = next(part for part, table in env.tables.items() if name in table)
        parts[part][..., env.tables[part].index(name)] = values
    return parts


def draw(env: Made, lanes: int, seed: int = 0) -> dict[str, Any]:
    """Return a random observation of consistent columns."""
    rng = np.random.default_rng(seed)
    k, n = env.config.n_devices, env.config.buffer_size
    shape = (lanes, k, n)
    margin = rng.normal(0.5, 1.5, shape)
    columns: dict[str, Any] = {
        "snr_db": rng.uniform(-5, 25, shape[:2]),
        "mean_snr_db": rng.uniform(5, 20, shape[:2]),
        "staleness": rng.integers(0, 5, shape[:2]),
        "present": rng.random(shape) < 0.8,
        "novelty": rng.exponential(0.3, shape),
    }
    if env.config.learner.startswith("svm"):
        weight_norm = rng.uniform(1, 4, lanes)
        columns["weight_norm"] = weight_norm
        columns["distance"] = np.abs(margin) / weight_norm[:, None, None]
    else:
        columns["entropy"] = rng.uniform(0, 2.3, shape)
    if env.config.labels == "device":
        columns["margin"] = margin
        columns["zero_one_loss"] = margin < 0
        if env.config.learner.startswith("svm"):
            columns["hinge_loss"] = np.maximum(0, 1 - margin)
        else:
            columns["cross_entropy"] = np.logaddexp(0, -margin)
    if env.config.uploads_per_block > 1:
        embedding = rng.normal(0, 0.25, (lanes, k, EMBEDDING_SIZE))
        columns |= {f"embedding_{i}": embedding[..., i] for i in range(EMBEDDING_SIZE)}
    if env.config.in_turns:
        columns["chosen"] = np.arange(k) == rng.integers(0, k, (lanes, 1))
    columns["present"][:, 0, 0] = columns["present"][:, 1, 0] = True
    absent = ~columns["present"]
    for name in columns:
        if name in env.tables["samples"]:
            columns[name] = np.where(absent, 0, columns[name])
    return observe(env, (lanes,), **columns)


def cell(env: Made, seen: dict[str, Any], lane: int, k: int, n: int) -> dict[str, float]:
    """Return what is observed of one sample, its device and the system, as plain floats."""
    values = {}
    for part, where in (("devices", (lane, k)), ("samples", (lane, k, n)), ("system", (lane,))):
        for column, value in zip(env.tables[part], seen[part][where].tolist(), strict=True):
            values[column.name] = value
    return {**values, "snr": 10 ** (values["snr_db"] / 10)}


def logistic(s: float) -> float:
    return 1 / (1 + math.exp(-s))


def information(c: dict[str, float], weight: float) -> float:
    """Fisher information of a sample after the channel, by the formula in the docstring."""
    hidden = 1 / (1 + weight / c["snr"])
    if "entropy" in c:
        if "margin" in c:
            return hidden * (1 - math.exp(-c["cross_entropy"])) ** 2
        return hidden * c["entropy"] / math.log(10) / 4
    sigma = c["weight_norm"] / math.sqrt(c["snr"])
    kappa = 1 / math.sqrt(1 + math.pi * sigma**2 / 8)
    if "margin" in c:
        return hidden * kappa**2 * (1 - logistic(kappa * c["margin"])) ** 2
    p = logistic(kappa * c["distance"] * c["weight_norm"])
    return hidden * kappa**2 * p * (1 - p)


Formula = Callable[[dict[str, float]], float]
FORMULAS: list[tuple[str, dict[str, Any], dict[str, Any], Formula]] = [
    ("channel-aware", {"sample": "uncertain"}, {}, lambda c: c["snr"]),
    ("channel-aware", {"sample": "loss"}, {}, lambda c: c["snr"]),
    ("data-aware", {}, {}, lambda c: -c["distance"]),
    ("data-aware", {}, NETWORK, lambda c: c["entropy"]),
    ("importance-aware", {}, SERVER, lambda c: -1 / c["snr"] - c["distance"] ** 2),
    ("importance-aware", {"weight": 3}, NETWORK, lambda c: c["entropy"] - 3 / c["snr"]),
    ("zero-one-loss", {}, {}, lambda c: float(c["margin"] < 0) * c["snr"]),
    ("hinge-loss", {}, {}, lambda c: max(0, 1 - c["margin"]) * c["snr"]),
    ("hinge-loss", {}, NETWORK, lambda c: c["cross_entropy"] * c["snr"]),
    ("hinge-loss-sqrt", {}, {}, lambda c: max(0, 1 - c["margin"]) * math.sqrt(c["snr"])),
    ("loss-power", {"snr_exponent": 1.5}, {}, lambda c: c["hinge_loss"] * c["snr"] ** 1.5),
    (
        "support-vector-probability",
        {},
        {},
        lambda c: (1 - c["margin"]) * math.sqrt(c["snr"]) / c["weight_norm"],
    ),
    *(
        (
            "global-diversity",
            {"weight": 30, "diversity": 0.5},
            fields,
            lambda c: math.log(1 + information(c, 30) * math.sqrt(c["novelty"])),
        )
        for fields in ({}, SERVER, NETWORK, {**NETWORK, **SERVER})
    ),
]


def preferred(env: Made, cells: list[dict[str, float]]) -> int:
    """Return the sample that a device uploads by itself, its cells in the order of its buffer."""
    here = [n for n, c in enumerate(cells) if c["present"]]
    loss = "hinge_loss" if "distance" in cells[0] else "cross_entropy"
    if env.config.labels == "device" and any(cells[n][loss] > 0 for n in here):
        return max(here, key=lambda n: cells[n][loss])
    if "distance" in cells[0]:
        return min(here, key=lambda n: cells[n]["distance"])
    return max(here, key=lambda n: cells[n]["entropy"])


@pytest.mark.parametrize(("name", "parameters", "fields", "formula"), FORMULAS)
@pytest.mark.parametrize("actions", ["sample", "device", "scores"])
def test_rules_follow_their_formulas(
    name: str, parameters: dict[str, Any], fields: dict[str, Any], formula: Formula, actions: str
) -> None:
    env = Made(actions=actions, **fields)
    if name == "channel-aware" and actions != "sample":
        parameters = {}
    rule = make_baseline(name, env, **parameters)
    seen = draw(env, 60)
    found = rule.act(seen)
    met = set()
    for lane in range(60):
        cells = [[cell(env, seen, lane, k, n) for n in range(N)] for k in range(K)]
        present = [(k, n) for k in range(K) for n in range(N) if cells[k][n]["present"]]
        holders = sorted({k for k, _ in present})
        if actions == "sample":
            k, n = divmod(int(found[lane]), N)
            assert (k, n) in present
            top = max(formula(cells[i][j]) for i, j in present)
            assert formula(cells[k][n]) == pytest.approx(top, rel=1e-6)
            met.add((k, n))
            if "sample" in parameters:
                how = Made(labels="device" if parameters["sample"] == "loss" else "server")
                assert n == preferred(how, cells[k])
            continue
        of_device = {k: formula(cells[k][preferred(env, cells[k])]) for k in holders}
        ranking = sorted(holders, key=lambda k: (-of_device[k], -cells[k][0]["snr"]))
        if actions == "device":
            assert found[lane] == ranking[0]
            met.add((ranking[0],))
        else:
            assert np.argsort(-found[lane]).tolist()[: len(holders)] == ranking
            assert sorted(found[lane].tolist()) == pytest.approx([-1, -1 / 3, 1 / 3, 1])
            met.add(tuple(ranking))
    assert len(met) >= K


def test_expected_uncertainty_by_monte_carlo() -> None:
    """Wen et al. 2019, (16):

    E[-s²(x̂)] = -s² - ‖w‖²/γ, so the index is that expectation over ‖w‖²."""
    rng = np.random.default_rng(0)
    w, x, snr = rng.normal(0, 0.5, 20), rng.normal(0, 0.2, 20), 4.0
    noisy = x + rng.normal(0, 1 / math.sqrt(snr), (200_000, 20))
    expected = np.mean(-np.square(noisy @ w + 0.3)) / (w @ w)
    env = Made(labels="server")
    distance = abs(x @ w + 0.3) / np.linalg.norm(w)
    seen = observe(env, distance=distance, snr_db=10 * math.log10(snr))
    index = make_baseline("importance-aware", env).index(Seen(env.tables, seen))  # type: ignore[attr-defined]
    assert index[0, 0] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("snr", [0.5, 4.0, 30.0])
@pytest.mark.parametrize("label", [-1, 1])
def test_support_vector_probability_by_monte_carlo(snr: float, label: int) -> None:
    """Wen et al. 2019 (18), (19): how often what is received has a hinge loss."""
    rng = np.random.default_rng(1)
    w, x = rng.normal(0, 0.5, 20), rng.normal(0, 0.2, 20)
    noisy = x + rng.normal(0, 1 / math.sqrt(snr), (200_000, 20))
    bias = 0.8 * label - x @ w
    share = np.mean(np.maximum(0, 1 - label * (noisy @ w + bias)) > 0)
    env = Made()
    seen = observe(
        env,
        margin=label * (x @ w + bias),
        weight_norm=np.linalg.norm(w),
        snr_db=10 * math.log10(snr),
    )
    rule = make_baseline("support-vector-probability", env)
    index = rule.index(Seen(env.tables, seen))  # type: ignore[attr-defined]
    assert norm.cdf(index[0, 0]) == pytest.approx(share, abs=0.005)
    assert 0.51 < share < 0.9


def test_support_vector_probability_ranks_as_its_simplification() -> None:
    """Remark 1 of Wen et al. 2019: (19) chooses as (20) wherever there is a loss."""
    env = Made()
    seen = draw(env, 200)
    loss = env.tables["samples"].read(seen["samples"], "hinge_loss")
    losing = (loss > 0).any(axis=(1, 2))
    one = make_baseline("support-vector-probability", env).act(seen)
    other = make_baseline("hinge-loss-sqrt", env).act(seen)
    assert np.array_equal(one[losing], other[losing])
    assert losing.sum() > 100


@pytest.mark.parametrize("name", ["hinge-loss", "hinge-loss-sqrt"])
def test_large_buffers_make_the_loss_rules_channel_aware(name: str) -> None:
    """Proposition 2: the largest losses of large buffers are alike, so the channel decides."""
    shares = []
    for size in (1, 10, 150):
        env = make_lanes("DataSchedulingDevice-v0", 200, {"n_devices": 5, "buffer_size": size})
        seen, _ = env.reset(seed=0)
        by_loss = make_baseline(name, env).act(seen)
        by_channel = make_baseline("channel-aware", env).act(seen)
        shares.append(np.mean(by_loss == by_channel))
    assert shares[0] < shares[1] < shares[2]
    assert shares[0] < 0.75
    assert shares[2] > 0.85
    # In the limit every device's largest loss is the largest that there is.
    env = Made(actions="device")
    rng = np.random.default_rng(0)
    loss = rng.uniform(0, 2.7, (100, K, N))
    loss[..., 1] = 2.7
    seen = observe(env, (100,), snr_db=rng.uniform(-5, 25, (100, K)), hinge_loss=loss)
    by_channel = make_baseline("channel-aware", env).act(seen)
    assert np.array_equal(make_baseline(name, env).act(seen), by_channel)


@pytest.mark.parametrize("name", [*ON_LOSS[1:], "support-vector-probability"])
def test_equal_channels_leave_the_largest_loss(name: str) -> None:
    """Proposition 3."""
    env = Made()
    seen = draw(env, 100)
    seen["devices"][..., env.tables["devices"].index("snr_db")] = 7.0
    loss = env.tables["samples"].read(seen["samples"], "hinge_loss").reshape(100, -1)
    losing = loss.max(axis=1) > 0
    chosen = make_baseline(name, env).act(seen)
    assert np.array_equal(chosen[losing], loss.argmax(axis=1)[losing])
    assert losing.sum() > 50


@pytest.mark.parametrize("name", ON_LOSS)
def test_without_any_loss_the_best_channel_is_scheduled(name: str) -> None:
    snr_db = np.array([3.0, 9.0, 5.0, 8.0])
    distance = np.array([[0.1, 0.2, 0.3], [0.6, 0.4, 0.5], [0.1, 0.1, 0.1], [0.9, 0.9, 0.1]])
    env = Made()
    seen = observe(env, snr_db=snr_db, distance=distance, margin=2)
    assert make_baseline(name, env).act(seen) == 1 * N + 1
    one = Made(actions="device")
    seen = observe(one, snr_db=snr_db, distance=distance, margin=2)
    assert make_baseline(name, one).act(seen) == 1
    every = Made(actions="scores", uploads_per_block=2, budget=40)
    seen = observe(every, snr_db=snr_db, distance=distance, margin=2)
    assert np.argsort(-make_baseline(name, every).act(seen)).tolist() == [1, 3, 2, 0]
    # A loss anywhere rules out what has none; a batch is filled up by the channels.
    lossy = {"hinge_loss": np.eye(K)[2][:, None], "zero_one_loss": np.eye(K)[2][:, None]}
    assert make_baseline(name, env).act(observe(env, snr_db=snr_db, **lossy)) == 2 * N
    scores = make_baseline(name, every).act(observe(every, snr_db=snr_db, **lossy))
    assert np.argsort(-scores).tolist() == [2, 1, 3, 0]


def test_ties_go_to_the_better_channel_then_to_the_lower_index() -> None:
    env = Made()
    rule = make_baseline("data-aware", env)
    distance = np.full((K, N), 0.2)
    assert rule.act(observe(env, distance=distance, snr_db=[3, 9, 5, 9])) == 1 * N
    assert rule.act(observe(env, distance=distance, snr_db=4)) == 0
    distance[2, 1] = distance[3, 0] = 0.1
    assert rule.act(observe(env, distance=distance, snr_db=[3, 9, 5, 5])) == 2 * N + 1
    assert rule.act(observe(env, distance=distance, snr_db=[3, 9, 5, 6])) == 3 * N


@pytest.mark.parametrize("actions", ["sample", "device", "scores"])
@pytest.mark.parametrize("fields", [{}, SERVER, NETWORK, {**NETWORK, **SERVER}])
def test_what_is_impossible_is_not_chosen(actions: str, fields: dict[str, Any]) -> None:
    env = Made(30, actions=actions, uploads_per_block=2, budget=6, refill=False, **fields)
    rng = np.random.default_rng(3)
    seen = draw(env, 30)
    present = seen["samples"][..., env.tables["samples"].index("present")] > 0
    possible = present.copy()
    if env.config.in_turns:
        chosen = seen["devices"][..., env.tables["devices"].index("chosen")] > 0
        possible &= ~chosen[:, :, None]
    for name in set(applicable_baselines(env)) - {"random"}:
        rule = make_baseline(name, env)
        found = rule.act(seen)
        if actions == "scores":
            order = np.argsort(-found, axis=1)
            holds = np.take_along_axis(present.any(axis=2), order, axis=1)
            assert (np.diff(holds.astype(int), axis=1) <= 0).all(), name
            continue
        allowed = possible if actions == "sample" else possible.any(axis=2)
        flat = allowed.reshape(30, -1)
        assert flat[np.arange(30), found].all(), name
        # Masks rule even where the observation shows no reason.
        masks = flat & (rng.random(flat.shape) < 0.6)
        masks[~masks.any(axis=1)] = flat[~masks.any(axis=1)]
        assert masks[np.arange(30), rule.act(seen, masks)].all(), name


def test_round_robin_takes_turns() -> None:
    for m, actions in ((1, "device"), (2, "scores"), (2, "device")):
        fields = {"actions": actions, "uploads_per_block": m, "budget": 40, "n_devices": 5}
        env = make_lanes("DataSchedulingDevice-v0", 2, fields)
        rule = make_baseline("round-robin", env)
        seen, _ = env.reset(seed=0)
        steps = 0
        uploads = []
        while len(uploads) < 10:
            seen, *_ = env.step(rule.act(seen, None if actions == "scores" else env.action_masks()))
            steps += 1
            if actions == "scores" or steps % m == 0:
                uploads.append(seen["devices"][..., env.tables["devices"].index("uploads")].copy())
        gained = np.diff(np.array(uploads), axis=0, prepend=0)
        for block in range(10):
            expected = np.isin(np.arange(5), (np.arange(m) + m * block) % 5)
            assert np.array_equal(gained[block], np.tile(expected, (2, 1)))


@pytest.mark.parametrize(("m", "actions"), [(1, "device"), (2, "device"), (2, "scores")])
def test_proportional_fair_follows_a_plain_loop(m: int, actions: str) -> None:
    fields = {"actions": actions, "uploads_per_block": m, "budget": 24, "n_devices": 5}
    env = make_lanes(
        "DataSchedulingDevice-v0", 2, {**fields, "path_loss_exponent": 3.0, "validation_size": 50}
    )
    table = env.tables["devices"]
    rule = make_baseline("proportional-fair", env, window_blocks=4)
    for seed in (0, 7):
        rule.begin(np.arange(2), [seed, seed + 1])
        seen, _ = env.reset(seed=seed)

        def rates(name: str) -> Any:
            return np.log2(1 + 10 ** (table.read(seen["devices"], name) / 10))  # noqa: B023

        average = m / 5 * rates("mean_snr_db")
        for _ in range(24 // m):
            rate = rates("snr_db")
            expected = np.argsort(-rate / average, axis=1)[:, :m]
            if actions == "scores":
                found = rule.act(seen)
                seen, *_ = env.step(found)
                taken = np.argsort(-found, axis=1)[:, :m]
            else:
                turns = []
                for _ in range(m):
                    turns.append(rule.act(seen, env.action_masks()))
                    seen, *_ = env.step(turns[-1])
                taken = np.stack(turns, axis=1)
            assert np.array_equal(taken, expected)
            served = np.zeros((2, 5))
            np.put_along_axis(served, taken, np.take_along_axis(rate, taken, axis=1), axis=1)
            average = 0.75 * average + 0.25 * served


def log_det(a: Any, z: Any, batch: Any) -> float:
    total = np.eye(EMBEDDING_SIZE) / EMBEDDING_SIZE
    for k in batch:
        total = total + a[k] * np.outer(z[k], z[k])
    return float(np.linalg.slogdet(total)[1])


@pytest.mark.parametrize("unit_length", [False, True])
@pytest.mark.parametrize("fields", [{}, SERVER, NETWORK, {**NETWORK, **SERVER}])
def test_fisher_information_is_greedy(fields: dict[str, Any], unit_length: bool) -> None:
    m, k = 3, 6
    shape = {"n_devices": k, "uploads_per_block": m, "budget": 60, **fields}
    env, one_by_one = (Made(actions=actions, **shape) for actions in ("scores", "device"))
    parameters = {"scale": 50.0, "weight": 10.0, "unit_length": unit_length}
    seen = draw(env, 20)
    seen["samples"][..., env.tables["samples"].index("present")] = 1
    scores = make_baseline("fisher-information", env, **parameters).act(seen)
    in_turns = make_baseline("fisher-information", one_by_one, **parameters)
    columns = [env.tables["devices"].index(f"embedding_{i}") for i in range(EMBEDDING_SIZE)]
    plain = 0
    for lane in range(20):
        z = seen["devices"][lane][:, columns].astype(float)
        if unit_length:
            z = z / np.linalg.norm(z, axis=1, keepdims=True)
        cells = [[cell(env, seen, lane, i, n) for n in range(N)] for i in range(k)]
        a = [50 * information(row[preferred(env, row)], 10) for row in cells]
        batch: list[int] = []
        gains = []
        for turn in range(m):
            before = log_det(a, z, batch)
            gain = {i: log_det(a, z, [*batch, i]) - before for i in range(k) if i not in batch}
            table = one_by_one.tables["devices"]
            turn_seen = {part: values[lane] for part, values in seen.items()}
            chosen = np.isin(np.arange(k), batch)[:, None]
            turn_seen["devices"] = np.concatenate(
                [turn_seen["devices"][:, :4], chosen, turn_seen["devices"][:, 4:]], axis=1
            )
            assert table.index("chosen") == 4
            batch.append(max(gain, key=lambda i: gain[i]))
            gains.append(gain[batch[-1]])
            assert in_turns.act(turn_seen) == batch[turn]
        assert np.argsort(-scores[lane])[:m].tolist() == batch
        # What more adds is ever less, and never nothing; the bound is that of submodular gains.
        assert gains[0] >= gains[1] >= gains[2] > 0
        empty = log_det(a, z, [])
        every = [log_det(a, z, s) - empty for s in itertools.combinations(range(k), m)]
        assert sum(gains) >= (1 - 1 / math.e) * max(every)
        first = [log_det(a, z, [i]) - empty for i in range(k)]
        assert batch[0] == int(np.argmax(first))
        plain += set(batch) == set(np.argsort(first)[-m:].tolist())
    assert plain < 20


def test_fisher_information_wants_no_sample_twice() -> None:
    env = Made(actions="scores", uploads_per_block=2, budget=40)
    z = np.zeros((K, EMBEDDING_SIZE))
    z[0, 0] = z[1, 0] = 0.9
    z[2, 1] = 0.8
    z[3, 2] = 0.1
    columns = {f"embedding_{i}": z[:, i] for i in range(EMBEDDING_SIZE)}
    seen = observe(env, snr_db=10, margin=0.1, hinge_loss=0.9, weight_norm=2, **columns)

    def batch(**parameters: Any) -> set[int]:
        scores = make_baseline("fisher-information", env, **parameters).act(seen)
        return set(np.argsort(-scores)[:2].tolist())

    diverse = {"weight": 10, "unit_length": False}
    assert batch(scale=100, **diverse) == {0, 2}
    # As diversity counts less and less, the largest a·‖z‖² are taken, as from top-M lists.
    assert batch(scale=1e-6, **diverse) == {0, 1}
    assert batch(scale=100, weight=10, unit_length=True) == {0, 2}


@pytest.mark.parametrize("fields", [{}, SERVER, NETWORK])
def test_rules_know_where_they_apply(fields: dict[str, Any]) -> None:
    for actions, m in itertools.product(("sample", "device", "scores"), (1, 2)):
        env = Made(actions=actions, uploads_per_block=m, budget=40, **fields)
        expected = {"random", *WITHOUT_LABELS}
        if fields is not SERVER:
            expected |= set(ON_LOSS)
            if fields is not NETWORK:
                expected.add("support-vector-probability")
        if m > 1:
            expected.add("fisher-information")
        assert set(applicable_baselines(env)) == expected


@pytest.mark.parametrize(
    ("name", "parameters", "fields", "message"),
    [
        ("channel-aware", {"sample": "loss"}, SERVER, "sample must be one of random, uncertain,"),
        ("channel-aware", {"sample": "random"}, {"actions": "device"}, "it has none"),
        ("hinge-loss", {}, SERVER, "does not apply"),
        ("support-vector-probability", {}, NETWORK, "does not apply"),
        ("fisher-information", {}, {}, "does not apply"),
        ("importance-aware", {"weight": 1}, {}, "it has none"),
        ("importance-aware", {"weight": -1}, NETWORK, "weight must be"),
        ("proportional-fair", {"window_blocks": 0}, {}, "window_blocks must be"),
        ("loss-power", {"snr_exponent": float("nan")}, {}, "snr_exponent must be"),
        ("global-diversity", {"diversity": -1}, {}, "diversity must be"),
        ("fisher-information", {"scale": 0}, {"uploads_per_block": 2}, "scale must be"),
        ("fisher-information", {"unit_length": 1}, {"uploads_per_block": 2}, "unit_length must be"),
    ],
)
def test_bad_parameters_are_explained(
    name: str, parameters: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make_baseline(name, Made(**fields), **parameters)


def variants(env: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return every rule that applies, with every choice of sample."""
    found: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in applicable_baselines(env)]
    samples = find_baseline("channel-aware", env).grid.get("sample", ())
    return [*found, *(("channel-aware", {"sample": sample}) for sample in samples)]


@pytest.mark.parametrize("env_id", SCHEDULING)
def test_every_rule_runs_an_episode(env_id: str) -> None:
    env = make_lanes(env_id, 1, {**SMALL[env_id], "budget": 8, "test_size": 50})
    for name, parameters in variants(env):
        rule = make_baseline(name, env, **parameters)
        episodes = run_episodes(env, rule, [0], record=["projected"])
        assert np.nansum(episodes.curves["projected"]) == 0, name
        assert (episodes.infos["uploads"] == env.config.budget).all()


@pytest.mark.parametrize(
    ("env_id", "fields"),
    [
        ("DataScheduling-v0", {"refill": False}),
        ("DataScheduling-v0", {"labels": "server", "uploads_per_block": 2}),
        ("DataSchedulingBatch-v0", {}),
        ("DataSchedulingBatchDiscrete-v0", {"path_loss_exponent": 3.0}),
    ],
)
def test_lanes_are_independent(env_id: str, fields: dict[str, Any]) -> None:
    small = {**SMALL[env_id], "n_devices": 5, "buffer_size": 4, "budget": 8, **fields}
    one, two = make_lanes(env_id, 1, small), make_lanes(env_id, 2, small)
    for name, parameters in variants(one):
        together = run_episodes(two, make_baseline(name, two, **parameters), range(3))
        alone = run_episodes(one, make_baseline(name, one, **parameters), range(3))
        assert np.array_equal(together.returns, alone.returns), name


def test_single_observations_need_no_lane_axis() -> None:
    for actions, m in itertools.product(("sample", "device", "scores"), (1, 2)):
        fields = {"actions": actions, "uploads_per_block": m, "budget": 40}
        one, many = Made(1, **fields), Made(20, **fields)
        seen = draw(many, 20)
        for name, parameters in variants(many):
            if name in ("random", "proportional-fair"):
                continue
            rule = make_baseline(name, many, **parameters)
            rule.begin(np.arange(20), range(20))
            batch = rule.act(seen)
            alone = make_baseline(name, one, **parameters)
            for lane in range(20):
                alone.begin(np.arange(1), [lane])
                found = alone.act(lane_of(seen, lane))
                assert found.shape == batch[lane].shape
                assert np.array_equal(found, batch[lane]), name
        rule = make_baseline("proportional-fair", one)
        rule.begin(np.arange(1), [3])
        lane_axis = {part: values[:1] for part, values in seen.items()}
        first = rule.act(lane_of(seen, 0))
        rule.begin(np.arange(1), [3])
        assert np.array_equal(rule.act(lane_axis)[0], first)


def test_draws_follow_from_the_seed() -> None:
    env = Made(2)
    rule = make_baseline("round-robin", env)
    seen = observe(env, (2,), snr_db=5)

    def samples(seeds: list[int]) -> Any:
        rule.begin(np.arange(2), seeds)
        return np.array([rule.act(seen) for _ in range(3000)])

    drawn = samples([4, 5])
    assert np.array_equal(samples([5, 4]), drawn[:, ::-1])
    assert not np.array_equal(drawn[:, 0], drawn[:, 1])
    assert set(drawn.ravel().tolist()) == {0, 1, 2}
    assert np.bincount(drawn[:, 0]) / 3000 == pytest.approx(np.full(3, 1 / 3), abs=0.04)
