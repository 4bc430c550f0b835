"""A name server that knows some SRV records, on a real socket; it needs dnspython, whose messages it speaks.

with name_server({"_submission._tcp.example.com": ["0 1 587 smtp.example.com."]}) as resolver:
    ... resolver asks this server and no other ...
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import dns.message
import dns.rcode
import dns.resolver
import dns.rrset


@contextmanager
def name_server(
    records: Mapping[str, Sequence[str]], *, rcode: int = 0, where: tuple[str, int] = ("127.0.0.1", 0)
) -> Iterator[dns.resolver.Resolver]:
    """A resolver whose one name server knows these SRV records; a name that is not among them does not exist."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(where)

        def serve() -> None:
            while True:
                octets, peer = sock.recvfrom(4096)
                if not octets:
                    return
                query = dns.message.from_wire(octets)
                name = query.question[0].name
                answer = dns.message.make_response(query)
                rows = records.get(name.to_text(omit_final_dot=True))
                answer.set_rcode(rcode or (dns.rcode.NOERROR if rows is not None else dns.rcode.NXDOMAIN))
                if rows:
                    answer.answer.append(dns.rrset.from_text(name, 60, "IN", "SRV", *rows))
                sock.sendto(answer.to_wire(max_size=65535), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = [where[0]]
        resolver.port = sock.getsockname()[1]
        try:
            yield resolver
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", sock.getsockname())
            thread.join()
