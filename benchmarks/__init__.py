"""Benchmarks: one script per measured figure in the documentation."""
