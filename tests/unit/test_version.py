"""The version is written in one place, and the installed distribution carries it."""

import importlib.metadata

import pytest

import pysendmail


def test_distribution_and_package_name_the_same_version() -> None:
    """What pip shows is what `pysendmail --version` will show."""
    try:
        installed = importlib.metadata.version("pysendmail-mta")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pysendmail-mta is not installed here: `make test` tests the wheel")
    assert installed == pysendmail.__version__
