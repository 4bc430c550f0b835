"""A throw-away certificate authority, and servers' TLS contexts with every kind of certificate.

authority = Authority(tmp_path)
Smarthost(..., host="localhost", tls="verify", tls_ca_file=authority.file)
Peer(Ordinary(tls=authority.server()))              # also .server("wrong name") and the other KINDS
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
import warnings
from pathlib import Path

import trustme

NAME = "localhost"  # the name that a good certificate has; it resolves to the peer
KINDS = ("good", "wrong name", "expired", "unknown authority", "self-signed")


class Authority:
    """Certificates are made once for each kind."""

    def __init__(self, directory: Path, name: str = NAME) -> None:
        """`name`: of the host that good certificates are for."""
        self._ca = trustme.CA()
        stranger = trustme.CA()
        past = datetime.datetime(2001, 1, 1)
        later = past + datetime.timedelta(days=1)
        self._certificates = {
            "good": self._ca.issue_cert(name, "127.0.0.1"),
            "wrong name": self._ca.issue_cert("other.example"),
            "expired": self._ca.issue_cert(name, not_before=past, not_after=later),
            "unknown authority": stranger.issue_cert(name),
            "self-signed": trustme.LeafCert(stranger.private_key_pem.bytes(), stranger.cert_pem.bytes(), []),
        }
        self.file = str(directory / "ca.pem")
        self._ca.cert_pem.write_to_path(self.file)
        self.client_certificate = str(directory / "client.pem")
        self._ca.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(self.client_certificate)

    def server(
        self, kind: str = "good", *, newest: ssl.TLSVersion | None = None, wants_client: bool = False
    ) -> ssl.SSLContext:
        """A server's context. `newest`: it speaks nothing newer. `wants_client`: it demands a client certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certificates[kind].configure_cert(context)
        if newest is not None:
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of the version
                context.minimum_version = min(newest, context.minimum_version)
                context.maximum_version = newest
            context.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL has taken the oldest from all that are stronger
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context

    def pem(self, kind: str = "good") -> bytes:
        """Key and chain, for a server that reads them from a file."""
        return self._certificates[kind].private_key_and_cert_chain_pem.bytes()

    def fingerprint(self, kind: str = "good") -> str:
        """SHA-256 of the certificate, as tls_fingerprints has it."""
        pem = self._certificates[kind].cert_chain_pems[0].bytes().decode()
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
