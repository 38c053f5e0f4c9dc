-- cancel: stops what has not been sent. What may be on the wire, or was sent, cannot be called back, and is told.
CREATE FUNCTION landed.cancel(notification_id uuid, reason text, tenant text DEFAULT NULL)
RETURNS TABLE (delivery_id uuid, channel text, state text, cancelled boolean, explanation text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    n store.notifications;
    d store.deliveries;
    done uuid[] := '{}';
    why jsonb := jsonb_build_object('reason', cancel.reason);
BEGIN
    PERFORM landed._need_reason(cancel.reason);
    n := landed._lock_notification(cancel.notification_id, cancel.tenant);
    PERFORM landed._audit('cancel', n.tenant_id, 'notification ' || n.id, cancel.reason, '{}');

    IF n.state = 'accepted' THEN
        UPDATE store.notifications t
        SET state = 'cancelled', reason = 'cancelled', due_at = NULL
        WHERE t.shard = n.shard AND t.id = n.id;
        PERFORM landed._tell(n.shard, n.tenant_id, n.id, NULL, 'cancelled', why);
        RETURN QUERY SELECT NULL::uuid, NULL::text, 'cancelled', true, 'cancelled before anything was planned';
        RETURN;
    ELSIF n.state <> 'planned' THEN
        RETURN QUERY SELECT NULL::uuid, NULL::text, n.state, false, format('the notification was %s already', n.state);
        RETURN;
    END IF;

    -- Only rows that wait are locked, and a claim that holds one is short: what it took is then seen as sending.
    FOR d IN
        UPDATE store.deliveries q
        SET state = 'cancelled', reason = 'cancelled', due_at = NULL, ended_at = now(), updated_at = now()
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
        PERFORM landed._tell(d.shard, d.tenant_id, n.id, d.id, 'cancelled', why);
        done := done || d.id;
        RETURN QUERY SELECT d.id, d.channel, d.state, true, landed._cancelled_when(d);
    END LOOP;

    RETURN QUERY
    SELECT r.id, r.channel, r.state, false, landed._uncancellable(r)
    FROM store.deliveries r
    WHERE r.shard = n.shard
      AND r.id BETWEEN store.children_from(n.id) AND store.children_to(n.id)
      AND r.notification_id = n.id
      AND r.id <> ALL (done)
    ORDER BY r.id;
END
$$;
COMMENT ON FUNCTION landed.cancel IS
    'Cancels what has not been sent of a notification; one row per delivery says whether, and if not, why not';

CREATE FUNCTION landed._cancelled_when(d store.deliveries) RETURNS text
LANGUAGE sql STABLE
RETURN CASE
    WHEN EXISTS (SELECT FROM store.attempts a WHERE a.shard = d.shard AND a.delivery_id = d.id AND a.state = 'unanswered')
    THEN 'cancelled before it was sent again; an attempt before got no answer, and may have arrived'
    ELSE 'cancelled before it was sent'
END;
COMMENT ON FUNCTION landed._cancelled_when IS 'What is known of a delivery that was cancelled in time, or was not quite';

CREATE FUNCTION landed._uncancellable(d store.deliveries) RETURNS text
LANGUAGE sql STABLE
RETURN CASE
    WHEN d.state = 'sending' THEN 'a call to the provider may be under way'
    WHEN d.state = 'ambiguous' THEN 'it may have been sent: that is being found out; if it was not, cancel again'
    WHEN d.state = 'sent' THEN 'the provider has accepted it'
    ELSE format('it has ended: %s (%s)', d.state, d.reason)
END;
COMMENT ON FUNCTION landed._uncancellable IS 'Why a delivery cannot be cancelled';
