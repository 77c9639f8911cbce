"""How the training side speaks to the user while a live progress bar may be on the screen."""

import rich
from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def say(message: str, style: str = "") -> None:
    """Print one message on the shared rich console (above the bar, if there is one), on the first process only."""
    rich.get_console().print(message, style=style or None, markup=False, highlight=False, soft_wrap=True)


def is_first_process() -> bool:
    """Whether this process, of perhaps several that train together, is the one that writes files."""
    return getattr(rank_zero_only, "rank", 0) == 0


def reason(error: BaseException) -> str:
    """What went wrong in one line, without error number and path: ``No space left on device``."""
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0] if text else type(error).__name__
