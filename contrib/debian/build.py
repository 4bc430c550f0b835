#!/usr/bin/env python3
"""Builds pysendmail's Debian packages: python3 contrib/debian/build.py WHEEL DIRECTORY

WHEEL is pysendmail's own (make wheel), DIRECTORY takes the .deb files, whose paths are printed. What pysendmail needs
is fetched by pip now, as pure Python wheels, and unpacked into the package: nothing is downloaded where it is
installed, and one package serves Debian 12 and 13. python3-systemd is Debian's.

Where there is a C compiler, pysendmail-client is built as well, for this machine's architecture: the client in C.
/usr/sbin/sendmail is the first package's link to CHOSEN, and that is a link of update-alternatives(1): to the client
in C while that is installed, else to the Python stub. So it changes in one step, whatever is installed, upgraded or
removed first. Refused: a diversion, between whose steps there is no sendmail.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OLDEST_PYTHON = "3.11"
PACKAGES = "usr/lib/pysendmail"
CHOSEN = "usr/libexec/pysendmail/sendmail"
STUBS = "usr/libexec/pysendmail/python"
NATIVE = "usr/libexec/pysendmail/native"
# sqlite-utils installs plug-ins with pip, on a command line that is not here; nothing here knows a time zone's name;
# rich colours source text and Markdown with the rest, which is half of everything, and its tables need none of it.
UNUSED = ("pip-", "tzdata-", "pygments-", "markdown_it_py-", "mdurl-")
COMPLETIONS = {
    "usr/share/bash-completion/completions/pysendmail": "pysendmail.bash",
    "usr/share/zsh/vendor-completions/_pysendmail": "_pysendmail",
    "usr/share/fish/vendor_completions.d/pysendmail.fish": "pysendmail.fish",
}
IN_BIN = ("mailq", "newaliases")  # where Debian's other mail programs have them; the rest is in sbin
SCRIPT = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/usr/lib/pysendmail")
from pysendmail.cli import run

run()
"""


def main(wheel: Path, directory: Path) -> list[Path]:
    """Build the packages; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
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
        from pysendmail.install import OTHER_NAMES, install_client

        (root / STUBS).mkdir(parents=True)
        install_client(root / STUBS, python="/usr/bin/python3", thin=Path(f"/{PACKAGES}/pysendmail/thin"))
        commands(root, OTHER_NAMES)
        files(root)
        texts(root, "pysendmail", __version__)
        control(root, HERE, __version__)
        built = [package(root, directory / f"pysendmail_{__version__}_all.deb")]
        native = Path(temporary) / "native"
        if compiled(native / NATIVE / "sendmail"):
            architecture = output("dpkg", "--print-architecture")
            texts(native, "pysendmail-client", __version__)
            control(native, HERE / "client", __version__, architecture=architecture, libc=needed_libc(native / NATIVE))
            built.append(package(native, directory / f"pysendmail-client_{__version__}_{architecture}.deb"))
        return built


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def package(root: Path, path: Path) -> Path:
    build = [shutil.which("dpkg-deb") or "dpkg-deb", "--root-owner-group", "-Zxz", "--build"]
    subprocess.run([*build, str(root), str(path)], check=True, stdout=subprocess.DEVNULL)
    return path


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


def compiled(program: Path) -> bool:
    """The client in C, where it can be built."""
    program.parent.mkdir(parents=True)
    source = ROOT / "contrib/client"
    make = ["make", "--silent", "-C", str(source), f"OUT={program}", f"CLIENTS=/{STUBS}", "LDFLAGS=-s"]
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    if done.returncode:
        print("pysendmail-client is not built (apt-get install gcc libc6-dev): " + done.stderr.strip(), file=sys.stderr)
        return False
    subprocess.run([sys.executable, str(source / "overtaken.py"), str(program), f"/{STUBS}"], check=True)
    return True


def needed_libc(directory: Path) -> str:
    """The newest version of the C library that one of its symbols asks for."""
    versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", (directory / "sendmail").read_bytes())
    return "{}.{}".format(*max((int(major), int(minor)) for major, minor in versions))


def commands(root: Path, other_names: Sequence[str]) -> None:
    place(root / "usr/bin/pysendmail", SCRIPT.encode(), mode=0o755)
    (root / "usr/sbin").mkdir()
    (root / "usr/sbin/sendmail").symlink_to(f"../{CHOSEN.removeprefix('usr/')}")
    for name in other_names:
        if name in IN_BIN:
            (root / "usr/bin" / name).symlink_to("../sbin/sendmail")
        else:
            (root / "usr/sbin" / name).symlink_to("sendmail")
    (root / "usr/lib/sendmail").symlink_to("../sbin/sendmail")


def files(root: Path) -> None:
    """Units, their users and directories, the configuration, the man pages, the shells' completions."""
    systemd = ROOT / "contrib/systemd"
    for whose, units in (("system", systemd), ("user", systemd / "user")):
        for unit in (*units.glob("*.service"), *units.glob("*.socket"), *units.glob("*.path")):
            place(root / "usr/lib/systemd" / whose / unit.name, unit.read_bytes())
    place(root / "usr/lib/sysusers.d/pysendmail.conf", (systemd / "sysusers.conf").read_bytes())
    place(root / "usr/lib/tmpfiles.d/pysendmail.conf", (systemd / "tmpfiles.conf").read_bytes())
    place(root / "etc/pysendmail/pysendmail.toml", (HERE / "pysendmail.toml").read_bytes())
    place(root / "usr/share/python3/runtime.d/pysendmail.rtupdate", (HERE / "rtupdate").read_bytes(), mode=0o755)
    flush = (ROOT / "contrib/network/pysendmail-flush").read_bytes()
    for where in ("NetworkManager/dispatcher.d/50-", "networkd-dispatcher/routable.d/50-", "systemd/system-sleep/"):
        place(root / f"usr/lib/{where}pysendmail", flush, mode=0o755)
    profile = ROOT / "contrib/profile.d/pysendmail-alarm.sh"
    place(root / "etc/profile.d" / profile.name, profile.read_bytes())
    for path, file in COMPLETIONS.items():
        place(root / path, (ROOT / "contrib/completions" / file).read_bytes())
    for page in (ROOT / "man").glob("*.[1-8]"):
        place(root / f"usr/share/man/man{page.suffix[1:]}/{page.name}.gz", compressed(page.read_bytes()))
    for link in (root / "usr/sbin").iterdir():
        if link.name != "sendmail":
            (root / f"usr/share/man/man8/{link.name}.8.gz").symlink_to("sendmail.8.gz")


def texts(root: Path, name: str, version: str) -> None:
    documents = root / "usr/share/doc" / name
    licences = sorted((root / PACKAGES).glob("*.dist-info/**/LICEN[CS]E*"))
    copyright = f"{(HERE / 'copyright').read_text()}\n{(ROOT / 'LICENSE').read_text()}"
    for licence in licences:
        library = licence.relative_to(root / PACKAGES).parts[0].partition("-")[0]
        text = licence.read_text(errors="replace")
        if "Apache License" in text and "END OF TERMS AND CONDITIONS" in text:
            text = "See /usr/share/common-licenses/Apache-2.0.\n"
        copyright += f"\nThe text that came with {library}:\n\n{text}"
    place(documents / "copyright", copyright.encode())
    built = formatdate(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    log = f"{name} ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n -- {MAINTAINER}  {built}\n"
    place(documents / "changelog.gz", compressed(log.encode()))
    place(documents / "CHANGELOG.md.gz", compressed((ROOT / "CHANGELOG.md").read_bytes()))


MAINTAINER = "pysendmail maintainers <maintainers@pysendmail.invalid>"


def control(root: Path, source: Path, version: str, **more: str) -> None:
    octets = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file())
    text = (source / "control").read_text()
    text = text.format(version=version, maintainer=MAINTAINER, size=octets // 1024, **more)
    place(root / "DEBIAN/control", text.encode())
    if configuration := [path for path in (root / "etc").rglob("*") if path.is_file()]:
        listed = "".join(f"/{path.relative_to(root)}\n" for path in configuration)
        place(root / "DEBIAN/conffiles", listed.encode())
    for script in ("preinst", "postinst", "prerm", "postrm"):
        if (source / script).exists():
            place(root / "DEBIAN" / script, (source / script).read_bytes(), mode=0o755)


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
    print(*main(Path(sys.argv[1]), Path(sys.argv[2])), sep="\n")
