"""The settings, from `TOKENTAPE_…` variables, the providers' own variables, and flags."""

from server.config.settings import OWN, BadSettings, Settings, load

__all__ = ["OWN", "BadSettings", "Settings", "load"]
