"""All runs of a lab: the manifest table, and the write-ahead log in front of it.

On disk, below `_manifest/`:

`manifest.parquet`     one row per run (`row.ManifestRow`), sorted by (`start_time_utc`, `run_id`); the same rows give
                       the same bytes. Key-value metadata: `ingestd.schema_version`. Between data and footer is a line
                       with the CRC-32 of all other bytes (`table.SEAL`), which other Parquet readers ignore.
`known_files.parquet`  raw files that are remembered without being the source of a live row: rejects, duplicates, queued
                       files, and files that took over another run's path (`record.FileNote`). Sealed in the same way.
`wal/00000001.log`     log segments, numbered without gaps. One record per line (`record`): four fields separated by one
                       space, `LENGTH LENGTH-CRC PAYLOAD-CRC PAYLOAD`, the first three as 8 hex digits; LENGTH counts
                       the payload's bytes; the CRCs are CRC-32 (zlib) of the 8 length digits and of the payload. The
                       payload is one JSON object in UTF-8 without control characters. The first record of a segment
                       is its head: format, schema version, segment number, the next sequence number, stale chips.
`wal/00000001.torn-…`  the incomplete end of a segment, set aside before it was cut.
`lock`                 held (flock) while a process appends or compacts, and no longer.

Every other record is one decision about one raw file (`record.Record`): the rows and notes it puts in place, whole, so
that replaying a record twice changes nothing. Records carry consecutive sequence numbers.

Compaction starts the next segment, writes both Parquet files (temporary, flush, rename, flush folder), and then deletes
the sealed segments, oldest first. A crash anywhere costs nothing: what is replayed twice gives the same rows.
"""
