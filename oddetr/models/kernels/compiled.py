"""Compile loops by numba, and share them among threads."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import numba
import torch

FAST_MATH = {"contract", "reassoc", "nsz"}
"""Lets sums be vectorised; assumes nothing about NaN and infinity."""

WORK_PER_THREAD = 1 << 17
"""Multiplications that are worth one more thread: some 50 microseconds."""

_MOST_THREADS: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]: made at run time

_threads_in_use = threading.Lock()
"""Held while numba's threads work: its portable threading layer ends the process when two callers meet in it."""


def compiled(function: Callable[..., Any], **options: bool) -> Any:
    """`function` compiled on first use; the machine code is kept on disk where any folder for it can be written.

    numba keeps it until the file of `function` changes: after a change of the options here, touch those files too.
    """
    compiler = functools.partial(numba.njit, nogil=True, error_model="numpy", fastmath=FAST_MATH, **options)
    try:
        return compiler(cache=True)(function)
    except RuntimeError:
        return compiler()(function)


compiled_inline = functools.partial(compiled, forceinline=True)
compiled_parallel = functools.partial(compiled, parallel=True)


def share_among_threads(
    serial: Callable[..., None], parallel: Callable[..., None], arguments: list[Any], tasks: int, work: int
) -> None:
    """Do all `tasks`, in as many threads as torch would use and the work is worth.

    Args:
        serial: (*arguments, first, last) does the tasks from `first` to before `last`.
        parallel: (*arguments, threads) does all tasks in that number of threads.
        work: multiplications of all tasks.
    """
    threads = min(torch.get_num_threads(), _MOST_THREADS, tasks, work // WORK_PER_THREAD)
    if threads <= 1:
        serial(*arguments, 0, tasks)
        return
    with _threads_in_use:
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            parallel(*arguments, threads)
        finally:
            numba.set_num_threads(before)
