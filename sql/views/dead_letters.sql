CREATE VIEW reporting.dead_letters AS
SELECT d.id AS delivery_id,
       d.notification_id,
       t.name AS tenant,
       d.recipient_id,
       d.category,
       d.channel,
       reporting.masked_address(d.channel, d.address) AS address,
       reporting.domain_of(d.channel, d.address) AS domain,
       d.template_id,
       d.template_version,
       d.reason,
       d.provider,
       d.attempt_no AS attempts,
       a.outcome AS last_outcome,
       a.status_code AS last_status_code,
       a.detail AS last_detail,
       d.created_at,
       d.ended_at,
       now() - d.ended_at AS dead_for
FROM store.deliveries d
LEFT JOIN store.attempts a ON a.shard = d.shard AND a.delivery_id = d.id AND a.no = d.attempt_no
LEFT JOIN store.tenants t ON t.id = d.tenant_id
WHERE d.state = 'dead';

COMMENT ON VIEW reporting.dead_letters IS
    'Deliveries that were given up: the retry budget is spent, or the failure could not heal by itself. landed.replay starts '
    'them over once the cause is gone';
COMMENT ON COLUMN reporting.dead_letters.delivery_id IS 'Id of the delivery: what landed.replay takes';
COMMENT ON COLUMN reporting.dead_letters.notification_id IS 'The notification it belongs to';
COMMENT ON COLUMN reporting.dead_letters.tenant IS 'Whose notification it is';
COMMENT ON COLUMN reporting.dead_letters.recipient_id IS 'The recipient, by the tenant''s own id';
COMMENT ON COLUMN reporting.dead_letters.category IS 'What kind of notification it is';
COMMENT ON COLUMN reporting.dead_letters.channel IS 'email, push, sms, in_app, webhook or chat';
COMMENT ON COLUMN reporting.dead_letters.address IS 'Where it should have gone, masked';
COMMENT ON COLUMN reporting.dead_letters.domain IS 'The receiving domain of an email address';
COMMENT ON COLUMN reporting.dead_letters.template_id IS 'The template it is rendered from';
COMMENT ON COLUMN reporting.dead_letters.template_version IS 'The version of that template';
COMMENT ON COLUMN reporting.dead_letters.reason IS
    'retries_exhausted: the budget is spent. rejected: the provider will never take it as it is. render_failed: its template '
    'cannot be rendered with its variables. test_mode: its provider cannot take a test without delivering it. '
    'endpoint_disabled, no_endpoint, forbidden_address: its endpoint was disabled, deleted, or names an address of a private network';
COMMENT ON COLUMN reporting.dead_letters.provider IS 'The provider account of the last attempt';
COMMENT ON COLUMN reporting.dead_letters.attempts IS 'Provider calls begun';
COMMENT ON COLUMN reporting.dead_letters.last_outcome IS 'What the last attempt came to';
COMMENT ON COLUMN reporting.dead_letters.last_status_code IS 'The provider''s HTTP status of the last attempt';
COMMENT ON COLUMN reporting.dead_letters.last_detail IS 'What the provider, or rendering, said at the last attempt';
COMMENT ON COLUMN reporting.dead_letters.created_at IS 'When intake planned it';
COMMENT ON COLUMN reporting.dead_letters.ended_at IS 'When it was given up';
COMMENT ON COLUMN reporting.dead_letters.dead_for IS 'How long ago that was';
