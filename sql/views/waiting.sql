-- Counts what waits and nothing else: each branch reads one partial index. What is queued and due waits for what its lane
-- lacks.
CREATE VIEW reporting.waiting AS
SELECT t.name AS tenant,
       waiting.lane,
       waiting.state,
       waiting.reason,
       CASE WHEN waiting.state = 'queued' AND waiting.overdue > 0 THEN l.waiting_for END AS waits_for,
       waiting.rows,
       waiting.overdue,
       waiting.first_due_at,
       waiting.last_due_at
FROM (
    SELECT n.tenant_id, 'intake.' || n.class AS lane, n.state, n.reason, count(*) AS rows,
           count(*) FILTER (WHERE n.due_at <= now()) AS overdue, min(n.due_at) AS first_due_at, max(n.due_at) AS last_due_at
    FROM store.notifications n
    WHERE n.state = 'accepted'
    GROUP BY 1, 2, 3, 4
    UNION ALL
    SELECT d.tenant_id, d.lane, d.state, d.reason, count(*), count(*) FILTER (WHERE d.due_at <= now()), min(d.due_at),
           max(d.due_at)
    FROM store.deliveries d
    WHERE d.state = 'queued'
    GROUP BY 1, 2, 3, 4
    UNION ALL
    SELECT d.tenant_id, d.lane, d.state, d.reason, count(*), count(*) FILTER (WHERE d.due_at <= now()), min(d.due_at),
           max(d.due_at)
    FROM store.deliveries d
    WHERE d.state IN ('sending', 'sent', 'ambiguous')
    GROUP BY 1, 2, 3, 4
) AS waiting
LEFT JOIN reporting.lanes l ON l.lane = waiting.lane
LEFT JOIN store.tenants t ON t.id = waiting.tenant_id;

COMMENT ON VIEW reporting.waiting IS 'Why things wait: everything on its way, counted by tenant, lane, state and reason';
COMMENT ON COLUMN reporting.waiting.tenant IS 'Whose notifications they are';
COMMENT ON COLUMN reporting.waiting.lane IS 'What they queue with: channel.class.route, or intake.class before they are planned';
COMMENT ON COLUMN reporting.waiting.state IS 'accepted (not planned yet), queued, sending, sent (waits for evidence) or ambiguous';
COMMENT ON COLUMN reporting.waiting.reason IS
    'Why: retry, failover, probe_failed, rate_limited, recipient_limit, template_limit, unauthorized, held, replay, released, outcome_unknown, '
    'endpoint_failing, …; NULL is the ordinary wait for a turn';
COMMENT ON COLUMN reporting.waiting.waits_for IS
    'What its lane lacks for those that are queued and due: no_provider, no_worker or load_shedding; reporting.lanes tells more';
COMMENT ON COLUMN reporting.waiting.rows IS 'How many';
COMMENT ON COLUMN reporting.waiting.overdue IS 'Of these, due by now: the backlog';
COMMENT ON COLUMN reporting.waiting.first_due_at IS 'When the first of them is due';
COMMENT ON COLUMN reporting.waiting.last_due_at IS 'When the last of them is due';
