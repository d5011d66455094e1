"""A real service on a data root of its own: `from running import Service`."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measurement import Measurement
from waiting import LIMIT_S, wait_until

from ingestd.histories.chip import read_history
from ingestd.manifest.row import MANIFEST_ROWS, ManifestRow
from ingestd.manifest.table import read_manifest
from ingestd.manifest.view import read_view
from ingestd.service.status import read_status
from ingestd.service.status_report import StatusReport
from ingestd.settings import load_settings
from ingestd.upkeep.verify import verify

_numbers = itertools.count()


def run_of(n: int, rows: int = 2) -> bytes:
    """Make a small run with a start time of its own, on one of five chips."""
    return Measurement(start=1758632155.25 + 60 * n, chip=60 + n % 5, sample=n, rows=rows).data


def put(folder: Path, first: int, count: int) -> set[str]:
    """Write runs into a folder; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(first, first + count):
        (folder / f"It_{n}.csv").write_bytes(run_of(n))
    return {f"It_{n}.csv" for n in range(first, first + count)}


class Service:
    """`ingestd run` on `<root>/data`, as a process of its own; `sections` are settings that differ from the defaults.

    As a context manager it starts, and whatever is still alive at the end is killed; what it logged is printed, so that
    a failed test shows it.
    """

    def __init__(self, root: Path, *, limit_s: float = LIMIT_S, **sections: dict[str, Any]) -> None:
        self.root = root
        self.data = root / "data"
        self.raw = self.data / "01_raw"
        self.raw.mkdir(parents=True, exist_ok=True)
        self.config = root / "config.toml"
        self.config.write_text(_toml({"paths": {"data_root": str(self.data)}, **sections}), "utf-8")
        self.settings = load_settings(self.config)
        self.layout = self.settings.layout
        self.limit_s = limit_s
        self.process: subprocess.Popen[bytes] | None = None
        self.words: list[str] = []
        self._errors = root / "stderr.txt"
        self._socket: socket.socket | None = None

    def __enter__(self) -> Service:
        """Start it and wait until it is up, unless it was started."""
        return self.start() if self.process is None else self

    def __exit__(self, *_: object) -> None:
        """End it, however it is."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        if self._socket is not None:
            self._socket.close()
        print("\n".join(line[:300] for line in self._errors.read_text("utf-8", "replace").splitlines()[-40:]))

    # ---- its life ---------------------------------------------------------------------------------------------------

    def start(
        self, *, ready: bool = True, prefix: tuple[str, ...] = (), environment: dict[str, str] | None = None
    ) -> Service:
        """Start a process; `prefix` is what runs it (say, `setpriv ...`). Wait for READY unless told otherwise."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self.address = f"@ingestd-test-{os.getpid()}-{next(_numbers)}"
            self._socket.bind("\0" + self.address[1:])
        self.heard()
        self.words.clear()
        command = [*prefix, sys.executable, "-m", "ingestd", "run", "--config", str(self.config)]
        repository = str(Path(__file__).resolve().parents[2])
        given = {**os.environ, "NOTIFY_SOCKET": self.address, "PYTHONPATH": repository, **(environment or {})}
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command, cwd=self.root, env=given, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
            )
        if ready:
            try:
                self.until(lambda: "READY=1" in self.heard(), "the service is ready")
            except BaseException:
                self.__exit__()
                raise
        return self

    @property
    def pid(self) -> int:
        """The process."""
        assert self.process is not None
        return self.process.pid

    def watches(self) -> int:
        """Count the folders that the kernel watches for it."""
        count = 0
        for number in Path(f"/proc/{self.pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += number.read_text().count("inotify wd:")
        return count

    def heard(self) -> list[str]:
        """Return every NAME=value that systemd was told since the start, in order."""
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                self.words += self._socket.recv(8192).decode().split("\n")
        return self.words

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def ended(self, limit_s: float | None = None) -> int:
        """Wait for the process to end; return its exit code."""
        assert self.process is not None
        return self.process.wait(limit_s or self.limit_s)

    def stop(self) -> int:
        """Ask it to stop as systemd does; return its exit code."""
        self.send(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """Kill it: no handler runs."""
        self.send(signal.SIGKILL)
        self.ended()

    def until(self, fact: Callable[[], object], what: str, limit_s: float | None = None) -> None:
        """Wait until something holds, as long as the service lives."""

        def alive_and_fact() -> bool:
            if fact():
                return True
            assert self.process is not None
            assert self.process.poll() is None, f"the service ended with {self.process.returncode} before: {what}"
            return False

        wait_until(alive_and_fact, what, limit_s or self.limit_s)

    # ---- what others see --------------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another `ingestd` command on the same data root."""
        return subprocess.run(
            [sys.executable, "-m", "ingestd", *arguments, "--config", str(self.config)],
            check=False,
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=self.limit_s,
        )

    def status(self) -> StatusReport:
        """Look as `ingestd status` does."""
        return read_status(self.settings, datetime.now(UTC))

    def waiting(self) -> dict[str, str]:
        """Return the state of every file that is not decided, as `ingestd status` tells it."""
        return {file.source_file: file.state for file in self.status().waiting}

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the log's lines since the first start, or those of one event."""
        found = [json.loads(line) for line in self._errors.read_text("utf-8").splitlines() if line.startswith("{")]
        return [line for line in found if event in {None, line["event"]}]

    def rows(self) -> list[ManifestRow]:
        """Return every row that readers see, superseded ones too."""
        return MANIFEST_ROWS.validate_python(read_view(self.layout).to_dicts())

    def live(self) -> dict[str, ManifestRow]:
        """Return the live rows by source file; two of one file are a failure."""
        found = [row for row in self.rows() if row.live]
        by_file = {row.source_file: row for row in found}
        assert len(by_file) == len(found), "a file has two live rows"
        return by_file

    def live_names(self) -> set[str]:
        """Return the source files of the live rows."""
        view = read_view(self.layout)
        return set(view.filter(view["superseded_by"].is_null())["source_file"])

    def compacted(self) -> set[str]:
        """Return the source files of the live rows in `manifest.parquet` alone."""
        table = read_manifest(self.layout.manifest_path)
        return set(table.filter(table["superseded_by"].is_null())["source_file"])

    def history(self, chip: str) -> list[str]:
        """Return the source files in a chip's history, in order."""
        path = self.layout.history_file(chip)
        return read_history(path)["source_file"].to_list() if path.exists() else []

    def check_whole(self, *, deep: bool = True, notes: tuple[str, ...] = ()) -> None:
        """Check with `verify` that raw files, stage, manifest and histories agree; nothing but `notes` is told of."""
        found = [finding for finding in verify(self.settings, deep=deep).findings if finding.level == "damage"]
        told = {finding.kind for finding in verify(self.settings).findings if finding.level == "note"}
        assert (found, told) == ([], set(notes))

    def in_hand(self) -> int:
        """Count the file descriptors the service has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


def _toml(sections: dict[str, dict[str, Any]]) -> str:
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)
