"""When a recipient is tried again, and when a smarthost is probed."""

from hypothesis import given
from hypothesis import strategies as st

from pysendmail.config import Retry
from pysendmail.schedule import MAX_REST_S, interval, longest_interval, next_attempt_at, rest

retries = st.builds(
    Retry,
    first=st.floats(0.001, 10**6),
    factor=st.floats(1, 100),
    maximum=st.floats(0.001, 10**6),
    jitter=st.floats(0, 0.9),
)
attempts = st.integers(1, 200)


def test_the_default_schedule() -> None:
    """30 s, then doubled up to an hour, where it stays."""
    retry = Retry()
    waits = [interval(retry, attempt) for attempt in range(1, 11)]
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


@given(retries, attempts)
def test_intervals_grow_up_to_the_maximum(retry: Retry, attempt: int) -> None:
    """No interval is shorter than the one before it, none is above the maximum."""
    assert interval(retry, attempt) <= interval(retry, attempt + 1) <= retry.maximum


@given(retries, attempts, st.text(max_size=15), st.floats(0, 2**33))
def test_jitter_is_within_its_bounds(retry: Retry, attempt: int, queue_id: str, now: float) -> None:
    """The due time lies within the interval plus or minus its jitter, and never beyond the longest interval."""
    wait = next_attempt_at(retry, now, attempt, queue_id) - now
    middle = interval(retry, attempt)
    slack = 1e-5  # seconds: floats near 2**33
    assert middle * (1 - retry.jitter) - slack <= wait <= middle * (1 + retry.jitter) + slack
    assert wait <= longest_interval(retry) + slack


@given(retries, attempts, st.text(max_size=15))
def test_the_same_id_gives_the_same_time(retry: Retry, attempt: int, queue_id: str) -> None:
    """A restart changes nothing."""
    assert next_attempt_at(retry, 1e9, attempt, queue_id) == next_attempt_at(retry, 1e9, attempt, queue_id)


def test_different_ids_do_not_come_back_together() -> None:
    """Messages that were refused together are spread over the jitter, by message and by attempt."""
    retry = Retry()
    assert len({next_attempt_at(retry, 0, 8, f"Q{n}") for n in range(100)}) == 100
    waits = [next_attempt_at(retry, 0, 8, f"Q{n}") / 3600 for n in range(1000)]
    assert min(waits) < 0.92 and max(waits) > 1.08
    late = {n: next_attempt_at(retry, 0, n, "Q") / interval(retry, n) for n in range(1, 20)}
    assert len(set(late.values())) == 19


@given(retries, attempts)
def test_a_rest_is_never_long(retry: Retry, failures: int) -> None:
    """A smarthost in trouble is probed at least every five minutes, however long messages wait."""
    assert rest(retry, failures) <= min(MAX_REST_S, retry.maximum)
    assert MAX_REST_S == 300
