"""What the machine does to any process that sleeps and works by turns: the floor under every tail measured beside it.

A virtual machine whose host is busy takes its processors away for a millisecond now and then. The loop below does the same
work once per millisecond; what its slowest rounds take beyond the usual ones is the machine's doing, nobody else's.
"""
import time


def count(n):
    while n:
        n -= 1


def loops_for(us):
    """How far to count so that it takes about `us` when nothing disturbs it."""
    n, best = 1000, float("inf")
    for _ in range(200):
        t = time.perf_counter_ns()
        count(n)
        best = min(best, time.perf_counter_ns() - t)
    return max(1, int(n * us * 1000 / best))


def control(us, seconds, period_ms=1):
    """Microseconds each round of about `us` of work took, one round per period, sorted."""
    n, took = loops_for(us), []
    start = time.monotonic()
    for i in range(int(seconds * 1000 / period_ms)):
        pause = start + i * period_ms / 1000 - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        t = time.perf_counter_ns()
        count(n)
        took.append((time.perf_counter_ns() - t) / 1000)
    return sorted(took)
