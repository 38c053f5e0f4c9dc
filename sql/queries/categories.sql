-- name: upsert
INSERT INTO store.categories AS c
    (tenant_id, name, class, channels, sender, reply_to, ambiguity_policy, validity_seconds, recipient_per_hour, track_opens,
     track_clicks, test_mode, description)
VALUES (%(tenant_id)s, %(name)s, %(class_)s, %(channels)s, %(sender)s, %(reply_to)s, %(ambiguity_policy)s,
        %(validity_seconds)s, %(recipient_per_hour)s, %(track_opens)s, %(track_clicks)s, %(test_mode)s, %(description)s)
ON CONFLICT (tenant_id, name) DO UPDATE
SET class = excluded.class,
    channels = excluded.channels,
    sender = excluded.sender,
    reply_to = excluded.reply_to,
    ambiguity_policy = excluded.ambiguity_policy,
    validity_seconds = excluded.validity_seconds,
    recipient_per_hour = excluded.recipient_per_hour,
    track_opens = excluded.track_opens,
    track_clicks = excluded.track_clicks,
    test_mode = excluded.test_mode,
    description = excluded.description,
    updated_at = now()
RETURNING c.name, c.class AS class_, c.channels, c.sender, c.reply_to, c.ambiguity_policy, c.validity_seconds,
          c.recipient_per_hour, c.track_opens, c.track_clicks, c.test_mode, c.description, c.created_at, c.updated_at;

-- name: get
SELECT name, class AS class_, channels, sender, reply_to, ambiguity_policy, validity_seconds, recipient_per_hour, track_opens,
       track_clicks, test_mode, description, created_at, updated_at
FROM store.categories
WHERE tenant_id = %(tenant_id)s
  AND name = %(name)s;

-- name: list_all
SELECT name, class AS class_, channels, sender, reply_to, ambiguity_policy, validity_seconds, recipient_per_hour, track_opens,
       track_clicks, test_mode, description, created_at, updated_at
FROM store.categories
WHERE tenant_id = %(tenant_id)s
  AND (%(after)s::text IS NULL OR name > %(after)s)
ORDER BY name
LIMIT %(limit)s;
