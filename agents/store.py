"""Agents on disk: one small file each, whose header says what it is; nothing in it is code."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata as package_metadata
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_gym.agents.algorithms.base import ALGORITHMS
from edge_gym.agents.archive import (
    AgentError,
    check_agent,
    check_outputs,
    read_tensors,
    write_tensors,
)
from edge_gym.agents.interface import interface, reading, scaling_clip
from edge_gym.core.registration import NAMESPACE
from edge_gym.runtime.isolation import in_isolation
from edge_gym.runtime.messages import shown
from edge_gym.runtime.plain import plain

if TYPE_CHECKING:
    from edge_gym.agents.networks.deep_sets import DeviceNetwork
    from edge_gym.agents.networks.flat import PolicyNetwork
    from edge_gym.agents.policy import AgentPolicy
    from edge_gym.integrations.sb3_imports import BaseAlgorithm

_FORMAT = "edge_gym agent 1"
_DEVICE_FORMAT = "edge_gym device agent 1"
_MODEL_FORMAT = "edge_gym model 1"
_FORMATS = (_FORMAT, _DEVICE_FORMAT, _MODEL_FORMAT)
_SUFFIX = ".safetensors"


def save_agent(
    model: BaseAlgorithm,
    path: str | PathLike[str],
    metadata: Mapping[str, Any] | None = None,
    *,
    env: Any = None,
) -> Path:
    """Save the policy of a model, without anything that training alone needs.

    Args:
        model: As ``train`` makes it, or of stable-baselines3 or sb3-contrib with ``MlpPolicy`` or
            ``MultiInputPolicy``. What ``VecNormalize`` and ``ScaleObservation`` do to its
            observations is saved too.
        path: Where to; ``.safetensors`` is appended where it is missing.
        metadata: What else to say in the header, JSON's types.
        env: The environment it acts in, scalar or vector; by default the model's own.

    Returns:
        The file.

    Raises:
        ValueError: If the policy is neither a network on devices nor a multilayer perceptron, if
            other wrappers change what it observes or does, or there is no environment to tell its
            columns from.
    """
    from edge_gym.agents.models import model_arrays
    from edge_gym.agents.networks.scaling import ScaledFeatures, ScaledParts

    if env is None:
        env = model.get_env()
    if env is None:
        raise ValueError("the model has no environment: pass env=, the one that it acts in")
    policy: Any = model.policy
    own = getattr(policy, "q_net", policy)
    features = getattr(own, "features_extractor", None)
    if isinstance(features, (ScaledFeatures, ScaledParts)):
        if model.get_vec_normalize_env() is not None or scaling_clip(env) is not None:
            raise ValueError(
                "the network scales observations itself: leave out VecNormalize and "
                "ScaleObservation"
            )
        devices = isinstance(features, ScaledParts)
        kind = _DEVICE_FORMAT if devices else _FORMAT
        arrays, network = (_device_arrays if devices else _flat_arrays)(own)
        described = {**interface(env), **network}
    else:
        kind, (arrays, described) = _MODEL_FORMAT, model_arrays(model, env)
    header = {
        "format": kind,
        "algorithm": _algorithm(model),
        **described,
        "steps": model.num_timesteps,
        "versions": versions(),
        **(metadata or {}),
    }
    path = Path(path)
    if path.suffix != _SUFFIX:
        path = path.with_name(path.name + _SUFFIX)
    write_tensors(path, arrays, header)
    return path


@in_isolation
def load_agent(
    path_or_name: str | PathLike[str],
    env: Any,
    *,
    env_id: str | None = None,
    seed: int | None = None,
) -> AgentPolicy:
    """Load an agent to act in an environment.

    Args:
        path_or_name: A file that ``save_agent`` wrote, or the name of a shipped agent.
        env: The environment, scalar or vector, wrapped or not.
        env_id: Whose shipped agent to take, where ``env`` was made without Gymnasium's registry.
        seed: The training seed of a shipped agent; None for the best on the selection seeds.

    Raises:
        FileNotFoundError: If there is no such file.
        AgentError: If the file is damaged or of another kind, or no agent of this name is shipped.
        ValueError: If ``env`` does not observe what the agent reads, or the actions differ; what
            else it observes is ignored.
    """
    from torch.random import fork_rng

    from edge_gym.agents.decoders import make_decoder
    from edge_gym.agents.models import ModelPolicy, model_network, model_reading
    from edge_gym.agents.policy import AgentPolicy

    if scaling_clip(env) is not None:
        raise ValueError(
            "agents read observations in physical units and scale them by themselves: load them "
            "for the environment without ScaleObservation"
        )
    if path_or_name in ALGORITHMS:
        file = _shipped_file(str(path_or_name), env, env_id, seed)
        name = str(path_or_name)
    else:
        if seed is not None:
            raise ValueError(f"a training seed is of a shipped agent, not of {path_or_name}")
        file = Path(path_or_name)
        name = file.stem
    arrays, header = read_tensors(file, "agent")
    try:
        if (kind := header["format"]) not in _FORMATS:
            raise AgentError(f"{file} is of another kind, {shown(kind)}, not {_FORMAT!r}")
        check_agent(file, arrays, header)
        with fork_rng(devices=[]):  # Layers draw weights, which are replaced at once.
            network: Any = {
                _FORMAT: _flat_network,
                _DEVICE_FORMAT: _device_network,
                _MODEL_FORMAT: model_network,
            }[kind](arrays, header)
        policy = (ModelPolicy if kind == _MODEL_FORMAT else AgentPolicy)(network, header, name)
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise AgentError(
            f"{file} is damaged or no agent ({shown(error)}): copy it again"
        ) from error
    except AgentError:
        raise
    except (ValueError, OverflowError) as error:
        raise AgentError(f"{file} is damaged: {error}") from error
    found = model_reading if kind == _MODEL_FORMAT else reading
    policy.reading = found(file, header, env)
    if header.get("decoder") is not None:
        try:
            policy.decoder = make_decoder(header["decoder"], env)
        except ValueError as error:
            raise AgentError(f"{file} has a decoder that cannot be made here: {error}") from error
    if kind == _DEVICE_FORMAT:
        outputs = network.scores.shape.outputs
        columns = None if policy.decoder is None else policy.decoder.columns
        if columns is not None and policy.reading.width:
            columns = min(columns, outputs)  # A residual of what the agent knows.
        check_outputs(file, header, outputs, columns)
    return policy


def read_agent_metadata(path: str | PathLike[str]) -> dict[str, Any]:
    """Return what an agent's file says of it: recipe, seeds, versions, evaluation.

    Raises:
        FileNotFoundError: If there is no such file.
        AgentError: If the file is damaged or of another kind.
    """
    _, header = read_tensors(Path(path), "agent")
    if not isinstance(header, dict) or header.get("format") not in _FORMATS:
        raise AgentError(f"{path} holds no agent")
    return header


def shipped_agents(env_id: str) -> dict[str, list[int]]:
    """Return the trained agents that come with the package for an environment: training seeds."""
    found = {name: sorted(shipped_files(name, env_id)) for name in ALGORITHMS}
    return {name: training_seeds for name, training_seeds in found.items() if training_seeds}


def shipped_files(name: str, env_id: str) -> dict[int, Path]:
    """Return the files of an algorithm's shipped agents by training seed."""
    folder = Path(str(resources.files("edge_gym.agents"))) / "trained"
    files = (folder / env_id.removeprefix(f"{NAMESPACE}/")).glob(f"{name}-seed*{_SUFFIX}")
    return {int(file.stem.removeprefix(f"{name}-seed")): file for file in files}


def best_seed(headers: Mapping[int, Mapping[str, Any]]) -> int:
    """Return the training seed of the agent that was best on the selection seeds."""
    return max(sorted(headers), key=lambda seed: headers[seed]["evaluation"]["mean_return"])


def versions() -> dict[str, str]:
    """Return the versions of what training depends on."""
    packages = ("edge_gym", "gymnasium", "numpy", "stable-baselines3", "torch")
    return {
        "python": platform.python_version(),
        **{package: package_metadata.version(package) for package in packages},
    }


def _algorithm(model: BaseAlgorithm) -> str:
    """Return the name of the algorithm, a variant's too."""
    names = [kind.__name__.lower() for kind in type(model).__mro__]
    return next((name for name in names if name in ALGORITHMS), names[0])


def _shipped_file(name: str, env: Any, env_id: str | None, seed: int | None) -> Path:
    if env_id is None:
        env_id = interface(env)["environment"]
    if env_id is None:
        raise ValueError(f"which environment's {name!r}? Pass env_id=, or make env by its id")
    files = shipped_files(name, env_id)
    if not files:
        raise AgentError(
            f"no trained {name!r} is shipped for {env_id}: train one with "
            f"`edge-gym train {name} {env_id}` and give the path of its file"
        )
    if seed is None:
        seed = best_seed({number: read_agent_metadata(file) for number, file in files.items()})
    if seed not in files:
        raise AgentError(
            f"no {name!r} of training seed {seed} is shipped for {env_id}; there are "
            f"{', '.join(map(str, sorted(files)))}"
        )
    return files[seed]


def _flat_arrays(policy: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays of an MLP policy on scaled features, and what the header says of them."""
    if hasattr(policy, "q_net"):
        modules = [*policy.q_net]
    else:
        modules = [*policy.mlp_extractor.policy_net, policy.action_net]
    features = policy.features_extractor
    arrays = {
        "centre": features.centre.cpu().numpy(),
        "spread": features.spread.cpu().numpy(),
    }
    for layer, module in enumerate(modules[::2]):
        arrays[f"{layer}.weight"] = module.weight.detach().cpu().numpy()
        arrays[f"{layer}.bias"] = module.bias.detach().cpu().numpy()
    activation = _activation_name(modules[1::2])
    return arrays, {"activation": activation, "clip": features.clip}


def _flat_network(arrays: Mapping[str, Any], header: Mapping[str, Any]) -> PolicyNetwork:
    from edge_gym.agents.networks.flat import PolicyNetwork

    layers = [
        (arrays[f"{layer}.weight"], arrays[f"{layer}.bias"])
        for layer in range((len(arrays) - 2) // 2)
    ]
    clip = np.inf if header["clip"] is None else float(header["clip"])
    network = PolicyNetwork(layers, header["activation"], arrays["centre"], arrays["spread"], clip)
    columns, n_actions = header["columns"], header["action_space"]["n"]
    if (len(columns), n_actions) != (len(arrays["centre"]), network.n_actions):
        raise ValueError("its network does not fit its columns and actions")
    return network


def _device_arrays(policy: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays of a policy on devices, and what the header says of them."""
    features = policy.features_extractor
    scores = policy.q_net[0] if hasattr(policy, "q_net") else policy.mlp_extractor.policy_net
    scaling = features.state_dict()
    arrays = {f"scaling.{name}": array.cpu().numpy() for name, array in scaling.items()}
    for name, array in scores.state_dict().items():
        arrays[f"scores.{name}"] = array.cpu().numpy()
    described = {
        "network": plain(asdict(scores.shape)),
        "present": features.present,
        "clip": features.clip,
        "signs": bool(getattr(policy, "signs", False)),
    }
    return arrays, described


def _device_network(arrays: Mapping[str, Any], header: Mapping[str, Any]) -> DeviceNetwork:
    from edge_gym.agents.networks.deep_sets import DeviceArchitecture, DeviceNetwork

    described = header["network"]
    shape = DeviceArchitecture(**{**described, "hidden": tuple(described["hidden"])})
    columns = header["columns"]
    if {part: len(names) for part, names in columns.items()} != dict(shape.widths):
        raise ValueError("its network does not fit its columns")
    scaling = {
        part: (arrays[f"scaling.{part}_centre"], arrays[f"scaling.{part}_spread"])
        for part in columns
    }
    if any(len(array) != shape.widths[part] for part, pair in scaling.items() for array in pair):
        raise ValueError("its scaling does not fit its columns")
    prefix = "scores."
    weights = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    return DeviceNetwork(shape, scaling, weights, header["present"], float(header["clip"]))


def _activation_name(modules: list[Any]) -> str:
    from edge_gym.agents.networks.activations import ACTIVATIONS

    kinds = {type(module) for module in modules} or {ACTIVATIONS["tanh"]}
    for name, kind in ACTIVATIONS.items():
        if kinds == {kind}:
            return name
    raise ValueError(f"agents are saved with one of {', '.join(ACTIVATIONS)} between all layers")
