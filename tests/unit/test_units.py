"""Durations, sizes and instants, read and shown."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail.units import UnitError, duration, parse_time, rfc3339, size, words_for_duration

NOW = 1795309323.0  # 2026-11-22T01:02:03Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("30s", 30),
        ("5m", 300),
        ("4h", 14400),
        ("5d", 432000),
        ("1w", 604800),
        ("1h30m", 5400),
        ("0.5s", 0.5),
        ("1.5h", 5400),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    """Units from seconds to weeks, also together."""
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "d",
        "-1d",
        "5 d",
        "5D",
        "1e9s",
        "5y",
        "٣d",
        "5d\n",
        "9999999999w",
        "1." + "1" * 99 + "s",
        "inf",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A number without a unit, too, for it would be a guess."""
    with pytest.raises(UnitError):
        duration(text)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("0", 0),
        ("512B", 512),
        ("16KiB", 16384),
        ("50MiB", 52428800),
        ("1GiB", 1 << 30),
        ("1.5 MiB", 1572864),
        ("10MB", 10**7),
        ("1kb", 1000),
        ("2TiB", 2 << 40),
    ],
)
def test_a_size_is_read(text: str, octets: int) -> None:
    """Binary and decimal units, whatever their case."""
    assert size(text) == octets


@pytest.mark.parametrize("text", ["", "5", "MiB", "-1MiB", "1EiB", "1e3B", "5M", "1MiB\n", "999999999999999TiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """A size without a unit, or beyond any disk."""
    with pytest.raises(UnitError):
        size(text)


def test_an_instant_is_shown_in_utc() -> None:
    """RFC 3339 with Z; what lies beyond the calendar is shown at its edge."""
    assert rfc3339(NOW + 0.9) == "2026-11-22T01:02:03Z"
    assert rfc3339(-5) == "1970-01-01T00:00:00Z"
    assert rfc3339(1e300) == "9999-12-31T23:59:59Z"


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("2h", NOW - 7200),
        ("0s", NOW),
        ("2026-11-22T01:02:03Z", NOW),
        ("2026-11-22t02:02:03.5+01:00", NOW + 0.5),
        ("2026-11-22 01:02Z", NOW - 3),
        ("2026-11-22", NOW - 3723),
    ],
)
def test_a_time_is_a_duration_or_an_instant(text: str, epoch: float) -> None:
    """A duration is that long ago."""
    assert parse_time(text, NOW) == epoch


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "2026-11-22T01:02:03", "20261122", "2026-11-22T25:00Z"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """An instant without its offset, too: it would be a guess."""
    with pytest.raises(UnitError):
        parse_time(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (86400, "1 d"),
        (187200, "2 d 4 h"),
        (432000, "5 d"),
    ],
)
def test_a_duration_is_told_in_words(seconds: float, words: str) -> None:
    """Two units at most."""
    assert words_for_duration(seconds) == words


@given(st.text(alphabet="0123456789.smhdwkKMGTiB+-:TZ ٣", max_size=30))
def test_no_text_gives_another_exception(text: str) -> None:
    """Only UnitError leaves."""
    for read in (duration, size, lambda text: parse_time(text, NOW)):
        with contextlib.suppress(UnitError):
            assert read(text) >= -4e9


@given(st.floats(0, 4e9))
def test_an_instant_reads_back(epoch: float) -> None:
    """What rfc3339 shows is the second that parse_time reads."""
    assert parse_time(rfc3339(epoch), NOW) == int(epoch)
