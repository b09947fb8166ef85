"""RLlib's PPO trains for an iteration on lanes, and for one on single environments."""

from __future__ import annotations

import math
import os
from typing import Any

import ray
from ray.rllib.algorithms.ppo import PPOConfig

from edge_gym.integrations.rllib import ppo_config

STEPS, LANES = 64, 4


def run(env_id: str, **fields: Any) -> str:
    """Train on lanes and on single environments in this process; the first id in another too."""
    begins = not ray.is_initialized()
    if begins:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
        )
    config = ppo_config(env_id, **fields).env_runners(
        num_env_runners=0, num_envs_per_env_runner=LANES
    )
    config.training(train_batch_size_per_learner=STEPS, minibatch_size=STEPS // 2, num_epochs=1)
    lanes = _train(config.copy())
    single = _train(config.copy().env_runners(gym_env_vectorize_mode="sync"))
    if begins:
        _train(config.copy().env_runners(num_env_runners=1))
    return f"mean returns {lanes:.3f} in lanes, {single:.3f} one by one"


def _train(config: PPOConfig) -> float:
    algorithm = config.build_algo()
    threads = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: os.environ.get("EDGE_GYM_THREADS"), local_env_runner=False
    )
    # An env runner has one core unless it asks for more.
    assert threads == ["1"] * config.num_env_runners
    module = algorithm.get_module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    results = algorithm.train()
    sampled = results["env_runners"]
    assert sampled["num_env_steps_sampled"] >= STEPS
    assert math.isfinite(results["learners"]["default_policy"]["total_loss"])
    after = algorithm.get_module().state_dict()
    assert any((before[name] != after[name]).any() for name in before)
    algorithm.stop()
    return float(sampled["episode_return_mean"])


if __name__ == "__main__":
    from each import for_each

    for_each(run)
