-- Of the URL, only the host: the rest of a chat room's is its secret.
CREATE VIEW reporting.endpoints AS
SELECT e.id AS endpoint_id,
       t.name AS tenant,
       e.name,
       e.format,
       substring(e.url FROM '^https?://([^/?#]+)') AS host,
       e.events,
       e.status,
       e.disabled_reason,
       e.disabled_at,
       e.failing_since,
       now() - e.failing_since AS failing_for,
       e.paused_until,
       e.last_success_at,
       e.last_failure,
       CASE WHEN e.secret LIKE 'whsk\_%' THEN 'ed25519' WHEN e.secret IS NOT NULL THEN 'hmac-sha256' END AS algorithm,
       CASE WHEN e.previous_secret_until > now() THEN e.previous_secret_until END AS rotating_until,
       e.created_at,
       e.updated_at
FROM store.endpoints e
LEFT JOIN store.tenants t ON t.id = e.tenant_id;

COMMENT ON VIEW reporting.endpoints IS
    'Where tenants have events sent: merchants'' webhooks and chat rooms, and how they fare';
COMMENT ON COLUMN reporting.endpoints.endpoint_id IS 'Id of the endpoint: the address of the deliveries that go to it';
COMMENT ON COLUMN reporting.endpoints.tenant IS 'Whose it is';
COMMENT ON COLUMN reporting.endpoints.name IS 'What its tenant calls it';
COMMENT ON COLUMN reporting.endpoints.format IS 'standard (Standard Webhooks), slack, discord or teams';
COMMENT ON COLUMN reporting.endpoints.host IS 'The host and port of its URL';
COMMENT ON COLUMN reporting.endpoints.events IS 'The filters that choose which status events it is sent; none: it is only a target';
COMMENT ON COLUMN reporting.endpoints.status IS 'enabled or disabled';
COMMENT ON COLUMN reporting.endpoints.disabled_reason IS
    'gone: it answered that it wants no more. failing: nothing but failures for too long. Else the words of who disabled it';
COMMENT ON COLUMN reporting.endpoints.disabled_at IS 'Since when it is disabled';
COMMENT ON COLUMN reporting.endpoints.failing_since IS 'Since when calls have only failed; NULL while it works';
COMMENT ON COLUMN reporting.endpoints.failing_for IS 'How long that has been';
COMMENT ON COLUMN reporting.endpoints.paused_until IS
    'While it fails, what waits for it is put off till then; one delivery at a time tries whether it is back';
COMMENT ON COLUMN reporting.endpoints.last_success_at IS 'When it last took an event, to within a few seconds';
COMMENT ON COLUMN reporting.endpoints.last_failure IS 'How the last failed call went: the status, never what it said';
COMMENT ON COLUMN reporting.endpoints.algorithm IS 'What signs its events: hmac-sha256 or ed25519; NULL for a chat room';
COMMENT ON COLUMN reporting.endpoints.rotating_until IS 'Until when the secret before the present one signs as well';
COMMENT ON COLUMN reporting.endpoints.created_at IS 'When it was registered';
COMMENT ON COLUMN reporting.endpoints.updated_at IS 'When it last changed';
