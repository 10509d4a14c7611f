"""A process that Linux does not let use AMX, as on a processor without it."""

import ctypes
import struct

NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # of prctl
ARCH_PRCTL, ASK = 158, 0x1023  # the call by which a process asks for AMX on x86-64, and what it asks
NUMBER, ARGUMENT = 0, 16  # places in what a filter sees
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050001


def forbid() -> None:
    """From now on, and for good; before anything has asked.

    Raises:
        OSError: the system has no such filters.
    """
    steps = [
        (LOAD, 0, 0, NUMBER),
        (EQUAL, 0, 3, ARCH_PRCTL),
        (LOAD, 0, 0, ARGUMENT),
        (EQUAL, 0, 1, ASK),
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    given = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (
        (NO_NEW_PRIVILEGES, 1, 0, 0, 0),
        (SECCOMP, FILTER, ctypes.c_void_p(ctypes.addressof(given)), 0, 0),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "This system does not let a process give AMX up.")
