"""Every change a process makes to the disk, told one by one before it happens: what kills, faults and cuts hang on."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ingestd.files.durable as durable

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

Told = Callable[[str, tuple[Any, ...]], None]
"""Called before a change with its name and what it is about; may end the process or raise."""


class Hooks:
    """Tells `on` of every change of the disk that Python code makes, from `install` on, for the life of the process.

    `write` is told twice: before the first byte, and as `write, half` when half of the bytes are there.
    """

    NAMES = ("fsync", "fdatasync", "ftruncate", "replace", "rename", "mkdir", "unlink", "remove", "rmdir", "link")

    def __init__(self, root: Path, on: Told) -> None:
        self._root = os.fspath(root)
        self._on = on
        self._busy = False

    def install(self) -> None:
        """Put the hooks in place."""
        for name in self.NAMES:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        os.pwrite = self._halved(os.pwrite)
        durable._syncfs = self._wrapped("syncfs", durable._syncfs or _no_syncfs)
        Path.write_bytes = self._in_halves(Path.write_bytes)  # type: ignore[assignment,method-assign]  # it is a hook
        sys.addaudithook(self._audit)

    def _tell(self, name: str, *about: Any) -> None:
        if not self._busy:
            self._busy = True
            try:
                self._on(name, about)
            finally:
                self._busy = False

    def _audit(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open" and given[2] & WRITING and isinstance(given[0], str | bytes | os.PathLike):
            path = os.fsdecode(given[0])
            if path.startswith(self._root):
                self._tell("open", path)

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def told(*given: Any, **named: Any) -> Any:
            self._tell(name, *given)
            return function(*given, **named)

        return told

    def _halved(self, pwrite: Callable[[int, Any, int], int]) -> Callable[[int, Any, int], int]:
        def told(descriptor: int, data: Any, offset: int) -> int:
            self._tell("write", descriptor)
            half = len(data) // 2
            pwrite(descriptor, data[:half], offset)
            self._tell("write, half", descriptor)
            return half + pwrite(descriptor, data[half:], offset + half)

        return told

    def _in_halves(self, write: Callable[[Path, Any], int]) -> Callable[[Path, Any], int]:
        def told(path: Path, data: Any) -> int:
            self._tell("write", path)
            write(path, memoryview(data)[: len(data) // 2])
            self._tell("write, half", path)
            return write(path, data)

        return told


def _no_syncfs(_: int) -> int:
    os.sync()
    ctypes.set_errno(0)
    return 0
