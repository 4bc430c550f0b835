"""nullmailer: `remotes`, and the files of one value each beside it (nullmailer-send(8), -inject(1), -queue(8)).

A line of `remotes` is a host, a protocol and its options, as a shell would split them; they are tried in their order.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from pysendmail.draft import Draft, Fate, Table
from pysendmail.foreign.sheet import Entry, Sheet, lines, numeral

# The files beside `remotes`: what they are here. Seconds unless it is a name.
SECONDS = {
    "pausetime": ("retry", "first"),
    "maxpause": ("retry", "maximum"),
    "queuelifetime": ("queue", "lifetime"),
}
NEEDLESS = {
    "sendtimeout": "each step of a session has its own deadline ([timeout])",
    "idhost": "a Message-ID ends with hostname",
}


def read(file: Path, text: str, look: Callable[[Path], str]) -> Draft:
    sheet = Sheet(file, look)
    _beside(sheet, file.parent)
    for number, line in lines(text):
        try:
            words = shlex.split(line)
        except ValueError as error:
            sheet.lost(Entry(number, "a line", ""), f"its quotes are wrong: {error}")
            continue
        _remote(sheet, number, words)
    return sheet.draft


def _beside(sheet: Sheet, directory: Path) -> None:
    draft = sheet.draft

    def first_line(name: str) -> str:
        return next((line for _, line in lines(sheet.glance(directory / name))), "")

    name = first_line("me") or first_line("helohost")
    if host := first_line("helohost") or name:
        draft.set("", "hostname", host)
    if domain := first_line("defaulthost") or name:
        if "." not in domain and (suffix := first_line("defaultdomain")):
            domain = f"{domain}.{suffix}"
        draft.set("", "domain", domain)
    if addresses := first_line("adminaddr").replace(",", " ").split():
        address, *more = addresses
        draft.set("aliases", "catch_all", address)
        if more:
            text = f"catch_all is one address: {address}; for {', '.join(more)} write an alias, and its name there"
            sheet.remark(Fate.LOST, 1, "adminaddr", text, directory / "adminaddr")
    if sender := first_line("allmailfrom"):
        sheet.force(sender)
        text = "the address is written into From as well; the original goes to Reply-To"
        sheet.remark(Fate.CHANGED, 1, "allmailfrom", text, directory / "allmailfrom")
    for file, (section, key) in SECONDS.items():
        if seconds := numeral(first_line(file)):
            draft.set(section, key, f"{seconds}s")
    if address := first_line("doublebounceto"):
        draft.set("bounce", "postmaster", address)
    if first_line("bounceto"):
        text = "a bounce goes to the sender; without one, to postmaster in [bounce]"
        sheet.remark(Fate.LOST, 1, "bounceto", text, directory / "bounceto")
    for file, text in NEEDLESS.items():
        if first_line(file):
            sheet.remark(Fate.NEEDLESS, 1, file, text, directory / file)


def _remote(sheet: Sheet, number: int, words: list[str]) -> None:
    host, *rest = words
    if rest and rest[0] == "qmqp":
        sheet.lost(Entry(number, host, ""), "QMQP is not spoken here")
        return
    options = {}
    for word in rest[1:] if rest and "=" not in rest[0] and not rest[0].startswith("-") else rest:
        key, _, value = word.removeprefix("--").partition("=")
        options[key] = Entry(number, key, value)
    implicit = "tls" in options or "ssl" in options
    smarthosts = sheet.draft.smarthosts
    port = options["port"].value if "port" in options else "465" if implicit else "25"
    name = host if any(one["name"] == "main" for one in smarthosts) else "main"
    name = f"{host}-{len(smarthosts) + 1}" if any(one["name"] == name for one in smarthosts) else name
    smarthost: Table = {"name": name, "host": host, "port": numeral(port)}
    smarthosts.append(smarthost)
    entry = Entry(number, host, "")
    if "user" in options:
        smarthost["username"] = options["user"].value
        if "pass" in options:
            sheet.draft.passwords[name] = options["pass"].value.encode()
    if "auth-login" in options and "username" in smarthost:
        smarthost["auth"] = ["LOGIN"]
    if implicit or "starttls" in options:
        if implicit != (smarthost["port"] == 465):
            smarthost["tls_implicit"] = implicit
        smarthost["tls"] = "encrypt" if "insecure" in options else "verify"
    elif "username" in smarthost:
        sheet.unprotected(smarthost, entry)
    else:
        smarthost["tls"] = "none"
    if "x509cafile" in options:
        sheet.authorities(smarthost, options["x509cafile"])
    if "x509certfile" in options:
        key = options["x509keyfile"].value if "x509keyfile" in options else ""
        sheet.client_certificate(smarthost, options["x509certfile"], key)
    known = {"port", "user", "pass", "auth-login", "tls", "ssl", "starttls", "insecure", "x509cafile"}
    for key in options.keys() - known - {"x509certfile", "x509keyfile"}:
        # Named only where it cannot be the rest of a password that has no quotes around it.
        what = key if key in ("source", "x509crlfile", "x509fmtder") else "an option"
        sheet.remark(Fate.LOST, number, what, "there is no such thing here")
