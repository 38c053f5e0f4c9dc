"""Group commit: requests that arrive while a commit is under way leave together in the next one.

Nothing waits for a clock: a lone request leaves at once, and under load a group is what gathered meanwhile.
Its items share a transaction but not a fate: when a group fails as a whole, each of its items is tried
alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

import psycopg
import structlog
from psycopg.errors import DataError, LockNotAvailable

from app.errors import FieldError, InvalidFields, KeyInUse, LandedError, Unavailable

log = structlog.get_logger()

# Two committers take turns: while the database stores one group, this process answers and gathers the next.
# More only make the groups smaller, so further ones help out only when a group is slow to come back,
# because the standby is far or a lock is held: who came after must not wait for that.
COMMITTERS_USUAL = 2
COMMITTERS_MAX = 4
PATIENCE_SECONDS = 0.02
ALONE_MAX = 3  # connections that the items of a failed group may use at once
RETRY_AFTER_SECONDS = 1.0

I = TypeVar("I")  # noqa: E741
A = TypeVar("A")


class _Waiting(Generic[I, A]):
    """One item and the future its request waits on. A cancelled future: nobody waits any more."""

    __slots__ = ("answer", "identity", "item")

    def __init__(self, item: I, identity: Hashable | None) -> None:
        self.item = item
        self.identity = identity
        self.answer: asyncio.Future[A | LandedError] = asyncio.get_running_loop().create_future()


class Acceptor(Generic[I, A]):
    """Gathers items, writes them in groups, and gives each its own answer.

    write: commits a group durably and answers each item, in order; an exception means nothing is known to be
        committed. identity: what no two items under way may share, or None. committed: called after each
        group.
    """

    def __init__(
        self,
        write: Callable[[Sequence[I]], Awaitable[Sequence[A]]],
        *,
        identity: Callable[[I], Hashable | None],
        committed: Callable[[], None],
        group_max: int,
        queue_max: int,
        budget_seconds: float,
    ) -> None:
        self._write = write
        self._identity = identity
        self._committed = committed
        self._group_max = group_max
        self._queue_max = queue_max
        self._budget_seconds = budget_seconds
        self._queue: deque[_Waiting[I, A]] = deque()
        self._under_way: set[Hashable] = set()
        self._committers = 0
        self._groups_begun = 0
        self._relief: asyncio.TimerHandle | None = None
        self._alone = asyncio.Semaphore(ALONE_MAX)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def full(self) -> bool:
        return len(self._queue) >= self._queue_max

    async def accept(self, item: I) -> A:
        """The item's answer. Raises what ``accept_many`` returns."""
        waiting = self._enter(item)
        try:
            async with asyncio.timeout(self._budget_seconds):
                answer = await waiting.answer
        except TimeoutError:
            raise _out_of_time() from None
        if isinstance(answer, LandedError):
            raise answer
        return answer

    async def accept_many(self, items: Sequence[I]) -> list[A | LandedError]:
        """Each item's answer or error, in order.

        Unavailable: the queue is full, or there is no answer yet; then the commit goes on, and the same
        idempotency key will find out. KeyInUse: an item of the same identity is under way.
        """
        entered = [self._try_enter(item) for item in items]
        answers = [one.answer for one in entered if isinstance(one, _Waiting)]
        if answers:
            await asyncio.wait(answers, timeout=self._budget_seconds)
        return [one if isinstance(one, LandedError) else _answer_by_now(one.answer) for one in entered]

    async def close(self) -> None:
        """Waits for what is under way; whoever waited for the rest has gone."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # -- coming in -----------------------------------------------------------------------------------------

    def _try_enter(self, item: I) -> _Waiting[I, A] | LandedError:
        try:
            return self._enter(item)
        except LandedError as refusal:
            return refusal

    def _enter(self, item: I) -> _Waiting[I, A]:
        if self.full:
            raise Unavailable("too many requests are waiting to be accepted", retry_after_seconds=RETRY_AFTER_SECONDS)
        identity = self._identity(item)
        if identity is not None:
            if identity in self._under_way:
                raise _key_in_use()
            self._under_way.add(identity)
        waiting: _Waiting[I, A] = _Waiting(item, identity)
        self._queue.append(waiting)
        if self._committers < COMMITTERS_USUAL:
            self._start_committer()
        elif self._relief is None:
            self._await_relief()
        return waiting

    def _await_relief(self) -> None:
        self._relief = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._relieve, self._groups_begun)

    def _relieve(self, groups_begun: int) -> None:
        """Starts another committer if no group has left since, though there are some who wait."""
        self._relief = None
        if not self._queue:
            return
        if self._groups_begun == groups_begun and self._committers < COMMITTERS_MAX:
            self._start_committer()
        self._await_relief()

    # -- committing ----------------------------------------------------------------------------------------

    def _start_committer(self) -> None:
        self._committers += 1
        task = asyncio.create_task(self._commit_groups())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _commit_groups(self) -> None:
        try:
            while self._queue:
                self._groups_begun += 1
                group = [self._queue.popleft() for _ in range(min(len(self._queue), self._group_max))]
                await self._commit(group)
        finally:
            self._committers -= 1

    async def _commit(self, group: Sequence[_Waiting[I, A]]) -> None:
        """Writes the group, or when its items cannot be written together, each of them alone."""
        try:
            answers: Sequence[A | LandedError] = await self._write([waiting.item for waiting in group])
        except LandedError as error:
            answers = [error] * len(group)
        except psycopg.Error as error:
            if len(group) > 1:
                await asyncio.gather(*map(self._commit_alone, group))
                return
            answers = [_refusal(error)]
        except Exception as error:  # whoever waits must hear of it; it is logged at the border they stand on
            log.exception("accept_failed")
            answers = [_unexpected(error)] * len(group)
        self._settle(group, answers)

    async def _commit_alone(self, waiting: _Waiting[I, A]) -> None:
        async with self._alone:
            await self._commit([waiting])

    def _settle(self, group: Sequence[_Waiting[I, A]], answers: Sequence[A | LandedError]) -> None:
        for waiting, answer in zip(group, answers, strict=True):
            self._under_way.discard(waiting.identity)
            if not waiting.answer.done():
                waiting.answer.set_result(answer)
        self._committed()


def _answer_by_now(answer: asyncio.Future[A | LandedError]) -> A | LandedError:
    if answer.done():
        return answer.result()
    answer.cancel()
    return _out_of_time()


def _refusal(error: psycopg.Error) -> LandedError:
    """Why one item could not be written on its own."""
    if isinstance(error, LockNotAvailable):
        return _key_in_use() if _over_a_key(error) else _busy()
    if isinstance(error, DataError):
        return InvalidFields(FieldError("body", "holds a value that cannot be stored"))
    log.error("accept_failed", exc_info=error)
    return Unavailable("the database refused to store this", retry_after_seconds=RETRY_AFTER_SECONDS)


def _over_a_key(error: psycopg.Error) -> bool:
    """Whether what it waited for is another use of the same key, and not, say, a migration's lock."""
    return '"idempotency_keys"' in (error.diag.context or "")


def _busy() -> Unavailable:
    return Unavailable("another transaction keeps this from being stored", retry_after_seconds=RETRY_AFTER_SECONDS)


def _unexpected(error: Exception) -> LandedError:
    refusal = LandedError()
    refusal.__cause__ = error
    return refusal


def _key_in_use() -> KeyInUse:
    return KeyInUse(
        "another request with this idempotency key is still under way",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _out_of_time() -> Unavailable:
    return Unavailable(
        "not known yet whether this was accepted; ask again with the same idempotency key",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
