"""Number of processor cores of this process."""

import os


def usable_cores() -> int:
    """Cores that this process may use: containers and job schedulers give fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
