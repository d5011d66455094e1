"""One path component out of any text; the path that people mean by a `~`."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

_UNSAFE = re.compile(r"[^\w.+@=,()\- ]")
_RESERVED = re.compile(r"(?i)^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")
NAME_LIMIT = 200
"""Longest component ingestd makes, in UTF-8 bytes: room is left for a suffix below the 255 of Linux file systems."""


@lru_cache(maxsize=4096)
def safe_name(text: str) -> str:
    """Make one path component out of any text, readable where possible and never ambiguous with a path.

    Letters and digits of any script, space and `_.+@=,()-` stay; everything else is percent-encoded as UTF-8, and so
    are a leading dot, names reserved by Windows, and a trailing dot or space. A name of more than `NAME_LIMIT`
    bytes is cut, and 16 hex digits of the text's SHA-1 are appended. Different texts give different names.
    """
    name = _UNSAFE.sub(_percent, text)
    if not name or name[0] == "." or _RESERVED.match(name):
        name = _percent_all(name[:1]) + name[1:]
    if name[-1:] in {".", " "}:
        name = name[:-1] + _percent_all(name[-1])
    raw = name.encode("utf-8")
    if len(raw) <= NAME_LIMIT:
        return name
    digest = hashlib.sha1(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()[:16]
    return raw[: NAME_LIMIT - 17].decode("utf-8", "ignore") + "~" + digest


def _percent(match: re.Match[str]) -> str:
    return _percent_all(match.group())


def _percent_all(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass")) or "%"


def in_full(path: str | Path) -> Path:
    """Return a path as people mean it: with the home folder for `~` or `~user`; what names no home folder stays."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser fails where there is no such user
