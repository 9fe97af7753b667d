"""Scan a pickle without executing it.

What is refused are instructions that pickles of data do not need, and those that would make
Python's unpickler allocate far more than the file is long.
"""

from __future__ import annotations

import re
from pickle import UnpicklingError

# Runs of instructions whose length is known. LONG_BINPUT (r) and PUT (p) name a place in a table,
# which is made as long as that: in a run it may only be low, else it is compared with the file.
_RUN = re.compile(
    rb"""(?: [()01NRabdelostuQ\]}\x81\x85-\x89\x8f-\x94] | [Khq\x80]. | M.. | [Jj].... | G.{8}
       | r..\x00\x00 | p\d{1,4}\n | [FILPSVg][^\n]*\n | [ci][^\n]*\n[^\n]*\n ){0,500}""",
    re.DOTALL | re.VERBOSE,
)
_PUT = re.compile(rb"r(.{4})|p(\d{1,20})\n", re.DOTALL)
# Opcode -> number of bytes of the length that follows: texts, bytes, short integers.
_COUNTED = {
    code: size
    for size, codes in ((1, b"CU\x8a\x8c"), (4, b"BTX"), (8, b"\x8d\x8e\x96"))
    for code in codes
}
_FRAME, _STOP = 0x95, ord(".")


def check_instructions(content: bytes) -> None:
    """Read through a pickle.

    No instruction may cross the end of a frame: Python's unpickler would go on elsewhere than this.

    Raises:
        UnpicklingError: it ends early, or holds an instruction that is refused.
    """
    at, end, whole = 0, len(content), len(content)  # end of the frame; outside of frames: whole
    while True:
        run = _RUN.match(content, at, end)
        if run and run.end() > at:
            at = run.end()
        elif at == end != whole:
            end = whole
        elif at == end:
            raise UnpicklingError("it is truncated")
        elif content[at] == _STOP:
            return
        elif content[at] == _FRAME and end == whole:
            end = at + 9 + int.from_bytes(content[at + 1 : at + 9], "little")
            at += 9
        else:
            at = _after(content, at, end)
        if at > end or end > whole:
            raise UnpicklingError("it is truncated")


def _after(content: bytes, at: int, end: int) -> int:
    """Where the instruction at ``at`` ends, one that is not in a run."""
    put = _PUT.match(content, at, end)
    if put:
        place = int.from_bytes(put[1], "little") if put[1] else int(put[2])
        if place > len(content):
            raise UnpicklingError(f"it numbers an object {place} in {len(content)} bytes")
        return put.end()
    code = content[at]
    if code not in _COUNTED:
        raise UnpicklingError(f"it is damaged, or made by other means: {code:#04x} at byte {at}")
    start = at + 1 + _COUNTED[code]
    return start + int.from_bytes(content[at + 1 : start], "little")
