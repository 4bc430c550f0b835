"""What `sendmail -bt` says of an address, where it depends on the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from pysendmail import whereto
from pysendmail.aliases import Aliases
from pysendmail.config_file import Instance, parse
from pysendmail.whereto import Circumstances

TOP = "hostname = 'box.example.com'\ndomain = 'example.com'\n"
SMARTHOST = "[[smarthost]]\nname = 'main'\nhost = 'smtp.example.net'\n"
# the configuration's end, the sender; as whom and how it leaves
REWRITING = {
    "nothing is rewritten": ("", "me@a.example", "me@a.example", "keep"),
    "masquerade": (
        "[rewrite]\nmasquerade = ['a.example', 'b.example']\n",
        "me@A.example",
        "me@example.com",
        "at example.com: a.example, b.example",
    ),
    "qualify": (
        "[rewrite]\nfrom = 'qualify'\n",
        "me@localhost",
        "me@example.com",
        "at example.com: bare names, localhost, box.example.com",
    ),
    "force, for this smarthost": (
        "from = 'force'\nforce_from = 'me@bücher.example'\n",
        "me@a.example",
        "me@xn--bcher-kva.example",
        "force me@xn--bcher-kva.example",
    ),
    "the null sender": ("from = 'force'\nforce_from = 'me@b.example'\n", "", "<>", "force me@b.example"),
    "the null sender where it is replaced": ("[bounce]\nsender = 'b@example.com'\n", "", "b@example.com", "keep"),
}


@pytest.mark.parametrize(("text", "sender", "leaves_as", "how"), REWRITING.values(), ids=REWRITING)
def test_rewriting_is_shown_as_it_is_done(text: str, sender: str, leaves_as: str, how: str) -> None:
    """For each smarthost: the sender that it gets, and what becomes of From."""
    config = parse(TOP + SMARTHOST + text, Instance(path=Path("/x.toml")))
    now = Circumstances(sender=sender, config=config, aliases=Aliases.load(""), obstacle=lambda route: None)
    lines = [line.split(maxsplit=1) for line in whereto.test("bob@example.org", now)]
    assert lines[-2:] == [["sender", leaves_as], ["From", how]]
