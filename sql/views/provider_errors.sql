CREATE VIEW reporting.provider_errors AS
SELECT o.provider,
       date_trunc('minute', o.at) AS minute,
       sum(o.calls) AS calls,
       sum(o.accepted) AS accepted,
       sum(o.client_errors) AS client_errors,
       sum(o.server_errors) AS server_errors,
       sum(o.unknown) AS unknown,
       sum(o.failures) AS failures,
       round(sum(o.failures) / nullif(sum(o.calls), 0)::numeric, 4) AS error_rate
FROM store.provider_outcomes o
GROUP BY 1, 2;

COMMENT ON VIEW reporting.provider_errors IS
    'What calls came to, by provider account and minute. A minute without calls has no row';
COMMENT ON COLUMN reporting.provider_errors.provider IS 'The provider account';
COMMENT ON COLUMN reporting.provider_errors.minute IS 'The beginning of the minute';
COMMENT ON COLUMN reporting.provider_errors.calls IS 'Calls that ended in it';
COMMENT ON COLUMN reporting.provider_errors.accepted IS 'Of these, accepted';
COMMENT ON COLUMN reporting.provider_errors.client_errors IS
    'Of these, answered 4xx: a bad address or content, a refused account, a limit';
COMMENT ON COLUMN reporting.provider_errors.server_errors IS 'Of these, answered 5xx';
COMMENT ON COLUMN reporting.provider_errors.unknown IS 'Of these, it is not known whether they were accepted';
COMMENT ON COLUMN reporting.provider_errors.failures IS
    'Of these, those that speak against the provider: transient errors, no answer, an unknown outcome. Its breaker is judged by them';
COMMENT ON COLUMN reporting.provider_errors.error_rate IS 'failures / calls, 0 to 1';
