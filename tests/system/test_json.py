"""Every JSON output is what its schema says, no more and no less; each schema is a schema, and is documented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import pysendmail
from rig.ca import Authority
from rig.instance import Instance, json_lines, smarthost
from rig.peer import Ordinary, PeerThread

SCHEMAS = Path(pysendmail.__file__).parent / "schemas"
PAGE = Path(__file__).parents[2] / "man" / "pysendmail.8"
ANSWERS = {"late@example.org": "451 4.2.1 mailbox is busy", "nobody@example.org": "550 5.1.1 unknown"}


def valid(name: str, output: str | bytes) -> list[dict[str, Any]]:
    """The entries, each of which fits the schema."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    entries = list(json_lines(output if isinstance(output, bytes) else output.encode()))
    for entry in entries:
        jsonschema.validate(entry, schema, cls=jsonschema.Draft202012Validator)
    return entries


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.stem)
def test_each_schema_is_sound_and_documented(path: Path) -> None:
    """It obeys the rules of its draft, every key is required, and pysendmail(8) names it."""
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["required"] == list(schema["properties"])
    assert f"{path.name}" in PAGE.read_text()


def test_outputs_fit_their_schemas(tmp_path: Path) -> None:
    """Mail that waits, has left and has failed, smarthosts in use and in trouble, with a daemon and without."""
    with PeerThread(Ordinary(rcpt=ANSWERS)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        for recipient in ("late@example.org", "bob@example.org", "nobody@example.org"):
            instance.submit("-f", "alice@example.com", recipient, "dave@example.org")
        instance.submit("-f", "<>", "nobody@example.org")
        instance.wait_for("outcome", status="deferred")
        instance.wait_for("outcome", status="discarded")
        instance.wait_for("outcome", recipient="<alice@example.com>", status="sent")
        look(instance)
        assert valid("status", instance.pysendmail("status", "--json", code=None))[0]["smarthosts"]
        for verb, done in (("hold", "held"), ("release", "released"), ("retry", "due now"), ("expire", "expired")):
            changed = valid("change", instance.pysendmail("queue", verb, "--all", "--yes", "--json"))
            assert {entry["done"] for entry in changed} <= {done}
        assert instance.stop() == 0
        look(instance)
        assert valid("status", instance.pysendmail("status", "--json", code=2))[0]["health"] == "critical"
    unreadable = tmp_path / "none.toml"
    unreadable.write_text('[daemon]\nsocket = "/nowhere/submit"\n[queue]\ndirectory = "/proc/none"\n')
    nobody = instance.pysendmail("-C", str(unreadable), "status", "--json", code=2)
    assert valid("status", nobody)[0]["scope"] is None


def look(instance: Instance) -> None:
    """What can be asked of mail that waits and of mail that is over."""
    waiting = valid("list", instance.pysendmail("queue", "list", "--json"))
    assert waiting == valid("list", instance.run("mailq", "--json").stdout)
    history = valid("history", instance.pysendmail("history", "--json"))
    assert {one["outcome"] for entry in history for one in entry["recipients"]} >= {"sent", "bounced", "discarded"}
    assert valid("bounces", instance.pysendmail("history", "--bounces", "--json"))
    ids = [entry["queue_id"] for entry in history]
    assert len(valid("explain", instance.pysendmail("queue", "explain", "--json", *ids))) == len(ids)
    assert len(valid("show", instance.pysendmail("queue", "show", "--json", *ids))) == len(ids)
    traffic = valid("traffic", instance.pysendmail("history", "--chart", "--json"))
    assert len(traffic) == 24
    assert sum(slot["sent"] for slot in traffic) >= 3 and sum(slot["bounced"] for slot in traffic) >= 2


def test_status_and_probe_know_the_certificate(tmp_path: Path) -> None:
    """Until when it is valid: probe at once, status as soon as mail has gone there; and what is forgotten is said."""
    authority = Authority(tmp_path)
    table = {"host": "localhost", "tls": "verify", "tls_ca_file": authority.file}
    with (
        PeerThread(Ordinary(tls=authority.server())) as peer,
        Instance(tmp_path, smarthosts=[{**smarthost(peer), **table}]) as instance,
    ):
        (before,) = instance.status()["smarthosts"]
        instance.submit("bob@example.org")
        instance.wait_for("outcome", status="sent")
        (after,) = instance.status()["smarthosts"]
        assert before["certificate_until"] is None and after["certificate_until"] > "2026"
        assert f"certificate until {after['certificate_until']}" in instance.pysendmail("status")
        (probed,) = valid("probe", instance.pysendmail("probe", "--json"))
        assert probed["tls"]["chain"][0]["not_after"] == after["certificate_until"]
        assert valid("forget", instance.pysendmail("probe", "--forget", "main", "--json"))
    (unreachable,) = valid("probe", instance.pysendmail("probe", "--json", code=69))
    assert unreachable["trouble"] and unreachable["greeting"] is None
