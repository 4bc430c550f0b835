"""setup: what it proposes, and the tables that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pysendmail import config_file, providers, setup
from pysendmail.address import parse_path
from pysendmail.config_file import Instance
from pysendmail.setup import Dialogue, Proposal, SetupFailed, Wanted
from pysendmail.srv import Service, SrvError

BOX = parse_path("box@example.com")
TABLE = {"name": "main", "host": "smtp.example.com", "port": 465, "username": "box@example.com"}


def never(domain: str) -> list[Service]:
    raise AssertionError("the DNS was asked")


def test_a_known_provider_needs_no_dns() -> None:
    """The table answers, for any case; its answer may be taken without a person."""
    proposal = setup.propose("GMAIL.com", never)
    assert isinstance(proposal, Proposal)
    assert (proposal.host, proposal.port, proposal.implicit, proposal.sure) == ("smtp.gmail.com", 465, True, True)
    assert "app password" in proposal.hint


def test_a_provider_without_passwords_is_no_proposal() -> None:
    """It is said before a password is asked for in vain."""
    assert 'auth = ["XOAUTH2"]' in str(setup.propose("outlook.com", never))


@pytest.mark.parametrize("host", ["smtp.example.com", "example.com", "smtp.example.net"])
def test_what_the_dns_says_is_not_sure(host: str) -> None:
    """It needs a person to agree, who is told when the server is in another domain."""
    proposal = setup.propose("example.com", lambda _: [Service(host=host, port=465, implicit=True)])
    assert isinstance(proposal, Proposal)
    assert not proposal.sure
    assert ("which is not in example.com" in proposal.source) == (host == "smtp.example.net")


def test_no_answer_is_said() -> None:
    """Why there is no proposal, in words."""

    def fails(domain: str) -> list[Service]:
        raise SrvError("the DNS was not asked: that needs dnspython")

    assert setup.propose("example.com", fails) == "the DNS was not asked: that needs dnspython"
    assert "names no server" in str(setup.propose("example.com", lambda _: []))


def test_providers_are_what_they_say() -> None:
    """No domain twice; 465 or 587; hosts with a dot; every domain in lower case."""
    domains = [domain for provider in providers.PROVIDERS for domain in provider.domains]
    assert len(domains) == len(set(domains))
    assert all(domain == domain.lower() for domain in domains)
    assert {provider.port for provider in providers.PROVIDERS} == {465, 587}
    assert all("." in provider.host for provider in providers.PROVIDERS)


@pytest.mark.parametrize("keep", [False, True])
def test_the_tables_are_a_configuration(keep: bool) -> None:
    """One address for all mail, and the mailbox for local names; or senders at the address's domain."""
    made = setup.draft(Wanted(keep_senders=keep, to="me@example.org"), BOX, TABLE, b"secret")
    text = made.toml(Path("/etc/pysendmail"))
    config = config_file.parse(text, Instance(path=Path("/etc/pysendmail/pysendmail.toml")))
    assert config.aliases.catch_all == "me@example.org"
    assert config.rewrite.from_ == ("qualify" if keep else "force")
    assert config.rewrite.force_from == ("" if keep else "box@example.com")
    assert config.smarthost[0].password_file == "/etc/pysendmail/main.password"
    assert "secret" not in text


def test_a_public_domain_is_nobodys_mail_domain() -> None:
    """With senders kept, root must not become root@gmail.com."""
    made = setup.draft(Wanted(keep_senders=True), parse_path("me@gmail.com"), TABLE, None)
    assert "domain" not in made.tables


class Person(Dialogue):
    """Somebody who answers in this order, and takes what is proposed with ""."""

    def __init__(self, *answers: str) -> None:
        super().__init__(asks=True)
        self.answers = list(answers)

    def text(self, question: str, flag: str, default: str = "") -> str:
        return self.answers.pop(0) or default


OF_THE_DNS = Proposal(host="smtp.example.com", port=4465, implicit=True, source="the DNS says", sure=False)
SURE = Proposal(host="smtp.example.com", port=465, implicit=True, source="the table", sure=True)


@pytest.mark.parametrize(
    ("wanted", "proposal", "answers", "expected"),
    [
        (Wanted(), OF_THE_DNS, ["", ""], ("smtp.example.com", 4465, True)),
        (Wanted(), OF_THE_DNS, ["", "587"], ("smtp.example.com", 587, False)),
        (Wanted(), OF_THE_DNS, ["mail.example.net", ""], ("mail.example.net", 4465, False)),
        (Wanted(), SURE, ["", "587"], ("smtp.example.com", 587, False)),
        (Wanted(), "the DNS names no server", ["a.example", ""], ("a.example", 465, True)),
        (Wanted(port=587), SURE, [""], ("smtp.example.com", 587, False)),
        (Wanted(yes=True), SURE, [], ("smtp.example.com", 465, True)),
        (Wanted(tls_implicit=True, port=4465), SURE, [""], ("smtp.example.com", 4465, True)),
    ],
)
def test_what_is_agreed_to(
    wanted: Wanted, proposal: Proposal | str, answers: list[str], expected: tuple[str, int, bool]
) -> None:
    """How TLS begins goes with the server and the port that it was proposed for."""
    assert expected == setup._agreed(wanted, Person(*answers), proposal)


def test_nobody_agrees_to_what_the_dns_says() -> None:
    """Without a person its proposal is none: the flag is named."""
    with pytest.raises(SetupFailed, match="--host is missing"):
        setup._agreed(Wanted(yes=True), Dialogue(asks=False), OF_THE_DNS)


def test_a_change_of_the_password_alone_is_called_that() -> None:
    """No difference is shown then, and so none is asked about."""
    assert setup.consent(Path("/etc/x.toml"), "-a\n+b\n") == "Change /etc/x.toml so? The old one is kept"
    assert "only the password is written anew? The old one is kept" in setup.consent(Path("/etc/x.toml"), "")
