"""The header as the manifest keeps it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.raw.header import parse_header
from ingestd.raw.header_json import header_json, read_header_json

PLAIN = parse_header(b"#Procedure: <lab.It>\n#Data:\na,b\n")
HEADER_TEXTS = st.dictionaries(
    st.text(st.characters(), max_size=8), st.text(st.characters() | st.just("\ud800"), max_size=8)
)


@given(parameters=HEADER_TEXTS, metadata=HEADER_TEXTS)
def test_the_headers_json_is_one_line_of_utf8(parameters: dict[str, str], metadata: dict[str, str]) -> None:
    """Whatever a header holds, lone surrogates too, its JSON is one line, encodes, and reads back in written order."""
    text = header_json(replace(PLAIN, parameters=parameters, metadata=metadata))
    assert "\n" not in text
    assert text.encode("utf-8")
    assert json.loads(text) == {"procedure": "lab.It", "parameters": parameters, "metadata": metadata}
    kept = read_header_json(text)
    assert [*kept.parameters.items(), *kept.metadata.items()] == [*parameters.items(), *metadata.items()]


def test_the_headers_json_stays_readable() -> None:
    """Letters beyond ASCII are kept as letters."""
    assert '"λ": "Ångström"' in header_json(replace(PLAIN, parameters={"λ": "Ångström"}))


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"parameters": 3}', "[" * 100_000])
def test_what_is_no_header_is_refused(text: str) -> None:
    """A cell of another form is a ValueError, and nothing else."""
    with pytest.raises(ValueError, match=r"."):
        read_header_json(text)
