"""The small convolutional network of each lane, compiled: its logits and its gradients.

Convolutions of a few small images are a poor fit for a library: torch takes 1.7 ms for the
gradients of 32 images of 14×14, of which a third goes into finding maxima of 2×2 windows (one
thread of a shared core). Here samples lie along the last axis of every array, so that each inner
loop runs over contiguous numbers of one row of all images, and the same takes .2 ms.

A lane's arithmetic does not depend on the others, so its results are the same however many there
are.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_gym.learning.networks.architecture import CHANNELS
from edge_gym.runtime.compiling import compiled

AT_ONCE = 32
"""Images whose arrays stay in the cache; gradients of more are best added up."""
_RECTIFIED = 4  # in place of a window's largest element, 0 to 3, where that is not positive


def logits(
    parameters: NDArray[np.float32],
    inputs: NDArray[np.float32],
    image_shape: tuple[int, int, int],
    n_classes: int,
) -> NDArray[np.float32]:
    """Return the logits ``(m, b, C)`` of images ``(m, b, c·h·w)`` under parameters ``(m, P)``."""
    found = np.empty((*inputs.shape[:2], n_classes), np.float32)
    _logits(parameters, np.ascontiguousarray(inputs), image_shape, found)
    return found


def gradients(
    parameters: NDArray[np.float32],
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    share: NDArray[np.float32],
    image_shape: tuple[int, int, int],
    n_classes: int,
    out: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Write the gradient ``(m, P)`` of each lane's loss Σᵢ shareᵢ·lossᵢ to ``out``.

    Args:
        parameters: Parameters ``(m, P)``, in the order of ``architecture.cnn_shapes``.
        inputs: Images ``(m, b, c·h·w)``.
        labels: Their classes ``(m, b)``.
        share: Weight of each image in its lane's loss, ``(m, b)``: 1/b for the mean.
        image_shape: Channels, height and width.
        n_classes: Number of classes, C.
        out: Where the gradients go.

    Returns:
        Σᵢ shareᵢ·lossᵢ of each lane, the cross-entropy in nats, ``(m,)``.
    """
    losses = np.zeros(len(parameters), np.float32)
    images = np.ascontiguousarray(inputs)
    _gradients(parameters, images, labels, share, image_shape, n_classes, out, losses)
    return losses


# Sums over samples and pixels may be taken in any order, or they could not be vectorised.
_jit = compiled(fastmath={"contract", "nsz", "reassoc"})


@_jit
def _layers(flat, channels, n_classes):  # type: ignore[no-untyped-def]
    """View one lane's parameters or gradients as those of each layer."""
    first, second = CHANNELS
    a = first * channels * 9
    b = a + first
    c = b + second * first * 9
    d = c + second
    return (
        flat[:a].reshape(first, channels, 3, 3),
        flat[a:b],
        flat[b:c].reshape(second, first, 3, 3),
        flat[c:d],
        flat[d:-n_classes].reshape(-1, n_classes),
        flat[-n_classes:],
    )


@_jit
def _arrays(shape, n_classes, n):  # type: ignore[no-untyped-def]
    """Return the arrays that ``_forward`` works in.

    Those that are convolved have a border of zeros, which nothing ever writes to.
    """
    channels, h, w = shape
    first, second = CHANNELS
    return (
        np.zeros((channels, h + 2, w + 2, n), np.float32),
        np.empty((first, h, w, n), np.float32),
        np.zeros((first, h // 2 + 2, w // 2 + 2, n), np.float32),
        np.empty((first, h // 2, w // 2, n), np.uint8),
        np.empty((second, h // 2, w // 2, n), np.float32),
        np.empty((second, h // 4, w // 4, n), np.float32),
        np.empty((second, h // 4, w // 4, n), np.uint8),
        np.empty((n_classes, n), np.float32),
    )


@_jit
def _convolve(padded, weight, bias, out):  # type: ignore[no-untyped-def]
    """Convolve ``(C, h + 2, w + 2, n)`` with 3×3 weights ``(O, C, 3, 3)`` to ``(O, h, w, n)``.

    Two outputs at a time, an even number in all, share what is loaded of the inputs: from 45 to 65
    GFLOP/s. More would be more stores than the compiler cares to tell from loads.
    """
    n_out, height, width, n = out.shape
    channels, span = len(padded), width * n
    lines = padded.reshape(channels, height + 2, span + 2 * n)
    rows = out.reshape(n_out, height, span)
    for o in range(0, n_out, 2):
        for y in range(height):
            row, other = rows[o, y], rows[o + 1, y]
            for i in range(span):
                row[i] = bias[o]
                other[i] = bias[o + 1]
            for c in range(channels):
                for dy in range(3):
                    line = lines[c, y + dy]
                    left, middle, right = line[:span], line[n : n + span], line[2 * n :]
                    w, v = weight[o, c, dy], weight[o + 1, c, dy]
                    w0, w1, w2, v0, v1, v2 = w[0], w[1], w[2], v[0], v[1], v[2]
                    for i in range(span):
                        a, b, d = left[i], middle[i], right[i]
                        row[i] += w0 * a + w1 * b + w2 * d
                        other[i] += v0 * a + v1 * b + v2 * d


@_jit
def _convolution_gradients(padded, d_out, d_weight, d_bias):  # type: ignore[no-untyped-def]
    """Write the gradients of a convolution's weight and bias; ``d_out`` has a border too.

    Four outputs at a time, a multiple of four in all, share what is loaded of the inputs, and
    their twelve sums fill the registers: from 45 to 75 GFLOP/s.
    """
    n_out, height, width, n = d_out.shape
    height -= 2
    channels, span = len(padded), (width - 2) * n
    lines = padded.reshape(channels, height + 2, width * n)
    rows = d_out.reshape(n_out, height + 2, width * n)
    zero = np.float32(0)
    for o in range(n_out):
        total = zero
        for y in range(height):
            row = rows[o, y + 1][n : n + span]
            for i in range(span):
                total += row[i]
        d_bias[o] = total
    for o in range(0, n_out, 4):
        for c in range(channels):
            for dy in range(3):
                s0, s1, s2, t0, t1, t2 = zero, zero, zero, zero, zero, zero
                u0, u1, u2, v0, v1, v2 = zero, zero, zero, zero, zero, zero
                for y in range(height):
                    s, t = rows[o, y + 1][n : n + span], rows[o + 1, y + 1][n : n + span]
                    u, v = rows[o + 2, y + 1][n : n + span], rows[o + 3, y + 1][n : n + span]
                    line = lines[c, y + dy]
                    left, middle, right = line[:span], line[n : n + span], line[2 * n :]
                    for i in range(span):
                        a, b, d = left[i], middle[i], right[i]
                        s0 += s[i] * a
                        s1 += s[i] * b
                        s2 += s[i] * d
                        t0 += t[i] * a
                        t1 += t[i] * b
                        t2 += t[i] * d
                        u0 += u[i] * a
                        u1 += u[i] * b
                        u2 += u[i] * d
                        v0 += v[i] * a
                        v1 += v[i] * b
                        v2 += v[i] * d
                for k, sums in enumerate(((s0, s1, s2), (t0, t1, t2), (u0, u1, u2), (v0, v1, v2))):
                    for dx in range(3):
                        d_weight[o + k, c, dy, dx] = sums[dx]


@_jit
def _pool(images, border, pooled, largest):  # type: ignore[no-untyped-def]
    """Take the largest of 2×2 windows, if it is positive, and note which that was."""
    channels, h, w, n = largest.shape
    for c in range(channels):
        for y in range(h):
            for x in range(w):
                upper, lower = images[c, 2 * y], images[c, 2 * y + 1]
                p, q, r, s = upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]
                out, which = pooled[c, y + border, x + border], largest[c, y, x]
                for i in range(n):
                    best, k = np.float32(0), _RECTIFIED
                    if p[i] > best:
                        best, k = p[i], 0
                    if q[i] > best:
                        best, k = q[i], 1
                    if r[i] > best:
                        best, k = r[i], 2
                    if s[i] > best:
                        best, k = s[i], 3
                    out[i] = best
                    which[i] = k


@_jit
def _pool_gradients(d_pooled, largest, d_images):  # type: ignore[no-untyped-def]
    """Hand each window's gradient to its largest element; ``d_images`` has a border."""
    channels, h, w, n = largest.shape
    for c in range(channels):
        for y in range(h):
            for x in range(w):
                d, which = d_pooled[c, y, x], largest[c, y, x]
                for k in range(_RECTIFIED):
                    out = d_images[c, 2 * y + k // 2 + 1, 2 * x + k % 2 + 1]
                    for i in range(n):
                        out[i] = d[i] if which[i] == k else np.float32(0)


@_jit
def _forward(layers, images, shape, arrays):  # type: ignore[no-untyped-def]
    """Run the images ``(n, c·h·w)`` of one lane."""
    weight1, bias1, weight2, bias2, weight3, bias3 = layers
    inputs, convolved1, pooled1, largest1, convolved2, pooled2, largest2, scores = arrays
    channels, h, w = shape
    n = len(images)
    for i in range(n):
        image = images[i].reshape(channels, h, w)
        for c in range(channels):
            for y in range(h):
                for x in range(w):
                    inputs[c, y + 1, x + 1, i] = image[c, y, x]
    _convolve(inputs, weight1, bias1, convolved1)
    _pool(convolved1, 1, pooled1, largest1)
    _convolve(pooled1, weight2, bias2, convolved2)
    _pool(convolved2, 0, pooled2, largest2)
    hidden = pooled2.reshape(len(weight3), -1)
    for k in range(len(bias3)):
        row = scores[k]
        for i in range(len(row)):
            row[i] = bias3[k]
        for f in range(len(hidden)):
            weight, values = weight3[f, k], hidden[f]
            for i in range(len(row)):
                row[i] += weight * values[i]


@_jit
def _logits(parameters, inputs, shape, out):  # type: ignore[no-untyped-def]
    lanes, size, n_classes = out.shape
    n = min(size, AT_ONCE)
    arrays = _arrays(shape, n_classes, n)
    scores = arrays[-1]
    for lane in range(lanes):
        layers = _layers(parameters[lane], shape[0], n_classes)
        for start in range(0, size, n):
            # Of the last images some columns are left over, which hold former ones.
            images = inputs[lane, start : min(start + n, size)]
            _forward(layers, images, shape, arrays)
            for i in range(len(images)):
                for k in range(n_classes):
                    out[lane, start + i, k] = scores[k, i]


@_jit
def _softmax_gradients(scores, labels, share):  # type: ignore[no-untyped-def]
    """Turn logits ``(C, n)`` into the gradients of Σᵢ shareᵢ·lossᵢ; return this sum."""
    n_classes, n = scores.shape
    loss = np.float32(0)
    for i in range(n):
        most = scores[0, i]
        for k in range(1, n_classes):
            most = max(most, scores[k, i])
        total, own = np.float32(0), scores[labels[i], i] - most
        for k in range(n_classes):
            scores[k, i] = math.exp(scores[k, i] - most)
            total += scores[k, i]
        for k in range(n_classes):
            scores[k, i] *= share[i] / total
        scores[labels[i], i] -= share[i]
        loss += share[i] * (np.float32(math.log(total)) - own)
    return loss


@_jit
def _gradients(  # type: ignore[no-untyped-def]
    parameters, inputs, labels, share, shape, n_classes, out, losses
):
    lanes, n, _ = inputs.shape
    first, second = CHANNELS
    arrays = _arrays(shape, n_classes, n)
    padded, _, pooled1, largest1, convolved2, pooled2, largest2, scores = arrays
    _, h, w, _ = convolved2.shape
    d_pooled2 = np.empty_like(pooled2)
    d_convolved2 = np.zeros((second, h + 2, w + 2, n), np.float32)
    flipped = np.empty((first, second, 3, 3), np.float32)
    nothing = np.zeros(first, np.float32)
    d_pooled1 = np.empty((first, h, w, n), np.float32)
    d_convolved1 = np.zeros((first, shape[1] + 2, shape[2] + 2, n), np.float32)
    for lane in range(lanes):
        layers = _layers(parameters[lane], shape[0], n_classes)
        d_weight1, d_bias1, d_weight2, d_bias2, d_weight3, d_bias3 = _layers(
            out[lane], shape[0], n_classes
        )
        _forward(layers, inputs[lane], shape, arrays)
        losses[lane] = _softmax_gradients(scores, labels[lane], share[lane])
        weight2, weight3 = layers[2], layers[4]
        hidden, d_hidden = pooled2.reshape(-1, n), d_pooled2.reshape(-1, n)
        for k in range(n_classes):
            total = np.float32(0)
            for i in range(n):
                total += scores[k, i]
            d_bias3[k] = total
        for f in range(len(hidden)):
            values, d_values = hidden[f], d_hidden[f]
            for i in range(n):
                d_values[i] = 0
            for k in range(n_classes):
                weight, row = weight3[f, k], scores[k]
                total = np.float32(0)
                for i in range(n):
                    d_values[i] += weight * row[i]
                    total += values[i] * row[i]
                d_weight3[f, k] = total
        _pool_gradients(d_pooled2, largest2, d_convolved2)
        _convolution_gradients(pooled1, d_convolved2, d_weight2, d_bias2)
        # A convolution's gradient by its input is one with the weights turned round.
        for o in range(second):
            for c in range(first):
                for y in range(3):
                    for x in range(3):
                        flipped[c, o, y, x] = weight2[o, c, 2 - y, 2 - x]
        _convolve(d_convolved2, flipped, nothing, d_pooled1)
        _pool_gradients(d_pooled1, largest1, d_convolved1)
        _convolution_gradients(padded, d_convolved1, d_weight1, d_bias1)
