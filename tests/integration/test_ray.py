"""Sweeps on Ray: the same numbers as here, whoever is lost."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster
from sweeps import assert_same, chunks

from edge_gym.cli.main import main
from edge_gym.evaluation.rollouts import Episodes
from edge_gym.evaluation.sweep import Chunk, run_chunk, sweep
from edge_gym.runtime.workers import on_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield nodes
    ray.shutdown()
    nodes.shutdown()


# Workers cannot import tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def wait_for_other(chunk: Chunk) -> Episodes:
    """Say where a chunk runs, and take long enough for a node to be lost meanwhile."""
    marks = Path(os.environ["EDGE_GYM_DATA"]) / "marks"
    node = ray.get_runtime_context().get_node_id()
    (marks / f"{chunk.first}-{node}-{time.time_ns()}").touch()
    if not (marks / "go on").exists():
        # The node that the test takes away is in the midst of it.
        deadline = time.monotonic() + 120
        while not (marks / "go on").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    return run_chunk(chunk)


def test_a_lost_node_is_made_up_for(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_GYM_DATA", str(tmp_path))
    marks = tmp_path / "marks"
    marks.mkdir()
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    wanted = chunks(n=9)

    class Losing:
        """Takes a node away as soon as both are at work."""

        def __call__(self, left: Any) -> Any:
            running = on_ray(cluster.address, wait_for_other)(left)

            def lose() -> None:
                while len({path.name.split("-")[1] for path in marks.iterdir()}) < 2:
                    time.sleep(0.1)
                cluster.remove_node(nodes[1], allow_graceful=False)
                (marks / "go on").touch()

            thread = threading.Thread(target=lose, daemon=True)
            thread.start()
            yield from running
            thread.join(60)

    found = sweep(wanted, tmp_path / "parts", Losing())
    begun = [path.name for path in marks.iterdir() if path.name != "go on"]
    assert len({name.split("-")[1] for name in begun}) == 2
    # What the lost node was at began twice.
    assert len(begun) > len({name.split("-")[0] for name in begun}) == len(wanted)
    here = sweep(wanted, tmp_path / "here")
    for chunk in wanted:
        assert_same(found[chunk], here[chunk])


def test_the_command_starts_ray_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for place in (["--ray", "local"], ["--workers", "2"]):
        command = ["leaderboard", "TaskAllocationStaleness-v0", "--episodes", "4", "--json"]
        assert main([*command, *place, "--out", str(tmp_path / place[0])]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert not ray.is_initialized()
