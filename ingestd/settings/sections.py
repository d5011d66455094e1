"""The tables of the config file: every setting with its type, default, limits and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ingestd.words import closest

_NAMELESS: Final = frozenset({"localtime", "posixrules", "Factory"})
"""Files beside the system's time zones that name none. Python takes them for zones, and what is in the folders `posix`
and `right`; polars, which makes the histories, does not.
"""


def _time_zone(name: str) -> str:
    plain = name.removeprefix("posix/").removeprefix("right/")
    try:
        ZoneInfo(plain)
    except (OSError, ValueError, KeyError):
        near = closest(plain, available_timezones() - _NAMELESS)
        hint = f"did you mean {near[0]!r}?" if near else "take one like America/Santiago or Europe/Berlin"
        raise ValueError(f"no such time zone; {hint}") from None
    if plain in _NAMELESS:
        raise ValueError("stands for a time zone, but names none; take one like America/Santiago or Europe/Berlin")
    if plain != name:
        raise ValueError(f"no such time zone; did you mean {plain!r}?")
    return name


def _within_reach(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot have a NUL character")
    try:
        path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path.parts[0]} is not a user's home folder; write the path in full") from None
    return path


def _named(value: object) -> object:
    if value == "":
        raise ValueError('an empty text names no path; the current folder is "."')
    return value


Place = Annotated[Path, BeforeValidator(_named), AfterValidator(_within_reach)]
"""A path of the config file or the command line; `~` and `~user` are home folders."""


class Section(BaseModel):
    """One table of the config file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `true` where a number is meant: `events.keep_days = true` would be taken for one day."""
        if isinstance(value, bool):
            wanted = str(cls.model_fields[info.field_name or ""].annotation)
            if "int" in wanted:
                raise PydanticCustomError("int_type", "not a whole number")
            if "float" in wanted:
                raise PydanticCustomError("float_type", "not a number")
        return value


class Paths(Section):
    """Where things are. All paths but `data_root` follow from it unless set."""

    data_root: Annotated[
        Place, Field(description="The folder that holds 01_raw, 02_stage, histories and metadata.")
    ] = Path("data")
    raw_root: Annotated[
        Place | None,
        Field(description="The instrument program's CSVs; never written to. `data_root`/01_raw unless set."),
    ] = None
    stage_root: Annotated[
        Place | None, Field(description="Staged Parquet, rejects and manifest. `data_root`/02_stage unless set.")
    ] = None
    manifest_path: Annotated[
        Place | None,
        Field(description="The table of all runs. `stage_root`/_manifest/manifest.parquet unless set."),
    ] = None
    wal_dir: Annotated[
        Place | None, Field(description="The write-ahead log. `wal` beside the manifest unless set.")
    ] = None
    events_dir: Annotated[
        Place | None, Field(description="One JSON per decision. `events` beside the manifest unless set.")
    ] = None
    rejects_dir: Annotated[
        Place | None, Field(description="One JSON per rejected file. `stage_root`/_rejects unless set.")
    ] = None
    histories_dir: Annotated[Place | None, Field(description="One CSV per chip. `data_root`/histories unless set.")] = (
        None
    )
    metadata_dir: Annotated[
        Place | None, Field(description="Exports of header parameters per day. `data_root`/metadata unless set.")
    ] = None


class Time(Section):
    """How local times are interpreted."""

    local_tz: Annotated[
        str,
        AfterValidator(_time_zone),
        Field(
            description="Time zone of dates, histories and start times without a zone. The machine's zone is ignored."
        ),
    ] = "America/Santiago"


class Settle(Section):
    """When a run counts as over."""

    settle_s: Annotated[
        float,
        Field(ge=0, le=3600, description="Seconds a file that nobody has open for writing must stay unchanged."),
    ] = 0.5
    quiet_s: Annotated[
        float,
        Field(
            ge=0,
            le=86400,
            description="Seconds without a change after which a file counts as no longer being written, where ingestd "
            "cannot see who has it open (network shares, files of another user); and after which an incomplete last "
            "line is left out.",
        ),
    ] = 30.0
    writers_visible: Annotated[
        bool,
        Field(
            description="Whether ingestd can see the processes that write raw files. Set it to false if measurements "
            "come over a Samba or NFS export of this machine, or from outside ingestd's container; then `quiet_s` "
            "applies."
        ),
    ] = True


class Stage(Section):
    """How raw files become Parquet."""

    engine: Annotated[
        Literal["processes", "dask"],
        Field(
            description="Where a backfill stages: in its own processes or on an existing Dask cluster "
            "(`ingestd[dask]`)."
        ),
    ] = "processes"
    scheduler: Annotated[
        str, Field(description="Address of the Dask scheduler, such as tcp://nas:8786; only for the `dask` engine.")
    ] = ""
    workers: Annotated[
        int | None,
        Field(ge=1, le=64, description="Processes that stage in parallel. The CPUs at hand, at most 6, unless set."),
    ] = None
    polars_threads: Annotated[
        int, Field(ge=1, le=64, description="Threads each worker process may use (POLARS_MAX_THREADS).")
    ] = 1
    batch_files: Annotated[
        int,
        Field(
            ge=1,
            le=4096,
            description="Maximum number of files committed together, with one flush of the disk and one of the log.",
        ),
    ] = 64
    batch_mib: Annotated[
        float, Field(gt=0, le=4096, description="Maximum MiB of raw files in one batch; bounds a worker's memory.")
    ] = 16.0
    max_file_mib: Annotated[
        float,
        Field(gt=0, le=1024, description="Maximum MiB of a raw file; a larger one is rejected without being parsed."),
    ] = 512.0


class Manifest(Section):
    """The manifest and its log."""

    lock_timeout_s: Annotated[
        float,
        Field(
            gt=0, le=86400, description="Seconds to wait for another ingestd process to finish an append or compaction."
        ),
    ] = 60.0


class Watch(Section):
    """How the service notices new files."""

    mode: Annotated[
        Literal["inotify", "scan"],
        Field(description="`inotify`: the kernel's hints plus scans; `scan`: scans only, for network shares."),
    ] = "inotify"
    rescan_s: Annotated[
        float,
        Field(ge=0.2, le=86400, description="Seconds between two scans of `raw_root`, whatever the hints say."),
    ] = 300.0


class Histories(Section):
    """How the service keeps chip histories."""

    debounce_s: Annotated[
        float,
        Field(ge=0, le=3600, description="Seconds to collect changes of a chip before its history is written."),
    ] = 0.5


class Service(Section):
    """The life of `ingestd run`."""

    stop_s: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="Seconds a stop may take to finish the current run, the histories and a compaction.",
        ),
    ] = 30.0
    compact_s: Annotated[float, Field(ge=1, le=86400, description="Seconds between two compactions.")] = 600.0
    compact_records: Annotated[
        int, Field(ge=1, description="Number of records in the log that triggers a compaction before its time.")
    ] = 1000
    free_mib: Annotated[
        float,
        Field(ge=0, le=1e9, description="MiB that must stay free on the stage's disk; with less, the service waits."),
    ] = 100.0
    retry_s: Annotated[
        float,
        Field(
            ge=0.01, le=3600, description="Seconds before the first retry after a disk, network or permission error."
        ),
    ] = 1.0
    retry_max_s: Annotated[
        float, Field(ge=0.01, le=86400, description="Maximum seconds between two retries; the wait doubles up to it.")
    ] = 60.0


class Events(Section):
    """The event JSONs."""

    keep_days: Annotated[
        int, Field(ge=0, description="Days to keep event JSONs; 0 keeps them forever. The manifest is not affected.")
    ] = 0


class Log(Section):
    """The service's log."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Lowest level that is logged.")
    ] = "info"
    file: Annotated[
        Place | None,
        Field(
            description="The log file that `ingestd tail` shows, one JSON object per line; logrotate may rotate it. "
            "`ingestd.log` beside the manifest unless set."
        ),
    ] = None
    max_mib: Annotated[
        float,
        Field(
            gt=0,
            le=65536,
            description="MiB at which the log file is renamed to `.1` and a new one is started. A `file` you set is "
            "left to logrotate.",
        ),
    ] = 16.0
