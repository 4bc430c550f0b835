"""Metrics: what is counted, by which names, and that the manual has them all."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pysendmail import status
from pysendmail.config import Config, Daemon, Queue, Smarthost
from pysendmail.events import Value
from pysendmail.metrics import ALARMS, OUTCOMES, Families, Tally
from pysendmail.relay import Relay

NOW = 1_700_000_000.0
MAN = Path(__file__).parents[2] / "man" / "pysendmail.8"


class Nowhere:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[str] = []

    def write(self, event: str, fields: Mapping[str, Value]) -> None:
        self.got.append(event)

    def close(self) -> None:
        self.got.append("closed")


def report() -> dict[str, Any]:
    here = Path("/q")
    config = Config(file=here, hostname="h", domain="d", queue=Queue(directory=here), daemon=Daemon(socket=here))
    counts = status.Counts(
        queued=5, deferred=2, held=1, in_flight=1, failed=3, oldest_at=NOW - 90, damaged=0, lost_reports=0,
        waiting_routes=(),
    )  # fmt: skip
    relays = [Relay(Smarthost(name=name, host="x")) for name in ("main", "second")]
    return status.report(config, counts, relays, status.Circumstances(daemon=True), NOW)


def samples(tally: Tally) -> dict[str, float]:
    """As a Prometheus server reads them: name and labels -> value."""
    client = pytest.importorskip("prometheus_client")
    parser = pytest.importorskip("prometheus_client.parser")
    text = client.generate_latest(Families(report(), tally.totals, Counter({"tls": 1}), NOW - 1000)).decode()
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_is_counted() -> None:
    """Events become counters, the report becomes gauges; every series is there from the start."""
    tally = Tally(Nowhere())
    before = samples(tally)
    assert {before[f"pysendmail_outcomes_total/{outcome}"] for outcome in OUTCOMES} == {0}
    tally.write("accepted", {"size": 100})
    tally.write("accepted", {"size": 23})
    tally.write("trouble", {"smarthost": "main"})
    for delay in (0.5, 3.0, 1e6):
        tally.write("outcome", {"status": "sent", "delay_s": delay})
    tally.write("outcome", {"status": "deferred", "uncertain": "yes", "delay_s": 7.0})
    after = samples(tally)
    assert after.keys() == before.keys()
    expected = {
        "pysendmail_accepted_messages_total": 2,
        "pysendmail_accepted_bytes_total": 123,
        "pysendmail_smarthost_troubles_total/main": 1,
        "pysendmail_smarthost_troubles_total/second": 0,
        "pysendmail_outcomes_total/sent": 3,
        "pysendmail_outcomes_total/deferred": 1,
        "pysendmail_uncertain_outcomes_total": 1,
        "pysendmail_delivery_delay_seconds_bucket/1.0": 1,
        "pysendmail_delivery_delay_seconds_bucket/5.0": 2,
        "pysendmail_delivery_delay_seconds_bucket/86400.0": 2,
        "pysendmail_delivery_delay_seconds_bucket/+Inf": 3,
        "pysendmail_delivery_delay_seconds_count": 3,
        "pysendmail_delivery_delay_seconds_sum": 1_000_003.5,
    }
    assert {name: after[name] for name in expected} == expected
    gauges = {
        "pysendmail_health": 0,
        "pysendmail_queue_messages": 5,
        "pysendmail_queue_oldest_age_seconds": 90,
        "pysendmail_smarthost_up/main": 1,
        "pysendmail_alarms/tls": 1,
        "pysendmail_alarms/age": 0,
        "pysendmail_start_time_seconds": NOW - 1000,
    }
    assert {name: after[name] for name in gauges} == gauges
    assert len(after) < 60 and len(ALARMS) == 5  # what a server has to keep is known beforehand


def test_the_manual_has_them() -> None:
    """METRICS in pysendmail(8): each name and its labels, no more and no fewer."""
    client = pytest.importorskip("prometheus_client")
    parser = pytest.importorskip("prometheus_client.parser")
    text = client.generate_latest(Families(report(), Tally(Nowhere()).totals, Counter(), NOW)).decode()
    found = set()
    for family in parser.text_string_to_metric_families(text):
        suffix = "_total" if family.type == "counter" else ""
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        found.add(f"{family.name}{suffix}{{{','.join(labels)}}}")
        assert family.documentation and not family.documentation.endswith(".")
    page = MAN.read_text().partition(".Sh METRICS\n")[2].partition("\n.Sh ")[0]
    listed = {f"{match[1]}{{{match[2] or ''}}}" for match in re.finditer(r"^\.It Li (\w+)(?: Brq (\w+))?$", page, re.M)}
    assert listed == found


def test_an_event_goes_on_to_its_sink() -> None:
    """Counting costs no line of the log."""
    sink = Nowhere()
    tally = Tally(sink)
    for event in ("start", "outcome", "accepted"):
        tally.write(event, {})
    tally.close()
    assert sink.got == ["start", "outcome", "accepted", "closed"]


def test_the_library_is_loaded_by_nobody_else() -> None:
    """Who wants no metrics does without it."""
    code = "import sys, pysendmail.daemon; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
