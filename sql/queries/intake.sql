-- The statements of flows.intake: accepted notifications become deliveries, a batch at a time, in one transaction.

-- name: claim_accepted
-- Everything the rules look at, read in one sweep, in the order of acceptance. The row stays locked until its deliveries are
-- written.
WITH due AS (
    SELECT n.shard, n.id, n.tenant_id, n.recipient_id, n.category, n.class, n.channels, n.template_id, n.expires_at,
           n.request -> 'channels' IS NOT NULL AS channels_named
    FROM store.notifications n
    WHERE n.class = %(class)s
      AND n.state = 'accepted'
      AND n.due_at <= now()
    ORDER BY n.due_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
SELECT d.shard, d.id, d.recipient_id, d.category, d.class AS klass, d.channels, d.expires_at, d.channels_named,
       r.active AS recipient_active, r.email, store.normalise_address('sms', r.phone) AS phone, r.addresses, r.channels AS preferred, s.suppressed, p.devices,
       t.name AS tenant, d.tenant_id, d.template_id, c.recipient_per_hour, now() AS claimed_at
FROM due d
JOIN store.tenants t ON t.id = d.tenant_id
LEFT JOIN store.categories c ON c.tenant_id = d.tenant_id AND c.name = d.category
LEFT JOIN store.recipients r ON r.tenant_id = d.tenant_id AND r.id = d.recipient_id
LEFT JOIN LATERAL (
    SELECT jsonb_object_agg(s.channel, s.reason) AS suppressed
    FROM store.suppressions s
    WHERE s.tenant_id = d.tenant_id
      AND s.lifted_at IS NULL
      AND s.scope IN ('all', d.category)
      AND (s.channel, s.address) IN (('email', store.normalise_address('email', r.email)),
                                     ('sms', store.normalise_address('sms', r.phone)),
                                     ('webhook', r.addresses ->> 'webhook'),
                                     ('chat', r.addresses ->> 'chat'))
) s ON true
LEFT JOIN LATERAL (
    SELECT jsonb_object_agg(p.platform, p.ids) AS devices
    FROM (SELECT v.platform, jsonb_agg(v.id ORDER BY v.id) AS ids
          FROM store.devices v
          WHERE v.tenant_id = d.tenant_id AND v.recipient_id = d.recipient_id AND v.retired_at IS NULL
          GROUP BY v.platform) p
) p ON 'push' = ANY (d.channels)
ORDER BY d.id;

-- name: write_plans
-- One document for the whole batch: a client-side array per column costs more than the rest of intake together.
WITH planned AS MATERIALIZED (
    SELECT p.shard, p.id, p.trace, p.deliveries
    FROM json_to_recordset(%(plans)s::json) AS p(shard smallint, id uuid, trace jsonb, deliveries json)
), marked AS (
    UPDATE store.notifications n
    SET state = 'planned', planned_at = now(), due_at = NULL, trace = p.trace
    FROM planned p
    WHERE n.shard = p.shard
      AND n.id = p.id
      AND n.id BETWEEN %(first)s AND %(last)s
    RETURNING n.shard, n.id, n.tenant_id, n.recipient_id, n.category, n.class, n.template_id, n.template_version,
              n.expires_at, n.request ? 'expires_at' AS expiry_named, p.deliveries
), born AS (
    INSERT INTO store.deliveries
        (shard, id, notification_id, tenant_id, recipient_id, category, class, channel, lane, address, country, sender,
         reply_to, template_id, template_version, state, reason, due_at, ended_at, expires_at)
    SELECT m.shard, store.new_child_id(m.id), m.id, m.tenant_id, m.recipient_id, m.category, m.class, d.channel, d.lane,
           d.address, d.country,
           coalesce(c.sender, CASE m.class WHEN 'promotional' THEN t.promotional_sender END, t.sender),
           coalesce(c.reply_to, t.reply_to), m.template_id, m.template_version,
           d.state, d.reason,
           -- What a limit would keep until it is worth nothing ends when it does, and not later.
           CASE WHEN d.state = 'queued' THEN least(coalesce(d.due_at, now()), e.expires_at) END,
           CASE WHEN d.state <> 'queued' THEN now() END,
           e.expires_at
    FROM marked m
    CROSS JOIN LATERAL json_to_recordset(m.deliveries)
        AS d(channel text, lane text, address text, state text, reason text, country text, due_at timestamptz)
    -- Endpoints are tried for days, as their owners deploy fixes, unless the request itself says how long.
    CROSS JOIN LATERAL (
        SELECT CASE WHEN d.channel = 'webhook' AND NOT m.expiry_named
                    THEN greatest(m.expires_at, now() + make_interval(secs => %(endpoint_seconds)s))
                    ELSE m.expires_at END AS expires_at) AS e
    JOIN store.tenants t ON t.id = m.tenant_id
    LEFT JOIN store.categories c ON c.tenant_id = m.tenant_id AND c.name = m.category
    RETURNING shard, id, tenant_id, notification_id, state, reason
)
-- What the rules refuse ends at its birth: that is told like any other end (R-131).
INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, kind, source, data)
SELECT b.shard, store.new_id(b.shard), b.tenant_id, b.notification_id, b.id, b.state, 'landed',
       jsonb_build_object('reason', b.reason)
FROM born b
WHERE b.state <> 'queued';
