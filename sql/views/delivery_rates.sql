-- The bound on the id leaves all partitions alone but those of the last week.
CREATE VIEW reporting.delivery_rates AS
SELECT t.name AS tenant,
       c.day,
       c.provider,
       c.channel,
       c.country,
       c.sent,
       CASE WHEN r.provable THEN c.sent ELSE 0 END AS provable,
       CASE WHEN r.provable THEN c.delivered ELSE 0 END AS delivered,
       c.bounced,
       CASE WHEN r.provable THEN round(c.delivered / c.sent::numeric, 4) END AS delivered_rate
FROM (
    SELECT d.tenant_id,
           (d.sent_at AT TIME ZONE 'UTC')::date AS day,
           d.provider,
           d.channel,
           d.country,
           count(*) AS sent,
           count(*) FILTER (WHERE d.state = 'delivered') AS delivered,
           count(*) FILTER (WHERE d.state = 'bounced') AS bounced
    FROM store.deliveries d
    WHERE d.id >= store.id_floor(now() - interval '7 days')
      AND d.state IN ('sent', 'delivered', 'bounced', 'failed', 'unconfirmed')
      AND d.sent_at IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5
) AS c
LEFT JOIN LATERAL (
    SELECT q.provable
    FROM store.route_capabilities q
    WHERE q.provider = c.provider AND q.channel = c.channel AND q.country IN (c.country, '*')
    ORDER BY q.country = '*'
    LIMIT 1
) AS r ON true
LEFT JOIN store.tenants t ON t.id = c.tenant_id;

COMMENT ON VIEW reporting.delivery_rates IS
    'What was sent in the last 7 days and proven delivered, of that which can be proven. A route that proves nothing has no rate, '
    'instead of 0';
COMMENT ON COLUMN reporting.delivery_rates.tenant IS 'Whose deliveries they are';
COMMENT ON COLUMN reporting.delivery_rates.day IS 'The day (UTC) on which the provider took them';
COMMENT ON COLUMN reporting.delivery_rates.provider IS 'The provider account of their last attempt';
COMMENT ON COLUMN reporting.delivery_rates.channel IS 'email, push, sms, in_app, webhook or chat';
COMMENT ON COLUMN reporting.delivery_rates.country IS 'ISO 3166-1 of the phone number; NULL for every other address';
COMMENT ON COLUMN reporting.delivery_rates.sent IS 'Deliveries that the provider took';
COMMENT ON COLUMN reporting.delivery_rates.provable IS
    'Of these, those that somebody would tell about, as reporting.route_capabilities says: the denominator of the rate';
COMMENT ON COLUMN reporting.delivery_rates.delivered IS 'Of the provable, proven delivered by now';
COMMENT ON COLUMN reporting.delivery_rates.bounced IS 'Of the sent, bounced';
COMMENT ON COLUMN reporting.delivery_rates.delivered_rate IS 'delivered / provable, 0 to 1; NULL when nothing can be proven';
