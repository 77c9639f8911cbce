"""Errors for users: what happened, what was expected, what was found, and what to do."""

from __future__ import annotations


class LicError(Exception):
    """Base class of every error whose message is complete without a traceback.

    All errors for users have one layout::

        outputs/cwam is in use.
        expected: one process for each run directory
        got: process 4711 on node 3 is training in it
        to do: wait for it or stop it, or give this run its own directory with name=...

    Args:
        what: what happened, in one sentence.
        expected: what the program needs.
        got: what it found; several lines are indented below the label.
        to_do: how the user can continue.
    """

    exit_code = 2

    def __init__(self, what: str, *, expected: str = "", got: str = "", to_do: str = "") -> None:
        self.what, self.expected, self.got, self.to_do = what, expected, got, to_do
        parts = {"expected": expected, "got": got, "to do": to_do}
        super().__init__("\n".join([what, *(_part(label, text) for label, text in parts.items() if text)]))


def _part(label: str, text: str) -> str:
    return f"{label}:\n  " + text.replace("\n", "\n  ") if "\n" in text else f"{label}: {text}"


class ConfigError(LicError):
    """The configuration is not valid, or contradicts what is on disk."""


class DataError(LicError):
    """A data set is missing, empty or too damaged to train on."""


class CheckpointError(LicError):
    """A checkpoint or an exported model is cut short, foreign or of another configuration."""


class BitstreamError(LicError):
    """A .lic file is damaged, truncated, foreign or hostile."""


class TrainingError(LicError):
    """Training cannot continue, for example because the loss is not finite."""


class BDError(LicError):
    """Two rate-distortion curves have no meaningful Bjontegaard difference."""


class AnchorError(LicError):
    """A classical codec is not installed, failed, or wrote something unexpected."""
