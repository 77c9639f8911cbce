"""Training, coding and evaluation of learned image compression."""

__version__ = "0.1.0"
