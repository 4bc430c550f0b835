#!/usr/bin/env python3
"""Builds pysendmail's Debian package: python3 contrib/debian/build.py WHEEL DIRECTORY

WHEEL is pysendmail's own (make wheel), DIRECTORY takes the .deb, whose path is printed. What pysendmail needs is
fetched by pip now, as pure Python wheels, and unpacked into the package: nothing is downloaded where it is installed,
and one package serves Debian 12 and 13. python3-systemd is Debian's.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from email.utils import formatdate
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OLDEST_PYTHON = "3.11"
PACKAGES = "usr/lib/pysendmail"
# sqlite-utils installs plug-ins with pip, on a command line that is not here; nothing here knows a time zone's name;
# rich colours source text and Markdown with the rest, which is half of everything, and its tables need none of it.
UNUSED = ("pip-", "tzdata-", "pygments-", "markdown_it_py-", "mdurl-")
IN_BIN = ("mailq", "newaliases")  # where Debian's other mail programs have them; the rest is in sbin
SCRIPT = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/usr/lib/pysendmail")
from pysendmail.cli import run

run()
"""


def main(wheel: Path, directory: Path) -> Path:
    """Build the package; returns its path."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "root"
        root.mkdir(mode=0o755)
        fetched = Path(temporary) / "wheels"
        fetch(wheel, fetched)
        for each in sorted(fetched.glob("*.whl")):
            if not each.name.startswith(UNUSED):
                unpack(each, root / PACKAGES)
        sys.path.insert(0, str(root / PACKAGES))
        from pysendmail import __version__
        from pysendmail.install import install_client

        (root / "usr/sbin").mkdir(parents=True)
        install_client(root / "usr/sbin", python="/usr/bin/python3", thin=Path(f"/{PACKAGES}/pysendmail/thin"))
        commands(root)
        files(root)
        texts(root, __version__)
        control(root, __version__)
        package = directory / f"pysendmail_{__version__}_all.deb"
        directory.mkdir(parents=True, exist_ok=True)
        build = [shutil.which("dpkg-deb") or "dpkg-deb", "--root-owner-group", "-Zxz", "--build"]
        subprocess.run([*build, str(root), str(package)], check=True, stdout=subprocess.DEVNULL)
        return package


def fetch(wheel: Path, into: Path) -> None:
    """The wheel and what it needs; an error if any of that is not pure Python."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "-qq"]
    only = ["--only-binary=:all:", f"--python-version={OLDEST_PYTHON}", "--platform=any", "--implementation=py"]
    subprocess.run([*pip, *only, "--abi=none", "--dest", str(into), str(wheel)], check=True)


def unpack(wheel: Path, into: Path) -> None:
    """The packages of a wheel, with the metadata that holds its licence, without its scripts."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if ".data/" not in name:
                archive.extract(name, into)


def commands(root: Path) -> None:
    place(root / "usr/bin/pysendmail", SCRIPT.encode(), mode=0o755)
    for name in IN_BIN:
        (root / "usr/sbin" / name).unlink()
        (root / "usr/bin" / name).symlink_to("../sbin/sendmail")
    (root / "usr/lib/sendmail").symlink_to("../sbin/sendmail")


def files(root: Path) -> None:
    """Units, their users and directories, the configuration, the man pages, the shell's completion."""
    systemd = ROOT / "contrib/systemd"
    for whose, units in (("system", systemd), ("user", systemd / "user")):
        for unit in (*units.glob("*.service"), *units.glob("*.socket")):
            place(root / "usr/lib/systemd" / whose / unit.name, unit.read_bytes())
    place(root / "usr/lib/sysusers.d/pysendmail.conf", (systemd / "sysusers.conf").read_bytes())
    place(root / "usr/lib/tmpfiles.d/pysendmail.conf", (systemd / "tmpfiles.conf").read_bytes())
    place(root / "etc/pysendmail/pysendmail.toml", (HERE / "pysendmail.toml").read_bytes())
    place(root / "usr/share/python3/runtime.d/pysendmail.rtupdate", (HERE / "rtupdate").read_bytes(), mode=0o755)
    completion = (ROOT / "contrib/completions/pysendmail.bash").read_bytes()
    place(root / "usr/share/bash-completion/completions/pysendmail", completion)
    for page in (ROOT / "man").glob("*.[1-8]"):
        place(root / f"usr/share/man/man{page.suffix[1:]}/{page.name}.gz", compressed(page.read_bytes()))
    for link in (root / "usr/sbin").iterdir():
        if link.is_symlink():
            (root / f"usr/share/man/man8/{link.name}.8.gz").symlink_to("sendmail.8.gz")


def texts(root: Path, version: str) -> None:
    documents = root / "usr/share/doc/pysendmail"
    licences = sorted((root / PACKAGES).glob("*.dist-info/**/LICEN[CS]E*"))
    copyright = (HERE / "copyright").read_text()
    for licence in licences:
        name = licence.relative_to(root / PACKAGES).parts[0].partition("-")[0]
        text = licence.read_text(errors="replace")
        if "Apache License" in text and "END OF TERMS AND CONDITIONS" in text:
            text = "See /usr/share/common-licenses/Apache-2.0.\n"
        copyright += f"\nThe text that came with {name}:\n\n{text}"
    place(documents / "copyright", copyright.encode())
    built = formatdate(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    log = f"pysendmail ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n -- {MAINTAINER}  {built}\n"
    place(documents / "changelog.gz", compressed(log.encode()))
    place(documents / "CHANGELOG.md.gz", compressed((ROOT / "CHANGELOG.md").read_bytes()))


MAINTAINER = "pysendmail maintainers <maintainers@pysendmail.invalid>"


def control(root: Path, version: str) -> None:
    octets = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file())
    text = (HERE / "control").read_text()
    text = text.format(version=version, maintainer=MAINTAINER, size=octets // 1024)
    place(root / "DEBIAN/control", text.encode())
    place(root / "DEBIAN/conffiles", b"/etc/pysendmail/pysendmail.toml\n")
    for script in ("preinst", "postinst", "prerm", "postrm"):
        if (HERE / script).exists():
            place(root / "DEBIAN" / script, (HERE / script).read_bytes(), mode=0o755)


def place(path: Path, octets: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(octets)
    path.chmod(mode)


def compressed(octets: bytes) -> bytes:
    return gzip.compress(octets, 9, mtime=0)


if __name__ == "__main__":
    os.umask(0o022)
    if len(sys.argv) != 3 or not shutil.which("dpkg-deb"):
        sys.exit("usage: python3 contrib/debian/build.py WHEEL DIRECTORY (needs dpkg-deb)")
    print(main(Path(sys.argv[1]), Path(sys.argv[2])))
