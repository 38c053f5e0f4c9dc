-- Counts nothing: of each lane it reads the first row of either queue. So it costs the same with a million waiting.
CREATE VIEW reporting.lanes AS
WITH account AS MATERIALIZED (
    SELECT p.provider, p.status, p.ready,
           CASE p.status
               WHEN 'drained' THEN format('%s is drained since %s by %s (%s)', p.provider, date_trunc('second', p.since),
                                          p.drained_by, p.drain_reason)
               WHEN 'open' THEN format('%s is not called, because %s%s; one delivery tries it at %s', p.provider,
                                       CASE p.reason WHEN 'unauthorized' THEN 'it refuses our account' ELSE 'it fails' END,
                                       ' (' || nullif(p.detail, '') || ')', date_trunc('second', p.ready_at))
               WHEN 'half_open' THEN format('%s is tried with one delivery, until %s at the latest', p.provider,
                                            date_trunc('second', p.ready_at))
               WHEN 'rate_limited' THEN format('%s said to slow down until %s', p.provider, date_trunc('second', p.ready_at))
               WHEN 'recovering' THEN format('%s is recovering and gets %s %% of its weight', p.provider,
                                             round(p.share::numeric * 100))
           END AS told
    FROM reporting.providers p
), lane AS (
    SELECT l.name, l.channel, l.class, l.providers, true AS configured
    FROM store.lanes l
    UNION ALL
    SELECT q.lane, split_part(q.lane, '.', 1), split_part(q.lane, '.', 2), '[]', false
    FROM reporting.queued_lanes() AS q(lane)
    WHERE NOT EXISTS (SELECT FROM store.lanes l WHERE l.name = q.lane)
)
SELECT lane.name AS lane,
       lane.channel,
       lane.class,
       accounts.providers,
       served.workers,
       due.oldest_due_at,
       CASE WHEN due.oldest_due_at <= now() THEN now() - due.oldest_due_at END AS late_by,
       CASE
           WHEN lane.configured AND NOT accounts.any_ready THEN 'no_provider'
           WHEN served.workers = 0 THEN 'no_worker'
           WHEN shed.active THEN 'load_shedding'
       END AS waiting_for,
       nullif(concat_ws('; ',
           CASE WHEN lane.configured AND accounts.providers = '[]' THEN 'it has no provider' END,
           accounts.told,
           CASE WHEN served.workers = 0 THEN 'no worker serves it' END,
           CASE WHEN NOT lane.configured THEN 'the configuration does not have it' END,
           CASE WHEN shed.active THEN format('%s claims pause since %s, because %s', lane.class,
                                            date_trunc('second', shed.since), shed.why) END),
           '') AS detail
FROM lane
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_agg(l.account || jsonb_build_object('status', a.status) ORDER BY l.account -> 'order', l.place), '[]')
               AS providers,
           coalesce(bool_or(a.ready), false) AS any_ready,
           string_agg(a.told, '; ' ORDER BY l.account -> 'order', l.place) AS told
    FROM jsonb_array_elements(lane.providers) WITH ORDINALITY AS l(account, place)
    JOIN account a ON a.provider = l.account ->> 'provider'
) AS accounts
CROSS JOIN LATERAL (
    SELECT count(*) AS workers
    FROM store.workers w
    JOIN store.regions r ON r.name = w.region AND r.active
    WHERE w.stopped_at IS NULL
      AND w.last_seen_at > now() - interval '30 seconds'
      AND lane.name = ANY (w.lanes)
) AS served
LEFT JOIN LATERAL (
    SELECT s.active, s.since,
           CASE WHEN s.lane IS NULL THEN 'more urgent work is late'
                ELSE format('%s is %s s late', s.lane, round(s.oldest_seconds::numeric)) END AS why
    FROM store.load_shedding s
    WHERE s.class = lane.class AND s.active
) AS shed ON true
CROSS JOIN LATERAL (
    SELECT min(first.due_at) AS oldest_due_at
    FROM (
        (SELECT d.due_at FROM store.deliveries d
         WHERE d.lane = lane.name AND d.failures = 0 AND d.state = 'queued' ORDER BY d.due_at LIMIT 1)
        UNION ALL
        (SELECT d.due_at FROM store.deliveries d
         WHERE d.lane = lane.name AND d.failures > 0 AND d.state = 'queued' ORDER BY d.due_at LIMIT 1)
    ) AS first
) AS due;

COMMENT ON VIEW reporting.lanes IS
    'Each lane, what it lacks just now, and since when its oldest delivery waits. Also lanes that are no longer configured, as '
    'long as something waits in them';
COMMENT ON COLUMN reporting.lanes.lane IS 'channel.class.route: what deliveries queue with';
COMMENT ON COLUMN reporting.lanes.channel IS 'email, push, sms, in_app, webhook or chat';
COMMENT ON COLUMN reporting.lanes.class IS 'transactional, promotional or alert';
COMMENT ON COLUMN reporting.lanes.providers IS
    'Its provider accounts, first the ones that are asked first: [{"provider", "order", "weight", "status"}]';
COMMENT ON COLUMN reporting.lanes.workers IS 'How many live workers of the active region serve it';
COMMENT ON COLUMN reporting.lanes.oldest_due_at IS 'When the first of its queued deliveries is or was due; NULL when none waits';
COMMENT ON COLUMN reporting.lanes.late_by IS 'How long it has been due; NULL when nothing is due';
COMMENT ON COLUMN reporting.lanes.waiting_for IS
    'What keeps waiting whatever becomes due. no_provider: none of its accounts is ready. no_worker. load_shedding: promotional '
    'claims pause while more urgent work is late. NULL: nothing does';
COMMENT ON COLUMN reporting.lanes.detail IS
    'The same in words, naming each provider that is not well, and why; NULL when there is nothing to say';
