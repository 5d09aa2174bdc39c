"""Progress of long work: bars on a terminal, silence elsewhere. Knows nothing of what is done."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

Advance = Callable[[], None]
Tell = Callable[[str], None]


def nothing() -> None:
    """An advance that nobody watches."""


def unheard(text: str) -> None:
    """A text that nobody reads."""


@dataclass
class Progress:
    """Stages of one piece of work, shown as they run and timed.

    Attributes:
        visible: Whether bars are drawn on standard error.
        seconds: Wall time of each finished stage, by title.
    """

    visible: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    _show: Tell = field(default=unheard, repr=False)

    @classmethod
    def make(cls, shown: bool | None) -> Progress:
        """Bars if asked for; None draws them where standard error is a terminal."""
        return cls(_is_terminal(sys.stderr) if shown is None else shown)

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """One stage; the function it yields is called for each of `total` steps done."""
        start = time.perf_counter()
        hidden = contextlib.nullcontext((nothing, unheard))
        with _bar(title, total) if self.visible else hidden as (advance, self._show):
            yield advance
        self.seconds[title] = self.seconds.get(title, 0.0) + time.perf_counter() - start

    def tell(self, text: str) -> None:
        """Shows what the stage that runs has found so far, beside its bar."""
        self._show(text)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream that may be missing, as in a service, is a terminal."""
    return stream is not None and stream.isatty()


@contextlib.contextmanager
def _bar(title: str, total: int | None) -> Iterator[tuple[Advance, Tell]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars

    columns = [
        SpinnerColumn(finished_text="[green]✓[/green]"),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[found]}"),
    ]
    if total:
        columns.insert(3, MofNCompleteColumn())
    # What is printed meanwhile goes above the bars on a terminal, but where it was sent otherwise.
    on_terminal = _is_terminal(sys.stdout)
    with Bars(*columns, console=Console(stderr=True), redirect_stdout=on_terminal) as bars:
        task = bars.add_task(f"{title:<10}", total=total, found="")
        yield lambda: bars.advance(task), lambda text: bars.update(task, found=text)
        done = bars.tasks[0].completed or 1
        bars.update(task, total=done, completed=done)
