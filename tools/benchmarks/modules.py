"""Seconds and kept memory of every module of a detector, forward and backward.

The graph is cut where one module hands the batch to the next: what a module reads is detached, so
that its backward pass can be run, and timed, for itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tools.benchmarks.measure import MIB, synchronize

LOSS = "targets and losses"


@dataclass
class Timing:
    """Of one module: seconds of the passes, and MiB kept in between, one number per run."""

    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)


class ModuleTimer:
    """Runs training steps of a detector and times its modules one by one.

    The last module is a head, or what the loss reads directly: its backward pass includes the
    loss's.

    Args:
        model: a detector whose ``module_list`` maps a batch to a batch, in training mode.
        amp_dtype: autocast the forward pass to it; None for float32.
    """

    def __init__(
        self, model: Any, device: torch.device, amp_dtype: torch.dtype | None = None
    ) -> None:
        self.model, self.device = model, device
        self.autocast = torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None)
        names = {module: name for name, module in model.named_children()}
        self.modules = {names[module]: module for module in model.module_list}
        self.timings = {name: Timing() for name in (*self.modules, LOSS)}
        self._cuts: list[_Cut] = []
        self._start = 0.0

    def step(self, batch: dict[str, Any]) -> None:
        """One forward and one backward pass of all modules."""
        self._cuts = []
        self.model.zero_grad(set_to_none=True)
        with self._hooked(), self.autocast, _Kept(self.model, batch) as self._kept:
            loss = self.model(batch)[0]["loss"].mean()
            self._end_forward(LOSS)
        self._backward(loss)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        handles = []
        for name, module in self.modules.items():
            handles.append(module.register_forward_pre_hook(self._cut))
            handles.append(module.register_forward_hook(self._ender(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _cut(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Before a module: detach the batch from what made it, and start the clock."""
        previous = self._cuts[-1].leaves if self._cuts else set()
        self._cuts.append(_Cut(previous))
        batch = self._cuts[-1].apply(inputs[0])
        self._start = self._now()
        return (batch,)

    def _ender(self, name: str) -> Callable[..., None]:
        return lambda _module, _inputs, _output: self._end_forward(name)

    def _end_forward(self, name: str) -> None:
        self.timings[name].forward.append(self._now() - self._start)
        self.timings[name].mib.append(self._kept.take() / MIB)
        self._start = self._now()

    def _backward(self, loss: Tensor) -> None:
        names = list(self.modules)
        self._time_backward(names[-1], loss.backward)
        # Cut k lies in front of module k: its gradients are those of what module k - 1 wrote.
        # One that is done lets go of its tensors, as the training step does.
        for index in range(len(names) - 1, 0, -1):
            self._time_backward(names[index - 1], self._cuts.pop().backward)
        self._cuts = []

    def _time_backward(self, name: str, run: Callable[[], None]) -> None:
        start = self._now()
        run()
        self.timings[name].backward.append(self._now() - start)

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


class _Cut:
    """Tensors of a batch, detached, and where their gradients have to go."""

    def __init__(self, known: set[int]) -> None:
        self.leaves = set(known)
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._made: dict[int, Tensor] = {}

    def apply(self, value: Any) -> Any:
        """The same value with new leaves in the place of tensors that need a gradient."""
        if isinstance(value, Tensor):
            return self._leaf(value)
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(self.apply(one) for one in value)
        if isinstance(value, dict):
            return {key: self.apply(one) for key, one in value.items()}
        if hasattr(value, "replace_feature"):  # spconv's sparse tensors
            return value.replace_feature(self._leaf(value.features))
        return value

    def _leaf(self, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad or id(tensor) in self.leaves:
            return tensor
        if id(tensor) not in self._made:
            leaf = tensor.detach().requires_grad_()
            self._made[id(tensor)] = leaf
            self._pairs.append((tensor, leaf))
            self.leaves.add(id(leaf))
        return self._made[id(tensor)]

    def backward(self) -> None:
        """Hand the gradients of the leaves on to what they were detached from."""
        used = [(source, leaf.grad) for source, leaf in self._pairs if leaf.grad is not None]
        if used:
            sources, gradients = zip(*used, strict=True)
            torch.autograd.backward(sources, gradients)


class _Kept:
    """Counts the bytes that autograd keeps, without parameters and the batch's own tensors.

    By address, without holding them: what lives longer than in a training step makes memory new,
    and new memory is slow.
    """

    def __init__(self, model: nn.Module, batch: dict[str, Any]) -> None:
        tensors = [*model.parameters(), *model.buffers(), *batch.values()]
        self._addresses = {_address(one) for one in tensors if isinstance(one, Tensor)}
        self._bytes = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        address = _address(tensor)
        if address not in self._addresses:
            self._addresses.add(address)
            self._bytes += tensor.untyped_storage().nbytes()
        # Detached: a result that held its own operation would never be freed where the loss does
        # not need it.
        return tensor.detach()

    def take(self) -> int:
        """Bytes since the last call."""
        count, self._bytes = self._bytes, 0
        return count

    def __enter__(self) -> _Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
