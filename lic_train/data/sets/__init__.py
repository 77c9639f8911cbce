"""Data sets: where pictures come from and how they are split."""
