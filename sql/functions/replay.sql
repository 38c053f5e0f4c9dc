-- replay: what ended without arriving gets another chance, one delivery or all that match. Shows what it would do; acts
-- only with commit => true.
--
--   would_requeue, requeued       dead or expired, and no attempt of it can have been accepted: the same row starts
--                                 over with a fresh budget
--   would_send_again, sent_again  forced: a new delivery beside the old one, which stays as it ended
--   refused_not_ended             it is still on its way
--   refused_already_replayed      a replay of it is on its way
--   refused_suppressed            its address must not be sent to, forced or not
--   refused_no_address            there is nowhere to send it to, forced or not
--   refused_proven_delivered      it arrived; force would send a second copy
--   refused_cannot_prove_not_sent an attempt may have been accepted, or its record is gone (I12); force takes the risk
--   refused_not_sent_on_purpose   never sent, and not for want of trying: cancelled, suppressed, refused; force sends it
--   refused_unknown               there is no such delivery, or it is older than what is kept
--
-- Two at once: each row is locked and judged again before it is touched, so only one of them replays it.
CREATE FUNCTION landed.replay(
    delivery_id uuid DEFAULT NULL,
    tenant text DEFAULT NULL,
    state text DEFAULT 'dead',
    template_id text DEFAULT NULL,
    category text DEFAULT NULL,
    provider text DEFAULT NULL,
    since timestamptz DEFAULT NULL,
    until timestamptz DEFAULT NULL,
    max_rows int DEFAULT 1000,
    commit boolean DEFAULT false,
    force boolean DEFAULT false,
    reason text DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL
) RETURNS TABLE (
    delivery uuid,
    notification uuid,
    owner text,
    recipient text,
    template text,
    standing text,
    verdict text,
    explanation text,
    replayed_as uuid
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d store.deliveries;
    asked CONSTANT jsonb := jsonb_strip_nulls(jsonb_build_object(
        'delivery_id', replay.delivery_id, 'state', replay.state, 'template_id', replay.template_id,
        'category', replay.category, 'provider', replay.provider, 'since', replay.since, 'until', replay.until));
BEGIN
    PERFORM landed._check_replay(replay.state, replay.max_rows, replay.commit, replay.reason, replay.expires_at);
    IF replay.commit AND num_nonnulls(replay.delivery_id, replay.tenant, replay.template_id, replay.category,
                                      replay.provider, replay.since, replay.until) = 0 THEN
        PERFORM landed._refuse('invalid_parameter_value', 'delivery_id', 'nothing says which deliveries',
                               'Without a delivery or a filter it would be every dead letter of every tenant.',
                               'Give delivery_id, or at least one of tenant, template_id, category, provider, since, until.');
    END IF;
    FOR d IN
        SELECT c.*
        FROM landed._replay_candidates(
            replay.delivery_id, (SELECT landed._tenant(replay.tenant) WHERE replay.tenant IS NOT NULL), replay.state,
            replay.template_id, replay.category, replay.provider, replay.since, replay.until, replay.max_rows) AS c
    LOOP
        IF replay.commit THEN
            SELECT q.* INTO d FROM store.deliveries q WHERE q.shard = d.shard AND q.id = d.id FOR UPDATE;
        END IF;
        delivery := d.id;
        notification := d.notification_id;
        owner := (SELECT t.name FROM store.tenants t WHERE t.id = d.tenant_id);
        recipient := d.recipient_id;
        template := format('%s@%s', d.template_id, d.template_version);
        standing := concat_ws(': ', d.state, d.reason);
        replayed_as := NULL;
        SELECT j.verdict, j.explanation INTO verdict, explanation FROM landed._judge_replay(d, replay.force) AS j;
        IF replay.commit AND verdict LIKE 'would%' THEN
            replayed_as := landed._replay_one(d, verdict, replay.reason, replay.expires_at, asked);
            verdict := CASE verdict WHEN 'would_requeue' THEN 'requeued' ELSE 'sent_again' END;
        END IF;
        RETURN NEXT;
    END LOOP;
    IF NOT FOUND AND replay.delivery_id IS NOT NULL THEN
        delivery := replay.delivery_id;
        verdict := 'refused_unknown';
        explanation := 'there is no such delivery: it may belong to another tenant, or be older than what is kept';
        RETURN NEXT;
    END IF;
END
$$;
COMMENT ON FUNCTION landed.replay IS
    'Gives what ended without arriving another chance: one delivery, or those that match. A dry run unless commit => true; '
    'one row per candidate with the verdict and why';

CREATE FUNCTION landed._check_replay(state text, max_rows int, commit boolean, reason text, expires_at timestamptz)
RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    rows_max CONSTANT int := 10000;  -- each locks a row until the caller commits; more is done in several goes
    ended CONSTANT text[] := ARRAY['dead', 'expired', 'unconfirmed', 'bounced', 'failed', 'suppressed', 'cancelled',
                                   'delivered'];
BEGIN
    IF commit THEN
        PERFORM landed._need_reason(reason);
    END IF;
    IF state IS NULL OR NOT state = ANY (ended) THEN
        PERFORM landed._refuse('invalid_parameter_value', 'state', 'must be a state in which a delivery ends',
                               format('It is %L.', state), format('One of %s.', array_to_string(ended, ', ')));
    ELSIF max_rows IS NULL OR max_rows NOT BETWEEN 1 AND rows_max THEN
        PERFORM landed._refuse('invalid_parameter_value', 'max_rows', format('must be 1 to %s', rows_max),
                               format('It is %L.', max_rows), 'Replay more in several goes.');
    ELSIF expires_at NOT BETWEEN now() AND now() + landed._validity_max() THEN
        PERFORM landed._refuse('invalid_parameter_value', 'expires_at',
                               format('must be in the future, by at most %s', landed._validity_max()),
                               format('It is %s.', expires_at), 'NULL means the category''s validity from now.');
    END IF;
END
$$;
COMMENT ON FUNCTION landed._check_replay IS 'Raises unless the arguments of a replay make sense';

-- In id order: whoever locks several deliveries takes them in this order. Planned with the values at hand, so that dead
-- letters are found through their partial index.
CREATE FUNCTION landed._replay_candidates(delivery_id uuid, owner_id int, state text, template_id text, category text,
                                          provider text, since timestamptz, until timestamptz, max_rows int)
RETURNS SETOF store.deliveries
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
BEGIN
    IF _replay_candidates.delivery_id IS NOT NULL THEN
        RETURN QUERY
        SELECT d.*
        FROM store.deliveries d
        WHERE d.shard = store.shard_of(_replay_candidates.delivery_id)
          AND d.id = _replay_candidates.delivery_id
          AND (owner_id IS NULL OR d.tenant_id = owner_id);
        RETURN;
    END IF;
    RETURN QUERY
    SELECT d.*
    FROM store.deliveries d
    WHERE d.state = _replay_candidates.state
      AND (owner_id IS NULL OR d.tenant_id = owner_id)
      AND (_replay_candidates.template_id IS NULL OR d.template_id = _replay_candidates.template_id)
      AND (_replay_candidates.category IS NULL OR d.category = _replay_candidates.category)
      AND (_replay_candidates.provider IS NULL OR d.provider = _replay_candidates.provider)
      AND (since IS NULL OR d.ended_at >= since)
      AND (until IS NULL OR (d.ended_at < until AND d.id < store.id_floor(until)))
    ORDER BY d.id
    LIMIT max_rows;
END
$$;
COMMENT ON FUNCTION landed._replay_candidates IS 'The delivery named, or those that match';

-- What every attempt came to is the proof that nothing can be sent twice (I5). An attempt that has no record proves
-- nothing.
CREATE FUNCTION landed._judge_replay(d store.deliveries, force boolean, OUT verdict text, OUT explanation text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    recorded int;
    may_be_sent boolean;
    suppressed_for text;
    twin uuid;
BEGIN
    -- What got no answer from a merchant may have arrived, and is known there by its id (decision 13).
    SELECT count(*), coalesce(bool_or(a.state NOT IN ('refused', 'not_sent')
                                      AND (a.state, d.channel) <> ('unanswered', 'webhook')), false)
    INTO recorded, may_be_sent
    FROM store.attempts a
    WHERE a.shard = d.shard AND a.delivery_id = d.id;
    SELECT s.reason INTO suppressed_for
    FROM store.suppressions s
    WHERE s.tenant_id = d.tenant_id AND s.channel = d.channel
      AND s.address = store.normalise_address(d.channel, d.address)
      AND s.scope IN ('all', d.category) AND s.lifted_at IS NULL
    LIMIT 1;
    SELECT t.id INTO twin
    FROM store.deliveries t
    WHERE t.shard = d.shard
      AND t.id BETWEEN store.children_from(d.notification_id) AND store.children_to(d.notification_id)
      AND t.notification_id = d.notification_id AND t.replay_of = d.id AND t.ended_at IS NULL
    LIMIT 1;

    SELECT v.verdict, v.explanation INTO verdict, explanation
    FROM (VALUES
        (1, d.ended_at IS NULL, 'refused_not_ended', format('it is %s, still on its way', d.state)),
        (2, twin IS NOT NULL, 'refused_already_replayed', format('delivery %s is a replay of it, on its way', twin)),
        (3, suppressed_for IS NOT NULL, 'refused_suppressed',
         format('the address is suppressed (%s); landed.unsuppress first', suppressed_for)),
        (4, d.address = '', 'refused_no_address', 'it has no address; send a new notification'),
        (5, d.state IN ('dead', 'expired') AND NOT may_be_sent AND recorded = d.attempt_no, 'would_requeue',
         'nothing says that an attempt was accepted: it starts over with a fresh budget'),
        (6, force, 'would_send_again', 'forced: goes out as a new delivery, whatever became of the old one'),
        (7, d.delivered_at IS NOT NULL, 'refused_proven_delivered', format('it was delivered at %s', d.delivered_at)),
        (8, may_be_sent OR recorded <> d.attempt_no, 'refused_cannot_prove_not_sent',
         'an attempt was accepted or may have been; force => true risks a second copy'),
        (9, true, 'refused_not_sent_on_purpose',
         format('it was never sent, because it was %s; force => true sends it', d.state))
    ) AS v(rank, holds, verdict, explanation)
    WHERE v.holds
    ORDER BY v.rank
    LIMIT 1;
END
$$;
COMMENT ON FUNCTION landed._judge_replay IS 'What a replay of this delivery would be, and why';

CREATE FUNCTION landed._replay_one(d store.deliveries, verdict text, reason text, expires_at timestamptz, asked jsonb)
RETURNS uuid
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    until timestamptz := coalesce(_replay_one.expires_at, now() + landed._validity(d.tenant_id, d.category));
    again uuid := d.id;
    facts jsonb;
BEGIN
    IF verdict = 'would_requeue' THEN
        UPDATE store.deliveries q
        SET state = 'queued', reason = 'replay', due_at = now(), failures = 0, lookups = 0, ended_at = NULL,
            expires_at = until, updated_at = now()
        WHERE q.shard = d.shard AND q.id = d.id;
    ELSE
        again := store.new_child_id(d.notification_id);
        INSERT INTO store.deliveries
            (shard, id, notification_id, tenant_id, recipient_id, category, class, channel, lane, address, sender,
             reply_to, template_id, template_version, state, reason, due_at, replay_of, expires_at, country)
        VALUES
            (d.shard, again, d.notification_id, d.tenant_id, d.recipient_id, d.category, d.class, d.channel, d.lane,
             d.address, d.sender, d.reply_to, d.template_id, d.template_version, 'queued', 'replay', now(), d.id, until,
             d.country);
    END IF;
    facts := jsonb_build_object('reason', _replay_one.reason, 'was', d.state, 'forced', verdict = 'would_send_again',
                                'replayed_as', again, 'expires_at', until);
    PERFORM landed._tell(d.shard, d.tenant_id, d.notification_id, d.id, 'replayed', facts);
    PERFORM landed._audit('replay', d.tenant_id, 'delivery ' || d.id, _replay_one.reason, facts || asked);
    RETURN again;
END
$$;
COMMENT ON FUNCTION landed._replay_one IS 'Replays one delivery that was judged and is locked; returns the id it goes out under';
