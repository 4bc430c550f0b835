"""msmtp: msmtprc: a command and its argument on a line, in sections that `defaults` and `account` begin (msmtp(1)).

An account begins with what `defaults` says at that point, and with copies of the accounts behind its colon. Each
becomes a smarthost; `from` chooses it, as here a [[route]] does, and the default account takes the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pysendmail.draft import Draft, Fate, Table
from pysendmail.foreign.sheet import Entry, Sheet, lines, numeral

NEEDLESS = {
    "logfile": "the journal or standard error has a line for each outcome, and `pysendmail history` more",
    "logfile_time_format": "",
    "syslog": "the journal or standard error has a line for each outcome, and `pysendmail history` more",
    "add_missing_from_header": "a missing From is always added",
    "add_missing_date_header": "a missing Date is always added",
    "set_date_header": "a missing Date is always added",
    "set_msgid_header": "a missing Message-ID is always added",
    "remove_bcc_headers": "Bcc never leaves the machine",
    "keepbcc": "Bcc never leaves the machine",
    "auto_from": "the sender is the caller at the mail domain",
    "allow_from_override": "[rewrite] holds for -f as well",
    "tls_min_dh_prime_bits": "OpenSSL has its own minimum",
}
LOST = {
    "proxy_host": "no proxy is spoken to; the connection is direct",
    "proxy_port": "no proxy is spoken to; the connection is direct",
    "socket": "a smarthost is reached by TCP",
    "source_ip": "the kernel chooses the address that a connection comes from",
    "ntlmdomain": "NTLM is not spoken",
    "dsn_notify": "sendmail -N asks for it, message by message",
    "dsn_return": "sendmail -R asks for it, message by message",
    "undisclosed_recipients": "To and Cc stay as they are",
    "tls_priorities": "OpenSSL's own choice holds; tls_minimum is the version",
    "tls_crl_file": "no list of revoked certificates is read",
    "tls_host_override": "the certificate must be for host",
    "eval": "it runs a command as the file is read; write what that prints",
}
# Of the account, read where it becomes a smarthost.
CARRIED = {
    *("host", "port", "from", "set_from_header", "tls", "tls_starttls", "tls_nostarttls", "tls_certcheck", "protocol"),
    *("tls_nocertcheck", "tls_trust_file", "tls_fingerprint", "tls_cert_file", "tls_key_file", "auth", "user"),
    *("password", "passwordeval", "domain", "maildomain", "aliases", "timeout", "connect_timeout"),
}
METHODS = {
    "plain": "PLAIN",
    "login": "LOGIN",
    "cram-md5": "CRAM-MD5",
    "xoauth2": "XOAUTH2",
    "oauthbearer": "OAUTHBEARER",
}
FILES = {"tls_trust_file", "tls_cert_file", "tls_key_file", "aliases"}
SHA256_DIGITS = 64
Account = dict[str, Entry]


def read(file: Path, text: str, look: Callable[[Path], str]) -> Draft:
    sheet = Sheet(file, look)
    accounts, default = _accounts(sheet, text)
    names = {}
    for name, account in accounts.items():
        if "host" in account:
            names[name] = _smarthost(sheet, name, account)
        elif account:
            entry = next(iter(account.values()))
            sheet.lost(Entry(entry.line, f"account {name}", ""), "it has no host")
    whose = default if default in accounts else next(iter(accounts), "")
    _machine(sheet, accounts.get(whose, {}))
    _of_others(sheet, accounts, whose)
    _routes(sheet, {name: accounts[name] for name in names}, default, names)
    return sheet.draft


def _accounts(sheet: Sheet, text: str) -> tuple[dict[str, Account], str]:
    """The accounts by name, each with what holds in it, and which of them is the default."""
    accounts: dict[str, Account] = {}
    defaults: Account = {}
    current = defaults
    default = ""
    told = set()  # what is inherited is said once
    for number, line in lines(text):
        key, value = _words(line, _home(sheet.file))
        entry = Entry(number, key, value)
        if key == "defaults":
            current = defaults = {}
        elif key == "account":
            name, _, parents = (part.strip() for part in value.partition(":"))
            copied = [parent.strip() for parent in parents.split(",") if parent.strip()]
            if name == "default" and copied and copied[0] in accounts:
                default = copied[0]
                current = {}
                continue
            current = accounts[name] = dict(defaults)
            for parent in copied:
                current.update(accounts.get(parent, {}))
            default = name if name == "default" else default
        elif key in CARRIED:
            current[key] = entry
        elif (number, key) not in told:
            told.add((number, key))
            if key in NEEDLESS:
                sheet.needless(entry, NEEDLESS[key])
            else:
                sheet.lost(entry, LOST.get(key, "this is no command of msmtp's that is known here"))
    return accounts, default


def _words(line: str, home: Path | None) -> tuple[str, str]:
    """Command and argument; that may stand in quotes, and a file below the user's home begins with ~."""
    key, _, value = line.replace("\t", " ").partition(" ")
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if home is not None and key in FILES and value.startswith("~/"):
        value = str(home / value[2:])
    return key, value


def _home(file: Path) -> Path | None:
    """Whose home a user's configuration lies in: ~/.msmtprc, ~/.config/msmtp/config."""
    if file.name == ".msmtprc":
        return file.parent
    return file.parents[2] if file.parts[-3:] == (".config", "msmtp", "config") else None


def _on(account: Account, key: str, default: bool = False) -> bool:
    """A switch: alone on its line it is on."""
    return account[key].value in ("", "on") if key in account else default


def _smarthost(sheet: Sheet, name: str, account: Account) -> str:
    """Adds the account as a smarthost; its name."""
    host = account["host"].value
    implicit = not _on(account, "tls_starttls", not _on(account, "tls_nostarttls"))
    implicit = implicit and _on(account, "tls")
    smarthost: Table = {"name": name if name != "default" else "main", "host": host}
    smarthost["port"] = numeral(account["port"].value) if "port" in account else 465 if implicit else 25
    sheet.draft.smarthosts.append(smarthost)
    if (protocol := account.get("protocol")) and protocol.value not in ("", "smtp"):
        sheet.lost(protocol, f"{protocol.value} is not spoken to a smarthost")
    _login(sheet, smarthost, account)
    if not _on(account, "tls"):
        if "username" in smarthost:
            sheet.unprotected(smarthost, account.get("tls", account["host"]))
        else:
            smarthost["tls"] = "none"
    else:
        if implicit != (smarthost["port"] == 465):
            smarthost["tls_implicit"] = implicit
        _certificate(sheet, smarthost, account)
    _sender(sheet, smarthost, account)
    found: str = smarthost["name"]
    return found


def _certificate(sheet: Sheet, smarthost: Table, account: Account) -> None:
    smarthost["tls"] = "verify"
    pin = account.get("tls_fingerprint")
    if pin is not None and pin.value:
        if len(pin.value.replace(":", "")) == SHA256_DIGITS:
            smarthost["tls"] = "fingerprint"
            smarthost["tls_fingerprints"] = [pin.value]
        else:
            sheet.changed(pin, "it is not SHA-256; `pysendmail probe` shows the one to write into tls_fingerprints")
    elif not _on(account, "tls_certcheck", not _on(account, "tls_nocertcheck")):
        smarthost["tls"] = "encrypt"
    elif (trust := account.get("tls_trust_file")) and trust.value not in ("", "system"):
        sheet.authorities(smarthost, trust)
    if (certificate := account.get("tls_cert_file")) and certificate.value:
        key = account["tls_key_file"].value if "tls_key_file" in account else ""
        sheet.client_certificate(smarthost, certificate, key)


def _login(sheet: Sheet, smarthost: Table, account: Account) -> None:
    auth = account.get("auth")
    if auth is None or auth.value == "off":
        return
    if "user" not in account:
        sheet.lost(auth, "there is no user with it")
        return
    smarthost["username"] = account["user"].value
    if auth.value in METHODS:
        smarthost["auth"] = [METHODS[auth.value]]
    elif auth.value not in ("", "on"):
        sheet.changed(auth, f"{auth.value} is not spoken; the best that the server offers is taken")
    if (command := account.get("passwordeval")) and command.value:
        smarthost["password_command"] = ["/bin/sh", "-c", command.value]
        sheet.changed(command, "the daemon's user runs it, at each connection and without a terminal")
    elif (password := account.get("password")) and password.value:
        sheet.draft.passwords[smarthost["name"]] = password.value.encode()
    else:
        sheet.lost(auth, "the password is in .netrc, a keyring or your head: it needs password_file")


def _sender(sheet: Sheet, smarthost: Table, account: Account) -> None:
    sender = account.get("from")
    if sender is None or not sender.value:
        return
    if any(mark in sender.value for mark in "%*?"):
        sheet.changed(sender, "a pattern makes no sender: local names get the mail domain; it chooses the smarthost")
        return
    smarthost["from"] = "force"
    smarthost["force_from"] = sender.value
    text = "all mail through this smarthost has that address, in From too; the original goes to Reply-To"
    sheet.changed(sender, text)


def _machine(sheet: Sheet, account: Account) -> None:
    """What is of one account there, and of the whole machine here: as the default account has it."""
    draft = sheet.draft
    if (domain := account.get("domain")) and domain.value not in ("", "localhost"):
        draft.tables = {"hostname": domain.value, **draft.tables}
    if (domain := account.get("maildomain")) and domain.value:
        draft.set("", "domain", domain.value)
    if (aliases := account.get("aliases")) and aliases.value not in ("", "/etc/aliases"):
        draft.set("aliases", "file", aliases.value)
    timeout = account.get("timeout") or account.get("connect_timeout")
    if timeout is not None and numeral(timeout.value):
        draft.set("timeout", "connect", f"{numeral(timeout.value)}s")


def _of_others(sheet: Sheet, accounts: dict[str, Account], whose: str) -> None:
    """What other accounts say of it is lost."""
    taken = accounts.get(whose, {}).values()
    for entry in {entry for name in accounts if name != whose for entry in accounts[name].values()}:
        if entry.key in ("domain", "maildomain", "aliases", "timeout", "connect_timeout") and entry not in taken:
            sheet.lost(entry, f"it is one for the whole machine here, as account {whose} has it")


def _routes(sheet: Sheet, accounts: dict[str, Account], default: str, names: dict[str, str]) -> None:
    """Which sender goes where; one account needs none of it."""
    if len(accounts) < 2:
        return
    routes = [
        {"sender": account["from"].value, "smarthost": [names[name]]}
        for name, account in accounts.items()
        if "from" in account and "%" not in account["from"].value
    ]
    if default in names:
        routes.append({"smarthost": [names[default]]})
    else:
        text = "there is no default account: mail of other senders goes to each smarthost in turn"
        sheet.remark(Fate.CHANGED, 0, "account default", text)
    sheet.draft.tables["route"] = routes
