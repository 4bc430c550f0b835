"""foreign: the configuration of other mail programs as a Draft: Postfix, msmtp, nullmailer, sSMTP and dma.

A reader gets the text of one file and a way to look at the files that it names, and decides; it opens nothing itself.
What it cannot carry over is a remark with its line; passwords go into the draft and are in no remark. None of them
fails on a file that is odd: what is not understood is lost, and said so.

What a program never checked is asked for here: with a password the certificate is verified, unless the older
configuration said in so many words that it is not to be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pysendmail.draft import Draft
from pysendmail.foreign import dma, msmtp, nullmailer, postfix, ssmtp

Look = Callable[[Path], str]
READERS: dict[str, Callable[[Path, str, Look], Draft]] = {
    "postfix": postfix.read,
    "msmtp": msmtp.read,
    "nullmailer": nullmailer.read,
    "ssmtp": ssmtp.read,
    "dma": dma.read,
}
# Where Debian and the programs' own makefiles put them; ~ is the user's home.
PLACES: tuple[tuple[str, str], ...] = (
    ("postfix", "/etc/postfix/main.cf"),
    ("msmtp", "~/.msmtprc"),
    ("msmtp", "~/.config/msmtp/config"),
    ("msmtp", "/etc/msmtprc"),
    ("nullmailer", "/etc/nullmailer/remotes"),
    ("ssmtp", "/etc/ssmtp/ssmtp.conf"),
    ("dma", "/etc/dma/dma.conf"),
)


def of_name(file: Path) -> str:
    """Whose file this is by its name; "" if that does not tell."""
    if "msmtp" in file.name or file.parent.name == "msmtp":
        return "msmtp"
    return next((program for program, place in PLACES if program != "msmtp" and Path(place).name == file.name), "")
