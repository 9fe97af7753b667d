"""A description of the active host."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class HostDescription:
    """Version and state of the imported OpenPCDet; empty for the built-in host.

    Attributes:
        version, location: of the package ``pcdet``.
        extensions: name of each of its compiled extensions -> how it is served.
        stand_ins: third-party package (or dataset) that was replaced -> why.
    """

    version: str | None = None
    location: str | None = None
    extensions: dict[str, str] = field(default_factory=dict)
    stand_ins: dict[str, str] = field(default_factory=dict)
