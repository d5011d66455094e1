"""The state in which each of many files was seen, as a stamp."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping

Stamp = tuple[int, int]
"""Size and mtime (ns): while they stay the same, a file that was read need not be read again."""


class Stamps(MutableMapping[str, Stamp]):
    """Stamps by path (POSIX, relative), grouped by folder.

    A scan lists one folder at a time: with 100,000 files in a single dict, a look costs three times as much.
    """

    __slots__ = ("_folders",)

    def __init__(self, paths: Iterable[str] = (), stamps: Iterable[Stamp] = ()) -> None:
        self._folders: dict[str, dict[str, Stamp]] = {}
        before, names = None, {}
        for path, stamp in zip(paths, stamps, strict=True):
            folder, _, name = path.rpartition("/")
            if folder != before:
                before, names = folder, self._folders.setdefault(folder, {})
            names[name] = stamp

    def folder(self, folder: str) -> dict[str, Stamp]:
        """Return the stamps of the files directly in this folder (`""` is the root), by name: the dict itself."""
        return self._folders.get(folder, {})

    def copy(self) -> Stamps:
        """Return a copy that is independent of the original."""
        copy = Stamps()
        copy._folders = {folder: names.copy() for folder, names in self._folders.items()}
        return copy

    def get(self, path: str, default: Stamp | None = None) -> Stamp | None:  # type: ignore[override]
        """Return the stamp of a path, or `default`."""
        folder, _, name = path.rpartition("/")
        names = self._folders.get(folder)
        return default if names is None else names.get(name, default)

    def __getitem__(self, path: str) -> Stamp:
        if (stamp := self.get(path)) is None:
            raise KeyError(path)
        return stamp

    def __setitem__(self, path: str, stamp: Stamp) -> None:
        folder, _, name = path.rpartition("/")
        self._folders.setdefault(folder, {})[name] = stamp

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
