-- The statements of flows.intake: accepted notifications become deliveries, a batch at a time, in one transaction.

-- name: claim_accepted
-- Everything the rules look at, read in one sweep. The row stays locked until its deliveries are written.
WITH due AS (
    SELECT n.*
    FROM store.notifications n
    WHERE n.class = %(class)s
      AND n.state = 'accepted'
      AND n.due_at <= now()
    ORDER BY n.due_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
SELECT d.shard, d.id, d.tenant_id, d.recipient_id, d.category, d.class AS klass, d.channels, d.template_id, d.template_version,
       d.expires_at,
       r.active AS recipient_active,
       r.email,
       r.phone,
       coalesce(c.sender, t.sender) AS sender,
       coalesce(c.reply_to, t.reply_to) AS reply_to,
       s.suppressed
FROM due d
LEFT JOIN store.recipients r ON r.tenant_id = d.tenant_id AND r.id = d.recipient_id
LEFT JOIN store.categories c ON c.tenant_id = d.tenant_id AND c.name = d.category
LEFT JOIN store.tenants t ON t.id = d.tenant_id
LEFT JOIN LATERAL (
    SELECT jsonb_object_agg(s.channel, s.reason) AS suppressed
    FROM store.suppressions s
    WHERE s.tenant_id = d.tenant_id
      AND s.lifted_at IS NULL
      AND s.scope IN ('all', d.category)
      AND (s.channel, s.address) IN (('email', store.normalise_address('email', r.email)),
                                     ('sms', store.normalise_address('sms', r.phone)))
) s ON true;

-- name: insert_deliveries
INSERT INTO store.deliveries
    (shard, id, notification_id, tenant_id, recipient_id, category, class, channel, lane, address, sender, reply_to,
     template_id, template_version, state, reason, due_at, ended_at, expires_at)
SELECT p.shard, store.new_child_id(p.notification_id), p.notification_id, p.tenant_id, p.recipient_id, p.category,
       p.class, p.channel, p.lane, p.address, p.sender, p.reply_to, p.template_id, p.template_version, p.state, p.reason,
       CASE WHEN p.state = 'queued' THEN now() END,
       CASE WHEN p.state <> 'queued' THEN now() END,
       p.expires_at
FROM unnest(%(shards)s::smallint[], %(notification_ids)s::uuid[], %(tenant_ids)s::int[], %(recipient_ids)s::text[],
            %(categories)s::text[], %(classes)s::text[], %(channels)s::text[], %(lanes)s::text[], %(addresses)s::text[],
            %(senders)s::text[], %(reply_tos)s::text[], %(template_ids)s::text[], %(template_versions)s::int[],
            %(states)s::text[], %(reasons)s::text[], %(expiries)s::timestamptz[])
     AS p(shard, notification_id, tenant_id, recipient_id, category, class, channel, lane, address, sender, reply_to,
          template_id, template_version, state, reason, expires_at);

-- name: mark_planned
UPDATE store.notifications n
SET state = 'planned', planned_at = now(), due_at = NULL, trace = p.trace::jsonb
FROM unnest(%(shards)s::smallint[], %(ids)s::uuid[], %(traces)s::text[]) AS p(shard, id, trace)
WHERE n.shard = p.shard
  AND n.id = p.id;
