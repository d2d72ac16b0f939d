"""Benchmarks: one script, one JSON line, peers in the same run."""
