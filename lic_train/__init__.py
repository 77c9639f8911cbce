"""Training, coding and evaluation of learned image compression."""

import warnings

# Other packages' notes to themselves, which a user can do nothing about.
for _note in (
    ".*torch.jit.script.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    "You have overridden `on_after_batch_transfer`.*",
):
    warnings.filterwarnings("ignore", message=_note)

__version__ = "0.1.0"
