"""Small perceptrons, compiled: what one device computes, from its first mini-batch to its last.

A mini-batch of a few samples is little work for a library: torch spends as much time on starting
operations and on carrying weights between memory and processor as on the products. Here a job,
one device of one lane, runs to its end before the next one begins, so its weights stay in the
cache; products are BLAS calls. A step of SGD with 16 samples takes 11 µs for a network of 196-16-10
and 8 µs for 49-32-10, about what 20 and 16 GFLOP/s come to (one core of two that others used too).

A job's arithmetic does not depend on the others, so its results are the same however many there
are. Jobs are arrays with one entry each, as ``edge_gym.learning.federated`` makes them. A row may
be a code that carries a label of its own, see ``edge_gym.data.labels``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_gym.learning.base import IntArray
from edge_gym.runtime.compiling import compiled
from edge_gym.runtime.threads import for_ranges

AT_ONCE = 32
"""Samples whose activations are computed at a time."""
MOST_WEIGHTS = 8192
"""Of a layer. With more, a product of ``AT_ONCE`` samples is one that OpenBLAS would share between
threads of its own (262,144 multiplications), and there is little to gain anyway."""

Values = NDArray[np.floating[Any]]


def suits(sizes: Sequence[int]) -> bool:
    """Say whether a perceptron with layers of these sizes, inputs first, is small enough."""
    return all(a * b <= MOST_WEIGHTS for a, b in itertools.pairwise(sizes))


def gradients(
    sizes: Sequence[int],
    weights: Values,
    lane: IntArray,
    samples: tuple[Values, IntArray],
    rows: tuple[IntArray, IntArray, IntArray],
    out: Values,
) -> NDArray[np.float64]:
    """Write the gradient ``(J, P)`` of each job's mean loss to ``out``, zeros without samples.

    Args:
        sizes: Units of the inputs, the hidden layers and the outputs.
        weights: Models ``(M, P)``, in the order of the layers, each one's weights, then biases.
        lane: The model of each job, ``(J,)``.
        samples: Inputs ``(n, d)`` and labels ``(n,)``.
        rows: Rows of all jobs in one array, where each job's begin and how many they are.
        out: Where gradients go.

    Returns:
        The losses ``(J,)`` in nats.
    """
    losses = np.zeros(len(lane))
    units = np.array(sizes)

    def run(first: int, stop: int) -> None:
        _gradients(first, stop, units, weights, lane, *samples, *rows, out, losses)

    for_ranges(run, len(lane))
    return losses


def lane_gradients(
    sizes: Sequence[int], parameters: Values, inputs: Values, labels: IntArray, out: Values
) -> None:
    """Write the gradient of each lane's mean loss to ``out``, ``(m, P)``, in this thread.

    Args:
        sizes: Units of the inputs, the hidden layers and the outputs.
        parameters: One model for each lane, ``(m, P)``.
        inputs: Its samples, ``(m, b, d)``.
        labels: ``(m, b)``.
        out: Where gradients go.
    """
    m, b = labels.shape
    samples = inputs.reshape(m * b, -1), labels.ravel()
    rows = np.arange(m * b), np.arange(m) * b, np.full(m, b)
    losses = np.zeros(m)
    _gradients(0, m, np.array(sizes), parameters, np.arange(m), *samples, *rows, out, losses)


def lane_logits(sizes: Sequence[int], parameters: Values, inputs: Values) -> Values:
    """Return the logits ``(m, b, C)`` of inputs ``(m, b, d)``, a model for each lane."""
    found = np.empty((*inputs.shape[:2], sizes[-1]), parameters.dtype)
    _logits(np.array(sizes), parameters, np.ascontiguousarray(inputs), found)
    return found


def train(
    sizes: Sequence[int],
    models: Values,
    samples: tuple[Values, IntArray],
    rows: tuple[IntArray, IntArray, IntArray],
    batch_size: int,
    steps: IntArray,
    rate: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Take each job's steps of mini-batch SGD, each with the next samples of its rows.

    Args:
        sizes: Units of the inputs, the hidden layers and the outputs.
        models: One for each job, ``(J, P)``; they are trained in place.
        samples: Inputs ``(n, d)`` and labels ``(n,)``.
        rows: Rows of all jobs' epochs, one after another, where each job's begin, and how many of
            them are an epoch.
        batch_size: Samples of a mini-batch; the last one of an epoch may have fewer.
        steps: Of each job, ``(J,)``.
        rate: Step size of each job, ``(J,)``.

    Returns:
        The mean loss ``(J,)`` on the way in nats, zero where no step was taken.
    """
    losses = np.zeros(len(models))
    units = np.array(sizes)

    def run(first: int, stop: int) -> None:
        _train(first, stop, units, models, *samples, *rows, batch_size, steps, rate, losses)

    for_ranges(run, len(models))
    return losses


def score(
    sizes: Sequence[int],
    weights: Values,
    lane: IntArray,
    samples: tuple[Values, IntArray],
    rows: tuple[IntArray, IntArray, IntArray],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Count what each job's model gets right; arguments are those of ``gradients``.

    Returns:
        Hits and samples of each class, ``(J, C)`` both, and the sum of the losses ``(J,)``.
    """
    hits, total = np.zeros((2, len(lane), sizes[-1]))
    nats = np.zeros(len(lane))
    units = np.array(sizes)

    def run(first: int, stop: int) -> None:
        _score(first, stop, units, weights, lane, *samples, *rows, hits, total, nats)

    for_ranges(run, len(lane))
    return hits, total, nats


# Sums may be taken in any order, or they could not be vectorised.
_jit = compiled(fastmath={"contract", "nsz", "reassoc"})


@_jit
def _row(code, n):  # type: ignore[no-untyped-def]
    """Return the row that a code stands for; a division is needed only where it is no row."""
    return code if code < n else code % n


@_jit
def _label(code, labels):  # type: ignore[no-untyped-def]
    """Return the label that a code stands for."""
    n = len(labels)
    return labels[code] if code < n else code // n - 1


@_jit
def _forward(units, weights, inputs, rows, values):  # type: ignore[no-untyped-def]
    """Write the inputs of these rows and all layers' outputs into ``values``, one after another."""
    n, d = len(rows), units[0]
    for i in range(n):
        sample, copy = inputs[_row(rows[i], len(inputs))], values[i * d : (i + 1) * d]
        for k in range(d):
            copy[k] = sample[k]
    at, begin = 0, 0
    for layer in range(1, len(units)):
        n_in, n_out = units[layer - 1], units[layer]
        x = values[begin : begin + n * n_in].reshape(n, n_in)
        begin += n * n_in
        y = values[begin : begin + n * n_out].reshape(n, n_out)
        np.dot(x, weights[at : at + n_in * n_out].reshape(n_in, n_out), y)
        at += n_in * n_out
        bias = weights[at : at + n_out]
        at += n_out
        # Of the logits' own type, or all would be computed in double precision.
        least = weights.dtype.type(0 if layer < len(units) - 1 else -np.inf)
        for i in range(n):
            for o in range(n_out):
                z = y[i, o] + bias[o]
                y[i, o] = least if z < least else z
    return begin


@_jit
def _softmax(logits, label):  # type: ignore[no-untyped-def]
    """Turn one sample's logits into probabilities and return its loss in nats."""
    largest = logits[0]
    for o in range(1, len(logits)):
        largest = max(largest, logits[o])
    own, total = logits[label] - largest, largest - largest
    for o in range(len(logits)):
        logits[o] = np.exp(logits[o] - largest)
        total += logits[o]
    for o in range(len(logits)):
        logits[o] /= total
    return np.log(total) - own


@_jit
def _gradient(units, weights, inputs, labels, rows, share, work, out):  # type: ignore[no-untyped-def]
    """Write the gradient of ``share`` times the sum of the losses to ``out``; return the sum."""
    values, errors, product = work
    nats = 0.0
    for first in range(0, len(rows), AT_ONCE):
        part = rows[first : first + AT_ONCE]
        n = len(part)
        begin = _forward(units, weights, inputs, part, values)
        n_out = units[-1]
        d_y = values[begin : begin + n * n_out].reshape(n, n_out)
        for i in range(n):
            row, label = d_y[i], _label(part[i], labels)
            nats += _softmax(row, label)
            row[label] -= 1
            for o in range(n_out):
                row[o] *= share
        at = len(out)
        for layer in range(len(units) - 1, 0, -1):
            n_in, n_out = units[layer - 1], units[layer]
            begin -= n * n_in
            x = values[begin : begin + n * n_in].reshape(n, n_in)
            of_bias = out[at - n_out : at]
            at -= n_out + n_in * n_out
            of_weight = out[at : at + n_in * n_out]
            if first == 0:
                of_bias[:] = 0
                np.dot(x.T, d_y, of_weight.reshape(n_in, n_out))
            else:
                more = product[: n_in * n_out]
                np.dot(x.T, d_y, more.reshape(n_in, n_out))
                for k in range(len(more)):
                    of_weight[k] += more[k]
            for i in range(n):
                for o in range(n_out):
                    of_bias[o] += d_y[i, o]
            if layer > 1:
                # What is read and what is written change places with every layer.
                place = layer % 2 * (len(errors) // 2)
                d_x = errors[place : place + n * n_in].reshape(n, n_in)
                weight = weights[at : at + n_in * n_out].reshape(n_in, n_out)
                np.dot(d_y, weight.T, d_x)
                for i in range(n):
                    for k in range(n_in):
                        d_x[i, k] *= x[i, k] > 0
                d_y = d_x
    return nats


@_jit
def _work(units, weights):  # type: ignore[no-untyped-def]
    """Return the arrays that ``_gradient`` works in."""
    most = 0
    for layer in range(1, len(units)):
        most = max(most, units[layer - 1] * units[layer])
    return (
        np.empty(AT_ONCE * units.sum(), weights.dtype),
        np.empty(2 * AT_ONCE * units.max(), weights.dtype),
        np.empty(most, weights.dtype),
    )


@_jit
def _gradients(  # type: ignore[no-untyped-def]
    first, stop, units, weights, lane, inputs, labels, stream, start, size, out, losses
):
    work = _work(units, weights)
    for j in range(first, stop):
        out[j] = 0
        if size[j] > 0:
            rows = stream[start[j] : start[j] + size[j]]
            share = weights.dtype.type(1 / size[j])
            model = weights[lane[j]]
            nats = _gradient(units, model, inputs, labels, rows, share, work, out[j])
            losses[j] = nats / size[j]


@_jit
def _train(  # type: ignore[no-untyped-def]
    first, stop, units, models, inputs, labels, stream, start, size, batch, steps, rate, losses
):
    work = _work(units, models)
    gradient = np.empty_like(models[0])
    for j in range(first, stop):
        model, seen, nats = models[j], 0, 0.0
        at, left = start[j], size[j]
        for _ in range(steps[j]):
            if left == 0:
                left = size[j]
            n = min(batch, left)
            rows = stream[at : at + n]
            at += n
            left -= n
            # The step is part of the share, so that gradients need no product of their own.
            share = models.dtype.type(rate[j] / n)
            nats += _gradient(units, model, inputs, labels, rows, share, work, gradient)
            seen += n
            for i in range(len(gradient)):
                model[i] -= gradient[i]
        if seen:
            losses[j] = nats / seen


@_jit
def _logits(units, parameters, inputs, found):  # type: ignore[no-untyped-def]
    values = np.empty(AT_ONCE * units.sum(), parameters.dtype)
    n_classes, rows = units[-1], np.arange(inputs.shape[1])
    for lane in range(len(parameters)):
        for begin in range(0, len(rows), AT_ONCE):
            part = rows[begin : begin + AT_ONCE]
            end = _forward(units, parameters[lane], inputs[lane], part, values)
            logits = values[end : end + len(part) * n_classes].reshape(len(part), n_classes)
            found[lane, begin : begin + len(part)] = logits


@_jit
def _score(  # type: ignore[no-untyped-def]
    first, stop, units, weights, lane, inputs, labels, stream, start, size, hits, total, nats
):
    values = np.empty(AT_ONCE * units.sum(), weights.dtype)
    n_classes = units[-1]
    for j in range(first, stop):
        for begin in range(0, size[j], AT_ONCE):
            n = min(AT_ONCE, size[j] - begin)
            rows = stream[start[j] + begin : start[j] + begin + n]
            end = _forward(units, weights[lane[j]], inputs, rows, values)
            logits = values[end : end + n * n_classes].reshape(n, n_classes)
            for i in range(n):
                label = _label(rows[i], labels)
                best = 0
                for o in range(1, n_classes):
                    if logits[i, o] > logits[i, best]:
                        best = o
                total[j, label] += 1
                if best == label:
                    hits[j, label] += 1
                nats[j] += _softmax(logits[i], label)
