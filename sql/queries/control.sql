-- The statements of flows.control: what the workers share about providers. Each locks rows of one small table, in the order
-- of their names, and nothing else after: whoever holds deliveries or addresses may wait for these, never the reverse.

-- name: publish_lanes
INSERT INTO store.lanes (name, channel, class, providers)
SELECT l.name, l.channel, l.class, l.providers
FROM json_to_recordset(%(lanes)s::json) AS l(name text, channel text, class text, providers jsonb)
ORDER BY l.name
ON CONFLICT (name) DO UPDATE
SET channel = excluded.channel, class = excluded.class, providers = excluded.providers, published_at = now();

-- name: publish_providers
INSERT INTO store.provider_states (provider)
SELECT p.provider
FROM unnest(%(providers)s::text[]) AS p(provider)
ORDER BY 1
ON CONFLICT DO NOTHING;

-- name: publish_rates
INSERT INTO store.provider_rates (provider, per_second)
SELECT r.provider, r.per_second
FROM unnest(%(providers)s::text[], %(rates)s::double precision[]) AS r(provider, per_second)
WHERE r.per_second IS NOT NULL
ORDER BY 1
ON CONFLICT (provider) DO UPDATE SET per_second = excluded.per_second;

-- name: drop_rates
DELETE FROM store.provider_rates
WHERE provider = ANY(%(providers)s::text[])
  AND provider <> ALL (%(with_rate)s::text[]);

-- name: publish_capabilities
-- What an operator said of a provider stands.
INSERT INTO store.route_capabilities (provider, channel, provable, source)
SELECT c.provider, c.channel, c.provable, 'adapter'
FROM unnest(%(providers)s::text[], %(channels)s::text[], %(provable)s::boolean[]) AS c(provider, channel, provable)
ORDER BY 1, 2
ON CONFLICT (provider, channel, country) DO UPDATE
SET provable = excluded.provable, updated_at = now()
WHERE route_capabilities.source = 'adapter'
  AND route_capabilities.provable <> excluded.provable;

-- name: ready
-- Which providers of a lane may be called now, and how far their slots are given away. ready_at: when that may change.
SELECT p.provider,
       coalesce(s.breaker = 'closed' AND s.drained_at IS NULL AND coalesce(s.paused_until <= now(), true), true) AS ready,
       coalesce(s.breaker = 'open' AND s.drained_at IS NULL AND s.retry_at <= now()
                AND coalesce(s.paused_until <= now(), true) AND coalesce(s.probe_until <= now(), true), false) AS probe_due,
       CASE WHEN s.drained_at IS NULL
            THEN greatest(s.paused_until, CASE WHEN s.breaker = 'open' THEN greatest(s.retry_at, s.probe_until) END)
       END AS ready_at,
       coalesce(s.share, 1) AS share,
       coalesce(s.recovering, false) AS recovering,
       r.per_second * r.factor AS rate,
       coalesce(extract(epoch FROM r.next_at - now()), 0)::double precision AS backlog_seconds,
       coalesce((SELECT l.active FROM store.load_shedding l WHERE l.class = %(class)s), false) AS shed
FROM unnest(%(providers)s::text[]) AS p(provider)
LEFT JOIN store.provider_states s ON s.provider = p.provider
LEFT JOIN store.provider_rates r ON r.provider = p.provider;

-- name: take_probe
-- One worker in all tries whether it is back, with one delivery; the others find the row taken and go on.
UPDATE store.provider_states s
SET probe_owner = %(worker_id)s, probe_until = now() + make_interval(secs => %(probe_seconds)s)
FROM (
    SELECT p.provider
    FROM store.provider_states p
    WHERE p.provider = ANY(%(providers)s::text[])
      AND p.breaker = 'open'
      AND p.drained_at IS NULL
      AND p.retry_at <= now()
      AND coalesce(p.paused_until <= now(), true)
      AND coalesce(p.probe_until <= now(), true)
    ORDER BY p.provider
    LIMIT 1
    FOR UPDATE SKIP LOCKED
) AS due
WHERE s.provider = due.provider
RETURNING s.provider;

-- name: close_breaker
-- It took the probe. It comes back in steps, and what it failed before is forgiven.
WITH closed AS (
    UPDATE store.provider_states s
    SET breaker = 'closed', reason = NULL, detail = '', since = now(), judge_from = now(), cool_off_seconds = NULL,
        retry_at = NULL, probe_owner = NULL, probe_until = NULL,
        share = %(share_min)s, share_changed_at = now(), recovering = true
    WHERE s.provider = %(provider)s
      AND s.breaker = 'open'
      AND s.probe_owner = %(worker_id)s
    RETURNING s.provider
)
INSERT INTO store.control_events (subject, name, event, detail)
SELECT 'provider', c.provider, 'closed', %(detail)s
FROM closed c
RETURNING name, event, detail;

-- name: keep_open
-- It did not take the probe: the next one goes after a cool-off twice as long.
WITH kept AS (
    UPDATE store.provider_states s
    SET cool_off_seconds = least(%(cool_off_max)s, s.cool_off_seconds * 2),
        retry_at = now() + make_interval(secs => least(%(cool_off_max)s, s.cool_off_seconds * 2)),
        reason = %(reason)s, detail = %(detail)s, probe_owner = NULL, probe_until = NULL
    WHERE s.provider = %(provider)s
      AND s.breaker = 'open'
      AND s.probe_owner = %(worker_id)s
    RETURNING s.provider, s.retry_at
)
INSERT INTO store.control_events (subject, name, event, detail, data)
SELECT 'provider', k.provider, 'probe_failed', %(detail)s, jsonb_build_object('retry_at', k.retry_at)
FROM kept k
RETURNING name, event, detail;

-- name: free_probe
-- The probe never left: somebody else may send one.
UPDATE store.provider_states
SET probe_owner = NULL, probe_until = NULL
WHERE provider = %(provider)s
  AND probe_owner = %(worker_id)s;

-- name: try_at_once
UPDATE store.provider_states s
SET retry_at = now()
FROM (SELECT p.provider FROM store.provider_states p WHERE p.provider = ANY(%(providers)s::text[])
      ORDER BY p.provider FOR UPDATE) AS locked
WHERE s.provider = locked.provider
  AND s.breaker = 'open'
  AND s.reason = 'unauthorized';

-- name: trip
-- It refused our account: nothing more goes there until a probe gets through.
WITH tripped AS (
    INSERT INTO store.provider_states AS s (provider, breaker, reason, detail, cool_off_seconds, retry_at)
    VALUES (%(provider)s, 'open', 'unauthorized', %(detail)s, %(cool_off)s, now() + make_interval(secs => %(cool_off)s))
    ON CONFLICT (provider) DO UPDATE
    SET breaker = 'open', reason = excluded.reason, detail = excluded.detail, since = now(),
        cool_off_seconds = excluded.cool_off_seconds, retry_at = excluded.retry_at
    WHERE s.breaker = 'closed'
    RETURNING s.provider, s.retry_at
)
INSERT INTO store.control_events (subject, name, event, detail, data)
SELECT 'provider', t.provider, 'opened', %(detail)s, jsonb_build_object('reason', 'unauthorized', 'retry_at', t.retry_at)
FROM tripped t
RETURNING name, event, detail;

-- name: limit
-- It said to slow down. One event for one pause: a burst of refusals is one story.
WITH limited AS (
    INSERT INTO store.provider_states AS s (provider, detail, paused_until, limited_at, hits)
    VALUES (%(provider)s, %(detail)s, now() + make_interval(secs => %(seconds)s), now(), %(hits)s)
    ON CONFLICT (provider) DO UPDATE
    SET paused_until = greatest(s.paused_until, excluded.paused_until),
        detail = CASE WHEN s.breaker = 'closed' THEN excluded.detail ELSE s.detail END,
        limited_at = now(),
        hits = s.hits + excluded.hits
    RETURNING s.provider, s.paused_until
)
INSERT INTO store.control_events (subject, name, event, detail, data)
SELECT 'provider', l.provider, 'limited', %(detail)s,
       jsonb_build_object('hits', %(hits)s::int, 'seconds', %(seconds)s::double precision, 'paused_until', l.paused_until)
FROM limited l;

-- name: slow_down
-- Its own limit is what counts: the slots begin after the pause, and come further apart until it has been quiet for a while.
UPDATE store.provider_rates
SET next_at = greatest(next_at, now() + make_interval(secs => %(seconds)s)),
    factor = CASE WHEN factor_changed_at < now() - interval '5 seconds' THEN greatest(%(factor_min)s, factor * 0.8) ELSE factor END,
    factor_changed_at = CASE WHEN factor_changed_at < now() - interval '5 seconds' THEN now() ELSE factor_changed_at END
WHERE provider = %(provider)s;

-- name: wait_for_no_standby
-- For the transaction it is called in: what it commits may be lost with this server, and keeps nobody waiting.
SELECT set_config('synchronous_commit', 'off', true);

-- name: lease_slots
-- The next moments at which a call to this provider may begin: the first in so many seconds, the others each a step later. As
-- many as are asked for, but none further ahead than %(within)s seconds: those stay free for whoever comes in time for them.
WITH locked AS MATERIALIZED (
    SELECT r.provider, r.next_at, r.per_second * r.factor AS rate
    FROM store.provider_rates r
    WHERE r.provider = %(provider)s
    FOR UPDATE
), clock AS MATERIALIZED (
    -- Read only now: the lock may have been waited for.
    SELECT l.*, clock_timestamp() AS at FROM locked l
), free AS MATERIALIZED (
    SELECT c.provider, c.rate, greatest(c.next_at, c.at) AS first_at,
           greatest(0, extract(epoch FROM c.next_at - c.at))::double precision AS first_in_seconds
    FROM clock c
), leased AS MATERIALIZED (
    SELECT f.*,
           greatest(0, least(%(n)s, floor((%(within)s::double precision - f.first_in_seconds) * f.rate) + 1))::int AS n
    FROM free f
), moved AS (
    UPDATE store.provider_rates r
    SET next_at = l.first_at + make_interval(secs => l.n / l.rate)
    FROM leased l
    WHERE r.provider = l.provider
      AND l.n > 0
)
SELECT l.first_in_seconds, 1 / l.rate AS step_seconds, l.n
FROM leased l;

-- name: report_outcomes
INSERT INTO store.provider_outcomes AS o
    (provider, at, calls, failures, slow, accepted, limited, client_errors, server_errors, unknown)
SELECT c.provider, date_bin('5 seconds', now(), 'epoch'), c.calls, c.failures, c.slow, c.accepted, c.limited,
       c.client_errors, c.server_errors, c.unknown
FROM json_to_recordset(%(tallies)s::json)
     AS c(provider text, calls int, failures int, slow int, accepted int, limited int, client_errors int, server_errors int,
          unknown int)
ORDER BY c.provider
ON CONFLICT (provider, at) DO UPDATE
SET calls = o.calls + excluded.calls,
    failures = o.failures + excluded.failures,
    slow = o.slow + excluded.slow,
    accepted = o.accepted + excluded.accepted,
    limited = o.limited + excluded.limited,
    client_errors = o.client_errors + excluded.client_errors,
    server_errors = o.server_errors + excluded.server_errors,
    unknown = o.unknown + excluded.unknown;

-- name: open_failing
-- breakable: where a failure speaks against the provider, and not against one of many receivers behind it.
WITH recent AS (
    SELECT s.provider, sum(o.calls) AS calls, sum(o.failures) AS failures
    FROM store.provider_states s
    JOIN store.provider_outcomes o
        ON o.provider = s.provider
       AND o.at >= greatest(now() - make_interval(secs => %(window)s), s.judge_from)
    WHERE s.provider = ANY(%(breakable)s::text[])
      AND s.breaker = 'closed'
    GROUP BY s.provider
), failing AS (
    SELECT r.provider, r.calls, r.failures
    FROM recent r
    WHERE r.failures >= %(failures_min)s
      AND r.failures >= r.calls * %(failure_rate)s
), locked AS (
    SELECT s.provider
    FROM store.provider_states s
    JOIN failing f USING (provider)
    ORDER BY s.provider
    FOR UPDATE OF s
), opened AS (
    UPDATE store.provider_states s
    SET breaker = 'open', reason = 'failing', since = now(), cool_off_seconds = %(cool_off)s,
        retry_at = now() + make_interval(secs => %(cool_off)s),
        detail = format('%%s of %%s calls failed in %%s seconds', f.failures, f.calls, %(window)s::int)
    FROM failing f
    JOIN locked USING (provider)
    WHERE s.provider = f.provider
      AND s.breaker = 'closed'
    RETURNING s.provider, s.detail, s.retry_at
)
INSERT INTO store.control_events (subject, name, event, detail, data)
SELECT 'provider', o.provider, 'opened', o.detail, jsonb_build_object('reason', 'failing', 'retry_at', o.retry_at)
FROM opened o
RETURNING name, event, detail;

-- name: shift_shares
-- A provider that is slow or fails often loses half its share, one that does neither for a while gets it back in steps.
-- Between the two lies a band in which nothing changes, and after each step a time in which nothing does: no flapping.
-- One with many receivers behind it (not breakable) loses nothing for theirs, but gets back what a person took from it.
WITH recent AS (
    SELECT s.provider, s.share, s.recovering, s.provider = ANY(%(breakable)s::text[]) AS breakable,
           coalesce(sum(o.calls), 0) AS calls, coalesce(sum(o.failures), 0) AS failures, coalesce(sum(o.slow), 0) AS slow
    FROM store.provider_states s
    LEFT JOIN store.provider_outcomes o ON o.provider = s.provider AND o.at >= greatest(s.share_changed_at, s.judge_from)
        AND o.at >= now() - make_interval(secs => %(window)s)
    WHERE s.provider = ANY(%(providers)s::text[])
      AND s.breaker = 'closed'
      AND s.share_changed_at <= now() - make_interval(secs => %(shift_seconds)s)
    GROUP BY s.provider
), judged AS (
    SELECT r.provider, r.calls, r.failures, r.slow, r.share AS before,
           CASE WHEN NOT r.breakable
                THEN least(1, r.share * 2)
                WHEN r.calls >= %(calls_min)s
                     AND (r.failures >= r.calls * %(degraded_rate)s OR r.slow >= r.calls * %(slow_rate)s)
                THEN greatest(%(share_min)s, r.share / 2)
                WHEN r.failures <= r.calls * %(degraded_rate)s / 4 AND r.slow <= r.calls * %(slow_rate)s / 2
                THEN least(1, r.share * 2)
                ELSE r.share
           END AS share
    FROM recent r
), shifted AS (
    UPDATE store.provider_states s
    SET share = j.share, share_changed_at = now(), recovering = s.recovering AND j.share < 1
    FROM (SELECT s.provider FROM store.provider_states s JOIN judged j USING (provider) WHERE j.share <> s.share
          ORDER BY s.provider FOR UPDATE OF s SKIP LOCKED) AS locked
    JOIN judged j USING (provider)
    WHERE s.provider = locked.provider
      AND s.breaker = 'closed'
      AND s.share <> j.share
      AND s.share_changed_at <= now() - make_interval(secs => %(shift_seconds)s)
    RETURNING s.provider, s.share, j.calls, j.failures, j.slow, j.share < j.before AS lowered
)
INSERT INTO store.control_events (subject, name, event, detail, data)
SELECT 'provider', s.provider, CASE WHEN s.lowered THEN 'share_lowered' ELSE 'share_raised' END,
       format('gets %%s %%%% of its weight: of %%s calls %%s failed and %%s were slow', round((s.share * 100)::numeric), s.calls,
              s.failures, s.slow),
       jsonb_build_object('share', s.share)
FROM shifted s
RETURNING name, event, detail;

-- name: speed_up
-- Whoever records outcomes may hold a rate and wait for the state of another provider, so this comes in a transaction that holds no
-- state. A rate that is taken just now is sped up a second later.
UPDATE store.provider_rates r
SET factor = least(1, r.factor * 1.25), factor_changed_at = now()
FROM (
    SELECT p.provider
    FROM store.provider_rates p
    WHERE p.provider = ANY(%(providers)s::text[])
      AND p.factor < 1
      AND p.factor_changed_at < now() - interval '30 seconds'
    ORDER BY p.provider
    FOR UPDATE SKIP LOCKED
) AS quiet
WHERE r.provider = quiet.provider;

-- name: judge_load_turn
-- One worker judges for all, every so many seconds.
UPDATE store.load_shedding
SET judged_at = now()
WHERE class = 'promotional'
  AND judged_at < now() - make_interval(secs => %(every_seconds)s)
  AND EXISTS (SELECT FROM store.regions r WHERE r.name = %(region)s AND r.active)
RETURNING active;

-- name: judge_load
-- How late the oldest urgent work is: not yet planned, or due in a lane that a worker serves and whose provider takes calls. What
-- waits for a provider does not wait for us, and neither does what waits for a merchant.
WITH served AS (
    SELECT DISTINCT unnest(w.lanes) AS name
    FROM store.workers w
    WHERE w.stopped_at IS NULL AND w.last_seen_at > now() - interval '30 seconds'
), urgent AS (
    SELECT l.name, l.class
    FROM store.lanes l
    JOIN served USING (name)
    WHERE l.class IN ('transactional', 'alert')
      AND l.channel <> ALL (%(apart)s::text[])
      AND EXISTS (
          SELECT FROM jsonb_to_recordset(l.providers) AS p(provider text)
          LEFT JOIN store.provider_states s USING (provider)
          WHERE s.provider IS NULL
             OR (s.breaker = 'closed' AND s.drained_at IS NULL AND coalesce(s.paused_until <= now(), true)))
), oldest AS (
    SELECT u.name, u.class, first.due_at
    FROM urgent u
    CROSS JOIN LATERAL (
        SELECT d.due_at FROM store.deliveries d
        WHERE d.lane = u.name AND d.state = 'queued' AND d.failures = 0 ORDER BY d.due_at LIMIT 1) AS first
    UNION ALL
    SELECT u.name, u.class, retry.due_at
    FROM urgent u
    CROSS JOIN LATERAL (
        SELECT d.due_at FROM store.deliveries d
        WHERE d.lane = u.name AND d.state = 'queued' AND d.failures > 0 ORDER BY d.due_at LIMIT 1) AS retry
    UNION ALL
    SELECT 'intake.' || c.class, c.class, accepted.due_at
    FROM (VALUES ('transactional'), ('alert')) AS c(class)
    CROSS JOIN LATERAL (
        SELECT n.due_at FROM store.notifications n
        WHERE n.class = c.class AND n.state = 'accepted' ORDER BY n.due_at LIMIT 1) AS accepted
), latest AS (
    SELECT o.name, extract(epoch FROM now() - o.due_at)::double precision AS seconds,
           extract(epoch FROM now() - o.due_at)
               / CASE o.class WHEN 'alert' THEN %(alert_seconds)s::double precision
                               ELSE %(transactional_seconds)s::double precision END AS of_limit
    FROM oldest o
    ORDER BY of_limit DESC
    LIMIT 1
), judged AS (
    -- Half the limit ends it: what lies between changes nothing.
    SELECT CASE WHEN coalesce(l.of_limit, 0) > 1 THEN true WHEN coalesce(l.of_limit, 0) < 0.5 THEN false END AS active,
           l.name, greatest(0, coalesce(l.seconds, 0)) AS seconds
    FROM (VALUES (1)) AS one
    LEFT JOIN latest l ON true
), switched AS (
    UPDATE store.load_shedding s
    SET active = coalesce(j.active, s.active),
        since = CASE WHEN j.active <> s.active THEN now() ELSE s.since END,
        lane = j.name,
        oldest_seconds = j.seconds
    FROM judged j
    WHERE s.class = 'promotional'
    RETURNING s.active, s.since = now() AS turned, j.name, j.seconds
)
INSERT INTO store.control_events (subject, name, event, detail, data)
SELECT 'load', 'promotional', CASE WHEN s.active THEN 'shedding_began' ELSE 'shedding_ended' END,
       CASE WHEN s.active THEN format('%%s is %%s seconds late', s.name, round(s.seconds::numeric, 1))
            ELSE 'urgent work is on time again' END,
       jsonb_build_object('lane', s.name, 'oldest_seconds', s.seconds)
FROM switched s
WHERE s.turned
RETURNING name, event, detail;

-- name: purge
DELETE FROM store.provider_outcomes WHERE at < now() - interval '1 day';

-- name: purge_lanes
-- A worker publishes all lanes of its configuration when it starts. What was published well before the oldest that lives
-- started, none of them has any more; what still waits there is shown all the same (reporting.lanes).
DELETE FROM store.lanes
WHERE published_at < (SELECT min(w.started_at) - interval '1 hour'
                      FROM store.workers w
                      WHERE w.stopped_at IS NULL AND w.last_seen_at > now() - interval '1 hour');

-- name: purge_key_limits
DELETE FROM store.api_key_limits WHERE hour < now() - make_interval(secs => %(keep_seconds)s);

-- name: purge_events
DELETE FROM store.control_events WHERE at < now() - make_interval(secs => %(keep_seconds)s);
