"""The parts in C, for tests that hold them against their definitions in Python."""

import importlib
import shutil
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest


def native_part(name: str, *, known_processor: bool = True) -> ModuleType:
    """A module in C; where it can be built, it must have been, and elsewhere the test is skipped.

    Args:
        name: of the module, with its package.
        known_processor: whether it is written for this one.

    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        header = Path(sysconfig.get_path("include")) / "Python.h"
        if shutil.which("cc") and header.exists() and known_processor:
            raise
        pytest.skip(f"no C compiler, no {header}, or another kind of processor: {error}")
