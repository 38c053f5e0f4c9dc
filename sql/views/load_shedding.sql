CREATE VIEW reporting.load_shedding AS
SELECT s.class,
       s.active,
       s.since,
       s.lane,
       make_interval(secs => s.oldest_seconds) AS late_by,
       nullif(s.judged_at, to_timestamp(0)) AS judged_at
FROM store.load_shedding s;

COMMENT ON VIEW reporting.load_shedding IS
    'Whether claims of promotional deliveries pause because transactional or alert ones are late';
COMMENT ON COLUMN reporting.load_shedding.class IS 'The class that pauses: promotional';
COMMENT ON COLUMN reporting.load_shedding.active IS 'Whether it pauses now';
COMMENT ON COLUMN reporting.load_shedding.since IS 'Since when that is so';
COMMENT ON COLUMN reporting.load_shedding.lane IS 'The lane that was late when this was last judged';
COMMENT ON COLUMN reporting.load_shedding.late_by IS 'How late it was';
COMMENT ON COLUMN reporting.load_shedding.judged_at IS 'When this was last judged; NULL before the first time';
