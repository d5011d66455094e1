"""A header as the manifest's column `parameters` keeps it: one line of JSON, written and read only here.

`{"procedure": class, "parameters": {name: text, ...}, "metadata": {name: text, ...}}`, texts as in the raw file.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple

from ingestd.raw.header import START_TIME_LABEL, Header, start_text

EPOCH_START: Final = rf'(?i)[{{,]\s*"{START_TIME_LABEL}"\s*:\s*"([0-9]+(?:\.[0-9]+)?)"'
"""Regular expression for a start time given as a number in such a line; for whole columns of them."""

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class KeptHeader(NamedTuple):
    """What the manifest keeps of a header: names and texts, in the header's order."""

    parameters: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def start_text(self) -> str | None:
        """The start time as written; None if there is none."""
        return start_text(self.parameters, self.metadata)


def header_json(header: Header) -> str:
    """Return the manifest's `parameters`: one line of JSON with the class, parameters and metadata as written.

    Order is the header's. Valid UTF-8 whatever the header holds: a lone surrogate becomes a JSON escape.
    """
    content = {
        "procedure": header.procedure_class,
        "parameters": dict(header.parameters),
        "metadata": dict(header.metadata),
    }
    text = json.dumps(content, ensure_ascii=False)
    return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def read_header_json(text: str) -> KeptHeader:
    """Read what `header_json` wrote.

    Raises:
        ValueError: it is not JSON of that form.
    """
    try:
        content = json.loads(text)
        return KeptHeader(dict(content.get("parameters") or {}), dict(content.get("metadata") or {}))
    except (TypeError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from error
