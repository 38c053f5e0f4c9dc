-- set_route_capability: whether anybody tells that a message arrived there. Adapters know what their vendor promises;
-- operators know for which country it does not hold. Reports count what can be proven, and nothing else.
CREATE FUNCTION landed.set_route_capability(provider text, channel text, country text, provable boolean, reason text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before boolean;
BEGIN
    PERFORM landed._need_reason(set_route_capability.reason);
    PERFORM landed._check_provider(set_route_capability.provider);
    PERFORM landed._check_capability(set_route_capability.channel, set_route_capability.country,
                                     set_route_capability.provable);
    SELECT c.provable INTO before
    FROM store.route_capabilities c
    WHERE c.provider = set_route_capability.provider AND c.channel = set_route_capability.channel
      AND c.country = set_route_capability.country
    FOR UPDATE;
    INSERT INTO store.route_capabilities (provider, channel, country, provable, source, note)
    VALUES (set_route_capability.provider, set_route_capability.channel, set_route_capability.country,
            set_route_capability.provable, 'operator', set_route_capability.reason)
    ON CONFLICT ON CONSTRAINT route_capabilities_pkey DO UPDATE
    SET provable = excluded.provable, source = excluded.source, note = excluded.note, updated_at = now();
    PERFORM landed._audit('set_route_capability', NULL, 'provider ' || set_route_capability.provider,
                          set_route_capability.reason,
                          jsonb_build_object('channel', set_route_capability.channel, 'country', set_route_capability.country,
                                             'before', before, 'after', set_route_capability.provable));
    RETURN before;
END
$$;
COMMENT ON FUNCTION landed.set_route_capability IS
    'Says whether deliveries of a provider account on a channel to a country (* for all others) can be proven; returns what '
    'was said before, NULL for nothing';

CREATE FUNCTION landed._check_capability(channel text, country text, provable boolean) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF channel IS NULL OR channel NOT IN ('email', 'push', 'sms', 'in_app', 'webhook', 'chat') THEN
        PERFORM landed._refuse('invalid_parameter_value', 'channel', format('there is no channel %L', channel),
                               'A provider proves on one channel what it does not on another.',
                               'Channels are email, push, sms, in_app, webhook, chat.');
    ELSIF country IS NULL OR country !~ '^([A-Z]{2}|\*)$' OR (country <> '*' AND channel <> 'sms') THEN
        PERFORM landed._refuse('invalid_parameter_value', 'country', 'is not the country of a phone number',
                               format('It is %L, on channel %s.', country, channel),
                               'Give two capitals (ISO 3166-1) on channel sms, like GB, or * for all others.');
    ELSIF provable IS NULL THEN
        PERFORM landed._refuse('invalid_parameter_value', 'provable', 'is required', 'It was NULL.', 'Give true or false.');
    END IF;
END
$$;
COMMENT ON FUNCTION landed._check_capability IS 'Raises unless deliveries on the channel have such a country';
