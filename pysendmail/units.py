"""units: durations and sizes as people write them, "5d" and "50MiB"."""

from __future__ import annotations

import re

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_OCTETS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,3})?[smhdw])+\Z", re.ASCII)
_DURATION_PART = re.compile(r"([\d.]+)([smhdw])", re.ASCII)
_SIZE = re.compile(r"(\d{1,15}) ?([KMG]i?B|B)\Z", re.ASCII)


def duration(text: str) -> float:
    """Seconds: "30s", "1h30m", "5d", "2w", or "0". ValueError with words for anything else."""
    if text == "0":
        return 0.0
    if not _DURATION.match(text):
        raise ValueError('not a duration such as "30s", "1h30m" or "5d"')
    return float(sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text)))


def size(text: str) -> int:
    """Octets: "512B", "50MiB", "1GB", or "0". ValueError with words for anything else."""
    if text == "0":
        return 0
    match = _SIZE.match(text)
    if not match:
        raise ValueError('not a size such as "64KiB", "50MiB" or "1GB"')
    return int(match[1]) * _OCTETS[match[2]]
