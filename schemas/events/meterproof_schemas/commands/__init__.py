"""Sub-commands of `meterproof` that need the contract and nothing else."""
