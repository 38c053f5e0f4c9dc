-- The bound on the id leaves all partitions alone but the last day's.
CREATE VIEW reporting.bounce_rate_by_domain AS
SELECT t.name AS tenant,
       c.domain,
       c.accepted,
       c.delivered,
       c.bounced,
       c.bounced_hard,
       c.failed,
       c.unconfirmed,
       c.waiting,
       c.complained,
       round(c.bounced / c.accepted::numeric, 4) AS bounce_rate,
       round(c.complained / c.accepted::numeric, 4) AS complaint_rate
FROM (
    SELECT d.tenant_id,
           reporting.domain_of(d.channel, d.address) AS domain,
           count(*) AS accepted,
           count(*) FILTER (WHERE d.state = 'delivered') AS delivered,
           count(*) FILTER (WHERE d.state = 'bounced') AS bounced,
           count(*) FILTER (WHERE d.state = 'bounced' AND d.reason = 'hard_bounce') AS bounced_hard,
           count(*) FILTER (WHERE d.state = 'failed') AS failed,
           count(*) FILTER (WHERE d.state = 'unconfirmed') AS unconfirmed,
           count(*) FILTER (WHERE d.state = 'sent') AS waiting,
           count(d.complained_at) AS complained
    FROM store.deliveries d
    WHERE d.id >= store.id_floor(now() - interval '24 hours')
      AND d.channel = 'email'
      AND d.state IN ('sent', 'delivered', 'bounced', 'failed', 'unconfirmed')
      AND d.attempt_no > 0
    GROUP BY 1, 2
) AS c
LEFT JOIN store.tenants t ON t.id = c.tenant_id;

COMMENT ON VIEW reporting.bounce_rate_by_domain IS
    'Email of the last 24 hours, by when its notification was accepted, and what became of it, by tenant and receiving domain';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.tenant IS 'Whose email it is';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.domain IS 'The receiving domain';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.accepted IS
    'Deliveries that the provider took, or may have taken: the denominator of the rates';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.delivered IS 'Of these, proven delivered';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.bounced IS 'Of these, bounced';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.bounced_hard IS 'Of the bounced, those whose address is bad';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.failed IS 'Of these, failed for another reason: reputation, content, the provider''s own list';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.unconfirmed IS 'Of these, neither proven nor disproven';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.waiting IS 'Of these, still waiting for evidence';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.complained IS 'Of these, reported as spam';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.bounce_rate IS 'bounced / accepted, 0 to 1; above 0.05 receivers begin to block';
COMMENT ON COLUMN reporting.bounce_rate_by_domain.complaint_rate IS
    'complained / accepted, 0 to 1; above 0.001 receivers act on the sender, above 0.003 they block';
