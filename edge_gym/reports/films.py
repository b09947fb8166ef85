"""A film of one episode."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_gym.core.registration import find_environment
from edge_gym.evaluation.policies import resolve
from edge_gym.evaluation.rollouts import TaskProgress, make_lanes
from edge_gym.evaluation.seeds import EVALUATION
from edge_gym.reports.gif import check_gif, save_gif
from edge_gym.runtime.checks import check_integer, check_number
from edge_gym.runtime.files import prepare_folder
from edge_gym.runtime.messages import shown
from edge_gym.runtime.workers import Run, here


@dataclass(frozen=True)
class Film:
    """A film that one worker draws.

    Attributes:
        environment: The environment's id.
        policy: As ``policies.resolve`` takes it.
        seed: The episode's seed.
        every: Draw every so many steps.
        fps: Pictures per second.
    """

    environment: str
    policy: str
    seed: int
    every: int
    fps: float


def draw(wanted: Film) -> bytes:
    """Return a film as a GIF; see ``film`` for what may be raised."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.gif"
        film(
            wanted.environment,
            wanted.policy,
            path,
            seed=wanted.seed,
            every=wanted.every,
            fps=wanted.fps,
        )
        return path.read_bytes()


DRAW_HERE: Run[Film, bytes] = here(draw)
"""Draws films one after the other in this process."""


def film(
    env_id: str,
    spec: str,
    path: str | os.PathLike[str],
    *,
    seed: int = EVALUATION.start,
    every: int = 1,
    fps: float = 8.0,
    overrides: Mapping[str, Any] | None = None,
    progress: TaskProgress | None = None,
) -> float:
    """Write an episode as a GIF and return its return.

    Args:
        env_id: With or without ``edge_gym/``.
        spec: The policy, as ``policies.resolve`` takes it.
        path: The file; its folder is made if need be.
        seed: The episode's seed.
        every: Draw every so many steps; the first and the last picture are always there.
        fps: Pictures per second.
        overrides: Fields of the environment's configuration.
        progress: Told how many pictures are drawn, of as many as are known of.

    Raises:
        ValueError: If a name or value is unknown or out of range.
        OSError: If the file cannot be written.
        ImportError: If matplotlib or Pillow is missing.
    """
    check_integer("seed", seed, 0)
    check_integer("every", every, 1)
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"the file must end in .gif, got {shown(path.name)}")
    find_environment(env_id)
    check_number("fps", fps, 0.01, 50)
    prepare_folder(path.parent)
    check_gif(path, fps)
    env = make_lanes(env_id, 1, overrides, render_mode="rgb_array")
    policy = resolve(spec, env, progress=progress).policy
    observations, _ = env.reset(seed=seed)
    policy.begin(np.zeros(1, np.int64), [seed])
    frames = []
    total, steps, over = 0.0, 0, False
    while True:
        if over or steps % every == 0:
            pictures = env.render()
            assert pictures is not None
            frames.append(pictures[0])
            if progress is not None:
                progress("drawing", len(frames), len(frames) + (not over))
        if over:
            break
        try:
            masks = env.action_masks()
        except AttributeError:
            masks = None
        observations, rewards, terminated, truncated, _ = env.step(policy.act(observations, masks))
        total += float(rewards[0])
        steps += 1
        over = bool(terminated[0] or truncated[0])
    save_gif(frames, path, fps)
    return total
