CREATE VIEW reporting.control_events AS
SELECT c.at, c.subject, c.name, c.event, c.detail, c.data
FROM store.control_events c;

COMMENT ON VIEW reporting.control_events IS 'Every step that breakers, shares, limits, load shedding and people took';
COMMENT ON COLUMN reporting.control_events.at IS 'When';
COMMENT ON COLUMN reporting.control_events.subject IS 'provider or load';
COMMENT ON COLUMN reporting.control_events.name IS 'Which: the provider account, or the class that load shedding pauses';
COMMENT ON COLUMN reporting.control_events.event IS
    'opened, probe_failed, closed (a breaker); limited; share_lowered, share_raised; drained, restored (people); shedding_began, '
    'shedding_ended';
COMMENT ON COLUMN reporting.control_events.detail IS 'Why, in words';
COMMENT ON COLUMN reporting.control_events.data IS 'The numbers it was decided by';
