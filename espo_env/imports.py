"""Objects named as ``"module:name"``: settings in this form mean the same in every process.

- :func:`import_object`: imports such an object.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["import_object"]


def import_object(path: str, what: str) -> Any:
    """The object behind ``"module:name"``. The module is imported, which runs it: pass what you trust.

    Args:
        path: Module and name, such as ``"my_package.rules:surprise"``.
        what: What is expected, for the messages: ``"a stop rule as 'module:function'"``.

    Raises:
        ValueError: If the path has another form, or the module or name is not there.
    """
    module, separator, name = path.partition(":")
    if not (module and separator and name):
        raise ValueError(f"expected {what}, got {path!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expected {what}, got {path!r}: {error}") from error
