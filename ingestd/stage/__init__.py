"""One run on its way from raw file to Parquet: read once, written under a temporary name, put in its place."""
