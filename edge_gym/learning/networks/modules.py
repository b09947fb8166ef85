"""Torch modules as federated models: any ``torch.nn.Module`` that turns samples into logits."""

from __future__ import annotations

import copy
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from edge_gym.learning.networks.architecture import NETWORKS, ImageShape, Network
from edge_gym.learning.networks.torch_backend import put
from edge_gym.runtime.isolation import isolated
from edge_gym.runtime.messages import shown
from edge_gym.typing import Float64Array

_GROUP = 8
_PROBED_SAMPLES = 8
_STATISTICS = ("running_mean", "running_var")
_models = threading.local()
_lock = threading.Lock()


class ModuleNetwork(Network):
    """A torch module whose parameters are vectors of the learner, one for each job.

    The module gets samples ``(b, channels, height, width)``, of features ``(b, 1, 1, d)``, with
    unit variance over the data set, and returns logits ``(b, C)``. Its output for a sample must
    follow from the parameters and the mini-batch alone, so nothing may be dropped out.

    *Initial values*: a factory is called anew for each model, with torch's generator seeded by one
    integer of the lane's generator; of a module that was registered itself, every submodule's
    ``reset_parameters`` is called. Parameters that need no gradient, and buffers but the running
    statistics of batch normalisation, are constants, the same in all models.

    *Gradients* are autograd's, of ``torch.func.functional_call``, mapped by ``torch.func.vmap``
    over groups of eight jobs. Groups have the same size always, filled up with zeros, and it is
    tested once whether a job's result depends on its place in a group; so what a lane learns
    depends on no other lane. Where that cannot be had, jobs go one after another:
    ``loop_reason`` says why. Batch normalisation is such a case, because it would see the padding
    of mini-batches; its running statistics are averaged with the parameters, see
    ``FederatedLearner``. Autograd refuses to run in a forked child of a process that has used it,
    as it does everywhere.

    *FLOPs* of the forward pass are counted by ``torch.utils.flop_counter``, which knows products
    of matrices, convolutions and attention; the backward pass counts twice as many. A module with
    other operations states them in an attribute ``forward_flops``.

    Attributes:
        loop_reason: Why jobs go one after another; None where they are mapped over.
        mapped: Whether jobs are mapped over.
    """

    jobs_at_once = _GROUP

    def __init__(self, name: str, factory: Any, image_shape: ImageShape, n_classes: int) -> None:
        """Look at the module that a factory makes.

        Args:
            name: The name that it is registered under, for messages and to pickle it by.
            factory: ``factory(image_shape, n_classes)``, or a module.
            image_shape: Channels, height and width of a sample.
            n_classes: Number of classes, C.

        Raises:
            ValueError: If it makes no module, or one that cannot be trained here.
        """
        self.name = name
        self.image_shape = image_shape
        self.n_classes = n_classes
        self._factory = factory
        self._prototype = self._prototyped()
        self._shapes = {
            key: tuple(value.shape)
            for key, value in self._prototype.named_parameters()
            if value.requires_grad
        }
        self._n_tensors = len(self._shapes)
        if not self._shapes:
            raise ValueError(f"network {name!r} has no parameters to train")
        self.n_parameters = sum(map(math.prod, self._shapes.values()))
        self._shapes |= {
            key: tuple(value.shape)
            for key, value in self._prototype.named_buffers()
            if key.rpartition(".")[2] in _STATISTICS
        }
        self._sizes = [math.prod(shape) for shape in self._shapes.values()]
        self.n_statistics = sum(self._sizes) - self.n_parameters
        self._check_outputs()
        self.macs = self._count()
        self.loop_reason = self._reason_to_loop()
        self._gradients_probed = False

    @property
    def mapped(self) -> bool:
        """Whether jobs are mapped over rather than taken one after another."""
        return self.loop_reason is None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: a factory need not be picklable."""
        return _named, (self.name, self.image_shape, self.n_classes)

    def draw(self, rng: np.random.Generator) -> Float64Array:
        """Draw an untrained model, seeded by one integer of ``rng``."""
        state = self._drawn(int(rng.integers(2**63))).state_dict()
        values = torch.cat([state[key].flatten() for key in self._shapes])
        drawn: Float64Array = values.double().numpy()
        return drawn

    def split(self, vectors: Tensor) -> list[Tensor]:
        """Cut vectors ``(J, S)`` into tensors ``(J, *shape)``, parameters and then statistics."""
        parts = torch.split(vectors, self._sizes, dim=1)
        return [p.view(-1, *s) for p, s in zip(parts, self._shapes.values(), strict=True)]

    def logits(self, parts: list[Tensor], inputs: Tensor) -> Tensor:
        """Return the logits ``(J, b, C)`` of inputs ``(J, b, d)``; statistics are fixed."""
        model = self._model(inputs).eval()
        if self.mapped:
            return self._in_groups(self._call(model), [*parts, inputs])[0]
        call = self._call(model)
        return torch.stack([call(*(p[j] for p in parts), inputs[j])[0] for j in range(len(inputs))])

    def backward(
        self,
        parts: list[Tensor],
        inputs: Tensor,
        labels: Tensor,
        share: Tensor,
        factor: Tensor,
        into: list[Tensor],
        replace: bool = False,
    ) -> Tensor:
        """Add factor·∇Σᵢ shareᵢ·lossᵢ of each job to ``into``, which may be ``parts`` itself."""
        model = self._model(inputs).train()
        self._probe_gradients(inputs)
        if self.mapped:
            *gradients, loss = self._in_groups(
                self._gradients(model), [*parts, inputs, labels, share]
            )
            for target, gradient in zip(into, gradients, strict=True):
                shape = -1, *[1] * (gradient.dim() - 1)
                put(target, factor.view(shape) * gradient, replace)
            return loss
        losses = []
        for j in range(len(inputs)):
            n = int((share[j] > 0).sum())
            own = [part[j].detach().clone() for part in parts]
            trained, statistics = own[: self._n_tensors], own[self._n_tensors :]
            leaves = [value.requires_grad_() for value in trained]
            with torch.enable_grad():
                # Training replaces the statistics in their copies.
                tensors = dict(zip(self._shapes, [*leaves, *statistics], strict=True))
                images = inputs[j, :n].view(n, *self.image_shape)
                logits = torch.func.functional_call(model, tensors, (images,))
                nats = functional.cross_entropy(logits, labels[j, :n], reduction="none")
                loss = (nats * share[j, :n]).sum()
                of_parameters = torch.autograd.grad(loss, leaves, materialize_grads=True)
            for target, gradient in zip(into, of_parameters, strict=False):
                put(target[j], factor[j] * gradient, replace)
            for i, after in enumerate(statistics, self._n_tensors):
                if into is parts:
                    into[i][j] = after
                else:
                    put(into[i][j], share[j].sum() * (parts[i][j] - after), replace)
            losses.append(loss.detach())
        return torch.stack(losses)

    def _call(self, model: nn.Module) -> Callable[..., tuple[Tensor]]:
        """Return one job's logits as a function of its tensors and inputs ``(b, d)``."""

        def call(*values: Tensor) -> tuple[Tensor]:
            *own, x = values
            tensors = dict(zip(self._shapes, own, strict=True))
            images = x.reshape(-1, *self.image_shape)
            return (torch.func.functional_call(model, tensors, (images,)),)

        return call

    def _gradients(self, model: nn.Module) -> Callable[..., tuple[Tensor, ...]]:
        """Return one job's gradients and loss, as a function as of ``_call``, labels and shares."""
        call = self._call(model)

        def loss_of(own: tuple[Tensor, ...], x: Tensor, y: Tensor, share: Tensor) -> Tensor:
            (logits,) = call(*own, x)
            return (functional.cross_entropy(logits, y, reduction="none") * share).sum()

        gradient_of = torch.func.grad_and_value(loss_of)

        def gradients(*values: Tensor) -> tuple[Tensor, ...]:
            *own, x, y, share = values
            found, loss = gradient_of(tuple(own), x, y, share)
            return (*found, loss)

        return gradients

    def _in_groups(
        self, function: Callable[..., tuple[Tensor, ...]], arguments: list[Tensor]
    ) -> list[Tensor]:
        """Map a function over jobs, in groups that are filled up with zeros to ``_GROUP``."""
        found = []
        n_jobs = len(arguments[0])
        for start in range(0, n_jobs, _GROUP):
            group = [_filled(argument[start : start + _GROUP]) for argument in arguments]
            results = torch.func.vmap(function)(*group)
            found.append([result[: n_jobs - start] for result in results])
        return [
            torch.cat(results) if len(results) > 1 else results[0]
            for results in zip(*found, strict=True)
        ]

    def _drawn(self, seed: int) -> nn.Module:
        """Return a new module whose parameters are drawn by this seed."""
        with torch.random.fork_rng(devices=[]):
            # Not ``torch.manual_seed``, which would seed accelerators too.
            torch.default_generator.manual_seed(seed)
            return self._new()

    def _prototyped(self) -> nn.Module:
        """Return the module that calls put tensors of jobs into."""
        return self._drawn(0)

    def _new(self) -> nn.Module:
        if isinstance(self._factory, nn.Module):
            module = copy.deepcopy(self._factory)
            for part in module.modules():
                reset: Any = getattr(part, "reset_parameters", None)
                if callable(reset):
                    reset()
            return module
        module = self._factory(self.image_shape, self.n_classes)
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"network {self.name!r}: its factory must return a torch.nn.Module, "
                f"got {shown(module)}"
            )
        return module

    def _model(self, like: Tensor) -> nn.Module:
        """Return this thread's module, which calls put tensors of jobs into."""
        if not hasattr(_models, "of"):
            _models.of = weakref.WeakKeyDictionary()
        models: dict[Any, nn.Module] = _models.of.setdefault(self, {})
        key = like.device, like.dtype
        if key not in models:
            model = copy.deepcopy(self._prototype)
            on_meta = next(model.parameters()).is_meta
            models[key] = model if on_meta else model.to(like.device, like.dtype)
        return models[key]

    def _check_outputs(self) -> None:
        """Call the module once as it is.

        Raises:
            ValueError: If it fails, returns no logits, or something is random.
        """
        for part in self._prototype.modules():
            if isinstance(part, _DropoutNd) and part.p > 0:
                raise ValueError(
                    f"network {self.name!r} drops out at random, {part}: what is learned must "
                    "follow from the mini-batch; set p=0, or leave it out"
                )
        model = copy.deepcopy(self._prototype).train()
        images = torch.linspace(-1, 1, 2 * self.n_features).view(2, *self.image_shape)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            try:
                logits, again = model(images), model(images)
            except Exception as error:
                raise ValueError(
                    f"network {self.name!r} fails on samples of shape (2, "
                    f"{', '.join(map(str, self.image_shape))}): {error}"
                ) from error
        if not isinstance(logits, Tensor) or logits.shape != (2, self.n_classes):
            what = tuple(logits.shape) if isinstance(logits, Tensor) else shown(logits)
            raise ValueError(
                f"network {self.name!r} must return logits (2, {self.n_classes}) for two samples, "
                f"got {what}"
            )
        if not torch.equal(logits, again):
            raise ValueError(f"network {self.name!r} returns something else at each call")

    def _count(self) -> int:
        """Return the multiplications with an addition of one sample's forward pass.

        Raises:
            ValueError: If they cannot be counted and the module does not state them.
        """
        stated = getattr(self._prototype, "forward_flops", None)
        if stated is not None:
            return int(stated) // 2
        from torch.utils.flop_counter import FlopCounterMode

        device = next(self._prototype.parameters()).device
        model = copy.deepcopy(self._prototype).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, *self.image_shape, device=device))
        flops = int(counter.get_total_flops())
        if not flops:
            raise ValueError(
                f"network {self.name!r} has no products that torch.utils.flop_counter knows: give "
                "the module an attribute forward_flops, the FLOPs of one sample's forward pass"
            )
        return flops // 2

    def _reason_to_loop(self) -> str | None:
        """Return why jobs cannot be mapped over, as far as passes without gradients tell."""
        if self.n_statistics:
            return "batch normalisation would see the padding of mini-batches"
        for key, shape in self._shapes.items():
            if len(shape) == 2 and math.prod(shape) % 8:
                return (
                    f"the matrix {key} has {shape[0]}·{shape[1]} numbers, no multiple of eight: "
                    "products would be rounded by their place in memory"
                )
        model = copy.deepcopy(self._prototype).eval()
        return self._probe(self._call(model), self._samples_of_a_group(torch.zeros(())))

    def _probe_gradients(self, like: Tensor) -> None:
        """Find out whether gradients may be mapped over, once, before the first are wanted."""
        # Not when the network is made: a process that has used autograd cannot fork a child that
        # uses it too.
        if self._gradients_probed or not self.mapped:
            return
        with _lock:
            if self._gradients_probed or not self.mapped:
                return
            labels = (torch.arange(_GROUP * _PROBED_SAMPLES) % self.n_classes).view(_GROUP, -1)
            share = torch.full(labels.shape, 1 / _PROBED_SAMPLES)
            model = copy.deepcopy(self._prototype).to(like.device, like.dtype).train()
            given = [*self._samples_of_a_group(like), labels, share.to(like.dtype)]
            self.loop_reason = self._probe(
                self._gradients(model), [value.to(like.device) for value in given]
            )
            self._gradients_probed = True

    def _samples_of_a_group(self, like: Tensor) -> list[Tensor]:
        """Return tensors and inputs of a group whose jobs all differ."""
        rng = np.random.default_rng(0)
        vectors = np.stack([self.draw(rng) for _ in range(_GROUP)])
        inputs = rng.standard_normal((_GROUP, _PROBED_SAMPLES, self.n_features))
        parts = self.split(torch.from_numpy(vectors).to(like.dtype))
        return [*(_filled(part) for part in parts), torch.from_numpy(inputs).to(like.dtype)]

    def _probe(
        self, function: Callable[..., tuple[Tensor, ...]], arguments: Sequence[Tensor]
    ) -> str | None:
        """Return why a function cannot be mapped over a group; None if it can."""
        try:
            with isolated(), torch.no_grad():
                found = torch.func.vmap(function)(*arguments)
                turned = torch.func.vmap(function)(*(value.flip(0) for value in arguments))
        except Exception as error:
            first = " ".join(str(error).split())[:200]
            return f"torch.func.vmap fails: {first}"
        if arguments[0].device.type == "cpu" and not all(
            torch.equal(one, other.flip(0)) for one, other in zip(found, turned, strict=True)
        ):
            return "a job's result would depend on its place among the others"
        return None


def _filled(part: Tensor) -> Tensor:
    """Copy a part ``(j, ...)`` to ``_GROUP`` jobs, those that are missing zeros, if need be."""
    missing = _GROUP - len(part)
    if missing:
        return torch.cat([part, part.new_zeros(missing, *part.shape[1:])])
    return part.contiguous()


def _named(name: str, image_shape: ImageShape, n_classes: int) -> ModuleNetwork:
    """Return the network of a registered module, as it is unpickled."""
    return ModuleNetwork(name, NETWORKS.find(name), image_shape, n_classes)
