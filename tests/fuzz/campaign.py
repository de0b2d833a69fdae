"""Try many inputs on a surface, and count what happens."""

from __future__ import annotations

import logging
import resource
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from .judge import Slow, Verdict, judge
from .surface import Surface
from .surfaces import SURFACES

# Longer calls are slow: in seconds of CPU time, and in seconds for those that wait.
CPU_LIMIT, LIMIT = 10, 60
# Inputs that hypothesis draws at a time, since it keeps them all.
CHUNK = 1000
# Larger blocks of memory are refused by the system, in bytes.
MEMORY = 16 * 2**30
_PHASES = (Phase.generate,)


@dataclass
class Counts:
    """What happened.

    Attributes:
        inputs: Number of inputs.
        kinds: How many of them were accepted, refused, slow, or raised an undocumented error.
        problems: Signature of each problem -> how often, and an example.
        growth: Growth of the peak memory in MiB, after the first chunk of inputs.
    """

    inputs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    problems: dict[str, tuple[int, str]] = field(default_factory=dict)
    growth: int = 0

    def add(self, verdict: Verdict, value: Any) -> None:
        self.inputs += 1
        self.kinds[verdict.kind] += 1
        if not verdict.is_good:
            number, example = self.problems.get(verdict.signature, (0, ''))
            shown = f'{verdict.message} <- {value!r:.400}'
            # The shortest input explains most.
            better = shown if not example or len(shown) < len(example) else example
            self.problems[verdict.signature] = number + 1, better


def run(name: str, inputs: int, number: int) -> Counts:
    """Try inputs on a surface; `number` is the seed."""
    counts = Counts()
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory(prefix='fuzz-') as folder:
        surface = SURFACES[name](Path(folder))
        start = 0
        for done in range(0, inputs, CHUNK):
            _try_inputs(surface, counts, min(CHUNK, inputs - done), number + done)
            start = start or _peak()
        counts.growth = (_peak() - start) // 1024
    return counts


def _try_inputs(surface: Surface, counts: Counts, inputs: int, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=inputs, phases=_PHASES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(surface.inputs)
    def each(value: Any) -> None:
        try:
            with _limited():
                verdict = judge(lambda: surface.try_input(value))
        except Slow:
            verdict = Verdict('slow', signature='slow')
        counts.add(verdict, value)

    each()


@contextmanager
def _limited() -> Iterator[None]:
    """Raise `Slow` in a block that takes too long, and each second from then on, since code may swallow it."""
    timers = ((signal.ITIMER_PROF, signal.SIGPROF, CPU_LIMIT), (signal.ITIMER_REAL, signal.SIGALRM, LIMIT))
    for timer, number, seconds in timers:
        signal.signal(number, _raise_slow)
        signal.setitimer(timer, seconds, 1)
    try:
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)


def _peak() -> int:
    """Return the peak memory of this process in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _raise_slow(*_: object) -> None:
    raise Slow
