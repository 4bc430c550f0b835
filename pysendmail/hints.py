"""hints: what can be done about a failure, in a sentence or two, for a bounce and for `queue explain`.

HINTS is a table: the first row that fits gives the words. They say what is likely and no more than that, and
whose turn it is. Precise status codes (RFC 3463, RFC 7505, RFC 7372, and some that large providers made up)
come first, then what servers write behind vague ones, then the vague ones themselves.
"""

from __future__ import annotations

import re

_NO_SUCH_ADDRESS = "The address does not exist there. Check its spelling, above all the part before the @."
_NO_SUCH_DOMAIN = "The domain of the address does not exist or takes no mail. Check the part after the @."
_FULL = "The recipient's mailbox is full. Try again in some days, or reach the recipient another way."
_TOO_LARGE = "The message is too large. Send it in parts, or put the file somewhere and send a link."
_LOOP = "The mail went round in a loop among servers. Only their administrators can mend that."
_WRONG_SENDER = (
    "The account that this machine uses at the smarthost may not send under the sender's address. The "
    'administrator can allow that at the provider, or set from = "force" and force_from under [rewrite] in the '
    "configuration."
)
_BAD_SENDER = (
    "The server does not take the sender's address. Check it, above all its domain; the administrator "
    "of this machine can set the address under [rewrite] in the configuration."
)
_UNVERIFIED = (
    "The receiving server could not verify that this machine may send for the sender's domain (SPF, "
    "DKIM, DMARC). The administrator of that domain or of the smarthost can mend that."
)
_NO_RELAY = (
    "The smarthost does not pass on mail for this machine. Its administrator should check the "
    "smarthost's user name and password (`pysendmail probe`)."
)
_UNWANTED = (
    "The server takes the message, or the address that it was sent from, for unwanted mail. If it is "
    "not, the administrator of this machine can ask for it to be let through; the server's words may "
    "say where."
)
_GREYLISTED = (
    "The server asks new senders to wait and try again, which pysendmail does by itself. If it is never "
    "content, the administrator of the recipient's server can mend that."
)
_RULE = (
    "A rule of the server forbids this message. The server's words are the best lead; the administrator "
    "of this machine or of the recipient's server can say more."
)
_NO_IDEA = (
    "pysendmail knows no more than the server's words. If they do not help, show this report to the "
    "administrator of this machine or of the recipient's server."
)
_NO_TLS = (
    "No trustworthy encrypted connection to the smarthost came about. The administrator of this machine "
    "should look at `pysendmail probe`; send the message again when that is mended."
)
PASSING = (
    "The trouble may have been a passing one. If the message still matters, send it again, or reach the "
    "recipient another way."
)

# Status or its first numbers; a pattern in the reply, case ignored, of bounded reach; the words.
HINTS: tuple[tuple[str, str, str], ...] = (
    ("5.1.1", "", _NO_SUCH_ADDRESS),
    ("5.1.2", "", _NO_SUCH_DOMAIN),
    ("5.1.3", "", "The address is not well formed for that server. Check its spelling."),
    ("5.1.6", "", "The recipient has moved and left no new address. Ask for it another way."),
    ("5.1.7", "", _BAD_SENDER),
    ("5.1.8", "", _BAD_SENDER),
    ("5.1.10", "", "The recipient's domain says that it takes no mail at all. Check the part after the @."),
    ("5.2.1", "", "The mailbox exists but takes no mail at present. Reach the recipient another way."),
    ("5.2.2", "", _FULL),
    ("5.2.3", "", _TOO_LARGE),
    ("5.3.4", "", _TOO_LARGE),
    ("5.4.4", "", _NO_SUCH_DOMAIN),
    ("5.4.6", "", _LOOP),
    ("5.4.14", "", _LOOP),
    (
        "5.6.7",
        "",
        "The address has letters outside ASCII before the @, and the mail server takes no such addresses "
        "(it does not offer SMTPUTF8). Ask the recipient for another address.",
    ),
    ("5.7.23", "", _UNVERIFIED),
    (
        "5.7.25",
        "",
        "The sending server has no valid reverse name in the DNS. Its administrator can mend that.",
    ),
    ("5.7.26", "", _UNVERIFIED),
    ("5.7.60", "", _WRONG_SENDER),
    ("5", r"\brelay(ing)?\b.{0,40}\b(den|not|prohib|refus)|\b(not|unable|den\w+)\b.{0,30}\brelay", _NO_RELAY),
    (
        "5",
        r"send ?as\b|not owned by|sender .{0,40}not (allowed|permitted|authori[sz]ed)"
        r"|from .{0,40}(mismatch|not allowed|not verified)",
        _WRONG_SENDER,
    ),
    ("5", r"sender address rejected", _BAD_SENDER),
    ("5", r"\b(spf|dkim|dmarc)\b|unauthenticated", _UNVERIFIED),
    ("5", r"mailbox.{0,20}\bfull|over ?quota|quota exceeded|insufficient (disk|storage)", _FULL),
    ("5", r"too (large|big)|size (limit|exceed)|exceed\w{0,9} .{0,30}size", _TOO_LARGE),
    (
        "5",
        r"(user|recipient|mailbox|address|account)\b.{0,30}(unknown|not found|not exist|n't exist|invalid)"
        r"|(unknown|no such|invalid) (local )?(user|recipient|mailbox|address|account)"
        r"|recipient address rejected: access denied",
        _NO_SUCH_ADDRESS,
    ),
    ("5", r"\bspam\b|block(ed|list)|black ?list|reputation|spamhaus|\b(rbl|dnsbl)\b|virus", _UNWANTED),
    ("5.7", "", _RULE),
    ("5", "", _NO_IDEA),
    ("", r"gr[ea]y ?list", _GREYLISTED),
    ("4.2.2", "", _FULL),
    ("4.7.4", "", _NO_TLS),
    ("4.7.5", "", _NO_TLS),
    ("", "", PASSING),
)
_COMPILED = tuple((status, re.compile(pattern, re.IGNORECASE), words) for status, pattern, words in HINTS)


def hint(status: str, reply: str) -> str:
    """What the sender can do about a failure with this status (RFC 3463) and reply."""
    return next(
        words
        for numbers, pattern, words in _COMPILED
        if (not numbers or f"{status}.".startswith(f"{numbers}.")) and pattern.search(reply)
    )
