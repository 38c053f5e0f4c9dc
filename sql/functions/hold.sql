-- hold: whatever of a notification waits, waits until then. It never comes earlier for being held, and it still expires
-- in time: a hold moves the due time, it does not stop the clock.
CREATE FUNCTION landed.hold(
    notification_id uuid,
    reason text,
    until timestamptz DEFAULT now() + interval '1 day',
    tenant text DEFAULT NULL
) RETURNS TABLE (delivery_id uuid, channel text, state text, held boolean, due_at timestamptz, explanation text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    n store.notifications;
    d store.deliveries;
    why jsonb := jsonb_build_object('reason', hold.reason, 'until', hold.until);
BEGIN
    PERFORM landed._need_reason(hold.reason);
    IF hold.until IS NULL OR hold.until <= now() THEN
        PERFORM landed._refuse('invalid_parameter_value', 'until', 'must be in the future',
                               format('It is %s.', coalesce(hold.until::text, 'NULL')), 'The default is a day from now.');
    END IF;
    n := landed._lock_notification(hold.notification_id, hold.tenant);
    PERFORM landed._audit('hold', n.tenant_id, 'notification ' || n.id, hold.reason, why);

    IF n.state = 'accepted' THEN
        UPDATE store.notifications t
        SET due_at = landed._held_until(t.due_at, hold.until, t.expires_at), reason = 'held'
        WHERE t.shard = n.shard AND t.id = n.id
        RETURNING t.* INTO n;
        PERFORM landed._tell(n.shard, n.tenant_id, n.id, NULL, 'held', why);
        RETURN QUERY SELECT NULL::uuid, NULL::text, n.state, true, n.due_at, landed._until_when(n.due_at, n.expires_at);
        RETURN;
    END IF;

    FOR d IN
        UPDATE store.deliveries q
        SET due_at = landed._held_until(q.due_at, hold.until, q.expires_at), reason = 'held', updated_at = now()
        FROM (
            SELECT w.shard, w.id
            FROM store.deliveries w
            WHERE w.shard = n.shard
              AND w.id BETWEEN store.children_from(n.id) AND store.children_to(n.id)
              AND w.notification_id = n.id
              AND w.state = 'queued'
            ORDER BY w.id
            FOR UPDATE
        ) AS waiting
        WHERE q.shard = waiting.shard AND q.id = waiting.id
        RETURNING q.*
    LOOP
        PERFORM landed._tell(d.shard, d.tenant_id, n.id, d.id, 'held', why);
        RETURN QUERY SELECT d.id, d.channel, d.state, true, d.due_at, landed._until_when(d.due_at, d.expires_at);
    END LOOP;

    RETURN QUERY
    SELECT r.id, r.channel, r.state, false, r.due_at, format('it is %s: only what waits can be held', r.state)
    FROM store.deliveries r
    WHERE r.shard = n.shard
      AND r.id BETWEEN store.children_from(n.id) AND store.children_to(n.id)
      AND r.notification_id = n.id
      AND r.state <> 'queued'
    ORDER BY r.id;
END
$$;
COMMENT ON FUNCTION landed.hold IS 'Keeps what waits of a notification waiting until a time; one row per delivery says whether';

CREATE FUNCTION landed._held_until(due_at timestamptz, until timestamptz, expires_at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE
RETURN least(greatest(due_at, until), greatest(expires_at, now()));
COMMENT ON FUNCTION landed._held_until IS 'When a held row is next looked at: never earlier than it was due, never after it expires';

CREATE FUNCTION landed._until_when(due_at timestamptz, expires_at timestamptz) RETURNS text
LANGUAGE sql STABLE
RETURN CASE WHEN due_at >= expires_at THEN format('held, but it expires at %s and will not be sent', expires_at)
            ELSE format('held until %s', due_at) END;
COMMENT ON FUNCTION landed._until_when IS 'What a hold comes to, in words';
