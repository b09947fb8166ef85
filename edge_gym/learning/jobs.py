"""Jobs, what one device of one lane computes: rows, mini-batches and their order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from edge_gym.data import Features
from edge_gym.learning.base import IntArray
from edge_gym.runtime.streams import Keys, permutations

SAMPLES_AT_ONCE = 256
"""Most samples of a mini-batch that are computed at a time."""
_WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, SAMPLES_AT_ONCE)


def pad_rows(parts: Sequence[Sequence[IntArray]]) -> tuple[IntArray, IntArray]:
    """Turn lists of rows per lane and device into the arrays that a learner takes.

    Args:
        parts: ``parts[lane][device]`` holds row indices; every lane has as many devices.

    Returns:
        Rows ``(m, K, N)``, padded with zeros to the longest, and counts ``(m, K)``.
    """
    counts = np.array([[len(rows) for rows in lane] for lane in parts], dtype=np.int64)
    padded = np.zeros((*counts.shape, counts.max(initial=0)), np.int64)
    for lane, devices in zip(padded, parts, strict=True):
        for target, rows in zip(lane, devices, strict=True):
            target[: len(rows)] = rows
    return padded, counts


_Data = tuple[Tensor, Tensor]
# Learners on the same data share one tensor, which may be the largest thing in memory.
_data: WeakKeyDictionary[Features, dict[tuple[bool, torch.device, torch.dtype], _Data]] = (
    WeakKeyDictionary()
)


def samples_of(features: Features, test: bool, device: torch.device, dtype: torch.dtype) -> _Data:
    """Return inputs of unit variance ``(n, d)`` and labels ``(n,)`` of the training or test set."""
    known = _data.setdefault(features, {})
    key = (test, device, dtype)
    if key not in known:
        x = features.test if test else features.train
        y = features.test_labels if test else features.train_labels
        inputs = torch.tensor(x, dtype=dtype).mul_(math.sqrt(x.shape[1]))
        known[key] = inputs.to(device), torch.tensor(y).to(device)
    return known[key]


class Jobs(NamedTuple):
    """Work of the same kind; arrays have one entry per job.

    Attributes:
        lane: Row of the learner's weights that the job starts from.
        stream: Samples of all jobs, each job's epochs one after another, ``(n,)``: rows of the
            data set, or codes of ``data.labels``.
        start: Where the job's rows begin in the stream.
        size: Samples of one epoch.
        batch: Samples of one step; the last step of an epoch may have fewer.
        width: ``batch`` padded.
        steps: Steps to take.
    """

    lane: IntArray
    stream: IntArray
    start: IntArray
    size: IntArray
    batch: IntArray
    width: IntArray
    steps: IntArray


class Batch(NamedTuple):
    """One step of the first ``n`` jobs of a block.

    Attributes:
        n: Jobs that take this step.
        inputs: ``(n, b, d)``.
        labels: ``(n, b)``.
        valid: Whether each sample belongs to the batch, ``(n, b)``, in the learner's type.
        sizes: Samples of each job's batch, ``(n,)``.
    """

    n: int
    inputs: Tensor
    labels: Tensor
    valid: Tensor
    sizes: Tensor


def batches_of(jobs: Jobs, block: IntArray, inputs: Tensor, labels: Tensor) -> Iterator[Batch]:
    """Yield the steps of a block whose jobs are sorted by their number of steps.

    Args:
        jobs: All jobs.
        block: Those of the block, which have one width.
        inputs: The data set, ``(n, d)``.
        labels: Its labels, ``(n,)``.
    """
    device, dtype = inputs.device, inputs.dtype
    width = int(jobs.width[block[0]])
    steps, batch = jobs.steps[block], jobs.batch[block]
    count = jobs.size[block]
    t = np.arange(steps[0])[:, None]
    epoch, slot = np.divmod(t, -(-count // batch))
    offset = slot * batch
    sizes = np.minimum(count - offset, batch)
    place = np.arange(width)
    position = (jobs.start[block] + epoch * count + offset)[..., None] + place
    codes = torch.from_numpy(jobs.stream[position.clip(max=jobs.stream.size - 1)]).to(device)
    rows, own = _decoded(codes, labels)
    valid = torch.from_numpy(place < sizes[..., None]).to(device, dtype)
    size = torch.from_numpy(sizes).to(device, dtype)
    for i, n in enumerate((steps > t).sum(1).tolist()):
        taken = rows[i, :n].flatten()
        yield Batch(
            n,
            inputs.index_select(0, taken).view(n, width, -1),
            own[i, :n],
            valid[i, :n],
            size[i, :n],
        )


def _decoded(codes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows and labels ``(...)`` that codes stand for, see ``data.labels``."""
    n = len(labels)
    rows = codes % n
    return rows, torch.where(codes < n, labels[rows], codes // n - 1)


def shuffled(
    rows: IntArray, counts: IntArray, epochs: IntArray, keys: Keys
) -> tuple[IntArray, IntArray]:
    """Return every device's epochs in random order as one stream, and where each begins.

    Args:
        rows: Samples of each device, ``(m, K, N)``.
        counts: Their number, ``(m, K)``.
        epochs: Times that each device goes through them, ``(m, K)``.
        keys: What each device's orders follow from, ``(m, K)``.
    """
    lengths = (counts * epochs).ravel()
    order, first = permutations(keys.ravel(), counts.ravel(), lengths)
    return rows.reshape(counts.size, -1)[np.repeat(np.arange(counts.size), lengths), order], first


def padded_widths(sizes: IntArray) -> IntArray:
    """Round batch sizes up, so that few widths occur and each depends on its own job alone."""
    widths = np.array(_WIDTHS)
    large = -(-sizes // SAMPLES_AT_ONCE) * SAMPLES_AT_ONCE
    index = np.searchsorted(widths, sizes).clip(max=len(widths) - 1)
    return np.where(sizes <= SAMPLES_AT_ONCE, widths[index], large)
