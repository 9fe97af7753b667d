"""What the active host was found to be."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class HostDescription:
    """The framework behind the seam; the built-in host has nothing to add to its name.

    Attributes:
        version, location: of the imported OpenPCDet.
        extensions: name of each of its compiled extensions -> how it is served.
        stand_ins: third-party package (or dataset) that was replaced -> why.
    """

    version: str | None = None
    location: str | None = None
    extensions: dict[str, str] = field(default_factory=dict)
    stand_ins: dict[str, str] = field(default_factory=dict)
