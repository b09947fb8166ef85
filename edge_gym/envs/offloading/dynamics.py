"""Joint model training and task inference: what is offloaded, at which bandwidth and clock speed?

Source: Li et al. 2021, §II and §IV.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from edge_gym.core.observation import ObservationTable
from edge_gym.core.problem import Step
from edge_gym.core.state import LaneArray
from edge_gym.envs.budget import Budget
from edge_gym.envs.federated import FederatedLearning, per_device
from edge_gym.envs.offloading.actions import (
    CombinationCodec,
    GridCodec,
    OffloadingCodec,
    action_codec,
)
from edge_gym.envs.offloading.config import SPLIT_LEVELS, OffloadingConfig
from edge_gym.envs.offloading.costs import MAX_COST, mean_gain, offloading_costs
from edge_gym.envs.offloading.observation import observation_tables
from edge_gym.learning.averaging import average
from edge_gym.physics import wireless
from edge_gym.physics.compute import cpu_energy, cpu_latency
from edge_gym.runtime.streams import Purpose
from edge_gym.solvers.offloading import (
    Evaluation,
    Offloading,
    OffloadingCosts,
    evaluate,
    optimal_resources,
)
from edge_gym.typing import BoolArray, Float64Array, IntArray


class OffloadingProblem(FederatedLearning):
    """Joint training and inference for many lanes; see ``OffloadingEnv``.

    Attributes:
        codec: What actions mean.
    """

    config: OffloadingConfig
    codec: OffloadingCodec | GridCodec | CombinationCodec
    config_type = OffloadingConfig
    picture = "edge_gym.envs.offloading.scene:scene_of"
    documented_tables: ClassVar[dict[str, ObservationTable]] = observation_tables(
        OffloadingConfig()
    )

    # What each user trains from: the model that it downloaded last, and its age.
    held = LaneArray(
        np.float32,
        lambda problem: (problem.config.n_devices, problem.network.n_values),
        reset=None,
    )
    staleness = LaneArray(np.int64, per_device)
    # Where users are, the server in the middle, and their channels' gains.
    place_m = LaneArray(np.float64, lambda problem: (problem.config.n_devices, 2))
    gain = LaneArray(np.float64, per_device, reset=1)
    task_bits = LaneArray(np.float64, per_device)
    # Seconds after the server had the last model at which each user's download has come and its
    # CPU is free, so that it begins to train, and at which its uplink is free.
    begin_s = LaneArray(np.float64, per_device)
    link_free_s = LaneArray(np.float64, per_device)
    # What the last iteration did; shares of the band are those of uplinks and of downlinks.
    offloaded = LaneArray(np.float64, per_device)
    cpu_share = LaneArray(np.float64, per_device)
    band_shares = LaneArray(np.float64, lambda problem: (2, problem.config.n_devices))
    wsel = LaneArray(np.float64)
    latency_s = LaneArray(np.float64, per_device)
    # Of the episode so far.
    wsel_sum = LaneArray(np.float64)
    joules = LaneArray(np.float64)
    seconds = LaneArray(np.float64)
    inference_accuracy = LaneArray(np.float64)
    inference_sum = LaneArray(np.float64)
    offloaded_sum = LaneArray(np.float64)
    staleness_sum = LaneArray(np.float64)

    def __init__(self, config: OffloadingConfig, n_lanes: int) -> None:
        budget = Budget(config.iterations, {"iterations": 1.0})
        super().__init__(config, n_lanes, config.iterations, budget)
        self._model_bits = config.model_bits or float(self.compressor.payload_bits)
        image_bits = 8.0 * self.features.train.shape[1]
        self._mean_task_bits = config.task_bits or config.task_images * image_bits
        self.tables = observation_tables(config)
        self.observation_space = spaces.Dict(
            {
                "devices": self.tables["devices"].space(config.n_devices),
                "system": self.tables["system"].space(),
            }
        )
        self.codec = action_codec(config)
        self.action_space = self.codec.space
        self.actions_per = "combination" if config.actions == "combination" else "device"

    def reset_lanes(self, lanes: IntArray) -> dict[str, NDArray[Any]]:
        """Draw the system and the model, which all users have; the first iteration begins."""
        self.clear(lanes)
        for lane in lanes.tolist():
            self._draw_data(lane)
        self.place_m[lanes] = self._draw_places(lanes)
        self.begin_s[lanes] = self.config.first_download_s
        info = self._begin_learning(lanes)
        self.held[lanes] = self._models(lanes)[:, None]
        self._begin_iteration(lanes)
        return info

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Train, average, classify and download as the actions say, and begin the next one."""
        config = self.config
        costs = self.costs(lanes)
        has_tasks = costs.task_bits > 0
        offloading = self._decide(costs, has_tasks, actions)
        found = evaluate(costs, offloading)
        self.train(lanes)
        iteration = self.rounds[lanes] + 1
        over = iteration >= config.iterations
        paid, info, final_info = self._end_round(lanes, over, iteration)
        inferred = np.asarray(has_tasks.any(axis=1))
        self.infer(lanes[inferred], has_tasks[inferred])
        self._download(lanes, offloading)
        self._occupy(lanes, costs, found)

        self.wsel[lanes] = np.minimum(found.wsel, MAX_COST)
        reward = config.accuracy_weight * paid - self.wsel[lanes]
        self.offloaded[lanes] = np.where(
            inferred[:, None], offloading.offloaded, self.offloaded[lanes]
        )
        self.cpu_share[lanes] = offloading.cpu_hz / config.max_cpu_hz
        self.band_shares[lanes] = np.stack(
            [offloading.uplink_share, offloading.downlink_share], axis=1
        )
        self.latency_s[lanes] = found.latency_s
        self.wsel_sum[lanes] += self.wsel[lanes]
        self.joules[lanes] += found.energy_j.sum(axis=1)
        self.seconds[lanes] += found.latency_s.mean(axis=1)
        self.inference_sum[lanes] += np.where(inferred, self.inference_accuracy[lanes], 0)
        offloaded = np.where(has_tasks, offloading.offloaded, 0).sum(axis=1)
        offloaded /= np.maximum(has_tasks.sum(axis=1), 1)
        self.offloaded_sum[lanes] += offloaded
        self.staleness_sum[lanes] += self.staleness[lanes].mean(axis=1)
        self._begin_iteration(lanes)
        iterations = self.rounds[lanes].astype(np.float64)
        info["iterations"] = info.pop("rounds")
        info |= self._told(found, has_tasks, offloaded)
        info["inference_accuracy"] = self.inference_accuracy[lanes].copy()
        info["downloads"] = offloading.download.sum(axis=1).astype(np.float64)
        info["staleness"] = self.staleness[lanes].mean(axis=1)
        if config.actions != "direct":
            wanted = np.reshape(actions, (len(lanes), -1)).any(axis=1)
            info["projected"] = (wanted & ~inferred).astype(np.float64)
        times = sum(config.has_tasks(n) for n in range(1, config.iterations + 1))
        final_info |= {
            "total_wsel": self.wsel_sum[lanes].copy(),
            "total_j": self.joules[lanes].copy(),
            "total_s": self.seconds[lanes].copy(),
            "mean_inference_accuracy": self.inference_sum[lanes] / times,
            "mean_offloaded": self.offloaded_sum[lanes] / times,
            "mean_staleness": self.staleness_sum[lanes] / iterations,
        }
        return Step(reward, over, np.zeros_like(over), info, final_info)

    def observe(self) -> dict[str, NDArray[np.float32]]:
        """Return the users and the system."""
        config, lanes = self.config, np.arange(self.n_lanes)
        costs = self.costs(lanes)
        fair = 1 / (2 * config.n_devices)
        rate = fair * np.log2(1 + costs.uplink_snr_hz / (fair * config.bandwidth_hz))
        log_upload = -np.log(np.maximum(rate, 1e-300))
        task = np.where(self.task_bits > 0, self.task_bits, self._mean_task_bits)
        iteration = self.rounds + 1
        devices = {
            "gain_db": wireless.linear_to_db(self.gain),
            "task_mbit": self.task_bits / 1e6,
            "training_s": costs.training_s,
            "training_j": costs.training_j,
            "previous_download_s": self.begin_s,
            "log_upload": log_upload - log_upload.mean(axis=1, keepdims=True),
            "log_task": np.log(task / self._mean_task_bits),
            "staleness": self.staleness,
            "offloaded": self.offloaded,
            "cpu_share": self.cpu_share,
            "samples": self.sizes,
        }
        system = {
            "users": np.full(self.n_lanes, config.n_devices),
            "iterations_left": config.iterations - self.rounds,
            "until_tasks": np.array([self._until_tasks(int(n)) for n in iteration]),
            "model_mbit": np.full(self.n_lanes, self._model_bits / 1e6),
            "last_wsel": self.wsel,
            **self.observed_score(),
        }
        return {
            "devices": self.tables["devices"].fill(devices),
            "system": self.tables["system"].fill(system),
        }

    def action_masks(self) -> BoolArray | None:
        """Offloading nothing alone, where there are no tasks; None for direct actions.

        Returns:
            ``(n_lanes, 6^M)`` of combinations, ``(n_lanes, M·6)`` of levels, user after user.
        """
        config = self.config
        if config.actions == "direct":
            return None
        arrive = np.asarray(self.task_bits.any(axis=1))
        if config.actions == "combination":
            masks = np.repeat(arrive[:, None], SPLIT_LEVELS**config.n_devices, axis=1)
            masks[:, 0] = True
            return masks
        levels = np.repeat(arrive[:, None], SPLIT_LEVELS, axis=1)
        levels[:, 0] = True
        return np.tile(levels, config.n_devices)

    def _draw_places(self, lanes: IntArray) -> Float64Array:
        """Draw where users are, ``(m, M, 2)``, the server in the middle."""
        config = self.config
        drawn = self.streams.uniforms(lanes, Purpose.PLACES, (2, config.n_devices))
        angle, radius = 2 * np.pi * drawn[:, 0], np.full_like(drawn[:, 1], config.cell_radius_m)
        if config.placement == "disc":
            radius *= np.sqrt(drawn[:, 1])
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)

    def _begin_iteration(self, lanes: IntArray) -> None:
        """Let users move, channels fade and tasks arrive."""
        config, rounds, links = self.config, self.rounds[lanes], (self.config.n_devices,)
        begun = rounds > 0
        if config.move_m and begun.any():
            movers = lanes[begun]
            direction = self.streams.uniforms(movers, Purpose.MOVES, links, rounds[begun])
            self.place_m[movers] = _moved(
                self.place_m[movers], config.move_m, config.cell_radius_m, 2 * np.pi * direction
            )
        fading = lanes if config.fading == "iteration" else lanes[~begun]
        self.fading.advance(self.streams, fading, self.rounds[fading])
        spread = 2 * self.streams.uniforms(lanes, Purpose.TASKS, links, rounds) - 1
        arrive = np.array([config.has_tasks(n) for n in (rounds + 1).tolist()], np.bool_)
        bits = self._mean_task_bits * (1 + config.task_spread * spread)
        self.task_bits[lanes] = np.where(arrive[:, None], bits, 0)
        distance_m = np.hypot(self.place_m[lanes, :, 0], self.place_m[lanes, :, 1])
        mean = mean_gain(config, np.maximum(distance_m, 1.0))
        self.gain[lanes] = np.maximum(mean * self.fading.gain[lanes], 1e-30)

    def _decide(
        self, costs: OffloadingCosts, has_tasks: BoolArray, actions: NDArray[Any]
    ) -> Offloading:
        """Return the decisions that actions mean."""
        if isinstance(self.codec, OffloadingCodec):
            return self.codec.decode(actions, has_tasks)
        offloaded = np.where(has_tasks, self.codec.decode(actions), 0.0)
        return optimal_resources(costs, offloaded)

    def train(self, lanes: IntArray) -> None:
        """Let all users train the model that they have; the server averages what they get."""
        config = self.config
        weights = self.learner.weights[torch.tensor(lanes)]
        held = torch.from_numpy(self.held[lanes]).to(weights)
        updates, _ = self.learner.local_updates(
            lanes,
            self.rows[lanes],
            self.sizes[lanes],
            self._orders(lanes),
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            epochs=config.local_epochs,
            start=held,
        )
        models = held + updates
        change = average(models - weights[:, None], self.sizes[lanes])
        self.learner.add(lanes, change)

    def infer(self, lanes: IntArray, has_tasks: BoolArray) -> None:
        """Classify the images of all tasks by the new model, which users and server have."""
        if not len(lanes):
            return
        images = (self.config.n_devices * self.config.task_images,)
        drawn = self.streams.uniforms(lanes, Purpose.SAMPLES, images, self.rounds[lanes])
        places = (drawn * self.test_size).astype(np.int64)
        rows = np.take_along_axis(self.test[lanes], places, axis=1)
        score = self.learner.score(lanes, rows, test=True)
        self.inference_accuracy[lanes] = score.accuracy

    def _download(self, lanes: IntArray, offloading: Offloading) -> None:
        """Let users have the new model who download it."""
        models = self._models(lanes)[:, None]
        self.held[lanes] = np.where(offloading.download[:, :, None], models, self.held[lanes])
        self.staleness[lanes] = np.where(offloading.download, 0, self.staleness[lanes] + 1)

    def _models(self, lanes: IntArray) -> NDArray[np.float32]:
        """Return the values of the global models, ``(m, n_values)``."""
        return np.asarray(self.learner.weights[torch.tensor(lanes)].cpu().numpy())

    def _occupy(self, lanes: IntArray, costs: OffloadingCosts, found: Evaluation) -> None:
        """Note how long after the model was ready users' CPUs and uplinks are busy."""
        self.begin_s[lanes] = np.minimum(found.download_s + found.local_s, MAX_COST)
        sent = costs.previous_download_s + costs.training_s + found.upload_s + found.offload_s
        ready = found.model_ready_s[:, None]
        # Where no model is ever ready, nothing comes after it.
        late = np.subtract(sent, ready, out=np.zeros(sent.shape), where=np.isfinite(ready))
        self.link_free_s[lanes] = np.clip(late, 0, MAX_COST)

    def _told(
        self, found: Evaluation, has_tasks: BoolArray, offloaded: Float64Array
    ) -> dict[str, NDArray[Any]]:
        """Return the parts of the cost for the info; means are over users."""
        parts = {
            "wsel": found.wsel,
            "energy_j": found.energy_j.sum(axis=1),
            "latency_s": found.latency_s.mean(axis=1),
            "model_ready_s": found.model_ready_s,
            **{
                name: getattr(found, name).mean(axis=1)
                for name in ("upload_s", "offload_s", "download_s", "local_s", "edge_s")
            },
            **{
                name: getattr(found, name).sum(axis=1)
                for name in ("upload_j", "offload_j", "download_j", "local_j")
            },
            "tasks": has_tasks.sum(axis=1).astype(np.float64),
            "offloaded": offloaded,
        }
        return {name: np.minimum(values, MAX_COST) for name, values in parts.items()}

    def costs(self, lanes: IntArray) -> OffloadingCosts:
        """Return what the iteration that begins costs, ``(m, M)``."""
        config = self.config
        cycles = (
            config.cycles_per_flop * self.training_flops * config.local_epochs * self.sizes[lanes]
        )
        training_s, training_j = config.training_s, config.training_j
        begin_s = self.begin_s[lanes]
        trained_s = cpu_latency(cycles, config.max_cpu_hz) if training_s is None else training_s
        return offloading_costs(
            config,
            gain_db=wireless.linear_to_db(self.gain[lanes]),
            task_mbit=self.task_bits[lanes] / 1e6,
            # Nothing else uses the uplink before the update, which therefore waits for it.
            training_s=np.maximum(
                trained_s + np.zeros(cycles.shape), self.link_free_s[lanes] - begin_s
            ),
            training_j=(
                cpu_energy(cycles, config.max_cpu_hz, config.capacitance)
                if training_j is None
                else np.full(cycles.shape, training_j)
            ),
            previous_download_s=begin_s,
            model_mbit=self._model_bits / 1e6,
        )

    def _until_tasks(self, iteration: int) -> int:
        """Return the iterations from this one to the next with tasks."""
        config = self.config
        last = config.iterations
        ahead = range(iteration, last + 1)
        return next((n - iteration for n in ahead if config.has_tasks(n)), 0)


def _moved(
    place_m: Float64Array, step_m: float, radius_m: float, angle: Float64Array
) -> Float64Array:
    """Return places ``(m, M, 2)`` after a step in these directions; the cell's edge throws back."""
    moved = place_m + step_m * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    distance = np.maximum(np.hypot(moved[..., 0], moved[..., 1]), 1e-9)
    inside = np.where(distance > radius_m, np.abs(2 * radius_m - distance), distance)
    return np.asarray(moved * (np.minimum(inside, radius_m) / distance)[..., None])
