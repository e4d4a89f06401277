"""The contract of meterproof: what producers, the sequencer, sinks and verifiers agree on."""
