"""One update of the weights, and the record of its losses, gradient norms and samples.

On a GPU a step only queues work. :func:`read_records` transfers the numbers of one or more
:class:`StepRecord` to the host at once, and checks them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nsmae_plugin import host
from nsmae_plugin.errors import ConfigError, NonFiniteError
from nsmae_plugin.optimization.gradients import branch_norms, clip_gradients
from nsmae_plugin.runtime import distributed
from nsmae_plugin.training.run_state import Run

Batch = dict[str, Any]
PARAMETERS_NAMED = 3  # in the message on a non-finite gradient
LEAST_LOSS_SCALE = 1e-4  # of float16; overflows below it do not come from the scale


class Problem(NamedTuple):
    """Description of a loss or gradient that is not finite."""

    in_loss: bool
    words: str


class Meter:
    """Means of named numbers."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._values[name].append(value)

    def take(self) -> dict[str, float]:
        """Means since the last call, which empties the meter."""
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values.clear()
        return means


@dataclass
class StepRecord:
    """Results of a step; tensors stay on their device until :func:`read_records` fetches them.

    Attributes:
        terms: of every batch ``loss`` and ``tb_dict``, detached.
        frames: the samples of every batch.
        norms: (parameters,) norms of the gradients, and their names.
        excused: a gradient that is not finite is an overflow of float16.
        values: what was read; None until then.
    """

    step: int
    learning_rate: float
    terms: list[dict[str, Any]] = field(default_factory=list)
    frames: list[list[str]] = field(default_factory=list)
    norms: Tensor = field(default_factory=lambda: torch.zeros(0))
    names: list[str] = field(default_factory=list)
    excused: bool = False
    values: dict[str, float] | None = None

    def add(self, loss: Tensor, terms: Mapping[str, Any], batch: Batch) -> None:
        """Add the results of a batch; every term is one number."""
        values = {"loss": loss, **terms}
        self.terms.append(
            {k: v.detach().reshape(()) if torch.is_tensor(v) else v for k, v in values.items()}
        )
        self.frames.append([str(frame) for frame in batch.get("frame_id", ["unnamed"])])


def update_weights(
    run: Run,
    batches: list[Batch],
    device: torch.device,
    *,
    clip: float,
    clip_by_branch: bool = False,
    amp_dtype: torch.dtype | None = None,
    check: bool = True,
) -> StepRecord:
    """Update the weights once, from the mean gradient of ``batches``, and advance ``run.progress``.

    Equal to one batch with all the samples as far as the loss is a mean over samples; BatchNorm
    and masked means still see each batch for itself.

    Args:
        clip: the largest norm of all gradients together, or with ``clip_by_branch`` of those of
            each branch (:mod:`~nsmae_plugin.optimization.gradients`).
        amp_dtype: autocast to it, or None for float32.
        check: read the numbers before the weights change, which waits for the device. Without it a
            loss or gradient that is not finite reaches the weights, and raises when the record is
            read. float16 always checks: whether it skips a step depends on the numbers.

    Raises:
        ConfigError: everything that the loss depends on is frozen.
        NonFiniteError: under ``check``, before the weights change, in every process when it happens
            in one.
    """
    record = StepRecord(run.progress.step + 1, run.optimizer.param_groups[0]["lr"])
    run.optimizer.zero_grad(set_to_none=True)
    for position, batch in enumerate(batches, 1):
        # The processes average their gradients once per step, with the last batch.
        last = position == len(batches)
        with nullcontext() if last else distributed.no_sync(run.model):
            with torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None):
                result, terms, _ = run.model(host.to_device(batch, device))
            loss: Tensor = result["loss"].mean()
            if not loss.requires_grad:
                raise ConfigError(
                    "the loss depends on nothing that trains: take sections out of "
                    "OPTIMIZATION.FREEZE"
                )
            run.scaler.scale(loss / len(batches)).backward()
        record.add(loss, terms, batch)
    _step(run, record, check or run.scaler.is_enabled(), clip, clip_by_branch)
    distributed.unwrap(run.model).update_global_step()
    run.progress.step += 1
    run.progress.batch_in_epoch += len(batches)
    return record


def _step(run: Run, record: StepRecord, check: bool, clip: float, clip_by_branch: bool) -> None:
    """Clip the gradients and step optimiser and schedule."""
    run.scaler.unscale_(run.optimizer)
    gradients = {
        name: parameter.grad
        for name, parameter in distributed.unwrap(run.model).named_parameters()
        if parameter.grad is not None
    }
    record.names = list(gradients)
    norms = [torch.linalg.vector_norm(one) for one in gradients.values()]
    record.norms = torch.stack(norms)
    # Overflows are how the float16 scaler finds its scale (it skips the step), down to a point.
    record.excused = run.scaler.is_enabled() and run.scaler.get_scale() > LEAST_LOSS_SCALE
    finite = not check or "grad_norm" in read_records([record])[0]
    # Not clip_grad_norm_, which would spread one bad gradient over all before it can be named.
    if finite:
        clip_gradients(gradients, norms, clip, separately=clip_by_branch)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if finite and run.scheduler.last_epoch + 1 < run.scheduler.total_steps:
        run.scheduler.step()


def read_records(records: Sequence[StepRecord]) -> list[dict[str, float]]:
    """Fetch and check the numbers of some steps; all processes must call together.

    Returns:
        For each step ``loss`` and the terms of ``tb_dict``, averaged over the batches, ``lr``, and,
        before clipping, ``grad_norm`` and ``grad_norm_<branch>`` unless a float16 overflow made
        them infinite.

    Raises:
        NonFiniteError: in every process when a number of one is NaN or infinite; it names the
            first such step's samples and terms.
    """
    unread = [record for record in records if record.values is None]
    if unread:
        _raise_together(_settle(unread))
    return [record.values for record in records if record.values is not None]


def _settle(records: Sequence[StepRecord]) -> Problem | None:
    """Fill in the ``values`` of the records; returns the first problem."""
    contents = [[*record.terms, {"norms": record.norms}] for record in records]
    fetched = iter(_fetch(chain.from_iterable(one.values() for one in chain(*contents))))
    problem = None
    for record, content in zip(records, contents, strict=True):
        *terms, rest = [{name: next(fetched) for name in one} for one in content]
        problem = problem or _problem(record, terms, rest["norms"])
        record.values = _means(record, terms, rest["norms"])
    return problem


def _fetch(values: Iterable[Any]) -> list[Any]:
    """Numbers, and lists of them for vectors: everything on a GPU in one transfer."""
    values = list(values)
    tensors = [value.flatten().float() for value in values if torch.is_tensor(value)]
    device = next((one.device for one in tensors if one.device.type != "cpu"), "cpu")
    numbers = iter(torch.cat([one.to(device) for one in tensors]).tolist())
    return [_shaped(value, numbers) for value in values]


def _shaped(value: Any, numbers: Iterator[float]) -> Any:
    if not torch.is_tensor(value):
        return float(value)
    return list(islice(numbers, value.numel())) if value.dim() else next(numbers)


def _means(
    record: StepRecord, terms: Sequence[Mapping[str, float]], norms: Sequence[float]
) -> dict[str, float]:
    meter = Meter()
    for one in terms:
        meter.add(one)
    values = {**meter.take(), "lr": record.learning_rate}
    norm = math.hypot(*norms)
    if not math.isfinite(norm):
        return values
    return {**values, "grad_norm": norm, **branch_norms(record.names, norms)}


def _problem(
    record: StepRecord, terms: Sequence[Mapping[str, float]], norms: Sequence[float]
) -> Problem | None:
    """The non-finite values of a step, and their samples."""
    for values, frames in zip(terms, record.frames, strict=True):
        bad = [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            return Problem(True, f"the loss is not finite: {', '.join(bad)}{_samples(frames)}")
    named = [n for n, norm in zip(record.names, norms, strict=True) if not math.isfinite(norm)]
    if not named or record.excused:
        return None
    shown = ", ".join(named[:PARAMETERS_NAMED])
    problem = f"the gradient is not finite in {len(named)} parameters ({shown})"
    return Problem(False, problem + _samples(chain.from_iterable(record.frames)))


def _samples(frames: Iterable[str]) -> str:
    return f" for the samples {', '.join(frames)}"


def _raise_together(problem: Problem | None) -> None:
    """Raise in every process when one has a problem: the others would wait for its gradients."""
    if not distributed.any_process(problem is not None)[0]:
        return
    problems = [one for one in distributed.gather(problem) if one is not None]
    # Gradients are shared: a bad loss in one process makes all gradients bad.
    causes = [one for one in problems if one.in_loss] or problems
    raise distributed.of_all(NonFiniteError("; ".join(one.words for one in causes)))
