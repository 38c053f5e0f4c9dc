CREATE VIEW reporting.route_capabilities AS
SELECT c.provider, c.channel, c.country, c.provable, c.source, c.note, c.updated_at
FROM store.route_capabilities c;

COMMENT ON VIEW reporting.route_capabilities IS
    'Whether anybody tells that a message arrived. The row of a country goes before that of all';
COMMENT ON COLUMN reporting.route_capabilities.provider IS 'The provider account';
COMMENT ON COLUMN reporting.route_capabilities.channel IS 'email, push, sms, in_app, webhook or chat';
COMMENT ON COLUMN reporting.route_capabilities.country IS 'ISO 3166-1 of a phone number, like GB; * for all others';
COMMENT ON COLUMN reporting.route_capabilities.provable IS 'Whether a delivery there can be proven';
COMMENT ON COLUMN reporting.route_capabilities.source IS 'adapter, or operator: landed.set_route_capability says so';
COMMENT ON COLUMN reporting.route_capabilities.note IS 'Why';
COMMENT ON COLUMN reporting.route_capabilities.updated_at IS 'When that was last said';
