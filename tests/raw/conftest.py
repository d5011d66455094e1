"""What the tests of raw files share: the packaged procedures, and a writer that writes as PyMeasure does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from ingestd.raw.procedures import Registry


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The packaged procedures."""
    return Registry.load()


@pytest.fixture(scope="session")
def write_raw() -> Callable[..., bytes]:
    """Return a function that makes a raw file's bytes as PyMeasure writes them."""

    def write(
        columns: Sequence[str] = ("Vg (V)", "I (A)"),
        rows: Sequence[Sequence[str]] = (),
        *,
        procedure: str = "laser_setup.procedures.IVg.IVg",
        parameters: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        end: str = "\n",
    ) -> bytes:
        lines = [f"#Procedure: <{procedure}>", "#Parameters:"]
        lines += [f"#\t{name}: {_escaped(value)}" for name, value in (parameters or {}).items()]
        if metadata is not None:
            lines += ["#Metadata:", *(f"#\t{name}: {_escaped(value)}" for name, value in metadata.items())]
        lines += ["#Data:", ",".join(columns), *(",".join(row) for row in rows)]
        return "".join(line + end for line in lines).encode("utf-8")

    return write


def _escaped(value: str) -> str:
    return value.encode("unicode_escape").decode("ascii")
