"""Long runs that begin with a trained model, saved as they go."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from edge_gym.agents.packing import pack, unpack
from edge_gym.baselines import make_baseline
from edge_gym.core.config import make_config
from edge_gym.core.problem import Step
from edge_gym.core.registration import find_environment
from edge_gym.envs.batch_slot.config import BatchSlotConfig
from edge_gym.envs.batch_slot.dynamics import BatchSlot
from edge_gym.envs.batch_slot.env import BatchSlotVectorEnv
from edge_gym.evaluation.episode_store import SUFFIX, load_stored, part_name, run_or_load
from edge_gym.evaluation.rollouts import Episodes, even_lanes, plain_config
from edge_gym.reproduce.harness import Options, check_data
from edge_gym.runtime.files import prepare_folder
from edge_gym.runtime.tensors import write_tensors
from edge_gym.typing import Float64Array, Info, IntArray
from edge_gym.version import __version__

_START_ACCURACY = 0.86


_MOST_PASSES = 30


_SCORINGS = 32  # In one pass of the training that comes before.


_SAVE_EVERY_S = 300.0


_RECORD = ("seconds", "validation_accuracy", "validation_loss")


class _Pretrained(BatchSlot):
    """Begins with a model that is good already: Ren et al. 2021, §VI-C begins with 86 % accuracy.

    It was trained on all devices' samples until it was that good on the validation set, or for
    thirty passes.
    """

    folder: Path

    def _draw_models(self, lanes: IntArray) -> None:
        """Put pretrained models in the place of those that are drawn."""
        super()._draw_models(lanes)
        for lane in lanes:
            self._pretrain(int(lane))

    def step_lanes(self, lanes: IntArray, actions: NDArray[Any]) -> Step:
        """Add the devices' mean loss on what they trained on to the info."""
        step = super().step_lanes(lanes, actions)
        step.info["local_loss"] = self.batch_loss[lanes].mean(axis=1)
        return step

    def _pretrain(self, lane: int) -> None:
        """Train a lane's model, or load what was trained on the same samples before."""
        config, learner, one = self.config, self.learner, np.array([lane])
        own = zip(self.rows[lane], self.sizes[lane], strict=True)
        samples = np.sort(np.concatenate([rows[:size] for rows, size in own]))
        training = (config.learning_rate, config.local_batch_size, _START_ACCURACY, __version__)
        network = (config.dataset, config.classes, config.image_size, config.network)
        digest = hashlib.sha256(repr((network, config.hidden_sizes, training)).encode())
        digest.update(samples.tobytes() + self.validation[lane].tobytes())
        key = digest.hexdigest()
        path = self.folder / f"start-{key[:16]}{SUFFIX}"
        if (stored := load_stored(path, key, "pretrained model")) is not None:
            learner.set_state(one, stored[0])
            return
        # Schemes whose generators are elsewhere begin with the same model.
        rng = np.random.default_rng(int(key, 16))
        learner.reset(one, [rng])
        parts = [
            part
            for _ in range(_MOST_PASSES)
            for part in np.array_split(rng.permutation(samples), _SCORINGS)
        ]
        for part in parts:
            updates, _ = learner.local_updates(
                one,
                part[None, None],
                None,
                rng.integers(1 << 64, size=(1, 1), dtype=np.uint64),
                batch_size=config.local_batch_size,
                learning_rate=config.learning_rate,
                epochs=1,
            )
            learner.add(one, updates[:, 0])
            if learner.score(one, self.validation[one]).accuracy[0] >= _START_ACCURACY:
                break
        write_tensors(path, {"weights": learner.get_state(one)["weights"]}, {"key": key})


class LongVectorEnv(BatchSlotVectorEnv):
    """A lane whose episode takes hours: what was done is kept in a file and not done again.

    Steps that are kept are told again one by one, whatever the actions, so that who runs the
    episode and policies that draw need not know.
    """

    kept: Path | None = None
    key = ""
    record: Sequence[str] = ()
    _past: list[tuple[NDArray[np.float64], dict[str, NDArray[Any]]]]
    _told = 0
    _saved_at = 0.0

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, Info]:
        """Begin the episode, and go to where it was left."""
        begun = super().reset(seed=seed, options=options)
        self._past, self._told, self._saved_at = [], 0, time.monotonic()
        if self.kept is not None:
            stored = load_stored(self.kept, self.key, "running episode")
            if stored is not None:
                content = unpack(stored[0], stored[1]["content"])
                self._past = content["past"]
                self.set_state(content["state"])
        return begun

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Info]:
        """Tell the next step that is kept, or take one."""
        if self._told < len(self._past):
            rewards, infos = self._past[self._told]
            self._told += 1
            no = np.zeros(1, np.bool_)
            return self.problem.observe(), rewards, no, no, infos
        observations, rewards, terminated, truncated, infos = super().step(actions)
        if self.kept is not None:
            self._past.append((rewards, {name: infos[name].copy() for name in self.record}))
            self._told += 1
            over = (terminated | truncated).any()
            if not over and time.monotonic() - self._saved_at > _SAVE_EVERY_S:
                arrays, content = pack({"state": self.get_state(), "past": self._past})
                write_tensors(self.kept, arrays, {"key": self.key, "content": content})
                self._saved_at = time.monotonic()
        return observations, rewards, terminated, truncated, infos


class PretrainedVectorEnv(LongVectorEnv):
    """Long runs that begin with a trained model."""

    problem_type = _Pretrained


class LongRuns:
    """Runs policies and keeps what is finished, so that an interrupted run goes on where it was.

    Args:
        folder: Where finished parts are kept.
        options: How the reproduction is run.
        seeds: The episodes' seeds.
    """

    def __init__(self, folder: Path, options: Options, seeds: list[int]) -> None:
        self.folder, self.options, self.seeds = prepare_folder(folder), options, seeds
        self.configs: dict[str, Any] = {}
        self.parameters: dict[str, dict[str, Any]] = {}

    def run(
        self,
        task: str,
        env_id: str,
        usual: Mapping[str, Any],
        fixed: Mapping[str, Any],
        policy: str,
        pretrained: bool = False,
        record: Sequence[str] = _RECORD,
    ) -> Episodes:
        """Run episodes of a policy, or load them.

        Args:
            task: What this run is called.
            env_id: Whose configuration it has.
            usual: What differs from that, unless it is overridden.
            fixed: What differs from that in any case.
            policy: Name of the rule.
            pretrained: Whether episodes begin with a pretrained model.
            record: Step infos that are kept.
        """
        options, n = self.options, len(self.seeds)
        given = {**usual, **options.overrides, **fixed}
        config = make_config(BatchSlotConfig, None, find_environment(env_id).preset, given)
        check_data(config.dataset)
        self.configs[task] = plain_config(config)
        env_type = PretrainedVectorEnv if pretrained else LongVectorEnv
        lanes = 1 if options.full else even_lanes(n, options.lanes)
        env = env_type(lanes, config, autoreset_mode=AutoresetMode.DISABLED)
        env.record = record
        if isinstance(env.problem, _Pretrained):
            env.problem.folder = self.folder
        rule = make_baseline(policy, env)
        self.parameters[task] = rule.named_parameters()
        start = {"start_accuracy": _START_ACCURACY} if pretrained else {}
        identity = {"name": policy, **self.parameters[task], **start}

        def part(path: Path, seeds: list[int], done: int) -> Episodes:
            def report(finished: int, _: int) -> None:
                if options.progress is not None:
                    options.progress(task, done + finished, n)

            return run_or_load(path, env, rule, identity, seeds, record, report)

        if not options.full:
            return part(self.folder / part_name(task), self.seeds, 0)
        episodes = []
        for i, seed in enumerate(self.seeds):
            file = self.folder / part_name(f"{task}, {seed}")
            env.kept = file.with_suffix(".running")
            env.key = json.dumps([plain_config(config), identity, seed, __version__])
            episodes.append(part(file, [seed], i))
            env.kept.unlink(missing_ok=True)
        return joined(episodes)


def joined(parts: Sequence[Episodes]) -> Episodes:
    """Return all episodes as one run has them."""
    longest = max(int(part.lengths.max()) for part in parts)

    def padded(values: Float64Array) -> Float64Array:
        return np.pad(values, ((0, 0), (0, longest - values.shape[1])), constant_values=np.nan)

    return Episodes(
        np.concatenate([part.seeds for part in parts]),
        np.concatenate([part.returns for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        {name: np.concatenate([part.infos[name] for part in parts]) for name in parts[0].infos},
        {
            name: np.concatenate([padded(part.curves[name]) for part in parts])
            for name in parts[0].curves
        },
    )


PARTITIONS = {"iid": "IID", "shards": "non-IID"}


def seeds_of(options: Options, usual: int, quick: int) -> list[int]:
    """Return the seeds, few where an episode takes hours."""
    return options.seeds(usual=2 if options.full else usual, quick=quick)
