"""The rules by which input becomes a message, once more and a line at a time: what `message.Intake` must give."""

from __future__ import annotations

import re


def slowly(data: bytes, *, dot_ends: bool) -> tuple[list[bytes], bytes]:
    """The header fields and the body, both with CRLF."""
    text = re.sub(rb"[\r\0]", b" ", re.sub(rb"\r*\n", b"\n", data))
    lines = text.removesuffix(b"\n").split(b"\n") if text else []
    if dot_ends and b"." in lines:
        lines = lines[: lines.index(b".")]
    while lines and re.match(rb">*From (?! *:)", lines[0]):
        lines.pop(0)
    header: list[bytes] = []
    while lines:
        if header and lines[0][:1] in (b" ", b"\t"):
            header[-1] += lines.pop(0) + b"\r\n"
        elif re.match(rb"[!-9;-~]+[ \t]*:", lines[0]):
            header.append(lines.pop(0) + b"\r\n")
        else:
            break
    if lines and not lines[0]:
        lines.pop(0)
    return header, b"".join(line + b"\r\n" for line in lines)
