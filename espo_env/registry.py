"""Things of one kind by name, to which users add their own.

- :class:`Registry`: a read-only mapping with :meth:`Registry.find` and :meth:`Registry.register`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from espo_env.imports import import_object

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """What is registered in this process, by name.

    Args:
        what: One of them, for the messages: ``"a stop rule"``.
        form: How one is named by its place, for the messages: ``"module:function"``.
        fits: Whether something found at a place is one of them.
        entries: Those to begin with.
    """

    def __init__(self, what: str, form: str, fits: Callable[[Any], bool], entries: Mapping[str, T]) -> None:
        self._what = what
        self._form = form
        self._fits = fits
        self._entries = dict(entries)

    def find(self, name: str) -> T:
        """The one of that name, or the one at ``"module:name"``, which every process finds by itself.

        Raises:
            ValueError: If there is none; the message lists those there are.
        """
        if name in self._entries:
            return self._entries[name]
        if ":" not in str(name):
            raise ValueError(f"expected {self._what} out of {sorted(self._entries)}, or {self._form!r}, got {name!r}")
        found = import_object(name, f"{self._what} as {self._form!r}")
        if not self._fits(found):
            raise ValueError(f"expected {self._what} at {name!r}, got {found!r}")
        return found

    def register(self, name: str, entry: T) -> None:
        """Adds one under a name, in this process.

        Runner and learner actors, and vLLM's workers, are other processes: they find one by its place, or under its
        name where a module that they import registers it too.

        Raises:
            ValueError: If the name is taken by another one.
        """
        if self._entries.get(name, entry) != entry:
            raise ValueError(f"expected a new name for {self._what}, got {name!r}, which is taken")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
