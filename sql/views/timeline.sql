-- What a row's birth says is not written twice: notifications, deliveries and attempts tell when they began, the event
-- log tells what happened to them afterwards.
CREATE VIEW reporting.timeline AS
SELECT n.accepted_at AS occurred_at,
       t.name AS tenant,
       n.id AS notification_id,
       NULL::uuid AS delivery_id,
       NULL::text AS channel,
       NULL::smallint AS attempt_no,
       'accepted' AS kind,
       'landed' AS source,
       jsonb_strip_nulls(jsonb_build_object(
           'by', n.source, 'category', n.category, 'template', n.template_id || '@' || n.template_version,
           'send_at', n.request -> 'send_at')) AS data,
       n.accepted_at AS recorded_at,
       NULL::uuid AS event_id,
       n.shard
FROM store.notifications n
LEFT JOIN store.tenants t ON t.id = n.tenant_id
UNION ALL
SELECT d.created_at, t.name, n.id, d.id, d.channel, NULL, 'planned', 'landed',
       jsonb_strip_nulls(jsonb_build_object('lane', d.lane, 'replay_of', d.replay_of)),
       d.created_at, NULL, n.shard
FROM store.notifications n
JOIN store.deliveries d
    ON d.shard = n.shard AND d.id BETWEEN store.children_from(n.id) AND store.children_to(n.id) AND d.notification_id = n.id
LEFT JOIN store.tenants t ON t.id = n.tenant_id
UNION ALL
SELECT a.opened_at, t.name, n.id, d.id, d.channel, a.no, 'attempt_opened', 'landed',
       jsonb_build_object('provider', a.provider, 'region', a.region, 'epoch', a.epoch),
       a.opened_at, NULL, n.shard
FROM store.notifications n
JOIN store.deliveries d
    ON d.shard = n.shard AND d.id BETWEEN store.children_from(n.id) AND store.children_to(n.id) AND d.notification_id = n.id
JOIN store.attempts a ON a.shard = d.shard AND a.delivery_id = d.id
LEFT JOIN store.tenants t ON t.id = n.tenant_id
UNION ALL
SELECT e.occurred_at, t.name, e.notification_id, e.delivery_id, d.channel, e.attempt_no, e.kind, e.source, e.data,
       e.recorded_at, e.id, e.shard
FROM store.events e
LEFT JOIN store.deliveries d ON d.shard = e.shard AND d.id = e.delivery_id
LEFT JOIN store.tenants t ON t.id = e.tenant_id;

COMMENT ON VIEW reporting.timeline IS
    'Every fact about every notification. For one notification, landed.timeline(id) reads it through the keys; here, order '
    'by occurred_at';
COMMENT ON COLUMN reporting.timeline.occurred_at IS 'When it happened; for a provider''s facts, by the provider''s clock';
COMMENT ON COLUMN reporting.timeline.tenant IS 'Whose notification it is';
COMMENT ON COLUMN reporting.timeline.notification_id IS 'The notification it is about';
COMMENT ON COLUMN reporting.timeline.delivery_id IS 'The delivery it is about; NULL when it is about the whole notification';
COMMENT ON COLUMN reporting.timeline.channel IS 'The channel of that delivery';
COMMENT ON COLUMN reporting.timeline.attempt_no IS 'The attempt it is about, if it is about one';
COMMENT ON COLUMN reporting.timeline.kind IS
    'accepted, planned, attempt_opened; attempt_ and the outcome; provider_ and what the provider said; lease_expired, '
    'resolved_found, resolved_not_sent, resolved_repeatable, confirmation_overdue, unconfirmed, suppressed, expired, cancelled, held, '
    'released_hold, replayed';
COMMENT ON COLUMN reporting.timeline.source IS 'Who says so: landed, provider (webhook), lookup, device or operator';
COMMENT ON COLUMN reporting.timeline.data IS 'What else is known about it: codes, words of the receiving server, reasons';
COMMENT ON COLUMN reporting.timeline.recorded_at IS 'When Landed came to know it';
COMMENT ON COLUMN reporting.timeline.event_id IS 'Id in the event log; NULL for the birth of a row';
COMMENT ON COLUMN reporting.timeline.shard IS
    'Where the rows are, the last byte of the notification''s id: given too, only that notification''s rows are read';
