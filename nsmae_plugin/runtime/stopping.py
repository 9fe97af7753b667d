"""Clean stop on Ctrl-C and SIGTERM (Slurm's warning before the end of a job).

Either ends a tool by an exception, like Ctrl-C in any Python program, so that files, folders and
processes are left in order. A training defers it to the next step, where its state can be saved.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end. Like Ctrl-C, no ``except Exception`` holds it up.

    Attributes:
        told_elsewhere: another process of the same run reports it.
    """

    def __init__(self, signum: int, message: str = "", told_elsewhere: bool = False) -> None:
        super().__init__(message or f"stopped by {name_of(signum)}")
        self.signum, self.told_elsewhere = signum, told_elsewhere

    @property
    def exit_status(self) -> int:
        """Exit status of a shell: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.signum


def name_of(signum: int) -> str:
    """The name of a signal in a message."""
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


class _State:
    received: int | None = None
    deferring = False
    patient = False  # further signals of a launcher are not from the user


_state = _State()


@contextmanager
def signals_caught() -> Iterator[None]:
    """Turn both signals into :class:`Stopped` in this context; in the main thread, once."""
    if threading.current_thread() is not threading.main_thread() or _is_installed():
        yield
        return
    before = {signum: signal.signal(signum, _handle) for signum in SIGNALS}
    _state.received, _state.deferring = None, False
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _state.received = None


def _is_installed() -> bool:
    return signal.getsignal(signal.SIGTERM) is _handle


def _handle(signum: int, _frame: FrameType | None) -> None:
    again = _state.received is not None
    _state.received = _state.received or signum
    hurry = again and signum == signal.SIGINT and not _state.patient
    if hurry or not _state.deferring:
        raise Stopped(signum)


@contextmanager
def deferred(launched: bool = False) -> Iterator[None]:
    """Only note signals in this context; a second Ctrl-C ends it at once.

    Args:
        launched: a launcher passes signals on that the terminal sent to all processes already, so
            that each comes twice.
    """
    before = _state.deferring, _state.patient
    _state.deferring, _state.patient = True, launched
    try:
        yield
    finally:
        _state.deferring, _state.patient = before


@contextmanager
def at_once() -> Iterator[None]:
    """Within :func:`deferred`, a context that signals end at once: nothing in it would be lost."""
    before, _state.deferring = _state.deferring, False
    try:
        if before and _state.received is not None:
            raise Stopped(_state.received)
        yield
    finally:
        _state.deferring = before


def received() -> int | None:
    """The first signal that came, None without one."""
    return _state.received


def leave_to_parent() -> None:
    """Ignore Ctrl-C in a process of a pool; its parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def survive_first_signals() -> None:
    """Ignore signals in a loader process; its parent handles them.

    The parent needs it until its state is saved. Only a second SIGTERM counts; see
    :func:`end_loaders_at_exit`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _survive_first)


def _survive_first(_signum: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@cache
def end_loaders_at_exit() -> None:
    """End the loader processes with this process, also after an error.

    An error of a loader keeps it alive until then. Python sends a single SIGTERM, which the
    processes survive, and would wait for them for ever.
    """
    atexit.register(_end_loaders)


def _end_loaders() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise an error
    for child in multiprocessing.active_children():
        if child.daemon:  # those to which Python would send SIGTERM
            child.kill()
