"""Fixtures shared by the tests."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run side by side: with a thread for every core in each, they would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import rollouts


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with a ``name`` argument on every environment id, where its data are."""
    if "name" not in metafunc.fixturenames or metafunc.module.__name__ != "test_environments":
        return
    parameters = []
    for name in rollouts.NAMES:
        marks = []
        if name in rollouts.NEEDS_DATA:
            reason = "EDGE_GYM_DATA is not set"
            marks = [
                pytest.mark.data,
                pytest.mark.skipif(not rollouts.has_data(name), reason=reason),
            ]
        parameters.append(pytest.param(name, marks=marks, id=name))
    metafunc.parametrize("name", parameters)
