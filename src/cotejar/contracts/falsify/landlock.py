"""Landlock: a process gives up writing outside some folders, for itself and its children.

Linux 5.13 and newer, no privileges needed; see landlock(7). What it cannot hold back:
changes of modes, owners, times and extended attributes (chmod, chown, utimensat, setxattr),
writes through files that were open before, truncate(2) before ABI 3, and what other
processes do when asked over a socket. Reading and running stay as they were.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""System call numbers, the same on every architecture."""
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE = 1 << 1
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_REFER, _REFER_ABI = 1 << 13, 2
_TRUNCATE, _TRUNCATE_ABI = 1 << 14, 3
_SCOPE_SIGNAL, _SCOPE_ABI = 1 << 1, 6

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx")
DEVICE_FOLDERS = ("/dev/shm", "/dev/pts", "/dev/dri")  # noqa: S108 - shared memory, not /tmp
_DEVICE_PREFIXES = ("nvidia", "kfd")


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def landlock_abi() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    if platform.system() != "Linux":
        return 0
    found = _call(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    return max(0, found)


def restrict_writes(folders: Iterable[str], abi: int) -> None:
    """Let this process and its children write under `folders` and to harmless devices only.

    Never taken back; it also gives up gaining privileges through setuid programs.

    Args:
        folders: absolute; those that are not there are left out.
        abi: what `landlock_abi` said, at least 1.

    Raises:
        OSError: the kernel refuses.
    """
    file_rights = _WRITE_FILE | (_TRUNCATE if abi >= _TRUNCATE_ABI else 0)
    rights = file_rights | _REMOVE_AND_MAKE | (_REFER if abi >= _REFER_ABI else 0)
    scoped = _SCOPE_SIGNAL if abi >= _SCOPE_ABI else 0
    attributes = _RulesetAttributes(handled_access_fs=rights, scoped=scoped)
    # An older kernel takes a longer structure as long as what it does not know is zero.
    ruleset = _require(
        _call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    )
    try:
        for folder in (*folders, *DEVICE_FOLDERS):
            _allow(ruleset, folder, rights)
        for device in _devices():
            _allow(ruleset, device, file_rights)
        _require(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _require(_call(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _devices() -> list[str]:
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = [e.name for e in os.scandir("/dev") if e.name.startswith(_DEVICE_PREFIXES)]
    return [*DEVICES, *(f"/dev/{name}" for name in names)]


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = _PathBeneath(allowed_access=rights, parent_fd=descriptor)
        _require(_call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    return int(_libc().syscall(number, *arguments))


def _require(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
