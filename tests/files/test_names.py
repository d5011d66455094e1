"""Names made of any text: readable, never a path, never the same for two texts."""

from __future__ import annotations

from hashlib import sha1

from hypothesis import example, given
from hypothesis import strategies as st

from ingestd.files import NAME_LIMIT, safe_name

ANY_TEXT = (
    st.text(max_size=30)
    | st.text(st.sampled_from("./\\%~ :con\0é💡\udcff"), max_size=8)
    | st.text(min_size=60, max_size=400)
)
HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "con",
    "CON.txt",
    "nul",
    "x.",
    "x ",
    " ",
    "%",
    "%2E",
    "a\0b",
    "a\nb",
    "~",
]


@given(ANY_TEXT)
@example("é" * 300)
@example("\udcff" * 300)
def test_a_safe_name_is_one_harmless_component(text: str) -> None:
    """Whatever the text: one component, not hidden, not `.` or `..`, no control or quote, within the byte limit."""
    name = safe_name(text)
    assert 0 < len(name.encode("utf-8")) <= NAME_LIMIT
    assert not set(name) & set("/\\\0:*?\"'<>|$`\n\r\t;&")
    assert name[0] != "."
    assert name[-1] not in ". "
    assert name.isprintable()
    assert name.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}


@given(st.lists(ANY_TEXT | st.sampled_from(HOSTILE), unique=True, min_size=2, max_size=8))
@example(HOSTILE)
@example(["x" * 300, "x" * 301, "x" * 299 + "y"])
@example(["con", "%63on", "%2563on"])
def test_different_texts_have_different_names(texts: list[str]) -> None:
    """No two texts share a name, whether encoded or cut."""
    assert len(set(map(safe_name, texts))) == len(texts)


@given(st.text(max_size=40))
def test_a_name_is_the_same_every_time(text: str) -> None:
    """The same text always gives the same name."""
    assert safe_name(text) == safe_name(text)


def test_ordinary_names_stay_as_they_are() -> None:
    """Names as measurement programs make them are not changed."""
    for text in ("It2025-09-23_19.csv", "Alisson67", "día 3 (frío), λ=850", "a+b=c@d"):
        assert safe_name(text) == text


def test_what_is_encoded_can_be_read() -> None:
    """An encoded character is its UTF-8 in percent notation."""
    assert safe_name("a/b") == "a%2Fb"
    assert safe_name("..") == "%2E%2E"
    assert safe_name("con") == "%63on"
    assert safe_name(".git") == "%2Egit"
    assert safe_name("") == "%"


def test_a_long_name_keeps_as_much_as_fits() -> None:
    """The end of it gives way to 16 digits of the text's SHA-1."""
    text = "x" * (NAME_LIMIT + 1)
    digest = sha1(text.encode(), usedforsecurity=False).hexdigest()[:16]
    assert safe_name(text[1:]) == text[1:]
    assert safe_name(text) == text[: NAME_LIMIT - 17] + "~" + digest
