"""What people read about many runs: chip histories, day metadata, and the comparison for a cut-over."""
