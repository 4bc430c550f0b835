"""dma: dma.conf(5) and auth.conf, the DragonFly Mail Agent's (dma(8)): a name and a value on a line, or a name alone.

dma checks no certificate but by FINGERPRINT, and delivers mail for local names to mailboxes, which there are none of
here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pysendmail.draft import Draft, Fate, Table
from pysendmail.foreign.sheet import Entry, Sheet, lines, numeral

NEEDLESS = {
    "SPOOLDIR": "the queue is [queue] directory",
    "DEBUGLOG": "the daemon logs each step",
    "VERBOSE": "the daemon logs each step",
    "NULLCLIENT": "nothing is ever delivered on this machine",
    "SECURE": "the password goes over TLS only",
    "NOHELO": "HELO is tried where EHLO is refused, and never with a password",
}

LOST = {
    "DEFER": "mail is always tried at once; sendmail -odq queues for the next flush",
    "FULLBOUNCE": "a bounce has the whole message where the sender asks for that (sendmail -R full)",
}
CARRIED = {
    *("SMARTHOST", "PORT", "ALIASES", "AUTHPATH", "SECURETRANSFER", "SECURETRANS", "STARTTLS", "OPPORTUNISTIC_TLS"),
    *("CERTFILE", "INSECURE", "MAILNAME", "MASQUERADE", "FINGERPRINT"),
}


def read(file: Path, text: str, look: Callable[[Path], str]) -> Draft:
    sheet = Sheet(file, look)
    entries: dict[str, Entry] = {}
    for number, line in lines(text):
        key, _, value = line.partition("#")[0].strip().partition(" ")
        if key:
            key, _, more = key.partition("\t")
            entries[key] = Entry(number, key, (more or value).strip())
    sheet.leave_out(entries, CARRIED, NEEDLESS, LOST)
    _names(sheet, entries)
    _smarthost(sheet, entries)
    return sheet.draft


def _names(sheet: Sheet, entries: dict[str, Entry]) -> None:
    draft = sheet.draft
    name = ""
    if (entry := entries.get("MAILNAME")) and entry.value:
        is_file = entry.value.startswith("/")
        name = sheet.look(entry.value, entry).split("\n")[0].strip() if is_file else entry.value
        if name:
            draft.set("", "hostname", name)
            draft.set("", "domain", name)
    if (entry := entries.get("MASQUERADE")) and entry.value:
        user, at, host = entry.value.rpartition("@")
        if at and user and (host or name):
            sheet.force(f"{user}@{host or name}")
            sheet.changed(entry, "the address is written into From as well; the original goes to Reply-To")
        elif at and user:
            sheet.lost(entry, "there is no host after the @, and no MAILNAME: write force_from in [rewrite]")
        else:
            draft.set("", "domain", host or entry.value.removeprefix("@"))
    aliases = entries.get("ALIASES", Entry(0, "ALIASES", "/etc/aliases"))
    if aliases.value != "/etc/aliases":
        draft.set("aliases", "file", aliases.value)
    for _, line in lines(sheet.glance(Path(aliases.value))):
        left, colon, right = line.partition(":")
        if colon and left.strip() == "*":
            draft.set("aliases", "catch_all", right.split()[0].strip(",") if right.split() else "")
            sheet.changed(aliases, "the alias * is catch_all in [aliases] here: take it out of the file")


def _smarthost(sheet: Sheet, entries: dict[str, Entry]) -> None:
    entry = entries.get("SMARTHOST")
    if entry is None or not entry.value:
        sheet.lost(
            entry or Entry(0, "SMARTHOST", ""), "dma asks the DNS where mail goes; here it needs a [[smarthost]]"
        )
        return
    smarthost: Table = {"name": "main", "host": entry.value.strip("[]"), "port": 25}
    port = entries.get("PORT")
    if port and numeral(port.value):
        smarthost["port"] = numeral(port.value)
    elif port:
        sheet.lost(port, "this is no number")
    sheet.draft.smarthosts.append(smarthost)
    _login(sheet, entries, smarthost)
    tls = entries.get("SECURETRANSFER") or entries.get("SECURETRANS")
    if tls is None:
        if "username" in smarthost:
            sheet.unprotected(smarthost, entries.get("INSECURE", entry))
        else:
            smarthost["tls"] = "none"
    else:
        implicit = "STARTTLS" not in entries
        if implicit != (smarthost["port"] == 465):
            smarthost["tls_implicit"] = implicit
        _certificate(sheet, entries, smarthost, tls)
    if (entry := entries.get("CERTFILE")) and entry.value:
        sheet.client_certificate(smarthost, entry, "")


def _certificate(sheet: Sheet, entries: dict[str, Entry], smarthost: Table, tls: Entry) -> None:
    if (pin := entries.get("FINGERPRINT")) and pin.value:
        smarthost["tls"] = "fingerprint"
        smarthost["tls_fingerprints"] = [pin.value]
    elif "OPPORTUNISTIC_TLS" in entries and "username" not in smarthost:
        smarthost["tls"] = "may"
    else:
        sheet.unverified(smarthost, tls)


def _login(sheet: Sheet, entries: dict[str, Entry], smarthost: Table) -> None:
    """The line of auth.conf for this smarthost: user|host:password."""
    entry = entries.get("AUTHPATH")
    if entry is None:
        return
    for number, line in lines(sheet.look(entry.value, entry)):
        user, bar, rest = line.partition("|")
        # As dma does: the host ends at the first colon, blank or tab.
        host, colon, password = rest.partition(":")
        if not (bar and colon):
            path = Path(entry.value)
            sheet.remark(Fate.LOST, number, "login", "a line is to be user|smarthost:password", path)
        elif host.strip() == smarthost["host"]:
            smarthost["username"] = user
            sheet.draft.passwords[smarthost["name"]] = password.strip().encode()
