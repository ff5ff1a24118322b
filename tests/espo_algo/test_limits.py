from __future__ import annotations

from espo_algo.limits import WaitLimit


def test_a_limit_learns_from_the_slowest_wait_within_its_bounds() -> None:
    limit = WaitLimit(most=100.0, factor=4.0, floor=10.0)
    seconds = [limit.seconds]
    for took in (1.0, 5.0, 2.0, 40.0):
        limit.took(took)
        seconds.append(limit.seconds)
    # Nothing known yet; the floor; four times the slowest, and still; the upper limit.
    assert seconds == [100.0, 10.0, 20.0, 20.0, 100.0]
    assert WaitLimit(most=5.0, factor=4.0, floor=10.0, slowest=1.0).seconds == 5.0
