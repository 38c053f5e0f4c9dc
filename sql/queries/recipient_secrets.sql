-- With what tenants sign their recipients' tokens.

-- name: find
-- By the tenant's name, as a token tells it. What was replaced is still good until its time.
SELECT t.id AS tenant_id, s.secret, s.previous_secret, s.previous_secret_until
FROM store.tenants t
JOIN store.recipient_signing_secrets s ON s.tenant_id = t.id
WHERE t.name = %(tenant)s;

-- name: ensure
-- The first secret of a tenant stays: two who come at once get the same one.
INSERT INTO store.recipient_signing_secrets AS s (tenant_id, secret)
VALUES (%(tenant_id)s, %(fresh)s)
ON CONFLICT (tenant_id) DO NOTHING;

-- name: current
SELECT s.secret
FROM store.recipient_signing_secrets s
WHERE s.tenant_id = %(tenant_id)s;

-- name: rotate
INSERT INTO store.recipient_signing_secrets AS s (tenant_id, secret)
VALUES (%(tenant_id)s, %(fresh)s)
ON CONFLICT (tenant_id) DO UPDATE
SET secret = excluded.secret,
    previous_secret = s.secret,
    previous_secret_until = now() + make_interval(secs => %(overlap_seconds)s),
    created_at = now()
RETURNING s.previous_secret_until;

-- name: audit
-- Whoever has seen the secret can sign for any recipient: so it is told who has.
INSERT INTO store.audit_log (actor, action, tenant_id, target, reason)
VALUES (%(actor)s, %(action)s, %(tenant_id)s, 'recipient signing secret', %(reason)s);
