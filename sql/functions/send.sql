-- send: one notification, inside the caller's own transaction. If that commits, the notification is accepted; if it rolls
-- back, it never was. The rules are those of POST /api/v1/notifications/send, and the stored request has the same shape,
-- so a key that comes once by REST and once by SQL is one notification (I15).
CREATE FUNCTION landed.send(
    tenant text,
    recipient_id text,
    template_id text,
    variables jsonb DEFAULT '{}',
    category text DEFAULT NULL,
    idempotency_key text DEFAULT NULL,
    channels text[] DEFAULT NULL,
    template_version int DEFAULT NULL,
    send_at timestamptz DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL,
    wake boolean DEFAULT false
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sender_tenant_id int := landed._tenant_of_sender(tenant);
    request jsonb := landed._request(recipient_id, category, template_id, template_version, channels, variables, send_at,
                                     expires_at);
    kind store.categories;
    version int;
    wanted text[];
    due timestamptz := greatest(send_at, now());
    answer record;
BEGIN
    PERFORM landed._check_line('recipient_id', recipient_id, 200);
    PERFORM landed._check_line('template_id', template_id, 100);
    PERFORM landed._check_line('category', category, 100);
    IF idempotency_key IS NOT NULL THEN
        PERFORM landed._check_line('idempotency_key', idempotency_key, 255);
        -- The key may come again in a REST header, which carries no more than this.
        IF idempotency_key !~ '^[ -~]+$' THEN
            PERFORM landed._refuse('invalid_parameter_value', 'idempotency_key', 'has characters beyond printable ASCII',
                'REST and SQL share their keys, and REST takes them in a header.', 'Use letters, digits and punctuation.');
        END IF;
        -- What was answered once is answered again, whatever has been archived or switched off since (I15).
        SELECT e.* INTO answer FROM landed._earlier_verdict(sender_tenant_id, idempotency_key, request) AS e;
        IF FOUND THEN
            PERFORM landed._check_verdict(answer.verdict, answer.notification_id, answer.original_request, request);
            RETURN answer.notification_id;
        END IF;
    END IF;
    kind := landed._category_to_send(sender_tenant_id, category);
    wanted := landed._channels_to_send(channels, kind.channels);
    version := landed._template_to_send(sender_tenant_id, template_id, template_version, wanted);
    PERFORM landed._check_variables(sender_tenant_id, template_id, version, wanted, variables);
    PERFORM landed._check_times(send_at, due, expires_at);

    SELECT a.* INTO answer
    FROM landed.accept(jsonb_build_array(jsonb_build_object(
        'ordinal', 0,
        'tenant_id', sender_tenant_id,
        'idempotency_key', idempotency_key,
        'recipient_id', recipient_id,
        'category', category,
        'class', kind.class,
        'channels', wanted,
        'template_id', template_id,
        'template_version', version,
        'request', request,
        'source', 'sql',
        'due_at', due,
        'expires_at', coalesce(expires_at, due + landed._validity(sender_tenant_id, category))
    ))) a;
    PERFORM landed._check_verdict(answer.verdict, answer.notification_id, answer.original_request, request);
    -- A hint, delivered when the caller commits. Off by default: NOTIFY holds a database-wide lock at commit, and the
    -- workers look by themselves every second.
    IF wake THEN
        PERFORM pg_notify('landed_wake', 'intake');
    END IF;
    RETURN answer.notification_id;
END
$$;
COMMENT ON FUNCTION landed.send IS
    'Sends a notification in the caller''s transaction: accepted when it commits. Returns its id; with an idempotency key '
    'that came before, the first one''s. Errors: docs/reference/sql.md';

-- Isolation (R-197): a producer is told the same about a tenant that is not there and one that is not its own.
CREATE FUNCTION landed._tenant_of_sender(tenant text) RETURNS int
LANGUAGE plpgsql STABLE AS $$
DECLARE
    granted_id int;
BEGIN
    IF landed._is_operator() THEN
        RETURN landed._tenant(tenant);
    END IF;
    SELECT p.tenant_id INTO granted_id
    FROM store.producers p
    JOIN store.tenants t ON t.id = p.tenant_id
    WHERE p.role_name = session_user AND t.name = _tenant_of_sender.tenant;
    IF granted_id IS NULL THEN
        PERFORM landed._refuse('insufficient_privilege', 'tenant', format('role %I may not send for it', session_user),
                               format('Asked for %L.', tenant),
                               'SELECT landed.grant_producer(role, tenant) allows it; the service role may call that.');
    END IF;
    RETURN granted_id;
END
$$;
COMMENT ON FUNCTION landed._tenant_of_sender IS 'The tenant''s id, if the session''s user may send for it';

-- A line break in any of these could end up in a header or a log line.
CREATE FUNCTION landed._check_line(field text, value text, length_max int) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF coalesce(value, '') = '' THEN
        PERFORM landed._refuse('invalid_parameter_value', field, 'is required', 'It was NULL or empty.',
                               format('Give %s => ''...''.', field));
    ELSIF length(value) > length_max THEN
        PERFORM landed._refuse('invalid_parameter_value', field, format('has more than %s characters', length_max),
                               format('It has %s.', length(value)), 'Shorten it.');
    ELSIF value ~ '[\u0001-\u001f\u007f]' THEN
        PERFORM landed._refuse('invalid_parameter_value', field, 'must not contain control characters such as CR or LF',
                               format('It reads %s.', to_json(left(value, 100))), 'Remove them.');
    END IF;
END
$$;
COMMENT ON FUNCTION landed._check_line IS 'Raises unless the value is there, in bounds, and one line';

CREATE FUNCTION landed._category_to_send(tenant_id int, category text) RETURNS store.categories
LANGUAGE plpgsql STABLE AS $$
DECLARE
    kind store.categories;
BEGIN
    SELECT c.* INTO kind
    FROM store.categories c
    WHERE c.tenant_id = _category_to_send.tenant_id AND c.name = _category_to_send.category;
    IF NOT FOUND THEN
        PERFORM landed._refuse('invalid_parameter_value', 'category', format('there is no category %L', category),
            format('Categories are %s.', coalesce((SELECT string_agg(c.name, ', ' ORDER BY c.name) FROM store.categories c
                                                   WHERE c.tenant_id = _category_to_send.tenant_id), 'none')),
            'Create it first, or use one that is there.');
    END IF;
    RETURN kind;
END
$$;
COMMENT ON FUNCTION landed._category_to_send IS 'The tenant''s category; raises when there is none of this name';

CREATE FUNCTION landed._channels_to_send(asked text[], usual text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    known CONSTANT text[] := ARRAY['email', 'push', 'sms', 'in_app', 'webhook', 'chat'];
BEGIN
    IF asked IS NULL THEN
        RETURN usual;
    END IF;
    IF cardinality(asked) = 0 OR NOT asked <@ known
       OR cardinality(asked) <> (SELECT count(DISTINCT channel) FROM unnest(asked) AS channel) THEN
        PERFORM landed._refuse('invalid_parameter_value', 'channels', 'must name channels, each once',
                               format('It reads %s.', to_json(asked)),
                               format('Channels are %s; NULL means the category''s.', array_to_string(known, ', ')));
    END IF;
    RETURN asked;
END
$$;
COMMENT ON FUNCTION landed._channels_to_send IS 'The channels asked for, or the category''s';

-- The newest published version unless one is named; a version is fixed when the notification is accepted (R-147).
CREATE FUNCTION landed._template_to_send(tenant_id int, template_id text, version int, channels text[]) RETURNS int
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    chosen int := version;
    states text[];
    lacking text[];
BEGIN
    IF chosen IS NULL THEN
        SELECT max(t.version) INTO chosen
        FROM store.templates t
        WHERE t.tenant_id = _template_to_send.tenant_id
          AND t.template_id = _template_to_send.template_id
          AND t.status = 'published';
    END IF;
    SELECT array_agg(DISTINCT t.status) INTO states
    FROM store.templates t
    WHERE t.tenant_id = _template_to_send.tenant_id
      AND t.template_id = _template_to_send.template_id
      AND t.version = coalesce(chosen, t.version);
    IF states IS NULL THEN
        PERFORM landed._refuse('invalid_parameter_value',
            CASE WHEN _template_to_send.version IS NULL THEN 'template_id' ELSE 'template_version' END,
            format('there is no template %L%s', _template_to_send.template_id, ' version ' || chosen),
            'A notification names a template that is there when it is accepted.',
            'Create and publish it first, or use one that is there.');
    ELSIF chosen IS NULL OR NOT 'published' = ANY (states) THEN
        PERFORM landed._refuse('invalid_parameter_value',
            CASE WHEN _template_to_send.version IS NULL THEN 'template_id' ELSE 'template_version' END,
            format('template %L%s is not published: it is %s', _template_to_send.template_id, ' version ' || chosen,
                   array_to_string(states, ', ')),
            'Drafts can be previewed and not sent; archived versions are out of use.', 'Publish it, or a new version.');
    END IF;
    SELECT array_agg(wanted.channel ORDER BY wanted.channel) INTO lacking
    FROM unnest(_template_to_send.channels) AS wanted(channel)
    WHERE wanted.channel <> 'webhook'  -- what goes to an endpoint is the variables themselves
      AND NOT EXISTS (
        SELECT FROM store.templates t
        WHERE t.tenant_id = _template_to_send.tenant_id
          AND t.template_id = _template_to_send.template_id
          AND t.version = chosen
          AND t.channel = wanted.channel
          AND t.status = 'published');
    IF lacking IS NOT NULL THEN
        PERFORM landed._refuse('invalid_parameter_value', 'channels',
            format('template %L version %s has no content for %s', _template_to_send.template_id, chosen,
                   array_to_string(lacking, ', ')),
            format('Wanted are %s.', array_to_string(_template_to_send.channels, ', ')),
            'Publish a version with that content, or give channels => ARRAY[...] without it.');
    END IF;
    RETURN chosen;
END
$$;
COMMENT ON FUNCTION landed._template_to_send IS 'The version to send; raises unless it is published with content for every channel';

CREATE FUNCTION landed._check_variables(tenant_id int, template_id text, version int, channels text[], variables jsonb)
RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    bytes_max CONSTANT int := 262144;  -- as much as the API takes for a whole request
    declared jsonb;
    missing text[];
    surplus text[];
BEGIN
    IF jsonb_typeof(variables) IS DISTINCT FROM 'object' THEN
        PERFORM landed._refuse('invalid_parameter_value', 'variables', 'must be a JSON object',
                               format('It is %s.', coalesce(jsonb_typeof(variables), 'NULL')),
                               'Give variables => ''{"name": "value"}''.');
    ELSIF octet_length(variables::text) > bytes_max THEN
        PERFORM landed._refuse('invalid_parameter_value', 'variables', format('has more than %s bytes', bytes_max),
                               format('It has %s.', octet_length(variables::text)), 'Shorten it.');
    END IF;
    SELECT coalesce(jsonb_object_agg(name, required), '{}') INTO declared
    FROM (
        SELECT name, bool_or(spec -> 'required' IS DISTINCT FROM 'false') AS required
        FROM store.templates t, jsonb_each(t.variables) AS declaration(name, spec)
        WHERE t.tenant_id = _check_variables.tenant_id
          AND t.template_id = _check_variables.template_id
          AND t.version = _check_variables.version
          AND ('webhook' = ANY (_check_variables.channels) OR t.channel = ANY (_check_variables.channels))
        GROUP BY name
    ) AS declarations;
    SELECT array_agg(name ORDER BY name) INTO missing
    FROM jsonb_each(declared) AS declaration(name, required)
    WHERE required = 'true' AND NOT variables ? name;
    SELECT array_agg(name ORDER BY name) INTO surplus
    FROM jsonb_object_keys(variables) AS name
    WHERE NOT declared ? name;
    IF missing IS NOT NULL OR surplus IS NOT NULL THEN
        PERFORM landed._refuse('invalid_parameter_value', 'variables',
            concat_ws('; ', 'missing: ' || array_to_string(missing, ', '), 'unknown: ' || array_to_string(surplus[:20], ', ')),
            format('Template %L version %s declares %s.', template_id, version,
                   coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM jsonb_object_keys(declared) AS name), 'none')),
            'Give every required variable and no other than the declared ones.');
    END IF;
END
$$;
COMMENT ON FUNCTION landed._check_variables IS 'Raises naming each variable that is missing or not declared (R-065)';

CREATE FUNCTION landed._check_times(send_at timestamptz, due timestamptz, expires_at timestamptz) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- What is due later must still find the memory of what was sent (I12); the default retention spares so much.
    ahead_max CONSTANT interval := '25 days';
BEGIN
    IF send_at > now() + ahead_max THEN
        PERFORM landed._refuse('invalid_parameter_value', 'send_at', 'is too far ahead', format('It is %s.', send_at),
                               format('The latest is %s from now.', ahead_max));
    ELSIF expires_at <= due THEN
        PERFORM landed._refuse('invalid_parameter_value', 'expires_at', 'must be after send_at and in the future',
                               format('It is %s, and the notification is due at %s.', expires_at, due), 'Give a later time.');
    ELSIF expires_at > due + landed._validity_max() THEN
        PERFORM landed._refuse('invalid_parameter_value', 'expires_at', 'is too late',
                               format('It is %s, and the notification is due at %s.', expires_at, due),
                               format('The latest is %s after it is due.', landed._validity_max()));
    END IF;
END
$$;
COMMENT ON FUNCTION landed._check_times IS 'Raises unless the times are in order and in bounds';

-- What is stored and compared under an idempotency key. The API builds the same in app/api/schemas.py; a field that was
-- not given is not there, and an instant has one text.
CREATE FUNCTION landed._request(recipient_id text, category text, template_id text, template_version int, channels text[],
                                variables jsonb, send_at timestamptz, expires_at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_build_object('recipient_id', recipient_id, 'category', category, 'template_id', template_id,
                          'variables', variables)
    || jsonb_strip_nulls(jsonb_build_object(
        'template_version', template_version,
        'channels', channels,
        'send_at', to_char(send_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'expires_at', to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')));
COMMENT ON FUNCTION landed._request IS 'A request as it is kept and compared';

CREATE FUNCTION landed._earlier_verdict(tenant_id int, key text, request jsonb)
RETURNS TABLE (verdict text, notification_id uuid, original_request jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT CASE WHEN k.fingerprint = store.fingerprint(_earlier_verdict.request) THEN 'replayed' ELSE 'key_reused' END,
           k.notification_id, n.request
    FROM store.idempotency_keys k
    LEFT JOIN store.notifications n ON n.shard = store.shard_of(k.notification_id) AND n.id = k.notification_id
    WHERE k.tenant_id = _earlier_verdict.tenant_id AND k.key = _earlier_verdict.key;
END;
COMMENT ON FUNCTION landed._earlier_verdict IS 'What landed.accept says to a key that came before; no row when it did not';

CREATE FUNCTION landed._check_verdict(verdict text, first_id uuid, original jsonb, request jsonb) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    recipient_id text := request ->> 'recipient_id';
BEGIN
    CASE verdict
        WHEN 'accepted', 'replayed' THEN
            RETURN;
        WHEN 'key_reused' THEN
            PERFORM landed._refuse('unique_violation', 'idempotency_key', 'was used before with another request',
                format('It made notification %s. Different now: %s.', first_id,
                       coalesce((SELECT string_agg(path, ', ') FROM landed._differing_paths(original, request) AS path),
                                'something; the first request is no longer kept')),
                'Repeat the first request to get its id again, or use a new key for a new notification.');
        WHEN 'recipient_unknown' THEN
            PERFORM landed._refuse('invalid_parameter_value', 'recipient_id',
                format('there is no recipient %L', recipient_id), 'The tenant has none of this id.', 'Create it first.');
        WHEN 'recipient_inactive' THEN
            PERFORM landed._refuse('invalid_parameter_value', 'recipient_id', format('recipient %L is inactive', recipient_id),
                'An inactive recipient is sent nothing.', 'Activate it first.');
    END CASE;
END
$$;
COMMENT ON FUNCTION landed._check_verdict IS 'Raises unless landed.accept took the request';

-- Where two JSON documents differ, as paths like variables.order_id or channels[1].
CREATE FUNCTION landed._differing_paths(was jsonb, became jsonb, path text DEFAULT '') RETURNS SETOF text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    path_length_max CONSTANT int := 300;  -- past it the parent is named, which also bounds the recursion
BEGIN
    -- As text: 1 and 1.0 are equal, and make different fingerprints.
    IF was::text = became::text OR (was IS NULL AND path = '') THEN
        RETURN;
    ELSIF length(path) < path_length_max AND jsonb_typeof(was) = 'object' AND jsonb_typeof(became) = 'object' THEN
        RETURN QUERY
        SELECT inner_path
        FROM (SELECT jsonb_object_keys(was || became) AS name ORDER BY 1) AS keys,
             landed._differing_paths(was -> name, became -> name, ltrim(path || '.' || name, '.')) AS inner_path;
    ELSIF length(path) < path_length_max AND jsonb_typeof(was) = 'array' AND jsonb_typeof(became) = 'array' THEN
        RETURN QUERY
        SELECT inner_path
        FROM generate_series(0, greatest(jsonb_array_length(was), jsonb_array_length(became)) - 1) AS position,
             landed._differing_paths(was -> position, became -> position, format('%s[%s]', path, position)) AS inner_path;
    ELSE
        RETURN NEXT path;
    END IF;
END
$$;
COMMENT ON FUNCTION landed._differing_paths IS 'Where two JSON documents differ';
