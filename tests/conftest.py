"""Fixtures shared by the tests."""

from __future__ import annotations

import pytest
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
