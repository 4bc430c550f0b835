"""Metrics: what a Prometheus server wants to know, in a file for node_exporter's textfile collector, or on loopback.

Counters count events since the daemon's start, as Prometheus has it; gauges are `status` once more. Names follow its
conventions: base units, `_total`, times as `_timestamp_seconds`; the labels are outcomes, smarthosts and kinds of
alarms, never addresses or ids, so that their number is known beforehand.

prometheus-client writes the text and is imported for nothing else; without it, or with an address that cannot be
bound, the event `metrics` says so, and the mail goes on. On loopback everybody of this machine may ask: MOST at a
time, each for READ_S in all, and whoever comes then takes the place of the one who has asked nothing for longest. The
text is made at most once in FRESH_S.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pysendmail import __version__, small_file
from pysendmail.config import Config
from pysendmail.events import Events, Sink, Value
from pysendmail.loopback import bind
from pysendmail.status import HEALTH

if TYPE_CHECKING:
    from prometheus_client import Metric

FILE_S = 15.0  # between two writings of the file: as often as most servers look
FRESH_S = 1.0
READ_S = 5.0  # from the connection to the last octet of the answer
MOST = 64  # some KiB each
MAX_REQUEST = 8192
OUTCOMES = ("sent", "deferred", "bounced", "expired", "discarded", "removed")
ALARMS = ("account", "tls", "age", "reserve", "damage")
# What is counted of other events than outcomes: the metric, its words, and the event.
COUNTED = {
    "accepted": ("pysendmail_accepted_messages", "Messages accepted from programs on this machine, and reports"),
    "refused": ("pysendmail_refused_submissions", "Submissions that were refused, as far as the log has them"),
    "attempt": ("pysendmail_attempts", "Attempts to send a message over a connection"),
    "bounce": ("pysendmail_reports", "Bounces, delay notices and other reports that were queued"),
    "fallback": ("pysendmail_tls_fallbacks", "Connections in clear that followed on a failed TLS handshake"),
    "full": ("pysendmail_disk_full", "How often the disk was found full"),
    "bug": ("pysendmail_bugs", "Errors of pysendmail's own"),
}
DELAYS_S = (1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 14400.0, 86400.0)


@dataclass(slots=True)
class Totals:
    """Since the start."""

    events: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    uncertain: int = 0
    troubles: Counter[str] = field(default_factory=Counter)  # by smarthost
    octets: int = 0  # of accepted messages
    delays: list[int] = field(default_factory=lambda: [0] * (len(DELAYS_S) + 1))  # of what was sent, by bucket
    delay_s: float = 0.0  # all of them


class Tally:
    """Counts the events on their way to a sink."""

    def __init__(self, sink: Sink) -> None:
        self.totals = Totals()
        self._sink = sink

    def write(self, event: str, fields: Mapping[str, Value]) -> None:
        self._sink.write(event, fields)
        totals = self.totals
        if event == "outcome":
            status = fields.get("status")
            totals.outcomes[str(status)] += 1
            totals.uncertain += fields.get("uncertain") is not None
            delay = fields.get("delay_s")
            if status == "sent" and isinstance(delay, float | int):
                totals.delays[next((n for n, most in enumerate(DELAYS_S) if delay <= most), -1)] += 1
                totals.delay_s += delay
        elif event in COUNTED:
            totals.events[event] += 1
            if event == "accepted":
                size = fields.get("size")
                totals.octets += size if isinstance(size, int) else 0
        elif event == "trouble":
            totals.troubles[str(fields.get("smarthost"))] += 1

    def close(self) -> None:
        self._sink.close()


class Families:
    """What prometheus-client asks for its text: the metrics, from a report of `status` and the totals."""

    def __init__(self, report: Mapping[str, Any], totals: Totals, alarms: Counter[str], started_at: float) -> None:
        self._report = report
        self._totals = totals
        self._alarms = alarms
        self._started_at = started_at

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._smarthosts()
        yield from self._counters()

    def _gauges(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        report = self._report
        yield InfoMetricFamily("pysendmail_build", "The running version", {"version": __version__})
        values: dict[str, tuple[str, float | None]] = {
            "pysendmail_start_time_seconds": ("When the daemon started", self._started_at),
            "pysendmail_health": ("0 ok, 1 warning, 2 critical", HEALTH.index(report["health"])),
            "pysendmail_queue_messages": ("Messages that wait", report["queued"]),
            "pysendmail_queue_deferred_messages": ("Those of them that were tried", report["deferred"]),
            "pysendmail_queue_held_messages": ("Those of them that a person holds", report["held"]),
            "pysendmail_queue_in_flight_messages": ("Messages that are being sent", report["in_flight"]),
            "pysendmail_failed_kept_messages": ("Failed messages whose body is still kept", report["failed"]),
            "pysendmail_queue_oldest_age_seconds": (
                "How long the oldest message waits that nobody holds; 0 without one",
                report["oldest_age_s"] or 0.0,
            ),
        }
        for name, (words, value) in values.items():
            yield GaugeMetricFamily(name, words, value)
        alarms = GaugeMetricFamily("pysendmail_alarms", "Alarms that were told and are not over", labels=("kind",))
        for kind in ALARMS:
            alarms.add_metric((kind,), self._alarms[kind])
        yield alarms

    def _smarthosts(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        label = ("smarthost",)
        up = GaugeMetricFamily("pysendmail_smarthost_up", "Whether mail can go there, as far as is known", labels=label)
        connections = GaugeMetricFamily("pysendmail_smarthost_connections", "Connections to it", labels=label)
        troubles = CounterMetricFamily("pysendmail_smarthost_troubles", "How often it could not be used", labels=label)
        for one in self._report["smarthosts"]:
            up.add_metric((one["name"],), one["state"] == "up")
            connections.add_metric((one["name"],), one["connections"])
            troubles.add_metric((one["name"],), self._totals.troubles[one["name"]])
        yield from (up, connections, troubles)

    def _counters(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        totals = self._totals
        for event, (name, words) in COUNTED.items():
            yield CounterMetricFamily(name, words, totals.events[event])
        yield CounterMetricFamily("pysendmail_accepted_bytes", "Their size", totals.octets)
        words = "What attempts and people made of recipients"
        outcomes = CounterMetricFamily("pysendmail_outcomes", words, labels=("outcome",))
        for outcome in OUTCOMES:
            outcomes.add_metric((outcome,), totals.outcomes[outcome])
        yield outcomes
        words = "Outcomes whose last answer was lost: such a recipient may get the message twice"
        yield CounterMetricFamily("pysendmail_uncertain_outcomes", words, totals.uncertain)
        bounds = [*map(str, DELAYS_S), "+Inf"]
        sums = [sum(totals.delays[: number + 1]) for number in range(len(bounds))]
        words = "How long what was sent had waited since it was accepted"
        yield HistogramMetricFamily(
            "pysendmail_delivery_delay_seconds",
            words,
            buckets=list(zip(bounds, sums, strict=True)),
            sum_value=totals.delay_s,
        )


class Metrics:
    """The file and the addresses of `[metrics]`, as it stands now. `look` gives what `status` reports of everything."""

    def __init__(
        self,
        totals: Totals,
        *,
        look: Callable[[], Awaitable[Mapping[str, Any]]],
        alarms: Callable[[], Counter[str]],
        events: Events,
    ) -> None:
        self._totals = totals
        self._look = look
        self._alarms = alarms
        self._events = events
        self._started_at = time.time()
        self._servers: dict[str, asyncio.Server] = {}
        self._writing: asyncio.Task[None] | None = None
        self._callers: dict[asyncio.StreamWriter, bool] = {}  # in the order of their coming; whether they have asked
        self._making = asyncio.Lock()
        self._made: tuple[float, bytes] = (-FRESH_S, b"")  # monotonic, and the text of that moment

    async def configure(self, config: Config) -> None:
        """Write and answer as this wants it, and no more."""
        settings = config.metrics
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        for address in [bound for bound in self._servers if bound not in settings.listen]:
            self._servers.pop(address).close()
        if not settings.file and not settings.listen:
            return
        try:
            import prometheus_client  # noqa: F401
        except ImportError:
            self._complain("prometheus-client is not installed: python3-prometheus-client, or pysendmail-mta[metrics]")
            return
        for address in settings.listen:
            if address not in self._servers:
                await self._listen(address)
        if settings.file:
            self._writing = asyncio.get_running_loop().create_task(self._write(Path(settings.file)))

    def stop(self) -> None:
        for server in self._servers.values():
            server.close()
        if self._writing is not None:
            self._writing.cancel()

    def _complain(self, error: str) -> None:
        self._events.emit("metrics", error=error)

    async def text(self) -> bytes:
        """In Prometheus's text format, of this second."""
        async with self._making:
            made_at, text = self._made
            if time.monotonic() - made_at >= FRESH_S:
                from prometheus_client import generate_latest

                families: Any = Families(await self._look(), self._totals, self._alarms(), self._started_at)
                text = generate_latest(families)
                self._made = time.monotonic(), text
            return text

    async def _write(self, path: Path) -> None:
        complaint = ""
        while True:
            try:
                text = await self.text()
                await asyncio.to_thread(small_file.replace, path, text, 0o644)
                complaint = ""
            except OSError as error:
                if complaint != (complaint := f"{path}: {error.strerror}"):
                    self._complain(complaint)
            except Exception as error:
                self._events.bug(error)
            await asyncio.sleep(FILE_S)

    async def _listen(self, address: str) -> None:
        try:
            sock = bind(address)
        except OSError as error:
            self._complain(f"{address}: {error.strerror}")
            return
        self._servers[address] = await asyncio.start_server(self._answer, sock=sock, limit=MAX_REQUEST)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of HTTP, whatever it says."""
        if len(self._callers) >= MOST:
            oldest = min(self._callers, key=self._callers.__getitem__)  # the first that has not asked, or the first
            del self._callers[oldest]
            oldest.transport.abort()
        self._callers[writer] = False
        try:
            async with asyncio.timeout(READ_S):
                request = await reader.readuntil(b"\r\n\r\n")
                self._callers[writer] = True
                status, text = "404 Not Found", b"see /metrics\n"
                if request.split(b" ")[:2] == [b"GET", b"/metrics"]:
                    status, text = "200 OK", await self.text()
                head = (
                    f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                    f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
                )
                writer.write(head.encode() + text)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # he is gone, or none of ours
        except Exception as error:
            self._events.bug(error)
        finally:
            self._callers.pop(writer, None)
            writer.transport.abort()  # what he has not taken by now is not kept for him
