"""What holds for every test: under `make test` it is the installed wheel that is tested, never the checkout."""

import os
import signal
import sysconfig
from pathlib import Path

from hypothesis import settings

import pysendmail

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_PACKAGE = Path(pysendmail.__file__).resolve()

if os.environ.get("PYSENDMAIL_TEST_WHEEL"):
    _INSTALLED = Path(sysconfig.get_path("purelib")).resolve()
    assert _PACKAGE.is_relative_to(_INSTALLED), f"imported from {_PACKAGE}, not from {_INSTALLED}"

# Who starts us in the background has these ignored, and so would every command under test: signals are sent to them.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
