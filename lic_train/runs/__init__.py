"""The run directory: its layout, claim, state and checkpoints."""
