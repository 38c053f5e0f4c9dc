-- drain_provider: people take a provider account out. It gets no new calls from the moment this commits; what is under way
-- ends as it would have. Its lanes go on with their other accounts, or wait.
CREATE FUNCTION landed.drain_provider(provider text, reason text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM landed._need_reason(drain_provider.reason);
    PERFORM landed._check_provider(drain_provider.provider);
    INSERT INTO store.provider_states AS p (provider, drained_at, drained_by, drain_reason)
    VALUES (drain_provider.provider, now(), landed._actor(), drain_provider.reason)
    ON CONFLICT ON CONSTRAINT provider_states_pkey DO UPDATE
    SET drained_at = excluded.drained_at, drained_by = excluded.drained_by, drain_reason = excluded.drain_reason
    WHERE p.drained_at IS NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM landed._tell_provider('drained', drain_provider.provider, drain_provider.reason, '{}');
    PERFORM landed._audit('drain_provider', NULL, 'provider ' || drain_provider.provider, drain_provider.reason, '{}');
    RETURN true;
END
$$;
COMMENT ON FUNCTION landed.drain_provider IS
    'Takes a provider account out: no new calls, and what is under way ends. False when it was drained before';

CREATE FUNCTION landed._check_provider(provider text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    known text[] := ARRAY(SELECT l.account ->> 'provider'
                          FROM (SELECT jsonb_array_elements(q.providers) AS account FROM store.lanes q) AS l
                          UNION
                          SELECT p.provider FROM store.provider_states p
                          ORDER BY 1);
BEGIN
    IF provider IS NULL OR NOT provider = ANY (known) THEN
        PERFORM landed._refuse('no_data_found', 'provider', 'there is no such provider account',
                               format('Asked for %L.', provider),
                               coalesce('There are ' || nullif(array_to_string(known, ', '), '') || '.',
                                        'There is none yet: workers publish those of their configuration when they start.'));
    END IF;
END
$$;
COMMENT ON FUNCTION landed._check_provider IS 'Raises unless a lane has the provider account, or something was ever known about it';

CREATE FUNCTION landed._tell_provider(event text, provider text, detail text, data jsonb) RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO store.control_events (subject, name, event, detail, data)
    VALUES ('provider', provider, event, detail, data || jsonb_build_object('actor', landed._actor()));
END;
COMMENT ON FUNCTION landed._tell_provider IS 'Appends what an operator did to the log of a provider''s steps';
