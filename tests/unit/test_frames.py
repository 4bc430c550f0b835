"""Frames: the codec, its bounds and the order of a conversation."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail import frames
from pysendmail.frames import TO_CLIENT, TO_DAEMON, Decoder, Frame, FrameError, encode

ID = bytes(range(16))
HELLO = encode(frames.HELLO, frames.pack_hello(ID))
ARGV = encode(frames.ARGV, b"sendmail\0")

strings = st.lists(st.binary().map(lambda value: value.replace(b"\0", b"")), max_size=8)


def feed_in_pieces(decoder: Decoder, stream: bytes, cuts: list[int]) -> list[Frame]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [frame for start, end in itertools.pairwise(edges) for frame in decoder.feed(stream[start:end])]


@given(st.lists(st.binary(max_size=600), max_size=6), strings, st.lists(st.integers(min_value=0), max_size=20))
def test_any_cut_gives_the_same_frames(chunks: list[bytes], argv: list[bytes], cuts: list[int]) -> None:
    """Where the network cuts a conversation makes no difference to the frames; neighbouring DATA may be one."""
    expected = [
        Frame(frames.HELLO, frames.pack_hello(ID)),
        Frame(frames.ARGV, frames.pack_strings([b"sendmail", *argv])),
        *(Frame(frames.DATA, chunk) for chunk in chunks),
        Frame(frames.END, b""),
    ]
    stream = b"".join(encode(frame.kind, frame.payload) for frame in expected)
    decoder = Decoder(TO_DAEMON)
    found = feed_in_pieces(decoder, stream, cuts)
    assert [f for f in found if f.kind != frames.DATA] == [f for f in expected if f.kind != frames.DATA]
    assert all(f.kind == frames.DATA for f in found[2:-1])
    assert b"".join(f.payload for f in found[2:-1]) == b"".join(chunks)
    assert decoder.finished
    assert not decoder.inside


def test_small_frames_that_come_together_are_one() -> None:
    """A million frames of one octet cost no more than their octets: the reader gets one frame for each feed."""
    decoder = Decoder(TO_DAEMON)
    small = encode(frames.DATA, b"x") * 1000 + encode(frames.DATA)
    found = decoder.feed(HELLO + ARGV + small + encode(frames.DATA, b"cut")[:6])
    assert found[2:] == [Frame(frames.DATA, b"x" * 1000)]
    assert decoder.feed(encode(frames.DATA, b"cut")[6:] + encode(frames.END))[0] == Frame(frames.DATA, b"cut")


@given(st.binary(max_size=2000), st.lists(st.integers(min_value=0), max_size=5))
def test_garbage_gives_frames_or_a_frame_error(data: bytes, cuts: list[int]) -> None:
    """No bytes of a peer make the decoder raise anything but FrameError, whatever the direction."""
    for grammar in (TO_DAEMON, TO_CLIENT):
        decoder = Decoder(grammar)
        try:
            for frame in feed_in_pieces(decoder, HELLO + data if grammar is TO_DAEMON else data, cuts):
                if frame.kind == frames.ARGV:
                    frames.parse_argv(frame.payload)
        except FrameError:
            with pytest.raises(FrameError):
                decoder.feed(b"")


@given(strings)
def test_argv_survives_in_its_exact_bytes(argv: list[bytes]) -> None:
    """Empty arguments, 8-bit octets and line ends come through as they were."""
    assert (b"sendmail", *argv) == frames.parse_argv(frames.pack_strings([b"sendmail", *argv]))


@given(st.dictionaries(st.sampled_from([b"NAME", b"X"]), st.binary().map(lambda v: v.replace(b"\0", b""))))
def test_environment_survives(environment: dict[bytes, bytes]) -> None:
    """Only the first equals sign separates name and value."""
    packed = frames.pack_strings([name + b"=" + value for name, value in environment.items()])
    assert environment == frames.parse_environment(packed)


def test_hello_names_version_and_id() -> None:
    """V is one version byte and the submission id."""
    assert frames.parse_hello(frames.pack_hello(ID)) == (frames.VERSION, ID)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_told(version: int) -> None:
    """A version that we don't speak is not hidden: the daemon has words for it."""
    assert frames.parse_hello(frames.pack_hello(ID, version)) == (version, ID)
    assert version not in frames.VERSIONS


@pytest.mark.parametrize(
    ("name", "stream", "words"),
    [
        ("not ours", b"HELO there\r\n", "unknown frame type b'H'"),
        ("no hello", ARGV, "b'A' first"),
        ("hello twice", HELLO + HELLO, "b'V' after b'V'"),
        ("end without argv", HELLO + encode(frames.END), "b'Z' after b'V'"),
        (
            "environment after data",
            HELLO + ARGV + encode(frames.DATA) + encode(frames.ENVIRONMENT),
            "after b'D'",
        ),
        ("a question in a submission", HELLO + ARGV + encode(frames.ASK), "b'Q' after b'A'"),
        ("after the end", HELLO + ARGV + encode(frames.END) + b"D", "after the end"),
        ("after a question", HELLO + encode(frames.ASK) + b"A", "after the end"),
        ("the client's direction", HELLO + encode(frames.EXIT, b"\0"), "unknown frame type b'X'"),
        ("short hello", encode(frames.HELLO, b"\1"), "b'V' of 1 octets"),
        ("no argv[0]", HELLO + encode(frames.ARGV), "b'A' of 0 octets"),
        ("end with a payload", HELLO + ARGV + encode(frames.END, b"x"), "b'Z' of 1 octets"),
        ("huge argv", HELLO + b"A" + (frames.MAX_ARGV_OCTETS + 1).to_bytes(4), "of 1048577 octets"),
        ("huge data", HELLO + ARGV + b"D" + b"\xff" * 4, "of 4294967295 octets"),
    ],
)
def test_what_does_not_belong_is_a_frame_error(name: str, stream: bytes, words: str) -> None:
    """Order, type and length are judged before any payload is waited for; fed whole or byte by byte."""
    with pytest.raises(FrameError, match=words):
        Decoder().feed(stream)
    with pytest.raises(FrameError, match=words):
        feed_in_pieces(Decoder(), stream, list(range(len(stream))))


def test_largest_frames_pass() -> None:
    """The bounds themselves are allowed."""
    argv = b"x" * (frames.MAX_ARGV_OCTETS - 1) + b"\0"
    stream = HELLO + encode(frames.ARGV, argv) + encode(frames.DATA, bytes(frames.MAX_CHUNK))
    assert [len(f.payload) for f in Decoder().feed(stream)] == [17, frames.MAX_ARGV_OCTETS, frames.MAX_CHUNK]


def test_cut_frame_is_known() -> None:
    """When a connection ends, the decoder knows whether it cut a frame."""
    decoder = Decoder()
    decoder.feed(HELLO + ARGV[:-1])
    assert decoder.inside
    assert not decoder.finished


@pytest.mark.parametrize(
    ("payload", "words"),
    [(b"sendmail", "without a NUL"), (b"\0" * (frames.MAX_ARGUMENTS + 1), "more than 10000 arguments")],
)
def test_bad_argv_is_a_frame_error(payload: bytes, words: str) -> None:
    """Arguments end with a NUL and are counted before they are split."""
    with pytest.raises(FrameError, match=words):
        frames.parse_argv(payload)


@pytest.mark.parametrize("payload", [b"NAME\0", b"=x\0", b"\0", b"NAME=x", b"A=\0" * (frames.MAX_VARIABLES + 1)])
def test_bad_environment_is_a_frame_error(payload: bytes) -> None:
    """A variable has a name and an equals sign, and there are few."""
    with pytest.raises(FrameError):
        frames.parse_environment(payload)


def test_output_of_any_length_is_cut_into_frames() -> None:
    """A long listing becomes as many frames as the bound asks for, and none for nothing."""
    data = b"x" * (2 * frames.MAX_CHUNK + 1)
    got = Decoder(TO_CLIENT).feed(frames.output(frames.STDOUT, data) + encode(frames.EXIT, b"\0"))
    assert [len(frame.payload) for frame in got] == [frames.MAX_CHUNK, frames.MAX_CHUNK, 1, 1]
    assert frames.output(frames.STDERR, b"") == b""
