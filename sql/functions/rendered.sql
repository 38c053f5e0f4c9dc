-- rendered: what the content of a delivery was made from. Templates are immutable and variables are stored, so the same
-- content can be made again; `landed render DELIVERY` does, and compares its hash with the one kept here (R-138).
CREATE FUNCTION landed.rendered(delivery_id uuid, tenant text DEFAULT NULL)
RETURNS TABLE (
    attempt_no smallint,
    attempt_state text,
    tenant_name text,
    template_id text,
    template_version int,
    channel text,
    address text,
    sender text,
    variables jsonb,
    content_hash bytea
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    d store.deliveries := landed._find_delivery(rendered.delivery_id, rendered.tenant);
BEGIN
    RETURN QUERY
    SELECT a.no, a.state, t.name, d.template_id, d.template_version, d.channel, d.address, d.sender,
           n.request -> 'variables', a.content_hash
    FROM store.notifications n
    JOIN store.tenants t ON t.id = n.tenant_id
    LEFT JOIN LATERAL (
        SELECT q.no, q.state, q.content_hash
        FROM store.attempts q
        WHERE q.shard = d.shard AND q.delivery_id = d.id
        ORDER BY q.state = 'accepted' DESC, q.no DESC
        LIMIT 1
    ) a ON true
    WHERE n.shard = d.shard AND n.id = d.notification_id;
END
$$;
COMMENT ON FUNCTION landed.rendered IS
    'What a delivery''s content was made from, and the hash of what its accepted (else its last) attempt sent';
