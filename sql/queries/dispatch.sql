-- The statements of flows.dispatch. A claim is three of them in one transaction, each with a snapshot of its own: lock
-- rows, share the locks of their addresses, and only then look at suppressions and write the intents (I1, I2, I11).
--
-- A batch's smallest and largest id bound every join to a partitioned table, so that a statement opens the partitions of
-- the days it works on and not those of a whole month.

-- name: share_fence
-- A promotion takes this lock exclusively: no claim straddles a change of epoch (I2).
SELECT pg_advisory_xact_lock_shared(12, 0);

-- name: lock_due
-- First attempts first: retries get their share of the claim and whatever first attempts leave, never more. A claim of few rows
-- is now and then all theirs, and then first attempts get what retries leave. In a region that is not active nothing is taken up.
WITH here AS (
    SELECT EXISTS (SELECT FROM store.regions r WHERE r.name = %(region)s AND r.active) AS active
), first_attempts AS (
    SELECT d.shard, d.id, d.tenant_id, d.channel, d.address, d.expires_at, d.tried
    FROM store.deliveries d
    WHERE d.lane = %(lane)s
      AND d.failures = 0
      AND d.state = 'queued'
      AND d.due_at <= now()
      AND (SELECT active FROM here)
    ORDER BY d.due_at
    LIMIT %(first_max)s
    FOR UPDATE SKIP LOCKED
), retries AS (
    SELECT d.shard, d.id, d.tenant_id, d.channel, d.address, d.expires_at, d.tried
    FROM store.deliveries d
    WHERE d.lane = %(lane)s
      AND d.failures > 0
      AND d.state = 'queued'
      AND d.due_at <= now()
      AND (SELECT active FROM here)
    ORDER BY d.due_at
    LIMIT (SELECT greatest(0, %(claim_max)s - count(*)) FROM first_attempts)
    FOR UPDATE SKIP LOCKED
), left_by_retries AS (
    SELECT d.shard, d.id, d.tenant_id, d.channel, d.address, d.expires_at, d.tried
    FROM store.deliveries d
    WHERE d.lane = %(lane)s
      AND d.failures = 0
      AND d.state = 'queued'
      AND d.due_at <= now()
      AND (SELECT active FROM here)
    ORDER BY d.due_at
    LIMIT (SELECT CASE WHEN %(first_max)s = 0 THEN greatest(0, %(claim_max)s - count(*)) ELSE 0 END FROM retries)
    FOR UPDATE SKIP LOCKED
)
SELECT d.shard, d.id, store.address_bucket(d.tenant_id, d.channel, d.address) AS bucket, d.expires_at <= now() AS expired,
       d.tried
FROM (SELECT * FROM first_attempts UNION ALL SELECT * FROM retries UNION ALL SELECT * FROM left_by_retries) AS d;

-- name: put_off_failing
-- An endpoint that fails holds up none of the others: what waits for it is put off at no cost, but for the one delivery that
-- tries whether it is back.
WITH waiting AS (
    SELECT d.shard, d.id, e.paused_until,
           row_number() OVER (PARTITION BY e.id ORDER BY d.due_at, d.id) AS place
    FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[]) AS due(shard, id)
    JOIN store.deliveries d ON d.shard = due.shard AND d.id = due.id AND d.id BETWEEN %(first)s AND %(last)s
    JOIN store.endpoints e
        ON e.id = CASE WHEN d.address ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN d.address::uuid END
       AND e.tenant_id = d.tenant_id
    WHERE e.failing_since IS NOT NULL
      AND e.status = 'enabled'
      AND d.expires_at > now()
)
UPDATE store.deliveries d
SET due_at = least(greatest(w.paused_until, now() + interval '1 second'), d.expires_at),
    reason = 'endpoint_failing',
    updated_at = now()
FROM waiting w
WHERE d.shard = w.shard
  AND d.id = w.id
  AND d.id BETWEEN %(first)s AND %(last)s
  AND (w.paused_until > now() OR w.place > 1)
RETURNING d.id;

-- name: put_off_crowded
-- Only a provider that is full may take these, and behind them waits what others have room for. They come back spread out, so
-- that some are due whenever room comes free, and go on saying why they wait.
UPDATE store.deliveries d
SET due_at = least(now() + make_interval(secs => %(over_seconds)s * random()), d.expires_at), updated_at = now()
FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[]) AS due(shard, id)
WHERE d.shard = due.shard
  AND d.id = due.id
  AND d.id BETWEEN %(first)s AND %(last)s;

-- name: share_addresses
-- An opt-out holds its address exclusively until it has committed. Ascending, as everyone takes them.
SELECT pg_advisory_xact_lock_shared(11, bucket)
FROM (SELECT DISTINCT bucket FROM unnest(%(buckets)s::int[]) AS bucket ORDER BY bucket) AS ordered;

-- name: open_attempts
-- What may be sent gets its intent written; what expired or was suppressed meanwhile ends here, recorded. So does what was
-- taken up so often that its attempts could soon be counted no further (a smallint): it would hold up its batch for ever.
WITH fence AS (
    SELECT r.epoch
    FROM store.regions r
    WHERE r.name = %(region)s AND r.active
), judged AS MATERIALIZED (
    SELECT d.shard, d.id, d.tenant_id, d.notification_id, d.attempt_no, fence.epoch, due.provider,
           CASE WHEN s.reason IS NOT NULL THEN 'suppressed' WHEN d.expires_at <= now() THEN 'expired'
                WHEN d.attempt_no >= 32000 THEN 'dead' END AS ending,
           CASE WHEN s.reason IS NOT NULL THEN 'suppressed:' || s.reason WHEN d.expires_at <= now() THEN 'expired'
                ELSE 'retries_exhausted' END AS ending_reason
    FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[], %(providers)s::text[]) AS due(shard, id, provider)
    JOIN store.deliveries d ON d.shard = due.shard AND d.id = due.id AND d.id BETWEEN %(first)s AND %(last)s
    CROSS JOIN fence
    LEFT JOIN LATERAL (
        SELECT s.reason
        FROM store.suppressions s
        WHERE s.tenant_id = d.tenant_id
          AND s.channel = d.channel
          AND s.address = store.normalise_address(d.channel, d.address)
          AND s.scope IN ('all', d.category)
          AND s.lifted_at IS NULL
        ORDER BY s.scope
        LIMIT 1
    ) s ON true
), opened AS (
    INSERT INTO store.attempts (shard, delivery_id, no, tenant_id, epoch, region, provider, worker_id)
    SELECT j.shard, j.id, j.attempt_no + 1, j.tenant_id, j.epoch, %(region)s, j.provider, %(worker_id)s
    FROM judged j
    WHERE j.ending IS NULL
), moved AS (
    UPDATE store.deliveries d
    SET state = coalesce(j.ending, 'sending'),
        reason = CASE WHEN j.ending IS NOT NULL THEN j.ending_reason END,
        attempt_no = CASE WHEN j.ending IS NULL THEN d.attempt_no + 1 ELSE d.attempt_no END,
        lease_owner = CASE WHEN j.ending IS NULL THEN %(worker_id)s::uuid END,
        due_at = CASE WHEN j.ending IS NULL THEN now() + make_interval(secs => %(lease_seconds)s) END,
        ended_at = CASE WHEN j.ending IS NOT NULL THEN now() END,
        provider = CASE WHEN j.ending IS NULL THEN j.provider ELSE d.provider END,
        lookups = 0,
        updated_at = now()
    FROM judged j
    WHERE d.shard = j.shard
      AND d.id = j.id
      AND d.id BETWEEN %(first)s AND %(last)s
    RETURNING d.shard, d.id, d.notification_id, d.tenant_id, d.recipient_id, d.category, d.class, d.channel, d.address,
              d.sender, d.reply_to, d.template_id, d.template_version, d.state, d.attempt_no, d.failures, d.expires_at,
              d.provider, d.tried, coalesce(d.replay_of, d.id) AS event_id
), told AS (
    INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, kind, source, data)
    SELECT j.shard, store.new_id(j.shard), j.tenant_id, j.notification_id, j.id, j.ending, 'landed',
           jsonb_build_object('reason', j.ending_reason)
    FROM judged j
    WHERE j.ending IS NOT NULL
)
SELECT m.shard, m.id, m.notification_id, m.tenant_id, m.recipient_id, m.category, m.class AS klass, m.channel, m.address,
       m.sender, m.reply_to, m.template_id, m.template_version, m.attempt_no, m.failures, m.expires_at, m.event_id,
       t.name AS tenant,
       n.request -> 'variables' AS variables,
       n.accepted_at,
       coalesce(c.test_mode, false) AS test_mode,
       coalesce(c.track_opens, false) AS track_opens,
       coalesce(c.track_clicks, false) AS track_clicks,
       m.provider, m.tried
FROM moved m
JOIN store.notifications n
    ON n.shard = m.shard
   AND n.id = m.notification_id
   AND n.id BETWEEN store.children_from(%(first)s) AND store.children_to(%(last)s)
JOIN store.tenants t ON t.id = m.tenant_id
LEFT JOIN store.categories c ON c.tenant_id = m.tenant_id AND c.name = m.category
WHERE m.state = 'sending';

-- name: lock_deliveries
-- Whoever changes deliveries and attempts together takes the deliveries first, in id order: no deadlocks.
SELECT d.id
FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[]) AS u(shard, id)
JOIN store.deliveries d ON d.shard = u.shard AND d.id = u.id AND d.id BETWEEN %(first)s AND %(last)s
ORDER BY d.id
FOR UPDATE OF d;

-- name: record_outcomes
-- Compare-and-set throughout: a late answer can settle what was thought unknown, and can never undo what evidence has
-- settled. An acceptance beside another one is kept as a duplicate, the alarm that must never sound.
WITH outcome AS MATERIALIZED (
    SELECT o.shard, o.id, o.no, o.tenant_id, o.notification_id, o.attempt_state, o.outcome, o.status_code, o.detail,
           o.message_id, o.hash, o.state, o.reason, o.burns, o.facts, o.failed_over,
           o.due_at + (now() - coalesce(%(decided_at)s::timestamptz, now())) AS due_at
    FROM json_to_recordset(%(outcomes)s::json)
         AS o(shard smallint, id uuid, no smallint, tenant_id int, notification_id uuid, attempt_state text, outcome text,
              status_code smallint, detail text, message_id text, hash text, state text, reason text,
              due_at timestamptz, burns boolean, facts jsonb, failed_over text)
), closed AS (
    UPDATE store.attempts a
    SET state = CASE
            WHEN a.state IN ('accepted', 'duplicate') THEN a.state
            WHEN o.attempt_state = 'accepted' AND EXISTS (
                SELECT FROM store.attempts b
                WHERE b.shard = a.shard AND b.delivery_id = a.delivery_id AND b.no <> a.no AND b.state = 'accepted'
                  AND b.delivery_id BETWEEN %(first)s AND %(last)s
            ) THEN 'duplicate'
            ELSE o.attempt_state
        END,
        outcome = o.outcome,
        status_code = o.status_code,
        detail = o.detail,
        provider_message_id = coalesce(o.message_id, a.provider_message_id),
        content_hash = decode(o.hash, 'hex'),
        facts = o.facts,
        closed_at = CASE WHEN o.attempt_state = 'ambiguous' THEN a.closed_at ELSE now() END
    FROM outcome o
    WHERE a.shard = o.shard
      AND a.delivery_id = o.id
      AND a.delivery_id BETWEEN %(first)s AND %(last)s
      AND a.no = o.no
      AND a.content_hash IS NULL  -- what we saw ourselves is recorded once, also when its commit was and seemed not to be
      AND (a.state IN ('open', 'ambiguous')
           OR (a.state IN ('not_sent', 'unanswered') AND o.attempt_state = 'accepted')
           OR (a.state IN ('accepted', 'duplicate') AND o.hash IS NOT NULL))  -- evidence was quicker: its state stands
    RETURNING o.*, a.state AS settled
), moved AS (
    UPDATE store.deliveries d
    SET state = o.state,
        reason = o.reason,
        due_at = CASE WHEN o.due_at IS NOT NULL THEN least(o.due_at, greatest(d.expires_at, now())) END,
        lease_owner = NULL,
        failures = d.failures + o.burns::int,
        -- What was not even called is where it was: back with who refused it only by the ladder.
        tried = CASE WHEN o.failed_over IS NOT NULL THEN d.tried || o.failed_over WHEN o.outcome = 'released' THEN d.tried END,
        sent_at = CASE WHEN o.state = 'sent' THEN now() ELSE d.sent_at END,
        ended_at = CASE WHEN o.due_at IS NULL THEN now() END,
        provider_message_id = coalesce(o.message_id, d.provider_message_id),
        updated_at = now()
    FROM closed o
    WHERE d.shard = o.shard
      AND d.id = o.id
      AND d.id BETWEEN %(first)s AND %(last)s
      -- Whatever we concluded meanwhile, and whichever attempt is under way: what was accepted is sent.
      AND ((d.attempt_no = o.no AND d.state IN ('sending', 'ambiguous'))
           OR (o.state = 'sent' AND d.state NOT IN ('sent', 'delivered', 'bounced', 'failed')))
    RETURNING o.*
), detailed AS (
    -- Evidence was quicker than our own answer: the state stands, the provider's id and the time of sending are kept.
    UPDATE store.deliveries d
    SET sent_at = coalesce(d.sent_at, now()),
        provider_message_id = coalesce(d.provider_message_id, o.message_id)
    FROM outcome o
    WHERE d.shard = o.shard
      AND d.id = o.id
      AND d.id BETWEEN %(first)s AND %(last)s
      AND o.state = 'sent'
      AND d.state IN ('delivered', 'bounced', 'failed', 'sent')
      AND (d.sent_at IS NULL OR d.provider_message_id IS NULL)
)
INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, attempt_no, kind, source, data)
SELECT o.shard, store.new_id(o.shard), o.tenant_id, o.notification_id, o.id, o.no, 'attempt_' || o.outcome, 'landed',
       jsonb_strip_nulls(jsonb_build_object(
           'detail', o.detail, 'status', o.status_code, 'state', o.state, 'reason', o.reason, 'due_at', o.due_at,
           'duplicate', CASE WHEN o.settled = 'duplicate' THEN true END))
FROM closed o
UNION ALL
SELECT o.shard, store.new_id(o.shard), o.tenant_id, o.notification_id, o.id, o.no, 'dead', 'landed',
       jsonb_build_object('reason', o.reason)
FROM moved o
WHERE o.state = 'dead';

-- name: unpark
-- Events that came before we knew their message id can be matched now. One that is being looked at is left alone: whoever
-- looks at it may be waiting for a delivery that is locked here, and looks again soon.
UPDATE store.inbound_events i
SET due_at = now()
FROM (
    SELECT p.occurred_on, p.provider, p.event_key
    FROM store.inbound_events p
    WHERE EXISTS (SELECT FROM store.inbound_events e WHERE e.state = 'parked')
      AND p.state = 'parked'
      AND p.provider_message_id = ANY(%(message_ids)s::text[])
    FOR UPDATE SKIP LOCKED
) AS parked
WHERE i.occurred_on = parked.occurred_on
  AND i.provider = parked.provider
  AND i.event_key = parked.event_key;

-- name: next_due
-- In how many seconds this lane next has something to do: a hint for how long to wait, bounded by the poll.
SELECT extract(epoch FROM min(soonest.due_at) - now())::double precision
FROM (
    (SELECT d.due_at FROM store.deliveries d
     WHERE d.lane = %(lane)s AND d.failures = 0 AND d.state = 'queued' ORDER BY d.due_at LIMIT 1)
    UNION ALL
    (SELECT d.due_at FROM store.deliveries d
     WHERE d.lane = %(lane)s AND d.failures > 0 AND d.state = 'queued' ORDER BY d.due_at LIMIT 1)
) AS soonest
WHERE EXISTS (SELECT FROM store.regions r WHERE r.name = %(region)s AND r.active)
HAVING min(soonest.due_at) IS NOT NULL;

-- name: load_templates
SELECT t.tenant_id, t.template_id, t.version, t.channel, t.subject, t.html, t.text, t.extras
FROM store.templates t
JOIN unnest(%(tenant_ids)s::int[], %(template_ids)s::text[], %(versions)s::int[]) AS w(tenant_id, template_id, version)
    USING (tenant_id, template_id, version)
WHERE t.channel = %(channel)s;
