"""The child that renders: it can be stopped, it can be lost, and only the poison job pays for it."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app.errors import FieldError, TemplateRenderError, Unavailable
from app.rendering import process, wire
from app.rendering.pool import RenderPool, Strikes
from app.rendering.process import ChildProcess, Shelf
from app.rendering.types import Rendered, RenderJob, RenderLimits, TemplateSource

# CPU seconds, so a busy machine changes nothing: an honest job needs a thousandth of this.
QUICK = RenderLimits(job_seconds=0.2)
ROOT = Path(__file__).resolve().parents[2]

LOOPS = "".join(f"{{% for {n} in range(1000) %}}" for n in "ijk") + "{% endfor %}" * 3

# Two lists of lists, each twice as large as the one before: comparing them takes 2**60 steps inside one C
# call, and no handler written in Python can interrupt it.
STUCK_IN_C = (
    "{% set a0 = [1] %}{% set b0 = [1] %}"
    + "".join(f"{{% set a{n} = [a{n - 1}, a{n - 1}] %}}{{% set b{n} = [b{n - 1}, b{n - 1}] %}}" for n in range(1, 61))
    + "{{ a60 == b60 }}"
)
MEMORY = (
    "{% set a0 = 'x' * 1000 %}" + "".join(f"{{% set a{n} = a{n - 1} ~ a{n - 1} %}}" for n in range(1, 30)) + "{{ a29 }}"
)
HELD = (
    "{% set a0 = ['x'] %}"
    + "".join(f"{{% set a{n} = a{n - 1} + a{n - 1} %}}" for n in range(1, 40))
    + "{{ a39|length }}"
)


def source(text, name="t", subject="s", html=None):
    return TemplateSource(f"tenant/{name}/1", subject, html, text)


GOOD = source("Hi {{ a }}", "good", html="<p>{{ a }}</p>")


def good(value="Ada"):
    return RenderJob(GOOD, {"a": value})


def texts(results):
    return [result.text if isinstance(result, Rendered) else None for result in results]


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def until(condition):
    while not condition():  # noqa: ASYNC110  (another process has no event to wait for)
        await asyncio.sleep(0.01)


@pytest.fixture
async def pool():
    pool = RenderPool(limits=QUICK)
    await pool.start()
    yield pool
    await pool.stop()


# -- results -------------------------------------------------------------------------------------------------


async def test_results_come_in_the_order_of_the_jobs(pool):
    jobs = [RenderJob(source("{{ n }}", f"t{n % 7}"), {"n": n}) for n in range(1500)]
    assert texts(await pool.render(jobs)) == [str(n) for n in range(1500)]
    assert await pool.render([]) == []


async def test_each_bad_job_fails_alone(pool):
    results = await pool.render(
        [
            good(),
            RenderJob(GOOD, {}),
            RenderJob(source("{{ "), {}),
            RenderJob(GOOD, {"a": {1, object()}}),
            good("Bob"),
        ]
    )
    assert texts(results) == ["Hi Ada", None, None, None, "Hi Bob"]
    assert results[1].errors == (
        FieldError("html", "line 1: 'a' is undefined"),
        FieldError("text", "line 1: 'a' is undefined"),
    )
    assert results[3].errors == (FieldError("variables", "not plain JSON data"),)


@pytest.mark.parametrize("value", [float("nan"), object(), "\ud800", b"\xff", {1: {2}}])
async def test_variables_that_are_no_plain_data_fail_alone(pool, value):
    bad, after = await pool.render([RenderJob(source("{{ a }}"), {"a": value}), good()])
    assert isinstance(bad, TemplateRenderError) or bad.text == "/w=="  # bytes travel as base64
    assert isinstance(after, Rendered)


async def test_deep_and_large_variables_fail_alone(pool):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    large = "x" * (QUICK.variables_bytes + 1)
    results = await pool.render([good(), RenderJob(GOOD, {"a": deep}), RenderJob(GOOD, {"a": large}), good()])
    assert texts(results) == ["Hi Ada", None, None, "Hi Ada"]
    assert results[2].errors == (FieldError("variables", "larger than 262144 bytes"),)
    del results
    while deep:
        deep = deep.pop()


async def test_one_key_with_two_sources_is_two_templates(pool):
    results = await pool.render([RenderJob(source("one"), {}), RenderJob(source("two"), {})] * 2)
    assert texts(results) == ["one", "two", "one", "two"]


async def test_a_batch_larger_than_one_answer_comes_whole():
    pool = RenderPool(limits=replace(QUICK, answer_bytes=10_000))
    try:
        results = await pool.render([good("x" * 1000)] * 100)
        assert texts(results) == ["Hi " + "x" * 1000] * 100
    finally:
        await pool.stop()


async def test_a_batch_that_takes_longer_than_its_time_comes_whole():
    pool = RenderPool(limits=replace(QUICK, batch_seconds=0.0))
    try:
        assert texts(await pool.render([good(str(n)) for n in range(20)])) == [f"Hi {n}" for n in range(20)]
    finally:
        await pool.stop()


async def test_more_templates_than_the_child_keeps_are_all_rendered():
    pool = RenderPool(limits=replace(QUICK, cache_chars=200))
    try:
        for _ in range(2):
            jobs = [RenderJob(source("{{ n }}" + " " * 50, f"t{n}"), {"n": n}) for n in range(30)]
            assert [text.strip() for text in texts(await pool.render(jobs))] == [str(n) for n in range(30)]
    finally:
        await pool.stop()


async def test_calls_beyond_the_children_wait_their_turn():
    pool = RenderPool(processes=2, limits=QUICK)
    await pool.start()
    try:
        assert len(set(pool.pids)) == 2
        batches = await asyncio.gather(*(pool.render([good(str(n))] * 10) for n in range(20)))
        assert [texts(batch) for batch in batches] == [[f"Hi {n}"] * 10 for n in range(20)]
    finally:
        await pool.stop()


# -- poison --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bomb", "field"),
    [
        (source(LOOPS), "text"),
        (source("t", html=LOOPS), "html"),
        (source("t", subject=LOOPS), "subject"),
        (source("{{ 10**10**10 }}"), "text"),
        (source("{{ 'a' * 10**9 }}"), "text"),
        (source("{% for i in range(10**9) %}{% endfor %}"), "text"),
        (source("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}"), "text"),
        (source(LOOPS.replace("{% endfor %}", "xxxxxxxx{% endfor %}", 1)), "text"),
        (source(MEMORY), "text"),
        (source(HELD), "text"),
        (source("{{ 'x'|indent(2000000000, true) }}"), "text"),
    ],
)  # fmt: skip
async def test_a_bomb_fails_its_own_delivery_only(pool, bomb, field):
    [pid] = pool.pids
    results = await pool.render([good()] * 50 + [RenderJob(bomb, {})] + [good()] * 50)
    assert texts(results) == ["Hi Ada"] * 50 + [None] + ["Hi Ada"] * 50
    assert {error.field for error in results[50].errors} == {field}
    assert pool.pids == [pid]  # none of these costs a process


async def test_a_bomb_that_takes_the_child_with_it_still_fails_alone(pool):
    [pid] = pool.pids
    results = await pool.render([good()] * 50 + [RenderJob(source(STUCK_IN_C), {})] + [good()] * 50)
    assert texts(results) == ["Hi Ada"] * 50 + [None] + ["Hi Ada"] * 50
    assert results[50].errors[0].field == "template"
    assert gone(pid)
    assert texts(await pool.render([good()])) == ["Hi Ada"]


async def test_a_template_that_keeps_overrunning_is_refused_without_a_try(pool):
    bomb = source("{% if a %}" + LOOPS + "{% endif %}", "bomb")
    results = await pool.render([RenderJob(bomb, {"a": True})] * 100 + [good()])
    assert isinstance(results[-1], Rendered)
    tried, refused = results[: QUICK.strikes], results[QUICK.strikes : -1]
    assert all("of computing" in result.detail for result in tried)
    assert all(0 < result.retry_after_seconds <= QUICK.probation_seconds for result in refused)
    [again, other] = await pool.render([RenderJob(bomb, {"a": False}), good()])
    assert again.retry_after_seconds
    assert isinstance(other, Rendered)


def test_strikes_are_forgotten_after_their_time():
    now = 0.0
    strikes = Strikes(replace(QUICK, strikes=2, probation_seconds=60), clock=lambda: now)
    assert not strikes
    strikes.add("k")
    now = 30.0
    assert strikes.seconds_left("k") is None
    strikes.add("k")
    assert strikes.seconds_left("k") == 30.0
    assert strikes.seconds_left("other") is None
    now = 60.0
    assert strikes.seconds_left("k") is None
    now = 90.0
    assert strikes.seconds_left("k") is None
    assert not strikes


async def test_a_check_of_a_bomb_ends(pool):
    deep = source("{{ " + "[" * 20_000 + "]" * 20_000 + " }}")
    assert (await pool.check(deep)).errors
    slow = source("".join(f"{{{{a{n}}}}}" for n in range(20_000)))
    [error] = (await pool.check(slow)).errors
    assert error.message == "needs more than 0.2 s of computing"
    assert (await pool.check(source("{{ 10**10**10 }}"))).errors == ()  # folding it is left to rendering
    assert (await pool.check(GOOD)).variables == {"a"}


# -- nothing to be found -------------------------------------------------------------------------------------


async def test_the_child_holds_no_secret_of_its_parent(monkeypatch, tmp_path):
    canary = tmp_path / "canary"
    canary.write_text("file-canary")
    monkeypatch.setenv("LANDED_CANARY", "env-canary")
    attacks = [
        "{{ cycler.__init__.__globals__.os.environ }}",
        "{{ self.__init__.__globals__.__builtins__.open('" + str(canary) + "').read() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(range) }}",
        "{{ range.__globals__ }}",
        "{{ lipsum.__globals__.os.popen('cat " + str(canary) + "').read() }}",
        "{% include '" + str(canary) + "' %}",
        "{% for x in ().__class__.__base__.__subclasses__() %}{{ x.__init__.__globals__ }}{% endfor %}",
    ]
    pool = RenderPool(limits=QUICK)
    await pool.start()
    try:
        results = await pool.render([RenderJob(source(attack, f"t{n}"), {}) for n, attack in enumerate(attacks)])
        assert all(isinstance(result, TemplateRenderError) for result in results)
        assert "canary" not in "".join(result.detail for result in results).replace(str(canary), "")
        assert "LANDED_CANARY" not in psutil.Process(pool.pids[0]).environ()
    finally:
        await pool.stop()


# -- losing the child ----------------------------------------------------------------------------------------


async def test_a_killed_child_is_replaced(pool):
    [pid] = pool.pids
    os.kill(pid, signal.SIGKILL)
    assert texts(await pool.render([good()] * 10)) == ["Hi Ada"] * 10
    assert pool.pids != [pid]


async def test_a_child_killed_at_work_costs_nothing(pool):
    [pid] = pool.pids
    slow = "{% for i in range(300) %}{% for j in range(100) %}{% endfor %}{% endfor %}{{ n }}"
    running = asyncio.create_task(pool.render([RenderJob(source(slow), {"n": n}) for n in range(200)]))
    child = psutil.Process(pid)
    before = sum(child.cpu_times()[:2])
    await until(lambda: sum(child.cpu_times()[:2]) > before)
    os.kill(pid, signal.SIGKILL)
    assert texts(await running) == [str(n) for n in range(200)]


async def test_a_stopped_child_is_replaced():
    pool = RenderPool(limits=replace(QUICK, hang_seconds=1.5))
    await pool.start()
    try:
        [pid] = pool.pids
        os.kill(pid, signal.SIGSTOP)
        assert texts(await pool.render([good()])) == ["Hi Ada"]
        assert gone(pid)
    finally:
        await pool.stop()


async def test_a_cancelled_call_leaves_no_answer_for_the_next(pool):
    cancelled = asyncio.create_task(pool.render([RenderJob(source(LOOPS), {})]))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert texts(await pool.render([good()])) == ["Hi Ada"]


async def test_stop_ends_the_children_and_running_calls():
    pool = RenderPool(processes=2, limits=QUICK)
    await pool.start()
    pids = pool.pids
    running = asyncio.create_task(pool.render([RenderJob(source(LOOPS), {})]))
    await asyncio.sleep(0)
    await pool.stop()
    with pytest.raises(Unavailable):
        await running
    assert all(map(gone, pids))
    with pytest.raises(Unavailable):
        await pool.render([good()])
    await pool.stop()


async def test_a_child_that_does_not_start_is_the_machines_fault(monkeypatch, tmp_path):
    monkeypatch.setattr(process, "SOURCE_ROOT", tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = RenderPool(limits=QUICK)
    with pytest.raises(Unavailable):
        await pool.render([good()])
    with pytest.raises(Unavailable):
        await pool.start()


async def test_ctrl_c_is_for_the_parent(pool):
    [pid] = pool.pids
    os.kill(pid, signal.SIGINT)
    assert texts(await pool.render([good()])) == ["Hi Ada"]
    assert pool.pids == [pid]
    assert os.getpgid(pid) != os.getpgid(0)


PARENT = """
import asyncio, sys
from app.rendering.pool import RenderPool
from app.rendering.types import RenderJob, TemplateSource

async def main():
    pool = RenderPool()
    await pool.start()
    if sys.argv[1:]:
        asyncio.ensure_future(pool.render([RenderJob(TemplateSource("k", "s", None, sys.argv[1]), {})]))
        await asyncio.sleep(0.01)
    print(pool.pids[0], flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.parametrize("busy_with", [[], [LOOPS], [STUCK_IN_C]], ids=["idle", "looping", "stuck"])
async def test_no_child_outlives_a_killed_parent(busy_with):
    parent = subprocess.Popen(  # noqa: ASYNC220  (started once, and waited for by a line it prints)
        [sys.executable, "-c", PARENT, *busy_with], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    await until(lambda: gone(pid))


# -- the shelf -----------------------------------------------------------------------------------------------


def test_the_shelf_forgets_the_least_recently_used_and_never_what_is_wanted_now():
    shelf = Shelf(chars_max=3)  # each template below has two characters
    one, two, three = (source("x", name, subject="y") for name in ("one", "two", "three"))
    assert shelf.place([one, one]) == ([], {0: one})
    assert shelf.place([two, one]) == ([], {1: two})  # both wanted: over the limit rather than wrong
    assert shelf.place([three]) == ([1, 0], {2: three})
    assert shelf.place([three]) == ([], {})
    assert shelf.number(three) == 2


async def test_a_template_is_sent_to_a_child_once(pool):
    child: ChildProcess = pool._children[0]
    await pool.render([good()])
    assert child.shelf.place([GOOD]) == ([], {})


def test_frames_carry_their_length():
    assert wire.frame(b"abc") == b"\0\0\0\x03abc"
