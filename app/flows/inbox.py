"""inbox: what a recipient does with their items, and who is told of it while it happens (R-022, R-040).

The table is the truth and the version is the place in it: whoever listens reads what changed since the version they
were told of, however long they were away. Hints only say when to look. One that is lost is made good by a look at the
versions of all that listen, one statement a process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import psycopg
import structlog

from app.db import Connection, Database
from app.domain.models import Evidence, EvidenceKind
from app.errors import TooManyRequests, Unavailable
from app.settings import Settings
from app.store import inbound
from app.store import inbox as store
from app.store.inbox import Action, Changed, Changes, Counts, Inbox, Item

log = structlog.get_logger()

DEVICE = "device"  # who tells: no provider does
# Evidence about a delivery whose row is gone would wait in vain; rows go with their day, and a day is not cut in two.
MARGIN = timedelta(days=1)
CHANGED_MAX = 1000  # items changed in one transaction: the inbox is locked meanwhile
PAGE = 100  # changes read at once for one who listens: no more than that is ever held for them
READ_MAX = 200  # inboxes read by one statement
READERS_MAX = 2  # connections of the API's pool that telling may take
STALE_MAX = 5000  # versions compared by one statement
POLL_SECONDS = 5.0  # after so long a change whose hint was lost is seen
LOOK_GAP_SECONDS = 0.1  # a campaign hints at anyone many times a second; a tenth of one is soon enough
HINT_GAP_SECONDS = 0.05  # each hint holds a database-wide lock for a moment while it commits
FOLLOWERS_PER_INBOX_MAX = 20  # a person's tabs and devices; beyond it, somebody else's places are being taken
RETRY_AFTER_SECONDS = 5.0


# -- what a recipient does -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    """items: those asked for that there are, as they are now; changed: how many of all were another before."""

    items: list[Item]
    counts: Counts
    changed: int


async def act(db: Database, settings: Settings, inbox: Inbox, action: Action, ids: Sequence[UUID]) -> Done:
    """Does it to each of the items that is in this inbox. Doing it again changes nothing."""
    async with db.transaction(durable=True) as conn:
        changed = await _change(conn, settings, inbox, action, ids)
        items = await store.get_items(conn, inbox, ids)
        counts = await store.get_counts(conn, inbox)
    return Done(items, counts, len(changed))


async def act_on_all(db: Database, settings: Settings, inbox: Inbox, action: Action, *, version: int) -> Done:
    """Does it to everything that had arrived by ``version`` and is not archived: what came later nobody has seen.

    A large inbox takes several transactions; stopped between two of them, what is done is done.
    """
    total = 0
    while True:
        async with db.transaction(durable=True) as conn:
            await store.lock(conn, inbox)
            ids = await store.pick_items(conn, inbox, action, version=version, limit=CHANGED_MAX)
            total += len(await _change(conn, settings, inbox, action, ids)) if ids else 0
            counts = await store.get_counts(conn, inbox)
        if len(ids) < CHANGED_MAX:
            return Done([], counts, total)


async def _change(
    conn: Connection, settings: Settings, inbox: Inbox, action: Action, ids: Sequence[UUID]
) -> list[Changed]:
    await store.lock(conn, inbox)
    changed = await store.change_items(conn, inbox, action, ids)
    if evidence := [fact for one in changed for fact in _evidence(one, settings)]:
        raw = msgspec.json.encode({"inbox": action})
        await inbound.store_events(conn, provider=DEVICE, source=DEVICE, evidence=evidence, raw=raw)
    return changed


def _evidence(changed: Changed, settings: Settings) -> Iterator[Evidence]:
    """What a change proves: who acknowledges a message has it. Each fact has one key and one time for ever (I16)."""
    made_at = datetime.fromtimestamp((changed.id.int >> 80) / 1000, UTC)  # RFC 9562, 5.7
    facts = ((EvidenceKind.DELIVERED, changed.acknowledged_at), (EvidenceKind.OPENED, changed.opened_at))
    for kind, at in facts:
        if at is not None and at - made_at < timedelta(seconds=settings.times.retention_seconds) - MARGIN:
            yield Evidence(
                kind=kind,
                event_key=f"inbox:{changed.id}:{changed.attempt_no}:{kind}",
                occurred_at=at,
                delivery_id=changed.id,
                attempt_no=changed.attempt_no,
                data={"by": "inbox"},
            )


# -- who is told -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class News:
    """What one who listens is to be told next.

    version: up to which they are told with it. more: ask again at once. reset: the version they came with is one this
    inbox never had (it was restored from a backup): what they hold may be of another life, and is to be loaded again.
    """

    items: list[Item]
    counts: Counts
    version: int
    more: bool = False
    reset: bool = False


class Follower:
    """One who listens to an inbox, and the version they were told of; None: whatever it is when they first ask."""

    def __init__(self, hub: Hub, inbox: Inbox, version: int | None) -> None:
        self.inbox = inbox
        self.version = version
        self._hub = hub
        self._stirred = asyncio.Event()
        self._stirred.set()

    async def news(self) -> News:
        """What changed since. Whoever has passed it on waits with ``stirring`` before asking again.

        Raises Unavailable while the database cannot be asked.
        """
        self._stirred.clear()  # before looking: what changes from here on stirs again
        found = await self._hub.read(self.inbox, self.version)
        news = _news(found, self.version)
        self.version = news.version
        return news

    async def stirring(self, seconds: float) -> bool:
        """Waits until there may be something new, as there is at first, or the hub closes. False: the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            return False
        return True

    def stir(self) -> None:
        self._stirred.set()


def _news(found: Changes, after: int | None) -> News:
    if after is not None and after > found.counts.version:
        return News([], found.counts, found.counts.version, reset=True)
    version = found.items[-1].version if found.more else found.counts.version
    return News(found.items, found.counts, version, more=found.more)


class Hub:
    """All who listen in this process, and the little that watching takes for all of them together.

    Nobody who listens holds a connection, and nothing is kept for them but their version: who is slow to take what
    they were told asks later, and gets it from the table.
    """

    def __init__(self, db: Database, *, followers_max: int, poll_seconds: float = POLL_SECONDS) -> None:
        self._db = db
        self._followers_max = followers_max
        self._poll_seconds = poll_seconds
        self._followers: dict[Inbox, set[Follower]] = defaultdict(set)
        self._count = 0
        self._asked: list[tuple[Inbox, int | None, asyncio.Future[Changes]]] = []
        self._changed: set[Inbox] = set()
        self._look = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._readers = 0
        self._reading: set[asyncio.Task[None]] = set()
        self.closing = False

    @property
    def followers(self) -> int:
        """How many listen."""
        return self._count

    @contextlib.contextmanager
    def following(self, inbox: Inbox, version: int | None) -> Iterator[Follower]:
        """A place to listen from. Raises Unavailable when all are taken, TooManyRequests when this inbox has many."""
        if self.closing or self._count >= self._followers_max:
            raise Unavailable("no more streams can be held here", retry_after_seconds=RETRY_AFTER_SECONDS)
        if len(self._followers.get(inbox, ())) >= FOLLOWERS_PER_INBOX_MAX:
            raise TooManyRequests(
                f"{FOLLOWERS_PER_INBOX_MAX} streams of this inbox are open; close one",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        follower = Follower(self, inbox, version)
        self._followers[inbox].add(follower)
        self._count += 1
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        try:
            yield follower
        finally:
            self._count -= 1
            self._followers[inbox].discard(follower)
            if not self._followers[inbox]:
                del self._followers[inbox]

    def heard(self, payload: str) -> None:
        """A hint arrived on ``store.CHANNEL``."""
        named = store.hinted(payload)
        if named is None:
            self._look.set()
        for inbox in named or ():
            self._stir(inbox)

    def changed(self, inbox: Inbox) -> None:
        """After a commit: every process is told, this one too, at once or when the last hint is old enough."""
        self._changed.add(inbox)
        if self._announcing is None:
            self._announcing = asyncio.create_task(self._announce())

    async def read(self, inbox: Inbox, after: int | None) -> Changes:
        """What changed since, read together with whatever others ask in the meantime. Raises Unavailable."""
        answer: asyncio.Future[Changes] = asyncio.get_running_loop().create_future()
        self._asked.append((inbox, after, answer))
        if self._readers < READERS_MAX:
            self._readers += 1
            task = asyncio.create_task(self._read())
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)
        return await answer

    def close_streams(self) -> None:
        """Everybody who listens is told to go: they will come back to another process."""
        self.closing = True
        for followers in self._followers.values():
            for follower in followers:
                follower.stir()

    async def close(self) -> None:
        """Waits for what is under way."""
        self.close_streams()
        if self._watching is not None:
            self._watching.cancel()
        tasks = (self._watching, self._announcing, *self._reading)
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)

    def _stir(self, inbox: Inbox) -> None:
        for follower in self._followers.get(inbox, ()):
            follower.stir()

    async def _read(self) -> None:
        try:
            while self._asked:
                batch, self._asked = self._asked[:READ_MAX], self._asked[READ_MAX:]
                await self._answer([asked for asked in batch if not asked[2].done()])
        finally:
            self._readers -= 1  # in the step that found nobody asking: who asks in the next one finds no reader

    async def _answer(self, asked: Sequence[tuple[Inbox, int | None, asyncio.Future[Changes]]]) -> None:
        try:
            async with self._db.transaction() as conn:
                found = await store.changes(conn, [(inbox, after) for inbox, after, _ in asked], page=PAGE)
            for (_, _, answer), changes in zip(asked, found, strict=True):
                if not answer.done():
                    answer.set_result(changes)
        except (psycopg.Error, Unavailable) as error:
            log.info("inbox_read_failed", error=type(error).__name__)
        finally:  # whoever waits is answered, whatever happened
            for _, _, answer in asked:
                if not answer.done():
                    answer.set_exception(Unavailable("the database cannot be asked", retry_after_seconds=1))

    async def _announce(self) -> None:
        try:
            while self._changed:
                changed, self._changed = self._changed, set()
                for hint in store.hints(changed):
                    await self._db.wake(store.CHANNEL, hint)
                await asyncio.sleep(HINT_GAP_SECONDS)
        finally:
            self._announcing = None

    async def _watch(self) -> None:
        """While anybody listens: at a hint that anyone's inbox may have changed, and now and then without."""
        try:
            while self._followers:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_seconds):
                        await self._look.wait()
                self._look.clear()
                await self._stir_stale()
                await asyncio.sleep(LOOK_GAP_SECONDS)
        finally:
            self._watching = None

    async def _stir_stale(self) -> None:
        told = [
            (inbox, follower.version)
            for inbox, followers in self._followers.items()
            for follower in followers
            if follower.version is not None
        ]
        try:
            for first in range(0, len(told), STALE_MAX):
                async with self._db.transaction() as conn:
                    stale = await store.stale(conn, told[first : first + STALE_MAX])
                for inbox in stale:
                    self._stir(inbox)
        except (psycopg.Error, Unavailable) as error:
            log.info("inbox_watch_failed", error=type(error).__name__)
