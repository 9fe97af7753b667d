"""What a process does with memory that it frees."""

import ctypes
import os
import platform

#: Settings of glibc, see mallopt(3), by the variable that sets them when a process starts: from
#: which size on a block is unmapped when it is freed, and how much freed memory is handed back.
SETTINGS = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1}
KEPT = 2**31 - 1  # bytes; the most that mallopt takes


def keep_freed_memory() -> bool:
    """Keep what is freed, in blocks of up to 2 GiB, for this process's next allocations.

    A training step on a CPU allocates gigabytes and frees them again. glibc hands them back to the
    system, and in the next step every page has to be found and cleared anew: a quarter of the time
    of a full-size pre-training step. For loops that need as much memory again; the process never
    shrinks.

    Settings that the user made in the environment stay as they are.

    Returns:
        Whether anything was set: not under another C library than glibc.
    """
    chosen = {*SETTINGS, "GLIBC_TUNABLES"} & set(os.environ)
    if chosen or not _glibc():
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, KEPT) for option in SETTINGS.values())


def release_freed_memory() -> None:
    """Hand back to the system, once, what was freed; nothing under another C library than glibc."""
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
