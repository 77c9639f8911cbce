"""Evaluation with real bitstreams: .lic files on disk, decoded by a second model, measured and stored as JSON."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lic_train.evaluate.api import Evaluation


class _Evaluate(ModuleType):
    """A package that can be called: the public function ``lic_train.evaluate`` has the same name as this package."""

    def __call__(self, *arguments: Any, **options: Any) -> Evaluation:
        from lic_train.evaluate.api import evaluate

        return evaluate(*arguments, **options)


sys.modules[__name__].__class__ = _Evaluate
