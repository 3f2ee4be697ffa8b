"""Reads files that hold keys or settings, and checks that no other user can change, replace or read them.

The rule is that of OpenSSH for keys and authorized_keys (`StrictModes`): the file and every folder above it belong to
the user or to root, and no other user can write there. Folders with the sticky bit, such as /tmp, are accepted above
it, and so is write permission for a group whose only member is the user.

A file with a secret may not be readable by others either; secrets that a container's runtime mounts are the exception.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Unfit(Exception):
    """A file that cannot be read, or is none. Its text follows the file's name in a sentence."""


def read_file(path: Path, most: int) -> bytes:
    """The content of the regular file `path`; never blocks. Raises Unfit, also if it has more than `most` bytes."""
    try:
        # A pipe without a writer would be waited for, and to open some devices does something.
        if (kind := _no_regular_file(path.stat().st_mode)) is not None:
            raise Unfit(f"cannot be read: it is {kind}, and no regular file")
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:  # noqa: PTH123
            if (kind := _no_regular_file(os.fstat(file.fileno()).st_mode)) is not None:
                raise Unfit(f"cannot be read: it is {kind}, and no regular file")
            data = file.read(most + 1)
    except OSError as error:
        raise Unfit(f"cannot be read: {error.strerror or errno.errorcode.get(error.errno or 0, 'an error')}") from None
    if len(data) > most:
        raise Unfit(f"is larger than {most} bytes; is it the right file?")
    return data


def _no_regular_file(mode: int) -> str | None:
    for is_such, kind in _KINDS:
        if is_such(mode):
            return kind
    return None


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def objection(path: Path) -> str | None:
    """A sentence that says why `path` cannot be trusted and what to do; None: it can. It need not exist."""
    if sys.platform == "win32":
        return None
    for place in _on_the_way(path):
        try:
            status = os.lstat(place)
        except OSError:
            continue  # will be created by us; otherwise opening it reports the error
        why = _why_unsafe(Path(place), status)
        if why is not None:
            return why
    return None


def folder_objection(path: Path) -> str | None:
    """Like `objection`, for a folder to write into: nobody else may make files there, not even with the sticky bit."""
    if sys.platform == "win32":
        return None
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0
    if stat.S_ISDIR(mode) and mode & stat.S_ISVTX and mode & OTHERS:
        return f"other users of this machine can make files in {path}. Name a folder of your own in it, such as x402"
    return objection(path)


def exposure(path: Path) -> str | None:
    """Who else can read the secret in the file `path`, and what to do about it, in a sentence; None: nobody.

    As for OpenSSH's private keys. What root has put where secrets are mounted is the container's own.
    """
    if sys.platform == "win32":
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    is_mine = status.st_uid == os.geteuid()
    if not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO if is_mine else stat.S_IRWXO):
        return None
    if status.st_uid == 0 and _is_mounted_secret(path):
        return None
    if is_mine:
        return f"other users of this machine can read it. Run: chmod 600 {path}"
    return f"other users of this machine can read it. Run as {_user(status.st_uid)}: chmod o= {path}"


def _is_mounted_secret(path: Path) -> bool:
    """Whether it is below a folder where container runtimes (Docker, Podman, Kubernetes) and systemd mount secrets."""
    real = Path(os.path.realpath(path))
    places = ("/run/secrets", "/var/run/secrets", os.environ.get("CREDENTIALS_DIRECTORY", ""))
    return any(real.is_relative_to(os.path.realpath(place)) for place in places if place)


def _on_the_way(path: Path) -> Iterator[str]:
    """`path` and the folders above it, as written, behind each link, and with all links resolved."""
    starts = [os.path.abspath(path), os.path.realpath(path)]  # noqa: PTH100  # Path.absolute keeps `..`
    seen = set()
    for start in starts:  # which grows meanwhile
        for place in (start, *map(str, Path(start).parents)):
            if place not in seen:
                seen.add(place)
                yield place
                with contextlib.suppress(OSError):  # no link
                    target = Path(place).parent / Path(place).readlink()
                    starts.append(os.path.normpath(target))


def _why_unsafe(place: Path, status: os.stat_result) -> str | None:
    if sys.platform == "win32":
        return None
    me = os.geteuid()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        return None  # reading it reports the error
    if status.st_uid not in (0, me):
        return (
            f"{place} belongs to another user ({_user(status.st_uid)}), who can change what is there. Run as that "
            f"user, or: chown {_user(me)} {place}"
        )
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)) or not status.st_mode & OTHERS:
        return None
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return None
    if not status.st_mode & stat.S_IWOTH and _is_own_group(status.st_gid, status.st_uid):
        return None
    return f"{place} can be changed by other users of this machine. Run: chmod go-w {place}"


def _user(uid: int) -> str:
    import pwd  # noqa: PLC0415  # not on Windows

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@functools.lru_cache(maxsize=64)
def _is_own_group(gid: int, uid: int) -> bool:
    """Whether the user is the only member of the group, as with user private groups."""
    import grp  # noqa: PLC0415  # not on Windows
    import pwd  # noqa: PLC0415

    try:
        name = pwd.getpwuid(uid).pw_name
        members = set(grp.getgrgid(gid).gr_mem)
        members |= {entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == gid}
    except KeyError:
        return False
    return members == {name}
