-- What the functions of schema landed share. Names that begin with an underscore are not for callers, and nobody but the
-- service may execute them (zz_grants.sql).
--
-- The public functions are SECURITY DEFINER: they are the only way to the tables that producers and operators have. Each
-- fixes its search_path, so that nothing of the caller's can stand in for what they name, and asks session_user, which
-- neither SECURITY DEFINER nor SET ROLE changes, who is calling.

-- A producer's error names the field as programs read it (COLUMN) and as people do (MESSAGE).
CREATE FUNCTION landed._refuse(code text, field text, problem text, detail text, hint text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = code, COLUMN = field, MESSAGE = field || ': ' || problem, DETAIL = detail, HINT = hint;
END
$$;
COMMENT ON FUNCTION landed._refuse IS 'Raises an error that names a field, says what is wrong with it and what would be right';

CREATE FUNCTION landed._is_operator() RETURNS boolean
LANGUAGE sql STABLE
RETURN pg_has_role(session_user, 'landed_operator', 'MEMBER');
COMMENT ON FUNCTION landed._is_operator IS 'Whether the session may act for every tenant: operators, the service, superusers';

CREATE FUNCTION landed._tenant(tenant text) RETURNS int
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found_id int;
BEGIN
    SELECT t.id INTO found_id FROM store.tenants t WHERE t.name = _tenant.tenant;
    IF found_id IS NULL THEN
        PERFORM landed._refuse('no_data_found', 'tenant', 'there is no such tenant',
                               format('Asked for %L.', tenant), 'SELECT name FROM store.tenants lists them.');
    END IF;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION landed._tenant IS 'The id of a tenant; raises no_data_found';

-- Every act of an operator has a reason that others can read later.
CREATE FUNCTION landed._need_reason(reason text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(btrim(reason), '') = '' THEN
        PERFORM landed._refuse('invalid_parameter_value', 'reason', 'is required',
                               'What people do by hand is kept in the audit log, with its reason.',
                               'Say why, for example reason => ''ticket 4711: address was corrected''.');
    END IF;
END
$$;
COMMENT ON FUNCTION landed._need_reason IS 'Raises unless a reason was given';

-- The service acts for the holders of API keys and says for whom in the setting landed.actor; from anyone else that
-- setting means nothing.
CREATE FUNCTION landed._actor() RETURNS text
LANGUAGE sql STABLE
RETURN CASE WHEN pg_has_role(session_user, 'landed_service', 'MEMBER')
            THEN coalesce(nullif(current_setting('landed.actor', true), ''), session_user::text)
            ELSE session_user::text END;
COMMENT ON FUNCTION landed._actor IS 'Who acts: the session''s user, or for whom the service says it does';

CREATE FUNCTION landed._audit(action text, tenant_id int, target text, reason text, data jsonb) RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO store.audit_log (actor, action, tenant_id, target, reason, data)
    VALUES (landed._actor(), action, tenant_id, target, reason, data);
END;
COMMENT ON FUNCTION landed._audit IS 'Records who did what to what, and why';

CREATE FUNCTION landed._tell(shard smallint, tenant_id int, notification_id uuid, delivery_id uuid, kind text, data jsonb)
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, kind, source, data)
    VALUES (shard, store.new_id(shard), tenant_id, notification_id, delivery_id, kind, 'operator', data);
END;
COMMENT ON FUNCTION landed._tell IS 'Appends what an operator did to the story of a notification';

CREATE FUNCTION landed._find_notification(id uuid, tenant text) RETURNS store.notifications
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found_row store.notifications;
BEGIN
    SELECT n.* INTO found_row
    FROM store.notifications n
    WHERE n.shard = store.shard_of(_find_notification.id)
      AND n.id = _find_notification.id
      AND (_find_notification.tenant IS NULL OR n.tenant_id = landed._tenant(_find_notification.tenant));
    IF NOT FOUND THEN
        PERFORM landed._refuse('no_data_found', 'notification_id', 'there is no such notification',
                               format('Asked for %s.', coalesce(id::text, 'NULL')),
                               'It may belong to another tenant, or be older than what is kept.');
    END IF;
    RETURN found_row;
END
$$;
COMMENT ON FUNCTION landed._find_notification IS 'A notification, of one tenant if that is named; raises no_data_found';

-- Locked, because intake may be planning it at this moment: whoever comes second sees what the first one did.
CREATE FUNCTION landed._lock_notification(id uuid, tenant text) RETURNS store.notifications
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    n store.notifications := landed._find_notification(id, tenant);
BEGIN
    SELECT q.* INTO n FROM store.notifications q WHERE q.shard = n.shard AND q.id = n.id FOR UPDATE;
    RETURN n;
END
$$;
COMMENT ON FUNCTION landed._lock_notification IS 'The same, locked';

CREATE FUNCTION landed._find_delivery(id uuid, tenant text) RETURNS store.deliveries
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found_row store.deliveries;
BEGIN
    SELECT d.* INTO found_row
    FROM store.deliveries d
    WHERE d.shard = store.shard_of(_find_delivery.id)
      AND d.id = _find_delivery.id
      AND (_find_delivery.tenant IS NULL OR d.tenant_id = landed._tenant(_find_delivery.tenant));
    IF NOT FOUND THEN
        PERFORM landed._refuse('no_data_found', 'delivery_id', 'there is no such delivery',
                               format('Asked for %s.', coalesce(id::text, 'NULL')),
                               'It may belong to another tenant, or be older than what is kept.');
    END IF;
    RETURN found_row;
END
$$;
COMMENT ON FUNCTION landed._find_delivery IS 'A delivery, of one tenant if that is named; raises no_data_found';

-- How long something is worth sending once it is due: what its category says, and a day at most. The order of the
-- retention times (I12) rests on that bound; it is the default of times.validity_seconds.
CREATE FUNCTION landed._validity_max() RETURNS interval
LANGUAGE sql IMMUTABLE
RETURN interval '1 day';
COMMENT ON FUNCTION landed._validity_max IS 'The longest that a notification may be worth sending once it is due';

CREATE FUNCTION landed._validity(tenant_id int, category text) RETURNS interval
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT least(landed._validity_max(),
                 (SELECT make_interval(secs => c.validity_seconds)
                  FROM store.categories c
                  WHERE c.tenant_id = _validity.tenant_id AND c.name = _validity.category));
END;
COMMENT ON FUNCTION landed._validity IS 'How long a notification of this category is worth sending once it is due';
