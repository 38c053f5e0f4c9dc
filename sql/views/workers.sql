CREATE VIEW reporting.workers AS
SELECT w.id AS worker_id,
       w.region,
       w.host,
       w.pid,
       w.lanes,
       w.stopped_at IS NULL AND w.last_seen_at > now() - interval '30 seconds' AS alive,
       now() - w.last_seen_at AS silent_for,
       w.started_at,
       w.last_seen_at,
       w.stopped_at
FROM store.workers w;

COMMENT ON VIEW reporting.workers IS 'Worker processes, alive and gone';
COMMENT ON COLUMN reporting.workers.worker_id IS 'Id of the process; attempts carry it';
COMMENT ON COLUMN reporting.workers.region IS 'The region it works for';
COMMENT ON COLUMN reporting.workers.host IS 'The machine it runs on';
COMMENT ON COLUMN reporting.workers.pid IS 'Its process id there';
COMMENT ON COLUMN reporting.workers.lanes IS 'The lanes it serves';
COMMENT ON COLUMN reporting.workers.alive IS 'Not stopped, and seen in the last 30 seconds: several heartbeats';
COMMENT ON COLUMN reporting.workers.silent_for IS 'How long ago it was last seen';
COMMENT ON COLUMN reporting.workers.started_at IS 'When it started';
COMMENT ON COLUMN reporting.workers.last_seen_at IS 'When it was last seen';
COMMENT ON COLUMN reporting.workers.stopped_at IS 'When it stopped in order; NULL for one that runs or was killed';
