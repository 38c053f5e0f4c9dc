CREATE VIEW reporting.deliveries AS
SELECT d.id AS delivery_id,
       d.notification_id,
       t.name AS tenant,
       d.recipient_id,
       d.category,
       d.class,
       d.channel,
       d.lane,
       reporting.masked_address(d.channel, d.address) AS address,
       reporting.domain_of(d.channel, d.address) AS domain,
       d.country,
       d.template_id,
       d.template_version,
       d.state,
       d.reason,
       d.due_at,
       d.attempt_no AS attempts,
       d.failures,
       d.lookups,
       d.provider,
       d.provider_message_id,
       d.tried,
       d.replay_of,
       d.expires_at,
       d.created_at,
       d.sent_at,
       d.delivered_at,
       d.bounced_at,
       d.opened_at,
       d.clicked_at,
       d.complained_at,
       d.unsubscribed_at,
       d.ended_at,
       d.updated_at
FROM store.deliveries d
LEFT JOIN store.tenants t ON t.id = d.tenant_id;

COMMENT ON VIEW reporting.deliveries IS
    'One row per delivery: one notification on one channel to one address. By delivery_id it reads one partition; bound '
    'anything else by delivery_id >= reporting.id_floor(...), or by tenant and recipient_id';
COMMENT ON COLUMN reporting.deliveries.delivery_id IS 'Id of the delivery; it begins with the time its notification was accepted';
COMMENT ON COLUMN reporting.deliveries.notification_id IS 'The notification it belongs to';
COMMENT ON COLUMN reporting.deliveries.tenant IS 'Whose notification it is';
COMMENT ON COLUMN reporting.deliveries.recipient_id IS 'The recipient, by the tenant''s own id';
COMMENT ON COLUMN reporting.deliveries.category IS 'What kind of notification it is';
COMMENT ON COLUMN reporting.deliveries.class IS 'transactional, promotional or alert';
COMMENT ON COLUMN reporting.deliveries.channel IS 'email, push, sms, in_app, webhook or chat';
COMMENT ON COLUMN reporting.deliveries.lane IS 'channel.class.route: what it queues with';
COMMENT ON COLUMN reporting.deliveries.address IS 'Where it goes, masked';
COMMENT ON COLUMN reporting.deliveries.domain IS 'The receiving domain of an email address';
COMMENT ON COLUMN reporting.deliveries.country IS 'ISO 3166-1 of a phone number, where its numbering plan tells';
COMMENT ON COLUMN reporting.deliveries.template_id IS 'The template it is rendered from';
COMMENT ON COLUMN reporting.deliveries.template_version IS 'The version of that template, fixed when it was accepted';
COMMENT ON COLUMN reporting.deliveries.state IS
    'On its way: queued, sending, sent, ambiguous. Ended: delivered, bounced, failed, unconfirmed, suppressed, cancelled, '
    'expired, dead';
COMMENT ON COLUMN reporting.deliveries.reason IS 'Why it waits, or why it ended; NULL while it waits for its first attempt';
COMMENT ON COLUMN reporting.deliveries.due_at IS 'When something is next done to it; NULL once it has ended';
COMMENT ON COLUMN reporting.deliveries.attempts IS 'Provider calls begun so far';
COMMENT ON COLUMN reporting.deliveries.failures IS 'Retry budget spent; rate limits and refused accounts cost nothing';
COMMENT ON COLUMN reporting.deliveries.lookups IS 'How often the provider was asked about it without an answer that settles it';
COMMENT ON COLUMN reporting.deliveries.provider IS 'The provider account of its last attempt';
COMMENT ON COLUMN reporting.deliveries.provider_message_id IS 'The provider''s id of the message';
COMMENT ON COLUMN reporting.deliveries.tried IS 'Providers that refused it since it last waited: the others of its route are asked first';
COMMENT ON COLUMN reporting.deliveries.replay_of IS 'The delivery that this one was sent again for, by force';
COMMENT ON COLUMN reporting.deliveries.expires_at IS 'After this it is not sent any more';
COMMENT ON COLUMN reporting.deliveries.created_at IS 'When intake planned it';
COMMENT ON COLUMN reporting.deliveries.sent_at IS 'When the provider accepted it';
COMMENT ON COLUMN reporting.deliveries.delivered_at IS 'When the receiving side took it, as the evidence says';
COMMENT ON COLUMN reporting.deliveries.bounced_at IS 'When it bounced, as the evidence says';
COMMENT ON COLUMN reporting.deliveries.opened_at IS 'When it was first opened';
COMMENT ON COLUMN reporting.deliveries.clicked_at IS 'When a link in it was first clicked';
COMMENT ON COLUMN reporting.deliveries.complained_at IS 'When the recipient reported it as spam';
COMMENT ON COLUMN reporting.deliveries.unsubscribed_at IS 'When the recipient unsubscribed through it';
COMMENT ON COLUMN reporting.deliveries.ended_at IS 'When it ended; late evidence may still change how';
COMMENT ON COLUMN reporting.deliveries.updated_at IS 'When the row last changed';
