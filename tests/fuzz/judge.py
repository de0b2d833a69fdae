"""Decide whether a call handled an input well: it accepts the input, or refuses it with a documented, clear error."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcam_zoo.errors import FcamZooError

DOCUMENTED = (ValueError, TypeError, FileNotFoundError, FileExistsError, FcamZooError)
# Errors of parsers, which are ValueErrors, but no messages for users.
RAW = (UnicodeError, json.JSONDecodeError)
# The longest ones list all settings.
SHORTEST, LONGEST = 20, 1200
# Files that no input may reach have this name.
PLANTED = 'planted.pth'
_EVENTS = {'socket.connect', 'subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn', 'pickle.find_class'}


class Slow(BaseException):
    """The call takes too long."""


@dataclass(frozen=True)
class Verdict:
    """`kind` is 'accepted', 'refused', 'slow' or 'undocumented'; `signature` groups equal problems."""

    kind: str
    message: str = ''
    signature: str = ''

    @property
    def is_good(self) -> bool:
        return self.kind in ('accepted', 'refused')


class _Guard:
    """Records what a call reaches: the network, other programs, pickles, and planted files."""

    def __init__(self) -> None:
        self.active = False
        self.reached: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in _EVENTS or (event == 'open' and str(arguments[0]).endswith(PLANTED)):
            self.reached.append(f'{event} {str(arguments)[:80]}')

    @contextmanager
    def watch(self) -> Iterator[None]:
        self.active = True
        self.reached.clear()
        try:
            yield
        finally:
            self.active = False


_guard = _Guard()


def judge(call: Callable[[], Any]) -> Verdict:
    """Run a call and judge it."""
    try:
        with _guard.watch():
            call()
        verdict = Verdict('accepted')
    except Slow:
        verdict = Verdict('slow', signature='slow')
    except DOCUMENTED as error:
        verdict = _judge_message(error)
    except SystemExit as error:  # argparse refuses a usage.
        verdict = Verdict('refused') if error.code == 2 else _undocumented(error)
    except BaseException as error:
        verdict = _undocumented(error)
    if _guard.reached:
        reached = _guard.reached[0]
        return Verdict('undocumented', f'reaches {reached}', f'reaches {reached.split()[0]}')
    return verdict


def _judge_message(error: Exception) -> Verdict:
    text = str(error)
    clear = SHORTEST <= len(text) <= LONGEST and '\n' not in text
    if isinstance(error, RAW) or not clear or not _is_ours(error):
        return _undocumented(error)
    return Verdict('refused', text)


def _is_ours(error: Exception) -> bool:
    """Return whether a `raise` of the package raised the error, rather than Python or a library."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return '/fcam_zoo/' in frame.filename and str(frame.line).startswith('raise')


def _undocumented(error: BaseException) -> Verdict:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if '/fcam_zoo/' in f.filename]
    place = f'{Path(frames[-1].filename).name}:{frames[-1].name}' if frames else '?'
    kind = type(error).__name__
    if isinstance(error, DOCUMENTED) and _is_ours(error):
        kind += ' with a message of several lines' if '\n' in str(error) else f' of {len(str(error))} characters'
    return Verdict('undocumented', f'{kind} in {place}: {str(error)[:200]}', f'{kind} in {place}')
