-- replay_endpoint: an endpoint is sent again what it missed, one delivery or all of a time. Shows what it would do; acts only
-- with commit => true. It judges and replays as landed.replay does (replay.sql lists the verdicts), but for one difference:
--
-- A receiver of signed events drops copies by their id, and a replay keeps the id: it requeues the delivery, or it makes a
-- new one that names the original (replay_of). So what may have arrived is sent again without being forced. A chat room
-- drops nothing: there, only what surely was not sent is.
CREATE FUNCTION landed.replay_endpoint(
    endpoint_id uuid,
    delivery_id uuid DEFAULT NULL,
    since timestamptz DEFAULT NULL,
    until timestamptz DEFAULT NULL,
    arrived boolean DEFAULT false,
    after uuid DEFAULT NULL,
    tenant text DEFAULT NULL,
    max_rows int DEFAULT 1000,
    commit boolean DEFAULT false,
    reason text DEFAULT NULL,
    valid_for interval DEFAULT interval '100 hours'
) RETURNS TABLE (
    delivery uuid,
    notification uuid,
    event text,
    standing text,
    verdict text,
    explanation text,
    replayed_as uuid
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    e store.endpoints;
    d store.deliveries;
    asked CONSTANT jsonb := jsonb_strip_nulls(jsonb_build_object(
        'endpoint_id', replay_endpoint.endpoint_id, 'delivery_id', replay_endpoint.delivery_id,
        'since', replay_endpoint.since, 'until', replay_endpoint.until, 'arrived', replay_endpoint.arrived));
BEGIN
    e := landed._endpoint_to_replay(replay_endpoint.endpoint_id, replay_endpoint.tenant, replay_endpoint.commit);
    PERFORM landed._check_replay('dead', replay_endpoint.max_rows, replay_endpoint.commit, replay_endpoint.reason, NULL);
    IF num_nonnulls(replay_endpoint.delivery_id, replay_endpoint.since) <> 1 THEN
        PERFORM landed._refuse('invalid_parameter_value', 'since', 'either this or delivery_id says what to replay',
                               'Both were given, or neither.', 'Give delivery_id for one, since (and until) for many.');
    END IF;
    FOR d IN
        SELECT c.*
        FROM landed._endpoint_candidates(e, replay_endpoint.delivery_id, replay_endpoint.since, replay_endpoint.until,
                                         replay_endpoint.arrived, replay_endpoint.after, replay_endpoint.max_rows) AS c
    LOOP
        IF replay_endpoint.commit THEN
            SELECT q.* INTO d FROM store.deliveries q WHERE q.shard = d.shard AND q.id = d.id FOR UPDATE;
        END IF;
        delivery := d.id;
        notification := d.notification_id;
        event := d.category;
        standing := concat_ws(': ', d.state, d.reason);
        replayed_as := NULL;
        SELECT j.verdict, j.explanation INTO verdict, explanation
        FROM landed._judge_replay(d, e.format = 'standard' OR landed._surely_not_sent(d)) AS j;
        IF replay_endpoint.commit AND verdict LIKE 'would%' THEN
            replayed_as := landed._replay_one(d, verdict, replay_endpoint.reason, now() + replay_endpoint.valid_for, asked);
            verdict := CASE verdict WHEN 'would_requeue' THEN 'requeued' ELSE 'sent_again' END;
        END IF;
        RETURN NEXT;
    END LOOP;
    IF NOT FOUND AND replay_endpoint.delivery_id IS NOT NULL THEN
        delivery := replay_endpoint.delivery_id;
        verdict := 'refused_unknown';
        explanation := 'no such delivery went to this endpoint, or it is older than what is kept';
        RETURN NEXT;
    END IF;
END
$$;
COMMENT ON FUNCTION landed.replay_endpoint IS
    'Sends an endpoint again what it missed: one delivery, or what is since a time. The receiver knows copies by their id. '
    'A dry run unless commit => true; one row per candidate with the verdict and why';

CREATE FUNCTION landed._endpoint_to_replay(endpoint_id uuid, tenant text, commit boolean) RETURNS store.endpoints
LANGUAGE plpgsql STABLE AS $$
DECLARE
    e store.endpoints;
BEGIN
    SELECT q.* INTO e
    FROM store.endpoints q
    WHERE q.id = _endpoint_to_replay.endpoint_id
      AND (_endpoint_to_replay.tenant IS NULL OR q.tenant_id = landed._tenant(_endpoint_to_replay.tenant));
    IF NOT FOUND THEN
        PERFORM landed._refuse('no_data_found', 'endpoint_id', 'there is no such endpoint',
                               format('Asked for %s.', coalesce(endpoint_id::text, 'NULL')),
                               'SELECT endpoint_id, name FROM reporting.endpoints lists them.');
    ELSIF commit AND e.status <> 'enabled' THEN
        PERFORM landed._refuse('object_not_in_prerequisite_state', 'endpoint_id', 'the endpoint is disabled',
                               format('Since %s: %s.', e.disabled_at, e.disabled_reason),
                               'Enable it first: nothing is sent to it as it is.');
    END IF;
    RETURN e;
END
$$;
COMMENT ON FUNCTION landed._endpoint_to_replay IS 'An endpoint, of one tenant if that is named; raises unless it can be sent to';

-- Originals only: a replay made from the original keeps its id, one made from a replay would not. Asked for a replay, its
-- original is meant. In id order, the order of the events and of everyone who locks several deliveries.
CREATE FUNCTION landed._endpoint_candidates(e store.endpoints, delivery_id uuid, since timestamptz, until timestamptz,
                                            arrived boolean, after uuid, max_rows int)
RETURNS SETOF store.deliveries
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
BEGIN
    IF _endpoint_candidates.delivery_id IS NOT NULL THEN
        RETURN QUERY
        WITH RECURSIVE line AS (
            SELECT d.id, d.replay_of
            FROM store.deliveries d
            WHERE d.shard = store.shard_of(_endpoint_candidates.delivery_id) AND d.id = _endpoint_candidates.delivery_id
            UNION ALL
            SELECT d.id, d.replay_of
            FROM line l
            JOIN store.deliveries d ON d.shard = store.shard_of(l.replay_of) AND d.id = l.replay_of
        )
        SELECT d.*
        FROM line l
        JOIN store.deliveries d ON d.shard = store.shard_of(l.id) AND d.id = l.id
        WHERE l.replay_of IS NULL
          AND d.tenant_id = (e).tenant_id
          AND d.address = (e).id::text
          AND d.channel IN ('webhook', 'chat');
        RETURN;
    END IF;
    RETURN QUERY
    SELECT d.*
    FROM store.deliveries d
    WHERE d.tenant_id = (e).tenant_id
      AND d.address = (e).id::text
      AND d.channel IN ('webhook', 'chat')
      AND d.replay_of IS NULL
      AND d.id >= store.id_floor(since)
      AND (until IS NULL OR d.id < store.id_floor(until))
      AND (_endpoint_candidates.after IS NULL OR d.id > _endpoint_candidates.after)
      AND (d.state IN ('dead', 'expired', 'failed', 'unconfirmed') OR (arrived AND d.state = 'delivered'))
      AND (arrived OR NOT EXISTS (
              SELECT FROM store.deliveries t
              WHERE t.shard = d.shard
                AND t.id BETWEEN store.children_from(d.notification_id) AND store.children_to(d.notification_id)
                AND t.replay_of = d.id
                AND t.state = 'delivered'))
    ORDER BY d.id
    LIMIT max_rows;
END
$$;
COMMENT ON FUNCTION landed._endpoint_candidates IS 'The original of the delivery named, or the originals that match';

CREATE FUNCTION landed._surely_not_sent(d store.deliveries) RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT count(*) = (d).attempt_no AND coalesce(bool_and(a.state IN ('refused', 'not_sent')), true)
    FROM store.attempts a
    WHERE a.shard = (d).shard AND a.delivery_id = (d).id;
END;
COMMENT ON FUNCTION landed._surely_not_sent IS 'Whether every attempt of it is on record, and none can have been accepted';

GRANT EXECUTE ON FUNCTION landed.replay_endpoint TO landed_operator;
