"""A benchmark of this project against everyone: `python -m benchmarks.peers --help`."""
