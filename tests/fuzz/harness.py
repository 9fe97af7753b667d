"""Runs one case, and tells how it ended."""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nsmae_plugin.errors import NSMAEError

SECONDS = 20  # of one case, after which it counts as hanging
GROWTH = 1 << 30  # bytes that one case may take
LONGEST = 500  # characters of a message

RIGHT, REFUSED, WARNED = "right", "refused", "warned"
# What starts other programs, as Python's audit hooks report it.
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn")


@dataclass(frozen=True)
class Case:
    """A damaged input.

    Attributes:
        name: what is damaged and how, for reports.
        run: reads the input; True: the result is right; False: it is another, which is allowed
            only with a warning.
        thing: part of a file name, token or key that messages must name one of.
    """

    name: str
    run: Callable[[], bool]
    thing: tuple[str, ...] = ()


class Fault(Exception):
    """A case that ended in no way that is allowed."""


@dataclass
class Tally:
    """How many cases ended how, and which were faults."""

    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((RIGHT, REFUSED, WARNED), 0)
    )
    faults: list[str] = field(default_factory=list)


Draw = Callable[[np.random.Generator], Case]


def run_kind(name: str, draw: Draw, numbers: range, seed: int, limited: bool = False) -> Tally:
    """The cases of a kind with these numbers; each depends on seed, kind and number alone.

    Args:
        limited: no case may allocate more than GROWTH beyond what the process has by then: caches
            of libraries grow from case to case.
    """
    tally = Tally()
    for number in numbers:
        rng = np.random.default_rng((seed, zlib.crc32(name.encode()), number))
        case = draw(rng)
        if limited:
            limit_memory(GROWTH)
        try:
            tally.counts[run_case(case)] += 1
        except Fault as fault:
            tally.faults.append(f"{name}:{number} (seed {seed}), {case.name}: {fault}")
    return tally


def run_case(case: Case) -> str:
    """How the case ended.

    Raises:
        Fault: in no way that is allowed.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with _messages() as messages, _programs() as programs:
        try:
            with _alarm():
                right = case.run()
        except NSMAEError as error:
            outcome = _check_refusal(case, str(error))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise Fault(f"{type(error).__name__}: {error}"[:LONGEST]) from error
        else:
            outcome = RIGHT if right else _check_warning(case, messages)
    if programs:
        raise Fault(f"it started {programs[0]}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > GROWTH:
        raise Fault(f"it took {grown / (1 << 20):.0f} MB")
    return outcome


def _check_refusal(case: Case, message: str) -> str:
    if len(message) > LONGEST or not message.isprintable():
        start = message[:LONGEST].encode("unicode_escape").decode()
        raise Fault(f"a message of {len(message)} characters: {start}")
    if case.thing and not any(thing in message for thing in case.thing):
        raise Fault(f"a message that names none of {case.thing}: {message}")
    return REFUSED


def _check_warning(case: Case, messages: list[str]) -> str:
    if not any(thing in message for message in messages for thing in case.thing):
        raise Fault(f"another result, and no warning that names one of {case.thing}: {messages}")
    return WARNED


@contextlib.contextmanager
def _messages() -> Iterator[list[str]]:
    """Warnings of loggers and of the module ``warnings``."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
            found += [str(one.message) for one in caught]
    finally:
        logging.getLogger().removeHandler(handler)


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError(f"it takes longer than {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# Audit hooks stay for good: there is one, and this tells it where to write.
_watching: list[list[str]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event in _STARTS:
        _watching[-1].append(f"{event} {arguments!r}"[:LONGEST])


@contextlib.contextmanager
def _programs() -> Iterator[list[str]]:
    """Record the programs that are started in this context."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    started: list[str] = []
    _watching.append(started)
    try:
        yield started
    finally:
        _watching.remove(started)


_hooked = False


def limit_memory(growth: int) -> None:
    """Let this process take no more than ``growth`` bytes of addresses in addition (Linux)."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + growth, hard))
