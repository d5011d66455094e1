"""One run as one row of the manifest: the model, its column types and its fixed order."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from hashlib import blake2b
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

SCHEMA_VERSION = 1
"""Version of the columns below. Older files are read with missing columns null; newer ones are refused."""

EXTRACTION_VERSION = 1
"""Version of the rules that turn a raw file into a row. Increased when the same bytes would give other values."""


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time without a zone; manifest times are UTC")
    return value.astimezone(UTC)


Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""An integer the table can hold: a header or a file name may name a larger one."""

UtcDatetime = Annotated[datetime, AfterValidator(_utc)]
StartTimeOrigin = Literal["header", "path", "mtime"]


class ManifestRow(BaseModel):
    """One run. Field order is column order in `manifest.parquet`; units are in the names.

    `start_time_utc` has microseconds; `date_local` is its date in the configured zone. `parameters` is JSON:
    `{"procedure": class, "parameters": {name: text}, "metadata": {name: text}}`, values as written in the header.
    `superseded_by` is the run id that replaced this row, None while the row is live.
    """

    # JSON has no NaN and no infinity: without the strings they would come back from the log as null.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]
    source_file: str
    proc: str
    date_local: date
    start_time_utc: UtcDatetime
    file_idx: Int64 | None = None
    chip_group: str | None = None
    chip_number: Int64 | None = None
    chip_name: str | None = None
    has_light: bool | None = None
    laser_voltage_v: float | None = None
    laser_wavelength_nm: float | None = None
    laser_period_s: float | None = None
    vg_v: float | None = None
    vg_start_v: float | None = None
    vg_end_v: float | None = None
    vg_step_v: float | None = None
    vsd_start_v: float | None = None
    vsd_end_v: float | None = None
    vsd_step_v: float | None = None
    vds_v: float | None = None
    duration_s: float | None = None
    rows: Annotated[Int64, Field(ge=0)]
    summary: str
    start_time_origin: StartTimeOrigin
    procedure_version: str | None = None
    parameters: str
    source_size: Annotated[Int64, Field(ge=0)]
    source_mtime_ns: Int64
    source_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    superseded_by: str | None = None
    warnings: list[str] = []
    schema_version: int = SCHEMA_VERSION
    extraction_version: int = EXTRACTION_VERSION
    ingested_at_utc: UtcDatetime

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and mtime (ns) of the raw file when it was staged, or touched since."""
        return self.source_size, self.source_mtime_ns

    @property
    def live(self) -> bool:
        """Whether this row stands for its measurement (no later row superseded it)."""
        return self.superseded_by is None


MANIFEST_ROWS = TypeAdapter(list[ManifestRow])
"""Validates a batch at once; the error names the row's position and field."""

PARAMETER_FIELDS = (
    "laser_voltage_v",
    "laser_wavelength_nm",
    "laser_period_s",
    "vg_v",
    "vg_start_v",
    "vg_end_v",
    "vg_step_v",
    "vsd_start_v",
    "vsd_end_v",
    "vsd_step_v",
    "vds_v",
)
"""The float fields a procedure may fill from header parameters, each in the unit its name ends with."""


_STAT_FIELDS = frozenset({"source_size", "source_mtime_ns", "superseded_by"})
"""Fields that may be newer in the manifest than in the Parquet: a touch or a later run does not rewrite it."""


def fingerprint(row: ManifestRow) -> bytes:
    """Digest, in 16 bytes, the fields in which a staged file's row and the manifest's row of its run must agree.

    Between rows with the same fingerprint `differing_fields` names no difference.
    """
    return blake2b(_common(row).encode(), digest_size=16).digest()


def differing_fields(staged: ManifestRow, row: ManifestRow) -> list[str]:
    """Name, sorted, the fields in which a staged file's row differs from the manifest's row of its run."""
    one, other = json.loads(_common(staged)), json.loads(_common(row))
    return sorted(name for name in one if one[name] != other[name])


def _common(row: ManifestRow) -> str:
    return row.model_dump_json(exclude=set(_STAT_FIELDS))
