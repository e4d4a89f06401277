"""The commands that this member adds to `meterproof`."""
