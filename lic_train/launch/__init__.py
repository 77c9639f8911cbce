"""Sweeps: planning the runs, training them through a launcher, and the final table."""
