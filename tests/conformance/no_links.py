"""Takes hard links away from this process, as file systems do that have none.

A seccomp filter: the kernel itself refuses the calls, whatever Python function makes them.
It can't be undone, and children inherit it.
"""

import ctypes
import errno
import struct

_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000

LINKS = {"link": (86, errno.EPERM), "linkat": (265, errno.EPERM)}
"""The system calls of x86-64 that make hard links, and what file systems without say."""

RENAMES = {"renameat2": (316, errno.EINVAL)}
"""The call that renames without replacing, and what file systems say that can't."""


def refuse(calls: dict[str, tuple[int, int]]) -> None:
    """Let the kernel refuse these calls from now on.

    Args:
        calls: The number and the error of each.
    """
    program = [struct.pack("HBBI", _LOAD_WORD, 0, 0, 0)]
    for number, code in calls.values():
        program.append(struct.pack("HBBI", _JUMP_IF_EQUAL, 0, 1, number))
        program.append(struct.pack("HBBI", _RETURN, 0, 0, _ERROR | code))
    program.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(program))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
