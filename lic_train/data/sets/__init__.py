"""Data sets: sources of images and their splits."""
