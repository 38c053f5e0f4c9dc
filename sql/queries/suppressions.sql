-- name: lock_address
-- Opt-outs and claims meet on the address: no claim that has already looked can open an attempt after this one
-- commits (I11). A statement of its own, so that the next one sees what the lock waited for.
SELECT pg_advisory_xact_lock(11, store.address_bucket(%(tenant_id)s, %(channel)s, %(address)s));

-- name: add
-- The row of the first opt-out stands; a second one for the same address and scope adds nothing to it.
WITH added AS (
    INSERT INTO store.suppressions (tenant_id, channel, address, scope, reason, detail, source)
    VALUES (%(tenant_id)s, %(channel)s, store.normalise_address(%(channel)s, %(address)s), %(scope)s, %(reason)s,
            %(detail)s, %(source)s)
    ON CONFLICT DO NOTHING
    RETURNING *
), audited AS (
    INSERT INTO store.audit_log (actor, action, tenant_id, target, reason, data)
    SELECT %(actor)s, 'suppress', tenant_id, 'suppression ' || id, reason,
           jsonb_build_object('channel', channel, 'scope', scope)
    FROM added
)
SELECT id, channel, address, scope, reason, detail, source, delivery_id, created_at, lifted_at, lifted_by, lift_reason
FROM added;

-- name: active
SELECT id, channel, address, scope, reason, detail, source, delivery_id, created_at, lifted_at, lifted_by, lift_reason
FROM store.suppressions
WHERE tenant_id = %(tenant_id)s
  AND channel = %(channel)s
  AND address = store.normalise_address(%(channel)s, %(address)s)
  AND scope = %(scope)s
  AND (reason = 'opted_out') = (%(reason)s = 'opted_out')
  AND lifted_at IS NULL;

-- name: get
SELECT id, channel, address, scope, reason, detail, source, delivery_id, created_at, lifted_at, lifted_by, lift_reason
FROM store.suppressions
WHERE tenant_id = %(tenant_id)s
  AND id = %(id)s;

-- name: list_newest
SELECT id, channel, address, scope, reason, detail, source, delivery_id, created_at, lifted_at, lifted_by, lift_reason
FROM store.suppressions
WHERE tenant_id = %(tenant_id)s
  AND (%(after)s::bigint IS NULL OR id < %(after)s)
  AND (%(channel)s::text IS NULL OR channel = %(channel)s)
  AND (%(address)s::text IS NULL OR address = store.normalise_address(channel, %(address)s))
  AND (%(reason)s::text IS NULL OR reason = %(reason)s)
  AND (%(active)s::boolean IS NULL OR (lifted_at IS NULL) = %(active)s)
ORDER BY id DESC
LIMIT %(limit)s;

-- name: lift
-- The address starts afresh: the soft bounces that led here must not suppress it again at the next one. A count that
-- is being written at this moment is left alone, because waiting for its writer, who may wait for the address, would
-- be a deadlock.
WITH lifted AS (
    UPDATE store.suppressions
    SET lifted_at = now(), lifted_by = %(actor)s, lift_reason = %(lift_reason)s
    WHERE tenant_id = %(tenant_id)s
      AND id = %(id)s
      AND lifted_at IS NULL
    RETURNING *
), audited AS (
    INSERT INTO store.audit_log (actor, action, tenant_id, target, reason, data)
    SELECT %(actor)s, 'unsuppress', tenant_id, 'suppression ' || id, lift_reason,
           jsonb_build_object('channel', channel, 'scope', scope, 'suppressed_for', reason)
    FROM lifted
), forgotten AS (
    DELETE FROM store.soft_bounces
    WHERE (tenant_id, channel, address) IN (
        SELECT b.tenant_id, b.channel, b.address
        FROM lifted l
        JOIN store.soft_bounces b USING (tenant_id, channel, address)
        FOR UPDATE OF b SKIP LOCKED)
)
SELECT id, channel, address, scope, reason, detail, source, delivery_id, created_at, lifted_at, lifted_by, lift_reason
FROM lifted;
