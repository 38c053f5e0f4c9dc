-- suppress: an address is not sent to any more, from the moment this commits, whatever code path asks (I11).
CREATE FUNCTION landed.suppress(tenant text, channel text, address text, reason_text text, scope text DEFAULT 'all')
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    owner_id int := landed._tenant(suppress.tenant);
    whose text := store.normalise_address(suppress.channel, suppress.address);
    suppression_id bigint;
BEGIN
    PERFORM landed._need_reason(suppress.reason_text);
    PERFORM landed._check_address(suppress.channel, whose);
    PERFORM landed._check_scope(owner_id, suppress.scope);
    PERFORM landed._lock_address(owner_id, suppress.channel, whose);
    INSERT INTO store.suppressions (tenant_id, channel, address, scope, reason, detail, source)
    VALUES (owner_id, suppress.channel, whose, suppress.scope, 'manual', suppress.reason_text, 'operator')
    ON CONFLICT DO NOTHING
    RETURNING id INTO suppression_id;
    IF suppression_id IS NOT NULL THEN
        PERFORM landed._audit('suppress', owner_id, 'suppression ' || suppression_id, suppress.reason_text,
                              jsonb_build_object('channel', suppress.channel, 'scope', suppress.scope));
        RETURN suppression_id;
    END IF;
    SELECT s.id INTO suppression_id
    FROM store.suppressions s
    WHERE s.tenant_id = owner_id AND s.channel = suppress.channel AND s.address = whose AND s.scope = suppress.scope
      AND s.lifted_at IS NULL AND s.reason <> 'opted_out';
    RETURN suppression_id;
END
$$;
COMMENT ON FUNCTION landed.suppress IS
    'Stops everything to an address on a channel (scope: all, or one category). Returns the suppression''s id, the first '
    'one''s if it was suppressed before';

-- Claims share the bucket of an address while they look at suppressions; this waits for those under way, and those that
-- come later see what was decided. A statement of its own, so that the next one sees what the lock waited for.
CREATE FUNCTION landed._lock_address(tenant_id int, channel text, address text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(11, store.address_bucket(tenant_id, channel, address));
END
$$;
COMMENT ON FUNCTION landed._lock_address IS 'Holds an address until the transaction ends: no claim looks at it meanwhile';

CREATE FUNCTION landed._check_address(channel text, address text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM landed._check_line('channel', channel, 20);
    PERFORM landed._check_line('address', address, 2000);
    IF channel NOT IN ('email', 'push', 'sms', 'in_app', 'webhook', 'chat') THEN
        PERFORM landed._refuse('invalid_parameter_value', 'channel', format('there is no channel %L', channel),
                               'A suppression holds for one channel.',
                               'Channels are email, push, sms, in_app, webhook, chat.');
    ELSIF channel = 'email' AND address !~ '^[^@\s]+@[^@\s]+$' THEN
        PERFORM landed._refuse('invalid_parameter_value', 'address', 'is not an email address',
                               'Suppressing what is nobody''s address would protect nobody.',
                               'Give the bare address, like jo@example.com.');
    ELSIF channel = 'sms' AND address !~ '^\+[1-9][0-9]{4,14}$' THEN
        PERFORM landed._refuse('invalid_parameter_value', 'address', 'is not a phone number with its country code',
                               'Suppressing what is nobody''s number would protect nobody.',
                               'Give it in E.164, like +4915112345678; blanks and hyphens may stand between.');
    ELSIF channel IN ('push', 'webhook', 'chat')
          AND address !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
        PERFORM landed._refuse('invalid_parameter_value', 'address', 'is not an id',
                               'Deliveries there have the id of a device or an endpoint, and not its token or its URL.',
                               'reporting.endpoints has those of endpoints; of a device, the answer to its registration.');
    END IF;
END
$$;
COMMENT ON FUNCTION landed._check_address IS 'Raises unless the address could be one of this channel';

CREATE FUNCTION landed._check_scope(tenant_id int, scope text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF scope <> 'all' OR scope IS NULL THEN
        PERFORM FROM store.categories c WHERE c.tenant_id = _check_scope.tenant_id AND c.name = _check_scope.scope;
        IF NOT FOUND THEN
            PERFORM landed._refuse('invalid_parameter_value', 'scope', format('there is no category %L', scope),
                                   'A suppression covers everything, or one category.', 'Give ''all'', or a category''s name.');
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION landed._check_scope IS 'Raises unless the scope is all or a category of the tenant';
