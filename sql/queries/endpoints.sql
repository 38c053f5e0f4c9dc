-- Endpoints: what tenants register, where deliveries to them go, and the status events that fan out to them.

-- name: insert
INSERT INTO store.endpoints (tenant_id, name, url, format, events, secret, owner_email)
VALUES (%(tenant_id)s, %(name)s, %(url)s, %(format)s, %(events)s::text[], %(secret)s, %(owner_email)s)
RETURNING id, name, url, format, events, secret, previous_secret, previous_secret_until, owner_email, status,
          disabled_reason, disabled_at, failing_since, last_success_at, last_failure, created_at, updated_at;

-- name: count
SELECT count(*) FROM store.endpoints WHERE tenant_id = %(tenant_id)s;

-- name: get
SELECT id, name, url, format, events, secret, previous_secret, previous_secret_until, owner_email, status,
       disabled_reason, disabled_at, failing_since, last_success_at, last_failure, created_at, updated_at
FROM store.endpoints
WHERE tenant_id = %(tenant_id)s
  AND id = %(id)s;

-- name: lock
SELECT id, name, url, format, events, secret, previous_secret, previous_secret_until, owner_email, status,
       disabled_reason, disabled_at, failing_since, last_success_at, last_failure, created_at, updated_at
FROM store.endpoints
WHERE tenant_id = %(tenant_id)s
  AND id = %(id)s
FOR UPDATE;

-- name: list_newest
SELECT id, name, url, format, events, secret, previous_secret, previous_secret_until, owner_email, status,
       disabled_reason, disabled_at, failing_since, last_success_at, last_failure, created_at, updated_at
FROM store.endpoints
WHERE tenant_id = %(tenant_id)s
  AND (%(after)s::uuid IS NULL OR id < %(after)s)
  AND (%(status)s::text IS NULL OR status = %(status)s)
  AND (%(format)s::text IS NULL OR format = %(format)s)
ORDER BY id DESC
LIMIT %(limit)s;

-- name: update
UPDATE store.endpoints
SET name = %(name)s,
    url = %(url)s,
    events = %(events)s::text[],
    owner_email = %(owner_email)s,
    -- Another place begins afresh: what failed at the one before says nothing of it.
    failing_since = CASE WHEN url = %(url)s THEN failing_since END,
    paused_until = CASE WHEN url = %(url)s THEN paused_until END,
    updated_at = now()
WHERE tenant_id = %(tenant_id)s
  AND id = %(id)s
RETURNING id, name, url, format, events, secret, previous_secret, previous_secret_until, owner_email, status,
          disabled_reason, disabled_at, failing_since, last_success_at, last_failure, created_at, updated_at;

-- name: rotate
-- The secret before last stops signing: two at a time are enough to change one without a gap.
UPDATE store.endpoints
SET secret = %(secret)s,
    previous_secret = CASE WHEN %(overlap_seconds)s::float8 > 0 THEN secret END,
    previous_secret_until = CASE WHEN %(overlap_seconds)s::float8 > 0
                                 THEN now() + make_interval(secs => %(overlap_seconds)s::float8) END,
    updated_at = now()
WHERE tenant_id = %(tenant_id)s
  AND id = %(id)s
RETURNING id, name, url, format, events, secret, previous_secret, previous_secret_until, owner_email, status,
          disabled_reason, disabled_at, failing_since, last_success_at, last_failure, created_at, updated_at;

-- name: enable
-- It starts afresh: failures of before must not disable it again at the next one.
UPDATE store.endpoints
SET status = 'enabled', disabled_reason = NULL, disabled_at = NULL, failing_since = NULL, updated_at = now()
WHERE tenant_id = %(tenant_id)s
  AND id = %(id)s
RETURNING id, name, url, format, events, secret, previous_secret, previous_secret_until, owner_email, status,
          disabled_reason, disabled_at, failing_since, last_success_at, last_failure, created_at, updated_at;

-- name: disable
UPDATE store.endpoints
SET status = 'disabled', disabled_reason = %(reason)s, disabled_at = now(), updated_at = now()
WHERE tenant_id = %(tenant_id)s
  AND id = %(id)s
RETURNING id, name, url, format, events, secret, previous_secret, previous_secret_until, owner_email, status,
          disabled_reason, disabled_at, failing_since, last_success_at, last_failure, created_at, updated_at;

-- name: delete
DELETE FROM store.endpoints
WHERE tenant_id = %(tenant_id)s
  AND id = %(id)s;

-- name: audit
INSERT INTO store.audit_log (actor, action, tenant_id, target, reason, data)
VALUES (%(actor)s, %(action)s, %(tenant_id)s, 'endpoint ' || %(id)s::uuid, %(reason)s, %(data)s::jsonb);

-- name: tell
-- A status event by hand; the fan-out takes it like any other.
INSERT INTO store.status_events (tenant_id, type, data)
VALUES (%(tenant_id)s, %(type)s, %(data)s::jsonb)
RETURNING id;

-- name: deliveries
-- The newest events first: an id begins with the time its notification was accepted, also a replay's. A bound on it leaves
-- older days alone.
SELECT d.id AS delivery_id, coalesce(d.replay_of, d.id) AS event_id, d.notification_id, d.category AS event_type, d.state,
       d.reason, d.due_at, d.created_at, d.delivered_at, d.ended_at, coalesce(a.attempts, '[]') AS attempts
FROM store.deliveries d
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('no', a.no, 'state', a.state, 'outcome', a.outcome, 'status_code', a.status_code,
                                        'detail', a.detail, 'opened_at', a.opened_at, 'closed_at', a.closed_at)
                     ORDER BY a.no) AS attempts
    FROM store.attempts a
    WHERE a.shard = d.shard AND a.delivery_id = d.id
) a ON true
WHERE d.tenant_id = %(tenant_id)s
  AND d.address = (%(id)s::uuid)::text
  AND d.channel IN ('webhook', 'chat')
  AND d.id >= store.id_floor(%(since)s::timestamptz)
  AND (%(after)s::uuid IS NULL OR d.id < %(after)s)
  AND (%(state)s::text IS NULL OR d.state = %(state)s)
ORDER BY d.id DESC
LIMIT %(limit)s;

-- name: act_for
-- Whose key asked, for the audit log; until the transaction ends.
SELECT set_config('landed.actor', %(actor)s, true);

-- name: replay
SELECT delivery AS delivery_id, notification AS notification_id, event AS event_type, standing, verdict, explanation,
       replayed_as
FROM landed.replay_endpoint(
    endpoint_id => %(endpoint_id)s,
    delivery_id => %(delivery_id)s,
    since => %(since)s,
    until => %(until)s,
    arrived => %(arrived)s,
    after => %(after)s,
    tenant => %(tenant)s,
    max_rows => %(max_rows)s,
    commit => %(commit)s,
    reason => %(reason)s,
    valid_for => make_interval(secs => %(valid_for_seconds)s::float8));

-- name: targets
-- What is behind the ids at this moment. An id of another tenant leads nowhere.
SELECT e.id, e.url, e.format, e.status, e.secret,
       CASE WHEN e.previous_secret_until > now() THEN e.previous_secret END AS previous_secret
FROM (SELECT DISTINCT tenant_id, id FROM unnest(%(tenant_ids)s::int[], %(ids)s::uuid[]) AS w(tenant_id, id)) AS wanted
JOIN store.endpoints e ON e.id = wanted.id AND e.tenant_id = wanted.tenant_id;

-- name: note_outcomes
-- One row an endpoint, however many calls it had, in the order of their ids so that two lanes never wait for each other in
-- a circle. A success of an endpoint that is well is written once in a while: its row would be the hottest of all.
WITH called AS MATERIALIZED (
    SELECT r.tenant_id, r.id, r.url, bool_or(r.ok) AS ok, bool_or(r.gone) AS gone, max(r.wait) AS wait,
           (array_agg(r.detail ORDER BY r.ordinal DESC) FILTER (WHERE NOT r.ok))[1] AS detail
    FROM unnest(%(tenant_ids)s::int[], %(ids)s::uuid[], %(urls)s::text[], %(oks)s::boolean[], %(gones)s::boolean[],
                %(details)s::text[], %(waits)s::float8[])
         WITH ORDINALITY AS r(tenant_id, id, url, ok, gone, detail, wait, ordinal)
    GROUP BY r.tenant_id, r.id, r.url
), noted AS MATERIALIZED (
    SELECT e.id, c.ok, c.wait, c.detail, e.status = 'enabled' AS enabled,
           CASE
               WHEN c.gone THEN 'gone'
               WHEN NOT c.ok AND e.failing_since < now() - make_interval(secs => %(disable_after_seconds)s::float8)
               THEN 'failing'
           END AS fault
    FROM called c
    JOIN store.endpoints e ON e.id = c.id AND e.tenant_id = c.tenant_id AND e.url = c.url
    WHERE c.gone
       OR NOT c.ok
       OR c.wait > 0
       OR e.failing_since IS NOT NULL
       OR e.last_success_at IS NULL
       OR e.last_success_at < now() - interval '10 seconds'
    ORDER BY e.id
    FOR NO KEY UPDATE OF e
), updated AS (
    UPDATE store.endpoints e
    SET last_success_at = CASE WHEN n.ok THEN now() ELSE e.last_success_at END,
        last_failure = coalesce(n.detail, e.last_failure),
        -- One that takes some and asks to wait with the rest is well, but is left alone as long as it asks.
        failing_since = CASE
            WHEN NOT n.ok THEN coalesce(e.failing_since, now())
            WHEN n.wait > 0 THEN now()
        END,
        -- A quarter of the time it has been failing, within bounds: 5 seconds after a hiccup, 5 minutes after an hour.
        paused_until = greatest(
            CASE WHEN NOT n.ok
                 THEN now() + least(interval '5 minutes', greatest(interval '5 seconds', (now() - e.failing_since) / 4)) END,
            now() + make_interval(secs => n.wait)),
        status = CASE WHEN n.fault IS NOT NULL THEN 'disabled' ELSE e.status END,
        disabled_reason = CASE WHEN n.enabled AND n.fault IS NOT NULL THEN n.fault ELSE e.disabled_reason END,
        disabled_at = CASE WHEN n.enabled AND n.fault IS NOT NULL THEN now() ELSE e.disabled_at END,
        updated_at = now()
    FROM noted n
    WHERE e.id = n.id
    RETURNING e.id, e.tenant_id, e.name, e.last_failure, e.failing_since, n.fault, n.enabled
), disabled AS (
    SELECT u.id, u.tenant_id, u.fault,
           jsonb_strip_nulls(jsonb_build_object(
               'endpoint_id', u.id, 'name', u.name, 'reason', u.fault, 'last_failure', u.last_failure,
               'failing_since', u.failing_since)) AS data
    FROM updated u
    WHERE u.enabled AND u.fault IS NOT NULL
), told AS (
    INSERT INTO store.status_events (tenant_id, type, data)
    SELECT d.tenant_id, 'endpoint.disabled', d.data FROM disabled d
), audited AS (
    INSERT INTO store.audit_log (actor, action, tenant_id, target, reason, data)
    SELECT 'landed', 'endpoint_disabled', d.tenant_id, 'endpoint ' || d.id, d.fault, d.data FROM disabled d
)
SELECT d.id FROM disabled d ORDER BY d.id;

-- name: fan_out
-- Status events become deliveries to the endpoints that listen, all in one statement: an event is gone exactly when what it
-- leads to is there. A test reaches the endpoint it names, whatever that listens to. Types have two words, so the filters
-- that match one are three.
WITH due AS MATERIALIZED (
    SELECT s.id, s.tenant_id, s.type, s.occurred_at, s.data
    FROM store.status_events s
    WHERE s.due_at <= now()
    ORDER BY s.due_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM store.status_events s USING due d WHERE s.id = d.id
), reached AS (
    SELECT d.tenant_id, d.type, d.occurred_at, d.data, e.id AS endpoint_id, e.format, to_jsonb(e.events) AS filters
    FROM due d
    JOIN store.endpoints e ON e.tenant_id = d.tenant_id AND e.status = 'enabled' AND cardinality(e.events) > 0
    WHERE d.type <> 'landed.test'
      AND e.events && ARRAY['*', split_part(d.type, '.', 1) || '.*', d.type]
    UNION ALL
    SELECT d.tenant_id, d.type, d.occurred_at, d.data, e.id, e.format, '"asked for"'
    FROM due d
    JOIN store.endpoints e ON e.id = (d.data ->> 'endpoint_id')::uuid AND e.tenant_id = d.tenant_id AND e.status = 'enabled'
    WHERE d.type = 'landed.test'
), planned AS MATERIALIZED (
    SELECT r.*, 'endpoint:' || r.endpoint_id AS recipient_id,
           CASE WHEN r.format = 'standard' THEN 'webhook' ELSE 'chat' END AS channel,
           CASE WHEN r.format = 'standard' THEN 'webhook' ELSE 'chat' END || '.transactional.default' AS lane,
           store.new_id(store.shard_for(r.tenant_id, 'endpoint:' || r.endpoint_id)) AS id,
           now() + make_interval(secs => %(span_seconds)s::float8) AS expires_at
    FROM reached r
), notified AS (
    INSERT INTO store.notifications
        (shard, id, tenant_id, recipient_id, category, class, channels, template_id, template_version, request, source,
         state, expires_at, accepted_at, planned_at, trace)
    SELECT store.shard_of(p.id), p.id, p.tenant_id, p.recipient_id, p.type, 'transactional', ARRAY[p.channel],
           'landed.status', 0,
           jsonb_build_object('recipient_id', p.recipient_id, 'category', p.type, 'template_id', 'landed.status',
                              'variables', p.data),
           'api', 'planned', p.expires_at, p.occurred_at, now(),
           jsonb_build_array(
               jsonb_build_object('rule', 'endpoint.status', 'input', p.endpoint_id, 'verdict', 'enabled'),
               jsonb_build_object('rule', 'endpoint.events', 'input', p.filters, 'verdict', p.type),
               jsonb_build_object('rule', p.channel || '.lane', 'input', p.lane, 'verdict', 'send'))
    FROM planned p
), born AS (
    INSERT INTO store.deliveries
        (shard, id, notification_id, tenant_id, recipient_id, category, class, channel, lane, address, template_id,
         template_version, state, due_at, expires_at)
    SELECT store.shard_of(p.id), store.new_child_id(p.id), p.id, p.tenant_id, p.recipient_id, p.type, 'transactional',
           p.channel, p.lane, p.endpoint_id::text, 'landed.status', 0, 'queued', now(), p.expires_at
    FROM planned p
)
SELECT (SELECT count(*) FROM due)::int AS events,
       coalesce((SELECT array_agg(DISTINCT p.lane) FROM planned p), '{}') AS lanes,
       coalesce((SELECT jsonb_agg(jsonb_build_object(
                            'event_id', d.id, 'tenant_id', d.tenant_id, 'endpoint_id', e.id, 'email', e.owner_email,
                            'name', e.name, 'url', e.url, 'reason', d.data ->> 'reason',
                            'last_failure', d.data ->> 'last_failure', 'disabled_at', d.occurred_at))
                 FROM due d
                 JOIN store.endpoints e ON e.id = (d.data ->> 'endpoint_id')::uuid AND e.tenant_id = d.tenant_id
                 WHERE d.type = 'endpoint.disabled' AND e.owner_email IS NOT NULL), '[]') AS owners;

-- name: prepare_owner_mail
-- What a mail to the owner of an endpoint needs in its tenant, made when the first one is written. An owner is a recipient
-- of their own, with the address that the endpoint has now.
WITH wanted AS (
    SELECT *
    FROM jsonb_to_recordset(%(owners)s::jsonb) AS o(tenant_id int, recipient_id text, email text)
), category AS (
    INSERT INTO store.categories (tenant_id, name, class, channels, description)
    SELECT DISTINCT w.tenant_id, %(category)s, 'transactional', ARRAY['email'], 'Landed itself: what you should look after'
    FROM wanted w
    ORDER BY 1
    ON CONFLICT DO NOTHING
), template AS (
    INSERT INTO store.templates
        (tenant_id, template_id, version, channel, subject, text, variables, description, status, published_at)
    SELECT DISTINCT w.tenant_id, %(template_id)s, %(template_version)s::int, 'email', %(subject)s, %(text)s,
           %(variables)s::jsonb, 'Landed itself: an endpoint was disabled', 'published', now()
    FROM wanted w
    ORDER BY 1
    ON CONFLICT DO NOTHING
)
INSERT INTO store.recipients AS r (tenant_id, id, email)
SELECT w.tenant_id, w.recipient_id, w.email
FROM wanted w
ORDER BY 1, 2
ON CONFLICT (tenant_id, id) DO UPDATE
SET email = excluded.email, updated_at = now();

-- name: accept
-- In the transaction that takes up the event, and once an event: its id is the idempotency key.
SELECT verdict FROM landed.accept(%(items)s::jsonb);
