"""A name server that knows some SRV records and addresses, on a real socket. It speaks by means of dnspython.

with name_server({"_submission._tcp.example.com": ["0 1 587 smtp.example.com."]}) as resolver:
    ... resolver asks this server and no other ...

`network`: it listens in that network namespace, as a PeerThread does.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

from rig.peer import enter


@contextmanager
def name_server(
    records: Mapping[str, Sequence[str]],
    *,
    hosts: Mapping[str, str] | None = None,
    rcode: int = 0,
    where: tuple[str, int] = ("127.0.0.1", 0),
    network: Path | None = None,
) -> Iterator[dns.resolver.Resolver]:
    """A resolver whose one name server knows these SRV records and IPv4 addresses; no other name exists."""
    known = {(name, "SRV"): rows for name, rows in records.items()}
    known |= {(name, "A"): [address] for name, address in (hosts or {}).items()}
    names = {name for name, _ in known}
    with _socket(network) as sock, _socket(network) as last:
        sock.bind(where)

        def serve() -> None:
            while True:
                octets, peer = sock.recvfrom(4096)
                if not octets:
                    return
                query = dns.message.from_wire(octets)
                name, kind = query.question[0].name, dns.rdatatype.to_text(query.question[0].rdtype)
                answer = dns.message.make_response(query)
                host = name.to_text(omit_final_dot=True)
                answer.set_rcode(rcode or (dns.rcode.NOERROR if host in names else dns.rcode.NXDOMAIN))
                if rows := known.get((host, kind)):
                    answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *rows))
                sock.sendto(answer.to_wire(max_size=65535), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = [where[0]]
        resolver.port = sock.getsockname()[1]
        try:
            yield resolver
        finally:
            last.sendto(b"", sock.getsockname())
            thread.join()


def _socket(network: Path | None) -> socket.socket:
    """For datagrams, in that network: made by a thread of its own, which nobody else gets."""

    def made() -> socket.socket:
        if network:
            enter(network)
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(made).result()
