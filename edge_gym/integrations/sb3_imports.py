"""What is used of stable-baselines3, so that its absence is reported once and clearly."""

from edge_gym.runtime.optional import missing_extra

try:
    from stable_baselines3 import DQN, PPO
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
    from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize
    from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
    from torch.utils.tensorboard import SummaryWriter
except ModuleNotFoundError as error:
    raise missing_extra(
        "training agents needs stable-baselines3 and TensorBoard", "agents", error
    ) from error

__all__ = [
    "DQN",
    "PPO",
    "ActorCriticPolicy",
    "BaseAlgorithm",
    "BaseCallback",
    "DQNPolicy",
    "DiagGaussianDistribution",
    "DictReplayBufferSamples",
    "Distribution",
    "Logger",
    "Monitor",
    "NStepReplayBuffer",
    "OffPolicyAlgorithm",
    "OnPolicyAlgorithm",
    "QNetwork",
    "ReplayBuffer",
    "ReplayBufferSamples",
    "SummaryWriter",
    "TensorBoardOutputFormat",
    "VecEnv",
    "VecNormalize",
]
