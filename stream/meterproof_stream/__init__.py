"""The Faust workers of meterproof over plain classes: sequencer, checkpointer, budgets."""
