"""Whether a scenario has come to its end, and what proves it: our database and the outside world's ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.demo import words
from app.demo.scenarios import End, Scenario
from app.store.demo import Story

ENDED = frozenset({"delivered", "bounced", "failed", "unconfirmed", "suppressed", "cancelled", "expired", "dead"})


@dataclass(frozen=True, slots=True)
class Outside:
    """What the sandbox's ledger says of one delivery: times it was accepted, webhooks posted about it."""

    arrivals: int = 0
    posts: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """A scenario at one moment. story: None while nothing was sent, and for ever if it was rolled back."""

    scenario: Scenario
    sent: bool = False
    story: Story | None = None
    outside: Outside = Outside()
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def state(self) -> str:
        if self.story is None:
            return "never happened" if self.is_proven else "to be sent"
        # `suppressed:hard_bounce` repeats the state; `confirmed` is what delivered means.
        reason = (self.story.reason or "").removeprefix(f"{self.story.state}:")
        return self.story.state if reason in ("", "confirmed") else f"{self.story.state}: {reason}"

    @property
    def attempts(self) -> int:
        return self.story.attempts if self.story else 0

    @property
    def has_ended(self) -> bool:
        return self.story is not None and self.story.state in ENDED

    @property
    def is_proven(self) -> bool:
        return self.sent and not any(self.missing())

    def missing(self) -> Iterator[str]:
        """What is not yet as it must be."""
        end = self.scenario.end
        if end is None:
            if self.story is not None:
                yield f"it was accepted: {self.story.state}"
        elif self.story is None:
            yield "it was not accepted"
        else:
            yield from _missing(end, self.story, self.outside, self.refused)

    def proof(self) -> str:
        """What proves the end it has, in a few words; empty while it has none."""
        if self.story is None:
            return "no row, no call" if self.is_proven else ""
        return "; ".join(self._facts(self.story)) if self.has_ended else ""

    def _facts(self, story: Story) -> Iterator[str]:
        """What happened on the way, and then what ended it."""
        if self.scenario.end and self.scenario.end.refused and self.refused:
            yield f"refused {', '.join(sorted(self.refused))}"
        elif self.outside.posts > len(story.told):
            yield f"{self.outside.posts} posts, {len(story.told)} facts"
        yield from words.way(story)
        yield from words.end(story)


def _missing(end: End, story: Story, outside: Outside, refused: Counter[str]) -> Iterator[str]:
    kinds = {event["kind"] for event in story.events}
    wanted = {
        "state": (end.state, story.state),
        "reason": (end.reason, story.reason),
        "attempts": (end.attempts, story.attempts),
        "arrivals": (end.arrivals, outside.arrivals if end.arrivals is not None else None),
        "failures": (end.failures, story.failures if end.failures is not None else None),
        "proof": (end.proof, story.proof["source"] if end.proof and story.proof else None),
        "suppressed for": (end.suppresses, story.suppressed_for if end.suppresses else None),
    }
    for what, (expected, found) in wanted.items():
        if expected != found:
            yield f"{what} is {found}, not {expected}"
    for kind in sorted(end.events - kinds):
        yield f"no {kind}"
    for lie in sorted(end.refused - {reason for reason, times in refused.items() if times}):
        yield f"no webhook was refused as {lie}"
    if outside.posts < end.posts:
        yield f"{outside.posts} webhooks were posted, not {end.posts}"
