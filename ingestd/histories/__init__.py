"""What people read of many runs: chip histories, day metadata, and the comparison for a cut-over."""
