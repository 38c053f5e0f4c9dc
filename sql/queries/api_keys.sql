-- name: find
-- A key that may be used now, by the SHA-256 of its whole text.
SELECT k.id AS key_id, k.tenant_id, t.name AS tenant, k.hash, k.scopes, k.rate_per_second, k.burst
FROM store.api_keys k
JOIN store.tenants t ON t.id = k.tenant_id
WHERE k.hash = %(digest)s
  AND k.revoked_at IS NULL

-- name: insert
INSERT INTO store.api_keys (tenant_id, name, prefix, hash, scopes, rate_per_second, burst)
VALUES (%(tenant_id)s, %(name)s, %(prefix)s, %(digest)s, %(scopes)s::text[],
        %(rate_per_second)s, %(burst)s)
RETURNING id

-- name: revoke
-- Answers the id only if the key was in force.
UPDATE store.api_keys
SET revoked_at = now()
WHERE tenant_id = %(tenant_id)s
  AND id = %(key_id)s
  AND revoked_at IS NULL
RETURNING id;

-- name: note_refused
INSERT INTO store.api_key_limits AS l (key_id, hour, hits)
SELECT k.id, date_trunc('hour', now()), %(hits)s
FROM store.api_keys k
WHERE k.id = %(key_id)s
ON CONFLICT (key_id, hour) DO UPDATE SET hits = l.hits + excluded.hits, last_at = now();

-- name: take_tokens
SELECT granted, retry_after_seconds
FROM store.take_tokens(%(bucket)s, %(wanted)s, %(rate)s, %(burst)s)
