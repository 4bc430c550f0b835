"""TLS contexts: from a smarthost's settings to an ssl.SSLContext, read from disk once and again when a file changes.

Reading the system's trust store takes 55 ms, so a context is kept for each combination of settings, as long as its
files have the same time and size: a renewed client certificate is taken up without a restart. Loading is done in a
thread. OSError and ssl.SSLError (which is one) say that a file cannot be used.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Literal

from pysendmail.config import Smarthost
from pysendmail.tlspolicy import Check

Key = tuple[Check, str, str, str]
Stamp = tuple[tuple[int, int], ...]


# One process, one set of files: the contexts in use, bounded by the smarthosts of all configurations it ever read.
_kept: dict[Key, tuple[Stamp, ssl.SSLContext]] = {}


async def get(smarthost: Smarthost, check: Check) -> ssl.SSLContext:
    """The context for a connection to `smarthost` whose certificate is to be checked so."""
    key = (check, smarthost.tls_ca_file, smarthost.tls_client_certificate, smarthost.tls_minimum)
    stamp = _stamp(smarthost, check)
    kept = _kept.get(key)
    if kept is None or kept[0] != stamp:
        kept = _kept[key] = stamp, await asyncio.to_thread(_build, smarthost, check)
    return kept[1]


def _stamp(smarthost: Smarthost, check: Check) -> Stamp:
    paths = [smarthost.tls_client_certificate]
    if check is Check.NAME:
        system = ssl.get_default_verify_paths()
        paths += [smarthost.tls_ca_file] if smarthost.tls_ca_file else [system.cafile or "", system.capath or ""]
    stamps = []
    for path in filter(None, paths):
        try:
            facts = os.stat(path)
        except OSError:
            continue  # building the context will say what is wrong
        stamps.append((facts.st_mtime_ns, facts.st_size))
    return tuple(stamps)


def _build(smarthost: Smarthost, check: Check) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _version(smarthost.tls_minimum)
    # Said here, so that every Python does the same: 3.13 would add VERIFY_X509_STRICT, which refuses private CAs.
    context.verify_flags = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    if check is Check.NAME:
        if smarthost.tls_ca_file:
            context.load_verify_locations(cafile=smarthost.tls_ca_file)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if smarthost.tls_client_certificate:
        # Without a password callback OpenSSL would ask for the passphrase on the terminal.
        context.load_cert_chain(smarthost.tls_client_certificate, password=_no_passphrase)
    return context


def _version(minimum: Literal["1.2", "1.3"]) -> ssl.TLSVersion:
    return ssl.TLSVersion.TLSv1_3 if minimum == "1.3" else ssl.TLSVersion.TLSv1_2


def _no_passphrase() -> str:
    raise ssl.SSLError("the key of tls_client_certificate has a passphrase")
