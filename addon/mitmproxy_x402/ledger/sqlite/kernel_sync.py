"""Syncs a file in the background by Linux's own asynchronous I/O (io_submit(2), `IOCB_CMD_FDSYNC`, Linux 4.18).

A thread that calls fdatasync needs Python's global lock before and after each sync. Against an event loop that is busy
that takes longer than a fast disk, and slows the loop down. The kernel needs no lock, and reports the end of a sync
through an event file descriptor.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys

_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""System calls by processor: io_setup, io_destroy, io_getevents, io_submit."""
_IOCB = struct.Struct("=QIiHhIQQqQII")
"""`struct iocb` of <linux/aio_abi.h>, as little-endian processors have it."""
_EVENT = struct.Struct("=QQqq")
"""`struct io_event`; the third number is the result, 0 or a negated error number."""
_FDSYNC = 3
_RESFD = 1
"""IOCB_FLAG_RESFD: report the end through the file descriptor in the last field."""
_PROBE_SECONDS = 5


class KernelSync:
    """Syncs one file, one sync at a time. Raises OSError where the kernel cannot, or must not for this process."""

    def __init__(self, file: int) -> None:
        numbers = _NUMBERS.get(platform.machine())
        if sys.platform != "linux" or not hasattr(os, "eventfd") or numbers is None or struct.calcsize("P") != 8:
            raise OSError(errno.ENOSYS, "io_submit is not known here")
        self._setup, self._destroy, self._getevents, self._submit = map(ctypes.c_long, numbers)
        # PyDLL keeps Python's lock, which is right because no call blocks but the probe.
        self._call = ctypes.PyDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when a sync has ended."""
        self._request = ctypes.create_string_buffer(_IOCB.pack(0, 0, 0, _FDSYNC, 0, file, 0, 0, 0, 0, _RESFD, self.fd))
        self._one = ctypes.c_long(1)
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        self._event = ctypes.create_string_buffer(_EVENT.size)
        self._no_time = ctypes.create_string_buffer(struct.pack("=qq", 0, 0))
        try:
            self._checked(self._call(self._setup, ctypes.c_long(1), ctypes.byref(self._context)))
            self.begin()
            self._take_result(ctypes.create_string_buffer(struct.pack("=qq", _PROBE_SECONDS, 0)))
            os.eventfd_read(self.fd)
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Begin to sync everything written so far. Raises OSError."""
        self._checked(self._call(self._submit, self._context, self._one, self._requests))

    def ended(self) -> bool:
        """Whether the sync that was begun has ended; does not block. Raises OSError if it failed."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return False
        self._take_result(self._no_time)
        return True

    def _take_result(self, timeout: ctypes.Array[ctypes.c_char]) -> None:
        one = self._one
        if self._checked(self._call(self._getevents, self._context, one, one, self._event, timeout)) != 1:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        result = _EVENT.unpack_from(self._event)[2]
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    def close(self) -> None:
        """Wait for a sync that is running, and free what it needs."""
        if self._context.value:
            self._call(self._destroy, self._context)
            self._context.value = 0
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = -1
