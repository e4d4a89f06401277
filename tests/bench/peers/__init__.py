"""Programs by others that people would pick for the same job, each in an environment of its own, made for the run."""
