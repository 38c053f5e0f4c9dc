-- accept: many requests, one commit. Called by the API for a whole group of requests and by landed.send for one, so the
-- rules of idempotency (I15) stand in one place. The caller has validated the fields; what only the database knows is
-- decided here: whether the key was used before, whether the recipient exists and is active (R-062, R-066).
--
-- A request's fate never depends on its neighbours: each item gets its own verdict and none raises.
--
--   accepted            a notification was written
--   replayed            the key came before with the same request: its stored response
--   key_reused          the key came before with another request: original_request tells which
--   recipient_unknown, recipient_inactive
--
-- Answers come in no particular order. An item: ordinal, tenant_id, idempotency_key (may be null), recipient_id, category, class, channels, template_id,
-- template_version, request, source, due_at (null: now), expires_at.
CREATE FUNCTION landed.accept(items jsonb, key_ttl interval DEFAULT interval '7 days')
RETURNS TABLE (
    ordinal int,
    verdict text,
    notification_id uuid,
    response_status smallint,
    response text,
    original_request jsonb
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    born jsonb;
    rest jsonb;
BEGIN
    -- An insert that meets another transaction's uncommitted key waits for it (the caller's lock_timeout bounds that);
    -- ON CONFLICT DO NOTHING then leaves the row to the second statement, whose snapshot sees the winner.
    WITH item AS MATERIALIZED (
        SELECT i.*, store.new_id(store.shard_for(i.tenant_id, i.recipient_id)) AS id
        FROM jsonb_to_recordset(items) AS i(
            ordinal int, tenant_id int, idempotency_key text, recipient_id text, category text, class text,
            channels text[], template_id text, template_version int, request jsonb, source text,
            due_at timestamptz, expires_at timestamptz)
        JOIN store.recipients r ON r.tenant_id = i.tenant_id AND r.id = i.recipient_id AND r.active
    ), fresh AS (
        INSERT INTO store.idempotency_keys
            (tenant_id, key, fingerprint, notification_id, response_status, response, expires_at)
        SELECT i.tenant_id, i.idempotency_key, store.fingerprint(i.request), i.id, 202,
               '{"id":"' || i.id || '","status":"queued"}', now() + key_ttl
        FROM item i
        WHERE i.idempotency_key IS NOT NULL
        ORDER BY i.tenant_id, i.idempotency_key
        ON CONFLICT (tenant_id, key) DO NOTHING
        RETURNING notification_id
    ), written AS (
        INSERT INTO store.notifications
            (shard, id, tenant_id, recipient_id, category, class, channels, template_id, template_version,
             request, idempotency_key, source, due_at, expires_at)
        SELECT store.shard_of(i.id), i.id, i.tenant_id, i.recipient_id, i.category, i.class, i.channels, i.template_id,
               i.template_version, i.request, i.idempotency_key, i.source, coalesce(i.due_at, now()), i.expires_at
        FROM item i
        WHERE i.idempotency_key IS NULL OR i.id IN (SELECT f.notification_id FROM fresh f)
        RETURNING id
    )
    -- A membership test, not a join of two batches: callers forbid hash joins, for the sake of the tables.
    SELECT coalesce(jsonb_object_agg(i.ordinal, i.id), '{}') INTO born
    FROM item i
    WHERE (i.id IN (SELECT w.id FROM written w)) IS TRUE;

    RETURN QUERY
    SELECT b.key::int, 'accepted', b.value::uuid, 202::smallint, '{"id":"' || b.value || '","status":"queued"}', NULL::jsonb
    FROM jsonb_each_text(born) AS b;

    SELECT jsonb_agg(i) INTO rest FROM jsonb_array_elements(items) AS i WHERE NOT born ? (i ->> 'ordinal');
    IF rest IS NULL THEN
        RETURN;
    END IF;

    RETURN QUERY
    SELECT i.ordinal,
           CASE
               WHEN k.fingerprint = store.fingerprint(i.request) THEN 'replayed'
               WHEN k.key IS NOT NULL THEN 'key_reused'
               WHEN r.id IS NULL THEN 'recipient_unknown'
               ELSE 'recipient_inactive'
           END,
           k.notification_id,
           k.response_status,
           k.response,
           n.request
    FROM jsonb_to_recordset(rest) AS i(
        ordinal int, tenant_id int, idempotency_key text, recipient_id text, request jsonb)
    LEFT JOIN store.idempotency_keys k ON k.tenant_id = i.tenant_id AND k.key = i.idempotency_key
    LEFT JOIN store.recipients r ON r.tenant_id = i.tenant_id AND r.id = i.recipient_id
    LEFT JOIN store.notifications n
        ON n.shard = store.shard_of(k.notification_id) AND n.id = k.notification_id
       AND k.fingerprint IS DISTINCT FROM store.fingerprint(i.request);
END
$$;
COMMENT ON FUNCTION landed.accept IS 'For the API and landed.send: accepts a group of validated requests in one commit';
