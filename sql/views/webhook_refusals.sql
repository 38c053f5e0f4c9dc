CREATE VIEW reporting.webhook_refusals AS
SELECT r.day, r.provider, r.reason, r.refusals, r.last_at, r.last_detail
FROM store.webhook_refusals r;

COMMENT ON VIEW reporting.webhook_refusals IS
    'Provider callbacks that were refused, by day. A few are noise from the internet; many are an attack, or a wrong signing key';
COMMENT ON COLUMN reporting.webhook_refusals.day IS 'The day (UTC)';
COMMENT ON COLUMN reporting.webhook_refusals.provider IS 'The provider account whose endpoint was called';
COMMENT ON COLUMN reporting.webhook_refusals.reason IS 'forged, stale, replayed, malformed, …';
COMMENT ON COLUMN reporting.webhook_refusals.refusals IS 'How many';
COMMENT ON COLUMN reporting.webhook_refusals.last_at IS 'When the last one came';
COMMENT ON COLUMN reporting.webhook_refusals.last_detail IS 'What was wrong with the last one';
