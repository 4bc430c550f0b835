#!/usr/bin/env python3
"""Makes the client in C a Python program, too: python3 overtaken.py PROGRAM CLIENTS

When it takes the place of the stub, an interpreter may just have been started for that, which opens its script by name
and finds this. So a zip archive is appended with a program that goes on with the stub in CLIENTS: Python runs such
archives whatever comes before them, and the kernel does not mind what comes after. Without it that sendmail would end
with a SyntaxError, 1, and a lost message.
"""

from __future__ import annotations

import sys
import zipfile

MAIN = """\
import os, sys

os.execv(os.path.join({clients!r}, os.path.basename(sys.argv[0])), sys.argv)
"""


def main(program: str, clients: str) -> None:
    with zipfile.ZipFile(program, "a") as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py"), MAIN.format(clients=clients))


if __name__ == "__main__":
    main(*sys.argv[1:])
