"""transfer: decoding gives back what was encoded, in any pieces, and the lines keep their limits."""

from __future__ import annotations

import base64
import quopri
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pysendmail.transfer import MAX_PIECE, WIDTH, Treatment, coder, longest_line, quoted_printable

TEXT = st.binary(max_size=400).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b"\r\n"))


def run(treatment: Treatment, *pieces: bytes) -> bytes:
    made = coder(treatment)
    return b"".join([*map(made.feed, pieces), made.finish()])


@given(TEXT)
@example(b"x" * 74 + b" \r\n")
@example(b"-" * 200)
@example(b".\r\n--\r\n \t\r\n")
def test_quoted_printable_is_what_rfc_2045_says(text: bytes) -> None:
    """Lines of at most 76, printable ASCII, no space at a line's end, the same text when decoded."""
    out = quoted_printable(text)
    assert re.fullmatch(rb"(?:[\t -~]{0,75}[!-~])?(?:\r\n(?:[\t -~]{0,75}[!-~])?)*", out)
    assert not re.search(rb"(?m)^(--|\.\r?$)", out)
    assert quopri.decodestring(out).replace(b"\r\n", b"\n") == text.replace(b"\r\n", b"\n")


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_base64_in_any_pieces_is_base64_of_the_whole(pieces: list[bytes]) -> None:
    """Lines of 76, the last without an end."""
    out = run(Treatment.BASE64, *pieces)
    assert out == base64.encodebytes(b"".join(pieces)).replace(b"\n", b"\r\n").removesuffix(b"\r\n")


@pytest.mark.parametrize("size", [0, 1, 57, 4000])
def test_base64_without_lines_is_wrapped(size: int) -> None:
    """What stands outside the alphabet means nothing and goes."""
    data = bytes(range(256)) * size
    text = base64.b64encode(data)
    out = run(Treatment.WRAP, text[:33], b"\xff \r\n", text[33:])
    assert longest_line(out) <= WIDTH
    assert base64.b64decode(out) == data


@pytest.mark.parametrize(
    "unit", [b"x", b"=C3=BC", b"\xc3\xbc", b"=", b"-", b" ", b"=3D=", b"=\xff", b"a=C", b"--b", b"=3d.\t"]
)
@pytest.mark.parametrize("shift", range(4))
def test_an_endless_line_of_quoted_printable_keeps_its_meaning(unit: bytes, shift: int) -> None:
    """However it is cut, an escape is not cut apart, a stray "=" stays one, and no line looks like a delimiter."""
    line = b"y" * shift + unit * (3 * MAX_PIECE // len(unit)) + b"."
    pieces = [line[at : at + 10_007] for at in range(0, len(line), 10_007)]
    out = run(Treatment.SOFT_BREAKS, *pieces, b"\r\n", b"-- \r\n")
    assert out.endswith(b".\r\n-- \r\n")
    assert out.isascii() and longest_line(out) <= WIDTH
    assert not re.search(rb"(?m)^--[^ ]", out)
    assert quopri.decodestring(out) == quopri.decodestring(line + b"\r\n-- \r\n")


@given(lines=st.lists(TEXT, max_size=4), treatment=st.sampled_from([Treatment.QUOTED_PRINTABLE, Treatment.KEEP]))
def test_pieces_make_no_difference(lines: list[bytes], treatment: Treatment) -> None:
    """A piece may end anywhere but between CR and LF."""
    decoded = quopri.decodestring if treatment is Treatment.QUOTED_PRINTABLE else bytes
    assert decoded(run(treatment, *lines)) == b"".join(lines)
