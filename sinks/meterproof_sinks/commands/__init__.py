"""The sub-commands of `meterproof` that come with the sinks."""
