"""`ingestd backfill`: an archive in one go, with the fate of every file of it."""
