"""What holds for every test: under `make test` it is the installed wheel that is tested, never the checkout."""

import os
import sysconfig
from pathlib import Path

import pysendmail

_PACKAGE = Path(pysendmail.__file__).resolve()

if os.environ.get("PYSENDMAIL_TEST_WHEEL"):
    _INSTALLED = Path(sysconfig.get_path("purelib")).resolve()
    assert _PACKAGE.is_relative_to(_INSTALLED), f"imported from {_PACKAGE}, not from {_INSTALLED}"
