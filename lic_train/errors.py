"""Errors meant for the user: the message says what was expected, what was found, and what to do."""


class LicError(Exception):
    """Base of every error whose message is complete without a traceback."""

    exit_code = 2


class ConfigError(LicError):
    """The composed configuration has no meaning, or contradicts what lies on disk."""


class DataError(LicError):
    """A data set is missing, empty or too damaged to train on."""


class CheckpointError(LicError):
    """A checkpoint or an exported model is cut short, foreign or of another configuration."""


class BitstreamError(LicError):
    """A .lic file is damaged, truncated, foreign or hostile."""


class TrainingError(LicError):
    """Training cannot go on, for example because the loss is not finite."""


class BDError(LicError):
    """Two rate-distortion curves have no Bjontegaard difference that means anything."""


class AnchorError(LicError):
    """A classical codec is not installed here, failed, or did something else than it was asked for."""


def in_one_line(error: BaseException) -> str:
    """Type and message of an error that another library raised, its message cut to 200 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
