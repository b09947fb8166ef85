"""What a package of one's own can bring to edge_gym, each thing registered by name."""

from __future__ import annotations


def register() -> None:
    """Register everything; nothing but names is imported before it is asked for."""
    import edge_gym

    edge_gym.register_dataset("digits", "digits_plugin.data:load")
    edge_gym.register_learner("logistic-regression", "digits_plugin.learner:LogisticRegression")
    edge_gym.register_network("digits-net", "digits_plugin.model:make")
    edge_gym.register_channel("line-of-sight", "digits_plugin.channel:LineOfSight")
    edge_gym.register_baseline("spend-evenly", "digits_plugin.rule:SpendEvenly")
    edge_gym.register_environment(
        "digits/PowerControl-v0",
        "digits_plugin.problem:PowerControl",
        summary="transmit power of each upload of a training sample, within an energy budget",
    )
