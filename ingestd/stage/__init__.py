"""One run on its way from raw file to Parquet: read once, written under a temporary name, put in its place.

Batches of files are staged in the process itself (`run`), in spawned ones (`engine`) or on a cluster (`cluster`).
"""
