"""Links of task allocation fade as the channel says."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from plain_task_allocation import FADING, STALENESS, gains_of, make, many
from references import column
from rollouts import assert_same, random_actions

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def test_fading_does_not_depend_on_what_was_done() -> None:
    env, twin = make(**FADING), make(**FADING, **STALENESS)
    ours, theirs = env.reset(seed=7)[0], twin.reset(seed=7)[0]
    seen = []
    for action in itertools.islice(random_actions(env.action_space), 6):
        found = column(env, ours, "devices", "rate")
        np.testing.assert_array_equal(found, column(twin, theirs, "devices", "rate"))
        seen.append(found)
        ours, theirs = env.step(action)[0], twin.step(0)[0]
    assert len(np.unique(seen)) == 24


@pytest.mark.parametrize(
    ("channel", "variance"), [("rician:k=5", 11 / 36), ("nakagami:m=2", 0.5), ("awgn", 0.0)]
)
def test_links_fade_as_the_channel_says(channel: str, variance: float) -> None:
    problem, usual = (many(60, **FADING, cycles=19, channel=c) for c in (channel, "rayleigh"))
    # Nothing else that is drawn depends on it.
    np.testing.assert_array_equal(problem.limit_j, usual.limit_j)
    np.testing.assert_array_equal(problem.mean_snr, usual.mean_snr)
    gain = gains_of(problem)
    assert gain.shape == (60, 20, 4)
    assert gain.mean() == pytest.approx(1, abs=0.05)
    assert gain.var() == pytest.approx(variance, abs=0.06)
    assert (gains_of(usual) != gain).all()
    np.testing.assert_array_equal(usual.limit_j, many(60, channel="rayleigh").limit_j)


def test_gains_are_correlated_and_shadowed_over_cycles() -> None:
    def correlation(gain: Any, lag: int) -> float:
        log_gain = np.log(gain)
        return float(np.corrcoef(log_gain[:, lag].ravel(), log_gain[:, 0].ravel())[0, 1])

    slow = gains_of(many(200, **FADING, channel="rayleigh:correlation=0.95"))
    assert correlation(slow, 1) > 0.7 > correlation(slow, 6)
    shadowed = gains_of(many(200, **FADING, channel="awgn:shadowing_db=6"))
    np.testing.assert_allclose(shadowed[:, 1:], np.repeat(shadowed[:, :1], 6, axis=1))
    assert np.std(10 * np.log10(shadowed[:, 0])) == pytest.approx(6, abs=0.6)


def test_a_channel_without_fading_is_refused() -> None:
    with pytest.raises(ValueError, match=r'channel has no effect with fading="none".*rician:k=5'):
        make(channel="rician:k=5")
    assert make(channel="rayleigh:correlation=0").config.fading == "none"


def test_episodes_under_any_channel_go_on_from_their_state() -> None:
    channel = "rician:k=5,correlation=0.9,shadowing_db=4"
    env, twin = (make(**FADING, channel=channel) for _ in range(2))
    env.reset(seed=0)
    chosen = list(itertools.islice(random_actions(env.action_space, 1), 6))
    for action in chosen[:3]:
        env.step(action)
    twin.reset(seed=9)
    twin.set_state(env.get_state())
    for action in chosen[3:]:
        assert_same(env.step(action), twin.step(action))
