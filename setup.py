"""What pyproject.toml cannot say: packages are found, and one of them, the pipelines, lies outside ``deapcache/``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["deapcache*"]), "deapcache.pipelines"],
    package_dir={"deapcache.pipelines": "pipelines"},
)
