"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run side by side: with a thread for every core in each, they would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import rollouts

# Shells let what runs in the background ignore Ctrl-C, and all that it starts; tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Modules whose tests with a ``name`` run on an id of every problem and kind of action.
CONTRACTS = ("test_environments", "test_inputs", "test_fuzz")
# Tests of these that run on every id.
EVERY_ID = (
    "test_golden_rollout",
    "test_ids_are_found_with_and_without_namespace",
    "test_configurations_come_as_dataclass_mapping_and_fields",
)


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Keep reference computations from waiting for cores that others use."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs the full data sets where they are not, for one reason in one place."""
    if item.get_closest_marker("data") and not rollouts.HAS_DATA:
        pytest.skip("needs the full data sets: set EDGE_GYM_DATA")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run contract tests with a ``name`` argument on an id of every kind, a few on every id."""
    if "name" in metafunc.fixturenames and metafunc.module.__name__ in CONTRACTS:
        names = [*rollouts.KINDS, *(name for name in rollouts.NAMES if name in rollouts.NEEDS_DATA)]
        every_id = metafunc.function.__name__ in EVERY_ID
        metafunc.parametrize("name", rollouts.parameters(rollouts.NAMES if every_id else names))
