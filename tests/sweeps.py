"""Small sweeps."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from rollouts import SMALL

from edge_gym.evaluation.rollouts import Episodes
from edge_gym.evaluation.sweep import Chunk, cut, run_chunk

NAME = "edge_gym/Retransmission-v0"
FIELDS = SMALL["Retransmission-v0"]


RULE = "channel-aware:max_snr_db=6"


def chunks(policy: str = RULE, n: int = 5, **fields: Any) -> list[Chunk]:
    overrides = {**FIELDS, **fields}
    return cut(NAME, policy, range(900_000, 900_000 + n), chunk=2, lanes=4, overrides=overrides)


def assert_same(ours: Episodes, theirs: Episodes) -> None:
    for name in ("seeds", "returns", "lengths"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert ours.infos.keys() == theirs.infos.keys()
    for name, values in ours.infos.items():
        np.testing.assert_array_equal(values, theirs.infos[name])


def tell_and_wait(chunk: Chunk) -> Episodes:
    (Path(os.environ["EDGE_GYM_TEST_MARK"]) / str(os.getpid())).touch()
    time.sleep(600)
    return run_chunk(chunk)


def wait(chunk: Chunk) -> Episodes:
    (Path(os.environ["EDGE_GYM_TEST_MARK"]) / str(os.getpid())).touch()
    time.sleep(600)
    return run_chunk(chunk)
