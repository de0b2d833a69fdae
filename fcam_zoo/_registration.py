"""Register the models in timm when timm is imported, which takes seconds that `fcam-zoo --help` does not have."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODELS = 'fcam_zoo.models'


def register_with_timm() -> None:
    """Register the models now if timm is imported already, otherwise right after it is."""
    if 'timm' in sys.modules:
        importlib.import_module(MODELS)
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm(MetaPathFinder):
    """Finds timm as usual, once, and makes its loader import `MODELS` afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != 'timm':
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                importlib.import_module(MODELS)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
