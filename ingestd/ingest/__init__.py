"""From staged files to decisions: which measurement each file is, in what order, and what is recorded of it."""
