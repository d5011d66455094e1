"""Every setting, once: defaults < `config.toml` < environment (`INGESTD_SECTION__KEY`) < flags.

An unknown key anywhere is an error that names it and the nearest known one. Relative paths count from the folder of the
config file, or from the current folder when there is none; paths given as flags count from the current folder.
"""

from ingestd.settings.load import CONFIG_VARIABLE, SYSTEM_CONFIG, Flags, find_config, load_settings
from ingestd.settings.model import ENV_PREFIX, Settings, environment_name, sections, setting_keys
from ingestd.settings.sections import Section

__all__ = [
    "CONFIG_VARIABLE",
    "ENV_PREFIX",
    "SYSTEM_CONFIG",
    "Flags",
    "Section",
    "Settings",
    "environment_name",
    "find_config",
    "load_settings",
    "sections",
    "setting_keys",
]
