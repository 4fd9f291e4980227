"""What the kernel does to bound a handler's process: namespaces, rights, limits and system calls, by ctypes.

`os.unshare` is there from Python 3.12 on only, and mounting is in no Python. Each function changes the process that
calls it (which must have one thread), raises OSError where the kernel refuses, and is called in this order: in the
keeper `enter`, `raise_loopback`; in the first process inside `cover`, `give_up_rights`; in the handler's `limit`,
`no_new_privileges`, `no_kernel_keys`, `only_inner_sockets`.

What none of this keeps a handler from, with namespaces and without, is listed in docs/workers.md.

The flags and the layout of the filter are those of the man pages unshare(2), mount(2), mount_setattr(2), prctl(2),
capabilities(7) and seccomp(2); which files of /proc are made read-only is what the OCI runtimes do.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import socket
import stat
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

NEW_MOUNTS: Final = 0x0002_0000
NEW_IPC: Final = 0x0800_0000
NEW_USER: Final = 0x1000_0000
NEW_PIDS: Final = 0x2000_0000
NEW_NETWORK: Final = 0x4000_0000

_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC, _REMOUNT, _BIND = 1, 2, 4, 8, 32, 4096
_RECURSIVE, _PRIVATE = 0x4000, 1 << 18
_SETTLED: Final = _NO_SUID | _NO_DEVICES | _NO_EXEC
_MOUNT_SETATTR: Final = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

_PDEATHSIG, _SET_DUMPABLE, _CAPBSET_DROP, _SECUREBITS, _SECCOMP, _SUBREAPER, _NO_NEW_PRIVS = 1, 4, 24, 28, 22, 36, 38
_NO_ROOT_LOCKED: Final = 0b10_1111
"""NOROOT, NO_SETUID_FIXUP and KEEP_CAPS off, each locked: being user 0 inside gives no rights to what is executed."""
_CAPABILITY_VERSION: Final = 0x2008_0522
_KILL: Final = 9

_SYSTEM_CALLS: Final = {  # machine: (audit architecture, socket, socketpair, the first of three about keys)
    "x86_64": (0xC000_003E, 41, 53, 248),
    "aarch64": (0xC000_00B7, 198, 199, 217),
}
_IO_URING_SETUP: Final = 425
_X32: Final = 0x4000_0000
_LOAD, _EQUAL, _AT_LEAST, _GIVE = 0x20, 0x15, 0x35, 0x06
_ALLOW, _UNKNOWN = 0x7FFF_0000, 0x0005_0000 | errno.ENOSYS

_PROC_READ_ONLY: Final = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")


class Isolation(msgspec.Struct, frozen=True):
    """Whether handlers get namespaces of their own on this machine, and if not, why."""

    namespaces: bool
    why: str | None = None


_libc: ctypes.CDLL | None = None


def _call(name: str, *arguments: Any) -> int:
    global _libc  # noqa: PLW0603  # loaded where it is first needed: not every system has these functions
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _prctl(option: int, *values: Any) -> None:
    padded = [*values, *([0] * (4 - len(values)))]
    _call("prctl", option, *[ctypes.c_ulong(value) if isinstance(value, int) else value for value in padded])


def die_with_parent() -> None:
    """Be killed when the process (thread) that forked this one ends."""
    _prctl(_PDEATHSIG, _KILL)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none gets lost."""
    _prctl(_SUBREAPER, 1)


def go_first() -> None:
    """Be what the kernel ends when the machine's memory is used up, before the worker and its other processes."""
    with suppress(OSError):  # /proc may have had to be hidden
        Path("/proc/self/oom_score_adj").write_text("1000")


def let_be_inspected(allowed: bool) -> None:
    """Whether processes of the same user may trace this one or read its memory; inherited by fork."""
    _prctl(_SET_DUMPABLE, int(allowed))


def enter(*, network: bool) -> None:
    """Go into new user, mount and IPC namespaces, and a network of its own if asked; children get new process ids."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", NEW_USER | NEW_MOUNTS | NEW_IPC | NEW_PIDS | (NEW_NETWORK if network else 0))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def raise_loopback() -> None:
    """Bring up `lo`, the only interface of a new network namespace."""
    set_flags, up_and_running = 0x8914, 0x41
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, set_flags, struct.pack("16sh22x", b"lo", up_and_running))


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind, options)]
    try:
        _call("mount", words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({target})") from None


class Place(msgspec.Struct, frozen=True):
    """What is to be hidden: a path, and the folder by which it is known again, wherever that is moved to.

    ``folder`` is the path itself if it is a folder, else the one that holds it; ``device`` and ``inode`` are its own.
    """

    path: str
    folder: str
    device: int = 0
    inode: int = 0


def place(path: Path) -> Place:
    """A path as it is now, before any handler could move something else into its place."""
    where = path.resolve()
    folder = where if where.is_dir() else where.parent
    try:
        found = folder.stat()
    except FileNotFoundError:
        return Place(str(where), str(folder))
    return Place(str(where), str(folder), found.st_dev, found.st_ino)


def _folder(hidden: Place) -> int | None:
    """Its folder, opened; None if there was and is none. Raises OSError if another stands where it was."""
    try:
        folder = os.open(hidden.folder, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        if hidden.inode == 0:
            return None
        raise OSError(
            errno.ESTALE, f"`{hidden.folder}`, which is to be hidden, was moved; start the worker anew"
        ) from None
    found = os.fstat(folder)
    if hidden.inode != 0 and (found.st_dev, found.st_ino) != (hidden.device, hidden.inode):
        raise OSError(errno.ESTALE, f"`{hidden.folder}`, which is to be hidden, is another one; start the worker anew")
    return folder


def _blank(path: str) -> None:
    """Put an empty, read-only folder in the place of one, or an empty file in the place of a file."""
    try:
        kind = os.stat(path).st_mode  # noqa: PTH116  # follows links, as mount does
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        _mount("tmpfs", path, "tmpfs", _READ_ONLY | _SETTLED, "size=4k,mode=0555")
    else:
        _mount("/dev/null", path, None, _BIND)


def cover(hidden: Iterable[Place]) -> None:
    """Show the processes of this namespace only, nothing of ``hidden``, and the kernel's settings read-only."""
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    try:
        _mount("proc", "/proc", "proc", _SETTLED)
    except PermissionError:  # a container that masks parts of /proc: then there is none, which is less than some
        _blank("/proc")
    else:
        # Before it is read-only: no further user namespace, in which the kernel would show more of itself.
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        for path in _PROC_READ_ONLY:
            if os.path.exists(path):  # noqa: PTH110
                _mount(path, path, None, _BIND)
                _mount(None, path, None, _BIND | _REMOUNT | _READ_ONLY | _SETTLED)
    read_only = struct.pack("QQQQ", 1, 0, 0, 0)
    try:
        _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, b"/sys", _AT_RECURSIVE, read_only, len(read_only))
    except OSError:
        _blank("/sys")
    where = os.getcwd()  # noqa: PTH109  # the folder itself is still the uncovered one until it is looked up again
    # All are looked at before one is covered: a hidden folder may hold the next.
    for folder, each in [(_folder(each), each) for each in hidden]:
        if folder is not None:
            os.fchdir(folder)  # what is mounted on is what was looked at, whoever moves it meanwhile
            os.close(folder)
            _blank("." if each.folder == each.path else os.path.basename(each.path))  # noqa: PTH119
    os.chdir("/")
    try:
        os.chdir(where)
    except OSError:
        return


def give_up_rights() -> None:
    """Drop every capability in these namespaces for good, also for what is executed as user 0 of it."""
    for capability in range(64):
        try:
            _prctl(_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:  # beyond the last that this kernel knows
                raise
            break
    _prctl(_SECUREBITS, _NO_ROOT_LOCKED)
    _call("capset", struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24))


def no_new_privileges() -> None:
    """Whatever is executed gets no more rights by its file: no sudo, no file capabilities."""
    _prctl(_NO_NEW_PRIVS, 1)


def limit(processes_max: int | None) -> None:
    """No core dumps; at most so many processes of this user (counted per user namespace from Linux 5.14 on)."""
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))  # 0 would still let a program have them that core_pattern pipes to
    if processes_max is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        most = processes_max if hard == resource.RLIM_INFINITY else min(processes_max, hard)
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))


def _keys_filter(machine: str) -> bytes:
    """A BPF program: everything but `add_key`, `request_key` and `keyctl`, whose numbers follow each other."""
    architecture, *_, first = _SYSTEM_CALLS[machine]
    steps = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, 3, 0, _X32),
        (_AT_LEAST, 0, 1, first),
        (_AT_LEAST, 0, 1, first + 3),
        (_GIVE, 0, 0, _ALLOW),
        (_GIVE, 0, 0, _UNKNOWN),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _filter(machine: str) -> bytes:
    """A BPF program: of sockets only those that a network namespace holds back, and pairs of connected ones."""
    architecture, socket_call, pair_call, _ = _SYSTEM_CALLS[machine]
    load, equal, at_least, both, give = _LOAD, _EQUAL, _AT_LEAST, 0x54, _GIVE
    number, arch, first, second = 0, 4, 16, 24
    allow, refuse, unknown = _ALLOW, 0x0005_0000 | errno.EAFNOSUPPORT, _UNKNOWN
    steps = [
        (load, 0, 0, arch),
        (equal, 0, 16, architecture),  # another architecture's calls have other numbers: none of them
        (load, 0, 0, number),
        (at_least, 14, 0, _X32),
        (equal, 13, 0, _IO_URING_SETUP),  # it makes sockets without the call
        (equal, 2, 0, socket_call),
        (equal, 5, 0, pair_call),
        (give, 0, 0, allow),
        (load, 0, 0, first),
        (equal, 7, 0, int(socket.AF_INET)),
        (equal, 6, 0, int(socket.AF_INET6)),
        (equal, 5, 4, 16),  # netlink, by which libraries list interfaces
        (load, 0, 0, second),
        (both, 0, 0, 0xF),
        (equal, 2, 0, int(socket.SOCK_STREAM)),
        (equal, 1, 0, int(socket.SOCK_SEQPACKET)),  # a datagram socket of a pair can be sent to any path
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
        (give, 0, 0, unknown),
    ]
    # Jumps are relative; the three ends stand at 16 (refuse), 17 (allow) and 18 (unknown).
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _install(program: Callable[[str], bytes]) -> None:
    machine = platform.machine()
    if machine not in _SYSTEM_CALLS:
        raise OSError(errno.ENOSYS, f"no filter of system calls for `{machine}`")
    words = ctypes.create_string_buffer(program(machine))
    count = (len(words) - 1) // 8
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", count, ctypes.addressof(words)))
    _prctl(_SECCOMP, 2, ctypes.c_void_p(ctypes.addressof(header)))


def no_kernel_keys() -> None:
    """Refuse the kernel's keyrings: those of the worker's session are inherited, and no namespace hides them.

    Asking for a key can also make the kernel start a program outside that looks a name up (`dns_resolver`). Raises
    OSError on a machine whose system calls are not known here.
    """
    _install(_keys_filter)


def only_inner_sockets() -> None:
    """Refuse sockets that a network namespace does not hold back: Unix sockets by path, vsock and all the rare ones.

    Pairs of connected Unix sockets still work. Raises OSError on a machine whose system calls are not known here.
    """
    _install(_filter)
