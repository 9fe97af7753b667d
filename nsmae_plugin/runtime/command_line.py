"""Helpers shared by the command-line tools."""

import logging
import math
import os
import shlex
import sys
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from nsmae_plugin.errors import NSMAEError, brief
from nsmae_plugin.runtime import stopping

P = ParamSpec("P")
LONGEST = 1000  # characters of an error, which may quote user input
PREFIX = "error: "  # of the line that a tool ends with
RUN_LOGGER = "nsmae_plugin.run"
_LOST = "the connection to another process was lost; the message of that process says why"
# Part of a RuntimeError of torch -> message.
SYSTEM_ERRORS = {
    "DataLoader worker (pid": "a process of the loader died ({}); where memory ran out, use fewer "
    "--workers or a smaller --batch_size",
    "can't allocate memory": "memory ran out ({}): use a smaller --batch_size or a smaller network",
    "Connection closed by peer": _LOST,
    "Connection reset by peer": _LOST,
}


def make_parser(description: str | None) -> ArgumentParser:
    """A parser without defaults: absent flags keep the defaults of the options."""
    return ArgumentParser(
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        argument_default=SUPPRESS,
    )


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError(f"{value} is not positive")
    return value


def not_negative(text: str) -> int:
    """An integer of at least 0, for argparse."""
    value = int(text)
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value


def fraction(text: str) -> float:
    """A number in (0, 1], for argparse."""
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError(f"{value} is not in (0, 1]")
    return value


def waiting_time(text: str) -> float:
    """A finite number of at least 0, for argparse."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"{value} is not a finite time")
    return value


def command_to_resume(launcher: str, words: list[str]) -> str:
    """The command line that resumes a run: the one that started it, from its own checkpoints.

    Args:
        words: ``sys.argv``, which begins with a script or with ``nsmae train``.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--ckpt", "--pretrained_model"):
        parser.add_argument(flag)
    program, *rest = parser.parse_known_args(words)[1]
    if program.startswith("nsmae "):
        launched = program.replace("nsmae ", "-m nsmae_plugin.cli ", 1)
    else:
        launched = shlex.quote(program)
        program = f"python {launched}"
    local = os.environ.get("LOCAL_WORLD_SIZE", "1")
    starts = {
        "pytorch": f"torchrun --nproc_per_node {local} {launched}",
        "slurm": f"srun {program}",
    }
    return f"{starts.get(launcher, program)} {shlex.join(rest)}"


def errors_in_one_line(main: Callable[P, int]) -> Callable[P, int]:
    """Print errors of the plugin and of files instead of a traceback; return exit status 1.

    What is printed also goes to the log file of the run, if there is one. Ctrl-C and SIGTERM end
    with one line, too, and with the exit statuses that shells know.
    """

    @wraps(main)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            with stopping.signals_caught():
                return main(*args, **kwargs)
        except stopping.Stopped as stop:
            if not stop.told_elsewhere:
                report(str(stop))
            return stop.exit_status
        except BrokenPipeError:  # the reader has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except NSMAEError as error:
            if not error.told_elsewhere:
                report(PREFIX + brief(str(error), LONGEST))
        except (OSError, RuntimeError, MemoryError) as error:
            message = _in_words(error)
            if message is None:
                raise
            report(PREFIX + brief(message, LONGEST))
        return 1

    return reporting


def report(message: str) -> None:
    """Print to stderr, and write into the log file of the run."""
    print(message, file=sys.stderr)
    record = logging.LogRecord(RUN_LOGGER, logging.ERROR, "", 0, message, (), None)
    for handler in logging.getLogger(RUN_LOGGER).handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _in_words(error: Exception) -> str | None:
    """A message for a system error; None for a programming error."""
    if isinstance(error, OSError):  # of a file without a message of its own
        where = "" if error.filename is None else f"{os.fspath(error.filename)}: "
        return None if error.errno is None else f"{where}{error.strerror}"
    if isinstance(error, MemoryError):
        return f"memory ran out ({error})"
    for sign, message in SYSTEM_ERRORS.items():
        if sign in str(error):
            return message.format(str(error).splitlines()[0])
    return None
