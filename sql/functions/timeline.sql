-- timeline: everything that happened to one notification, in order. The same facts as reporting.timeline, which this
-- reads through the keys.
CREATE FUNCTION landed.timeline(notification_id uuid, tenant text DEFAULT NULL)
RETURNS TABLE (
    occurred_at timestamptz,
    delivery_id uuid,
    channel text,
    attempt_no smallint,
    kind text,
    source text,
    data jsonb,
    recorded_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    n store.notifications := landed._find_notification(timeline.notification_id, timeline.tenant);
BEGIN
    RETURN QUERY
    SELECT t.occurred_at, t.delivery_id, t.channel, t.attempt_no, t.kind, t.source, t.data, t.recorded_at
    FROM reporting.timeline t
    WHERE t.shard = n.shard AND t.notification_id = n.id
    ORDER BY t.occurred_at, t.recorded_at, t.event_id NULLS FIRST;
END
$$;
COMMENT ON FUNCTION landed.timeline IS 'Everything that happened to a notification, in order';
