"""`ingestd run`: watch, wait, stage, log; and what `status` and `tail` show of it."""
