"""The two clients, Python's and C's, as somebody installs them: `sendmail` and its other names in a directory.

    clients = Clients("C", tmp_path)
    sendmail = clients.install(ANSWER_S=0.1) / "sendmail"      # with that limit set to a moment

The one in C is compiled, warnings being errors; behind it stands Python's, with the same limits. The test is skipped by
name where there is no compiler.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from pysendmail.install import OTHER_NAMES, PROGRAM, install_client
from pysendmail.thin import client
from rig.debian import file, program

KINDS = ("Python", "C")
THIN = Path(client.__file__).resolve().parent
SOURCE = Path(__file__).parents[2] / "contrib" / "client"
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class Clients:
    """See the module. `flags` are the compiler's."""

    def __init__(self, kind: str, directory: Path, *flags: str) -> None:
        self._in_c = kind == "C"
        self._directory = directory
        self._flags = flags
        self._behind: dict[tuple[tuple[str, float], ...], Path] = {}  # by limits: whose Python client it is

    def install(self, thin: Path = THIN, **limits: float) -> Path:
        """The directory with the names; `thin`: of the Python client; `limits`: constants of it, in seconds."""
        key = tuple(sorted(limits.items()))
        directory = self._directory / "-".join(f"{name}={value}" for name, value in [("with", ""), *key])
        python = directory / "behind" if self._in_c else directory
        if key not in self._behind:
            python.mkdir(parents=True)
            if self._in_c:
                compile_c(directory / PROGRAM, python, *self._flags, **limits)
                for name in OTHER_NAMES:
                    (directory / name).symlink_to(PROGRAM)
        if self._behind.get(key) != thin:
            install_python(python, thin, **limits)
        self._behind[key] = thin
        return directory


def install_python(directory: Path, thin: Path, **limits: float) -> None:
    """As `pysendmail install-client` does it."""
    assert install_client(directory, thin=thin).warnings == ()
    stub = directory / PROGRAM
    settings = "".join(f"sys.modules['client'].{name} = {value}\n" for name, value in limits.items())
    stub.write_text(re.sub(r"^(?=main\(\)$)", settings, stub.read_text(), count=1, flags=re.MULTILINE))


def compiler() -> str:
    file("/usr/include/stdio.h", "libc6-dev")
    return program("gcc", "gcc")


def compile_c(out: Path, behind: Path, *flags: str, **limits: float) -> None:
    """As `make client` does it. Limits that it does not have are those of the client behind it."""
    source = out.with_name(f"{out.name}.source")
    source.mkdir()
    shutil.copy(SOURCE / "Makefile", source)
    text = (SOURCE / "sendmail.c").read_text()
    for name, seconds in limits.items():
        constant = name.removesuffix("_S") + "_MS"
        text = re.sub(rf"\b{constant} = \d+", f"{constant} = {round(seconds * 1000)}", text)
    (source / "sendmail.c").write_text(text)
    make = [program("make", "make"), "-C", source, f"CC={compiler()}", f"CLIENTS={behind}", f"OUT={out}"]
    command = [*make, f"CFLAGS={' '.join(('-O1', '-Werror', *flags))}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
