-- The statements of flows.reconcile: whatever is past its time is asked about, never waited for (R-106, R-107).

-- name: expire_leases
-- A worker that vanished between intent and record leaves the outcome unknown: to be resolved, never resent (R-077).
WITH lapsed AS (
    SELECT d.shard, d.id, d.attempt_no, d.tenant_id, d.notification_id
    FROM store.deliveries d
    WHERE d.state = 'sending'
      AND d.due_at <= now()
    ORDER BY d.due_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), unknown AS (
    UPDATE store.attempts a
    SET state = 'ambiguous', outcome = 'unknown', detail = 'the worker that opened it never recorded an outcome'
    FROM lapsed l
    WHERE a.shard = l.shard AND a.delivery_id = l.id AND a.no = l.attempt_no AND a.state = 'open'
), moved AS (
    UPDATE store.deliveries d
    SET state = 'ambiguous', reason = 'lease_expired', lease_owner = NULL, lookups = 0,
        due_at = now() + make_interval(secs => %(first_lookup_seconds)s), updated_at = now()
    FROM lapsed l
    WHERE d.shard = l.shard AND d.id = l.id
)
INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, attempt_no, kind, source)
SELECT l.shard, store.new_id(l.shard), l.tenant_id, l.notification_id, l.id, l.attempt_no, 'lease_expired', 'landed'
FROM lapsed l;

-- name: claim_unproven
-- Takes what is due to be asked about and moves it a lease ahead, so that no transaction is open while we ask (I14). Asked
-- about is the attempt that was accepted, if one was, else the last.
WITH due AS (
    SELECT d.shard, d.id
    FROM store.deliveries d
    WHERE d.state IN ('sent', 'ambiguous')
      AND d.due_at <= now()
    ORDER BY d.due_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE store.deliveries d
    SET due_at = now() + make_interval(secs => %(lease_seconds)s)
    FROM due
    WHERE d.shard = due.shard
      AND d.id = due.id
    RETURNING d.*
), told AS (
    INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, attempt_no, kind, source)
    SELECT t.shard, store.new_id(t.shard), t.tenant_id, t.notification_id, t.id, t.attempt_no, 'confirmation_overdue',
           'landed'
    FROM taken t
    WHERE t.state = 'sent'
      AND NOT EXISTS (
          SELECT FROM store.events e
          WHERE e.shard = t.shard AND e.notification_id = t.notification_id AND e.delivery_id = t.id
            AND e.kind = 'confirmation_overdue')
)
SELECT t.shard, t.id, t.notification_id, t.tenant_id, t.category, t.class AS klass, t.channel, t.address, t.state, a.no AS attempt_no,
       t.lookups, t.failures, t.expires_at, a.provider, a.opened_at, a.provider_message_id,
       a.content_hash, now() AS claimed_at,
       coalesce((SELECT c.ambiguity_policy FROM store.categories c
                 WHERE c.tenant_id = t.tenant_id AND c.name = t.category), 'park') AS ambiguity_policy
FROM taken t
CROSS JOIN LATERAL (
    SELECT a.no, a.provider, a.opened_at, a.provider_message_id, a.content_hash
    FROM store.attempts a
    WHERE a.shard = t.shard AND a.delivery_id = t.id
    ORDER BY a.state = 'accepted' DESC, a.no DESC
    LIMIT 1
) a;

-- name: lock
-- Deliveries before their attempts, in id order, as everyone takes them: an answer that comes late is recorded meanwhile.
SELECT d.id
FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[]) AS u(shard, id)
JOIN store.deliveries d ON d.shard = u.shard AND d.id = u.id
ORDER BY d.id
FOR UPDATE OF d;

-- name: ask_again
UPDATE store.deliveries d
SET due_at = u.due_at, lookups = d.lookups + u.counts::int, updated_at = now()
FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[], %(states)s::text[], %(due_ats)s::timestamptz[], %(counts)s::boolean[])
     AS u(shard, id, state, due_at, counts)
WHERE d.shard = u.shard
  AND d.id = u.id
  AND d.state = u.state;

-- name: close_attempts
-- Shown never to have been accepted, or nobody can tell and a copy is allowed: a new attempt may open. Costs budget, so that
-- a provider that loses everything cannot keep us busy for ever.
WITH resolved AS (
    SELECT *
    FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[], %(nos)s::smallint[], %(tenant_ids)s::int[],
                %(notification_ids)s::uuid[], %(states)s::text[], %(reasons)s::text[], %(due_ats)s::timestamptz[],
                %(details)s::text[], %(unanswereds)s::boolean[])
         AS r(shard, id, no, tenant_id, notification_id, state, reason, due_at, detail, unanswered)
), settled AS (
    UPDATE store.attempts a
    SET state = CASE WHEN r.unanswered THEN 'unanswered' ELSE 'not_sent' END, detail = r.detail, closed_at = now()
    FROM resolved r
    WHERE a.shard = r.shard AND a.delivery_id = r.id AND a.no = r.no AND a.state = 'ambiguous'
    RETURNING r.*
), moved AS (
    UPDATE store.deliveries d
    SET state = r.state,
        reason = r.reason,
        due_at = CASE WHEN r.due_at IS NOT NULL THEN least(r.due_at, greatest(d.expires_at, now())) END,
        ended_at = CASE WHEN r.due_at IS NULL THEN now() END,
        failures = d.failures + 1,
        tried = ARRAY[d.provider],  -- the others of its route are asked first
        updated_at = now()
    FROM settled r
    WHERE d.shard = r.shard AND d.id = r.id AND d.state = 'ambiguous' AND d.attempt_no = r.no
    RETURNING r.*
)
INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, attempt_no, kind, source, data)
SELECT r.shard, store.new_id(r.shard), r.tenant_id, r.notification_id, r.id, r.no,
       CASE WHEN r.unanswered THEN 'resolved_repeatable' ELSE 'resolved_not_sent' END, 'lookup',
       jsonb_build_object('detail', r.detail, 'state', r.state)
FROM moved r
UNION ALL
SELECT r.shard, store.new_id(r.shard), r.tenant_id, r.notification_id, r.id, r.no, r.state, 'landed',
       jsonb_build_object('reason', r.reason)
FROM moved r
WHERE r.state IN ('dead', 'expired');

-- name: give_up
-- No evidence can settle it: a named end, counted and alerted on, which late evidence may still correct.
WITH given_up AS (
    SELECT *
    FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[], %(nos)s::smallint[], %(tenant_ids)s::int[],
                %(notification_ids)s::uuid[], %(states)s::text[], %(reasons)s::text[], %(details)s::text[])
         AS g(shard, id, no, tenant_id, notification_id, state, reason, detail)
), moved AS (
    UPDATE store.deliveries d
    SET state = 'unconfirmed', reason = g.reason, due_at = NULL, ended_at = now(), updated_at = now()
    FROM given_up g
    WHERE d.shard = g.shard AND d.id = g.id AND d.state = g.state
    RETURNING g.*
)
INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, attempt_no, kind, source, data)
SELECT g.shard, store.new_id(g.shard), g.tenant_id, g.notification_id, g.id, g.no, 'unconfirmed', 'landed',
       jsonb_build_object('reason', g.reason, 'detail', g.detail)
FROM moved g;
