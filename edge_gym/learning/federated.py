"""Federated rounds for many lanes and devices at once: gradients, local SGD and averages.

A round of gradient averaging (Ren et al. 2021) and one of model averaging (FedAvg) read::

    gradients, losses = learner.gradients(lanes, rows, counts)
    learner.apply(lanes, average(gradients, counts, arrived), learning_rate)

    updates, losses = learner.local_updates(lanes, rows, counts, keys, epochs=epochs, ...)
    learner.add(lanes, average(updates, counts, arrived))

    accuracy, loss = learner.score(lanes, validation_rows)

A *job* is what one device of one lane computes. Jobs of like size are batched: sorted by their
number of steps, cut into blocks of a few megabytes, and each block runs through all its steps with
one batched product per layer, dropping the jobs that are done. Blocks go to a thread pool with one
torch thread each. Small perceptrons on a CPU are left to ``learning.networks.numba_mlp``, which
takes jobs one by one in compiled code and needs some .7 times as long, and steps of the
convolutional network to ``numba_cnn``.

What a lane learns depends on neither the other lanes, their number nor the number of threads.
Batches are padded to sizes that depend on the job alone, and batched products are bit-equal for
any number of jobs as long as every job's matrices start at aligned addresses; networks with a
layer whose weights are no multiple of eight numbers are therefore trained one job at a time.
That holds on CPUs; on CUDA results may differ in rounding with the number of jobs.

``benchmarks/federated.py`` measures it beside torch modules, pfl and Flower; docs/measurements.md
has the numbers. Batching gains where the work of one job is small; large blocks pay off beyond the
cache's size, for every operation costs microseconds before it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from edge_gym.data import Features
from edge_gym.learning import jobs as jobs_module
from edge_gym.learning.base import IntArray, Score
from edge_gym.learning.jobs import Jobs, batches_of, padded_widths, samples_of, shuffled
from edge_gym.learning.networks import numba_mlp as perceptrons
from edge_gym.learning.networks.architecture import Network
from edge_gym.learning.networks.torch_backend import Perceptron, log_probabilities
from edge_gym.runtime.isolation import isolated
from edge_gym.runtime.streams import Keys
from edge_gym.runtime.threads import for_ranges

FloatArray = NDArray[np.float64]
Generators = Sequence[np.random.Generator]

_BLOCK_VALUES = 1 << 20
_CUDA_BLOCK_VALUES = 1 << 28
_VALUES_AT_ONCE = 1 << 22


class FederatedLearner:
    """One global model per lane, trained by the lane's devices on rows of one data set.

    ``lanes`` is always an array of distinct lane indices of shape ``(m,)``; every other argument
    has the same leading axis. Devices have no memory here: a device is a row of ``rows``, so a
    call may be for some of the devices only. Training rows may be codes of ``data.labels``, of
    samples with labels of their own. Vectors are tensors on the learner's device, of
    S = ``network.n_values`` numbers each; the rest of the interface is NumPy.

    Features have E‖x‖² = 1 over the data set, and networks want inputs of unit variance, so
    features are multiplied by √d.

    Batch normalisation: a device normalises by the statistics of its mini-batches and updates
    its running statistics as it trains; they are averaged with the same weights as parameters
    (FedAvg on all of the model's state), and the global model is scored with the average. In
    ``gradients`` their part of the vector is the decrease, which ``apply`` subtracts unscaled; of
    a batch of more than 256 samples it is the mean over parts of 256, computed one after another.

    Attributes:
        n_lanes: Number of lanes.
        network: The architecture.
        features: The data set.
        weights: The global models, ``(n_lanes, S)``.
    """

    def __init__(
        self,
        n_lanes: int,
        network: Network,
        features: Features,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Make models of zeros; ``reset`` draws them.

        Args:
            n_lanes: Number of lanes.
            network: The architecture, for images of the shape that ``features`` has.
            features: The data set.
            device: Where tensors live.
            dtype: ``torch.float32``, or ``torch.float64`` for tests.

        Raises:
            ValueError: If ``n_lanes`` is not positive or the network is for other images.
        """
        if n_lanes < 1:
            raise ValueError(f"n_lanes must be at least 1, got {n_lanes}")
        if network.image_shape != features.image_shape:
            raise ValueError(
                f"the network is for images of shape {network.image_shape}, "
                f"the data have {features.image_shape}"
            )
        self.n_lanes = n_lanes
        self.network = network
        self.features = features
        self.device = torch.device(device)
        self.dtype = dtype
        self.weights = torch.zeros(n_lanes, network.n_values, device=self.device, dtype=dtype)
        # Of a network that compiled code trains; empty if torch does.
        self._sizes: tuple[int, ...] = ()
        if isinstance(network, Perceptron) and self.device.type == "cpu":
            self._sizes = network.sizes if perceptrons.suits(network.sizes) else ()

    def reset(self, lanes: IntArray, generators: Generators) -> None:
        """Draw new models in ``lanes``; ``generators[i]`` belongs to ``lanes[i]``."""
        for lane, rng in zip(lanes, generators, strict=True):
            self.weights[lane] = torch.from_numpy(self.network.draw(rng))

    def gradients(
        self, lanes: IntArray, rows: IntArray, counts: ArrayLike | None = None
    ) -> tuple[Tensor, FloatArray]:
        """Let every device compute the gradient of its mean loss at its lane's global model.

        Args:
            lanes: Lane indices, ``(m,)``.
            rows: Training rows of each device's batch, ``(m, K, B)``.
            counts: How many of them each device uses, ``(m, K)``; None means all.

        Returns:
            Gradients ``(m, K, S)`` and losses ``(m, K)`` in nats; both are zero for a device
            without samples.

        Raises:
            ValueError: If shapes do not fit or a count is out of range.

        Source: Ren et al. 2021, §II-A, step 1.
        """
        rows, n = self._checked(lanes, rows, counts)
        shape = n.shape
        count = n.ravel()
        part = np.minimum(count, jobs_module.SAMPLES_AT_ONCE)
        jobs = Jobs(
            lane=np.repeat(lanes, shape[1]),
            stream=rows.ravel(),
            start=np.arange(count.size) * rows.shape[2],
            size=count,
            batch=part,
            width=padded_widths(part),
            steps=-(-count // np.maximum(part, 1)),
        )
        gradients = self.weights.new_zeros(count.size, self.network.n_values)
        if self._sizes:
            losses = perceptrons.gradients(
                self._sizes,
                self.weights.numpy(),
                jobs.lane,
                self._arrays(),
                (jobs.stream, jobs.start, jobs.size),
                gradients.numpy(),
            )
            return gradients.view(*shape, -1), losses.reshape(shape)
        losses = np.zeros(count.size)

        def run(block: IntArray) -> None:
            parts = self._global_parts(jobs.lane[block])
            into = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in parts]
            size = torch.from_numpy(jobs.size[block]).to(self.device, self.dtype)
            factor = torch.ones_like(size)
            loss = torch.zeros_like(size)
            for i, batch in enumerate(batches_of(jobs, block, *self._samples(False))):
                a = batch.n
                loss[:a] += self.network.backward(
                    [p[:a] for p in parts],
                    batch.inputs,
                    batch.labels,
                    batch.valid / size[:a, None],
                    factor[:a],
                    [p[:a] for p in into],
                    replace=i == 0,
                )
            index = self._index(block)
            for target, part in zip(self.network.split(gradients), into, strict=True):
                target[index] = part
            losses[block] = loss.cpu().numpy()

        self._run(jobs, run)
        return gradients.view(*shape, -1), losses.reshape(shape)

    def local_updates(
        self,
        lanes: IntArray,
        rows: IntArray,
        counts: ArrayLike | None,
        keys: Keys,
        *,
        batch_size: int,
        learning_rate: ArrayLike,
        epochs: ArrayLike | None = None,
        steps: ArrayLike | None = None,
        start: Tensor | None = None,
    ) -> tuple[Tensor, FloatArray]:
        """Let every device train its own copy of the global model with mini-batch SGD.

        An epoch goes once through the device's samples in random order; its last mini-batch has
        what is left. A device's orders follow from its key alone (``streams.permutations``).

        Args:
            lanes: Lane indices, ``(m,)``.
            rows: Training rows of each device, ``(m, K, N)``.
            counts: How many of them each device has, ``(m, K)``; None means all.
            keys: What each device's orders follow from, ``(m, K)``; see ``Streams.keys``.
            batch_size: Samples of a mini-batch.
            learning_rate: Step size of SGD; a number or an array that broadcasts to ``(m, K)``.
            epochs: Epochs τ_k of each device, broadcast to ``(m, K)``; either these or steps.
            steps: Mini-batch steps of each device, broadcast to ``(m, K)``.
            start: Where each device starts, ``(m, K, S)``; None means the global model.

        Returns:
            Updates ``(m, K, S)``, the device's model minus where it started, and the mean
            training loss on the way ``(m, K)`` in nats. Both are zero for a device that has no
            samples or takes no step.

        Raises:
            ValueError: If shapes do not fit or an argument is out of range.

        Source: Mohammad et al. 2020, §2.1; Wen et al. 2019, §5.2.
        """
        rows, n = self._checked(lanes, rows, counts)
        shape = n.shape
        count = n.ravel()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if (epochs is None) == (steps is None):
            raise ValueError("give either epochs or steps")
        wanted = np.broadcast_to(np.asarray(steps if epochs is None else epochs), shape).ravel()
        if not np.issubdtype(wanted.dtype, np.integer) or (wanted < 0).any():
            name = "steps" if epochs is None else "epochs"
            raise ValueError(f"{name} must be integers of at least 0, got {wanted}")
        rate = np.broadcast_to(np.asarray(learning_rate, np.float64), shape).ravel()
        if not np.isfinite(rate).all():
            raise ValueError(f"learning_rate must be finite, got {rate[~np.isfinite(rate)][0]}")
        if keys.shape != shape:
            raise ValueError(f"keys must have shape {shape}, got {keys.shape}")
        per_epoch = -(-count // batch_size)
        n_steps = wanted * per_epoch if steps is None else np.where(count > 0, wanted, 0)
        n_epochs = -(-n_steps // np.maximum(per_epoch, 1))
        stream, first = shuffled(rows, n, n_epochs.reshape(shape), keys)
        jobs = Jobs(
            lane=np.repeat(lanes, shape[1]),
            stream=stream,
            start=first,
            size=count,
            batch=np.full(count.size, batch_size),
            width=padded_widths(np.minimum(count, batch_size)),
            steps=n_steps,
        )
        if self._sizes:
            origin = self.weights[self._index(lanes)][:, None] if start is None else start
            models = origin.expand(*shape, -1).clone(memory_format=torch.contiguous_format)
            losses = perceptrons.train(
                self._sizes,
                models.flatten(0, 1).numpy(),
                self._arrays(),
                (jobs.stream, jobs.start, jobs.size),
                batch_size,
                jobs.steps,
                rate,
            )
            return models.sub_(origin), losses.reshape(shape)
        updates = self.weights.new_zeros(count.size, self.network.n_values)
        losses = np.zeros(count.size)
        origin = self.weights if start is None else start.reshape(count.size, -1)

        def run(block: IntArray) -> None:
            begin = origin[self._index(jobs.lane[block] if start is None else block)]
            parts = self._parts(begin)
            factor = torch.from_numpy(-rate[block]).to(self.device, self.dtype)
            loss, seen = torch.zeros_like(factor), torch.zeros_like(factor)
            for batch in batches_of(jobs, block, *self._samples(False)):
                a = batch.n
                active = parts if a == len(block) else [p[:a] for p in parts]
                share = batch.valid / batch.sizes[:, None]
                mean = self.network.backward(
                    active, batch.inputs, batch.labels, share, factor[:a], active
                )
                loss[:a] += mean * batch.sizes
                seen[:a] += batch.sizes
            updates[self._index(block)] = _joined(parts).sub_(begin)
            losses[block] = (loss / seen).cpu().numpy()

        self._run(jobs, run)
        return updates.view(*shape, -1), losses.reshape(shape)

    def apply(self, lanes: IntArray, gradients: Tensor, learning_rate: ArrayLike) -> None:
        """Take one step of gradient descent, w - η·g, with gradients ``(m, S)``.

        Args:
            lanes: Lane indices, ``(m,)``.
            gradients: The averaged gradients, ``(m, S)``.
            learning_rate: η, a number or ``(m,)``.

        Source: Ren et al. 2021, eq. (2).
        """
        rates = np.broadcast_to(np.asarray(learning_rate, np.float64), len(lanes))
        rate = torch.from_numpy(rates.copy()).to(self.device, self.dtype)[:, None]
        p = self.network.n_parameters
        steps = torch.cat([gradients[:, :p] * rate, gradients[:, p:]], 1)
        self.weights[self._index(lanes)] -= steps

    def add(self, lanes: IntArray, updates: Tensor) -> None:
        """Add averaged updates ``(m, S)`` to the global models."""
        self.weights[self._index(lanes)] += updates

    def distances(self, lanes: IntArray, models: Tensor) -> FloatArray:
        """Return how far models ``(m, K, S)`` are from the global ones, statistics left out."""
        own = self.weights[self._index(lanes)][:, None]
        return np.concatenate([self.norms(part - of) for part, of in _few_lanes(models, own)])

    def norms(self, vectors: Tensor) -> FloatArray:
        """Return the Euclidean norm of vectors ``(..., S)``, statistics left out."""
        parameters = vectors[..., : self.network.n_parameters]
        norms: FloatArray = torch.linalg.vector_norm(parameters, dim=-1).cpu().double().numpy()
        return norms

    def score(
        self,
        lanes: IntArray,
        rows: IntArray,
        counts: ArrayLike | None = None,
        *,
        test: bool = False,
    ) -> Score:
        """Return each global model's accuracy, mean cross-entropy in nats and recall.

        Args:
            lanes: Lane indices, ``(m,)``.
            rows: Rows that each lane is scored on, ``(m, v)``.
            counts: How many of them, ``(m,)``; None means all. A lane with none scores 0.
            test: Whether the rows are of the test set rather than the training set.

        Raises:
            ValueError: If shapes do not fit or a count is out of range.
        """
        given = None if counts is None else np.asarray(counts)[:, None]
        padded, n = self._checked(lanes, np.asarray(rows)[:, None], given)
        n_rows = padded.shape[2]
        # A lane's rows are several jobs, so that a single lane keeps all cores at work.
        begins = np.arange(0, max(n_rows, 1), jobs_module.SAMPLES_AT_ONCE)
        size = (n - begins).clip(0, jobs_module.SAMPLES_AT_ONCE).ravel()
        jobs = Jobs(
            lane=np.repeat(lanes, len(begins)),
            stream=padded.ravel(),
            start=(np.arange(len(n))[:, None] * n_rows + begins).ravel(),
            size=size,
            batch=size,
            width=padded_widths(size),
            steps=np.minimum(size, 1),
        )
        if self._sizes:
            correct, total, loss = perceptrons.score(
                self._sizes,
                self.weights.numpy(),
                jobs.lane,
                self._arrays(test),
                (jobs.stream, jobs.start, jobs.size),
            )
        else:
            correct, total, loss = self._counts(jobs, test)
        shape = len(n), len(begins), -1
        hits_of, size_of = correct.reshape(shape).sum(1), total.reshape(shape).sum(1)
        count = np.maximum(n[:, 0], 1)
        nats_of = loss.reshape(shape).sum((1, 2))
        return Score(hits_of.sum(-1) / count, nats_of / count, hits_of / np.maximum(size_of, 1))

    def _counts(self, jobs: Jobs, test: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return each job's hits and samples of each class and the sum of its losses."""
        correct = np.zeros((jobs.size.size, self.network.n_classes))
        total, loss = np.zeros_like(correct), np.zeros(jobs.size.size)

        def run(block: IntArray) -> None:
            parts = self._global_parts(jobs.lane[block])
            for batch in batches_of(jobs, block, *self._samples(test)):
                logits = self.network.logits(parts, batch.inputs)
                nats = log_probabilities(logits).gather(1, batch.labels[:, None])[:, 0]
                nats *= batch.valid
                hits = (logits.argmax(-1) == batch.labels) * batch.valid
                loss[block] = -nats.double().sum(-1).cpu().numpy()
                for counters, values in ((total, batch.valid), (correct, hits)):
                    zeros = torch.zeros_like(logits[:, 0])
                    counters[block] = zeros.scatter_add_(1, batch.labels, values).cpu().numpy()

        self._run(jobs, run, test)
        return correct, total, loss

    def get_state(self, lanes: IntArray) -> dict[str, Any]:
        """Return the global models of ``lanes``, as arrays that share no memory."""
        return {"weights": self.weights[self._index(lanes)].cpu().numpy()}

    def set_state(self, lanes: IntArray, state: dict[str, Any]) -> None:
        """Restore in ``lanes`` what ``get_state`` returned for as many lanes."""
        self.weights[self._index(lanes)] = torch.tensor(state["weights"]).to(self.weights)

    def _checked(
        self, lanes: IntArray, rows: IntArray, counts: ArrayLike | None
    ) -> tuple[IntArray, IntArray]:
        rows = np.asarray(rows)
        if rows.ndim != 3 or len(rows) != len(lanes):
            raise ValueError(
                f"rows must be (lanes, devices, samples) for {len(lanes)} lanes, got {rows.shape}"
            )
        if counts is None:
            return rows, np.full(rows.shape[:2], rows.shape[2])
        n = np.asarray(counts)
        if n.shape != rows.shape[:2]:
            raise ValueError(f"counts must have shape {rows.shape[:2]}, got {n.shape}")
        if (n < 0).any() or (n > rows.shape[2]).any():
            raise ValueError(f"counts must be in 0..{rows.shape[2]}, got {n}")
        return rows, n

    def _run(self, jobs: Jobs, run: Callable[[IntArray], None], test: bool = False) -> None:
        """Call ``run`` on blocks of jobs of one width, those with the most steps first."""
        self._samples(test)  # Made once here rather than by every thread.
        order = np.lexsort((-jobs.steps, jobs.width))
        order = order[jobs.steps[order] > 0]
        edges = np.flatnonzero(np.diff(jobs.width[order], prepend=-1))
        blocks: list[IntArray] = []
        for group in np.split(order, edges[1:]):
            if len(group):
                size = self._jobs_at_once(int(jobs.width[group[0]]))
                blocks += np.split(group, range(size, len(group), size))

        def run_blocks(first: int, stop: int) -> None:
            with torch.no_grad():
                for block in blocks[first:stop]:
                    run(block)

        if self.device.type == "cpu":
            with isolated():
                for_ranges(run_blocks, len(blocks))
        else:
            run_blocks(0, len(blocks))

    def _jobs_at_once(self, width: int) -> int:
        values = self.network.n_values + width * self.network.n_features
        limit = _BLOCK_VALUES if self.device.type == "cpu" else _CUDA_BLOCK_VALUES
        return min(self.network.jobs_at_once, max(1, limit // values))

    def _global_parts(self, lanes: IntArray) -> list[Tensor]:
        """Return the parts of the global models of ``lanes``, to be read only."""
        if (lanes == lanes[0]).all():
            parts = self._parts(self.weights[int(lanes[0])][None])
            return [p.expand(len(lanes), *p.shape[1:]) for p in parts]
        return self._parts(self.weights[self._index(lanes)])

    def _parts(self, vectors: Tensor) -> list[Tensor]:
        """Copy vectors ``(J, S)`` into parts that start at aligned addresses."""
        parts = self.network.split(vectors)
        return [part.clone(memory_format=torch.contiguous_format) for part in parts]

    def _index(self, indices: IntArray) -> Tensor:
        """Copy indices, for torch warns of arrays that are read-only."""
        return torch.tensor(indices, device=self.device)

    def _arrays(self, test: bool = False) -> tuple[NDArray[Any], IntArray]:
        inputs, labels = self._samples(test)
        return inputs.numpy(), labels.numpy()

    def _samples(self, test: bool) -> tuple[Tensor, Tensor]:
        return samples_of(self.features, test, self.device, self.dtype)


def _few_lanes(vectors: Tensor, others: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield vectors ``(m, K, S)`` a few lanes at a time, with what ``others`` holds of these."""
    at_once = max(1, _VALUES_AT_ONCE // max(1, vectors[0].numel())) if len(vectors) else 1
    return zip(torch.split(vectors, at_once), torch.split(others, at_once), strict=True)


def _joined(parts: list[Tensor]) -> Tensor:
    """Join parts ``(J, ...)`` into vectors ``(J, S)``."""
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)
