"""Models with stable-baselines3's and sb3-contrib's own networks, saved without code.

Their multilayer perceptrons read a whole observation side by side, so that they serve one number of
devices. What ``VecNormalize`` and ``ScaleObservation`` did to the observations is saved with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_gym.agents.interface import (
    Reading,
    base_environment,
    column_names,
    positions,
    scaling_clip,
    single_spaces,
)
from edge_gym.agents.networks.scaling import tensors
from edge_gym.agents.policy import AgentPolicy
from edge_gym.runtime.isolation import in_isolation
from edge_gym.wrappers import scaled_space

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}
_LINEAR = "linear"
# Wrappers that leave observations and actions as they are, and the one whose statistics are saved.
_HARMLESS = ("VecNormalize", "VecMonitor", "VecCheckNan")


class ModelNetwork(nn.Module):
    """From observations, through all that was done to them in training, to an MLP's outputs.

    Args:
        parts: Name and shape of each part, in the order in which they stand side by side.
        arrays: ``PART.centre``, ``PART.spread`` of scaled columns; ``PART.mean``, ``PART.variance``
            of normalised parts; ``N.weight``, ``N.bias`` of the linear layers.
        layers: What follows what, ``"linear"`` or the name of an activation.
        clip: Bound on scaled columns; None if they are not scaled.
        normalised: ``epsilon`` and ``clip`` of ``VecNormalize``; None without it.
        quantiles: Quantiles of each action's value, of which the mean counts.

    Raises:
        ValueError: If the arrays do not fit together or are not finite.
    """

    def __init__(
        self,
        parts: Sequence[tuple[str, Sequence[int]]],
        arrays: Mapping[str, NDArray[Any]],
        layers: Sequence[str],
        clip: float | None = None,
        normalised: Mapping[str, float] | None = None,
        quantiles: int = 1,
    ) -> None:
        super().__init__()
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("a network's numbers must be finite")
        self.parts = [(part, tuple(shape)) for part, shape in parts]
        self.clip, self.normalised, self.quantiles = clip, normalised, quantiles
        for part, shape in self.parts:
            of_columns, of_all = shape[-1:], shape
            for name, wanted in (
                ("centre", of_columns),
                ("spread", of_columns),
                ("mean", of_all),
                ("variance", of_all),
            ):
                array = arrays.get(f"{part}.{name}")
                if array is not None and array.shape != wanted:
                    raise ValueError(f"its {name} does not fit its {part or 'observation'}")
                values = None if array is None else torch.tensor(array)
                self.register_buffer(f"{part}_{name}", values)
        width = sum(math.prod(shape) for _, shape in self.parts)
        modules: list[nn.Module] = []
        for kind in layers:
            if kind != _LINEAR:
                modules.append(_ACTIVATIONS[kind]())
                continue
            number = sum(isinstance(module, nn.Linear) for module in modules)
            weight, bias = arrays[f"{number}.weight"], arrays[f"{number}.bias"]
            if weight.shape != (len(bias), width):
                raise ValueError(f"a layer of shape {weight.shape} does not follow {width} units")
            linear = nn.Linear(width, len(bias))
            linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
            modules.append(linear)
            width = len(bias)
        self.trunk = nn.Sequential(*modules)
        self.outputs = width // quantiles

    def forward(self, observations: Any) -> Tensor:
        """Return outputs, ``(..., outputs)``, for parts by name or a flat observation."""
        given = observations if isinstance(observations, Mapping) else {"": observations}
        flat = [
            self._prepared(part, given[part]).flatten(-len(shape)) for part, shape in self.parts
        ]
        outputs: Tensor = self.trunk(torch.cat(flat, dim=-1))
        if self.quantiles > 1:
            shape = (*outputs.shape[:-1], self.quantiles, self.outputs)
            outputs = outputs.reshape(shape).mean(dim=-2)
        return outputs

    def _prepared(self, part: str, values: Tensor) -> Tensor:
        centre, spread, mean, variance = (
            getattr(self, f"{part}_{name}") for name in ("centre", "spread", "mean", "variance")
        )
        if self.clip is not None:
            values = ((values - centre) / spread).clamp(-self.clip, self.clip)
        if self.normalised is not None and mean is not None:
            # In double precision, as VecNormalize does it.
            deviation = (variance + self.normalised["epsilon"]).sqrt()
            bound = self.normalised["clip"]
            values = ((values - mean) / deviation).clamp(-bound, bound).float()
        return values


class ModelPolicy(AgentPolicy):
    """A saved model as a policy: what ``model.predict(..., deterministic=True)`` does.

    Args:
        network: The model's.
        metadata: What its file says of it.
        name: What results call it.

    Raises:
        ValueError: If the network does not fit the actions.
    """

    def __init__(self, network: ModelNetwork, metadata: Mapping[str, Any], name: str) -> None:
        super().__init__(network, metadata, name)
        space = self.metadata["action_space"]
        self._kind = space["kind"]
        self._choices = [int(n) for n in space["nvec"]] if self._kind == "multidiscrete" else []
        if self._kind == "box":
            self._low, self._high = (
                np.array(space[end], np.float32).reshape(space["shape"]) for end in ("low", "high")
            )
            wanted = self._low.size
        else:
            wanted = sum(self._choices) or int(space["n"])
        if wanted != network.outputs:
            raise ValueError("its network does not fit its actions")

    @in_isolation
    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the best of the possible actions, or the mean of continuous ones.

        Args:
            observations: ``(..., F)``, or a mapping of parts with any leading axes.
            masks: Which discrete actions are possible, ``(..., A)``, those of several choices one
                choice after the other; None if all are.
        """
        own = observations if self.reading is None else self.reading.read(observations)
        with torch.no_grad():
            found = self.network(tensors(own)).numpy()
        if self._kind == "box":
            actions = found.reshape(*found.shape[:-1], *self._low.shape)
            if self.metadata["squashed"]:
                actions = self._low + 0.5 * (actions + 1) * (self._high - self._low)
            actions = np.clip(actions, self._low, self._high)
            return actions if self.reading is None else self.reading.complete(actions, observations)
        if masks is not None:
            found = np.where(np.reshape(masks, found.shape), found, -np.inf)
        if self._kind == "discrete":
            return np.asarray(found.argmax(axis=-1), np.int64)
        parts = np.split(found, np.cumsum(self._choices)[:-1], axis=-1)
        return np.stack([part.argmax(axis=-1) for part in parts], axis=-1)


def model_arrays(model: Any, env: Any) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays of a model, and what its header says of it and of its environment.

    Args:
        model: Of stable-baselines3 or sb3-contrib.
        env: The environment that it acts in.

    Raises:
        ValueError: If its network is no multilayer perceptron, or a wrapper stands between it and
            the environment that is not known here.
    """
    base = base_environment(env)
    seen, actions = single_spaces(base)
    clip = scaling_clip(env)
    _check_spaces(model, base, clip)
    modules, extractor, squashed, quantiles = _network(model)
    _check_extractor(extractor)
    layers, arrays = _layers(modules)
    parts = seen.spaces if isinstance(seen, spaces.Dict) else {"": seen}
    if clip is not None:
        for part in parts:
            arrays[f"{part}.centre"], arrays[f"{part}.spread"] = base.tables[part].scaling()
    normalised = _normalisation(model, env, arrays)
    return arrays, {
        "environment": base.spec.id if base.spec is not None else None,
        "action_space": _described(actions),
        "columns": column_names(base),
        "parts": [[part, list(space.shape or ())] for part, space in parts.items()],
        "layers": layers,
        "clip": clip,
        "normalised": normalised,
        "quantiles": quantiles,
        "squashed": squashed,
    }


def model_network(arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> ModelNetwork:
    """Return the network of a model's file.

    Raises:
        ValueError: If its arrays do not fit together.
    """
    parts = header["parts"]
    if {part: len(names) for part, names in header["columns"].items()} != {
        part: shape[-1] for part, shape in parts
    }:
        raise ValueError("its network does not fit its columns")
    return ModelNetwork(
        parts, arrays, header["layers"], header["clip"], header["normalised"], header["quantiles"]
    )


def model_reading(file: Path, header: Mapping[str, Any], env: Any) -> Reading:
    """Return how a model acts in an environment.

    Raises:
        ValueError: If a column that it reads is missing or has another unit, or the numbers of
            devices or the actions differ; the message names them.
    """
    base = base_environment(env)
    seen, actions = single_spaces(base)
    made_for = f"{file} was trained on {header['environment']}"
    columns = positions(header["columns"], column_names(base), made_for)
    for part, shape in header["parts"]:
        here = (seen[part] if isinstance(seen, spaces.Dict) else seen).shape or ()
        if tuple(shape[:-1]) != here[:-1]:
            raise ValueError(
                f"{made_for}, where {part} had {_by(shape[:-1])} rows; here they are "
                f"{_by(here[:-1])}: a network that reads all of them side by side serves one "
                "number alone (train a network on devices, as edge-gym train does)"
            )
    theirs, ours = header["action_space"], _described(actions)
    if theirs == ours:
        return Reading(columns)
    fill = base.action_fill
    if fill is not None and theirs["kind"] == ours["kind"] == "box":
        devices, *own = theirs["shape"]
        if ours["shape"][:1] == [devices] and (ours["shape"] + [1])[1] > (own or [1])[0]:
            return Reading(columns, ours["shape"][1], fill)
    raise ValueError(f"{made_for} with actions {_brief(theirs)}; here they are {_brief(ours)}")


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _brief(space: Mapping[str, Any]) -> str:
    return f"{space['kind']} {space.get('shape', space.get('nvec', space.get('n')))}"


def _described(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "multidiscrete", "nvec": space.nvec.tolist()}
    if isinstance(space, spaces.Box):
        low, high = (end.ravel().tolist() for end in (space.low, space.high))
        return {"kind": "box", "shape": list(space.shape), "low": low, "high": high}
    raise ValueError(f"no way to save a model with actions {space}")


def _check_spaces(model: Any, base: Any, clip: float | None) -> None:
    """Raise a ValueError if something unknown stands between the model and its environment."""
    wrapper: Any = model.get_env()
    while hasattr(wrapper, "venv"):
        if (name := type(wrapper).__name__) not in _HARMLESS:
            raise ValueError(
                f"what {name} does is not saved with the model; {', '.join(_HARMLESS)} may stand "
                "around the environment"
            )
        wrapper = wrapper.venv
    seen, actions = single_spaces(base)
    if clip is not None:
        seen = scaled_space(base, clip)
    for what, own, offered in (
        ("observations", model.observation_space, seen),
        ("actions", model.action_space, actions),
    ):
        if own != offered:
            raise ValueError(
                f"the model's {what} are {_outline(own)}, the environment's {_outline(offered)}"
                f"{' with other bounds' if _outline(own) == _outline(offered) else ''}: leave out "
                "wrappers that change them, but for ScaleObservation"
            )


def _outline(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Dict):
        parts = (f"{name} {part.shape}" for name, part in space.items())
        return f"Dict of {', '.join(parts)}"
    return f"Box {space.shape}" if isinstance(space, spaces.Box) else str(space)


def _network(model: Any) -> tuple[list[nn.Module], nn.Module, bool, int]:
    """Return a policy's modules, its features extractor, whether it squashes, and its quantiles."""
    policy = model.policy
    squashed = bool(getattr(policy, "squash_output", False))
    if hasattr(policy, "lstm_actor"):
        raise ValueError("no way to save a policy that remembers")
    if (actor := getattr(policy, "actor", None)) is not None:
        if hasattr(actor, "latent_pi"):
            head = actor.mu if isinstance(actor.mu, nn.Sequential) else [actor.mu]
            return [*actor.latent_pi, *head, nn.Tanh()], actor.features_extractor, True, 1
        return [*actor.mu], actor.features_extractor, True, 1
    if hasattr(policy, "quantile_net"):
        inner = policy.quantile_net
        return [*inner.quantile_net], inner.features_extractor, False, int(inner.n_quantiles)
    if hasattr(policy, "q_net"):
        return [*policy.q_net.q_net], policy.q_net.features_extractor, False, 1
    if hasattr(policy, "mlp_extractor"):
        modules = [*policy.mlp_extractor.policy_net, policy.action_net]
        if squashed:
            modules.append(nn.Tanh())
        return modules, policy.pi_features_extractor, squashed, 1
    raise ValueError(f"no way to save a {type(policy).__name__}")


def _check_extractor(extractor: nn.Module) -> None:
    """Raise a ValueError if features are more than the observation side by side."""
    kind = type(extractor).__name__
    parts = [module for module in extractor.modules() if not list(module.children())]
    plain = all(isinstance(part, nn.Flatten) for part in parts)
    if kind not in ("FlattenExtractor", "CombinedExtractor") or not plain:
        raise ValueError(f"no way to save a {kind}: MlpPolicy and MultiInputPolicy have none such")


def _layers(modules: Sequence[nn.Module]) -> tuple[list[str], dict[str, NDArray[Any]]]:
    layers: list[str] = []
    arrays: dict[str, NDArray[Any]] = {}
    # Parameters of an activation are the default ones if it reads as one made without any.
    names = {repr(kind()): name for name, kind in _ACTIVATIONS.items()}
    for module in modules:
        if isinstance(module, nn.Linear):
            number = layers.count(_LINEAR)
            arrays[f"{number}.weight"] = module.weight.detach().cpu().numpy()
            arrays[f"{number}.bias"] = module.bias.detach().cpu().numpy()
            layers.append(_LINEAR)
        elif repr(module) in names and type(module) in _ACTIVATIONS.values():
            layers.append(names[repr(module)])
        else:
            raise ValueError(
                f"no way to save a network with {module}: agents are saved with linear layers and "
                f"{', '.join(_ACTIVATIONS)}"
            )
    return layers, arrays


def _normalisation(
    model: Any, env: Any, arrays: dict[str, NDArray[Any]]
) -> dict[str, float] | None:
    """Add VecNormalize's statistics to ``arrays`` and return its numbers; None without it."""
    found = model.get_vec_normalize_env()
    while found is None and hasattr(env, "venv"):
        found, env = (env if type(env).__name__ == "VecNormalize" else None), env.venv
    if found is None or not found.norm_obs:
        return None
    statistics = found.obs_rms if isinstance(found.obs_rms, dict) else {"": found.obs_rms}
    for part in found.norm_obs_keys or statistics:
        arrays[f"{part}.mean"] = np.array(statistics[part].mean, np.float64)
        arrays[f"{part}.variance"] = np.array(statistics[part].var, np.float64)
    return {"epsilon": float(found.epsilon), "clip": float(found.clip_obs)}
