"""Sub-commands of `meterproof` that this package declares."""
