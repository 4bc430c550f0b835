"""ssmtp: ssmtp.conf(5) and revaliases: a keyword, = and a value on a line; keywords in any case.

sSMTP checks certificates only against TLS_CA_File or TLS_CA_Dir, and has no queue: what it had was lost or sent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pysendmail.draft import Draft, Fate, Table
from pysendmail.foreign.sheet import BEYOND_PORT, Entry, Sheet, host_and_port, lines, one_target

NEEDLESS = {
    "debug": "the daemon logs each step",
    "minuserid": "catch_all in [aliases] is for every local name without an alias",
    "useoldauth": "the commands are those of RFC 4954",
}
LOST = {"tls_ca_dir": "name one file of certificates (tls_ca_file); the default is the system's trust store"}
CARRIED = {
    *("root", "mailhub", "rewritedomain", "hostname", "fromlineoverride", "usetls", "usestarttls", "authuser"),
    *("authpass", "authmethod", "tlscert", "usetlscert", "tlskey", "tls_ca_file"),
}


def read(file: Path, text: str, look: Callable[[Path], str]) -> Draft:
    sheet = Sheet(file, look)
    entries: dict[str, Entry] = {}
    for number, line in lines(text):
        key, _, value = line.partition("=")
        # A # after blanks begins a comment as well.
        entries[key.strip().lower()] = Entry(number, key.strip(), value.partition(" #")[0].strip())
    sheet.leave_out(entries, CARRIED, NEEDLESS, LOST)
    _names(sheet, entries)
    _smarthost(sheet, entries)
    _revaliases(sheet, file.with_name("revaliases"))
    return sheet.draft


def _value(entries: dict[str, Entry], key: str) -> str:
    return entries[key].value if key in entries else ""


def _on(entries: dict[str, Entry], key: str) -> bool:
    return _value(entries, key).lower() in ("yes", "true", "on")


def _names(sheet: Sheet, entries: dict[str, Entry]) -> None:
    draft = sheet.draft
    if name := _value(entries, "hostname"):
        draft.set("", "hostname", name)
    if domain := _value(entries, "rewritedomain") or name:
        draft.set("", "domain", domain)
    if entries.get("rewritedomain") and not _on(entries, "fromlineoverride"):
        text = "From of a message stays as it is, but for local names; to have one for all: force_from in [rewrite]"
        sheet.changed(entries["rewritedomain"], text)
        draft.set("rewrite", "from", "qualify")
    root = entries.get("root")
    if root is not None and "@" in root.value:
        draft.set("aliases", "catch_all", root.value)
        sheet.changed(root, "it was for the users below 1000; here it is for every local name without an alias")
    elif root is not None and root.value:
        sheet.needless(root, "local names without an alias go to the mail domain")


def _smarthost(sheet: Sheet, entries: dict[str, Entry]) -> None:
    mailhub = entries.get("mailhub", Entry(0, "mailhub", "mail"))
    host, port = host_and_port(mailhub.value, 25)
    if port == BEYOND_PORT:
        sheet.lost(mailhub, "its port is no number; 25 is written")
        port = 25
    smarthost: Table = {"name": "main", "host": host, "port": port}
    sheet.draft.smarthosts.append(smarthost)
    if user := _value(entries, "authuser"):
        smarthost["username"] = user
        if password := _value(entries, "authpass"):
            sheet.draft.passwords["main"] = password.encode()
        if _value(entries, "authmethod").lower() == "cram-md5":
            smarthost["auth"] = ["CRAM-MD5"]
    _tls(sheet, entries, smarthost, mailhub)


def _tls(sheet: Sheet, entries: dict[str, Entry], smarthost: Table, mailhub: Entry) -> None:
    started = _on(entries, "usestarttls")
    if not (started or _on(entries, "usetls")):
        if "username" in smarthost:
            sheet.unprotected(smarthost, entries.get("usetls", mailhub))
        else:
            smarthost["tls"] = "none"
        return
    if started == (smarthost["port"] == 465):
        smarthost["tls_implicit"] = not started
    if authorities := entries.get("tls_ca_file"):
        smarthost["tls"] = "verify"
        sheet.authorities(smarthost, authorities)
    else:
        sheet.unverified(smarthost, entries["usestarttls" if started else "usetls"])
    if (certificate := entries.get("tlscert")) and certificate.value:
        sheet.client_certificate(smarthost, certificate, _value(entries, "tlskey"))


def _revaliases(sheet: Sheet, file: Path) -> None:
    """local name:address[:mailhub[:port]], a line each."""
    found = []
    for number, line in lines(sheet.glance(file)):
        name, _, rest = line.partition(":")
        address, _, hub = rest.partition(":")
        found.append(Entry(number, name.strip(), address.strip()))
        if hub:
            text = "no smarthost for one local user: [[route]] chooses by the address that he sends as"
            sheet.remark(Fate.LOST, number, hub, text, file)
    if address := one_target(found):
        sheet.force(address)
        text = f"{address} is the sender of all mail, not only of these; the original goes to Reply-To"
        sheet.remark(Fate.CHANGED, found[0].line, ", ".join(entry.key for entry in found), text, file)
        return
    for entry in found:
        text = f"no address for one local user ({entry.value}); [rewrite] has one for all"
        sheet.remark(Fate.LOST, entry.line, entry.key, text, file)
