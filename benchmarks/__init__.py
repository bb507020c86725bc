"""Benchmarks of every model: time and memory at the shapes at which the original codes were timed; see ``__main__``."""
