"""What becomes of errors that reach the top of a command, and of typer's words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
import typer

from ingestd.cli.exits import COULD_NOT_RUN, OUTPUT_CLOSED, explained, in_house_words


def ended(error: BaseException) -> int:
    """Return the exit code of a command that ends with an error."""
    with pytest.raises(typer.Exit) as caught, explained(debug=False):
        raise error
    return caught.value.exit_code


@pytest.mark.parametrize(
    ("error", "place", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/lab/a b"), "/lab/a b: ", "`ls -ld /` shows who"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/lab/x"), "/lab/x: ", "shorten its names"),
        (OSError(errno.ENOSPC, "No space left on device"), "", "free some space on that disk"),
        (OSError(errno.EIO, "Input/output error", 7), "", "look at `dmesg`"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "", "check that the disk"),
    ],
)
def test_an_error_of_the_disk_is_told_as_one(
    error: OSError, place: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever a command meets it, what the system refuses is no failure of ingestd; nor is a pipe's end silent."""
    assert ended(error) == COULD_NOT_RUN
    said = capsys.readouterr().err
    assert said.startswith(f"error: {place}{error.strerror}\n  next: ")
    assert words in said
    assert said.endswith("; then run the same command again\n")


def test_a_fault_of_ingestd_is_told_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Any other exception asks for a report."""
    assert ended(KeyError("x")) == COULD_NOT_RUN
    assert ": ingestd itself failed: KeyError: 'x'\n  next: please report it" in capsys.readouterr().err


def test_a_fault_of_polars_own_is_told_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    """What its Rust code raises where it fails is no `Exception`; the report it asks for is the same."""
    assert ended(pl.exceptions.PanicException("could not spawn threads")) == COULD_NOT_RUN
    assert "ingestd itself failed: PanicException: could not spawn threads\n  next: please" in capsys.readouterr().err


@contextmanager
def stdout_without_reader() -> Iterator[None]:
    """Put a pipe that nobody reads in stdout's place."""
    kept = os.dup(1)
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.close(writer)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def test_only_a_reader_that_is_gone_ends_a_command_silently(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With stdout's reader gone a broken pipe is the wish of whoever closed it."""
    with (tmp_path / "said").open("w") as said:
        monkeypatch.setattr("sys.stdout", os.fdopen(1, "w", closefd=False))
        monkeypatch.setattr("sys.stderr", said)
        with stdout_without_reader():
            assert ended(BrokenPipeError(errno.EPIPE, "Broken pipe")) == OUTPUT_CLOSED
    assert (tmp_path / "said").read_text() == ""


@pytest.mark.parametrize(
    ("typer_s", "ours"),
    [
        ("Input should be a valid integer, unable to parse string as an integer", "must be a whole number"),
        ("'x' is not a valid integer.", "must be a whole number"),
        ("Input should be greater than or equal to 0", "must be at least 0"),
        ("-3 is not in the range x>=0.", "must be at least 0"),
        ("'warn' is not one of 'info', 'warning'.", "'warn' is none of 'info', 'warning'; did you mean 'warning'?"),
        ("Value error, 'zzz' is not one of 'info', 'warning'.", "'zzz' is none of 'info', 'warning'"),
        ("No such option: --foo", "No such option: --foo"),
    ],
)
def test_a_value_is_refused_in_the_house_s_words(typer_s: str, ours: str) -> None:
    """An option's wrong value is told as a setting's, and a choice that was nearly meant is named."""
    assert in_house_words(typer_s) == ours


@pytest.mark.parametrize("said", ["No such command 'chek'.", "No such command 'a\nb'."])
def test_what_is_no_command_of_a_group_is_told_with_those_that_are(said: str) -> None:
    """They are few; a nearly meant one, and what is wrong with an option, needs no list."""
    assert in_house_words(said, ["show", "validate"]) == f"{said} The commands are 'show', 'validate'."
    for other in ("No such command 'shwo'. Did you mean 'show'?", "No such option: --foo"):
        assert in_house_words(other, ["show", "validate"]) == other
