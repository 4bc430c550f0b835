"""postfix: main.cf(5), and the text of the maps that it names: relayhost, login, TLS, names, rewriting, times.

A logical line begins at the left margin and goes on where a line begins with a blank; the last of two settings holds.
$name is filled in from the file. A map of type hash, lmdb and the like is read from the text that it was made of. What
concerns mail from the network, or mailboxes, is not needed here, and is only named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pysendmail.draft import Draft, Fate, Table
from pysendmail.foreign.sheet import BEYOND_PORT, Entry, Sheet, host_and_port, lines, numeral, one_target

TEXT_MAPS = ("hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "texthash")
PATTERN_MAPS = ("regexp", "pcre", "pcre2")
OTHER_MAPS = (  # which are named; any other word may be a part of a password that a map has in main.cf itself
    *("inline", "environ", "fail", "internal", "proxy", "pipemap", "unionmap", "randmap", "cidr", "nis", "netinfo"),
    *("ldap", "mysql", "pgsql", "sqlite", "mongodb", "memcache", "socketmap", "tcp", "unix"),
)
KNOWN_MAPS = frozenset({"static", *TEXT_MAPS, *PATTERN_MAPS, *OTHER_MAPS})
MAX_VALUE = 4096  # characters, before and after each $name is filled in: they may double and double again
_NAME = re.compile(r"\$(?:(\w+)|\{(\w+)\}|\((\w+)\))")
_TIME = re.compile(r"([0-9]{1,9})([smhdw]?)\Z")
_PATTERN_LINE = re.compile(r"(/.*/\w*)\s+(\S+)\Z")
# A pattern that any address fits.
_ANYTHING = frozenset({"/.*/", "/.+/", "/^.*$/", "/^.+$/", "/./", "/^(.*)@(.*)$/", "/(.*)/"})

# setting -> section, key, unit of a bare number
TIMES = {
    "maximal_queue_lifetime": ("queue", "lifetime", "d"),
    "delay_warning_time": ("queue", "warn_after", "h"),
    "minimal_backoff_time": ("retry", "first", "s"),
    "maximal_backoff_time": ("retry", "maximum", "s"),
    "smtp_connect_timeout": ("timeout", "connect", "s"),
    "smtp_starttls_timeout": ("timeout", "tls", "s"),
    "smtp_data_init_timeout": ("timeout", "data", "s"),
    "smtp_data_xfer_timeout": ("timeout", "data_block", "s"),
    "smtp_data_done_timeout": ("timeout", "data_done", "s"),
}
LEVELS = {"": "none", "none": "none", "may": "may", "encrypt": "encrypt", "verify": "verify", "secure": "verify"}
LEVELS |= {"fingerprint": "fingerprint", "dane": "may", "dane-only": "verify"}
# Read by name below.
CARRIED = {
    *("relayhost", "smtp_fallback_relay", "fallback_relay", "myhostname", "mydomain", "myorigin", "alias_maps"),
    *("smtp_sasl_auth_enable", "smtp_sasl_password_maps", "smtp_sasl_mechanism_filter", "smtp_tls_security_level"),
    *("smtp_use_tls", "smtp_enforce_tls", "smtp_tls_wrappermode", "smtp_tls_CAfile", "smtp_tls_cert_file"),
    *("smtp_tls_key_file", "smtp_tls_fingerprint_cert_match", "smtp_tls_fingerprint_digest", "message_size_limit"),
    *("luser_relay", "2bounce_notice_recipient", "masquerade_domains", "sender_dependent_relayhost_maps"),
    *("canonical_maps", "sender_canonical_maps", "smtp_generic_maps", "smtp_destination_concurrency_limit"),
    *("smtp_tls_mandatory_protocols", "smtp_sender_dependent_authentication", "transport_maps", "alias_database"),
}
LOST = {
    "smtp_helo_name": "hostname is said in EHLO and in Received alike",
    "smtp_tls_CApath": "name one file of certificates (tls_ca_file); the default is the system's trust store",
    "smtp_tls_policy_maps": "write tls into the [[smarthost]] that is meant",
    "smtp_tls_chain_files": "name one PEM file with certificate and key as tls_client_certificate",
    "smtp_bind_address": "the kernel chooses the address that a connection comes from",
    "smtp_bind_address6": "the kernel chooses the address that a connection comes from",
    "mydestination": "there are no mailboxes: aliases and catch_all say where mail for this machine's names goes",
    "always_bcc": "nobody gets a copy of all mail",
    "sender_bcc_maps": "nobody gets a copy of other people's mail",
    "recipient_bcc_maps": "nobody gets a copy of other people's mail",
    "recipient_canonical_maps": "recipients are changed by aliases only",
    "virtual_alias_maps": "write its lines for names of this machine as aliases",
    "header_checks": "headers stay as they are, but for [rewrite] and [headers] received",
    "smtp_header_checks": "headers stay as they are, but for [rewrite] and [headers] received",
    "body_checks": "the body is never looked into",
    "content_filter": "there are no filters",
    "bounce_queue_lifetime": "a bounce lives as long as any mail (lifetime in [queue])",
    "smtp_destination_rate_delay": 'write rate into the [[smarthost]], such as rate = "30/m"',
    "default_destination_rate_delay": 'write rate into the [[smarthost]], such as rate = "30/m"',
    "sender_dependent_default_transport_maps": "a [[route]] chooses the smarthost by the sender",
    "default_transport": "mail goes to a smarthost",
    "relay_transport": "mail goes to a smarthost",
    "smtp_sasl_security_options": "auth in [[smarthost]] names the mechanisms; without TLS no password is sent",
    "smtp_sasl_tls_security_options": "auth in [[smarthost]] names the mechanisms",
    "authorized_submit_users": "authorized_submitters in [access] lists users",
    "empty_address_recipient": "postmaster in [bounce] is who gets what has nowhere to go",
}
# These mean nothing here, or are as they are asked for.
HARMLESS: dict[str, tuple[str, ...]] = {
    "smtp_sasl_security_options": ("noanonymous",),
    "smtp_sasl_tls_security_options": ("noanonymous",),
    "smtp_tls_CApath": ("/etc/ssl/certs", "/etc/ssl/certs/"),
    "default_transport": ("smtp",),
    "relay_transport": ("relay", "smtp"),
    "virtual_alias_maps": ("",),
    "content_filter": ("",),
    "mydestination": ("",),
}


def read(file: Path, text: str, look: Callable[[Path], str]) -> Draft:
    return _Reading(Sheet(file, look), text).draft()


def _logical(text: str) -> Iterator[Entry]:
    """name = value, with the lines that go on; comments and empty lines may stand in between."""
    begun: list[str] = []
    first = 0
    for number, line in enumerate([*text.split("\n"), "end"], 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t" and begun:
            begun.append(line.strip())
            continue
        if begun:
            key, _, value = " ".join(begun).partition("=")
            yield Entry(first, key.strip(), value.strip())
        begun, first = [line.strip()], number


def _words(text: str) -> list[str]:
    """A list: commas and blanks end a word, but where they stand in braces."""
    words, depth = [""], 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth <= 0 and character in ", \t":
            words.append("")
        else:
            words[-1] += character
    return [word for word in words if word]


def _bare(text: str) -> str:
    """Without the braces around it."""
    return text[1:-1].strip() if text.startswith("{") and text.endswith("}") else text


class _Reading:
    """One pass over a main.cf."""

    def __init__(self, sheet: Sheet, text: str) -> None:
        self.sheet = sheet
        self.entries = {entry.key: entry for entry in _logical(text)}
        self.values: dict[str, str] = {}  # of names that were filled in
        self.logins: dict[str, tuple[str, str]] = {}

    def draft(self) -> Draft:
        self.names()
        self.logins = dict(self.login_lines())
        self.smarthosts()
        self.routes()
        self.rewriting()
        self.numbers()
        for entry in self.entries.values():
            if entry.key not in CARRIED and entry.key not in TIMES:
                self.other(entry)
        return self.sheet.draft

    def other(self, entry: Entry) -> None:
        if entry.key in LOST and entry.value not in HARMLESS.get(entry.key, ()):
            self.sheet.lost(entry, LOST[entry.key])
        else:
            self.sheet.needless(entry)

    # -- values --

    def value(self, key: str, default: str = "") -> str:
        """The value with each $name filled in; a name that the file does not have stays as it is."""
        return self.filled(f"${key}") if key in self.entries else self.filled(default)

    def filled(self, text: str) -> str:
        def fill(match: re.Match[str]) -> str:
            name = match[1] or match[2] or match[3]
            if name not in self.values and name in self.entries:
                self.values[name] = match[0]  # what it is within itself
                self.values[name] = self.filled(self.entries[name].value)
            elif name == "mydomain" and "myhostname" in self.entries:
                return self.value("myhostname").partition(".")[2]
            return self.values.get(name, match[0])

        return _NAME.sub(fill, text[:MAX_VALUE])[:MAX_VALUE]

    def on(self, key: str) -> bool:
        return self.value(key).lower() == "yes"

    def words(self, key: str) -> list[str]:
        return self.value(key).replace(",", " ").split()

    def map_lines(self, key: str, whose: str = "") -> Iterator[tuple[Path, Entry]]:
        """The lines of all maps that a setting names: left side and right side, and the file they are in."""
        words = _words(self.value(key))
        whole = all(word.partition(":")[0] in KNOWN_MAPS for word in words)  # or what was meant as one was cut
        for word in words:
            kind, colon, place = word.partition(":")
            path = Path(place)
            if kind == "static" and colon and whole:
                yield self.sheet.file, Entry(self.entries[key].line, "*", _bare(place))
            elif kind in TEXT_MAPS and colon:
                for number, line in lines(self.sheet.look(place, self.entries[key])):
                    left, _, right = line.replace("\t", " ").partition(" ")
                    yield path, Entry(number, left, right.strip())
            elif kind in PATTERN_MAPS and colon:
                for number, line in lines(self.sheet.look(place, self.entries[key])):
                    if match := _PATTERN_LINE.match(line):
                        yield path, Entry(number, match[1], match[2])
            else:
                which = kind if kind in OTHER_MAPS else "this"
                self.sheet.lost(self.entries[key], f"only maps that are made of text can be read, not {which}{whose}")

    # -- names --

    def names(self) -> None:
        draft, entries = self.sheet.draft, self.entries
        if (name := self.value("myhostname")) and "$" not in name:
            draft.set("", "hostname", name)
        origin = self.value("myorigin", "$myhostname")
        if origin.startswith("/") and "myorigin" in entries:
            origin = self.sheet.look(origin, entries["myorigin"]).split("\n")[0].strip()
        if origin and "$" not in origin:
            draft.set("", "domain", origin)
        elif "myorigin" in entries and "$" in origin:
            self.sheet.lost(entries["myorigin"], f"{origin} is not in this file: write domain")
        aliases = [word.partition(":")[2] for word in self.words("alias_maps") if word.partition(":")[0] in TEXT_MAPS]
        if aliases and aliases[0] != "/etc/aliases":
            draft.set("aliases", "file", aliases[0])
        if len(aliases) > 1:
            text = f"aliases are one file: put the lines of {', '.join(aliases[1:])} into it"
            self.sheet.lost(entries["alias_maps"], text)
        if address := self.value("luser_relay"):
            draft.set("aliases", "catch_all", address)
        if (address := self.value("2bounce_notice_recipient")) and address != "postmaster":
            draft.set("bounce", "postmaster", address)

    # -- smarthosts --

    def login_lines(self) -> Iterator[tuple[str, tuple[str, str]]]:
        if not self.on("smtp_sasl_auth_enable"):
            return
        for path, entry in self.map_lines("smtp_sasl_password_maps", ": write the password into a file of its own"):
            user, colon, password = entry.value.partition(":")
            if colon:
                yield entry.key, (user, password)
            else:
                text = "a line is to be HOST USER:PASSWORD"
                self.sheet.remark(Fate.LOST, entry.line, "a login", text, path)

    def smarthosts(self) -> None:
        relays = [*self.words("relayhost")[:1], *self.words("smtp_fallback_relay"), *self.words("fallback_relay")]
        if not self.words("relayhost"):
            entry = self.entries.get("relayhost", Entry(0, "relayhost", ""))
            self.sheet.lost(entry, "Postfix asks the DNS where mail goes; here it needs a [[smarthost]]")
        for number, relay in enumerate(relays):
            name = "main" if not number else "fallback" if number == 1 else f"fallback-{number}"
            self.smarthost(relay, name, self.entries.get("relayhost" if not number else "smtp_fallback_relay"))

    def smarthost(self, relay: str, name: str, entry: Entry | None, sender: str = "") -> str:
        """Adds the next hop `relay`; its name."""
        entry = entry or Entry(0, relay, relay)
        host, port = host_and_port(relay, 25)
        if port == BEYOND_PORT:
            self.sheet.lost(entry, f"{relay}: its port is not known by this name; 25 is written")
            port = 25
        if not relay.startswith("[") and "relayhost" in entry.key:
            text = f"Postfix asked for the MX of {host}; here the connection goes to that name itself"
            self.sheet.changed(entry, text)
        smarthost: Table = {"name": name, "host": host, "port": port}
        self.sheet.draft.smarthosts.append(smarthost)
        per_sender = sender if self.on("smtp_sender_dependent_authentication") else ""
        for key in (per_sender, relay, f"[{host}]", host, f"{host}:{port}", "*"):
            if key and key in self.logins:
                smarthost["username"], password = self.logins[key]
                self.sheet.draft.passwords[name] = password.encode()
                break
        else:
            if self.on("smtp_sasl_auth_enable") and name == "main":
                text = f"there is no line for {relay} in it: write username and password_file"
                self.sheet.lost(self.entries.get("smtp_sasl_password_maps", entry), text)
        if "username" in smarthost:
            self.mechanisms(smarthost)
        self.tls(smarthost, entry)
        if limit := numeral(self.value("smtp_destination_concurrency_limit")):
            smarthost["connections"] = limit
        return name

    def mechanisms(self, smarthost: Table) -> None:
        wanted = [word.upper() for word in self.words("smtp_sasl_mechanism_filter") if not word.startswith("!")]
        known = [word for word in wanted if word in ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER")]
        if known:
            smarthost["auth"] = known
        if len(known) < len(self.words("smtp_sasl_mechanism_filter")):
            text = "auth is a list of PLAIN, LOGIN, CRAM-MD5, XOAUTH2 and OAUTHBEARER; the rest is left out"
            self.sheet.changed(self.entries["smtp_sasl_mechanism_filter"], text)

    def tls(self, smarthost: Table, entry: Entry) -> None:
        key = "smtp_tls_security_level"
        given = self.value(key)
        if not given and self.on("smtp_enforce_tls"):
            key, given = "smtp_enforce_tls", "verify"
        elif not given and self.on("smtp_use_tls"):
            key, given = "smtp_use_tls", "may"
        setting = self.entries.get(key, entry)
        level = LEVELS.get(given, "verify")
        if given not in LEVELS:
            self.sheet.changed(setting, f'{given} is not known; tls = "verify" is written')
        elif given.startswith("dane"):
            self.sheet.changed(setting, f'TLSA records are not looked up; tls = "{level}" is written')
        wrapped = self.on("smtp_tls_wrappermode")
        if level in ("none", "may") and "username" in smarthost:
            self.sheet.unprotected(smarthost, setting)
            level = str(smarthost.get("tls", "verify"))
        smarthost["tls"] = level
        if level == "none":
            return
        if wrapped != (smarthost["port"] == 465):
            smarthost["tls_implicit"] = wrapped
        if level == "fingerprint":
            self.pins(smarthost)
        if authorities := self.value("smtp_tls_CAfile"):
            self.sheet.authorities(
                smarthost, Entry(self.entries["smtp_tls_CAfile"].line, "smtp_tls_CAfile", authorities)
            )
        if (certificate := self.value("smtp_tls_cert_file")) and certificate != "none":
            shown = Entry(self.entries["smtp_tls_cert_file"].line, "smtp_tls_cert_file", certificate)
            self.sheet.client_certificate(smarthost, shown, self.value("smtp_tls_key_file"))
        if "TLSv1.3" in self.value("smtp_tls_mandatory_protocols").lstrip(">=") and level not in ("none", "may"):
            smarthost["tls_minimum"] = "1.3"

    def pins(self, smarthost: Table) -> None:
        entry = self.entries.get("smtp_tls_fingerprint_cert_match")
        pins = [word for pin in self.words("smtp_tls_fingerprint_cert_match") for word in pin.split("|")]
        if self.value("smtp_tls_fingerprint_digest", "sha256") == "sha256" and pins:
            smarthost["tls_fingerprints"] = pins
            return
        smarthost["tls"] = "verify"
        text = 'it is not SHA-256; tls = "verify" is written, and `pysendmail probe` shows the fingerprint to pin'
        self.sheet.changed(entry or self.entries["smtp_tls_security_level"], text)

    def routes(self) -> None:
        """Who goes elsewhere, by sender and by recipient; all others to the relayhost and its fallbacks."""
        usual = [one["name"] for one in self.sheet.draft.smarthosts]
        routes: list[Table] = []
        for path, entry in self.map_lines("sender_dependent_relayhost_maps"):
            pattern = f"*{entry.key}" if entry.key.startswith("@") else entry.key
            named = self.another(path, entry, entry.value, entry.key)
            routes.append({"sender": pattern, "smarthost": [named]})
        for path, entry in self.map_lines("transport_maps"):
            transport, _, hop = entry.value.partition(":")
            if transport not in ("smtp", "relay", "") or not hop:
                text = f"no transport {transport}: mail goes to a smarthost"
                self.sheet.remark(Fate.LOST, entry.line, entry.key, text, path)
                continue
            pattern = entry.key if "@" in entry.key else f"*@*{entry.key}" if entry.key[0] == "." else f"*@{entry.key}"
            routes.append(
                {"recipient": "*" if entry.key == "*" else pattern, "smarthost": [self.another(path, entry, hop)]}
            )
        if routes:
            self.sheet.draft.tables["route"] = [*routes, *([{"smarthost": usual}] if usual else [])]

    def another(self, path: Path, entry: Entry, relay: str, sender: str = "") -> str:
        """The name of the smarthost `relay`, added if there is none yet."""
        login = self.logins.get(sender) if self.on("smtp_sender_dependent_authentication") else None
        where = host_and_port(relay, 25)
        for one in self.sheet.draft.smarthosts:
            if (one["host"], one["port"]) == where and (login is None or one.get("username") == login[0]):
                return str(one["name"])
        return self.smarthost(relay, f"{where[0]}-{len(self.sheet.draft.smarthosts) + 1}", None, sender)

    # -- rewriting --

    def rewriting(self) -> None:
        for key in ("canonical_maps", "sender_canonical_maps", "smtp_generic_maps"):
            found = list(self.map_lines(key))
            address = one_target([entry for _, entry in found])
            if "@" in address:
                self.sheet.force(address)
                text = f"{address} is the sender of all mail, not only of these; the original goes to Reply-To"
                if any(entry.key == "*" or entry.key in _ANYTHING for _, entry in found):
                    text = "the address is written into From as well; the original goes to Reply-To"
                self.sheet.changed(self.entries[key], text)
                continue
            for path, entry in found:
                text = f"no address for one local user ({entry.value}); [rewrite] has one for all"
                self.sheet.remark(Fate.LOST, entry.line, entry.key, text, path)
        if masqueraded := self.words("masquerade_domains"):
            draft = self.sheet.draft
            host, domain = str(draft.tables.get("hostname", "")), masqueraded[0]
            if host.endswith(f".{domain}"):
                draft.set("", "domain", domain)
                draft.set("rewrite", "masquerade", [host])
            text = "masquerade in [rewrite] lists the domains that are written as domain, each by itself"
            self.sheet.changed(self.entries["masquerade_domains"], text)

    # -- numbers --

    def numbers(self) -> None:
        draft = self.sheet.draft
        for key, (section, ours, unit) in TIMES.items():
            if key not in self.entries:
                continue
            match = _TIME.match(self.value(key))
            if match is None:
                self.sheet.lost(self.entries[key], "this is no time")
            elif int(match[1]):
                draft.set(section, ours, f"{match[1]}{match[2] or unit}")
            elif ours == "warn_after":
                draft.set(section, ours, "0")
            else:
                self.sheet.lost(self.entries[key], "0 is not possible here")
        if "message_size_limit" in self.entries:
            if size := numeral(self.value("message_size_limit")):
                draft.set("queue", "max_message_size", f"{size}B")
            else:
                self.sheet.lost(
                    self.entries["message_size_limit"], "there is always a limit: max_message_size in [queue]"
                )
