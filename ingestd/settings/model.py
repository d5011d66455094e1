"""The settings as one validated whole, and the paths, registry and zone that follow from them."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
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

    def taken_from(self, config_file: Path | None, sha256: str) -> None:
        """Note the config file the values came from and its hash, before a path is asked for.

        Relative paths start at its folder; without a config file, at the current folder.
        """
        self._config_file = config_file
        self._config_sha256 = sha256
        self._origin = (Path.cwd() if config_file is None else config_file.absolute().parent).resolve()

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
        paths, origin = self.paths, self._origin

        def at(value: Path | None, otherwise: Path) -> Path:
            return otherwise if value is None else Path(os.path.normpath(origin / value.expanduser()))

        data = at(paths.data_root, Path())
        stage = at(paths.stage_root, data / "02_stage")
        manifest = at(paths.manifest_path, stage / "_manifest" / "manifest.parquet")
        return Layout(
            data_root=data,
            raw_root=at(paths.raw_root, data / "01_raw"),
            stage_root=stage,
            manifest_path=manifest,
            wal_dir=at(paths.wal_dir, manifest.parent / "wal"),
            events_dir=at(paths.events_dir, manifest.parent / "events"),
            rejects_dir=at(paths.rejects_dir, stage / "_rejects"),
            histories_dir=at(paths.histories_dir, data / "histories"),
            metadata_dir=at(paths.metadata_dir, data / "metadata"),
            log_file=at(self.log.file, manifest.parent / "ingestd.log"),
        )


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
