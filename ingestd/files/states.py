"""Which state each of many files was seen in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping

State = tuple[int, int]
"""Size and mtime (ns): in the same state, a file that was read need not be read again."""


class States(MutableMapping[str, State]):
    """States by path (POSIX, relative), folder by folder, each name once.

    Whoever lists a folder finds what belongs to it close together: of 100,000 files, in one dict, a look costs three
    times as much.
    """

    __slots__ = ("_folders",)

    def __init__(self, paths: Iterable[str] = (), states: Iterable[State] = ()) -> None:
        self._folders: dict[str, dict[str, State]] = {}
        before, names = None, {}
        for path, state in zip(paths, states, strict=True):
            folder, _, name = path.rpartition("/")
            if folder != before:
                before, names = folder, self._folders.setdefault(folder, {})
            names[name] = state

    def folder(self, folder: str) -> dict[str, State]:
        """Return the states of the files right in this folder (`""` is the root), by name: the very dict."""
        return self._folders.get(folder, {})

    def copy(self) -> States:
        """Copy all of it; a change of one does not show in the other."""
        copy = States()
        copy._folders = {folder: names.copy() for folder, names in self._folders.items()}
        return copy

    def get(self, path: str, default: State | None = None) -> State | None:  # type: ignore[override]
        """Look a path up."""
        folder, _, name = path.rpartition("/")
        names = self._folders.get(folder)
        return default if names is None else names.get(name, default)

    def __getitem__(self, path: str) -> State:
        if (state := self.get(path)) is None:
            raise KeyError(path)
        return state

    def __setitem__(self, path: str, state: State) -> None:
        folder, _, name = path.rpartition("/")
        self._folders.setdefault(folder, {})[name] = state

    def __delitem__(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        if name not in self.folder(folder):
            raise KeyError(path)
        del self._folders[folder][name]

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self.get(path) is not None

    def __iter__(self) -> Iterator[str]:
        for folder, names in self._folders.items():
            for name in names:
                yield f"{folder}/{name}" if folder else name

    def __len__(self) -> int:
        return sum(map(len, self._folders.values()))
