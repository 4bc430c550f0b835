"""Command lines of sendmail for hypothesis: words that are options, or look like them, in any order."""

from __future__ import annotations

from hypothesis import strategies as st

from pysendmail import argv

LETTERS = [option.name[1:] for option in argv.OPTIONS if option.name[1] != "-"]

WORDS = """
--config=a --config --format --format=table --json --version --help -- - -C -Cb -oiTrue -oifalse -ov0 -odi -bs -bm
-bt -bp -qf -QIx -Oi -Ov -q15m -qp5m -q!Ix -O -OIgnoreDots IgnoreDots=no Verbose=yes -oem -f -fa@b root table
"""

_WORD = st.one_of(
    st.lists(st.sampled_from(LETTERS), min_size=1, max_size=3).map(lambda letters: "-" + "".join(letters)),
    st.sampled_from(LETTERS).map(lambda letter: f"-{letter}x"),
    st.sampled_from(["", *WORDS.split()]),
)
OPTIONS = st.lists(_WORD, max_size=6)
