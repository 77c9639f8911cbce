"""The run directory: file names, lock, state, checkpoints and search."""
