-- name: upsert
-- In the order of their ids, so that two overlapping requests wait for each other instead of deadlocking.
-- A row that was just inserted has no xmax; one that ON CONFLICT updated carries the lock it took.
INSERT INTO store.recipients AS r (tenant_id, id, email, phone, locale, time_zone, active, attributes, addresses, channels)
SELECT %(tenant_id)s, i.id, i.email, i.phone, i.locale, i.time_zone, i.active, i.attributes, i.addresses, i.channels
FROM jsonb_to_recordset(%(items)s::jsonb) AS i(
    id text, email text, phone text, locale text, time_zone text, active boolean, attributes jsonb,
    addresses jsonb, channels text[])
ORDER BY i.id
ON CONFLICT (tenant_id, id) DO UPDATE
SET email = excluded.email,
    phone = excluded.phone,
    locale = excluded.locale,
    time_zone = excluded.time_zone,
    active = excluded.active,
    attributes = excluded.attributes,
    addresses = excluded.addresses,
    channels = excluded.channels,
    updated_at = now()
RETURNING r.id, r.xmax = 0 AS created;

-- name: get
SELECT id, email, phone, locale, time_zone, active, attributes, addresses, channels, created_at, updated_at
FROM store.recipients
WHERE tenant_id = %(tenant_id)s
  AND id = %(id)s;

-- name: soft_bounces
-- Of the addresses the recipient has now.
SELECT s.channel, s.address, s.bounces, s.first_at, s.last_at
FROM store.recipients r
CROSS JOIN LATERAL (VALUES ('email', r.email), ('sms', r.phone)) AS a(channel, address)
JOIN store.soft_bounces s
    ON s.tenant_id = r.tenant_id AND s.channel = a.channel
   AND s.address = store.normalise_address(a.channel, a.address)
WHERE r.tenant_id = %(tenant_id)s
  AND r.id = %(id)s
ORDER BY s.channel;

-- name: suppressions
-- Active ones, of the addresses the recipient has now.
SELECT s.id, s.channel, s.address, s.scope, s.reason, s.detail, s.source, s.delivery_id, s.created_at, s.lifted_at,
       s.lifted_by, s.lift_reason
FROM store.recipients r
CROSS JOIN LATERAL (VALUES ('email', r.email), ('sms', r.phone)) AS a(channel, address)
JOIN store.suppressions s
    ON s.tenant_id = r.tenant_id AND s.channel = a.channel
   AND s.address = store.normalise_address(a.channel, a.address)
   AND s.lifted_at IS NULL
WHERE r.tenant_id = %(tenant_id)s
  AND r.id = %(id)s
ORDER BY s.id;
