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

PROVIDERS = (
    Provider(
        name="Gmail",
        domains=("gmail.com", "googlemail.com"),
        host="smtp.gmail.com",
        port=465,
        hint=_APP_PASSWORD,
    ),
    Provider(
        name="iCloud",
        domains=("icloud.com", "me.com", "mac.com"),
        host="smtp.mail.me.com",
        port=587,
        hint=_APP_PASSWORD,
    ),
    Provider(
        name="Outlook.com",
        domains=("outlook.com", "hotmail.com", "live.com", "outlook.de"),
        host="smtp.office365.com",
        port=587,
        hint='it takes tokens only: password_command that prints one, and auth = ["XOAUTH2"]',
        passwords=False,
    ),
    Provider(
        name="Yahoo",
        domains=("yahoo.com", "yahoo.de", "yahoo.fr", "yahoo.it", "yahoo.es", "yahoo.co.uk", "ymail.com"),
        host="smtp.mail.yahoo.com",
        port=465,
        hint=_APP_PASSWORD,
    ),
    Provider(
        name="Fastmail",
        domains=("fastmail.com", "fastmail.fm"),
        host="smtp.fastmail.com",
        port=465,
        hint=_APP_PASSWORD,
    ),
    Provider(
        name="GMX",
        domains=("gmx.de", "gmx.net", "gmx.at", "gmx.ch"),
        host="mail.gmx.net",
        port=465,
        hint="its settings must allow POP3 and IMAP first",
    ),
    Provider(
        name="mailbox.org",
        domains=("mailbox.org",),
        host="smtp.mailbox.org",
        port=465,
    ),
    Provider(
        name="Posteo",
        domains=("posteo.de", "posteo.net"),
        host="posteo.de",
        port=465,
    ),
    Provider(
        name="Telekom",
        domains=("t-online.de", "magenta.de"),
        host="securesmtp.t-online.de",
        port=465,
        hint="it wants the password for mail programs, which is set in the settings of the mailbox",
    ),
)


def of(domain: str) -> Provider | None:
    """Whose domain it is."""
    return next((provider for provider in PROVIDERS if domain.lower() in provider.domains), None)
