-- explain: why things are as they are, for one notification. First the decision trace that intake stored (each rule, its
-- input, its verdict), then each delivery: why it waits, or how it ended, in words.
CREATE FUNCTION landed.explain(notification_id uuid, tenant text DEFAULT NULL)
RETURNS TABLE (step int, delivery_id uuid, rule text, input jsonb, verdict text, explanation text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    n store.notifications := landed._find_notification(explain.notification_id, explain.tenant);
BEGIN
    RETURN QUERY
    WITH told AS (
        SELECT 0 AS part, 0::bigint AS place, NULL::uuid AS delivery_id, 'notification' AS rule,
               jsonb_build_object('template', format('%s@%s', n.template_id, n.template_version), 'category', n.category,
                                  'class', n.class, 'channels', n.channels) AS input,
               n.state AS verdict, landed._why_notification(n) AS explanation
        UNION ALL
        SELECT 1, t.place, NULL, t.rule ->> 'rule', t.rule -> 'input', t.rule ->> 'verdict', NULL
        FROM jsonb_array_elements(n.trace) WITH ORDINALITY AS t(rule, place)
        UNION ALL
        SELECT 2, row_number() OVER (ORDER BY d.id), d.id, d.channel || '.delivery',
               jsonb_strip_nulls(jsonb_build_object('lane', d.lane, 'attempts', d.attempt_no, 'failures', d.failures,
                                                    'provider', d.provider, 'tried', d.tried, 'replay_of', d.replay_of)),
               concat_ws(': ', d.state, d.reason), landed._why_delivery(d)
        FROM store.deliveries d
        WHERE d.shard = n.shard
          AND d.id BETWEEN store.children_from(n.id) AND store.children_to(n.id)
          AND d.notification_id = n.id
    )
    SELECT row_number() OVER (ORDER BY part, place)::int, delivery_id, rule, input, verdict, explanation
    FROM told
    ORDER BY 1;
END
$$;
COMMENT ON FUNCTION landed.explain IS
    'Why a notification and its deliveries are where they are: the stored decision trace, then each delivery in words';

CREATE FUNCTION landed._why_notification(n store.notifications) RETURNS text
LANGUAGE sql STABLE
RETURN CASE
    WHEN n.state = 'planned' THEN format('accepted at %s, planned at %s; its deliveries follow', n.accepted_at, n.planned_at)
    WHEN n.state <> 'accepted' THEN format('ended before it was planned: %s', n.reason)
    WHEN n.reason = 'held' THEN format('held by an operator until %s; landed.release lets it go', n.due_at)
    WHEN n.due_at > now() THEN format('scheduled for %s', n.due_at)
    ELSE format('waits for intake since %s', n.due_at)
END;
COMMENT ON FUNCTION landed._why_notification IS 'Why a notification is where it is, in words';

-- PL/pgSQL, because schema reporting is built after this one.
CREATE FUNCTION landed._why_lane(lane text) RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT format('its lane waits: %s', l.detail)
            FROM reporting.lanes l
            WHERE l.lane = _why_lane.lane AND l.waiting_for IS NOT NULL);
END
$$;
COMMENT ON FUNCTION landed._why_lane IS 'What keeps waiting all that is due in a lane, in words; NULL when nothing does';

CREATE FUNCTION landed._why_delivery(d store.deliveries) RETURNS text
LANGUAGE sql STABLE
RETURN CASE d.state
    WHEN 'queued' THEN concat_ws('; ',
        CASE d.reason
            WHEN 'retry' THEN format('waits for its retry after failure %s', d.failures)
            WHEN 'failover' THEN format('%s refused it; goes to another provider of its route at once', d.provider)
            WHEN 'probe_failed' THEN format('was sent to see whether %s is back, which it is not; at no cost to its retries',
                                            d.provider)
            WHEN 'recipient_limit' THEN 'waits because its recipient has had enough for an hour on this channel; landed.release lets it go'
            WHEN 'template_limit' THEN 'waits for its turn among the messages of its template; landed.release lets it go'
            WHEN 'rate_limited' THEN 'waits because the provider said to slow down'
            WHEN 'unauthorized' THEN 'waits because the provider refused our account'
            WHEN 'held' THEN 'held by an operator; landed.release lets it go'
            WHEN 'replay' THEN 'replayed by an operator, waits for a worker'
            WHEN 'scheduled' THEN 'scheduled for later'
            WHEN 'endpoint_failing' THEN 'put off, because its endpoint fails just now; at no cost to its retries'
            WHEN 'released' THEN 'given back by a worker before it was called, waits for the next'
            ELSE 'waits for its first attempt'
        END,
        CASE WHEN d.due_at <= now() THEN 'due since ' ELSE 'due at ' END || d.due_at,
        CASE WHEN d.due_at <= now() THEN landed._why_lane(d.lane) END,
        'expires at ' || d.expires_at)
    WHEN 'sending' THEN format('attempt %s is with %s; if its worker is lost, that is noticed at %s',
                               d.attempt_no, d.provider, d.due_at)
    WHEN 'sent' THEN format('%s accepted it at %s; waits for evidence of delivery, next asked at %s',
                            d.provider, d.sent_at, d.due_at)
    WHEN 'ambiguous' THEN format('attempt %s may or may not have been accepted; %s is asked at %s, nothing is resent before',
                                 d.attempt_no, d.provider, d.due_at)
    WHEN 'delivered' THEN format('delivered at %s, as %s says', d.delivered_at, d.provider)
    WHEN 'bounced' THEN format('bounced at %s (%s)', coalesce(d.bounced_at, d.ended_at), d.reason)
    WHEN 'failed' THEN format('failed at %s (%s)', d.ended_at, d.reason)
    WHEN 'unconfirmed' THEN CASE d.reason
        WHEN 'ambiguous_unresolved' THEN 'it may have been sent and nothing could tell; late evidence still counts'
        WHEN 'not_acknowledged' THEN
            'it was accepted, nobody there can be asked, and the receiving side never said that it came; late evidence still counts'
        ELSE 'it was accepted, and nothing ever proved what became of it; late evidence still counts' END
    WHEN 'suppressed' THEN format('not sent: its address must not be sent to (%s)', d.reason)
    WHEN 'cancelled' THEN format('cancelled at %s', d.ended_at)
    WHEN 'expired' THEN format('not sent in time: it expired at %s', d.expires_at)
    WHEN 'dead' THEN format('given up at %s after %s attempts (%s): %s; landed.replay starts it over', d.ended_at,
        d.attempt_no, d.reason,
        coalesce((SELECT a.detail FROM store.attempts a
                  WHERE a.shard = d.shard AND a.delivery_id = d.id AND a.no = d.attempt_no), 'no detail'))
END;
COMMENT ON FUNCTION landed._why_delivery IS 'Why a delivery waits, or how it ended, in words';
