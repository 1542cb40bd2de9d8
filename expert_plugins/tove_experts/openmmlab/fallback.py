"""Give mmcv an extension where it has no compiled one.

`mmcv.ops` imports once `mmcv._ext` does. The extension is a compiled file that mmcv's wheels and
source builds often lack. A finder at the end of `sys.meta_path` answers for that one name, after
every other has passed: a compiled extension is always preferred, `importlib.util.find_spec` (which
mmengine asks) tells the truth, and nothing is imported before somebody needs it.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

__all__ = ["EXTENSION", "serve_mmcv_ops"]

EXTENSION = "mmcv._ext"
OPS_FILE = Path(__file__).with_name("ops.py")


class _TellingLoader(SourceFileLoader):
    """Loads the fallback and says so, once a process, in the run's log."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        from mmengine.logging import print_log

        print_log(
            "mmcv has no compiled extension here: the ops that frozen detectors need are served by "
            f"torchvision and plain torch ({OPS_FILE}).",
            logger="current",
        )


class _FallbackFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != EXTENSION:
            return None
        loader = _TellingLoader(fullname, str(OPS_FILE))
        return spec_from_file_location(fullname, OPS_FILE, loader=loader)


def serve_mmcv_ops() -> None:
    """Let `import mmcv.ops` work with or without the compiled extension; again is harmless.

    To be called before the first import of `mmcv.ops`, which `mmdet.models` imports.
    """
    if not any(isinstance(finder, _FallbackFinder) for finder in sys.meta_path):
        sys.meta_path.append(_FallbackFinder())
