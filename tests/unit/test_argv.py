"""The command line: every option, name and dialect of sendmail, as one Invocation or one line of refusal."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail.argv import (
    MAX_ARGUMENTS,
    MAX_ARGV_OCTETS,
    OPTIONS,
    Invocation,
    Mode,
    QueueFilter,
    Treatment,
    UsageError,
    Value,
    help,
    parse,
)
from pysendmail.smtp.reply import printable


def run(line: str, *more: str) -> Invocation:
    """A command line, cut at spaces, with further arguments as they are."""
    return parse([word.encode("utf-8", "surrogateescape") for word in (*line.split(), *more)])


# name: (command line, what differs from the defaults)
CALLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Debian cron": (
        "/usr/sbin/sendmail -FCronDaemon -i -B8BITMIME -oem root",
        {
            "full_name": "CronDaemon",
            "dot_ends": False,
            "body": "8bitmime",
            "error_mode": "mail",
            "recipients": ("root",),
        },
    ),
    "cronie": (
        "sendmail -FCronDaemon -i -odi -oem -oi -t -f <>",
        {"full_name": "CronDaemon", "dot_ends": False, "delivery": "interactive", "error_mode": "mail"}
        | {"read_recipients": True, "sender": ""},
    ),
    "at": ("sendmail -i joe", {"dot_ends": False, "recipients": ("joe",)}),
    "sudo": ("sendmail -t", {"read_recipients": True}),
    "PHP": ("/usr/sbin/sendmail -t -i", {"read_recipients": True, "dot_ends": False}),
    "PHP with a sender": (
        "sendmail -t -i -fjoe@example.org",
        {"read_recipients": True, "dot_ends": False, "sender": "joe@example.org"},
    ),
    "fail2ban": ("sendmail -f fail2ban root", {"sender": "fail2ban", "recipients": ("root",)}),
    "git send-email": (
        "sendmail -f me@e -i a@e b@e",
        {"sender": "me@e", "dot_ends": False, "recipients": ("a@e", "b@e")},
    ),
    "mutt": (
        "sendmail -oem -oi -f me@e -B8BITMIME -N failure,delay -R hdrs -- a@e b@e",
        {"error_mode": "mail", "dot_ends": False, "sender": "me@e", "body": "8bitmime"}
        | {"notify": frozenset({"failure", "delay"}), "ret": "hdrs", "recipients": ("a@e", "b@e")},
    ),
    "bsd-mailx": (
        "send-mail -i -m -v a@e",
        {"name": "send-mail", "dot_ends": False, "verbose": True, "recipients": ("a@e",)},
    ),
    "s-nail": ("sendmail -i -f me@e -- a@e", {"dot_ends": False, "sender": "me@e", "recipients": ("a@e",)}),
    "Alpine, SMTP": ("sendmail -bs -odb -oem", {"mode": Mode.SMTP, "error_mode": "mail"}),
    "Alpine": ("sendmail -oem -t -oi", {"error_mode": "mail", "read_recipients": True, "dot_ends": False}),
    "Symfony": ("sendmail -bs", {"mode": Mode.SMTP}),
    "rmail": (
        "rmail joe@e",
        {"name": "rmail", "dot_ends": False, "error_mode": "exit", "recipients": ("joe@e",)},
    ),
}

NOT_OPENED = "option {} is ignored: no file that a caller names is opened"

# name: (command line, what differs from the defaults); -t is there where a message is taken
DIALECT: dict[str, tuple[str, dict[str, Any]]] = {
    "cluster": ("sendmail -ti", {"dot_ends": False}),
    "cluster with a value": ("sendmail -tifjoe", {"dot_ends": False, "sender": "joe"}),
    "cluster with a separate value": ("sendmail -tf joe -i", {"dot_ends": False, "sender": "joe"}),
    "value that looks like an option": ("sendmail -t -f -x", {"sender": "-x"}),
    "a dash is an address": ("sendmail -t - -i", {"recipients": ("-", "-i")}),
    "after --": ("sendmail -t -- -i --", {"recipients": ("-i", "--")}),
    "after the first address": ("sendmail -t joe -i", {"recipients": ("joe", "-i")}),
    "-r": ("sendmail -t -r joe", {"sender": "joe"}),
    "-f in angle brackets": ("sendmail -t -f <joe@e>", {"sender": "joe@e"}),
    "-N never": ("sendmail -t -N NEVER", {"notify": frozenset({"never"})}),
    "-R": ("sendmail -t -RFull", {"ret": "full"}),
    "-V": ("sendmail -t -V QQ314+2B159+20x", {"envid": "QQ314+159 x"}),
    "-B": ("sendmail -t -B 7bit", {"body": "7bit"}),
    "-U": ("sendmail -t -U", {"smtputf8": True}),
    "-G": ("sendmail -t -G", {"fix_up": False}),
    "-h": ("sendmail -t -h 12", {"hops": 12}),
    "-L": ("sendmail -t -L a;b\x1bc" + "d" * 40, {"tag": "a_b_c" + "d" * 27}),
    "-n": ("sendmail -t -n", {"no_aliases": True}),
    "-v": ("sendmail -t -v", {"verbose": True}),
    "-C": ("sendmail -t -C /x.toml", {"config": "/x.toml"}),
    "--config=": ("sendmail -t --config=/x.toml", {"config": "/x.toml"}),
    "--config": ("sendmail -t --config /x.toml", {"config": "/x.toml"}),
    "-e": ("sendmail -t -em", {"error_mode": "mail"}),
    "-oi": ("sendmail -t -o i", {"dot_ends": False}),
    "-oitrue": ("sendmail -t -oitrue", {"dot_ends": False}),
    "-oifalse": ("sendmail -t -i -oifalse", {}),
    "-odq": ("sendmail -t -odq", {"delivery": "queue-only"}),
    "-odd": ("sendmail -t -odd", {"delivery": "queue-only"}),
    "-odf": ("sendmail -t -odf", {"delivery": "interactive"}),
    "-odb": ("sendmail -t -odq -odb", {}),
    "-odqs of Exim": ("sendmail -t -odqs", {}),
    "-oee": ("sendmail -t -oee", {"error_mode": "exit"}),
    "-oe of nobody": ("sendmail -t -oez", {}),
    "-ov": ("sendmail -t -ov", {"verbose": True}),
    "other -o": ("sendmail -t -oL9 -o7 -o MsomeMacro -oQ/tmp -oo", {}),
    "empty -o": ("sendmail -t -o", {"__more": ("",)}),
    "-O": (
        "sendmail -t -O DeliveryMode=q -O errormode=m -OIgnoreDots=1 -O Timeout.queuereturn=2d -OMaxHopCount=9",
        {
            "delivery": "queue-only",
            "error_mode": "mail",
            "dot_ends": False,
            "lifetime": 172800.0,
            "max_hops": 9,
        },
    ),
    "-O Timeout.queuereturn, in days": ("sendmail -t -O Timeout.queuereturn=5", {"lifetime": 432000.0}),
    "-O Timeout.queuereturn, at once": ("sendmail -t -OTIMEOUT.QueueReturn=Now", {"lifetime": 0.0}),
    "-O of Postfix": (
        "sendmail -t -O smtputf8=yes -O requiretls=yes",
        {"smtputf8": True, "require_tls": True},
    ),
    "other -O": ("sendmail -t -O QueueDirectory=/tmp -O nonsense", {}),
    "ignored with values": ("sendmail -t -Am -p x -A c -d7.1 -d -c -s -T -x -Ex -J -m -om", {}),
    "-X": ("sendmail -t -X /tmp/x -X/y", {"warnings": (NOT_OPENED.format("-X"),)}),
    "-D": ("sendmail -t -D/tmp/x", {"warnings": (NOT_OPENED.format("-D"),)}),
    "-oA": (
        "newaliases -oA/x",
        {"name": "newaliases", "mode": Mode.ALIASES} | {"warnings": (NOT_OPENED.format("-oA"),)},
    ),
    "-bm": ("sendmail -bm -t", {}),
    "-bp": ("sendmail -bp", {"mode": Mode.LIST}),
    "-b p": ("sendmail -b p", {"mode": Mode.LIST}),
    "-bP": ("sendmail -bP", {"mode": Mode.COUNT}),
    "-bi": ("sendmail -bi", {"mode": Mode.ALIASES}),
    "-I": ("sendmail -I", {"mode": Mode.ALIASES}),
    "-bv": ("sendmail -bv joe", {"mode": Mode.VERIFY, "recipients": ("joe",)}),
    "-bt": ("sendmail -bt joe", {"mode": Mode.TEST, "recipients": ("joe",)}),
    "-bh": ("sendmail -bh", {"mode": Mode.HOST_STATUS}),
    "-bH": ("sendmail -bH", {"mode": Mode.PURGE_STATUS}),
    "-bC": ("sendmail -bC", {"mode": Mode.CHECK}),
    "-bV": ("sendmail -bV", {"mode": Mode.VERSION}),
    "-bq": ("sendmail -bq -t", {"delivery": "queue-only"}),
    "-bD -q15m": ("sendmail -bD -q15m", {"mode": Mode.DAEMON}),
    "-q15m -bD": ("sendmail -q15m -bD", {"mode": Mode.DAEMON}),
    "-q15m": ("sendmail -q15m", {"mode": Mode.NOTHING}),
    "-qp5m": ("sendmail -qp5m", {"mode": Mode.NOTHING}),
    "-q": ("sendmail -q", {"mode": Mode.FLUSH}),
    "-v -q": ("sendmail -v -q", {"mode": Mode.FLUSH, "verbose": True}),
    "-qf": ("sendmail -qf", {"mode": Mode.FLUSH, "wait": True}),
    "-qI": ("sendmail -qI1A2B", {"mode": Mode.FLUSH, "filters": (QueueFilter(what="id", text="1A2B"),)}),
    "-q!R -qS": (
        "sendmail -q!R@e.org -qSjoe",
        {"mode": Mode.FLUSH}
        | {
            "filters": (
                QueueFilter(what="recipient", text="@e.org", negated=True),
                QueueFilter(what="sender", text="joe"),
            )
        },
    ),
    "mailq -qR": (
        "mailq -qRx",
        {"name": "mailq", "mode": Mode.LIST, "filters": (QueueFilter(what="recipient", text="x"),)},
    ),
    "-bP -qR": ("sendmail -bP -qRx", {"mode": Mode.COUNT, "filters": (QueueFilter(what="recipient", text="x"),)}),
    "-Q": (
        "sendmail -Qspam -qSjoe",
        {"mode": Mode.HOLD, "hold_reason": "spam", "filters": (QueueFilter(what="sender", text="joe"),)},
    ),
    "mailq": ("/usr/bin/mailq", {"name": "mailq", "mode": Mode.LIST}),
    "mailq -Ac": ("mailq -Ac", {"name": "mailq", "mode": Mode.LIST}),
    "mailq -v": ("mailq -v -C/x", {"name": "mailq", "mode": Mode.LIST, "verbose": True, "config": "/x"}),
    "mailq --json": ("mailq --json", {"name": "mailq", "mode": Mode.LIST, "format": "json"}),
    "mailq --format": ("mailq --format sendmail", {"name": "mailq", "mode": Mode.LIST, "format": "sendmail"}),
    "mailq --format=": ("mailq --format=table", {"name": "mailq", "mode": Mode.LIST, "format": "table"}),
    "sendmail -bp --json": ("sendmail -bp --json", {"mode": Mode.LIST, "format": "json"}),
    "newaliases": ("newaliases", {"name": "newaliases", "mode": Mode.ALIASES}),
    "newaliases -bp": ("newaliases -bp", {"name": "newaliases", "mode": Mode.LIST}),
    "mailq -q": ("mailq -q", {"name": "mailq", "mode": Mode.FLUSH}),
    "runq": ("runq", {"name": "runq", "mode": Mode.FLUSH}),
    "hoststat": ("hoststat", {"name": "hoststat", "mode": Mode.HOST_STATUS}),
    "purgestat": ("purgestat", {"name": "purgestat", "mode": Mode.PURGE_STATUS}),
    "--version": ("sendmail --version", {"mode": Mode.VERSION}),
    "--help": ("mailq --help", {"name": "mailq", "mode": Mode.HELP}),
    "another name": ("/opt/mta/mta-wrapper -t", {"name": "mta-wrapper"}),
}


@pytest.mark.parametrize(("line", "changes"), CALLERS.values(), ids=CALLERS)
def test_a_real_caller_is_understood(line: str, changes: dict[str, Any]) -> None:
    """What programs in Debian pass gives what they mean."""
    assert Invocation(**changes) == run(line)


@pytest.mark.parametrize(("line", "changes"), DIALECT.values(), ids=DIALECT)
def test_an_option_is_understood(line: str, changes: dict[str, Any]) -> None:
    """Every option does what the table says, and nothing else."""
    changes = dict(changes)
    more = changes.pop("__more", ())
    expected = Invocation(**changes, read_recipients=" -t" in line)
    assert expected == run(line, *more)


@pytest.mark.parametrize("sender", ["", "<>", " <> "])
def test_an_empty_sender_is_the_null_reverse_path(sender: str) -> None:
    """-f '' and -f '<>' mean the same, and not the same as no -f."""
    assert run("sendmail -t -f", sender).sender == ""
    assert run("sendmail -t").sender is None


# command line: words that the refusal must have
REFUSED = {
    "sendmail": "no recipients",
    "sendmail --": "no recipients",
    "sendmail -Z": "option -Z is unknown",
    "sendmail -t-": "option -- is unknown",
    "sendmail -4 joe": "option -4 is unknown",
    "sendmail --verbose joe": "option --verbose is unknown",
    "sendmail --version=2": "takes no value",
    "sendmail -t -f": "needs a value",
    "sendmail -t --config": "needs a value",
    "sendmail -t --config=": "a file's name",
    "sendmail -t -f a -f b": "more than one sender",
    "sendmail -t -f a -r a": "more than one sender",
    "sendmail -t -B 9BIT": "7BIT or 8BITMIME",
    "sendmail -t -N sometimes": "never, or a list",
    "sendmail -t -N never,failure": "never, or a list",
    "sendmail -t -N failure,": "never, or a list",
    "sendmail -t -N failure -N delay": "twice",
    "sendmail -t -R all": "full or hdrs",
    "sendmail -t -R full -R full": "twice",
    "sendmail -t -V a=b": "xtext",
    "sendmail -t -V a+0A": "printable",
    "sendmail -t -V a+7F": "printable",
    "sendmail -t -V a+E4": "printable",
    "sendmail -t -V a+2b": "xtext",
    "sendmail -t -V a+": "xtext",
    "sendmail -t -V " + "a" * 101: "100 characters",
    "sendmail -t -V a -V b": "twice",
    "sendmail -t -h many": "a number",
    "sendmail -t -h -1": "a number",
    "sendmail -t -h 99999": "a number",
    "sendmail -t -O MaxHopCount=x": "a number",
    "sendmail -t -O requiretls=perhaps": "yes or no",
    "sendmail -t -O Timeout.queuereturn=soon": "no duration",
    "sendmail -t -C /x -v": "leave -v out",
    "sendmail -C /x -q": "leave -q out",
    "sendmail -C /x -qf": "leave -q out",
    "sendmail -C /x -qIabc": "leave -q out",
    "runq -C /x": "leave -q out",
    "sendmail -C /x -bD": "leave -bD out",
    "sendmail --config=/x -t -odi": "leave -odi out",
    "sendmail -C /x -t -ODeliveryMode=i": "leave -odi out",
    "sendmail -C /x -t -O Verbose=true": "leave -v out",
    "sendmail -bd": "pysendmail.service",
    "sendmail -bl": "pysendmail.service",
    "sendmail -bd -q15m": "pysendmail.service",
    "smtpd": "pysendmail.service",
    "sendmail -bS": "-bs",
    "sendmail -ba": "refused",
    "sendmail -bO": "refused",
    "sendmail -bz": "refused",
    "sendmail -bx": "option -bx is unknown",
    "sendmail -bpx": "option -bpx is unknown",
    "sendmail -qG": "queue groups",
    "sendmail -qGslow": "queue groups",
    "sendmail -qL": "history",
    "sendmail -qQ": "queue release",
    "sendmail -qX": "option -qX is unknown",
    "sendmail -q!": "option -q! is unknown",
    "sendmail -q!f": "option -q!f is unknown",
    "sendmail -q!G": "option -q!G is unknown",
    "sendmail -qI": "missing",
    "sendmail -q!I": "missing",
    "sendmail -qfx": "unknown",
    "sendmail -q15x": "interval",
    "sendmail -Q": "which messages",
    "sendmail -bv": "which addresses",
    "sendmail -bv -t": "not for verify",
    "sendmail -Mrm 1A2B": "pysendmail queue",
    "sendmail -Sjoe": "-qS",
    "sendmail -apsecret joe": "refused",
    "sendmail -bp joe": "takes no addresses",
    "mailq joe": "takes no addresses",
    "mailq --format json5": "postfix, sendmail",
    "mailq --format": "needs a value",
    "mailq --jsn": "unknown",
    "runq joe": "takes no addresses",
    "newaliases /etc/aliases": "takes no addresses",
    "sendmail --json joe": "for a listing",
}


@pytest.mark.parametrize(("line", "words"), REFUSED.items(), ids=REFUSED)
def test_wrong_usage_is_refused_in_one_line(line: str, words: str) -> None:
    """64, and one printable line that says what is wrong."""
    with pytest.raises(UsageError) as caught:
        run(line)
    assert words in str(caught.value)
    assert printable(str(caught.value)) == str(caught.value)


def test_a_password_in_argv_is_not_repeated() -> None:
    """What -ap carries is a secret: it is not in the refusal."""
    with pytest.raises(UsageError) as caught:
        run("sendmail -apsecret joe")
    assert "secret" not in str(caught.value)


def test_argv_is_bounded() -> None:
    """Too many arguments, or too much of them, and NUL, which no kernel passes, are refused."""
    for argv in (
        [b"sendmail", *[b"a"] * MAX_ARGUMENTS],
        [b"sendmail", b"a" * MAX_ARGV_OCTETS],
        [b"sendmail", b"a\0b"],
    ):
        with pytest.raises(UsageError):
            parse(argv)
    assert len(parse([b"sendmail", *[b"a"] * (MAX_ARGUMENTS - 1)]).recipients) == MAX_ARGUMENTS - 1


def test_octets_of_arguments_are_kept() -> None:
    """An argument that is not UTF-8 comes back as it was with surrogateescape."""
    recipient = parse([b"sendmail", b"j\xfcrgen@e"]).recipients[0]
    assert recipient.encode("utf-8", "surrogateescape") == b"j\xfcrgen@e"


def test_no_name_at_all_is_sendmail() -> None:
    """An empty argv, which a careless exec makes, is no crash."""
    with pytest.raises(UsageError, match="no recipients"):
        parse([])
    assert parse([b"", b"-t"]).name == "sendmail"


@pytest.mark.parametrize("option", OPTIONS, ids=[option.name for option in OPTIONS])
def test_the_table_and_the_parser_agree(option: Any) -> None:
    """Every row can be written as it says, and is honoured, ignored or refused as it says."""
    attached = {"-qI": "I1", "-qS": "S1", "-qR": "R1"}
    word = "-q" + attached[option.name] if option.name in attached else option.name
    values = {"-N": "never", "-R": "full", "-B": "7BIT", "-h": "1", "--format": "table"}
    argv = [word]
    if option.value is Value.REQUIRED:
        argv.append(values.get(option.name, "x"))
    with_addresses = [["-t"], ["-bp"], [], ["-qIx"], ["-bt"]]
    results: list[Invocation | str] = []
    for before in with_addresses:
        try:
            results.append(run("sendmail", *before, *argv, *(["--", "joe"] if before == ["-bt"] else [])))
        except UsageError as error:
            results.append(str(error))
    understood = [result for result in results if isinstance(result, Invocation)]
    if option.treatment is Treatment.REFUSED:
        assert not understood
        assert all(f"option {option.name} is refused" in str(result) for result in results)
    else:
        assert understood


def test_help_shows_the_whole_table() -> None:
    """--help is made from the table, under the name that was called."""
    text = help()
    assert all(option.name in text and option.words in text for option in OPTIONS)
    assert text.startswith("usage: sendmail [OPTION...]")
    assert help("mailq").startswith("usage: mailq ")
    assert printable(text.replace("\n", ""), len(text)) == text.replace("\n", "")


NAMES = [b"sendmail", b"mailq", b"newaliases", b"runq", b"rmail", b"smtpd", b"/x/hoststat", b"\xff\x1b"]
WORDS = [option.name.encode() for option in OPTIONS] + [b"--", b"-", b"joe", b"", b"-q!I", b"\xff", b"="]


@given(
    st.sampled_from(NAMES),
    st.lists(
        st.one_of(st.sampled_from(WORDS), st.binary(max_size=8), st.binary(max_size=8).map(lambda rest: b"-" + rest)),
        max_size=12,
    ),
)
def test_no_argv_gives_another_exception(name: bytes, words: list[bytes]) -> None:
    """Any words give an Invocation or a UsageError of one printable line."""
    try:
        invocation = parse([name, *words])
    except UsageError as error:
        text = str(error)
    else:
        text = invocation.name + "".join(invocation.warnings) + invocation.tag + invocation.envid
    assert printable(text) == text


@given(st.lists(st.binary(max_size=8), max_size=8))
def test_what_follows_two_dashes_is_never_an_option(words: list[bytes]) -> None:
    """After "--" every word is a recipient as it stands."""
    with contextlib.suppress(UsageError):
        recipients = parse([b"sendmail", b"-i", b"--", *words]).recipients
        assert words == [recipient.encode("utf-8", "surrogateescape") for recipient in recipients]


ENTRY = {
    "queue_id": "8DngvdkdcoMm",
    "sender": "Alice@example.com",
    "recipients": [{"address": "bob@example.org"}, {"address": "carol@example.net"}],
}


@pytest.mark.parametrize(
    ("option", "fits"),
    {
        "-qIngv": True,
        "-qINGV": False,
        "-q!Ingv": False,
        "-qSalice@": True,
        "-qS<alice@example.com>": True,
        "-qS<>": False,
        "-q!Sbob": True,
        "-qREXAMPLE.NET>": True,
        "-qRdave": False,
        "-q!Rdave": True,
    }.items(),
)
def test_a_filter_chooses_messages(option: str, fits: bool) -> None:
    """Part of a queue id as it is written, of an address in any case; "!" for all others."""
    [one] = run("sendmail", option).filters
    assert one.fits(ENTRY) == fits
