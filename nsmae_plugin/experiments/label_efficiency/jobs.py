"""Run the trials of a label-efficiency experiment, several at once, each in its own process."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nsmae_plugin.errors import DataError, NSMAEError
from nsmae_plugin.experiments.label_efficiency.records import (
    FINISHED,
    TRAINED,
    Record,
    Trial,
    read_record,
)
from nsmae_plugin.experiments.label_efficiency.trials import EVAL_TAG, Experiment
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.cores import usable_cores
from nsmae_plugin.runtime.reading import read_json

LOG = "label_efficiency.log"
LOCK = "trial.lock"
TAIL = 20  # lines of a failed trial's log to show


class TrialError(NSMAEError):
    """A trial whose training or evaluation ended with an error."""


class Runner:
    """Runs trials, ``jobs`` at a time.

    Args:
        metrics_files: names of the files that the evaluation leaves below ``eval/``, read as one.
        tell: called with one line whenever a trial starts or ends.
    """

    def __init__(
        self,
        experiment: Experiment,
        jobs: int,
        metrics_files: Sequence[str],
        tell: Callable[[str], None],
    ) -> None:
        self.experiment, self.jobs = experiment, jobs
        self.metrics_files, self.tell = metrics_files, tell
        self._processes: set[subprocess.Popen] = set()
        self._lock, self._stopped = threading.Lock(), False

    def run(self, trials: list[Trial], after_each: Callable[[], None]) -> dict[Trial, NSMAEError]:
        """Run the unfinished trials; a failure does not stop the others.

        Args:
            after_each: called in this thread when a trial has finished well.

        Returns:
            The trials that failed and why.
        """
        failures: dict[Trial, NSMAEError] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = {pool.submit(self._finish, trial): trial for trial in trials}
            try:
                for future in as_completed(futures):
                    try:
                        future.result()
                    except NSMAEError as error:
                        failures[futures[future]] = error
                        self.tell(str(error))
                    else:
                        after_each()
            except BaseException:  # also after Ctrl-C: leave no process behind
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()
                raise
        return failures

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._processes:
                with suppress(ProcessLookupError):  # it has just ended
                    os.killpg(process.pid, signal.SIGTERM)

    def _finish(self, trial: Trial) -> None:
        """Train and evaluate one trial, skipping finished parts."""
        experiment, folder = self.experiment, self.experiment.trial_folder(trial)
        files.make_folder(folder)
        with _held(folder) as lock:
            record = read_record(folder) or Record(trial, experiment.settings(trial))
            if record.stage == FINISHED:
                return
            record.save(folder)
            if record.stage != TRAINED:
                self._execute("train", experiment.train_command(trial), record, folder, lock)
                record.stage = TRAINED
                record.save(folder)
            self._execute("test", experiment.test_command(trial), record, folder, lock)
            for name in self.metrics_files:
                record.metrics |= read_metrics_file(folder, name)
            record.stage = FINISHED
            record.save(folder)
        spent = ", ".join(f"{step} {record.seconds[step]:.0f} s" for step in record.seconds)
        self.tell(f"{trial.name}: finished ({spent})")

    def _execute(
        self, step: str, command: list[str], record: Record, folder: Path, lock: int
    ) -> None:
        self.tell(f"{record.trial.name}: {step}")
        start = time.monotonic()
        status = self._call(command, folder / LOG, lock)
        record.seconds[step] = record.seconds.get(step, 0.0) + time.monotonic() - start
        record.save(folder)
        if status:
            raise TrialError(
                f"{record.trial.name}: {step} ended with status {status} and does not count; "
                f"the end of {folder / LOG}:\n{_tail(folder / LOG)}"
            )

    def _call(self, command: list[str], log: Path, lock: int) -> int:
        """Exit status of ``command``, which appends all that it prints to ``log``."""
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"$ {shlex.join(command)}\n")
            file.flush()
            with self._lock:
                if self._stopped:
                    raise TrialError("stopped")
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment(self.jobs),
                    pass_fds=(lock,),
                    start_new_session=True,  # so that its loader processes end with it
                )
                self._processes.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._processes.discard(process)


def environment(jobs: int) -> dict[str, str]:
    """This process's environment with its cores divided among ``jobs``, unless the user did so."""
    threads = str(max(1, usable_cores() // jobs))
    return {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONUNBUFFERED": "1"}


@contextmanager
def _held(folder: Path) -> Iterator[int]:
    """Lock a trial; its own processes also hold the lock.

    So a training that outlives this process, which was killed, is not started a second time.
    """
    with open(folder / LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrialError(
                f"{folder.name}: left out, another process is working in {folder}"
            ) from error
        yield file.fileno()


def read_metrics_file(folder: Path, name: str) -> dict[str, Any]:
    """Content of the one file of that name that the evaluation has left in a trial folder.

    Raises:
        DataError: when there is none, more than one, or it is not JSON.
    """
    below = folder / "eval"
    found = [path for path in below.rglob(name) if EVAL_TAG in path.relative_to(below).parts]
    if len(found) != 1:
        names = ", ".join(map(str, found)) or "none"
        raise DataError(f"expected one {name} in {below}, found {names}")
    content = read_json(found[0], "the metrics", "evaluate again")
    if not isinstance(content, dict):
        raise DataError(f"{found[0]} must hold an object")
    return content


def _tail(path: Path) -> str:
    """Last lines; of a progress bar, which returns without a line feed, its last state."""
    lines = path.read_bytes().decode("utf-8", errors="replace").rstrip().split("\n")
    shown = [line.rstrip("\r").rpartition("\r")[2] for line in lines[-TAIL:]]
    return "\n".join(f"    {line}" for line in shown)
