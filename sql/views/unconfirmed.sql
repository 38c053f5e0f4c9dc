CREATE VIEW reporting.unconfirmed AS
SELECT d.id AS delivery_id,
       d.notification_id,
       t.name AS tenant,
       d.recipient_id,
       d.category,
       d.channel,
       reporting.masked_address(d.channel, d.address) AS address,
       reporting.domain_of(d.channel, d.address) AS domain,
       d.reason,
       d.provider,
       d.provider_message_id,
       d.attempt_no AS attempts,
       d.lookups,
       d.sent_at,
       d.ended_at,
       now() - d.ended_at AS unconfirmed_for
FROM store.deliveries d
LEFT JOIN store.tenants t ON t.id = d.tenant_id
WHERE d.state = 'unconfirmed';

COMMENT ON VIEW reporting.unconfirmed IS
    'Deliveries that nothing could prove or disprove: an honest end, to be counted and looked at. Late evidence still moves '
    'them to delivered or bounced';
COMMENT ON COLUMN reporting.unconfirmed.delivery_id IS 'Id of the delivery';
COMMENT ON COLUMN reporting.unconfirmed.notification_id IS 'The notification it belongs to';
COMMENT ON COLUMN reporting.unconfirmed.tenant IS 'Whose notification it is';
COMMENT ON COLUMN reporting.unconfirmed.recipient_id IS 'The recipient, by the tenant''s own id';
COMMENT ON COLUMN reporting.unconfirmed.category IS 'What kind of notification it is';
COMMENT ON COLUMN reporting.unconfirmed.channel IS 'email, push, sms, in_app, webhook or chat';
COMMENT ON COLUMN reporting.unconfirmed.address IS 'Where it went, masked';
COMMENT ON COLUMN reporting.unconfirmed.domain IS 'The receiving domain of an email address';
COMMENT ON COLUMN reporting.unconfirmed.reason IS
    'no_evidence: accepted, then silence. not_acknowledged: accepted by one that cannot be asked, and its device said nothing. '
    'ambiguous_unresolved: not even whether it was accepted could be found out';
COMMENT ON COLUMN reporting.unconfirmed.provider IS 'The provider account that was called';
COMMENT ON COLUMN reporting.unconfirmed.provider_message_id IS 'The provider''s id of the message, to ask its support with';
COMMENT ON COLUMN reporting.unconfirmed.attempts IS 'Provider calls begun';
COMMENT ON COLUMN reporting.unconfirmed.lookups IS 'How often the provider was asked';
COMMENT ON COLUMN reporting.unconfirmed.sent_at IS 'When the provider accepted it; NULL if that is what is not known';
COMMENT ON COLUMN reporting.unconfirmed.ended_at IS 'When it was given up on';
COMMENT ON COLUMN reporting.unconfirmed.unconfirmed_for IS 'How long ago that was';
