"""Check what ingestd keeps against what it was made from, and restore it: verify, repair, rebuild, explain.

Nothing here is deleted: what is replaced or out of place is moved to `_manifest/aside/<time>/`.
"""
