-- Must always be empty. Each kind of row that still needs something carries the time of it; whatever is later than that by
-- more than its grace has been forgotten by the code, and this is how people hear of it. Each branch reads one partial
-- index; the classes and the lanes are spelt out because they lead theirs.
--
-- Grace, 5 minutes: workers look every second, leases are taken up within 5 seconds of running out, and a batch takes well
-- under a minute. What waits on purpose is not stuck, nor for the length of the grace afterwards: queued rows of a lane none
-- of whose providers is ready, and promotional ones under load shedding. Only their end must not wait; it is looked for at
-- the front of their queues, as claims do, because reading a whole backlog would cost more the longer an outage takes.
CREATE VIEW reporting.stuck AS
SELECT stuck.what,
       stuck.state,
       t.name AS tenant,
       stuck.notification_id,
       stuck.delivery_id,
       stuck.lane,
       stuck.reason,
       stuck.due_at,
       now() - stuck.due_at AS overdue_for,
       stuck.missing
FROM (
    SELECT 'notification' AS what, n.state, n.tenant_id, n.id AS notification_id, NULL::uuid AS delivery_id,
           'intake.' || n.class AS lane, n.reason, n.due_at, 'intake should have planned it' AS missing
    FROM store.notifications n
    WHERE n.state = 'accepted'
      AND n.class IN ('alert', 'transactional', 'promotional')
      AND n.due_at < now() - interval '5 minutes'
    UNION ALL
    SELECT 'delivery', d.state, d.tenant_id, d.notification_id, d.id, d.lane, d.reason, d.due_at,
           'a worker of its lane should have claimed it'
    FROM (
        SELECT q.lane,
               EXISTS (
                   SELECT FROM store.load_shedding s
                   WHERE s.class = split_part(q.lane, '.', 2) AND (s.active OR s.since > now() - interval '5 minutes')
               ) OR EXISTS (
                   SELECT FROM store.lanes l
                   WHERE l.name = q.lane
                     AND NOT EXISTS (
                         SELECT FROM jsonb_array_elements(l.providers) AS a(account)
                         LEFT JOIN store.provider_states p ON p.provider = a.account ->> 'provider'
                         WHERE p.provider IS NULL
                            OR (p.breaker = 'closed' AND p.drained_at IS NULL AND p.since <= now() - interval '5 minutes'
                                AND (p.paused_until IS NULL OR p.paused_until <= now() - interval '5 minutes')))
               ) AS on_purpose
        FROM reporting.queued_lanes() AS q(lane)
    ) AS lane
    CROSS JOIN LATERAL (
        -- Two queues, two indexes.
        (SELECT * FROM store.deliveries f
         WHERE f.lane = lane.lane AND f.state = 'queued' AND f.failures = 0 AND f.due_at < now() - interval '5 minutes'
         ORDER BY f.due_at LIMIT CASE WHEN lane.on_purpose THEN 100 END)
        UNION ALL
        (SELECT * FROM store.deliveries f
         WHERE f.lane = lane.lane AND f.state = 'queued' AND f.failures > 0 AND f.due_at < now() - interval '5 minutes'
         ORDER BY f.due_at LIMIT CASE WHEN lane.on_purpose THEN 100 END)
    ) AS d
    WHERE NOT lane.on_purpose OR d.expires_at < now() - interval '5 minutes'
    UNION ALL
    SELECT 'delivery', d.state, d.tenant_id, d.notification_id, d.id, d.lane, d.reason, d.due_at,
           CASE d.state
               WHEN 'sending' THEN 'its lease ran out: reconcile should have taken it up'
               WHEN 'sent' THEN 'reconcile should have asked the provider for evidence'
               ELSE 'reconcile should have asked the provider whether it was sent'
           END
    FROM store.deliveries d
    WHERE d.state IN ('sending', 'sent', 'ambiguous')
      AND d.due_at < now() - interval '5 minutes'
    UNION ALL
    SELECT 'inbound_event', i.state, d.tenant_id, d.notification_id, i.delivery_id, NULL, i.kind, i.due_at,
           'apply should have taken it up'
    FROM store.inbound_events i
    LEFT JOIN store.deliveries d ON d.shard = store.shard_of(i.delivery_id) AND d.id = i.delivery_id
    WHERE i.state IN ('pending', 'parked')
      AND i.due_at < now() - interval '5 minutes'
    UNION ALL
    SELECT 'status_event', 'pending', s.tenant_id, (s.data ->> 'notification_id')::uuid, (s.data ->> 'delivery_id')::uuid, NULL,
           s.type, s.due_at, 'the fan-out should have told the endpoints'
    FROM store.status_events s
    WHERE s.due_at < now() - interval '5 minutes'
) AS stuck
LEFT JOIN store.tenants t ON t.id = stuck.tenant_id;

COMMENT ON VIEW reporting.stuck IS
    'Must always be empty: everything overdue for its next step by more than its grace of 5 minutes. A row here is a defect, '
    'or no worker is running';
COMMENT ON COLUMN reporting.stuck.what IS 'notification, delivery, inbound_event or status_event';
COMMENT ON COLUMN reporting.stuck.state IS 'The state it is stuck in';
COMMENT ON COLUMN reporting.stuck.tenant IS 'Whose it is; NULL for an event that is not matched yet';
COMMENT ON COLUMN reporting.stuck.notification_id IS 'The notification; landed.explain tells more';
COMMENT ON COLUMN reporting.stuck.delivery_id IS 'The delivery, if it is one or is about one';
COMMENT ON COLUMN reporting.stuck.lane IS 'What it queues with';
COMMENT ON COLUMN reporting.stuck.reason IS 'Why it waited; for an inbound or status event, its kind';
COMMENT ON COLUMN reporting.stuck.due_at IS 'When something should have been done to it';
COMMENT ON COLUMN reporting.stuck.overdue_for IS 'How long ago that was';
COMMENT ON COLUMN reporting.stuck.missing IS 'What should have happened';
