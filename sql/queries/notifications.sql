-- name: accept
SELECT ordinal, verdict, notification_id::text, response_status, response, original_request
FROM landed.accept(%(items)s::jsonb, %(key_ttl)s)

-- name: stored_answer
-- What a key answers, for a request that would be refused now: the rules may have changed since it was accepted.
SELECT 0 AS ordinal,
       CASE WHEN k.fingerprint = store.fingerprint(%(request)s::jsonb) THEN 'replayed' ELSE 'key_reused' END AS verdict,
       k.notification_id::text,
       k.response_status,
       k.response,
       n.request AS original_request
FROM store.idempotency_keys k
LEFT JOIN store.notifications n
    ON n.shard = store.shard_of(k.notification_id)
   AND n.id = k.notification_id
WHERE k.tenant_id = %(tenant_id)s
  AND k.key = %(key)s

-- name: barrier
-- Reading waits for no standby. This writes one record, so that the commit does, and for all that came before it (I13).
SELECT pg_logical_emit_message(true, 'idem', '')

-- name: find
SELECT n.id, n.recipient_id, n.category, n.class AS class_, n.channels, n.template_id, n.template_version, n.source,
       n.idempotency_key, n.state, n.reason, n.due_at, n.expires_at, n.accepted_at, n.planned_at, n.trace
FROM store.notifications n
WHERE n.shard = store.shard_of(%(id)s)
  AND n.id = %(id)s
  AND n.tenant_id = %(tenant_id)s

-- name: deliveries
SELECT d.id, d.channel, d.lane, d.address, d.state, d.reason, d.due_at, d.failures, d.provider,
       d.provider_message_id, d.replay_of, d.expires_at, d.created_at, d.sent_at, d.delivered_at, d.bounced_at,
       d.opened_at, d.clicked_at, d.complained_at, d.unsubscribed_at, d.ended_at
FROM store.deliveries d
WHERE d.shard = store.shard_of(%(id)s)
  AND d.id BETWEEN store.children_from(%(id)s) AND store.children_to(%(id)s)
  AND d.notification_id = %(id)s
ORDER BY d.id

-- name: attempts
SELECT a.delivery_id, a.no, a.provider, a.state, a.outcome, a.status_code, a.detail, a.provider_message_id,
       a.region, a.opened_at, a.closed_at, a.facts
FROM store.attempts a
WHERE a.shard = store.shard_of(%(id)s)
  AND a.delivery_id = ANY (%(delivery_ids)s)
ORDER BY a.delivery_id, a.no

-- name: events
SELECT e.delivery_id, e.attempt_no, e.kind, e.source, e.occurred_at, e.recorded_at, e.data
FROM store.events e
WHERE e.shard = store.shard_of(%(id)s)
  AND e.notification_id = %(id)s
ORDER BY e.occurred_at, e.id

-- name: act_as
SELECT set_config('landed.actor', %(actor)s, true)

-- name: cancel
SELECT delivery_id, channel, state, cancelled, explanation
FROM landed.cancel(%(id)s, %(reason)s, %(tenant)s)
