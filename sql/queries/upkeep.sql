-- The statements of jobs.upkeep: room ahead, nothing kept too long, nothing dropped that is still needed.

-- name: ensure_partitions
SELECT store.ensure_partitions((now() AT TIME ZONE 'UTC')::date - %(days_back)s::int,
                               (now() AT TIME ZONE 'UTC')::date + %(days_ahead)s::int);

-- name: past_partitions
SELECT day, parent, part, needed, attached, pending
FROM store.past_partitions((now() AT TIME ZONE 'UTC')::date - %(retention_days)s::int,
                           make_interval(secs => %(dead_letter_retention_seconds)s));

-- name: one_at_a_time
-- For the session, because what follows cannot be in one transaction.
SELECT pg_try_advisory_lock(hashtextextended('landed.partitions.drop', 0));

-- name: next_one
SELECT pg_advisory_unlock(hashtextextended('landed.partitions.drop', 0));

-- name: purge_keys
-- A key is kept past its time while what it guards may still be sent or replayed (I12, R-083).
WITH expired AS (
    SELECT k.tenant_id, k.key, k.notification_id
    FROM store.idempotency_keys k
    WHERE k.expires_at <= now()
    ORDER BY k.expires_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
DELETE FROM store.idempotency_keys k
USING expired e
WHERE k.tenant_id = e.tenant_id
  AND k.key = e.key
  AND NOT EXISTS (
      SELECT FROM store.notifications n
      WHERE n.shard = store.shard_of(e.notification_id) AND n.id = e.notification_id AND n.state = 'accepted')
  AND NOT EXISTS (
      SELECT FROM store.deliveries d
      WHERE d.shard = store.shard_of(e.notification_id)
        AND d.id BETWEEN store.children_from(e.notification_id) AND store.children_to(e.notification_id)
        AND d.notification_id = e.notification_id
        AND (d.ended_at IS NULL
             OR (d.state = 'dead' AND d.ended_at > now() - make_interval(secs => %(dead_letter_retention_seconds)s))));

-- name: purge_tokens
DELETE FROM store.webhook_tokens WHERE seen_at < now() - make_interval(secs => %(keep_seconds)s);

-- name: purge_workers
DELETE FROM store.workers WHERE last_seen_at < now() - interval '7 days';

-- name: purge_buckets
DELETE FROM store.rate_buckets WHERE refilled_at < now() - interval '1 day';

-- name: purge_inbox
-- What is archived counts as neither unread nor unseen, so no counter changes.
DELETE FROM store.inbox_items i
USING (
    SELECT a.tenant_id, a.recipient_id, a.id
    FROM store.inbox_items a
    WHERE a.archived_at < now() - make_interval(secs => %(keep_seconds)s)
    ORDER BY a.archived_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) AS old
WHERE i.tenant_id = old.tenant_id
  AND i.recipient_id = old.recipient_id
  AND i.id = old.id;

-- name: purge_devices
-- Nobody is sent to a retired device, and what once was is gone with its day: a token is no longer kept than that.
DELETE FROM store.devices d
USING (
    SELECT r.id
    FROM store.devices r
    WHERE r.retired_at < now() - make_interval(secs => %(keep_seconds)s)
    ORDER BY r.retired_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) AS old
WHERE d.id = old.id;

-- name: beat
INSERT INTO store.workers (id, region, host, pid, lanes)
VALUES (%(id)s, %(region)s, %(host)s, %(pid)s, %(lanes)s)
ON CONFLICT (id) DO UPDATE
SET last_seen_at = now(), stopped_at = CASE WHEN %(stopping)s THEN now() END;
