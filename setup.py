"""The metadata is in pyproject.toml. Here are the packages, and cfgs/ as one inside of ours."""

from setuptools import find_namespace_packages, find_packages, setup

CONFIGURATIONS = "nsmae_plugin.cfgs"  # what pyproject.toml maps to cfgs/

setup(
    packages=[
        *find_packages(include=["nsmae_plugin", "nsmae_plugin.*"]),
        *(
            CONFIGURATIONS,
            *(f"{CONFIGURATIONS}.{name}" for name in find_namespace_packages("cfgs")),
        ),
    ]
)
