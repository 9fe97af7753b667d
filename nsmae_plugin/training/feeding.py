"""The batches of every step, and the end of them, for all processes together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from nsmae_plugin.errors import NSMAEError
from nsmae_plugin.runtime import distributed, stopping

Batch = dict[str, Any]


def groups_of(loader: Iterable[Batch], size: int, left: int) -> Iterator[list[Batch]]:
    """The epoch's batches in lists of ``size``; the last list may be shorter."""
    batches = islice(loader, left)
    for first in batches:
        yield [first, *islice(batches, size - 1)]


def until_asked_to_stop(groups: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
    """The same groups, until any process is asked to stop; all processes must iterate together.

    Raises:
        NSMAEError: what one of the processes met instead of a group, in every process: the others
            would wait for its gradients.
    """
    while True:
        group, problem = None, None
        try:
            group = next(groups, None)
        except NSMAEError as error:
            problem = error
        failed, asked = distributed.any_process(
            problem is not None, stopping.received() is not None
        )
        if failed:
            problems = [one for one in distributed.gather(problem) if one is not None]
            raise distributed.of_all(problems[0])
        if group is None or asked:
            return
        yield group
