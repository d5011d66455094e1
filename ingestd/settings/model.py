"""The settings as one validated whole, and the paths, registry and zone that follow from them."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from pydantic import PrivateAttr
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from ingestd.layout import Layout
from ingestd.settings.sections import (
    Events,
    Histories,
    Log,
    Manifest,
    Paths,
    Section,
    Service,
    Settle,
    Stage,
    Time,
    Watch,
)

if TYPE_CHECKING:
    from ingestd.raw.procedures import Registry
    from ingestd.raw.settling import Patience

ENV_PREFIX = "INGESTD_"

PLACES: Final = {
    "paths.raw_root": ("paths.data_root", "01_raw"),
    "paths.stage_root": ("paths.data_root", "02_stage"),
    "paths.manifest_path": ("paths.stage_root", "_manifest/manifest.parquet"),
    "paths.wal_dir": ("paths.manifest_path", "../wal"),
    "paths.events_dir": ("paths.manifest_path", "../events"),
    "paths.rejects_dir": ("paths.stage_root", "_rejects"),
    "paths.histories_dir": ("paths.data_root", "histories"),
    "paths.metadata_dir": ("paths.data_root", "metadata"),
    "log.file": ("paths.manifest_path", "../ingestd.log"),
}
"""Every setting that names a place, but the data root -> the one it follows from unless set, and the way from there."""


def _cpus_at_hand() -> int:
    return max(1, min(6, len(os.sched_getaffinity(0))))


class Settings(BaseSettings):
    """All settings, validated. Use `load_settings`; `layout`, `registry` and `zone` are what the rooms take."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    paths: Paths = Paths()
    time: Time = Time()
    settle: Settle = Settle()
    stage: Stage = Stage()
    manifest: Manifest = Manifest()
    watch: Watch = Watch()
    histories: Histories = Histories()
    service: Service = Service()
    events: Events = Events()
    log: Log = Log()
    procedures: dict[str, Any] = {}

    _config_file: Path | None = PrivateAttr(default=None)
    _config_sha256: str = PrivateAttr(default="")
    _histories_elsewhere: bool = PrivateAttr(default=False)
    _origin: Path = PrivateAttr(default_factory=Path.cwd)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # no .env file: a service has an environment
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # no secrets
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take flags and the config file from `load_settings`, and the environment between them."""
        given = init_settings.init_kwargs if isinstance(init_settings, InitSettingsSource) else {}
        return (
            InitSettingsSource(settings_cls, given.get("flags", {})),
            env_settings,
            InitSettingsSource(settings_cls, given.get("file", {})),
        )

    def taken_from(self, config_file: Path | None, sha256: str, usual: Settings | None = None) -> None:
        """Note the config file the values came from and its hash, before a path is asked for.

        Relative paths start at its folder; without a config file, at the current folder. `usual` are the settings
        without the folder of histories that a command line gave, if it gave one.
        """
        self._config_file = config_file
        self._config_sha256 = sha256
        self._origin = (Path.cwd() if config_file is None else config_file.absolute().parent).resolve()
        self._histories_elsewhere = usual is not None and usual.layout.histories_dir != self.layout.histories_dir

    @property
    def histories_elsewhere(self) -> bool:
        """Whether histories go to another folder this time than the usual one, which is not brought up to date then."""
        return self._histories_elsewhere

    @property
    def config_file(self) -> Path | None:
        """The config file in force, None if only defaults, environment and flags count."""
        return self._config_file

    @property
    def config_sha256(self) -> str:
        """The SHA-256 of the config file as it was read, in hexadecimal."""
        return self._config_sha256

    @property
    def workers(self) -> int:
        """The number of processes that stage in parallel."""
        return self.stage.workers or _cpus_at_hand()

    @property
    def patience(self) -> Patience:
        """How long a raw file must stay unchanged."""
        from ingestd.raw.settling import Patience  # noqa: PLC0415  # many commands read no raw file

        return Patience(self.settle.settle_s, self.settle.quiet_s)

    @property
    def max_file_bytes(self) -> int:
        """The largest raw file that is staged, in bytes."""
        return int(self.stage.max_file_mib * 2**20)

    @cached_property
    def zone(self) -> ZoneInfo:
        """The zone of local times."""
        return ZoneInfo(self.time.local_tz)

    @cached_property
    def registry(self) -> Registry:
        """The procedures in force: the packaged ones with the config's laid over them."""
        from ingestd.raw.procedures import Registry  # noqa: PLC0415  # many commands read no raw file

        return Registry.load(self.procedures)

    @cached_property
    def layout(self) -> Layout:
        """Every path, absolute."""
        places = {"paths.data_root": self._origin / self.paths.data_root.expanduser()}
        for key, (base, way) in PLACES.items():
            section, _, name = key.partition(".")
            value: Path | None = getattr(getattr(self, section), name)
            places[key] = places[base] / way if value is None else self._origin / value.expanduser()
        return Layout(**{_in_layout(key): Path(os.path.normpath(place)) for key, place in places.items()})

    def place(self, key: str) -> Path:
        """Return the absolute place of a setting of `PLACES`, or of `paths.data_root`, whether it is set or not."""
        place: Path = getattr(self.layout, _in_layout(key))
        return place


def _in_layout(key: str) -> str:
    return key.removeprefix("paths.").replace(".", "_")


def setting_keys() -> list[str]:
    """List every known setting as `section.key`."""
    return [f"{section}.{key}" for section, model in sections().items() for key in model.model_fields]


def environment_name(section: str, key: str) -> str:
    """Name the environment variable of a setting."""
    return f"{ENV_PREFIX}{section}__{key}".upper()


def sections() -> dict[str, type[Section]]:
    """Return the tables of the config file in order, each with its model (`[procedures]` is read apart)."""
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
