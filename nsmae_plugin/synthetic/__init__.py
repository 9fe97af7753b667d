"""A seeded generator of small driving datasets in the format of nuScenes."""

from nsmae_plugin.synthetic.dataset import write_dataset
from nsmae_plugin.synthetic.options import SyntheticOptions

__all__ = ["SyntheticOptions", "write_dataset"]
