CREATE VIEW reporting.attempts AS
SELECT a.delivery_id,
       a.no AS attempt_no,
       t.name AS tenant,
       a.provider,
       a.state,
       a.outcome,
       a.status_code,
       a.detail,
       a.provider_message_id,
       encode(a.content_hash, 'hex') AS content_hash,
       a.opened_at,
       a.closed_at,
       extract(epoch FROM a.closed_at - a.opened_at)::double precision AS took_seconds,
       a.region,
       a.epoch,
       a.worker_id,
       a.facts
FROM store.attempts a
LEFT JOIN store.tenants t ON t.id = a.tenant_id;

COMMENT ON VIEW reporting.attempts IS 'One row per provider call, written before the call was made';
COMMENT ON COLUMN reporting.attempts.delivery_id IS 'The delivery it was made for';
COMMENT ON COLUMN reporting.attempts.attempt_no IS 'Counts from 1 within its delivery';
COMMENT ON COLUMN reporting.attempts.tenant IS 'Whose delivery it is';
COMMENT ON COLUMN reporting.attempts.provider IS 'The provider account that was called';
COMMENT ON COLUMN reporting.attempts.state IS
    'open: may be under way. ambiguous: outcome unknown. accepted. refused. not_sent: shown never to have been accepted. '
    'unanswered: nobody could tell, and a copy does no harm or is what its category asks for, so another was allowed. '
    'duplicate: accepted beside another accepted one, which must never happen';
COMMENT ON COLUMN reporting.attempts.outcome IS
    'accepted, transient, rate_limited, recipient_invalid, rejected, unauthorized, unknown or released; NULL while open';
COMMENT ON COLUMN reporting.attempts.status_code IS 'The provider''s HTTP status; NULL when there was no answer';
COMMENT ON COLUMN reporting.attempts.detail IS 'What the provider said, without addresses or content';
COMMENT ON COLUMN reporting.attempts.provider_message_id IS 'The provider''s id of the message';
COMMENT ON COLUMN reporting.attempts.content_hash IS 'SHA-256 of the content as it was sent, in hex';
COMMENT ON COLUMN reporting.attempts.opened_at IS 'When the intent was committed';
COMMENT ON COLUMN reporting.attempts.closed_at IS 'When its outcome was recorded; NULL while it is open or ambiguous';
COMMENT ON COLUMN reporting.attempts.took_seconds IS 'From opened_at to closed_at, in seconds';
COMMENT ON COLUMN reporting.attempts.region IS 'The region that opened it';
COMMENT ON COLUMN reporting.attempts.epoch IS 'The epoch it was opened under';
COMMENT ON COLUMN reporting.attempts.worker_id IS 'The worker that opened it';
COMMENT ON COLUMN reporting.attempts.facts IS 'What the call was: encoding, units and segments of a text message';
