CREATE VIEW reporting.providers AS
SELECT p.provider,
       p.status,
       p.detail,
       coalesce(p.paused_until > now(), false) AS paused,
       p.paused_until,
       p.since,
       p.hits
FROM store.provider_states p;

COMMENT ON VIEW reporting.providers IS 'What each provider account last told us about itself; one that never complained is not listed';
COMMENT ON COLUMN reporting.providers.provider IS 'The provider account';
COMMENT ON COLUMN reporting.providers.status IS 'ok, rate_limited, or unauthorized: it refused our credentials or sender domain';
COMMENT ON COLUMN reporting.providers.detail IS 'What it said';
COMMENT ON COLUMN reporting.providers.paused IS 'Whether nothing is sent to it now';
COMMENT ON COLUMN reporting.providers.paused_until IS 'Until when nothing is sent to it';
COMMENT ON COLUMN reporting.providers.since IS 'Since when it has this status';
COMMENT ON COLUMN reporting.providers.hits IS 'How many calls it answered with a limit or a refusal of our account';
