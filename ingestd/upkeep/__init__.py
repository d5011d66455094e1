"""Check what ingestd keeps against what it was made from, and restore it: verify, repair, rebuild, explain.

Nothing here deletes: what is replaced or does not belong is moved to `_manifest/aside/<time>/`.
"""
