"""How a command ends: exit codes with names, errors as messages, signals as requests to stop."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import typer

from ingestd.cli.output import STDOUT, complain
from ingestd.errors import IngestdError, Retry
from ingestd.words import closest

OK: Final = 0
NOT_ALL_WELL: Final = 1
"""Done, but something needs attention: rejected or failed files, damage, a waiting repair, histories that differ."""
COULD_NOT_RUN: Final = 2
INTERRUPTED: Final = 130
"""Ended by Ctrl-C (SIGINT)."""
OUTPUT_CLOSED: Final = 141
"""The reader of our output went away, as `| head` does."""
TERMINATED: Final = 143
"""Ended by SIGTERM."""

CommandLineError: Final[type[Exception]] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
"""What typer raises, and explains itself, for a wrong option or argument; it exports only the derived classes."""

_PANIC: Final = "PanicException"
"""What polars raises when its own code fails: not an `Exception`, and from a module that cannot be imported."""

_SIGNAL_CODES: Final = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
_SHOW_CURSOR: Final = "\r\x1b[2K\x1b[?25h"


@contextlib.contextmanager
def explained(*, debug: bool) -> Iterator[None]:
    """Turn an error of the block into a message on stderr and an exit code; with `debug` print the traceback too."""
    try:
        try:
            yield
        except typer.Exit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except (typer.Exit, typer.Abort):
        raise
    except CommandLineError as error:
        told: Any = error  # see `CommandLineError`
        told.message = in_house_words(told.message, _commands_beside(told)) + _folder_hint(told)
        raise
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except IngestdError as error:
        _traceback_if(debug)
        complain_of(error)
        raise typer.Exit(COULD_NOT_RUN) from None
    except OSError as error:  # from the disk, wherever it was raised: not our fault
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            forsake_output()
            raise typer.Exit(OUTPUT_CLOSED) from None
        from ingestd.files import retry_from  # noqa: PLC0415  # not for --help

        _traceback_if(debug)
        if isinstance(error.filename, int):  # a descriptor tells people nothing
            error.filename = None
        if error.filename == STDOUT:
            forsake_output()
        complain_of(retry_from(error, ""))
        raise typer.Exit(COULD_NOT_RUN) from None
    except BaseException as error:
        if not is_fault(error):
            raise
        _traceback_if(debug)
        complain(
            f"ingestd itself failed: {type(error).__name__}: {error}",
            place=_innermost(error),
            next_step="please report it to whoever maintains ingestd here, with the output of the same command run "
            "as `ingestd --debug ...`",
        )
        raise typer.Exit(COULD_NOT_RUN) from None


def is_fault(error: BaseException) -> bool:
    """Tell whether an error is a failure of code, ours or polars' own, and not a wish to end the process."""
    return isinstance(error, Exception) or type(error).__name__ == _PANIC


def _commands_beside(error: Any) -> list[str]:
    """List the commands of the group, such as `config`, in which typer refused a command line."""
    context = getattr(error, "ctx", None)
    return list(getattr(context.command, "commands", ())) if context and context.parent else []


def _folder_hint(error: Any) -> str:
    """Say how a folder is given where a command that works on a data root was given one without an option."""
    surplus = re.fullmatch(r"Got unexpected extra argument(s|\(s\))? \((?P<given>.*)\)", error.message, re.DOTALL)
    context = getattr(error, "ctx", None)
    if surplus is None or context is None:
        return ""
    from ingestd.files import is_dir  # noqa: PLC0415  # not for --help

    options = {name for parameter in context.command.params for name in parameter.opts}
    known = [f"{name} DIR" for name in ("--data-root", "--raw-root") if name in options]
    with contextlib.suppress(OSError, ValueError):  # it is out of reach, or no name of anything
        if known and is_dir(Path(surplus["given"])):
            return f"; a folder is given as {' or '.join(known)}"
    return ""


def in_house_words(message: str, commands: Sequence[str] = ()) -> str:
    """Say what is wrong with an option's value in the words of the settings, where typer's differ.

    For a command that is not, and resembles, none of its group's `commands`, list these.
    """
    if commands and re.fullmatch(r"No such command '.*'\.", message, re.DOTALL):
        return f"{message} The commands are {', '.join(map(repr, commands))}."
    for pattern, words in _TYPER_S_WORDS.items():
        message = re.sub(pattern, words, message)
    choice = re.fullmatch(r"'(?P<given>.*)' is none of (?P<known>'.*')", message, re.DOTALL)
    near = choice and closest(choice["given"], re.findall(r"'([^']*)'", choice["known"]))
    return f"{message}; did you mean {near[0]!r}?" if near else message


_TYPER_S_WORDS: Final = {
    r"^Value error, ": "",
    r"^'(.*)' is not one of (.*?)\.?$": r"'\1' is none of \2",
    r"^Input should be a valid integer.*|^'.*' is not a valid int(eger)?\.?(range\.)?$": "must be a whole number",
    r"^Input should be greater than or equal to (\S+)$": r"must be at least \1",
    r"^\S+ is not in the range x>=(\S+?)\.?$": r"must be at least \1",
}
"""What one typer version or another says about a value -> what ingestd says."""


def complain_of(error: IngestdError) -> None:
    """Print on stderr what went wrong and what to do; after a `Retry`, that includes running the command again."""
    step = error.next_step
    if isinstance(error, Retry):
        step = f"{step}; then run the same command again" if step else "run the same command again"
    complain(error.message, place=error.place, next_step=step)


def forsake_output() -> None:
    """Stop writing to a stdout that nobody reads or that takes nothing; what is buffered is dropped."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _nobody_reads() -> bool:
    """Tell whether the reader of stdout or stderr is gone, not that of another pipe or connection of ours."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # it has no descriptor, as under tests, or is closed
            poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _traceback_if(debug: bool) -> None:
    if debug:
        traceback.print_exc()


def _innermost(error: BaseException) -> str:
    """Name the innermost line of ingestd's own code in the traceback."""
    package = Path(__file__).parents[1]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(package)]
    if not ours:
        return ""
    return f"{Path(ours[-1].filename).relative_to(package.parent).as_posix()}:{ours[-1].lineno}"


class StopRequest:
    """Ctrl-C or SIGTERM as a request: the first is noted, for `asked`; the second ends the process at once.

    Ending at once is safe: what is decided is durable, and worker processes end when their parent is gone.
    """

    def __init__(self) -> None:
        self._signal: int | None = None

    def asked(self) -> bool:
        """Tell whether a stop was asked for."""
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """The exit code for the signal received; `OK` without one."""
        return _SIGNAL_CODES[signal.Signals(self._signal)] if self._signal is not None else OK

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the signals during the block."""
        before = {number: signal.signal(number, self._take) for number in _SIGNAL_CODES}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        # A handler may not use a stream that the interrupted code is writing to, so it writes to the descriptor.
        clear = _SHOW_CURSOR if os.isatty(2) else ""
        if self._signal is not None:
            _tell(f"{clear}stopped at once; run the same command again to continue\n")
            os._exit(_SIGNAL_CODES[signal.Signals(number)])
        self._signal = number
        _tell(f"{clear}stopping: finishing the current files, then histories and manifest (again: stop at once)\n")


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
