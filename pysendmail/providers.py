"""providers: where well-known mail providers take mail from their users. Few and sure: `setup` asks the DNS for others.

Each entry is that of Delta Chat's database (github.com/deltachat/provider-db, as of November 2024), which people with
accounts there have tried; where it has two ports, TLS from the first byte. The user name is the whole address. What
has changed since is found by `setup` itself: it probes before it writes anything.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """`hint` is what to know before the password is asked for; `passwords`: whether one is of any use there."""

    name: str
    domains: tuple[str, ...]
    host: str
    port: int  # 465: TLS from the first byte; 587: STARTTLS
    hint: str = ""
    passwords: bool = True


_APP_PASSWORD = "it takes no ordinary password, but an app password: make one in the settings of the account"  # noqa: S105

_PASSWORD_FOR_PROGRAMS = "it wants the password for mail programs, which is set in the settings of the mailbox"  # noqa: S105
_TOKENS = 'it takes tokens only: password_command that prints one, and auth = ["XOAUTH2"]'
_YAHOO = "yahoo.com yahoo.de yahoo.fr yahoo.it yahoo.es yahoo.co.uk ymail.com"


def _of(name: str, domains: str, host: str, port: int, hint: str = "") -> Provider:
    return Provider(
        name=name, domains=tuple(domains.split()), host=host, port=port, hint=hint, passwords=hint is not _TOKENS
    )


PROVIDERS = (
    _of("Gmail", "gmail.com googlemail.com", "smtp.gmail.com", 465, _APP_PASSWORD),
    _of("iCloud", "icloud.com me.com mac.com", "smtp.mail.me.com", 587, _APP_PASSWORD),
    _of("Outlook.com", "outlook.com hotmail.com live.com outlook.de", "smtp.office365.com", 587, _TOKENS),
    _of("Yahoo", _YAHOO, "smtp.mail.yahoo.com", 465, _APP_PASSWORD),
    _of("Fastmail", "fastmail.com fastmail.fm", "smtp.fastmail.com", 465, _APP_PASSWORD),
    _of("GMX", "gmx.de gmx.net gmx.at gmx.ch", "mail.gmx.net", 465, "its settings must allow POP3 and IMAP first"),
    _of("mailbox.org", "mailbox.org", "smtp.mailbox.org", 465),
    _of("Posteo", "posteo.de posteo.net", "posteo.de", 465),
    _of("Telekom", "t-online.de magenta.de", "securesmtp.t-online.de", 465, _PASSWORD_FOR_PROGRAMS),
)


def of(domain: str) -> Provider | None:
    """Whose domain it is."""
    return next((provider for provider in PROVIDERS if domain.lower() in provider.domains), None)
