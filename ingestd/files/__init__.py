"""The only hands on the disk: durable writes, flushes, locks, scans, safe names."""

from __future__ import annotations

from ingestd.files.durable import (
    SYNCFS_FROM,
    dead_temporaries,
    flush_file_systems,
    flush_path,
    flush_paths,
    free_bytes,
    make_folders,
    preserve,
    remove_leftovers,
    replacing,
    retry_from,
    temporary_beside,
    world,
    write_all_atomic,
    write_atomic,
    write_new,
)
from ingestd.files.lock import Lock
from ingestd.files.look import (
    FileStat,
    RawBytes,
    Scan,
    all_below,
    is_csv,
    open_raw,
    read_raw,
    scan_csvs,
    sha256_of,
    stat_of,
    why_passed_over,
)
from ingestd.files.names import NAME_LIMIT, safe_name
from ingestd.files.stamps import Stamp, Stamps

__all__ = [
    "NAME_LIMIT",
    "SYNCFS_FROM",
    "FileStat",
    "Lock",
    "RawBytes",
    "Scan",
    "Stamp",
    "Stamps",
    "all_below",
    "dead_temporaries",
    "flush_file_systems",
    "flush_path",
    "flush_paths",
    "free_bytes",
    "is_csv",
    "make_folders",
    "open_raw",
    "preserve",
    "read_raw",
    "remove_leftovers",
    "replacing",
    "retry_from",
    "safe_name",
    "scan_csvs",
    "sha256_of",
    "stat_of",
    "temporary_beside",
    "why_passed_over",
    "world",
    "write_all_atomic",
    "write_atomic",
    "write_new",
]
