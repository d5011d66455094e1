"""`ingestd run`: watch, wait, stage, log; and what `status` and `tail` tell of it."""
