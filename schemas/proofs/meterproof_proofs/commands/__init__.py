"""Sub-commands of `meterproof` that need nothing but this package."""
