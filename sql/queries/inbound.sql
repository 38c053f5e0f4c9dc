-- The statements of flows.receive and flows.apply: what providers tell us, stored once and applied once (I16).

-- name: seen_token
-- A signature that covers only its token may carry only the event it came with. The insert waits for a twin in flight.
INSERT INTO store.webhook_tokens AS t (provider, token, event_key)
VALUES (%(provider)s, %(token)s, %(event_key)s)
ON CONFLICT (provider, token) DO UPDATE SET seen_at = t.seen_at
RETURNING t.event_key;

-- name: store_events
-- In the order of the keys: two that tell of the same facts wait for each other, and never in a circle.
INSERT INTO store.inbound_events
    (occurred_on, provider, event_key, source, kind, evidence, raw, provider_message_id)
SELECT e.occurred_on, %(provider)s, e.event_key, %(source)s, e.kind, e.evidence::jsonb, %(raw)s, e.message_id
FROM unnest(%(days)s::date[], %(keys)s::text[], %(kinds)s::text[], %(evidences)s::text[], %(message_ids)s::text[])
     AS e(occurred_on, event_key, kind, evidence, message_id)
ORDER BY e.occurred_on, e.event_key
ON CONFLICT (occurred_on, provider, event_key) DO NOTHING
RETURNING event_key;

-- name: count_refusal
INSERT INTO store.webhook_refusals AS r (provider, reason, last_detail)
VALUES (%(provider)s, %(reason)s, %(detail)s)
ON CONFLICT (provider, reason, day) DO UPDATE
SET refusals = r.refusals + 1, last_at = now(), last_detail = excluded.last_detail;

-- name: claim_pending
-- What people said comes before whatever else waits: until it is applied, they are sent to.
WITH said AS (
    SELECT i.occurred_on, i.provider, i.event_key, i.source, i.evidence, i.received_at
    FROM store.inbound_events i
    WHERE i.kind IN ('opted_out', 'opted_in')
      AND i.state IN ('pending', 'parked')
      AND i.due_at <= now()
    ORDER BY i.due_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), others AS (
    SELECT i.occurred_on, i.provider, i.event_key, i.source, i.evidence, i.received_at
    FROM store.inbound_events i
    WHERE i.kind NOT IN ('opted_out', 'opted_in')
      AND i.state IN ('pending', 'parked')
      AND i.due_at <= now()
    ORDER BY i.due_at
    LIMIT (SELECT %(limit)s - count(*) FROM said)
    FOR UPDATE SKIP LOCKED
)
SELECT * FROM said UNION ALL SELECT * FROM others;

-- name: match_message_ids
-- For evidence that did not carry our own id back.
SELECT a.provider_message_id, a.provider, a.delivery_id, a.no
FROM store.attempts a
JOIN unnest(%(providers)s::text[], %(message_ids)s::text[]) AS m(provider, message_id)
    ON m.provider = a.provider AND m.message_id = a.provider_message_id;

-- name: load_standings
-- Locked in id order, deliveries before attempts, like every other writer.
SELECT d.shard, d.id, d.notification_id, d.tenant_id, d.channel, d.address, d.category, d.state, d.reason, d.attempt_no,
       d.provider, d.evidence_id, d.delivered_at, d.bounced_at, d.opened_at, d.clicked_at, d.complained_at,
       d.unsubscribed_at, d.due_at
FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[]) AS u(shard, id)
JOIN store.deliveries d ON d.shard = u.shard AND d.id = u.id
ORDER BY d.id
FOR UPDATE OF d;

-- name: attempt_providers
SELECT a.delivery_id, a.no, a.provider
FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[]) AS u(shard, id)
JOIN store.attempts a ON a.shard = u.shard AND a.delivery_id = u.id;

-- name: append_events
INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, attempt_no, kind, source, occurred_at, data)
SELECT e.shard, store.new_id(e.shard), e.tenant_id, e.notification_id, e.delivery_id, e.attempt_no, e.kind, e.source,
       e.occurred_at, e.data::jsonb
FROM unnest(%(shards)s::smallint[], %(tenant_ids)s::int[], %(notification_ids)s::uuid[], %(delivery_ids)s::uuid[],
            %(attempt_nos)s::smallint[], %(kinds)s::text[], %(sources)s::text[], %(occurred_ats)s::timestamptz[],
            %(datas)s::text[])
     AS e(shard, tenant_id, notification_id, delivery_id, attempt_no, kind, source, occurred_at, data)
RETURNING id, delivery_id, kind, occurred_at;

-- name: accept_attempts
-- Whoever hears of a message from its provider knows that the provider took it, whatever we had concluded. A second one
-- beside it is kept as a duplicate, the alarm that must never sound.
WITH told AS (
    SELECT shard, id, no, max(message_id) AS message_id, bool_and(source = 'lookup') AS looked_up
    FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[], %(nos)s::smallint[], %(message_ids)s::text[],
                %(sources)s::text[]) AS u(shard, id, no, message_id, source)
    GROUP BY 1, 2, 3
), settling AS MATERIALIZED (
    SELECT a.shard, a.delivery_id, a.no, a.tenant_id, a.state AS before, t.message_id, t.looked_up,
           row_number() OVER (PARTITION BY a.delivery_id ORDER BY a.no) > 1
           OR EXISTS (SELECT FROM store.attempts b
                      WHERE b.shard = a.shard AND b.delivery_id = a.delivery_id AND b.state = 'accepted') AS not_the_first
    FROM told t
    JOIN store.attempts a ON a.shard = t.shard AND a.delivery_id = t.id AND a.no = t.no
    WHERE a.state NOT IN ('accepted', 'duplicate')
), settled AS (
    UPDATE store.attempts a
    SET state = CASE WHEN s.not_the_first THEN 'duplicate' ELSE 'accepted' END,
        outcome = coalesce(a.outcome, 'unknown'),
        detail = coalesce(a.detail, 'settled by evidence'),
        provider_message_id = coalesce(a.provider_message_id, s.message_id),
        closed_at = coalesce(a.closed_at, now())
    FROM settling s
    WHERE a.shard = s.shard AND a.delivery_id = s.delivery_id AND a.no = s.no
)
INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, attempt_no, kind, source)
SELECT s.shard, store.new_id(s.shard), s.tenant_id, d.notification_id, s.delivery_id, s.no, 'resolved_found', 'lookup'
FROM settling s
JOIN store.deliveries d ON d.shard = s.shard AND d.id = s.delivery_id
WHERE s.before = 'ambiguous' AND s.looked_up;

-- name: move_deliveries
UPDATE store.deliveries d
SET state = m.state,
    reason = m.reason,
    due_at = CASE WHEN m.state = 'sent' THEN coalesce(m.due_at, d.due_at) END,
    ended_at = CASE WHEN m.state <> 'sent' THEN coalesce(d.ended_at, now()) END,
    lease_owner = NULL,
    evidence_id = coalesce(m.evidence_id, d.evidence_id),
    sent_at = coalesce(d.sent_at, m.occurred_at),
    delivered_at = m.delivered_at,
    bounced_at = m.bounced_at,
    opened_at = m.opened_at,
    clicked_at = m.clicked_at,
    complained_at = m.complained_at,
    unsubscribed_at = m.unsubscribed_at,
    provider_message_id = coalesce(d.provider_message_id, m.message_id),
    updated_at = now()
FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[], %(states)s::text[], %(reasons)s::text[],
            %(due_ats)s::timestamptz[], %(evidence_ids)s::uuid[], %(occurred_ats)s::timestamptz[],
            %(delivered_ats)s::timestamptz[], %(bounced_ats)s::timestamptz[], %(opened_ats)s::timestamptz[],
            %(clicked_ats)s::timestamptz[], %(complained_ats)s::timestamptz[], %(unsubscribed_ats)s::timestamptz[],
            %(message_ids)s::text[])
     AS m(shard, id, state, reason, due_at, evidence_id, occurred_at, delivered_at, bounced_at, opened_at, clicked_at,
          complained_at, unsubscribed_at, message_id)
WHERE d.shard = m.shard
  AND d.id = m.id;

-- name: note_evidence
-- The state stands as it is (it may be ours: queued, sending): only the moments evidence named are kept.
UPDATE store.deliveries d
SET delivered_at = m.delivered_at,
    bounced_at = m.bounced_at,
    opened_at = m.opened_at,
    clicked_at = m.clicked_at,
    complained_at = m.complained_at,
    unsubscribed_at = m.unsubscribed_at,
    updated_at = now()
FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[], %(delivered_ats)s::timestamptz[], %(bounced_ats)s::timestamptz[],
            %(opened_ats)s::timestamptz[], %(clicked_ats)s::timestamptz[], %(complained_ats)s::timestamptz[],
            %(unsubscribed_ats)s::timestamptz[])
     AS m(shard, id, delivered_at, bounced_at, opened_at, clicked_at, complained_at, unsubscribed_at)
WHERE d.shard = m.shard
  AND d.id = m.id;

-- name: share_tenants
-- Whoever makes a tenant holds this exclusively (store.inherit_opt_outs). A statement of its own: the next one sees every
-- tenant that it waited for, and one that comes later sees what is written here.
SELECT pg_advisory_xact_lock_shared(14, 0);

-- name: lock_addresses
-- All that a transaction needs in one go, ascending, as everyone takes them. Some addresses are locked for every tenant: an
-- opt-out from a shared number holds for all that send from it.
SELECT pg_advisory_xact_lock(11, bucket)
FROM (SELECT store.address_bucket(t.tenant_id, t.channel, t.address) AS bucket
      FROM unnest(%(tenant_ids)s::int[], %(channels)s::text[], %(addresses)s::text[]) AS t(tenant_id, channel, address)
      UNION
      SELECT store.address_bucket(t.id, a.channel, a.address)
      FROM store.tenants t
      CROSS JOIN unnest(%(shared_channels)s::text[], %(shared_addresses)s::text[]) AS a(channel, address)
      ORDER BY bucket) AS ordered;

-- name: suppress
INSERT INTO store.suppressions (tenant_id, channel, address, scope, reason, detail, source, delivery_id)
SELECT s.tenant_id, s.channel, store.normalise_address(s.channel, s.address), s.scope, s.reason, s.detail, 'provider', s.id
FROM unnest(%(tenant_ids)s::int[], %(channels)s::text[], %(addresses)s::text[], %(scopes)s::text[], %(reasons)s::text[],
            %(details)s::text[], %(ids)s::uuid[]) AS s(tenant_id, channel, address, scope, reason, detail, id)
WHERE s.reason <> 'opted_out'
   OR NOT EXISTS (  -- who said START after the call is not put back on the list by it
       SELECT FROM store.consents c
       WHERE c.channel = s.channel
         AND c.address = store.normalise_address(s.channel, s.address)
         AND c.action = 'opt_in'
         AND c.occurred_at > (SELECT max(a.opened_at) FROM store.attempts a
                              WHERE a.shard = store.shard_of(s.id) AND a.delivery_id = s.id))
ORDER BY 1, 2, 3, 4
ON CONFLICT DO NOTHING;

-- name: lock_soft_bounces
-- Before any of them is changed, in one order: some are forgotten and others counted, and two who do that to the same
-- addresses must not wait for each other.
SELECT FROM store.soft_bounces b
WHERE (b.tenant_id, b.channel, b.address) IN (
    SELECT s.tenant_id, s.channel, store.normalise_address(s.channel, s.address)
    FROM unnest(%(tenant_ids)s::int[], %(channels)s::text[], %(addresses)s::text[]) AS s(tenant_id, channel, address))
ORDER BY b.tenant_id, b.channel, b.address
FOR UPDATE;

-- name: count_soft_bounces
-- More in a row for each address; answers those that have had enough (R-114).
WITH bounced AS (
    INSERT INTO store.soft_bounces AS b (tenant_id, channel, address, bounces, first_at, last_at)
    SELECT s.tenant_id, s.channel, store.normalise_address(s.channel, s.address), count(*), min(s.at), max(s.at)
    FROM unnest(%(tenant_ids)s::int[], %(channels)s::text[], %(addresses)s::text[], %(ats)s::timestamptz[])
         AS s(tenant_id, channel, address, at)
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3
    ON CONFLICT (tenant_id, channel, address) DO UPDATE
    SET bounces = b.bounces + excluded.bounces,
        first_at = least(b.first_at, excluded.first_at),
        last_at = greatest(b.last_at, excluded.last_at)
    RETURNING b.*
)
SELECT tenant_id, channel, address, bounces
FROM bounced
WHERE bounces >= %(bounces_max)s
  AND last_at - first_at >= make_interval(days => 1) * %(days_min)s;

-- name: forget_soft_bounces
-- A success ends the row of soft bounces before it.
DELETE FROM store.soft_bounces b
USING unnest(%(tenant_ids)s::int[], %(channels)s::text[], %(addresses)s::text[], %(ats)s::timestamptz[])
      AS s(tenant_id, channel, address, at)
WHERE b.tenant_id = s.tenant_id
  AND b.channel = s.channel
  AND b.address = store.normalise_address(s.channel, s.address)
  AND b.last_at <= s.at;

-- name: settle
-- What could not be matched is looked at again soon when it is fresh, and less and less often: its send may be recorded at
-- this very moment, unseen by both.
UPDATE store.inbound_events i
SET state = s.state,
    reason = s.reason,
    delivery_id = s.delivery_id,
    due_at = CASE WHEN s.state = 'parked'
                  THEN now() + least(make_interval(secs => %(park_seconds)s),
                                     greatest(interval '1 second', now() - i.received_at)) END,
    applied_at = CASE WHEN s.state <> 'parked' THEN now() END
FROM unnest(%(days)s::date[], %(providers)s::text[], %(keys)s::text[], %(states)s::text[], %(reasons)s::text[],
            %(delivery_ids)s::uuid[]) AS s(occurred_on, provider, event_key, state, reason, delivery_id)
WHERE i.occurred_on = s.occurred_on
  AND i.provider = s.provider
  AND i.event_key = s.event_key;

-- name: record_consents
-- Answers what was news.
INSERT INTO store.consents (channel, address, action, source, provider, event_key, data, occurred_at)
SELECT %(channel)s, store.normalise_address(%(channel)s, c.address), c.action, 'recipient', c.provider, c.event_key,
       c.data::jsonb, c.occurred_at
FROM unnest(%(addresses)s::text[], %(actions)s::text[], %(providers)s::text[], %(keys)s::text[], %(datas)s::text[],
            %(occurred_ats)s::timestamptz[]) AS c(address, action, provider, event_key, data, occurred_at)
ORDER BY c.provider, c.event_key
ON CONFLICT (provider, event_key) WHERE event_key IS NOT NULL DO NOTHING
RETURNING provider, event_key;

-- name: last_said
-- The last word of each owner, whatever order they were heard in; of two at the same moment, the wish to be left alone.
SELECT DISTINCT ON (c.address) c.address, c.action, c.provider, c.event_key
FROM store.consents c
WHERE c.channel = %(channel)s
  AND c.address IN (SELECT store.normalise_address(%(channel)s, a) FROM unnest(%(addresses)s::text[]) AS a)
ORDER BY c.address, c.occurred_at DESC, c.action = 'opt_out' DESC, c.id DESC;

-- name: opt_out
INSERT INTO store.suppressions (tenant_id, channel, address, reason, detail, source)
SELECT t.id, %(channel)s, store.normalise_address(%(channel)s, a.address), 'opted_out', 'said STOP', 'recipient'
FROM store.tenants t
CROSS JOIN unnest(%(addresses)s::text[]) AS a(address)
ORDER BY 1, 3
ON CONFLICT (tenant_id, channel, address, scope, (reason = 'opted_out')) WHERE lifted_at IS NULL DO UPDATE
SET detail = excluded.detail, source = excluded.source;

-- name: opt_in
-- Only the owner's own STOP is lifted by the owner's START; a bounce or an operator's block is not.
UPDATE store.suppressions s
SET lifted_at = now(), lifted_by = 'recipient', lift_reason = 'said START'
FROM unnest(%(addresses)s::text[]) AS a(address)
WHERE s.channel = %(channel)s
  AND s.address = store.normalise_address(%(channel)s, a.address)
  AND s.reason = 'opted_out'
  AND s.lifted_at IS NULL;
