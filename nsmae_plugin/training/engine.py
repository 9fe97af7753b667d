"""The training loop: one for both hosts and for every detector with OpenPCDet's forward contract.

A *batch* is what the loader yields; a *step* is one update of the weights, from the gradients of
``accumulate_steps`` batches. In training mode a detector returns ``({'loss': loss}, tb_dict,
disp_dict)``. A detector that schedules by epochs has a method ``set_steps_per_epoch(steps)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from nsmae_plugin.errors import NonFiniteError, NSMAEError
from nsmae_plugin.runtime import distributed, stopping
from nsmae_plugin.training.session import Session
from nsmae_plugin.training.update import update_weights

Batch = dict[str, Any]


def train(session: Session, loader: Iterable[Batch], sampler: Any) -> None:
    """Train from ``session.run.progress`` to the planned number of epochs.

    Args:
        loader: yields collated batches; iterated once per epoch.
        sampler: ``set_epoch(epoch, start)`` makes the next iteration give epoch ``epoch`` without
            its first ``start`` samples of this process.

    Raises:
        NonFiniteError: when a loss or gradient is NaN or infinite. Nothing is saved then; the
            message names the samples, the term and the last good checkpoint.
        Stopped: the process was asked to stop, and the state of the run is saved.
    """
    run, options, device = session.run, session.options, session.world.device
    model = distributed.unwrap(run.model)
    if hasattr(model, "set_steps_per_epoch"):
        model.set_steps_per_epoch(session.settings.steps_per_epoch)
    launched = session.world.size > 1
    with logging_redirect_tqdm([session.logger]), stopping.deferred(launched):
        session.catch_up_evaluation()
        if session.finished:
            session.logger.info("nothing left to train: step %d is the last", run.progress.step)
        while not session.finished:
            session.start_epoch(sampler)
            try:
                with session.monitoring() as monitor:
                    for batches in _steps(session, monitor.timing(loader)):
                        record = update_weights(
                            run,
                            batches,
                            device,
                            clip=options.grad_norm_clip,
                            clip_by_branch=options.clip_by_branch,
                            amp_dtype=options.amp_dtype,
                            check=session.check_steps == 1,
                        )
                        session.after_step(record, monitor)
            except NonFiniteError as error:
                raise session.with_last_good_checkpoint(error) from error
            session.finish_epoch()
        session.report_best()


def _steps(session: Session, loader: Iterable[Batch]) -> Iterator[list[Batch]]:
    """The batches of each step that is left of the epoch, until any process is asked to stop.

    All processes must iterate together.

    Raises:
        NSMAEError: what one of the processes met instead of a batch, in every process: the others
            would wait for its gradients.
    """
    batches = islice(loader, session.batches_left)
    while not session.epoch_is_over:
        group: list[Batch] = []
        problem = None
        try:
            group = list(islice(batches, session.settings.accumulate_steps))
        except NSMAEError as error:
            problem = error
        failed, asked = distributed.any_process(
            problem is not None, stopping.received() is not None
        )
        if failed:
            problems = [one for one in distributed.gather(problem) if one is not None]
            raise distributed.of_all(problems[0])
        if not group or asked:
            return
        yield group
