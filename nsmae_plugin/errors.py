"""Errors that a user of the plugin can meet; each message names the thing and the remedy."""


class NSMAEError(Exception):
    """Base class of all errors raised on purpose by nsmae_plugin."""


class ConfigError(NSMAEError):
    """A YAML key or value, or a combination of them, that cannot work."""


class DataError(NSMAEError):
    """A missing, truncated, malformed or non-finite file or sample."""


class CheckpointError(NSMAEError):
    """A checkpoint that cannot be read, or does not fit the model."""


class OutputError(NSMAEError):
    """A file or folder that cannot be written."""


class HostError(NSMAEError):
    """The detection framework underneath is absent, broken, or refuses a registration."""


class NonFiniteError(NSMAEError):
    """A loss or gradient became NaN or infinite."""
