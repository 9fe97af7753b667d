"""Package definition; pure Python, nothing is compiled."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(
    r'__version__ = "([^"]+)"', (ROOT / "nsmae_plugin/__init__.py").read_text(encoding="utf-8")
).group(1)

setup(
    name="nsmae_plugin",
    version=VERSION,
    description="NS-MAE pre-training of LiDAR-camera networks for OpenPCDet",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["nsmae_plugin", "nsmae_plugin.*"]),
    install_requires=[
        "torch>=2.4",
        # The CPU build. With a GPU, install the build for your CUDA (spconv-cu126, ...) instead.
        'spconv>=2.3.6; platform_system != "Darwin"',
        "nuscenes-devkit>=1.2",
        "numpy<2",  # nuscenes-devkit 1.2
        "numba",
        "easydict",
        "filelock",
        "pydantic>=2",
        "pyyaml",
        "pillow",
        "opencv-python-headless",  # what the devkit draws maps with, and requires itself
        "safetensors",
        "scipy",
        "shapely>=2",
        "tensorboardX",
        "tqdm",
        "matplotlib",
    ],
    extras_require={
        # What OpenPCDet imports on the paths of this plugin, beyond the plugin's own needs.
        "openpcdet": ["scikit-image"],
        "dev": [
            "pytest",
            "pytest-xdist",
            "ruff",
            "mypy",
            "types-PyYAML",
            # Its interpreter and compiler test the kernels. CUDA builds of torch bring their own.
            'triton; platform_system == "Linux"',
        ],
    },
)
