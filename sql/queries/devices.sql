-- Devices, what providers say of their tokens, and what devices say of the pushes they were sent.

-- name: lock
-- Whoever registers the same token, or a device of the same key, waits here: neither sees half of the other's change.
-- In one order, so that two registrations that share both do not wait for each other.
SELECT pg_advisory_xact_lock(13, number)
FROM (SELECT DISTINCT hashtext(name) AS number
      FROM unnest(ARRAY[
          concat_ws('/', %(tenant_id)s::int, %(platform)s::text, 'token', %(token)s::text),
          concat_ws('/', %(tenant_id)s::int, %(platform)s::text, 'key', %(recipient_id)s::text, %(device_key)s::text)
      ]) AS name
      ORDER BY number) AS ordered;

-- name: recipient_exists
-- Held until the commit, so that the recipient is still there when its device is.
SELECT FROM store.recipients
WHERE tenant_id = %(tenant_id)s
  AND id = %(recipient_id)s
FOR KEY SHARE;

-- name: lock_devices
-- Whatever the registration may change, in the order of the ids as everyone takes them: people who exchange their devices
-- at the same moment do not wait for each other in a circle.
SELECT
FROM store.devices
WHERE tenant_id = %(tenant_id)s
  AND retired_at IS NULL
  AND (recipient_id = %(recipient_id)s OR (platform = %(platform)s AND token = %(token)s))
ORDER BY id
FOR UPDATE;

-- name: find_own
-- The row that this device has already: by the app's own name for it, else by its token.
SELECT id
FROM store.devices
WHERE tenant_id = %(tenant_id)s
  AND recipient_id = %(recipient_id)s
  AND platform = %(platform)s
  AND retired_at IS NULL
  AND (device_key = %(device_key)s OR token = %(token)s)
ORDER BY (device_key = %(device_key)s) IS TRUE DESC
LIMIT 1;

-- name: take_over
-- Nobody else keeps the token: on a device that changes hands, who signed in last gets the messages.
UPDATE store.devices
SET retired_at = now(),
    retired_reason = CASE WHEN recipient_id = %(recipient_id)s THEN 'replaced' ELSE 'moved' END
WHERE tenant_id = %(tenant_id)s
  AND platform = %(platform)s
  AND token = %(token)s
  AND retired_at IS NULL
  AND id IS DISTINCT FROM %(own)s::uuid;

-- name: renew
UPDATE store.devices
SET token = %(token)s,
    environment = %(environment)s,
    p256dh = %(p256dh)s,
    auth = %(auth)s,
    device_key = coalesce(%(device_key)s, device_key),
    app_version = coalesce(%(app_version)s, app_version),
    registered_at = now()
WHERE id = %(own)s
RETURNING id, recipient_id AS user_id, platform, environment, right(token, 6) AS token_end, device_key, app_version,
          registered_at, created_at;

-- name: add
INSERT INTO store.devices
    (tenant_id, recipient_id, platform, token, environment, p256dh, auth, device_key, app_version)
VALUES (%(tenant_id)s, %(recipient_id)s, %(platform)s, %(token)s, %(environment)s, %(p256dh)s, %(auth)s,
        %(device_key)s, %(app_version)s)
RETURNING id, recipient_id AS user_id, platform, environment, right(token, 6) AS token_end, device_key, app_version,
          registered_at, created_at;

-- name: retire_surplus
-- Each device of a recipient is a delivery of every push to it: those not heard of for longest make room.
UPDATE store.devices
SET retired_at = now(), retired_reason = 'too_many'
WHERE id IN (
    SELECT id
    FROM store.devices
    WHERE tenant_id = %(tenant_id)s
      AND recipient_id = %(recipient_id)s
      AND retired_at IS NULL
    ORDER BY registered_at DESC, id DESC
    OFFSET %(devices_max)s)
  AND retired_at IS NULL;

-- name: list_live
SELECT id, recipient_id AS user_id, platform, environment, right(token, 6) AS token_end, device_key, app_version,
       registered_at, created_at
FROM store.devices
WHERE tenant_id = %(tenant_id)s
  AND recipient_id = %(recipient_id)s
  AND retired_at IS NULL
ORDER BY registered_at DESC, id DESC;

-- name: remove
-- A device removed before stays as it was; it is known all the same.
UPDATE store.devices
SET retired_at = coalesce(retired_at, now()), retired_reason = coalesce(retired_reason, 'removed')
WHERE id = %(id)s
  AND tenant_id = %(tenant_id)s
  AND (%(recipient_id)s::text IS NULL OR recipient_id = %(recipient_id)s)
RETURNING id;

-- name: targets
SELECT d.id, d.tenant_id, d.platform, d.token, d.environment, d.p256dh, d.auth
FROM unnest(%(tenant_ids)s::int[], %(device_ids)s::uuid[]) AS u(tenant_id, id)
JOIN store.devices d ON d.id = u.id AND d.tenant_id = u.tenant_id
WHERE d.retired_at IS NULL;

-- name: retire
-- Each only if what was refused is still what it is: the very token that was sent to, not registered since the provider
-- says it died. A refusal that our own configuration may be to blame for counts only where the same provider takes pushes
-- for the same environment at about that moment: else it would be every token that dies. What it took before says nothing,
-- for a wrong topic, project or key comes with a deploy; two minutes, because note_accepted writes once in one. Locked in
-- the order of their ids; the conditions stand in the update itself, so that they are asked again of what a registration
-- wrote meanwhile.
WITH locked AS MATERIALIZED (
    SELECT id
    FROM store.devices
    WHERE id = ANY (%(device_ids)s::uuid[])
    ORDER BY id
    FOR UPDATE
)
UPDATE store.devices d
SET retired_at = now(), retired_reason = r.reason
FROM locked l, unnest(%(providers)s::text[], %(tenant_ids)s::int[], %(device_ids)s::uuid[], %(tokens)s::text[],
                      %(reasons)s::text[], %(invalid_sinces)s::timestamptz[], %(doubtfuls)s::boolean[])
     AS r(provider, tenant_id, device_id, token, reason, invalid_since, doubtful)
WHERE d.id = l.id
  AND d.id = r.device_id
  AND d.tenant_id = r.tenant_id
  AND d.token = r.token
  AND d.retired_at IS NULL
  AND (r.invalid_since IS NULL OR d.registered_at < r.invalid_since)
  AND (NOT r.doubtful OR EXISTS (
      SELECT FROM store.push_environments e
      WHERE e.provider = r.provider
        AND e.environment = d.environment
        AND e.accepted_at > now() - interval '2 minutes'))
RETURNING d.id;

-- name: note_accepted
-- Written when the last note is a minute old, and else not even locked: every accepted push comes by here.
INSERT INTO store.push_environments AS e (provider, environment)
SELECT DISTINCT %(provider)s::text, u.environment
FROM unnest(%(environments)s::text[]) AS u(environment)
WHERE NOT EXISTS (
    SELECT FROM store.push_environments n
    WHERE n.provider = %(provider)s
      AND n.environment = u.environment
      AND n.accepted_at > now() - interval '1 minute')
ORDER BY 2
ON CONFLICT (provider, environment) DO UPDATE
SET accepted_at = now()
WHERE e.accepted_at <= now() - interval '1 minute';

-- name: told
-- What devices told is known by its key whatever the day: a receipt shown again a week later is still the same receipt.
-- Day by day, because each has a partition and its index begins with the day; OFFSET keeps the planner from seeing it
-- otherwise.
SELECT i.event_key
FROM generate_series(-1, %(days)s::int) AS ago
CROSS JOIN LATERAL (
    SELECT e.event_key
    FROM store.inbound_events e
    WHERE e.occurred_on = (now() AT TIME ZONE 'UTC')::date - ago
      AND e.provider = %(provider)s
      AND e.event_key = ANY (%(keys)s::text[])
    OFFSET 0) i;

-- name: find_push
-- The attempt by which a notification reached a device: the one that was accepted, else the last one that may have been.
-- One that was refused or never sent reached nobody: an open of it would end a push that still waits for its retry.
SELECT d.id, a.no, n.recipient_id
FROM store.notifications n
JOIN store.deliveries d
    ON d.shard = n.shard
   AND d.id BETWEEN store.children_from(n.id) AND store.children_to(n.id)
   AND d.notification_id = n.id
   AND d.channel = 'push'
   AND d.address = %(device_id)s::uuid::text
JOIN store.attempts a ON a.shard = d.shard AND a.delivery_id = d.id AND a.state NOT IN ('refused', 'not_sent')
WHERE n.shard = store.shard_of(%(notification_id)s)
  AND n.id = %(notification_id)s
  AND n.tenant_id = %(tenant_id)s
ORDER BY a.state = 'accepted' DESC, d.id DESC, a.no DESC
LIMIT 1;
