-- The statements of flows.limits, in the transaction of intake: which deliveries must wait, and until when. Each locks its rows in
-- the order of their keys, and everyone takes the slots of templates before those of recipients.

-- name: take_recipient_slots
-- k: the place of a recipient's channel in the document, i: of a delivery among those that it gets. not_before: a moment for each of
-- them, in order. The slots that the row would have if it were new are such moments too: nothing finds room sooner among others.
WITH wanted AS MATERIALIZED (
    SELECT w.k, w.shard, w.tenant_id, w.recipient_id, w.channel, w.category, w.per_hour, w.not_before
    FROM json_to_recordset(%(wanted)s::json)
        AS w(k int, shard smallint, tenant_id int, recipient_id text, channel text, category text, per_hour int,
             not_before timestamptz[])
), taken AS (
    INSERT INTO store.recipient_windows AS r (shard, tenant_id, recipient_id, channel, category, per_hour, slots)
    SELECT w.shard, w.tenant_id, w.recipient_id, w.channel, w.category, w.per_hour,
           store.take_slots('{-infinity}', w.not_before, w.per_hour)
    FROM wanted w
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (shard, tenant_id, recipient_id, channel, category) DO UPDATE
    SET per_hour = excluded.per_hour,
        slots = store.take_slots(r.slots, excluded.slots[2:], excluded.per_hour)
    RETURNING r.shard, r.tenant_id, r.recipient_id, r.channel, r.category, r.slots
)
SELECT w.k, (s.i - 1)::int AS i, s.until
FROM taken t
JOIN wanted w USING (shard, tenant_id, recipient_id, channel, category)
CROSS JOIN LATERAL unnest(t.slots[cardinality(t.slots) - cardinality(w.not_before) + 1 :]) WITH ORDINALITY AS s(until, i)
WHERE s.until > now();

-- name: take_template_slots
-- The slots of one template come evenly, so that a campaign takes its time.
WITH wanted AS MATERIALIZED (
    SELECT w.k, w.tenant_id, w.template_id, w.klass AS class, interval '1 minute' / w.per_minute AS step, w.n
    FROM json_to_recordset(%(wanted)s::json)
        AS w(k int, tenant_id int, template_id text, klass text, per_minute int, n int)
), taken AS (
    INSERT INTO store.template_rates AS t (tenant_id, template_id, class, next_at)
    SELECT w.tenant_id, w.template_id, w.class, now() + w.n * w.step
    FROM wanted w
    ORDER BY 1, 2, 3
    ON CONFLICT (tenant_id, template_id, class) DO UPDATE
    SET next_at = greatest(t.next_at, now()) + (excluded.next_at - now())
    RETURNING t.tenant_id, t.template_id, t.class, t.next_at
)
SELECT w.k, s.i, t.next_at - (w.n - s.i) * w.step AS until
FROM taken t
JOIN wanted w USING (tenant_id, template_id, class)
CROSS JOIN LATERAL generate_series(0, w.n - 1) AS s(i)
WHERE t.next_at - (w.n - s.i) * w.step > now();

-- name: count_hits
INSERT INTO store.limit_hits AS l (tenant_id, level, name, hour, hits)
SELECT h.tenant_id, h.level, h.name, date_trunc('hour', now()), h.hits
FROM json_to_recordset(%(hits)s::json) AS h(tenant_id int, level text, name text, hits int)
ORDER BY 1, 2, 3
ON CONFLICT (tenant_id, level, name, hour) DO UPDATE
SET hits = l.hits + excluded.hits, last_at = now();

-- name: purge_windows
-- Of one shard: a window whose slots are all an hour ago or longer says nothing any more. Who plans for the same person just now
-- keeps it.
DELETE FROM store.recipient_windows r
USING (
    SELECT o.shard, o.tenant_id, o.recipient_id, o.channel, o.category
    FROM store.recipient_windows o
    WHERE o.shard = %(shard)s
      AND now() - interval '1 hour' > ALL (o.slots)
    FOR UPDATE SKIP LOCKED
) AS old
WHERE r.shard = old.shard
  AND r.tenant_id = old.tenant_id
  AND r.recipient_id = old.recipient_id
  AND r.channel = old.channel
  AND r.category = old.category;

-- name: purge_templates
DELETE FROM store.template_rates WHERE next_at < now();

-- name: purge_hits
DELETE FROM store.limit_hits WHERE hour < now() - make_interval(secs => %(keep_seconds)s);
