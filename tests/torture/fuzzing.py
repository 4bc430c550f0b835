"""python -m torture.fuzzing ENGINE TARGET AMOUNT SEED DIRECTORY

One engine at one target, in a process of its own: what hangs or eats memory takes nobody else with it.

    hypothesis   AMOUNT examples of the target's words in any order, and of any octets; the input is made small
    atheris      AMOUNT seconds of libFuzzer, led by the branches that the code took, from the same words

The last line of standard output says what came of it, as JSON: `examples`, and if something did, `input` (in hex) and
`what` it was. libFuzzer ends the process by itself: then the caller finds the input in DIRECTORY, and its words on
standard error (`crashed`).
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torture.targets import Target

MEMORY = 2 << 30  # of such a process
LARGEST = 4096  # octets of an input
MOST_WORDS = 24
SEEDS = 200  # inputs that libFuzzer begins with
INPUT = "crash-"  # what libFuzzer calls the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """See the module."""

    examples: int = 0
    input: str | None = None
    what: str = ""


def explore(target: Target, examples: int, seed: int) -> Report:
    """hypothesis, until something is found; then the smallest input that it still happens with."""
    import hypothesis
    from hypothesis import strategies as st

    words = st.sampled_from(target.words)
    inputs = st.one_of(
        st.lists(words, max_size=MOST_WORDS).map(b"".join),
        st.lists(st.one_of(words, st.binary(max_size=8)), max_size=MOST_WORDS).map(b"".join),
        st.tuples(words, words, st.integers(1, 300), words).map(lambda some: some[0] + some[1] * some[2] + some[3]),
    )
    count = 0
    last: tuple[bytes, Exception] | None = None

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    @hypothesis.given(inputs)
    def trial(data: bytes) -> None:
        nonlocal count, last
        count += last is None
        try:
            target.attempt(data)
        except Exception as error:
            last = data, error
            raise

    try:
        trial()
    except Exception:
        if last is None:
            raise
        data, error = last  # the last one that failed is the smallest
        return Report(examples=count, input=data.hex(), what=f"{type(error).__name__}: {error}")
    return Report(examples=count)


def lead(name: str, seconds: int, seed: int, directory: Path) -> None:
    """atheris. It does not return."""
    import atheris

    with atheris.instrument_imports(include=["pysendmail"]):
        from torture.targets import TARGETS
    target = TARGETS[name]
    corpus = directory / "corpus"
    corpus.mkdir()
    for number, words in enumerate(_seeds(target.words)):
        (corpus / str(number)).write_bytes(words)
    options = {
        "max_total_time": seconds,
        "seed": seed or 1,
        "max_len": LARGEST,
        "rss_limit_mb": MEMORY >> 20,
        "print_final_stats": 1,
        "artifact_prefix": f"{directory}/",
    }
    atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(corpus)], target.attempt)
    atheris.Fuzz()


def _seeds(words: Sequence[bytes]) -> list[bytes]:
    """Each word, and some of them together."""
    return [*words, *(b"".join(words[start : start + 5]) for start in range(0, len(words), 2))][:SEEDS]


def crashed(code: int, directory: Path, stderr: str) -> Report:
    """What a process of atheris has left."""
    units = re.search(r"number_of_executed_units: (\d+)|#(\d+)\s+(?:DONE|pulse)", stderr)
    examples = int(units[1] or units[2]) if units else 0
    if code == 0 and units:
        return Report(examples=examples)
    found = next((file for file in directory.iterdir() if "-" in file.name and file.is_file()), None)
    words = [line for line in stderr.splitlines() if re.match(r"\w*(?:Error|Exception)\b|==\d+== ERROR", line)]
    return Report(
        examples=examples,
        input=found.read_bytes().hex() if found else None,
        what=words[0] if words else f"exit {code}: {stderr[-200:]}",
    )


def main() -> None:
    engine, name, amount, seed, directory = sys.argv[1:]
    if engine == "atheris":
        lead(name, int(amount), int(seed), Path(directory))
        return
    from torture.targets import TARGETS

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps(asdict(explore(TARGETS[name], int(amount), int(seed)))))


if __name__ == "__main__":
    main()
