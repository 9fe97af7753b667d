"""A seeded generator of small driving worlds in the format of nuScenes."""

from nsmae_plugin.synthetic.options import WorldOptions
from nsmae_plugin.synthetic.world import write_world

__all__ = ["WorldOptions", "write_world"]
