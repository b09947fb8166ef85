"""Many policies in many environments: in chunks of episodes that run anywhere, and resumed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edge_gym.envs.core import EdgeVectorEnv
from edge_gym.evaluation import Episodes, TaskProgress, even_lanes, make_lanes, run_episodes
from edge_gym.files import prepare_folder
from edge_gym.policies import Contender, resolve
from edge_gym.stored import episodes_key, load_episodes, save_episodes

if TYPE_CHECKING:
    from edge_gym.agents.networks import AgentPolicy

MOST_RETRIES = 5
"""How often a chunk is run again whose worker was lost."""


@dataclass(frozen=True)
class Chunk:
    """Episodes of one policy in one environment, which one worker runs.

    Attributes:
        environment: The environment's id.
        policy: As ``policies.resolve`` takes it.
        first: The first episode's seed; the others follow it.
        episodes: Their number.
        lanes: Most episodes run at a time.
        overrides: Fields of the environment's configuration, as JSON.
    """

    environment: str
    policy: str
    first: int
    episodes: int
    lanes: int = 64
    overrides: str = "{}"

    @property
    def seeds(self) -> range:
        """The episodes' seeds."""
        return range(self.first, self.first + self.episodes)


Finished = Iterator[tuple[Chunk, Episodes]]
Work = Callable[[Chunk], Episodes]
Runner = Callable[[Sequence[Chunk]], Finished]
"""Runs chunks and yields each with its episodes, in whatever order they end."""


def cut(
    environment: str,
    policy: str,
    seeds: range,
    *,
    chunk: int,
    lanes: int = 64,
    overrides: Mapping[str, Any] | None = None,
) -> list[Chunk]:
    """Cut a policy's episodes into chunks of at most ``chunk``."""
    settings = json.dumps(dict(overrides or {}), sort_keys=True)
    return [
        Chunk(environment, policy, first, min(chunk, seeds.stop - first), lanes, settings)
        for first in range(seeds.start, seeds.stop, chunk)
    ]


def run_chunk(chunk: Chunk) -> Episodes:
    """Run a chunk's episodes; the same wherever it is run.

    Raises:
        ValueError: If an id, policy or value is unknown or out of range.
        edge_gym.data.DataError: If data are missing.
    """
    env = _lanes(chunk.environment, even_lanes(chunk.episodes, chunk.lanes), chunk.overrides)
    return run_episodes(env, resolve(chunk.policy, env).policy, chunk.seeds)


@functools.lru_cache(maxsize=2)
def _lanes(environment: str, lanes: int, overrides: str) -> EdgeVectorEnv:
    return make_lanes(environment, lanes, json.loads(overrides))


def run_here(chunks: Sequence[Chunk]) -> Finished:
    """Run chunks one after the other in this process."""
    for chunk in chunks:
        yield chunk, run_chunk(chunk)


def in_processes(workers: int, work: Work = run_chunk) -> Runner:
    """Return a runner with so many processes of one thread each.

    A process that is killed takes those of its pool along; what they were at is run again.

    Args:
        workers: Number of processes.
        work: What they do, a function of a module.
    """

    def run(chunks: Sequence[Chunk]) -> Finished:
        left = dict.fromkeys(chunks)
        for attempt in range(MOST_RETRIES + 1):
            with _one_thread_each():
                context = multiprocessing.get_context("spawn")
                pool = ProcessPoolExecutor(workers, context, _end_with_parent)
                try:
                    futures = {pool.submit(work, chunk): chunk for chunk in left}
                    for future in as_completed(futures):
                        chunk, episodes = futures[future], future.result()
                        del left[chunk]
                        yield chunk, episodes
                    return
                except BrokenProcessPool:
                    if attempt == MOST_RETRIES:
                        raise
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)

    return run


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however that came about."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that begin meanwhile use one thread."""
    names = ("EDGE_GYM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def on_ray(address: str | None = None, work: Work = run_chunk) -> Runner:
    """Return a runner on Ray, with a core for each chunk.

    Args:
        address: Of a cluster, ``"auto"`` for the one around; None starts Ray on this machine.
        work: What is done with a chunk.

    A chunk whose worker or node is lost is run again elsewhere.

    Raises:
        ImportError: If Ray is missing.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f"sweeps on Ray need it ({error}): pip install 'edge_gym[ray]'", name=error.name
        ) from error

    def run(chunks: Sequence[Chunk]) -> Finished:
        started = not ray.is_initialized()
        if started:
            # Without an address, Ray would take the cluster that was started last, if there is one.
            ray.init(address=address or "local", log_to_driver=False, include_dashboard=False)
        variables = {"EDGE_GYM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        if data := os.environ.get("EDGE_GYM_DATA"):
            variables["EDGE_GYM_DATA"] = data
        remote = ray.remote(
            num_cpus=1, max_retries=MOST_RETRIES, runtime_env={"env_vars": variables}
        )(work)
        try:
            waiting = {remote.remote(chunk): chunk for chunk in chunks}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                yield waiting.pop(done), ray.get(done)
        finally:
            if started:
                ray.shutdown()

    return run


def sweep(
    chunks: Iterable[Chunk],
    folder: Path,
    run: Runner = run_here,
    progress: TaskProgress | None = None,
) -> dict[Chunk, Episodes]:
    """Run chunks and keep their episodes in ``folder``, but for those that are there already.

    Stored episodes are taken only if they are of the same configuration, policy, seeds and version.

    Args:
        chunks: What to run.
        folder: Where episodes are kept, a file for each chunk, written as it ends.
        run: What runs them: ``run_here``, ``in_processes(n)`` or ``on_ray(address)``.
        progress: Told how many episodes of each environment are done.

    Raises:
        ValueError: If an id, policy or value is unknown or out of range; nothing was run then.
        OSError: If the folder cannot be written to.
    """
    wanted = list(chunks)
    places = {chunk: (folder / _file_of(chunk), _key_of(chunk)) for chunk in wanted}
    done = dict.fromkeys((chunk.environment for chunk in wanted), 0)
    total = {
        name: sum(chunk.episodes for chunk in wanted if chunk.environment == name) for name in done
    }

    def count(chunk: Chunk) -> None:
        name = chunk.environment
        done[name] += chunk.episodes
        if progress is not None:
            progress(name, done[name], total[name])

    found: dict[Chunk, Episodes] = {}
    for chunk, place in places.items():
        stored = load_episodes(*place)
        if stored is not None:
            found[chunk] = stored
            count(chunk)
    for chunk, episodes in run([chunk for chunk in wanted if chunk not in found]):
        path, key = places[chunk]
        prepare_folder(path.parent)
        save_episodes(path, key, episodes)
        found[chunk] = episodes
        count(chunk)
    return {chunk: found[chunk] for chunk in wanted}


def contender(environment: str, policy: str, overrides: str = "{}") -> Contender:
    """Return a policy as it takes part in an environment."""
    return _resolved(environment, policy, overrides)[1]


@functools.lru_cache(maxsize=1024)
def _resolved(environment: str, policy: str, overrides: str) -> tuple[Any, Contender]:
    env = _lanes(environment, 1, overrides)
    return env.config, resolve(policy, env)


def _key_of(chunk: Chunk) -> str:
    config, resolved = _resolved(chunk.environment, chunk.policy, chunk.overrides)
    identity = {"name": chunk.policy, **resolved.parameters}
    if resolved.kind == "learned":
        identity["weights"] = cast("AgentPolicy", resolved.policy).fingerprint
    return episodes_key(config, identity, chunk.seeds, ())


def _file_of(chunk: Chunk) -> Path:
    name = re.sub(r"[^A-Za-z0-9.=-]+", "_", chunk.policy)
    if chunk.overrides != "{}":
        name += "-" + hashlib.sha256(chunk.overrides.encode()).hexdigest()[:8]
    # Different policies must not share a file whatever their names.
    name += "-" + hashlib.sha256(chunk.policy.encode()).hexdigest()[:6]
    return Path(chunk.environment.rpartition("/")[2]) / f"{name}-{chunk.first}.npz"
