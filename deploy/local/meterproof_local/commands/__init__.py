"""Sub-commands of `meterproof`."""
