"""Checks that no other user can change or replace a file.

The rule is that of OpenSSH for keys and authorized_keys (`StrictModes`): the file and every folder above it belong to
the user or to root, and no other user can write there. Folders with the sticky bit, such as /tmp, are accepted above
it, and so is write permission for a group whose only member is the user.
"""

from __future__ import annotations

import functools
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

OTHERS = stat.S_IWGRP | stat.S_IWOTH


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


def _on_the_way(path: Path) -> Iterator[str]:
    """`path` and the folders above it, as written and with links resolved."""
    seen = set()
    for start in (os.path.abspath(path), os.path.realpath(path)):  # noqa: PTH100  # Path.absolute keeps `..`
        for place in (start, *map(str, Path(start).parents)):
            if place not in seen:
                seen.add(place)
                yield place


def _why_unsafe(place: Path, status: os.stat_result) -> str | None:
    if sys.platform == "win32":
        return None
    me = os.geteuid()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        return None  # a pipe, such as a shell's <(...)
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
