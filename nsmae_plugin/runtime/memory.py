"""Memory management of a process: keep or return freed memory."""

import ctypes
import os
import platform

#: Settings of glibc, see mallopt(3), by the variable that makes them when a process starts: large
#: blocks are no mappings of their own, which would be unmapped when freed; and nothing is trimmed.
SETTINGS = {"MALLOC_MMAP_MAX_": (-4, 0), "MALLOC_TRIM_THRESHOLD_": (-1, -1)}
#: What a user may have set instead.
CHOICES = {*SETTINGS, "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}


def keep_freed_memory() -> bool:
    """Keep freed memory for later allocations of this process.

    A training step on a CPU allocates gigabytes and frees them again. glibc hands them back to the
    system, and in the next step every page has to be found and cleared anew: a quarter of the time
    of a full-size pre-training step. For loops that need as much memory again; the process never
    shrinks.

    Settings that the user made in the environment stay as they are.

    Returns:
        Whether anything was set: not under another C library than glibc.
    """
    if CHOICES & set(os.environ) or not _glibc():
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, value) for option, value in SETTINGS.values())


def release_freed_memory() -> None:
    """Return freed memory to the system once; does nothing without glibc."""
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
