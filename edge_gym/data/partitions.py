"""Partitions of training data over devices.

Every partition is a disjoint cover: device k gets ``rows[k]``, int64 indices into the labels given,
in ascending order, and each row goes to one device.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_gym.data.errors import SampleError
from edge_gym.runtime.messages import shown

SCHEMES = ("iid", "shards", "dirichlet")

_MAX_DRAWS = 100

Labels = NDArray[np.int64]
Partition = list[NDArray[np.int64]]


def partition(
    rng: np.random.Generator,
    labels: Labels,
    n_devices: int,
    scheme: str = "iid",
    *,
    shards_per_device: int = 2,
    concentration: float = 0.5,
    adjacent: bool = False,
    min_samples: int = 1,
) -> Partition:
    """Spread samples over devices by the scheme of this name.

    Args:
        rng: Source of all randomness.
        labels: ``(n,)``.
        n_devices: Number of devices, K.
        scheme: ``"iid"``, ``"shards"`` or ``"dirichlet"``.
        shards_per_device: For ``"shards"``.
        concentration: For ``"dirichlet"``.
        adjacent: For ``"shards"``, whether those of a device are neighbours in the order of labels.
        min_samples: Fewest samples of a device.

    Returns:
        One array of rows per device.

    Raises:
        ValueError: If the scheme is unknown or an argument is out of range.
        SampleError: If some device would have fewer than ``min_samples`` samples.
    """
    if scheme == "iid":
        return partition_iid(rng, labels, n_devices, min_samples=min_samples)
    if scheme == "shards":
        return partition_shards(
            rng,
            labels,
            n_devices,
            shards_per_device=shards_per_device,
            adjacent=adjacent,
            min_samples=min_samples,
        )
    if scheme == "dirichlet":
        return partition_dirichlet(
            rng, labels, n_devices, concentration=concentration, min_samples=min_samples
        )
    raise ValueError(f"unknown partition scheme {shown(scheme)}; known are {', '.join(SCHEMES)}")


def partition_iid(
    rng: np.random.Generator, labels: Labels, n_devices: int, *, min_samples: int = 1
) -> Partition:
    """Shuffle, and cut into K parts whose sizes differ by at most one.

    Raises:
        ValueError: If an argument is out of range.
        SampleError: If some device would have fewer than ``min_samples`` samples.

    Source: Ren et al. 2021, section VI-A, IID case.
    """
    check_partition(len(labels), n_devices, "iid", min_samples=min_samples)
    return [np.sort(rows) for rows in np.array_split(rng.permutation(len(labels)), n_devices)]


def partition_shards(
    rng: np.random.Generator,
    labels: Labels,
    n_devices: int,
    *,
    shards_per_device: int = 2,
    adjacent: bool = False,
    min_samples: int = 1,
) -> Partition:
    """Sort by label, cut into K·``shards_per_device`` equal shards and deal them out at random.

    A shard that is no larger than the smallest class holds at most two labels. Sizes of shards
    differ by at most one. ``adjacent`` deals out runs of neighbouring shards.

    Raises:
        ValueError: If an argument is out of range.
        SampleError: If some device would have fewer than ``min_samples`` samples, or a shard none.

    Source: Ren et al. 2021, section VI-A, non-IID case (two shards per device).
    """
    check_partition(
        len(labels),
        n_devices,
        "shards",
        shards_per_device=shards_per_device,
        min_samples=min_samples,
    )
    n_shards = n_devices * shards_per_device
    # Shuffled first, so that which samples of a class share a shard is random too.
    shuffled = rng.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    shards = np.array_split(by_label, n_shards)
    if adjacent:
        hands = rng.permutation(np.arange(n_shards).reshape(n_devices, shards_per_device))
    else:
        hands = rng.permutation(n_shards).reshape(n_devices, shards_per_device)
    return [np.sort(np.concatenate([shards[shard] for shard in hand])) for hand in hands]


def partition_dirichlet(
    rng: np.random.Generator,
    labels: Labels,
    n_devices: int,
    *,
    concentration: float = 0.5,
    min_samples: int = 1,
) -> Partition:
    """Spread each class over the devices in proportions drawn from a Dirichlet distribution.

    The smaller the concentration, the fewer devices share a class; a large one approaches the IID
    case. Drawn again until each device has ``min_samples`` samples; where 100 draws were in vain,
    devices that have too few take samples, at random, of those that have most.

    Args:
        rng: Source of all randomness.
        labels: ``(n,)``.
        n_devices: Number of devices, K.
        concentration: Parameter of the symmetric distribution, positive.
        min_samples: Fewest samples of a device.

    Raises:
        ValueError: If an argument is out of range.
        SampleError: If there are fewer than ``min_samples`` samples for each device.
    """
    if not (math.isfinite(concentration) and concentration > 0):
        raise ValueError(f"concentration must be positive and finite, got {concentration}")
    check_partition(len(labels), n_devices, "dirichlet", min_samples=min_samples)
    classes, class_sizes = np.unique(labels, return_counts=True)
    for _ in range(_MAX_DRAWS):
        shares = rng.dirichlet(np.full(n_devices, concentration), size=len(classes))
        cuts = np.rint(np.cumsum(shares, axis=1) * class_sizes[:, None]).astype(np.int64)
        cuts[:, -1] = class_sizes
        if np.diff(cuts, prepend=0).sum(axis=0).min() >= min_samples:
            break
    owner = np.empty(len(labels), np.int64)
    for label, cut in zip(classes, cuts, strict=True):
        rows = rng.permutation(np.flatnonzero(labels == label))
        owner[rows] = np.searchsorted(cut, np.arange(len(rows)), side="right")
    _share_with_the_poor(rng, owner, n_devices, min_samples)
    return [np.flatnonzero(owner == device) for device in range(n_devices)]


def order_by_class(labels: Labels, parts: Partition) -> NDArray[np.int64]:
    """Return devices, ``(K,)``, in the order of the mean label of their samples."""
    return np.argsort([labels[part].mean() for part in parts], kind="stable")


def order_long_tailed(
    rng: np.random.Generator, labels: Labels, rows: NDArray[np.int64], imbalance: float
) -> NDArray[np.int64]:
    """Order rows so that any first part of them holds classes of unequal sizes.

    The i-th of C classes, in an order that is drawn, has imbalance^(-i/(C-1)) times the samples of
    the first, until the samples of a class are used up; then the others take its part.

    Args:
        rng: Source of all randomness.
        labels: ``(n,)``.
        rows: Rows in random order, ``(p,)``.
        imbalance: Samples of the most common class over those of the rarest, at least 1.

    Source: Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", §5.1
    (arXiv:1901.05555), long-tailed data sets.
    """
    classes = np.unique(labels[rows])
    ranks = rng.permutation(len(classes))
    spacing = imbalance ** (ranks / max(1, len(classes) - 1))
    # A class whose samples stand so far apart, beginning anywhere, has its part of every beginning.
    place = np.empty(len(rows))
    for label, apart in zip(classes, spacing, strict=True):
        own = np.flatnonzero(labels[rows] == label)
        place[own] = (np.arange(len(own)) + rng.random()) * apart
    return rows[np.argsort(place, kind="stable")]


def check_partition(
    n_samples: int,
    n_devices: int,
    scheme: str,
    *,
    shards_per_device: int = 2,
    min_samples: int = 1,
    least: str = "min_samples",
    advice: str = "take more samples",
) -> None:
    """Find out whether ``partition`` can spread so many samples, whatever it draws.

    Args:
        n_samples: How many there are.
        n_devices: Number of devices, K.
        scheme: One of ``SCHEMES``.
        shards_per_device: For ``"shards"``.
        min_samples: Fewest samples of a device.
        least: What ``min_samples`` is called, for the message.
        advice: How to have more samples, for the message.

    Raises:
        ValueError: If an argument is out of range.
        SampleError: If there are too few samples.
    """
    if n_devices < 1:
        raise ValueError(f"the number of devices must be at least 1, got {n_devices}")
    if min_samples < 0:
        raise ValueError(f"min_samples must be at least 0, got {min_samples}")
    each = f" and {least} = {min_samples}" if min_samples > 1 else ""
    if n_samples < n_devices * min_samples:
        raise SampleError(
            f"{n_samples} samples are too few for n_devices = {n_devices}{each}: lower n_devices"
            + (f" or {least}" if each else "")
            + f", or {advice}"
        )
    if scheme != "shards":
        return
    if shards_per_device < 1:
        raise ValueError(f"shards_per_device must be at least 1, got {shards_per_device}")
    n_shards = n_devices * shards_per_device
    if n_samples // n_shards * shards_per_device < min_samples or n_samples < n_shards:
        raise SampleError(
            f"{n_samples} samples are too few for {n_shards} shards (n_devices = {n_devices} x "
            f"shards_per_device = {shards_per_device}){each}: lower n_devices or "
            f"shards_per_device, or {advice}"
        )


def _share_with_the_poor(
    rng: np.random.Generator, owner: Labels, n_devices: int, min_samples: int
) -> None:
    """Move samples in place, from the devices with most to those below ``min_samples``."""
    sizes = np.bincount(owner, minlength=n_devices)
    for device in np.flatnonzero(sizes < min_samples):
        while sizes[device] < min_samples:
            donor = int(sizes.argmax())
            owner[rng.choice(np.flatnonzero(owner == donor))] = device
            sizes[device] += 1
            sizes[donor] -= 1
