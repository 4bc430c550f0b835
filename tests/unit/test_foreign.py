"""import: what becomes of other programs' configurations. The golden files are reviewed, as people would read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail import config_file, foreign, importing
from pysendmail.config import Config
from pysendmail.config_file import Instance
from pysendmail.draft import Draft
from pysendmail.foreign.sheet import host_and_port
from pysendmail.importing import Imported, ImportFailed

GOLDEN = Path(__file__).parents[1] / "golden" / "import"
FILES = {
    "postfix": "/etc/postfix/main.cf",
    "msmtp": "/etc/msmtprc",
    "nullmailer": "/etc/nullmailer/remotes",
    "ssmtp": "/etc/ssmtp/ssmtp.conf",
    "dma": "/etc/dma/dma.conf",
}
HERE = Path("/etc/pysendmail")
SECRETS = {
    "postfix": {"main": b"Se:cret", "fallback": b"hidden", "mail.work.example-3": b"annspassword"},
    "msmtp": {"gmail": b"two words", "gmail2": b"two words", "old": b"clearly"},
    "nullmailer": {"main": b"my pass phrase", "backup.example.net": b"hidden", "wrong.example.org": b"zwei"},
    "ssmtp": {"main": b"se#cret"},
    "dma": {"main": b"se:cret"},
}


def imported(program: str) -> Imported:
    """The golden files of a program, as if they were where they belong on a machine that has nothing else."""
    file = Path(FILES[program])

    def look(path: Path) -> str:
        return (GOLDEN / program / path.name).read_text()

    draft = foreign.READERS[program](file, look(file), look)
    return Imported(program=program, file=file, draft=draft, text=draft.toml(HERE), problems=())


def config(text: str) -> Config:
    return config_file.parse(text, Instance(path=HERE / "pysendmail.toml"))


@pytest.mark.parametrize("program", FILES)
def test_a_real_file(program: str) -> None:
    """The configuration that comes of it is valid; what could not be carried over is named by its line."""
    found = imported(program)
    written = f"{found.text}\n" + "".join(f"# {line}\n" for line in importing.report(found))
    golden = GOLDEN / f"{program}.toml"
    if os.environ.get("PYSENDMAIL_WRITE_GOLDEN"):
        golden.write_text(written)
    assert golden.read_text() == written
    assert config(written).smarthost[0].name in found.text


@pytest.mark.parametrize("program", FILES)
def test_promise_8_passwords_are_never_shown(program: str) -> None:
    """They go where they belong, and stand neither in the configuration nor in a remark."""
    found = imported(program)
    assert found.draft.passwords == SECRETS[program]
    shown = found.text + "\n".join(importing.report(found)) + repr(found.draft)
    for password in (*found.draft.passwords.values(), b"mistyped", b"phrase"):
        assert password.decode() not in shown


def read(program: str, text: str, files: dict[str, str] | None = None) -> Draft:
    def look(path: Path) -> str:
        if str(path) not in (files or {}):
            raise FileNotFoundError(2, "No such file or directory")
        return (files or {})[str(path)]

    return foreign.READERS[program](Path(FILES[program]), text, look)


PASSWORD_IN_CLEAR = {
    "postfix": "relayhost = [RELAY]:25\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = static:box:pw\n",
    "msmtp": "account default\nhost RELAY\nauth on\nuser box\npassword pw\n",
    "nullmailer": "RELAY smtp user=box pass=pw\n",
    "ssmtp": "mailhub=RELAY\nAuthUser=box\nAuthPass=pw\n",
    "dma": "SMARTHOST RELAY\nAUTHPATH /a\nINSECURE\n",
}


@pytest.mark.parametrize(
    "map_", ["static:box:pass,word", "static:box:pass word", "inline:{ {a.example=box:pass word}}"]
)
def test_promise_8_a_password_in_main_cf_is_not_shown_in_pieces(map_: str) -> None:
    """Postfix's lists end at blanks and commas, and so may what is taken for a password, and for a kind of map."""
    text = f"relayhost = [a.example]\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = {map_}\n"
    file = Path("main.cf")
    draft = foreign.READERS["postfix"](file, text, lambda path: text)
    found = Imported(program="postfix", file=file, draft=draft, text=draft.toml(HERE), problems=())
    said = "\n".join([found.text, *importing.report(found)])
    assert "made of text" in said and "word" not in said.replace("password", "")
    assert draft.passwords == {}  # nor is half of it written


@pytest.mark.parametrize("program", FILES)
def test_a_comma_in_user_or_password(program: str) -> None:
    """It is a letter like any other; a list of Postfix's says so with braces."""
    text = PASSWORD_IN_CLEAR[program].replace("static:box:pw", "hash:/none, static:{ box:pw }")
    text = text.replace("RELAY", "smtp.example.com").replace("box", "bo,x").replace("pw", "p,w")
    draft = read(program, text, {"/a": "bo,x|smtp.example.com:p,w\n"})
    (smarthost,) = config(draft.toml(HERE)).smarthost
    assert (smarthost.username, draft.passwords) == ("bo,x", {"main": b"p,w"})


@pytest.mark.parametrize("program", FILES)
def test_promise_8_a_password_in_clear_is_not_carried_over(program: str) -> None:
    """Who sent the password in clear demands TLS now, and is told so; on this very machine it may go on."""
    for host, level, in_clear in (("smtp.example.com", "verify", False), ("127.0.0.1", "none", True)):
        draft = read(program, PASSWORD_IN_CLEAR[program].replace("RELAY", host), {"/a": f"box|{host}:pw\n"})
        (smarthost,) = config(draft.toml(HERE)).smarthost
        assert (smarthost.username, smarthost.tls, smarthost.auth_in_clear) == ("box", level, in_clear)
        assert draft.passwords == {"main": b"pw"}
        assert any("in clear" in remark.text for remark in draft.remarks) == (not in_clear)


def test_promise_8_a_password_that_might_have_gone_in_clear_does_not() -> None:
    """Postfix at "may" sends it to whoever offers no TLS; what it trusts is carried over to where TLS is demanded."""
    text = f"{PASSWORD_IN_CLEAR['postfix']}smtp_tls_security_level = may\nsmtp_tls_CAfile = /etc/ca.pem\n"
    for host, expected in (("smtp.example.com", ("verify", "/etc/ca.pem")), ("127.0.0.1", ("none", ""))):
        (smarthost,) = config(read("postfix", text.replace("RELAY", host)).toml(HERE)).smarthost
        assert (smarthost.tls, smarthost.tls_ca_file) == expected


@pytest.mark.parametrize("program", FILES)
def test_an_empty_file(program: str) -> None:
    """It gives a configuration without a smarthost or with the program's default, and raises nothing."""
    read(program, "")


PREFIX = {
    "postfix": "smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = hash:/p\nsmtp_generic_maps = regexp:/g\n"
    "sender_dependent_relayhost_maps = hash:/s\ntransport_maps = hash:/t\nmyorigin = /m\nrelayhost = ",
    "msmtp": "account a\nhost ",
    "nullmailer": "",
    "ssmtp": "",
    "dma": "AUTHPATH /a\nMAILNAME /m\nSMARTHOST ",
}


@pytest.mark.parametrize("program", FILES)
@given(text=st.text(alphabet=st.sampled_from("host=smtp:[]$\"' \t\n#/accountSMARTHOSTrelay,*@%0"), max_size=200))
def test_no_file_is_too_odd(program: str, text: str) -> None:
    """Whatever stands in it, and in all that it names, the draft is TOML; what is wrong with that, pysendmail says."""
    draft = foreign.READERS[program](Path(FILES[program]), f"{PREFIX[program]}{text}", lambda path: text)
    try:
        config(draft.toml(HERE))
    except config_file.ConfigError as error:
        assert not any("not TOML" in problem.text for problem in error.problems)


POSTFIX = {
    "a value goes on": ("relayhost =\n  [a.example]:587\n", 'host = "a.example"\nport = 587'),
    "a name is filled in": ("mydomain = a.example\nrelayhost = [smtp.$mydomain]\n", 'host = "smtp.a.example"'),
    "a circle of names": ("relayhost = [$a]\na = $b\nb = $a\n", "host = "),
    "implicit TLS": (
        "relayhost = [a.example]:465\nsmtp_tls_wrappermode = yes\nsmtp_tls_security_level = encrypt\n",
        'port = 465\ntls = "encrypt"\n',
    ),
    "implicit TLS elsewhere": (
        "relayhost = [a.example]:4465\nsmtp_tls_wrappermode = yes\nsmtp_tls_security_level = secure\n",
        'tls = "verify"\ntls_implicit = true\n',
    ),
    "an address": ("relayhost = [2001:db8::1]:26\n", 'host = "2001:db8::1"\nport = 26\n'),
    "a pin": (
        "relayhost = [a.example]\nsmtp_tls_security_level = fingerprint\n"
        f"smtp_tls_fingerprint_cert_match = {'AB' * 32}\n",
        f'tls_fingerprints = ["{"AB" * 32}"]',
    ),
    "an MD5 pin": (
        "relayhost = [a.example]\nsmtp_tls_security_level = fingerprint\nsmtp_tls_fingerprint_digest = md5\n",
        'tls = "verify"',
    ),
    "the old switches": ("relayhost = [a.example]\nsmtp_use_tls = yes\n", 'tls = "may"'),
    "no delay notice": ("relayhost = [a.example]\ndelay_warning_time = 0h\n", 'warn_after = "0"'),
    "all under one name": (
        "relayhost = [a.example]\nsender_canonical_maps = static:me@a.example\n",
        'from = "force"\nforce_from = "me@a.example"',
    ),
    "masquerading": (
        "relayhost = [a.example]\nmyhostname = box.b.example\nmasquerade_domains = b.example\n",
        'masquerade = ["box.b.example"]',
    ),
}


@pytest.mark.parametrize("name", POSTFIX)
def test_postfix(name: str) -> None:
    """Its forms of values, one by one."""
    text, expected = POSTFIX[name]
    assert expected in read("postfix", text).toml(HERE)


ODD_NUMBERS = {
    "postfix": "relayhost = [a.example]:N\nmessage_size_limit = N\nsmtp_destination_concurrency_limit = N\n",
    "msmtp": "account default\nhost a.example\nport N\ntimeout N\n",
    "nullmailer": "a.example smtp port=N\n",
    "ssmtp": "mailhub=a.example:N\n",
    "dma": "SMARTHOST a.example\nPORT N\n",
}


@pytest.mark.parametrize("program", FILES)
@pytest.mark.parametrize(
    "number", ["9" * 5000, "²", "-1", "0x10", ""], ids=["long", "superscript", "less", "hex", "none"]
)
def test_odd_numbers(program: str, number: str) -> None:
    """What Python would refuse to read, or would read otherwise, is no number; nothing fails on it."""
    files = {f"/etc/nullmailer/{name}": number for name in ("pausetime", "queuelifetime", "adminaddr")}
    read(program, ODD_NUMBERS[program].replace("N", number), files).toml(HERE)


def test_addresses_that_are_none() -> None:
    """nullmailer's adminaddr may be commas only."""
    assert read("nullmailer", "", {"/etc/nullmailer/adminaddr": ",,"}).tables == {}


@pytest.mark.parametrize("place", ["/home/ann/.msmtprc", "/home/ann/.config/msmtp/config"])
def test_a_users_msmtprc(place: str) -> None:
    """~ is the home that the file lies in, whoever imports it."""
    text = "account default\nhost a.example\ntls on\ntls_trust_file ~/ca.pem\n"
    draft = foreign.READERS["msmtp"](Path(place), text, lambda path: "")
    assert draft.smarthosts[0]["tls_ca_file"] == "/home/ann/ca.pem"


def test_postfix_pattern_map() -> None:
    """A pattern that fits every address is what `force` is; another is lost."""
    text = "relayhost = [a.example]\nsender_canonical_maps = regexp:/r\n"
    assert 'force_from = "me@a.example"' in read("postfix", text, {"/r": "/.+/  me@a.example\n"}).toml(HERE)
    draft = read("postfix", text, {"/r": "/^root@/ a@a.example\n/^www@/ b@a.example\n"})
    assert "rewrite" not in draft.tables
    assert [(str(remark.file), remark.line) for remark in draft.remarks if remark.fate == "lost"] == [
        ("/r", 1),
        ("/r", 2),
    ]


def test_postfix_names_that_double() -> None:
    """Names that stand for twice another, thirty times over, cost neither time nor memory."""
    text = "".join(f"n{number} = $n{number + 1}$n{number + 1}\n" for number in range(30)) + "n30 = x\n"
    draft = read("postfix", f"{text}relayhost = [$n0]\n")
    assert len(draft.smarthosts[0]["host"]) <= 4096


def test_postfix_without_relayhost() -> None:
    """What asked the DNS has no smarthost here, and that is the first thing to say."""
    draft = read("postfix", "myhostname = box.example.com\n")
    assert not draft.smarthosts
    assert "it needs a [[smarthost]]" in draft.remarks[0].text


def test_a_file_that_cannot_be_read_is_named() -> None:
    """A password file that only root can read: the setting is lost, with the reason."""
    text = "relayhost = [a.example]\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = hash:/nowhere\n"
    texts = [remark.text for remark in read("postfix", text).remarks]
    assert "/nowhere: No such file or directory" in texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.example", ("a.example", 25)),
        ("[a.example]", ("a.example", 25)),
        ("a.example:587", ("a.example", 587)),
        ("[a.example]:submissions", ("a.example", 465)),
        ("[2001:db8::1]:26", ("2001:db8::1", 26)),
        ("[ipv6:2001:db8::1]", ("2001:db8::1", 25)),
        ("a.example:nonsense", ("a.example", 65536)),
        ("[", ("", 25)),
    ],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    """As Postfix and sSMTP write them."""
    assert expected == host_and_port(text, 25)


def test_which_file() -> None:
    """By its name, by --from, or the only one that there is; else it is said what to do."""
    assert importing.choose("/x/main.cf", "", []) == ("postfix", Path("/x/main.cf"))
    assert importing.choose("/x/.msmtprc", "", []) == ("msmtp", Path("/x/.msmtprc"))
    assert importing.choose("/x/config", "ssmtp", []) == ("ssmtp", Path("/x/config"))
    there = [("postfix", Path("/etc/postfix/main.cf")), ("dma", Path("/etc/dma/dma.conf"))]
    assert importing.choose("", "dma", there) == there[1]
    assert importing.choose("", "", there[:1]) == there[0]
    with pytest.raises(ImportFailed, match=r"there are several: /etc/postfix/main.cf, /etc/dma/dma.conf: name one"):
        importing.choose("", "", there)
    with pytest.raises(ImportFailed, match=r"there is nothing to import in /etc/ssmtp/ssmtp.conf: name a FILE"):
        importing.choose("", "ssmtp", there)
    with pytest.raises(ImportFailed, match=r"its name does not tell whose it is: --from postfix\|msmtp"):
        importing.choose("/x/config", "", [])
