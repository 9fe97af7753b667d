"""Finding augmentors and processors by the NAME in the YAML."""

from collections.abc import Callable, Sequence
from typing import Any

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.builtin.registry import REGISTRIES


class StepPipeline:
    """Named steps applied to a sample one after the other.

    A step is a method of the subclass that is listed in ``STEPS``, or a function registered under
    ``SLOT``. Called with a config alone it returns the configured step; called with a sample it
    returns the processed sample and leaves the one it was given as it was.
    """

    SLOT: str
    STEPS: Sequence[str]

    def build_step(self, config: Any) -> Callable[..., dict[str, Any]]:
        """The configured step.

        Raises:
            ConfigError: no step has that NAME; lists the known ones.
        """
        name = config["NAME"]
        registered: dict[str, Any] = REGISTRIES[self.SLOT]
        if name in registered:
            return registered[name](self, config=config)
        if name in self.STEPS:
            return getattr(self, name)(config=config)
        known = ", ".join(sorted({*self.STEPS, *registered}))
        raise ConfigError(f"unknown {self.SLOT} {name!r}; known: {known}")
