-- price: what one message of a channel (one segment of a text message) costs; reporting.costs multiplies by it (R-035).
CREATE FUNCTION landed.price(channel text, usd numeric, reason text) RETURNS numeric
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before numeric;
BEGIN
    SELECT c.usd_per_message INTO before FROM store.channel_costs c WHERE c.channel = price.channel;
    IF NOT FOUND THEN
        PERFORM landed._refuse('invalid_parameter_value', 'channel', format('there is no channel %L', price.channel),
                               format('Channels are %s.', (SELECT string_agg(c.channel, ', ' ORDER BY c.channel)
                                                           FROM store.channel_costs c)), 'Name one of them.');
    ELSIF usd IS NULL OR usd < 0 THEN
        PERFORM landed._refuse('invalid_parameter_value', 'usd', 'must be 0 or more', format('It is %s.', coalesce(usd::text, 'NULL')),
                               'Give the price of one message in US dollars.');
    END IF;
    PERFORM landed._need_reason(price.reason);
    UPDATE store.channel_costs c SET usd_per_message = usd WHERE c.channel = price.channel;
    PERFORM landed._audit('price', NULL, 'channel ' || price.channel, price.reason,
                          jsonb_build_object('before', before, 'after', usd));
    RETURN before;
END
$$;
COMMENT ON FUNCTION landed.price IS 'Sets what a message of a channel costs, in US dollars; returns what it was before';
