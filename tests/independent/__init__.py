"""Recounts that share no code with the pipeline."""
