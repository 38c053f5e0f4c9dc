-- name: stories
-- What the database says became of these notifications, one row each; one that was never accepted has none.
SELECT n.id AS notification_id,
       d.id AS delivery_id,
       n.accepted_at,
       coalesce(d.state, n.state) AS state,
       coalesce(d.reason, n.reason) AS reason,
       -- Of calls: an attempt that was given back before its call, because its provider had just asked for a pause, is none.
       (SELECT count(*) FROM store.attempts c
        WHERE c.shard = d.shard AND c.delivery_id = d.id AND c.outcome IS DISTINCT FROM 'released')::int AS attempts,
       coalesce(d.failures, 0)::int AS failures,
       coalesce(d.ended_at, n.accepted_at) - n.accepted_at AS took,
       a.detail,
       s.reason AS suppressed_for,
       coalesce(e.events, '[]') AS events
FROM unnest(%(ids)s::uuid[]) AS wanted(id)
JOIN store.notifications n ON n.shard = store.shard_of(wanted.id) AND n.id = wanted.id
LEFT JOIN store.deliveries d
    ON d.shard = n.shard AND d.id BETWEEN store.children_from(n.id) AND store.children_to(n.id) AND d.notification_id = n.id
LEFT JOIN store.attempts a ON a.shard = d.shard AND a.delivery_id = d.id AND a.no = d.attempt_no
LEFT JOIN store.suppressions s
    ON s.tenant_id = d.tenant_id AND s.channel = d.channel AND s.address = store.normalise_address(d.channel, d.address)
   AND s.scope = 'all' AND s.lifted_at IS NULL
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('kind', q.kind, 'source', q.source, 'occurred_at', q.occurred_at,
                                        'data', q.data, 'is_proof', q.id = d.evidence_id)
                     ORDER BY q.recorded_at, q.id) AS events
    FROM store.events q
    WHERE q.shard = n.shard AND q.notification_id = n.id
) e ON true;

-- name: refusals
SELECT reason, sum(refusals)::int FROM reporting.webhook_refusals GROUP BY reason;

-- name: any_suppressed
SELECT EXISTS (
    SELECT FROM store.suppressions s
    WHERE s.channel = 'sms'
      AND s.address = ANY(%(phones)s::text[])
      AND s.lifted_at IS NULL
);
