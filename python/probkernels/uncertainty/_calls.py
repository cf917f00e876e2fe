"""Calls of a user's functions on texts: plain functions one after another, async ones at the same time."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

from .._core import checks
from .._core.errors import message

T = TypeVar("T")


class Calls(NamedTuple):
    """How functions are called. ``waits`` tells whether an event loop is there to wait for async ones."""

    op: str
    concurrency: int
    waits: bool

    async def one(self, name: str, function: Callable[..., Any], *given: Any) -> Any:
        """The result of one call."""
        result = function(*given)
        return await self._allowed(name, result) if inspect.isawaitable(result) else result

    async def each(self, name: str, function: Callable[[Any], Any], inputs: Sequence[Any]) -> list[Any]:
        """The results for all inputs, in their order. The first call tells whether the function is async."""
        results: list[Any] = []
        for n, given in enumerate(inputs):
            result = function(given)
            if inspect.isawaitable(result):
                return results + await self._together(function, self._allowed(name, result), inputs[n + 1 :])
            results.append(result)
        return results

    def _allowed(self, name: str, result: Any) -> Any:
        if not self.waits:
            if inspect.iscoroutine(result):
                result.close()  # or Python warns that nobody awaited it
            hint = "define it with 'async def', or await the method of the same name with an 'a' in front"
            got = f"a {type(result).__name__}, which must be awaited"
            raise TypeError(message(self.op, name, "a function that returns its result", got, hint))
        return result

    async def _together(self, function: Callable[[Any], Any], first: Any, rest: Sequence[Any]) -> list[Any]:
        free = asyncio.Semaphore(self.concurrency)

        async def call(given: Any, begun: Any = None) -> Any:
            async with free:
                result = function(given) if begun is None else begun
                return await result if inspect.isawaitable(result) else result

        tasks = [asyncio.ensure_future(part) for part in (call(None, first), *(call(given) for given in rest))]
        try:
            return list(await asyncio.gather(*tasks))
        finally:  # an error, or a canceled caller, ends the other calls too
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _is_async(function: Any) -> bool:
    if not callable(function):
        return False
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def finish(op: str, functions: Sequence[Any], start: Callable[[bool], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine to its end: in an event loop of its own if a function is async, else without one.

    Args:
        op: name of the method in errors.
        functions: what the coroutine calls.
        start: makes the coroutine; it is told whether it may wait.
    """
    if any(map(_is_async, functions)):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(start(True))
        hint = f"await a{op.rpartition('.')[2]}(...) instead"
        raise RuntimeError(f"{op}: async functions cannot be awaited here, in a running event loop. Hint: {hint}")
    coroutine = start(False)
    try:
        coroutine.send(None)  # nothing waits, so it runs to its end
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError(f"{op}: a function waited outside an event loop")


def callable_of(op: str, name: str, value: Any) -> Any:
    """Checks that ``value`` can be called."""
    if not callable(value):
        raise TypeError(message(op, name, "a function", checks.describe(value)))
    return value


def texts_of(op: str, name: str, value: Any, least: int = 1) -> list[str]:
    """Checks a list of at least ``least`` texts."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(message(op, name, "a list of texts", checks.describe(value)))
    for n, text in enumerate(value):
        if not isinstance(text, str):
            hint = "as_llm(...) makes texts of a chat model's messages" if name == "llm" else ""
            raise TypeError(message(op, f"{name}[{n}]", "a text", checks.describe(text), hint))
    if len(value) < least:
        raise ValueError(message(op, name, f"at least {least} texts", f"{len(value)}"))
    return list(value)
