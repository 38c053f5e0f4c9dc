CREATE VIEW reporting.suppressions AS
SELECT s.id AS suppression_id,
       t.name AS tenant,
       s.channel,
       reporting.masked_address(s.channel, s.address) AS address,
       reporting.domain_of(s.channel, s.address) AS domain,
       s.scope,
       s.reason,
       s.detail,
       s.source,
       s.delivery_id,
       s.lifted_at IS NULL AS active,
       s.created_at,
       s.lifted_at,
       s.lifted_by,
       s.lift_reason
FROM store.suppressions s
LEFT JOIN store.tenants t ON t.id = s.tenant_id;

COMMENT ON VIEW reporting.suppressions IS 'Addresses that must not be sent to, and those that once must not';
COMMENT ON COLUMN reporting.suppressions.suppression_id IS 'Id of the suppression';
COMMENT ON COLUMN reporting.suppressions.tenant IS 'For whose notifications it holds';
COMMENT ON COLUMN reporting.suppressions.channel IS 'On which channel it holds';
COMMENT ON COLUMN reporting.suppressions.address IS 'The address, masked';
COMMENT ON COLUMN reporting.suppressions.domain IS 'The domain of an email address';
COMMENT ON COLUMN reporting.suppressions.scope IS 'all, or the one category it covers';
COMMENT ON COLUMN reporting.suppressions.reason IS
    'hard_bounce, soft_bounces, complaint, unsubscribe, opted_out (STOP), provider_suppressed (on the provider''s own list) or '
    'manual; opted_out stands beside the others';
COMMENT ON COLUMN reporting.suppressions.detail IS 'What was said: the receiving server''s words, or a person''s';
COMMENT ON COLUMN reporting.suppressions.source IS 'Who asked for it: provider, recipient, operator or api';
COMMENT ON COLUMN reporting.suppressions.delivery_id IS 'The delivery that led to it, if one did';
COMMENT ON COLUMN reporting.suppressions.active IS 'Whether it holds now';
COMMENT ON COLUMN reporting.suppressions.created_at IS 'Since when it holds';
COMMENT ON COLUMN reporting.suppressions.lifted_at IS 'Until when it held';
COMMENT ON COLUMN reporting.suppressions.lifted_by IS 'Who lifted it';
COMMENT ON COLUMN reporting.suppressions.lift_reason IS 'Why it was lifted';
