"""Every setting, once: defaults < `config.toml` < environment (`INGESTD_SECTION__KEY`) < flags.

An unknown key anywhere is an error that names it and the nearest known one. Relative paths start at the folder of the
config file, or at the current folder if there is none; paths given as flags start at the current folder.
"""

from ingestd.settings.load import CONFIG_VARIABLE, SYSTEM_CONFIG, load_settings
from ingestd.settings.model import ENV_PREFIX, Settings, environment_name, sections, setting_keys
from ingestd.settings.sections import Section

__all__ = [
    "CONFIG_VARIABLE",
    "ENV_PREFIX",
    "SYSTEM_CONFIG",
    "Section",
    "Settings",
    "environment_name",
    "load_settings",
    "sections",
    "setting_keys",
]
