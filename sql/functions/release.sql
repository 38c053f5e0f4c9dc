-- release: lets go what a hold keeps, or a limit of ours. What was scheduled for later stays scheduled.
CREATE FUNCTION landed.release(notification_id uuid, reason text, tenant text DEFAULT NULL)
RETURNS TABLE (delivery_id uuid, channel text, state text, released boolean, due_at timestamptz, explanation text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    n store.notifications;
    d store.deliveries;
    due timestamptz;
    why jsonb := jsonb_build_object('reason', release.reason);
BEGIN
    PERFORM landed._need_reason(release.reason);
    n := landed._lock_notification(release.notification_id, release.tenant);
    PERFORM landed._audit('release', n.tenant_id, 'notification ' || n.id, release.reason, '{}');
    due := greatest((n.request ->> 'send_at')::timestamptz, now());

    IF n.state = 'accepted' AND n.reason = 'held' THEN
        UPDATE store.notifications t
        SET due_at = due, reason = NULL
        WHERE t.shard = n.shard AND t.id = n.id;
        PERFORM landed._tell(n.shard, n.tenant_id, n.id, NULL, 'released_hold', why);
        RETURN QUERY SELECT NULL::uuid, NULL::text, n.state, true, due, format('due at %s', due);
        RETURN;
    ELSIF n.state <> 'planned' THEN
        RETURN QUERY SELECT NULL::uuid, NULL::text, n.state, false, n.due_at, 'it was not held';
        RETURN;
    END IF;

    FOR d IN
        UPDATE store.deliveries q
        SET due_at = due, reason = CASE WHEN q.failures > 0 THEN 'retry' END, updated_at = now()
        FROM (
            SELECT w.shard, w.id
            FROM store.deliveries w
            WHERE w.shard = n.shard
              AND w.id BETWEEN store.children_from(n.id) AND store.children_to(n.id)
              AND w.notification_id = n.id
              AND w.state = 'queued'
              AND w.reason IN ('held', 'recipient_limit', 'template_limit')
            ORDER BY w.id
            FOR UPDATE
        ) AS waiting
        WHERE q.shard = waiting.shard AND q.id = waiting.id
        RETURNING q.*
    LOOP
        PERFORM landed._tell(d.shard, d.tenant_id, n.id, d.id, 'released_hold', why);
        RETURN QUERY SELECT d.id, d.channel, d.state, true, d.due_at, format('due at %s', d.due_at);
    END LOOP;
    IF NOT FOUND THEN
        RETURN QUERY SELECT NULL::uuid, NULL::text, n.state, false, NULL::timestamptz, 'none of its deliveries was held, by an operator or a limit';
    END IF;
END
$$;
COMMENT ON FUNCTION landed.release IS 'Lets go what a hold or a limit keeps of a notification; one row per delivery that it kept';
