-- What `landed trace`, `status`, `render`, `replay`, `providers`, `lanes` and `doctor` show. They read as an operator does: schema reporting,
-- and the functions of schema landed.

-- name: find_notification
-- The notification that an id, or the id of one of its deliveries, names.
SELECT n.id FROM store.notifications n WHERE n.shard = store.shard_of(%(id)s) AND n.id = %(id)s
UNION ALL
SELECT d.notification_id FROM store.deliveries d WHERE d.shard = store.shard_of(%(id)s) AND d.id = %(id)s
LIMIT 1;

-- name: timeline
SELECT occurred_at, kind, source, delivery_id, channel, attempt_no, data, recorded_at
FROM landed.timeline(%(id)s);

-- name: explain
SELECT step, delivery_id, rule, input, verdict, explanation
FROM landed.explain(%(id)s);

-- name: attempts
-- Through the keys: the deliveries of a notification lie between two ids.
SELECT a.delivery_id, a.attempt_no, a.provider, a.state, a.outcome, a.status_code, a.detail, a.provider_message_id,
       a.content_hash, a.opened_at, a.took_seconds
FROM reporting.attempts a
WHERE a.delivery_id BETWEEN store.children_from(%(id)s) AND store.children_to(%(id)s)
  AND a.delivery_id IN (
      SELECT d.delivery_id FROM reporting.deliveries d
      WHERE d.delivery_id BETWEEN store.children_from(%(id)s) AND store.children_to(%(id)s)
        AND d.notification_id = %(id)s)
ORDER BY a.delivery_id, a.attempt_no;

-- name: rendered
SELECT attempt_no, attempt_state, tenant_name AS tenant, template_id, template_version, channel, address, sender,
       variables, content_hash
FROM landed.rendered(%(delivery_id)s);

-- name: waiting
SELECT tenant, lane, state, reason, waits_for, rows, overdue, first_due_at, last_due_at
FROM reporting.waiting
ORDER BY lane, state, reason, tenant;

-- name: ended
-- By when the notification was accepted, which is what ids are ordered by.
SELECT lane, state, reason, count(*) AS rows, max(ended_at) AS last_ended_at
FROM reporting.deliveries
WHERE delivery_id >= store.id_floor(now() - make_interval(hours => %(hours)s))
  AND ended_at IS NOT NULL
GROUP BY lane, state, reason
ORDER BY lane, state, reason;

-- name: workers
-- Those that live, and those that ought to: gone without a word within the last day.
SELECT worker_id, region, host, pid, alive, silent_for, started_at, lanes
FROM reporting.workers
WHERE alive OR (stopped_at IS NULL AND last_seen_at > now() - interval '1 day')
ORDER BY alive DESC, started_at;

-- name: providers
SELECT provider, status, reason, detail, ready, ready_at, since, share, per_second, factor, hits, limited_at, drained_by,
       drain_reason, calls, error_rate
FROM reporting.providers
ORDER BY provider;

-- name: unwell_providers
SELECT provider, status, reason, detail, ready_at, since, share, error_rate, drained_by, drain_reason
FROM reporting.providers
WHERE status <> 'ok' OR share < 1
ORDER BY provider;

-- name: lanes
SELECT lane, channel, class, providers, workers, oldest_due_at, late_by, waiting_for, detail
FROM reporting.lanes
ORDER BY lane;

-- name: waiting_lanes
-- Those in which something is due and nothing can go.
SELECT lane, waiting_for, late_by, detail
FROM reporting.lanes
WHERE waiting_for IS NOT NULL AND late_by IS NOT NULL
ORDER BY late_by DESC;

-- name: lanes_without_provider
SELECT lane, late_by, detail
FROM reporting.lanes
WHERE waiting_for = 'no_provider'
  AND providers @> jsonb_build_array(jsonb_build_object('provider', %(provider)s::text))
ORDER BY lane;

-- name: load_shedding
-- Only while it is on.
SELECT class, since, lane, late_by
FROM reporting.load_shedding
WHERE active;

-- name: provider_status
SELECT provider, status, reason, detail, ready_at, share
FROM reporting.providers
WHERE provider = %(provider)s;

-- name: drain_provider
SELECT landed.drain_provider(%(provider)s, %(reason)s);

-- name: restore_provider
SELECT landed.restore_provider(%(provider)s, %(reason)s);

-- name: stuck
SELECT what, state, tenant, notification_id, delivery_id, lane, reason, due_at, overdue_for, missing
FROM reporting.stuck
ORDER BY due_at
LIMIT %(limit)s;

-- name: unconfirmed
SELECT tenant, reason, provider, count(*) AS rows, max(ended_at) AS last_ended_at,
       (array_agg(delivery_id ORDER BY ended_at DESC))[1] AS newest_delivery
FROM reporting.unconfirmed
GROUP BY tenant, reason, provider
ORDER BY rows DESC;

-- name: dead_letters
SELECT tenant, reason, template_id, provider, count(*) AS rows, max(ended_at) AS last_ended_at,
       (array_agg(delivery_id ORDER BY ended_at DESC))[1] AS newest_delivery,
       (array_agg(last_detail ORDER BY ended_at DESC))[1] AS newest_detail
FROM reporting.dead_letters
GROUP BY tenant, reason, template_id, provider
ORDER BY rows DESC;

-- name: refusals
SELECT provider, reason, sum(refusals)::bigint AS refusals, max(last_at) AS last_at
FROM reporting.webhook_refusals
WHERE day >= (now() AT TIME ZONE 'UTC')::date - 1
GROUP BY provider, reason
ORDER BY provider, reason;

-- name: replay
SELECT delivery AS delivery_id, notification AS notification_id, owner AS tenant, recipient AS recipient_id, template,
       standing, verdict, explanation, replayed_as
FROM landed.replay(
    delivery_id => %(delivery_id)s,
    tenant => %(tenant)s,
    state => %(state)s,
    template_id => %(template_id)s,
    category => %(category)s,
    provider => %(provider)s,
    since => %(since)s,
    until => %(until)s,
    max_rows => %(max_rows)s,
    commit => %(commit)s,
    force => %(force)s,
    reason => %(reason)s,
    expires_at => %(expires_at)s);

-- name: send
SELECT landed.send(
    tenant => %(tenant)s,
    recipient_id => %(recipient_id)s,
    template_id => %(template_id)s,
    template_version => %(template_version)s,
    variables => %(variables)s,
    category => %(category)s,
    idempotency_key => %(idempotency_key)s,
    send_at => %(send_at)s,
    expires_at => %(expires_at)s,
    wake => true) AS id;

-- name: server
SELECT current_setting('server_version_num')::int / 10000 AS major, clock_timestamp() AS now;

-- name: partitions_ahead
-- The last day for which all of the partitioned tables have room.
SELECT min(last_day) AS last_day
FROM (
    SELECT p.relname, max(to_date(right(c.relname, 8), 'YYYYMMDD')) AS last_day
    FROM pg_class p
    JOIN pg_inherits i ON i.inhparent = p.oid
    JOIN pg_class c ON c.oid = i.inhrelid
    WHERE p.relnamespace = 'store'::regnamespace AND p.relkind = 'p'
    GROUP BY p.relname
) AS tables;
