-- Made by `make schema` from the migrations, for reading. Without the partitions of the day.
--
-- PostgreSQL database dump
--

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: landed; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA landed;

--
-- Name: SCHEMA landed; Type: COMMENT; Schema: -; Owner: -
--

COMMENT ON SCHEMA landed IS 'Rebuilt by each migration from sql/';

--
-- Name: procrastinate; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA procrastinate;

--
-- Name: reporting; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA reporting;

--
-- Name: SCHEMA reporting; Type: COMMENT; Schema: -; Owner: -
--

COMMENT ON SCHEMA reporting IS 'Rebuilt by each migration from sql/';

--
-- Name: store; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA store;

--
-- Name: procrastinate_job_event_type; Type: TYPE; Schema: procrastinate; Owner: -
--

CREATE TYPE procrastinate.procrastinate_job_event_type AS ENUM (
    'deferred',
    'started',
    'deferred_for_retry',
    'failed',
    'succeeded',
    'cancelled',
    'abort_requested',
    'aborted',
    'scheduled',
    'retried'
);

--
-- Name: procrastinate_job_status; Type: TYPE; Schema: procrastinate; Owner: -
--

CREATE TYPE procrastinate.procrastinate_job_status AS ENUM (
    'todo',
    'doing',
    'succeeded',
    'failed',
    'cancelled',
    'aborting',
    'aborted'
);

--
-- Name: procrastinate_job_to_defer_v1; Type: TYPE; Schema: procrastinate; Owner: -
--

CREATE TYPE procrastinate.procrastinate_job_to_defer_v1 AS (
	queue_name character varying,
	task_name character varying,
	priority integer,
	lock text,
	queueing_lock text,
	args jsonb,
	scheduled_at timestamp with time zone
);

--
-- Name: _actor(); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._actor() RETURNS text
    LANGUAGE sql STABLE
    RETURN CASE WHEN pg_has_role(SESSION_USER, 'landed_service'::name, 'MEMBER'::text) THEN COALESCE(NULLIF(current_setting('landed.actor'::text, true), ''::text), (SESSION_USER)::text) ELSE (SESSION_USER)::text END;

--
-- Name: FUNCTION _actor(); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._actor() IS 'Who acts: the session''s user, or for whom the service says it does';

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: audit_log; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.audit_log (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    actor text DEFAULT SESSION_USER NOT NULL,
    action text NOT NULL,
    tenant_id integer,
    target text NOT NULL,
    reason text NOT NULL,
    data jsonb DEFAULT '{}'::jsonb NOT NULL
);

--
-- Name: _audit(text, integer, text, text, jsonb); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._audit(action text, tenant_id integer, target text, reason text, data jsonb) RETURNS void
    LANGUAGE sql
    BEGIN ATOMIC
 INSERT INTO store.audit_log (actor, action, tenant_id, target, reason, data)
   VALUES (landed._actor(), _audit.action, _audit.tenant_id, _audit.target, _audit.reason, _audit.data);
END;

--
-- Name: FUNCTION _audit(action text, tenant_id integer, target text, reason text, data jsonb); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._audit(action text, tenant_id integer, target text, reason text, data jsonb) IS 'Records who did what to what, and why';

--
-- Name: shard_of(uuid); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.shard_of(id uuid) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (get_byte(uuid_send(id), 15))::smallint;

--
-- Name: attempts; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.attempts (
    shard smallint NOT NULL,
    delivery_id uuid NOT NULL,
    no smallint NOT NULL,
    tenant_id integer NOT NULL,
    epoch bigint NOT NULL,
    region text NOT NULL,
    provider text NOT NULL,
    worker_id uuid NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    outcome text,
    status_code smallint,
    detail text,
    provider_message_id text,
    content_hash bytea,
    opened_at timestamp with time zone DEFAULT now() NOT NULL,
    closed_at timestamp with time zone,
    facts jsonb,
    CONSTRAINT attempts_classified CHECK (((state = 'open'::text) = (outcome IS NULL))),
    CONSTRAINT attempts_no_check CHECK ((no > 0)),
    CONSTRAINT attempts_settled CHECK (((state = ANY (ARRAY['open'::text, 'ambiguous'::text])) = (closed_at IS NULL))),
    CONSTRAINT attempts_state_check CHECK ((state = ANY (ARRAY['open'::text, 'ambiguous'::text, 'accepted'::text, 'refused'::text, 'not_sent'::text, 'unanswered'::text, 'duplicate'::text])))
)
PARTITION BY RANGE (delivery_id);

--
-- Name: TABLE attempts; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON TABLE store.attempts IS 'One row per provider call, committed before the call (I1)';

--
-- Name: COLUMN attempts.state; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.attempts.state IS 'open: may be under way. ambiguous: its outcome is unknown. accepted: the provider has it. refused: the provider said no. not_sent: shown never to have been accepted. unanswered: nobody could tell, and another was allowed, because the receiver drops copies by their id or the category is sent at least once. duplicate: accepted although another attempt was: the alarm that must never sound';

--
-- Name: COLUMN attempts.facts; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.attempts.facts IS 'What this call was: encoding and segments of a text message';

--
-- Name: deliveries; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.deliveries (
    shard smallint NOT NULL,
    id uuid NOT NULL,
    notification_id uuid NOT NULL,
    tenant_id integer NOT NULL,
    recipient_id text NOT NULL,
    category text NOT NULL,
    class text NOT NULL,
    channel text NOT NULL,
    lane text NOT NULL,
    address text NOT NULL,
    sender text,
    reply_to text,
    template_id text NOT NULL,
    template_version integer NOT NULL,
    state text NOT NULL,
    reason text,
    due_at timestamp with time zone,
    lease_owner uuid,
    attempt_no smallint DEFAULT 0 NOT NULL,
    failures smallint DEFAULT 0 NOT NULL,
    lookups smallint DEFAULT 0 NOT NULL,
    provider text,
    provider_message_id text,
    evidence_id uuid,
    replay_of uuid,
    expires_at timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    sent_at timestamp with time zone,
    delivered_at timestamp with time zone,
    bounced_at timestamp with time zone,
    opened_at timestamp with time zone,
    clicked_at timestamp with time zone,
    complained_at timestamp with time zone,
    unsubscribed_at timestamp with time zone,
    ended_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    country text,
    tried text[],
    CONSTRAINT deliveries_ambiguous_attempted CHECK (((state <> ALL (ARRAY['sending'::text, 'sent'::text, 'ambiguous'::text])) OR (attempt_no > 0))),
    CONSTRAINT deliveries_check CHECK ((shard = store.shard_of(id))),
    CONSTRAINT deliveries_end_named CHECK ((((state = ANY (ARRAY['queued'::text, 'sending'::text, 'sent'::text, 'ambiguous'::text])) = (ended_at IS NULL)) AND ((ended_at IS NULL) OR (reason IS NOT NULL)))),
    CONSTRAINT deliveries_leased CHECK (((state = 'sending'::text) = (lease_owner IS NOT NULL))),
    CONSTRAINT deliveries_never_dropped CHECK (((state = ANY (ARRAY['queued'::text, 'sending'::text, 'sent'::text, 'ambiguous'::text])) = (due_at IS NOT NULL))),
    CONSTRAINT deliveries_proven CHECK (((state <> 'delivered'::text) OR ((evidence_id IS NOT NULL) AND (delivered_at IS NOT NULL)))),
    CONSTRAINT deliveries_state_check CHECK ((state = ANY (ARRAY['queued'::text, 'sending'::text, 'sent'::text, 'ambiguous'::text, 'delivered'::text, 'bounced'::text, 'failed'::text, 'unconfirmed'::text, 'suppressed'::text, 'cancelled'::text, 'expired'::text, 'dead'::text])))
)
PARTITION BY RANGE (id);

--
-- Name: COLUMN deliveries.lane; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.deliveries.lane IS 'channel.class.route: the unit of isolation';

--
-- Name: COLUMN deliveries.due_at; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.deliveries.due_at IS 'When something must next be done to this row: send it, reclaim its lease, look it up, resolve it';

--
-- Name: COLUMN deliveries.failures; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.deliveries.failures IS 'Retry budget spent; rate limits, outages of ours and releases cost nothing (R-092)';

--
-- Name: COLUMN deliveries.country; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.deliveries.country IS 'ISO 3166-1 of a phone number, where its numbering plan tells; NULL for every other address';

--
-- Name: COLUMN deliveries.tried; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.deliveries.tried IS 'The providers that refused it since it last waited: the others of its route are asked first (R-164)';

--
-- Name: _cancelled_when(store.deliveries); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._cancelled_when(d store.deliveries) RETURNS text
    LANGUAGE sql STABLE
    RETURN CASE WHEN (EXISTS (SELECT FROM store.attempts a WHERE ((a.shard = (_cancelled_when.d).shard) AND (a.delivery_id = (_cancelled_when.d).id) AND (a.state = 'unanswered'::text)))) THEN 'cancelled before it was sent again; an attempt before got no answer, and may have arrived'::text ELSE 'cancelled before it was sent'::text END;

--
-- Name: FUNCTION _cancelled_when(d store.deliveries); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._cancelled_when(d store.deliveries) IS 'What is known of a delivery that was cancelled in time, or was not quite';

--
-- Name: categories; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.categories (
    tenant_id integer NOT NULL,
    name text NOT NULL,
    class text NOT NULL,
    channels text[] DEFAULT ARRAY['email'::text] NOT NULL,
    sender text,
    reply_to text,
    ambiguity_policy text DEFAULT 'resend_if_absent'::text NOT NULL,
    validity_seconds integer,
    track_opens boolean DEFAULT false NOT NULL,
    track_clicks boolean DEFAULT false NOT NULL,
    test_mode boolean DEFAULT false NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    recipient_per_hour integer,
    CONSTRAINT categories_ambiguity_policy_check CHECK ((ambiguity_policy = ANY (ARRAY['park'::text, 'resend_if_absent'::text, 'at_least_once'::text]))),
    CONSTRAINT categories_channels_check CHECK (((channels <@ ARRAY['email'::text, 'push'::text, 'sms'::text, 'in_app'::text, 'webhook'::text, 'chat'::text]) AND (cardinality(channels) > 0))),
    CONSTRAINT categories_class_check CHECK ((class = ANY (ARRAY['transactional'::text, 'promotional'::text, 'alert'::text]))),
    CONSTRAINT categories_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9_.-]{0,99}$'::text)),
    CONSTRAINT categories_recipient_per_hour_check CHECK (((recipient_per_hour >= 0) AND (recipient_per_hour <= 1000))),
    CONSTRAINT categories_reply_to_check CHECK ((reply_to !~ '[\r\n]'::text)),
    CONSTRAINT categories_sender_check CHECK ((sender !~ '[\r\n]'::text)),
    CONSTRAINT categories_validity_seconds_check CHECK ((validity_seconds > 0))
);

--
-- Name: COLUMN categories.ambiguity_policy; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.categories.ambiguity_policy IS 'What an unknown outcome may come to (I5). park: only positive evidence settles it. resend_if_absent: a lookup that proves absence allows a new attempt. at_least_once: when no evidence can settle it, send again';

--
-- Name: COLUMN categories.validity_seconds; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.categories.validity_seconds IS 'How long after it is due a notification is still worth sending';

--
-- Name: COLUMN categories.recipient_per_hour; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.categories.recipient_per_hour IS 'How much of it one recipient gets on a channel in an hour, counted by itself; 0: as much as is sent. NULL: it counts with the others, against what the configuration says of the channel';

--
-- Name: _category_to_send(integer, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._category_to_send(tenant_id integer, category text) RETURNS store.categories
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _category_to_send(tenant_id integer, category text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._category_to_send(tenant_id integer, category text) IS 'The tenant''s category; raises when there is none of this name';

--
-- Name: _channels_to_send(text[], text[]); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._channels_to_send(asked text[], usual text[]) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE
    AS $$
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

--
-- Name: FUNCTION _channels_to_send(asked text[], usual text[]); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._channels_to_send(asked text[], usual text[]) IS 'The channels asked for, or the category''s';

--
-- Name: _check_address(text, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._check_address(channel text, address text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    AS $_$
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
$_$;

--
-- Name: FUNCTION _check_address(channel text, address text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._check_address(channel text, address text) IS 'Raises unless the address could be one of this channel';

--
-- Name: _check_capability(text, text, boolean); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._check_capability(channel text, country text, provable boolean) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    AS $_$
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
$_$;

--
-- Name: FUNCTION _check_capability(channel text, country text, provable boolean); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._check_capability(channel text, country text, provable boolean) IS 'Raises unless deliveries on the channel have such a country';

--
-- Name: _check_line(text, text, integer); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._check_line(field text, value text, length_max integer) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    AS $$
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

--
-- Name: FUNCTION _check_line(field text, value text, length_max integer); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._check_line(field text, value text, length_max integer) IS 'Raises unless the value is there, in bounds, and one line';

--
-- Name: _check_provider(text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._check_provider(provider text) RETURNS void
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _check_provider(provider text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._check_provider(provider text) IS 'Raises unless a lane has the provider account, or something was ever known about it';

--
-- Name: _check_replay(text, integer, boolean, text, timestamp with time zone); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._check_replay(state text, max_rows integer, commit boolean, reason text, expires_at timestamp with time zone) RETURNS void
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _check_replay(state text, max_rows integer, commit boolean, reason text, expires_at timestamp with time zone); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._check_replay(state text, max_rows integer, commit boolean, reason text, expires_at timestamp with time zone) IS 'Raises unless the arguments of a replay make sense';

--
-- Name: _check_scope(integer, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._check_scope(tenant_id integer, scope text) RETURNS void
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _check_scope(tenant_id integer, scope text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._check_scope(tenant_id integer, scope text) IS 'Raises unless the scope is all or a category of the tenant';

--
-- Name: _check_times(timestamp with time zone, timestamp with time zone, timestamp with time zone); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._check_times(send_at timestamp with time zone, due timestamp with time zone, expires_at timestamp with time zone) RETURNS void
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _check_times(send_at timestamp with time zone, due timestamp with time zone, expires_at timestamp with time zone); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._check_times(send_at timestamp with time zone, due timestamp with time zone, expires_at timestamp with time zone) IS 'Raises unless the times are in order and in bounds';

--
-- Name: _check_variables(integer, text, integer, text[], jsonb); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._check_variables(tenant_id integer, template_id text, version integer, channels text[], variables jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _check_variables(tenant_id integer, template_id text, version integer, channels text[], variables jsonb); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._check_variables(tenant_id integer, template_id text, version integer, channels text[], variables jsonb) IS 'Raises naming each variable that is missing or not declared (R-065)';

--
-- Name: _check_verdict(text, uuid, jsonb, jsonb); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._check_verdict(verdict text, first_id uuid, original jsonb, request jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _check_verdict(verdict text, first_id uuid, original jsonb, request jsonb); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._check_verdict(verdict text, first_id uuid, original jsonb, request jsonb) IS 'Raises unless landed.accept took the request';

--
-- Name: _differing_paths(jsonb, jsonb, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._differing_paths(was jsonb, became jsonb, path text DEFAULT ''::text) RETURNS SETOF text
    LANGUAGE plpgsql IMMUTABLE
    AS $$
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

--
-- Name: FUNCTION _differing_paths(was jsonb, became jsonb, path text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._differing_paths(was jsonb, became jsonb, path text) IS 'Where two JSON documents differ';

--
-- Name: fingerprint(jsonb); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.fingerprint(request jsonb) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN sha256(convert_to((request)::text, 'UTF8'::name));

--
-- Name: idempotency_keys; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.idempotency_keys (
    tenant_id integer NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    notification_id uuid NOT NULL,
    response_status smallint NOT NULL,
    response text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT idempotency_keys_check CHECK ((expires_at > created_at)),
    CONSTRAINT idempotency_keys_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255)))
);

--
-- Name: notifications; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.notifications (
    shard smallint NOT NULL,
    id uuid NOT NULL,
    tenant_id integer NOT NULL,
    recipient_id text NOT NULL,
    category text NOT NULL,
    class text NOT NULL,
    channels text[] NOT NULL,
    template_id text NOT NULL,
    template_version integer NOT NULL,
    request jsonb NOT NULL,
    idempotency_key text,
    source text NOT NULL,
    state text DEFAULT 'accepted'::text NOT NULL,
    reason text,
    due_at timestamp with time zone,
    expires_at timestamp with time zone NOT NULL,
    accepted_at timestamp with time zone DEFAULT now() NOT NULL,
    planned_at timestamp with time zone,
    trace jsonb,
    CONSTRAINT notifications_channels_check CHECK ((cardinality(channels) > 0)),
    CONSTRAINT notifications_check CHECK ((shard = store.shard_of(id))),
    CONSTRAINT notifications_class_check CHECK ((class = ANY (ARRAY['transactional'::text, 'promotional'::text, 'alert'::text]))),
    CONSTRAINT notifications_end_named CHECK (((state = ANY (ARRAY['accepted'::text, 'planned'::text])) OR (reason IS NOT NULL))),
    CONSTRAINT notifications_never_dropped CHECK (((state = 'accepted'::text) = (due_at IS NOT NULL))),
    CONSTRAINT notifications_planned_explained CHECK ((((state = 'planned'::text) = (planned_at IS NOT NULL)) AND ((state <> 'planned'::text) OR (trace IS NOT NULL)))),
    CONSTRAINT notifications_source_check CHECK ((source = ANY (ARRAY['api'::text, 'sql'::text]))),
    CONSTRAINT notifications_state_check CHECK ((state = ANY (ARRAY['accepted'::text, 'planned'::text, 'cancelled'::text, 'expired'::text])))
)
PARTITION BY RANGE (id);

--
-- Name: COLUMN notifications.request; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.notifications.request IS 'What the producer asked, as it asked, less its idempotency key';

--
-- Name: _earlier_verdict(integer, text, jsonb); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._earlier_verdict(tenant_id integer, key text, request jsonb) RETURNS TABLE(verdict text, notification_id uuid, original_request jsonb)
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 SELECT
         CASE
             WHEN (k.fingerprint = store.fingerprint(_earlier_verdict.request)) THEN 'replayed'::text
             ELSE 'key_reused'::text
         END AS "case",
     k.notification_id,
     n.request
    FROM (store.idempotency_keys k
      LEFT JOIN store.notifications n ON (((n.shard = store.shard_of(k.notification_id)) AND (n.id = k.notification_id))))
   WHERE ((k.tenant_id = _earlier_verdict.tenant_id) AND (k.key = _earlier_verdict.key));
END;

--
-- Name: FUNCTION _earlier_verdict(tenant_id integer, key text, request jsonb); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._earlier_verdict(tenant_id integer, key text, request jsonb) IS 'What landed.accept says to a key that came before; no row when it did not';

--
-- Name: uuid_v7(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.uuid_v7() RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    AS $$SELECT uuidv7()$$;

--
-- Name: endpoints; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.endpoints (
    id uuid DEFAULT store.uuid_v7() NOT NULL,
    tenant_id integer NOT NULL,
    name text NOT NULL,
    url text NOT NULL,
    format text DEFAULT 'standard'::text NOT NULL,
    events text[] DEFAULT '{}'::text[] NOT NULL,
    secret text,
    previous_secret text,
    previous_secret_until timestamp with time zone,
    owner_email text,
    status text DEFAULT 'enabled'::text NOT NULL,
    disabled_reason text,
    disabled_at timestamp with time zone,
    failing_since timestamp with time zone,
    paused_until timestamp with time zone,
    last_success_at timestamp with time zone,
    last_failure text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT endpoints_check CHECK (((format = 'standard'::text) = (secret IS NOT NULL))),
    CONSTRAINT endpoints_check1 CHECK (((status = 'disabled'::text) = ((disabled_at IS NOT NULL) AND (disabled_reason IS NOT NULL)))),
    CONSTRAINT endpoints_check2 CHECK (((previous_secret IS NULL) = (previous_secret_until IS NULL))),
    CONSTRAINT endpoints_format_check CHECK ((format = ANY (ARRAY['standard'::text, 'slack'::text, 'discord'::text, 'teams'::text]))),
    CONSTRAINT endpoints_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT endpoints_owner_email_check CHECK ((owner_email !~ '[\r\n]'::text)),
    CONSTRAINT endpoints_status_check CHECK ((status = ANY (ARRAY['enabled'::text, 'disabled'::text]))),
    CONSTRAINT endpoints_url_check CHECK (((url ~ '^https?://[!-~]+$'::text) AND (length(url) <= 2048)))
);

--
-- Name: COLUMN endpoints.events; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.endpoints.events IS 'Which delivery-status events it is sent: delivery.delivered, delivery.*, *; none for one that is only a target';

--
-- Name: COLUMN endpoints.failing_since; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.endpoints.failing_since IS 'Of the run of failures with no success between; NULL while it works';

--
-- Name: COLUMN endpoints.paused_until; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.endpoints.paused_until IS 'While it fails: what waits for it is put off till then, but for one delivery at a time that tries whether it is back';

--
-- Name: _endpoint_candidates(store.endpoints, uuid, timestamp with time zone, timestamp with time zone, boolean, uuid, integer); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._endpoint_candidates(e store.endpoints, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, max_rows integer) RETURNS SETOF store.deliveries
    LANGUAGE plpgsql STABLE
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
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

--
-- Name: FUNCTION _endpoint_candidates(e store.endpoints, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, max_rows integer); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._endpoint_candidates(e store.endpoints, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, max_rows integer) IS 'The original of the delivery named, or the originals that match';

--
-- Name: _endpoint_to_replay(uuid, text, boolean); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._endpoint_to_replay(endpoint_id uuid, tenant text, commit boolean) RETURNS store.endpoints
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _endpoint_to_replay(endpoint_id uuid, tenant text, commit boolean); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._endpoint_to_replay(endpoint_id uuid, tenant text, commit boolean) IS 'An endpoint, of one tenant if that is named; raises unless it can be sent to';

--
-- Name: _find_delivery(uuid, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._find_delivery(id uuid, tenant text) RETURNS store.deliveries
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _find_delivery(id uuid, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._find_delivery(id uuid, tenant text) IS 'A delivery, of one tenant if that is named; raises no_data_found';

--
-- Name: _find_notification(uuid, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._find_notification(id uuid, tenant text) RETURNS store.notifications
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _find_notification(id uuid, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._find_notification(id uuid, tenant text) IS 'A notification, of one tenant if that is named; raises no_data_found';

--
-- Name: _held_until(timestamp with time zone, timestamp with time zone, timestamp with time zone); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._held_until(due_at timestamp with time zone, until timestamp with time zone, expires_at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    RETURN LEAST(GREATEST(due_at, until), GREATEST(expires_at, now()));

--
-- Name: FUNCTION _held_until(due_at timestamp with time zone, until timestamp with time zone, expires_at timestamp with time zone); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._held_until(due_at timestamp with time zone, until timestamp with time zone, expires_at timestamp with time zone) IS 'When a held row is next looked at: never earlier than it was due, never after it expires';

--
-- Name: _is_operator(); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._is_operator() RETURNS boolean
    LANGUAGE sql STABLE
    RETURN pg_has_role(SESSION_USER, 'landed_operator'::name, 'MEMBER'::text);

--
-- Name: FUNCTION _is_operator(); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._is_operator() IS 'Whether the session may act for every tenant: operators, the service, superusers';

--
-- Name: _judge_replay(store.deliveries, boolean); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._judge_replay(d store.deliveries, force boolean, OUT verdict text, OUT explanation text) RETURNS record
    LANGUAGE plpgsql
    AS $$
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

--
-- Name: FUNCTION _judge_replay(d store.deliveries, force boolean, OUT verdict text, OUT explanation text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._judge_replay(d store.deliveries, force boolean, OUT verdict text, OUT explanation text) IS 'What a replay of this delivery would be, and why';

--
-- Name: _lock_address(integer, text, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._lock_address(tenant_id integer, channel text, address text) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(11, store.address_bucket(tenant_id, channel, address));
END
$$;

--
-- Name: FUNCTION _lock_address(tenant_id integer, channel text, address text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._lock_address(tenant_id integer, channel text, address text) IS 'Holds an address until the transaction ends: no claim looks at it meanwhile';

--
-- Name: _lock_notification(uuid, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._lock_notification(id uuid, tenant text) RETURNS store.notifications
    LANGUAGE plpgsql
    AS $$
DECLARE
    n store.notifications := landed._find_notification(id, tenant);
BEGIN
    SELECT q.* INTO n FROM store.notifications q WHERE q.shard = n.shard AND q.id = n.id FOR UPDATE;
    RETURN n;
END
$$;

--
-- Name: FUNCTION _lock_notification(id uuid, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._lock_notification(id uuid, tenant text) IS 'The same, locked';

--
-- Name: _need_reason(text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._need_reason(reason text) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF coalesce(btrim(reason), '') = '' THEN
        PERFORM landed._refuse('invalid_parameter_value', 'reason', 'is required',
                               'What people do by hand is kept in the audit log, with its reason.',
                               'Say why, for example reason => ''ticket 4711: address was corrected''.');
    END IF;
END
$$;

--
-- Name: FUNCTION _need_reason(reason text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._need_reason(reason text) IS 'Raises unless a reason was given';

--
-- Name: _refuse(text, text, text, text, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._refuse(code text, field text, problem text, detail text, hint text) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = code, COLUMN = field, MESSAGE = field || ': ' || problem, DETAIL = detail, HINT = hint;
END
$$;

--
-- Name: FUNCTION _refuse(code text, field text, problem text, detail text, hint text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._refuse(code text, field text, problem text, detail text, hint text) IS 'Raises an error that names a field, says what is wrong with it and what would be right';

--
-- Name: _replay_candidates(uuid, integer, text, text, text, text, timestamp with time zone, timestamp with time zone, integer); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._replay_candidates(delivery_id uuid, owner_id integer, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer) RETURNS SETOF store.deliveries
    LANGUAGE plpgsql STABLE
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
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

--
-- Name: FUNCTION _replay_candidates(delivery_id uuid, owner_id integer, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._replay_candidates(delivery_id uuid, owner_id integer, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer) IS 'The delivery named, or those that match';

--
-- Name: _replay_one(store.deliveries, text, text, timestamp with time zone, jsonb); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._replay_one(d store.deliveries, verdict text, reason text, expires_at timestamp with time zone, asked jsonb) RETURNS uuid
    LANGUAGE plpgsql
    AS $$
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

--
-- Name: FUNCTION _replay_one(d store.deliveries, verdict text, reason text, expires_at timestamp with time zone, asked jsonb); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._replay_one(d store.deliveries, verdict text, reason text, expires_at timestamp with time zone, asked jsonb) IS 'Replays one delivery that was judged and is locked; returns the id it goes out under';

--
-- Name: _request(text, text, text, integer, text[], jsonb, timestamp with time zone, timestamp with time zone); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._request(recipient_id text, category text, template_id text, template_version integer, channels text[], variables jsonb, send_at timestamp with time zone, expires_at timestamp with time zone) RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN (jsonb_build_object('recipient_id', recipient_id, 'category', category, 'template_id', template_id, 'variables', variables) || jsonb_strip_nulls(jsonb_build_object('template_version', template_version, 'channels', channels, 'send_at', to_char((send_at AT TIME ZONE 'UTC'::text), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'::text), 'expires_at', to_char((expires_at AT TIME ZONE 'UTC'::text), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'::text))));

--
-- Name: FUNCTION _request(recipient_id text, category text, template_id text, template_version integer, channels text[], variables jsonb, send_at timestamp with time zone, expires_at timestamp with time zone); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._request(recipient_id text, category text, template_id text, template_version integer, channels text[], variables jsonb, send_at timestamp with time zone, expires_at timestamp with time zone) IS 'A request as it is kept and compared';

--
-- Name: _resolve_not_sent(store.deliveries, store.attempts); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._resolve_not_sent(d store.deliveries, a store.attempts) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    -- No call can still be under way so long after its intent was written (I6, I7): gate, call and the provider's own
    -- settling together stay under it.
    quarantine CONSTANT interval := '2 minutes';
BEGIN
    IF a.opened_at > now() - quarantine THEN
        PERFORM landed._refuse('object_not_in_prerequisite_state', 'delivery_id', 'its call may still be under way',
                               format('The attempt was opened at %s.', a.opened_at),
                               format('Try again after %s.', a.opened_at + quarantine));
    END IF;
    UPDATE store.attempts q
    SET state = 'not_sent', detail = 'an operator found it was never accepted', closed_at = now()
    WHERE q.shard = a.shard AND q.delivery_id = a.delivery_id AND q.no = a.no;
    UPDATE store.deliveries q
    SET state = 'queued', reason = 'retry', due_at = now(), updated_at = now()
    WHERE q.shard = d.shard AND q.id = d.id;
END
$$;

--
-- Name: FUNCTION _resolve_not_sent(d store.deliveries, a store.attempts); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._resolve_not_sent(d store.deliveries, a store.attempts) IS 'The provider never took it: a new attempt may open';

--
-- Name: _resolve_sent(store.deliveries, store.attempts); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._resolve_sent(d store.deliveries, a store.attempts) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE store.attempts q
    SET state = 'accepted', outcome = 'accepted', detail = 'an operator found it accepted', closed_at = now()
    WHERE q.shard = a.shard AND q.delivery_id = a.delivery_id AND q.no = a.no;
    UPDATE store.deliveries q
    SET state = 'sent', reason = NULL, sent_at = a.opened_at, due_at = now(), lookups = 0, updated_at = now(),
        provider_message_id = coalesce(q.provider_message_id, a.provider_message_id)
    WHERE q.shard = d.shard AND q.id = d.id;
END
$$;

--
-- Name: FUNCTION _resolve_sent(d store.deliveries, a store.attempts); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._resolve_sent(d store.deliveries, a store.attempts) IS 'The provider has it; whether it was delivered is asked at once';

--
-- Name: _surely_not_sent(store.deliveries); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._surely_not_sent(d store.deliveries) RETURNS boolean
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 SELECT ((count(*) = (_surely_not_sent.d).attempt_no) AND COALESCE(bool_and((a.state = ANY (ARRAY['refused'::text, 'not_sent'::text]))), true))
    FROM store.attempts a
   WHERE ((a.shard = (_surely_not_sent.d).shard) AND (a.delivery_id = (_surely_not_sent.d).id));
END;

--
-- Name: FUNCTION _surely_not_sent(d store.deliveries); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._surely_not_sent(d store.deliveries) IS 'Whether every attempt of it is on record, and none can have been accepted';

--
-- Name: new_id(smallint); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.new_id(shard smallint) RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    RETURN (encode(set_byte(uuid_send(store.uuid_v7()), 15, (shard)::integer), 'hex'::text))::uuid;

--
-- Name: FUNCTION new_id(shard smallint); Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON FUNCTION store.new_id(shard smallint) IS 'A UUIDv7 whose last byte is the shard, so that an id knows where its row is';

--
-- Name: events; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.events (
    shard smallint NOT NULL,
    id uuid NOT NULL,
    tenant_id integer NOT NULL,
    notification_id uuid NOT NULL,
    delivery_id uuid,
    attempt_no smallint,
    kind text NOT NULL,
    source text NOT NULL,
    occurred_at timestamp with time zone DEFAULT now() NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    data jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT events_source_check CHECK ((source = ANY (ARRAY['landed'::text, 'provider'::text, 'lookup'::text, 'device'::text, 'operator'::text])))
)
PARTITION BY RANGE (notification_id);

--
-- Name: TABLE events; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON TABLE store.events IS 'Facts, appended and never changed. The birth of a notification, a delivery or an attempt is its own row; what happens to it afterwards is an event. reporting.timeline shows both';

--
-- Name: _tell(smallint, integer, uuid, uuid, text, jsonb); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._tell(shard smallint, tenant_id integer, notification_id uuid, delivery_id uuid, kind text, data jsonb) RETURNS void
    LANGUAGE sql
    BEGIN ATOMIC
 INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, kind, source, data)
   VALUES (_tell.shard, store.new_id(_tell.shard), _tell.tenant_id, _tell.notification_id, _tell.delivery_id, _tell.kind, 'operator'::text, _tell.data);
END;

--
-- Name: FUNCTION _tell(shard smallint, tenant_id integer, notification_id uuid, delivery_id uuid, kind text, data jsonb); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._tell(shard smallint, tenant_id integer, notification_id uuid, delivery_id uuid, kind text, data jsonb) IS 'Appends what an operator did to the story of a notification';

--
-- Name: control_events; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.control_events (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    subject text NOT NULL,
    name text NOT NULL,
    event text NOT NULL,
    detail text DEFAULT ''::text NOT NULL,
    data jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT control_events_event_check CHECK ((event = ANY (ARRAY['opened'::text, 'probe_failed'::text, 'closed'::text, 'limited'::text, 'share_lowered'::text, 'share_raised'::text, 'drained'::text, 'restored'::text, 'shedding_began'::text, 'shedding_ended'::text]))),
    CONSTRAINT control_events_subject_check CHECK ((subject = ANY (ARRAY['provider'::text, 'load'::text])))
);

--
-- Name: TABLE control_events; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON TABLE store.control_events IS 'Every step that breakers, shares, limits, load shedding and people took';

--
-- Name: _tell_provider(text, text, text, jsonb); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._tell_provider(event text, provider text, detail text, data jsonb) RETURNS void
    LANGUAGE sql
    BEGIN ATOMIC
 INSERT INTO store.control_events (subject, name, event, detail, data)
   VALUES ('provider'::text, _tell_provider.provider, _tell_provider.event, _tell_provider.detail, (_tell_provider.data || jsonb_build_object('actor', landed._actor())));
END;

--
-- Name: FUNCTION _tell_provider(event text, provider text, detail text, data jsonb); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._tell_provider(event text, provider text, detail text, data jsonb) IS 'Appends what an operator did to the log of a provider''s steps';

--
-- Name: _template_to_send(integer, text, integer, text[]); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._template_to_send(tenant_id integer, template_id text, version integer, channels text[]) RETURNS integer
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _template_to_send(tenant_id integer, template_id text, version integer, channels text[]); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._template_to_send(tenant_id integer, template_id text, version integer, channels text[]) IS 'The version to send; raises unless it is published with content for every channel';

--
-- Name: _tenant(text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._tenant(tenant text) RETURNS integer
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _tenant(tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._tenant(tenant text) IS 'The id of a tenant; raises no_data_found';

--
-- Name: _tenant_of_sender(text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._tenant_of_sender(tenant text) RETURNS integer
    LANGUAGE plpgsql STABLE
    AS $$
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

--
-- Name: FUNCTION _tenant_of_sender(tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._tenant_of_sender(tenant text) IS 'The tenant''s id, if the session''s user may send for it';

--
-- Name: _uncancellable(store.deliveries); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._uncancellable(d store.deliveries) RETURNS text
    LANGUAGE sql STABLE
    RETURN CASE WHEN ((d).state = 'sending'::text) THEN 'a call to the provider may be under way'::text WHEN ((d).state = 'ambiguous'::text) THEN 'it may have been sent: that is being found out; if it was not, cancel again'::text WHEN ((d).state = 'sent'::text) THEN 'the provider has accepted it'::text ELSE format('it has ended: %s (%s)'::text, (d).state, (d).reason) END;

--
-- Name: FUNCTION _uncancellable(d store.deliveries); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._uncancellable(d store.deliveries) IS 'Why a delivery cannot be cancelled';

--
-- Name: _until_when(timestamp with time zone, timestamp with time zone); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._until_when(due_at timestamp with time zone, expires_at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE
    RETURN CASE WHEN (due_at >= expires_at) THEN format('held, but it expires at %s and will not be sent'::text, expires_at) ELSE format('held until %s'::text, due_at) END;

--
-- Name: FUNCTION _until_when(due_at timestamp with time zone, expires_at timestamp with time zone); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._until_when(due_at timestamp with time zone, expires_at timestamp with time zone) IS 'What a hold comes to, in words';

--
-- Name: _validity_max(); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._validity_max() RETURNS interval
    LANGUAGE sql IMMUTABLE
    RETURN '1 day'::interval;

--
-- Name: FUNCTION _validity_max(); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._validity_max() IS 'The longest that a notification may be worth sending once it is due';

--
-- Name: _validity(integer, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._validity(tenant_id integer, category text) RETURNS interval
    LANGUAGE sql STABLE
    BEGIN ATOMIC
 SELECT LEAST(landed._validity_max(), ( SELECT make_interval(secs => (c.validity_seconds)::double precision) AS make_interval
            FROM store.categories c
           WHERE ((c.tenant_id = _validity.tenant_id) AND (c.name = _validity.category)))) AS "least";
END;

--
-- Name: FUNCTION _validity(tenant_id integer, category text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._validity(tenant_id integer, category text) IS 'How long a notification of this category is worth sending once it is due';

--
-- Name: _why_lane(text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._why_lane(lane text) RETURNS text
    LANGUAGE plpgsql STABLE
    AS $$
BEGIN
    RETURN (SELECT format('its lane waits: %s', l.detail)
            FROM reporting.lanes l
            WHERE l.lane = _why_lane.lane AND l.waiting_for IS NOT NULL);
END
$$;

--
-- Name: FUNCTION _why_lane(lane text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._why_lane(lane text) IS 'What keeps waiting all that is due in a lane, in words; NULL when nothing does';

--
-- Name: _why_delivery(store.deliveries); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._why_delivery(d store.deliveries) RETURNS text
    LANGUAGE sql STABLE
    RETURN CASE (d).state WHEN 'queued'::text THEN concat_ws('; '::text, CASE (d).reason WHEN 'retry'::text THEN format('waits for its retry after failure %s'::text, (d).failures) WHEN 'failover'::text THEN format('%s refused it; goes to another provider of its route at once'::text, (d).provider) WHEN 'probe_failed'::text THEN format('was sent to see whether %s is back, which it is not; at no cost to its retries'::text, (d).provider) WHEN 'recipient_limit'::text THEN 'waits because its recipient has had enough for an hour on this channel; landed.release lets it go'::text WHEN 'template_limit'::text THEN 'waits for its turn among the messages of its template; landed.release lets it go'::text WHEN 'rate_limited'::text THEN 'waits because the provider said to slow down'::text WHEN 'unauthorized'::text THEN 'waits because the provider refused our account'::text WHEN 'held'::text THEN 'held by an operator; landed.release lets it go'::text WHEN 'replay'::text THEN 'replayed by an operator, waits for a worker'::text WHEN 'scheduled'::text THEN 'scheduled for later'::text WHEN 'endpoint_failing'::text THEN 'put off, because its endpoint fails just now; at no cost to its retries'::text WHEN 'released'::text THEN 'given back by a worker before it was called, waits for the next'::text ELSE 'waits for its first attempt'::text END, (CASE WHEN ((d).due_at <= now()) THEN 'due since '::text ELSE 'due at '::text END || (d).due_at), CASE WHEN ((d).due_at <= now()) THEN landed._why_lane((d).lane) ELSE NULL::text END, ('expires at '::text || (d).expires_at)) WHEN 'sending'::text THEN format('attempt %s is with %s; if its worker is lost, that is noticed at %s'::text, (d).attempt_no, (d).provider, (d).due_at) WHEN 'sent'::text THEN format('%s accepted it at %s; waits for evidence of delivery, next asked at %s'::text, (d).provider, (d).sent_at, (d).due_at) WHEN 'ambiguous'::text THEN format('attempt %s may or may not have been accepted; %s is asked at %s, nothing is resent before'::text, (d).attempt_no, (d).provider, (d).due_at) WHEN 'delivered'::text THEN format('delivered at %s, as %s says'::text, (d).delivered_at, (d).provider) WHEN 'bounced'::text THEN format('bounced at %s (%s)'::text, COALESCE((d).bounced_at, (d).ended_at), (d).reason) WHEN 'failed'::text THEN format('failed at %s (%s)'::text, (d).ended_at, (d).reason) WHEN 'unconfirmed'::text THEN CASE (d).reason WHEN 'ambiguous_unresolved'::text THEN 'it may have been sent and nothing could tell; late evidence still counts'::text WHEN 'not_acknowledged'::text THEN 'it was accepted, nobody there can be asked, and the receiving side never said that it came; late evidence still counts'::text ELSE 'it was accepted, and nothing ever proved what became of it; late evidence still counts'::text END WHEN 'suppressed'::text THEN format('not sent: its address must not be sent to (%s)'::text, (d).reason) WHEN 'cancelled'::text THEN format('cancelled at %s'::text, (d).ended_at) WHEN 'expired'::text THEN format('not sent in time: it expired at %s'::text, (d).expires_at) WHEN 'dead'::text THEN format('given up at %s after %s attempts (%s): %s; landed.replay starts it over'::text, (d).ended_at, (d).attempt_no, (d).reason, COALESCE((SELECT a.detail FROM store.attempts a WHERE ((a.shard = (_why_delivery.d).shard) AND (a.delivery_id = (_why_delivery.d).id) AND (a.no = (_why_delivery.d).attempt_no))), 'no detail'::text)) ELSE NULL::text END;

--
-- Name: FUNCTION _why_delivery(d store.deliveries); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._why_delivery(d store.deliveries) IS 'Why a delivery waits, or how it ended, in words';

--
-- Name: _why_notification(store.notifications); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed._why_notification(n store.notifications) RETURNS text
    LANGUAGE sql STABLE
    RETURN CASE WHEN ((n).state = 'planned'::text) THEN format('accepted at %s, planned at %s; its deliveries follow'::text, (n).accepted_at, (n).planned_at) WHEN ((n).state <> 'accepted'::text) THEN format('ended before it was planned: %s'::text, (n).reason) WHEN ((n).reason = 'held'::text) THEN format('held by an operator until %s; landed.release lets it go'::text, (n).due_at) WHEN ((n).due_at > now()) THEN format('scheduled for %s'::text, (n).due_at) ELSE format('waits for intake since %s'::text, (n).due_at) END;

--
-- Name: FUNCTION _why_notification(n store.notifications); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed._why_notification(n store.notifications) IS 'Why a notification is where it is, in words';

--
-- Name: accept(jsonb, interval); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.accept(items jsonb, key_ttl interval DEFAULT '7 days'::interval) RETURNS TABLE(ordinal integer, verdict text, notification_id uuid, response_status smallint, response text, original_request jsonb)
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
DECLARE
    born jsonb;
    rest jsonb;
BEGIN
    -- An insert that meets another transaction's uncommitted key waits for it (the caller's lock_timeout bounds that);
    -- ON CONFLICT DO NOTHING then leaves the row to the second statement, whose snapshot sees the winner.
    WITH item AS MATERIALIZED (
        SELECT i.*, store.new_id(store.shard_for(i.tenant_id, i.recipient_id)) AS id
        FROM jsonb_to_recordset(items) AS i(
            ordinal int, tenant_id int, idempotency_key text, recipient_id text, category text, class text,
            channels text[], template_id text, template_version int, request jsonb, source text,
            due_at timestamptz, expires_at timestamptz)
        JOIN store.recipients r ON r.tenant_id = i.tenant_id AND r.id = i.recipient_id AND r.active
    ), fresh AS (
        INSERT INTO store.idempotency_keys
            (tenant_id, key, fingerprint, notification_id, response_status, response, expires_at)
        SELECT i.tenant_id, i.idempotency_key, store.fingerprint(i.request), i.id, 202,
               '{"id":"' || i.id || '","status":"queued"}', now() + key_ttl
        FROM item i
        WHERE i.idempotency_key IS NOT NULL
        ORDER BY i.tenant_id, i.idempotency_key
        ON CONFLICT (tenant_id, key) DO NOTHING
        RETURNING notification_id
    ), written AS (
        INSERT INTO store.notifications
            (shard, id, tenant_id, recipient_id, category, class, channels, template_id, template_version,
             request, idempotency_key, source, due_at, expires_at)
        SELECT store.shard_of(i.id), i.id, i.tenant_id, i.recipient_id, i.category, i.class, i.channels, i.template_id,
               i.template_version, i.request, i.idempotency_key, i.source, coalesce(i.due_at, now()), i.expires_at
        FROM item i
        WHERE i.idempotency_key IS NULL OR i.id IN (SELECT f.notification_id FROM fresh f)
        RETURNING id
    )
    -- A membership test, not a join of two batches: callers forbid hash joins, for the sake of the tables.
    SELECT coalesce(jsonb_object_agg(i.ordinal, i.id), '{}') INTO born
    FROM item i
    WHERE (i.id IN (SELECT w.id FROM written w)) IS TRUE;

    RETURN QUERY
    SELECT b.key::int, 'accepted', b.value::uuid, 202::smallint, '{"id":"' || b.value || '","status":"queued"}', NULL::jsonb
    FROM jsonb_each_text(born) AS b;

    SELECT jsonb_agg(i) INTO rest FROM jsonb_array_elements(items) AS i WHERE NOT born ? (i ->> 'ordinal');
    IF rest IS NULL THEN
        RETURN;
    END IF;

    RETURN QUERY
    SELECT i.ordinal,
           CASE
               WHEN k.fingerprint = store.fingerprint(i.request) THEN 'replayed'
               WHEN k.key IS NOT NULL THEN 'key_reused'
               WHEN r.id IS NULL THEN 'recipient_unknown'
               ELSE 'recipient_inactive'
           END,
           k.notification_id,
           k.response_status,
           k.response,
           n.request
    FROM jsonb_to_recordset(rest) AS i(
        ordinal int, tenant_id int, idempotency_key text, recipient_id text, request jsonb)
    LEFT JOIN store.idempotency_keys k ON k.tenant_id = i.tenant_id AND k.key = i.idempotency_key
    LEFT JOIN store.recipients r ON r.tenant_id = i.tenant_id AND r.id = i.recipient_id
    LEFT JOIN store.notifications n
        ON n.shard = store.shard_of(k.notification_id) AND n.id = k.notification_id
       AND k.fingerprint IS DISTINCT FROM store.fingerprint(i.request);
END
$$;

--
-- Name: FUNCTION accept(items jsonb, key_ttl interval); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.accept(items jsonb, key_ttl interval) IS 'For the API and landed.send: accepts a group of validated requests in one commit';

--
-- Name: cancel(uuid, text, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.cancel(notification_id uuid, reason text, tenant text DEFAULT NULL::text) RETURNS TABLE(delivery_id uuid, channel text, state text, cancelled boolean, explanation text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    n store.notifications;
    d store.deliveries;
    done uuid[] := '{}';
    why jsonb := jsonb_build_object('reason', cancel.reason);
BEGIN
    PERFORM landed._need_reason(cancel.reason);
    n := landed._lock_notification(cancel.notification_id, cancel.tenant);
    PERFORM landed._audit('cancel', n.tenant_id, 'notification ' || n.id, cancel.reason, '{}');

    IF n.state = 'accepted' THEN
        UPDATE store.notifications t
        SET state = 'cancelled', reason = 'cancelled', due_at = NULL
        WHERE t.shard = n.shard AND t.id = n.id;
        PERFORM landed._tell(n.shard, n.tenant_id, n.id, NULL, 'cancelled', why);
        RETURN QUERY SELECT NULL::uuid, NULL::text, 'cancelled', true, 'cancelled before anything was planned';
        RETURN;
    ELSIF n.state <> 'planned' THEN
        RETURN QUERY SELECT NULL::uuid, NULL::text, n.state, false, format('the notification was %s already', n.state);
        RETURN;
    END IF;

    -- Only rows that wait are locked, and a claim that holds one is short: what it took is then seen as sending.
    FOR d IN
        UPDATE store.deliveries q
        SET state = 'cancelled', reason = 'cancelled', due_at = NULL, ended_at = now(), updated_at = now()
        FROM (
            SELECT w.shard, w.id
            FROM store.deliveries w
            WHERE w.shard = n.shard
              AND w.id BETWEEN store.children_from(n.id) AND store.children_to(n.id)
              AND w.notification_id = n.id
              AND w.state = 'queued'
            ORDER BY w.id
            FOR UPDATE
        ) AS waiting
        WHERE q.shard = waiting.shard AND q.id = waiting.id
        RETURNING q.*
    LOOP
        PERFORM landed._tell(d.shard, d.tenant_id, n.id, d.id, 'cancelled', why);
        done := done || d.id;
        RETURN QUERY SELECT d.id, d.channel, d.state, true, landed._cancelled_when(d);
    END LOOP;

    RETURN QUERY
    SELECT r.id, r.channel, r.state, false, landed._uncancellable(r)
    FROM store.deliveries r
    WHERE r.shard = n.shard
      AND r.id BETWEEN store.children_from(n.id) AND store.children_to(n.id)
      AND r.notification_id = n.id
      AND r.id <> ALL (done)
    ORDER BY r.id;
END
$$;

--
-- Name: FUNCTION cancel(notification_id uuid, reason text, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.cancel(notification_id uuid, reason text, tenant text) IS 'Cancels what has not been sent of a notification; one row per delivery says whether, and if not, why not';

--
-- Name: drain_provider(text, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.drain_provider(provider text, reason text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

--
-- Name: FUNCTION drain_provider(provider text, reason text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.drain_provider(provider text, reason text) IS 'Takes a provider account out: no new calls, and what is under way ends. False when it was drained before';

--
-- Name: explain(uuid, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.explain(notification_id uuid, tenant text DEFAULT NULL::text) RETURNS TABLE(step integer, delivery_id uuid, rule text, input jsonb, verdict text, explanation text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

--
-- Name: FUNCTION explain(notification_id uuid, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.explain(notification_id uuid, tenant text) IS 'Why a notification and its deliveries are where they are: the stored decision trace, then each delivery in words';

--
-- Name: grant_producer(name, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.grant_producer(role name, tenant text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    granted_id int := landed._tenant(tenant);
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = grant_producer.role) THEN
        PERFORM landed._refuse('undefined_object', 'role', format('there is no role %I', role),
                               'A producer connects as a role of its own.', format('CREATE ROLE %I LOGIN', role));
    END IF;
    EXECUTE format('GRANT landed_producer TO %I', role);
    INSERT INTO store.producers (role_name, tenant_id) VALUES (role, granted_id) ON CONFLICT DO NOTHING;
    PERFORM landed._audit('grant_producer', granted_id, 'role ' || role, 'granted', '{}');
END
$$;

--
-- Name: FUNCTION grant_producer(role name, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.grant_producer(role name, tenant text) IS 'Lets a database role send for a tenant through landed.send';

--
-- Name: hold(uuid, text, timestamp with time zone, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.hold(notification_id uuid, reason text, until timestamp with time zone DEFAULT (now() + '1 day'::interval), tenant text DEFAULT NULL::text) RETURNS TABLE(delivery_id uuid, channel text, state text, held boolean, due_at timestamp with time zone, explanation text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    n store.notifications;
    d store.deliveries;
    why jsonb := jsonb_build_object('reason', hold.reason, 'until', hold.until);
BEGIN
    PERFORM landed._need_reason(hold.reason);
    IF hold.until IS NULL OR hold.until <= now() THEN
        PERFORM landed._refuse('invalid_parameter_value', 'until', 'must be in the future',
                               format('It is %s.', coalesce(hold.until::text, 'NULL')), 'The default is a day from now.');
    END IF;
    n := landed._lock_notification(hold.notification_id, hold.tenant);
    PERFORM landed._audit('hold', n.tenant_id, 'notification ' || n.id, hold.reason, why);

    IF n.state = 'accepted' THEN
        UPDATE store.notifications t
        SET due_at = landed._held_until(t.due_at, hold.until, t.expires_at), reason = 'held'
        WHERE t.shard = n.shard AND t.id = n.id
        RETURNING t.* INTO n;
        PERFORM landed._tell(n.shard, n.tenant_id, n.id, NULL, 'held', why);
        RETURN QUERY SELECT NULL::uuid, NULL::text, n.state, true, n.due_at, landed._until_when(n.due_at, n.expires_at);
        RETURN;
    END IF;

    FOR d IN
        UPDATE store.deliveries q
        SET due_at = landed._held_until(q.due_at, hold.until, q.expires_at), reason = 'held', updated_at = now()
        FROM (
            SELECT w.shard, w.id
            FROM store.deliveries w
            WHERE w.shard = n.shard
              AND w.id BETWEEN store.children_from(n.id) AND store.children_to(n.id)
              AND w.notification_id = n.id
              AND w.state = 'queued'
            ORDER BY w.id
            FOR UPDATE
        ) AS waiting
        WHERE q.shard = waiting.shard AND q.id = waiting.id
        RETURNING q.*
    LOOP
        PERFORM landed._tell(d.shard, d.tenant_id, n.id, d.id, 'held', why);
        RETURN QUERY SELECT d.id, d.channel, d.state, true, d.due_at, landed._until_when(d.due_at, d.expires_at);
    END LOOP;

    RETURN QUERY
    SELECT r.id, r.channel, r.state, false, r.due_at, format('it is %s: only what waits can be held', r.state)
    FROM store.deliveries r
    WHERE r.shard = n.shard
      AND r.id BETWEEN store.children_from(n.id) AND store.children_to(n.id)
      AND r.notification_id = n.id
      AND r.state <> 'queued'
    ORDER BY r.id;
END
$$;

--
-- Name: FUNCTION hold(notification_id uuid, reason text, until timestamp with time zone, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.hold(notification_id uuid, reason text, until timestamp with time zone, tenant text) IS 'Keeps what waits of a notification waiting until a time; one row per delivery says whether';

--
-- Name: price(text, numeric, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.price(channel text, usd numeric, reason text) RETURNS numeric
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

--
-- Name: FUNCTION price(channel text, usd numeric, reason text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.price(channel text, usd numeric, reason text) IS 'Sets what a message of a channel costs, in US dollars; returns what it was before';

--
-- Name: release(uuid, text, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.release(notification_id uuid, reason text, tenant text DEFAULT NULL::text) RETURNS TABLE(delivery_id uuid, channel text, state text, released boolean, due_at timestamp with time zone, explanation text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    n store.notifications;
    d store.deliveries;
    due timestamptz;
    why jsonb := jsonb_build_object('reason', release.reason);
BEGIN
    PERFORM landed._need_reason(release.reason);
    n := landed._lock_notification(release.notification_id, release.tenant);
    PERFORM landed._audit('release', n.tenant_id, 'notification ' || n.id, release.reason, '{}');
    due := greatest((n.request ->> 'send_at')::timestamptz, now());

    IF n.state = 'accepted' AND n.reason = 'held' THEN
        UPDATE store.notifications t
        SET due_at = due, reason = NULL
        WHERE t.shard = n.shard AND t.id = n.id;
        PERFORM landed._tell(n.shard, n.tenant_id, n.id, NULL, 'released_hold', why);
        RETURN QUERY SELECT NULL::uuid, NULL::text, n.state, true, due, format('due at %s', due);
        RETURN;
    ELSIF n.state <> 'planned' THEN
        RETURN QUERY SELECT NULL::uuid, NULL::text, n.state, false, n.due_at, 'it was not held';
        RETURN;
    END IF;

    FOR d IN
        UPDATE store.deliveries q
        SET due_at = due, reason = CASE WHEN q.failures > 0 THEN 'retry' END, updated_at = now()
        FROM (
            SELECT w.shard, w.id
            FROM store.deliveries w
            WHERE w.shard = n.shard
              AND w.id BETWEEN store.children_from(n.id) AND store.children_to(n.id)
              AND w.notification_id = n.id
              AND w.state = 'queued'
              AND w.reason IN ('held', 'recipient_limit', 'template_limit')
            ORDER BY w.id
            FOR UPDATE
        ) AS waiting
        WHERE q.shard = waiting.shard AND q.id = waiting.id
        RETURNING q.*
    LOOP
        PERFORM landed._tell(d.shard, d.tenant_id, n.id, d.id, 'released_hold', why);
        RETURN QUERY SELECT d.id, d.channel, d.state, true, d.due_at, format('due at %s', d.due_at);
    END LOOP;
    IF NOT FOUND THEN
        RETURN QUERY SELECT NULL::uuid, NULL::text, n.state, false, NULL::timestamptz, 'none of its deliveries was held, by an operator or a limit';
    END IF;
END
$$;

--
-- Name: FUNCTION release(notification_id uuid, reason text, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.release(notification_id uuid, reason text, tenant text) IS 'Lets go what a hold or a limit keeps of a notification; one row per delivery that it kept';

--
-- Name: rendered(uuid, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.rendered(delivery_id uuid, tenant text DEFAULT NULL::text) RETURNS TABLE(attempt_no smallint, attempt_state text, tenant_name text, template_id text, template_version integer, channel text, address text, sender text, variables jsonb, content_hash bytea)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    d store.deliveries := landed._find_delivery(rendered.delivery_id, rendered.tenant);
BEGIN
    RETURN QUERY
    SELECT a.no, a.state, t.name, d.template_id, d.template_version, d.channel, d.address, d.sender,
           n.request -> 'variables', a.content_hash
    FROM store.notifications n
    JOIN store.tenants t ON t.id = n.tenant_id
    LEFT JOIN LATERAL (
        SELECT q.no, q.state, q.content_hash
        FROM store.attempts q
        WHERE q.shard = d.shard AND q.delivery_id = d.id
        ORDER BY q.state = 'accepted' DESC, q.no DESC
        LIMIT 1
    ) a ON true
    WHERE n.shard = d.shard AND n.id = d.notification_id;
END
$$;

--
-- Name: FUNCTION rendered(delivery_id uuid, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.rendered(delivery_id uuid, tenant text) IS 'What a delivery''s content was made from, and the hash of what its accepted (else its last) attempt sent';

--
-- Name: replay(uuid, text, text, text, text, text, timestamp with time zone, timestamp with time zone, integer, boolean, boolean, text, timestamp with time zone); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.replay(delivery_id uuid DEFAULT NULL::uuid, tenant text DEFAULT NULL::text, state text DEFAULT 'dead'::text, template_id text DEFAULT NULL::text, category text DEFAULT NULL::text, provider text DEFAULT NULL::text, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, max_rows integer DEFAULT 1000, commit boolean DEFAULT false, force boolean DEFAULT false, reason text DEFAULT NULL::text, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS TABLE(delivery uuid, notification uuid, owner text, recipient text, template text, standing text, verdict text, explanation text, replayed_as uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

--
-- Name: FUNCTION replay(delivery_id uuid, tenant text, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer, commit boolean, force boolean, reason text, expires_at timestamp with time zone); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.replay(delivery_id uuid, tenant text, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer, commit boolean, force boolean, reason text, expires_at timestamp with time zone) IS 'Gives what ended without arriving another chance: one delivery, or those that match. A dry run unless commit => true; one row per candidate with the verdict and why';

--
-- Name: replay_endpoint(uuid, uuid, timestamp with time zone, timestamp with time zone, boolean, uuid, text, integer, boolean, text, interval); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.replay_endpoint(endpoint_id uuid, delivery_id uuid DEFAULT NULL::uuid, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, arrived boolean DEFAULT false, after uuid DEFAULT NULL::uuid, tenant text DEFAULT NULL::text, max_rows integer DEFAULT 1000, commit boolean DEFAULT false, reason text DEFAULT NULL::text, valid_for interval DEFAULT '100:00:00'::interval) RETURNS TABLE(delivery uuid, notification uuid, event text, standing text, verdict text, explanation text, replayed_as uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

--
-- Name: FUNCTION replay_endpoint(endpoint_id uuid, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, tenant text, max_rows integer, commit boolean, reason text, valid_for interval); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.replay_endpoint(endpoint_id uuid, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, tenant text, max_rows integer, commit boolean, reason text, valid_for interval) IS 'Sends an endpoint again what it missed: one delivery, or what is since a time. The receiver knows copies by their id. A dry run unless commit => true; one row per candidate with the verdict and why';

--
-- Name: resolve(uuid, text, text, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.resolve(delivery_id uuid, verdict text, reason text, tenant text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    d store.deliveries := landed._find_delivery(resolve.delivery_id, resolve.tenant);
    a store.attempts;
BEGIN
    PERFORM landed._need_reason(resolve.reason);
    IF verdict IS NULL OR verdict NOT IN ('sent', 'not_sent') THEN
        PERFORM landed._refuse('invalid_parameter_value', 'verdict', 'must be sent or not_sent',
                               format('It is %L.', verdict), 'sent: the provider has it. not_sent: it never took it.');
    END IF;
    SELECT q.* INTO d FROM store.deliveries q WHERE q.shard = d.shard AND q.id = d.id FOR UPDATE;
    SELECT q.* INTO a FROM store.attempts q
    WHERE q.shard = d.shard AND q.delivery_id = d.id AND q.no = d.attempt_no AND q.state = 'ambiguous';
    IF d.state <> 'ambiguous' OR NOT FOUND THEN
        PERFORM landed._refuse('object_not_in_prerequisite_state', 'delivery_id',
            format('it is %s: there is nothing to resolve', d.state),
            'Only a delivery whose last attempt has an unknown outcome can be resolved.',
            'What has ended is for landed.replay.');
    END IF;
    IF verdict = 'sent' THEN
        PERFORM landed._resolve_sent(d, a);
    ELSE
        PERFORM landed._resolve_not_sent(d, a);
    END IF;
    PERFORM landed._audit('resolve', d.tenant_id, 'delivery ' || d.id, resolve.reason,
                          jsonb_build_object('verdict', verdict, 'attempt_no', a.no));
    INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, attempt_no, kind, source, data)
    VALUES (d.shard, store.new_id(d.shard), d.tenant_id, d.notification_id, d.id, a.no,
            CASE verdict WHEN 'sent' THEN 'resolved_found' ELSE 'resolved_not_sent' END, 'operator',
            jsonb_build_object('reason', resolve.reason));
    RETURN CASE verdict WHEN 'sent' THEN 'sent' ELSE 'queued' END;
END
$$;

--
-- Name: FUNCTION resolve(delivery_id uuid, verdict text, reason text, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.resolve(delivery_id uuid, verdict text, reason text, tenant text) IS 'Settles a delivery whose outcome is unknown, as sent or not_sent; returns its new state';

--
-- Name: restore_provider(text, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.restore_provider(provider text, reason text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    share_first CONSTANT double precision := 0.1;
    before store.provider_states;
BEGIN
    PERFORM landed._need_reason(restore_provider.reason);
    PERFORM landed._check_provider(restore_provider.provider);
    SELECT p.* INTO before FROM store.provider_states p WHERE p.provider = restore_provider.provider FOR UPDATE;
    IF before.provider IS NULL OR (before.drained_at IS NULL AND before.breaker = 'closed') THEN
        RETURN false;
    END IF;
    UPDATE store.provider_states p
    SET drained_at = NULL,
        drained_by = NULL,
        drain_reason = NULL,
        retry_at = CASE WHEN p.breaker = 'open' THEN now() END,
        since = CASE WHEN p.breaker = 'open' THEN p.since ELSE now() END,
        judge_from = CASE WHEN p.breaker = 'open' THEN p.judge_from ELSE now() END,
        recovering = p.recovering OR p.drained_at IS NOT NULL,
        share = CASE WHEN p.drained_at IS NULL THEN p.share ELSE share_first END,
        share_changed_at = CASE WHEN p.drained_at IS NULL THEN p.share_changed_at ELSE now() END
    WHERE p.provider = restore_provider.provider;
    PERFORM landed._tell_provider('restored', restore_provider.provider, restore_provider.reason,
                                  jsonb_build_object('was_drained', before.drained_at IS NOT NULL, 'breaker', before.breaker));
    PERFORM landed._audit('restore_provider', NULL, 'provider ' || restore_provider.provider, restore_provider.reason,
                          jsonb_strip_nulls(jsonb_build_object(
                              'drained_at', before.drained_at, 'drained_by', before.drained_by,
                              'drain_reason', before.drain_reason, 'breaker', before.breaker)));
    RETURN true;
END
$$;

--
-- Name: FUNCTION restore_provider(provider text, reason text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.restore_provider(provider text, reason text) IS 'Gives a drained provider account back, and lets one whose breaker is open be tried at once. False when it was neither';

--
-- Name: revoke_producer(name, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.revoke_producer(role name, tenant text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    revoked_id int := landed._tenant(tenant);
BEGIN
    DELETE FROM store.producers p WHERE p.role_name = revoke_producer.role AND p.tenant_id = revoked_id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM landed._audit('revoke_producer', revoked_id, 'role ' || role, 'revoked', '{}');
    RETURN true;
END
$$;

--
-- Name: FUNCTION revoke_producer(role name, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.revoke_producer(role name, tenant text) IS 'Takes that right away again; false when it was not there';

--
-- Name: send(text, text, text, jsonb, text, text, text[], integer, timestamp with time zone, timestamp with time zone, boolean); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.send(tenant text, recipient_id text, template_id text, variables jsonb DEFAULT '{}'::jsonb, category text DEFAULT NULL::text, idempotency_key text DEFAULT NULL::text, channels text[] DEFAULT NULL::text[], template_version integer DEFAULT NULL::integer, send_at timestamp with time zone DEFAULT NULL::timestamp with time zone, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, wake boolean DEFAULT false) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

--
-- Name: FUNCTION send(tenant text, recipient_id text, template_id text, variables jsonb, category text, idempotency_key text, channels text[], template_version integer, send_at timestamp with time zone, expires_at timestamp with time zone, wake boolean); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.send(tenant text, recipient_id text, template_id text, variables jsonb, category text, idempotency_key text, channels text[], template_version integer, send_at timestamp with time zone, expires_at timestamp with time zone, wake boolean) IS 'Sends a notification in the caller''s transaction: accepted when it commits. Returns its id; with an idempotency key that came before, the first one''s. Errors: docs/reference/sql.md';

--
-- Name: set_route_capability(text, text, text, boolean, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.set_route_capability(provider text, channel text, country text, provable boolean, reason text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

--
-- Name: FUNCTION set_route_capability(provider text, channel text, country text, provable boolean, reason text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.set_route_capability(provider text, channel text, country text, provable boolean, reason text) IS 'Says whether deliveries of a provider account on a channel to a country (* for all others) can be proven; returns what was said before, NULL for nothing';

--
-- Name: suppress(text, text, text, text, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.suppress(tenant text, channel text, address text, reason_text text, scope text DEFAULT 'all'::text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

--
-- Name: FUNCTION suppress(tenant text, channel text, address text, reason_text text, scope text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.suppress(tenant text, channel text, address text, reason_text text, scope text) IS 'Stops everything to an address on a channel (scope: all, or one category). Returns the suppression''s id, the first one''s if it was suppressed before';

--
-- Name: timeline(uuid, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.timeline(notification_id uuid, tenant text DEFAULT NULL::text) RETURNS TABLE(occurred_at timestamp with time zone, delivery_id uuid, channel text, attempt_no smallint, kind text, source text, data jsonb, recorded_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    n store.notifications := landed._find_notification(timeline.notification_id, timeline.tenant);
BEGIN
    RETURN QUERY
    SELECT t.occurred_at, t.delivery_id, t.channel, t.attempt_no, t.kind, t.source, t.data, t.recorded_at
    FROM reporting.timeline t
    WHERE t.shard = n.shard AND t.notification_id = n.id
    ORDER BY t.occurred_at, t.recorded_at, t.event_id NULLS FIRST;
END
$$;

--
-- Name: FUNCTION timeline(notification_id uuid, tenant text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.timeline(notification_id uuid, tenant text) IS 'Everything that happened to a notification, in order';

--
-- Name: unsuppress(text, text, text, text, text); Type: FUNCTION; Schema: landed; Owner: -
--

CREATE FUNCTION landed.unsuppress(tenant text, channel text, address text, reason_text text, scope text DEFAULT 'all'::text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    owner_id int := landed._tenant(unsuppress.tenant);
    whose text := store.normalise_address(unsuppress.channel, unsuppress.address);
    lifted store.suppressions;
    any_lifted boolean := false;
BEGIN
    PERFORM landed._need_reason(unsuppress.reason_text);
    PERFORM landed._check_address(unsuppress.channel, whose);
    PERFORM landed._lock_address(owner_id, unsuppress.channel, whose);
    -- A STOP stands beside whatever else is held against the address: it is the address that may be sent to again.
    FOR lifted IN
        UPDATE store.suppressions s
        SET lifted_at = now(), lifted_by = session_user, lift_reason = unsuppress.reason_text
        WHERE s.tenant_id = owner_id AND s.channel = unsuppress.channel AND s.address = whose
          AND s.scope = unsuppress.scope AND s.lifted_at IS NULL
        RETURNING s.*
    LOOP
        any_lifted := true;
        PERFORM landed._audit('unsuppress', owner_id, 'suppression ' || lifted.id, unsuppress.reason_text,
                              jsonb_build_object('channel', lifted.channel, 'scope', lifted.scope,
                                                 'suppressed_for', lifted.reason));
    END LOOP;
    IF NOT any_lifted THEN
        RETURN false;
    END IF;
    -- The address starts afresh: the bounces that led here must not suppress it again at the next one. A count that is
    -- being written at this moment is left alone: its writer may be waiting for the address.
    DELETE FROM store.soft_bounces b
    USING (SELECT c.tenant_id, c.channel, c.address
           FROM store.soft_bounces c
           WHERE c.tenant_id = owner_id AND c.channel = unsuppress.channel AND c.address = whose
           FOR UPDATE SKIP LOCKED) AS counted
    WHERE b.tenant_id = counted.tenant_id AND b.channel = counted.channel AND b.address = counted.address;
    RETURN true;
END
$$;

--
-- Name: FUNCTION unsuppress(tenant text, channel text, address text, reason_text text, scope text); Type: COMMENT; Schema: landed; Owner: -
--

COMMENT ON FUNCTION landed.unsuppress(tenant text, channel text, address text, reason_text text, scope text) IS 'Lifts what suppresses an address on a channel in one scope; false when there was nothing to lift';

--
-- Name: procrastinate_cancel_job_v1(bigint, boolean, boolean); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_cancel_job_v1(job_id bigint, abort boolean, delete_job boolean) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    _job_id bigint;
BEGIN
    IF delete_job THEN
        DELETE FROM procrastinate_jobs
        WHERE id = job_id AND status = 'todo'
        RETURNING id INTO _job_id;
    END IF;
    IF _job_id IS NULL THEN
        IF abort THEN
            UPDATE procrastinate_jobs
            SET abort_requested = true,
                status = CASE status
                    WHEN 'todo' THEN 'cancelled'::procrastinate_job_status ELSE status
                END
            WHERE id = job_id AND status IN ('todo', 'doing')
            RETURNING id INTO _job_id;
        ELSE
            UPDATE procrastinate_jobs
            SET status = 'cancelled'::procrastinate_job_status
            WHERE id = job_id AND status = 'todo'
            RETURNING id INTO _job_id;
        END IF;
    END IF;
    RETURN _job_id;
END;
$$;

--
-- Name: procrastinate_defer_jobs_v1(procrastinate.procrastinate_job_to_defer_v1[]); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_defer_jobs_v1(jobs procrastinate.procrastinate_job_to_defer_v1[]) RETURNS bigint[]
    LANGUAGE plpgsql
    AS $$
DECLARE
    job_ids bigint[];
BEGIN
    WITH inserted_jobs AS (
        INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
        SELECT (job).queue_name,
               (job).task_name,
               (job).priority,
               (job).lock,
               (job).queueing_lock,
               (job).args,
               (job).scheduled_at
        FROM unnest(jobs) AS job
        RETURNING id
    )
    SELECT array_agg(id) FROM inserted_jobs INTO job_ids;

    RETURN job_ids;
END;
$$;

--
-- Name: procrastinate_defer_periodic_job_v2(character varying, character varying, character varying, character varying, integer, character varying, bigint, jsonb); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_defer_periodic_job_v2(_queue_name character varying, _lock character varying, _queueing_lock character varying, _task_name character varying, _priority integer, _periodic_id character varying, _defer_timestamp bigint, _args jsonb) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
	_job_id bigint;
	_defer_id bigint;
BEGIN
    INSERT
        INTO procrastinate_periodic_defers (task_name, periodic_id, defer_timestamp)
        VALUES (_task_name, _periodic_id, _defer_timestamp)
        ON CONFLICT DO NOTHING
        RETURNING id into _defer_id;

    IF _defer_id IS NULL THEN
        RETURN NULL;
    END IF;

    UPDATE procrastinate_periodic_defers
        SET job_id = (
            SELECT COALESCE((
                SELECT unnest(procrastinate_defer_jobs_v1(
                    ARRAY[
                        ROW(
                            _queue_name,
                            _task_name,
                            _priority,
                            _lock,
                            _queueing_lock,
                            _args,
                            NULL::timestamptz
                        )
                    ]::procrastinate_job_to_defer_v1[]
                ))
            ), NULL)
        )
        WHERE id = _defer_id
        RETURNING job_id INTO _job_id;

    DELETE
        FROM procrastinate_periodic_defers
        USING (
            SELECT id
            FROM procrastinate_periodic_defers
            WHERE procrastinate_periodic_defers.task_name = _task_name
            AND procrastinate_periodic_defers.periodic_id = _periodic_id
            AND procrastinate_periodic_defers.defer_timestamp < _defer_timestamp
            ORDER BY id
            FOR UPDATE
        ) to_delete
        WHERE procrastinate_periodic_defers.id = to_delete.id;

    RETURN _job_id;
END;
$$;

--
-- Name: procrastinate_jobs; Type: TABLE; Schema: procrastinate; Owner: -
--

CREATE TABLE procrastinate.procrastinate_jobs (
    id bigint NOT NULL,
    queue_name character varying(128) NOT NULL,
    task_name character varying(128) NOT NULL,
    lock text,
    args jsonb DEFAULT '{}'::jsonb NOT NULL,
    status procrastinate.procrastinate_job_status DEFAULT 'todo'::procrastinate.procrastinate_job_status NOT NULL,
    scheduled_at timestamp with time zone,
    attempts integer DEFAULT 0 NOT NULL,
    queueing_lock text,
    priority integer DEFAULT 0 NOT NULL,
    abort_requested boolean DEFAULT false NOT NULL,
    worker_id bigint,
    CONSTRAINT check_not_todo_abort_requested CHECK ((NOT ((status = 'todo'::procrastinate.procrastinate_job_status) AND (abort_requested = true))))
);

--
-- Name: procrastinate_fetch_job_v2(character varying[], bigint); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_fetch_job_v2(target_queue_names character varying[], p_worker_id bigint) RETURNS procrastinate.procrastinate_jobs
    LANGUAGE plpgsql
    AS $$
DECLARE
	found_jobs procrastinate_jobs;
BEGIN
    WITH candidate AS (
        SELECT jobs.*
            FROM procrastinate_jobs AS jobs
            WHERE
                -- reject the job if its lock has earlier or higher priority jobs
                NOT EXISTS (
                    SELECT 1
                        FROM procrastinate_jobs AS other_jobs
                        WHERE
                            jobs.lock IS NOT NULL
                            AND other_jobs.lock = jobs.lock
                            AND (
                                -- job with same lock is already running
                                other_jobs.status = 'doing'
                                OR
                                -- job with same lock is waiting and has higher priority (or same priority but was queued first)
                                (
                                    other_jobs.status = 'todo'
                                    AND (
                                        other_jobs.priority > jobs.priority
                                        OR (
                                        other_jobs.priority = jobs.priority
                                        AND other_jobs.id < jobs.id
                                        )
                                    )
                                )
                            )
                )
                AND jobs.status = 'todo'
                AND (target_queue_names IS NULL OR jobs.queue_name = ANY( target_queue_names ))
                AND (jobs.scheduled_at IS NULL OR jobs.scheduled_at <= now())
            ORDER BY jobs.priority DESC, jobs.id ASC LIMIT 1
            FOR UPDATE OF jobs SKIP LOCKED
    )
    UPDATE procrastinate_jobs
        SET status = 'doing', worker_id = p_worker_id
        FROM candidate
        WHERE procrastinate_jobs.id = candidate.id
        RETURNING procrastinate_jobs.* INTO found_jobs;

 RETURN found_jobs;
END;
$$;

--
-- Name: procrastinate_finish_job_v1(bigint, procrastinate.procrastinate_job_status, boolean); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_finish_job_v1(job_id bigint, end_status procrastinate.procrastinate_job_status, delete_job boolean) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    _job_id bigint;
BEGIN
    IF end_status NOT IN ('succeeded', 'failed', 'aborted') THEN
        RAISE 'End status should be either "succeeded", "failed" or "aborted" (job id: %)', job_id;
    END IF;
    IF delete_job THEN
        DELETE FROM procrastinate_jobs
        WHERE id = job_id AND status IN ('todo', 'doing')
        RETURNING id INTO _job_id;
    ELSE
        UPDATE procrastinate_jobs
        SET status = end_status,
            abort_requested = false,
            attempts = CASE status
                WHEN 'doing' THEN attempts + 1 ELSE attempts
            END
        WHERE id = job_id AND status IN ('todo', 'doing')
        RETURNING id INTO _job_id;
    END IF;
    IF _job_id IS NULL THEN
        RAISE 'Job was not found or not in "doing" or "todo" status (job id: %)', job_id;
    END IF;
END;
$$;

--
-- Name: procrastinate_notify_queue_abort_job_v1(); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_notify_queue_abort_job_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    payload TEXT;
BEGIN
    SELECT json_build_object('type', 'abort_job_requested', 'job_id', NEW.id)::text INTO payload;
	PERFORM pg_notify('procrastinate_queue_v1#' || NEW.queue_name, payload);
	PERFORM pg_notify('procrastinate_any_queue_v1', payload);
	RETURN NEW;
END;
$$;

--
-- Name: procrastinate_notify_queue_job_inserted_v1(); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_notify_queue_job_inserted_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    payload TEXT;
BEGIN
    SELECT json_build_object('type', 'job_inserted', 'job_id', NEW.id)::text INTO payload;
	PERFORM pg_notify('procrastinate_queue_v1#' || NEW.queue_name, payload);
	PERFORM pg_notify('procrastinate_any_queue_v1', payload);
	RETURN NEW;
END;
$$;

--
-- Name: procrastinate_prune_stalled_workers_v1(double precision); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_prune_stalled_workers_v1(seconds_since_heartbeat double precision) RETURNS TABLE(worker_id bigint)
    LANGUAGE plpgsql
    AS $$
BEGIN
    RETURN QUERY
    DELETE FROM procrastinate_workers
    WHERE last_heartbeat < NOW() - (seconds_since_heartbeat || 'SECOND')::INTERVAL
    RETURNING procrastinate_workers.id;
END;
$$;

--
-- Name: procrastinate_register_worker_v1(); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_register_worker_v1() RETURNS TABLE(worker_id bigint)
    LANGUAGE plpgsql
    AS $$
BEGIN
    RETURN QUERY
    INSERT INTO procrastinate_workers DEFAULT VALUES
    RETURNING procrastinate_workers.id;
END;
$$;

--
-- Name: procrastinate_retry_job_v1(bigint, timestamp with time zone, integer, character varying, character varying); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_retry_job_v1(job_id bigint, retry_at timestamp with time zone, new_priority integer, new_queue_name character varying, new_lock character varying) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    _job_id bigint;
    _abort_requested boolean;
BEGIN
    SELECT abort_requested FROM procrastinate_jobs
    WHERE id = job_id AND status = 'doing'
    FOR UPDATE
    INTO _abort_requested;
    IF _abort_requested THEN
        UPDATE procrastinate_jobs
        SET status = 'failed'::procrastinate_job_status
        WHERE id = job_id AND status = 'doing'
        RETURNING id INTO _job_id;
    ELSE
        UPDATE procrastinate_jobs
        SET status = 'todo'::procrastinate_job_status,
            attempts = attempts + 1,
            scheduled_at = retry_at,
            priority = COALESCE(new_priority, priority),
            queue_name = COALESCE(new_queue_name, queue_name),
            lock = COALESCE(new_lock, lock)
        WHERE id = job_id AND status = 'doing'
        RETURNING id INTO _job_id;
    END IF;

    IF _job_id IS NULL THEN
        RAISE 'Job was not found or not in "doing" status (job id: %)', job_id;
    END IF;
END;
$$;

--
-- Name: procrastinate_retry_job_v2(bigint, timestamp with time zone, integer, character varying, character varying); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_retry_job_v2(job_id bigint, retry_at timestamp with time zone, new_priority integer, new_queue_name character varying, new_lock character varying) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    _job_id bigint;
    _abort_requested boolean;
    _current_status procrastinate_job_status;
BEGIN
    SELECT status, abort_requested FROM procrastinate_jobs
    WHERE id = job_id AND status IN ('doing', 'failed')
    FOR UPDATE
    INTO _current_status, _abort_requested;
    IF _current_status = 'doing' AND _abort_requested THEN
        UPDATE procrastinate_jobs
        SET status = 'failed'::procrastinate_job_status
        WHERE id = job_id AND status = 'doing'
        RETURNING id INTO _job_id;
    ELSE
        UPDATE procrastinate_jobs
        SET status = 'todo'::procrastinate_job_status,
            attempts = attempts + 1,
            scheduled_at = retry_at,
            priority = COALESCE(new_priority, priority),
            queue_name = COALESCE(new_queue_name, queue_name),
            lock = COALESCE(new_lock, lock)
        WHERE id = job_id AND status IN ('doing', 'failed')
        RETURNING id INTO _job_id;
    END IF;

    IF _job_id IS NULL THEN
        RAISE 'Job was not found or has an invalid status to retry (job id: %)', job_id;
    END IF;

END;
$$;

--
-- Name: procrastinate_trigger_abort_requested_events_procedure_v1(); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_trigger_abort_requested_events_procedure_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO procrastinate_events(job_id, type)
        VALUES (NEW.id, 'abort_requested'::procrastinate_job_event_type);
    RETURN NEW;
END;
$$;

--
-- Name: procrastinate_trigger_function_scheduled_events_v1(); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_trigger_function_scheduled_events_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO procrastinate_events(job_id, type, at)
        VALUES (NEW.id, 'scheduled'::procrastinate_job_event_type, NEW.scheduled_at);

	RETURN NEW;
END;
$$;

--
-- Name: procrastinate_trigger_function_status_events_insert_v1(); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_trigger_function_status_events_insert_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO procrastinate_events(job_id, type)
        VALUES (NEW.id, 'deferred'::procrastinate_job_event_type);
	RETURN NEW;
END;
$$;

--
-- Name: procrastinate_trigger_function_status_events_update_v1(); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_trigger_function_status_events_update_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    WITH t AS (
        SELECT CASE
            WHEN OLD.status = 'todo'::procrastinate_job_status
                AND NEW.status = 'doing'::procrastinate_job_status
                THEN 'started'::procrastinate_job_event_type
            WHEN OLD.status = 'doing'::procrastinate_job_status
                AND NEW.status = 'todo'::procrastinate_job_status
                THEN 'deferred_for_retry'::procrastinate_job_event_type
            WHEN OLD.status = 'doing'::procrastinate_job_status
                AND NEW.status = 'failed'::procrastinate_job_status
                THEN 'failed'::procrastinate_job_event_type
            WHEN OLD.status = 'doing'::procrastinate_job_status
                AND NEW.status = 'succeeded'::procrastinate_job_status
                THEN 'succeeded'::procrastinate_job_event_type
            WHEN OLD.status = 'todo'::procrastinate_job_status
                AND (
                    NEW.status = 'cancelled'::procrastinate_job_status
                    OR NEW.status = 'failed'::procrastinate_job_status
                    OR NEW.status = 'succeeded'::procrastinate_job_status
                )
                THEN 'cancelled'::procrastinate_job_event_type
            WHEN OLD.status = 'doing'::procrastinate_job_status
                AND NEW.status = 'aborted'::procrastinate_job_status
                THEN 'aborted'::procrastinate_job_event_type
            WHEN OLD.status = 'failed'::procrastinate_job_status
                AND NEW.status = 'todo'::procrastinate_job_status
                THEN 'retried'::procrastinate_job_event_type
            ELSE NULL
        END as event_type
    )
    INSERT INTO procrastinate_events(job_id, type)
        SELECT NEW.id, t.event_type
        FROM t
        WHERE t.event_type IS NOT NULL;
	RETURN NEW;
END;
$$;

--
-- Name: procrastinate_unlink_periodic_defers_v1(); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_unlink_periodic_defers_v1() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE procrastinate_periodic_defers
    SET job_id = NULL
    WHERE job_id = OLD.id;
    RETURN OLD;
END;
$$;

--
-- Name: procrastinate_unregister_worker_v1(bigint); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_unregister_worker_v1(worker_id bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    DELETE FROM procrastinate_workers
    WHERE id = worker_id;
END;
$$;

--
-- Name: procrastinate_update_heartbeat_v1(bigint); Type: FUNCTION; Schema: procrastinate; Owner: -
--

CREATE FUNCTION procrastinate.procrastinate_update_heartbeat_v1(worker_id bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE procrastinate_workers
    SET last_heartbeat = NOW()
    WHERE id = worker_id;
END;
$$;

--
-- Name: domain_of(text, text); Type: FUNCTION; Schema: reporting; Owner: -
--

CREATE FUNCTION reporting.domain_of(channel text, address text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN (channel = 'email'::text) THEN NULLIF(lower(split_part(address, '@'::text, '-1'::integer)), ''::text) ELSE NULL::text END;

--
-- Name: FUNCTION domain_of(channel text, address text); Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON FUNCTION reporting.domain_of(channel text, address text) IS 'The receiving domain of an email address; NULL on other channels';

--
-- Name: id_floor(timestamp with time zone); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.id_floor(at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((lpad(to_hex(GREATEST((0)::bigint, ((EXTRACT(epoch FROM at) * (1000)::numeric))::bigint)), 12, '0'::text) || '00000000000000000000'::text))::uuid;

--
-- Name: FUNCTION id_floor(at timestamp with time zone); Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON FUNCTION store.id_floor(at timestamp with time zone) IS 'The smallest id that could have been made at this time: a bound for pruning partitions';

--
-- Name: id_floor(timestamp with time zone); Type: FUNCTION; Schema: reporting; Owner: -
--

CREATE FUNCTION reporting.id_floor(at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN store.id_floor(at);

--
-- Name: FUNCTION id_floor(at timestamp with time zone); Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON FUNCTION reporting.id_floor(at timestamp with time zone) IS 'The smallest id that could have been made at this time: a bound on ids leaves the partitions of other days alone';

--
-- Name: masked_address(text, text); Type: FUNCTION; Schema: reporting; Owner: -
--

CREATE FUNCTION reporting.masked_address(channel text, address text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN ((address IS NULL) OR (address = ''::text)) THEN NULL::text WHEN (channel = 'email'::text) THEN (("left"(address, 1) || '…@'::text) || reporting.domain_of(channel, address)) ELSE ('…'::text || "right"(address, LEAST(4, (length(address) / 2)))) END;

--
-- Name: FUNCTION masked_address(channel text, address text); Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON FUNCTION reporting.masked_address(channel text, address text) IS 'An address that can be told from others and not be written to: b…@example.com';

--
-- Name: queued_lanes(); Type: FUNCTION; Schema: reporting; Owner: -
--

CREATE FUNCTION reporting.queued_lanes() RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER ROWS 20
    SET search_path TO 'pg_catalog', 'pg_temp'
    BEGIN ATOMIC
 WITH RECURSIVE first_attempts AS (
         ( SELECT d.lane
            FROM store.deliveries d
           WHERE ((d.state = 'queued'::text) AND (d.failures = 0))
           ORDER BY d.lane
          LIMIT 1)
         UNION ALL
          SELECT ( SELECT d.lane
                    FROM store.deliveries d
                   WHERE ((d.state = 'queued'::text) AND (d.failures = 0) AND (d.lane > f.lane))
                   ORDER BY d.lane
                  LIMIT 1) AS lane
            FROM first_attempts f
           WHERE (f.lane IS NOT NULL)
         ), retries AS (
         ( SELECT d.lane
            FROM store.deliveries d
           WHERE ((d.state = 'queued'::text) AND (d.failures > 0))
           ORDER BY d.lane
          LIMIT 1)
         UNION ALL
          SELECT ( SELECT d.lane
                    FROM store.deliveries d
                   WHERE ((d.state = 'queued'::text) AND (d.failures > 0) AND (d.lane > r.lane))
                   ORDER BY d.lane
                  LIMIT 1) AS lane
            FROM retries r
           WHERE (r.lane IS NOT NULL)
         )
  SELECT f.lane
    FROM first_attempts f
   WHERE (f.lane IS NOT NULL)
 UNION
  SELECT r.lane
    FROM retries r
   WHERE (r.lane IS NOT NULL);
END;

--
-- Name: FUNCTION queued_lanes(); Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON FUNCTION reporting.queued_lanes() IS 'The lanes that have queued deliveries, due or not';

--
-- Name: normalise_address(text, text); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.normalise_address(channel text, address text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE channel WHEN 'email'::text THEN lower(btrim(address)) WHEN 'sms'::text THEN regexp_replace(address, '[\s()./\u00a0\u2010-\u2015-]'::text, ''::text, 'g'::text) WHEN 'in_app'::text THEN btrim(address) ELSE lower(btrim(address)) END;

--
-- Name: address_bucket(integer, text, text); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.address_bucket(tenant_id integer, channel text, address text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((hashtextextended(((channel || ':'::text) || store.normalise_address(channel, address)), (tenant_id)::bigint) & (1023)::bigint))::integer;

--
-- Name: check_delivered(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.check_delivered() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM FROM store.events e
    WHERE e.shard = NEW.shard
      AND e.notification_id = NEW.notification_id
      AND e.id = NEW.evidence_id
      AND e.delivery_id = NEW.id
      AND e.attempt_no IS NOT NULL
      AND e.kind = 'provider_delivered'
      AND e.source IN ('provider', 'lookup', 'device');
    IF NOT FOUND THEN
        RAISE EXCEPTION 'delivery % cannot be delivered without evidence (got event %)', NEW.id, NEW.evidence_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'deliveries_proven';
    END IF;
    RETURN NEW;
END
$$;

--
-- Name: children_from(uuid); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.children_from(parent uuid) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (("left"(replace((parent)::text, '-'::text, ''::text), 12) || '00000000000000000000'::text))::uuid;

--
-- Name: children_to(uuid); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.children_to(parent uuid) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (("left"(replace((parent)::text, '-'::text, ''::text), 12) || 'ffffffffffffffffffff'::text))::uuid;

--
-- Name: FUNCTION children_to(parent uuid); Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON FUNCTION store.children_to(parent uuid) IS 'With children_from: the bounds between which the ids of a notification''s deliveries lie';

--
-- Name: ensure_partitions(date, date); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.ensure_partitions(first_day date, last_day date) RETURNS integer
    LANGUAGE plpgsql
    AS $$
DECLARE
    parent text;
    day date;
    part text;
    made int := 0;
    low text;
    high text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('landed.partitions', 0));
    FOREACH parent IN ARRAY ARRAY['notifications', 'deliveries', 'attempts', 'events', 'inbound_events'] LOOP
        FOR day IN SELECT generate_series(first_day, last_day, interval '1 day')::date LOOP
            -- Only a provider's events can belong to a day gone by; new ids never do (yesterday: a clock set back).
            CONTINUE WHEN parent <> 'inbound_events' AND day < (now() AT TIME ZONE 'UTC')::date - 1;
            part := parent || to_char(day, '_pYYYYMMDD');
            CONTINUE WHEN to_regclass(format('store.%I', part)) IS NOT NULL;
            IF parent = 'inbound_events' THEN
                low := day::text;
                high := (day + 1)::text;
            ELSE
                low := store.id_floor(day::timestamp AT TIME ZONE 'UTC')::text;
                high := store.id_floor((day + 1)::timestamp AT TIME ZONE 'UTC')::text;
            END IF;
            EXECUTE format('CREATE TABLE store.%I (LIKE store.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE '
                           'INCLUDING COMPRESSION INCLUDING GENERATED)', part, parent);
            IF parent <> 'events' THEN
                EXECUTE format('ALTER TABLE store.%I SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, '
                               'autovacuum_vacuum_cost_delay = 0)', part);
            END IF;
            EXECUTE format('ALTER TABLE store.%I ATTACH PARTITION store.%I FOR VALUES FROM (%L) TO (%L)', parent, part, low, high);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

--
-- Name: id_time(uuid); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.id_time(id uuid) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN to_timestamp((((((('x'::text || "left"(replace((id)::text, '-'::text, ''::text), 12)))::bit(48))::bigint)::numeric / 1000.0))::double precision);

--
-- Name: inherit_opt_outs(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.inherit_opt_outs() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(14, 0);
    INSERT INTO store.suppressions (tenant_id, channel, address, reason, detail, source)
    SELECT DISTINCT ON (s.channel, s.address)
           NEW.id, s.channel, s.address, s.reason, 'said before this tenant was there', s.source
    FROM store.suppressions s
    WHERE s.reason = 'opted_out' AND s.scope = 'all' AND s.lifted_at IS NULL
    ORDER BY s.channel, s.address, s.id
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

--
-- Name: keep_epoch_growing(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.keep_epoch_growing() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NEW.epoch < OLD.epoch THEN
        RAISE EXCEPTION 'epoch of region % cannot go from % back to %', OLD.name, OLD.epoch, NEW.epoch
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;

--
-- Name: keep_template_immutable(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.keep_template_immutable() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.status <> 'draft' AND EXISTS (SELECT FROM store.tenants t WHERE t.id = OLD.tenant_id) THEN
            RAISE EXCEPTION 'template % version % was published: archive it instead', OLD.template_id, OLD.version
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN OLD;
    END IF;
    IF (NEW.tenant_id, NEW.template_id, NEW.version, NEW.channel, NEW.locale, NEW.subject, NEW.html, NEW.text,
        NEW.text_derived, NEW.variables, NEW.extras, NEW.created_at)
       IS DISTINCT FROM
       (OLD.tenant_id, OLD.template_id, OLD.version, OLD.channel, OLD.locale, OLD.subject, OLD.html, OLD.text,
        OLD.text_derived, OLD.variables, OLD.extras, OLD.created_at) THEN
        RAISE EXCEPTION 'template % version % is immutable: create a new version', OLD.template_id, OLD.version
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF (OLD.status, NEW.status) IN (('published', 'draft'), ('archived', 'draft'), ('archived', 'published')) THEN
        RAISE EXCEPTION 'template % version % is %: it cannot become %', OLD.template_id, OLD.version, OLD.status, NEW.status
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;

--
-- Name: new_child_id(uuid); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.new_child_id(parent uuid) RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    RETURN (encode(OVERLAY(set_byte(uuid_send(store.uuid_v7()), 15, get_byte(uuid_send(parent), 15)) PLACING SUBSTRING(uuid_send(parent) FROM 1 FOR 6) FROM 1 FOR 6), 'hex'::text))::uuid;

--
-- Name: notify_config(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.notify_config() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_notify('landed_config', TG_TABLE_NAME);
    RETURN NULL;
END
$$;

--
-- Name: past_partitions(date, interval); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.past_partitions(through_day date, dead_letter_retention interval) RETURNS TABLE(day date, parent text, part text, needed boolean, attached boolean, pending boolean)
    LANGUAGE plpgsql STABLE
    AS $_$
DECLARE
    suffix text;
    notifications_part text;
    deliveries_part text;
    inbound_part text;
    day_needed boolean;
    inbound_needed boolean;
BEGIN
    FOR suffix IN
        SELECT DISTINCT right(c.relname, 10)
        FROM pg_class c
        WHERE c.relnamespace = 'store'::regnamespace
          AND c.relkind = 'r'
          AND c.relname ~ '^(notifications|deliveries|attempts|events|inbound_events)_p[0-9]{8}$'
          AND to_date(right(c.relname, 8), 'YYYYMMDD') <= past_partitions.through_day
        ORDER BY 1
    LOOP
        notifications_part := 'notifications' || suffix;
        deliveries_part := 'deliveries' || suffix;
        inbound_part := 'inbound_events' || suffix;
        day_needed := false;
        inbound_needed := false;
        IF to_regclass(format('store.%I', notifications_part)) IS NOT NULL THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM store.%I WHERE state = ''accepted'')', notifications_part) INTO day_needed;
        END IF;
        IF NOT day_needed AND to_regclass(format('store.%I', deliveries_part)) IS NOT NULL THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM store.%I WHERE ended_at IS NULL
                                                                   OR (state = ''dead'' AND ended_at > now() - %L::interval))',
                           deliveries_part, past_partitions.dead_letter_retention) INTO day_needed;
        END IF;
        IF to_regclass(format('store.%I', inbound_part)) IS NOT NULL THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM store.%I WHERE state IN (''pending'', ''parked''))', inbound_part)
            INTO inbound_needed;
        END IF;
        RETURN QUERY
        SELECT to_date(right(suffix, 8), 'YYYYMMDD'), t.parent, t.parent || suffix,
               CASE t.parent WHEN 'inbound_events' THEN inbound_needed ELSE day_needed END,
               i.inhrelid IS NOT NULL, coalesce(i.inhdetachpending, false)
        FROM unnest(ARRAY['inbound_events', 'events', 'attempts', 'notifications', 'deliveries']) WITH ORDINALITY
                 AS t(parent, place)
        JOIN pg_class c ON c.relnamespace = 'store'::regnamespace AND c.relname = t.parent || suffix
        LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
        ORDER BY t.place;
    END LOOP;
END
$_$;

--
-- Name: refuse_change(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'store.% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;

--
-- Name: shard_for(integer, text); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.shard_for(tenant_id integer, recipient_id text) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((hashtextextended(recipient_id, (tenant_id)::bigint) & (63)::bigint))::smallint;

--
-- Name: take_slots(timestamp with time zone[], timestamp with time zone[], integer); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.take_slots(slots timestamp with time zone[], not_before timestamp with time zone[], per_hour integer) RETURNS timestamp with time zone[]
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    hour CONSTANT interval := '1 hour';
    ahead_max CONSTANT int := 100;  -- kept besides an hour's; only a loop that runs away takes more
    held timestamptz[] := slots;
    known timestamptz[];
    taken timestamptz[] := '{}';
    earliest timestamptz;
    due timestamptz;
BEGIN
    IF cardinality(slots) > 1 THEN  -- sorting costs more than all the rest
        held := ARRAY(SELECT s.at FROM unnest(slots) AS s(at) ORDER BY s.at);
    END IF;
    -- Of those an hour ago or longer, the last says where knowledge begins.
    held := held[greatest(1, width_bucket(now() - hour, held), cardinality(held) - per_hour - ahead_max + 1) :];
    known := held;
    FOREACH earliest IN ARRAY not_before LOOP
        due := greatest(now(), earliest, known[1] + hour);
        FOR k IN 1 .. cardinality(known) - per_hour + 1 LOOP
            EXIT WHEN known[k + per_hour - 1] - hour >= due;
            IF due < known[k] + hour AND known[k + per_hour - 1] < known[k] + hour THEN
                due := known[k] + hour;
            END IF;
        END LOOP;
        known := known[: width_bucket(due, known)] || due || known[width_bucket(due, known) + 1 :];
        taken := taken || due;
    END LOOP;
    RETURN held || taken;
END
$$;

--
-- Name: FUNCTION take_slots(slots timestamp with time zone[], not_before timestamp with time zone[], per_hour integer); Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON FUNCTION store.take_slots(slots timestamp with time zone[], not_before timestamp with time zone[], per_hour integer) IS 'These slots, of which the earliest that no longer matter are gone, and after them the new ones: for each moment the first free one that is not before it (NULL: not before now)';

--
-- Name: take_slots(timestamp with time zone[], integer, integer); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.take_slots(slots timestamp with time zone[], n integer, per_hour integer) RETURNS timestamp with time zone[]
    LANGUAGE plpgsql STABLE
    AS $$
BEGIN
    FOR i IN 1 .. n LOOP
        slots := slots || greatest(now(), slots[cardinality(slots) - per_hour + 1] + interval '1 hour');
    END LOOP;
    RETURN slots[cardinality(slots) - greatest(per_hour, n) + 1 :];
END
$$;

--
-- Name: FUNCTION take_slots(slots timestamp with time zone[], n integer, per_hour integer); Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON FUNCTION store.take_slots(slots timestamp with time zone[], n integer, per_hour integer) IS 'These slots and the next n, of which the earliest that no longer matter are gone';

--
-- Name: take_tokens(text, integer, double precision, double precision); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.take_tokens(bucket text, wanted integer, rate double precision, burst double precision, OUT granted integer, OUT retry_after_seconds double precision) RETURNS record
    LANGUAGE plpgsql
    AS $$
DECLARE
    level double precision;
BEGIN
    INSERT INTO store.rate_buckets AS b (name, tokens, refilled_at)
    VALUES (bucket, burst, clock_timestamp())
    ON CONFLICT (name) DO UPDATE
    SET tokens = least(burst, b.tokens + rate * greatest(0, extract(epoch FROM clock_timestamp() - b.refilled_at))),
        refilled_at = greatest(b.refilled_at, clock_timestamp())
    RETURNING b.tokens INTO level;
    granted := least(wanted, floor(level)::int);
    IF granted > 0 THEN
        UPDATE store.rate_buckets SET tokens = tokens - granted WHERE name = bucket;
        retry_after_seconds := 0;
    ELSE
        retry_after_seconds := (1 - level) / rate;
    END IF;
END
$$;

--
-- Name: tell_status(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.tell_status() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    types text[] := '{}';
BEGIN
    IF NOT EXISTS (SELECT FROM store.endpoints e
                   WHERE e.tenant_id = NEW.tenant_id AND e.status = 'enabled' AND cardinality(e.events) > 0) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        types := ARRAY['delivery.' || NEW.state];
    ELSE
        IF NEW.state <> OLD.state AND NEW.state NOT IN ('queued', 'sending') THEN
            types := types || ('delivery.' || NEW.state);
        END IF;
        IF OLD.opened_at IS NULL AND NEW.opened_at IS NOT NULL THEN types := types || 'delivery.opened'::text; END IF;
        IF OLD.clicked_at IS NULL AND NEW.clicked_at IS NOT NULL THEN types := types || 'delivery.clicked'::text; END IF;
        IF OLD.complained_at IS NULL AND NEW.complained_at IS NOT NULL THEN types := types || 'delivery.complained'::text; END IF;
        IF OLD.unsubscribed_at IS NULL AND NEW.unsubscribed_at IS NOT NULL THEN
            types := types || 'delivery.unsubscribed'::text;
        END IF;
    END IF;
    INSERT INTO store.status_events (tenant_id, type, data)
    SELECT NEW.tenant_id, type, jsonb_strip_nulls(jsonb_build_object(
        'notification_id', NEW.notification_id, 'delivery_id', NEW.id, 'recipient_id', NEW.recipient_id,
        'category', NEW.category, 'channel', NEW.channel, 'state', NEW.state, 'reason', NEW.reason,
        'provider', NEW.provider, 'attempts', NEW.attempt_no))
    FROM unnest(types) AS type;
    RETURN NULL;
END
$$;

--
-- Name: procrastinate_events; Type: TABLE; Schema: procrastinate; Owner: -
--

CREATE TABLE procrastinate.procrastinate_events (
    id bigint NOT NULL,
    job_id bigint NOT NULL,
    type procrastinate.procrastinate_job_event_type,
    at timestamp with time zone DEFAULT now()
);

--
-- Name: procrastinate_events_id_seq; Type: SEQUENCE; Schema: procrastinate; Owner: -
--

CREATE SEQUENCE procrastinate.procrastinate_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

--
-- Name: procrastinate_events_id_seq; Type: SEQUENCE OWNED BY; Schema: procrastinate; Owner: -
--

ALTER SEQUENCE procrastinate.procrastinate_events_id_seq OWNED BY procrastinate.procrastinate_events.id;

--
-- Name: procrastinate_jobs_id_seq; Type: SEQUENCE; Schema: procrastinate; Owner: -
--

CREATE SEQUENCE procrastinate.procrastinate_jobs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

--
-- Name: procrastinate_jobs_id_seq; Type: SEQUENCE OWNED BY; Schema: procrastinate; Owner: -
--

ALTER SEQUENCE procrastinate.procrastinate_jobs_id_seq OWNED BY procrastinate.procrastinate_jobs.id;

--
-- Name: procrastinate_periodic_defers; Type: TABLE; Schema: procrastinate; Owner: -
--

CREATE TABLE procrastinate.procrastinate_periodic_defers (
    id bigint NOT NULL,
    task_name character varying(128) NOT NULL,
    defer_timestamp bigint,
    job_id bigint,
    periodic_id character varying(128) DEFAULT ''::character varying NOT NULL
);

--
-- Name: procrastinate_periodic_defers_id_seq; Type: SEQUENCE; Schema: procrastinate; Owner: -
--

CREATE SEQUENCE procrastinate.procrastinate_periodic_defers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

--
-- Name: procrastinate_periodic_defers_id_seq; Type: SEQUENCE OWNED BY; Schema: procrastinate; Owner: -
--

ALTER SEQUENCE procrastinate.procrastinate_periodic_defers_id_seq OWNED BY procrastinate.procrastinate_periodic_defers.id;

--
-- Name: procrastinate_workers; Type: TABLE; Schema: procrastinate; Owner: -
--

CREATE TABLE procrastinate.procrastinate_workers (
    id bigint NOT NULL,
    last_heartbeat timestamp with time zone DEFAULT now() NOT NULL
);

--
-- Name: procrastinate_workers_id_seq; Type: SEQUENCE; Schema: procrastinate; Owner: -
--

ALTER TABLE procrastinate.procrastinate_workers ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME procrastinate.procrastinate_workers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: tenants; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.tenants (
    id integer NOT NULL,
    name text NOT NULL,
    sender text NOT NULL,
    reply_to text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    promotional_sender text,
    CONSTRAINT tenants_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'::text)),
    CONSTRAINT tenants_promotional_sender_check CHECK ((promotional_sender !~ '[\r\n]'::text)),
    CONSTRAINT tenants_reply_to_check CHECK ((reply_to !~ '[\r\n]'::text)),
    CONSTRAINT tenants_sender_check CHECK ((sender !~ '[\r\n]'::text))
);

--
-- Name: COLUMN tenants.sender; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.tenants.sender IS 'Default From of its email; a category may set its own (R-117)';

--
-- Name: COLUMN tenants.promotional_sender; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.tenants.promotional_sender IS 'From of promotional email, on a domain of its own: what campaigns do to its reputation never touches a receipt (R-117)';

--
-- Name: attempts; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.attempts AS
 SELECT a.delivery_id,
    a.no AS attempt_no,
    t.name AS tenant,
    a.provider,
    a.state,
    a.outcome,
    a.status_code,
    a.detail,
    a.provider_message_id,
    encode(a.content_hash, 'hex'::text) AS content_hash,
    a.opened_at,
    a.closed_at,
    (EXTRACT(epoch FROM (a.closed_at - a.opened_at)))::double precision AS took_seconds,
    a.region,
    a.epoch,
    a.worker_id,
    a.facts
   FROM (store.attempts a
     LEFT JOIN store.tenants t ON ((t.id = a.tenant_id)));

--
-- Name: VIEW attempts; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.attempts IS 'One row per provider call, written before the call was made';

--
-- Name: COLUMN attempts.delivery_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.delivery_id IS 'The delivery it was made for';

--
-- Name: COLUMN attempts.attempt_no; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.attempt_no IS 'Counts from 1 within its delivery';

--
-- Name: COLUMN attempts.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.tenant IS 'Whose delivery it is';

--
-- Name: COLUMN attempts.provider; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.provider IS 'The provider account that was called';

--
-- Name: COLUMN attempts.state; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.state IS 'open: may be under way. ambiguous: outcome unknown. accepted. refused. not_sent: shown never to have been accepted. unanswered: nobody could tell, and a copy does no harm or is what its category asks for, so another was allowed. duplicate: accepted beside another accepted one, which must never happen';

--
-- Name: COLUMN attempts.outcome; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.outcome IS 'accepted, transient, rate_limited, recipient_invalid, rejected, unauthorized, unknown or released; NULL while open';

--
-- Name: COLUMN attempts.status_code; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.status_code IS 'The provider''s HTTP status; NULL when there was no answer';

--
-- Name: COLUMN attempts.detail; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.detail IS 'What the provider said, without addresses or content';

--
-- Name: COLUMN attempts.provider_message_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.provider_message_id IS 'The provider''s id of the message';

--
-- Name: COLUMN attempts.content_hash; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.content_hash IS 'SHA-256 of the content as it was sent, in hex';

--
-- Name: COLUMN attempts.opened_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.opened_at IS 'When the intent was committed';

--
-- Name: COLUMN attempts.closed_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.closed_at IS 'When its outcome was recorded; NULL while it is open or ambiguous';

--
-- Name: COLUMN attempts.took_seconds; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.took_seconds IS 'From opened_at to closed_at, in seconds';

--
-- Name: COLUMN attempts.region; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.region IS 'The region that opened it';

--
-- Name: COLUMN attempts.epoch; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.epoch IS 'The epoch it was opened under';

--
-- Name: COLUMN attempts.worker_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.worker_id IS 'The worker that opened it';

--
-- Name: COLUMN attempts.facts; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.attempts.facts IS 'What the call was: encoding, units and segments of a text message';

--
-- Name: bounce_rate_by_domain; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.bounce_rate_by_domain AS
 SELECT t.name AS tenant,
    c.domain,
    c.accepted,
    c.delivered,
    c.bounced,
    c.bounced_hard,
    c.failed,
    c.unconfirmed,
    c.waiting,
    c.complained,
    round(((c.bounced)::numeric / (c.accepted)::numeric), 4) AS bounce_rate,
    round(((c.complained)::numeric / (c.accepted)::numeric), 4) AS complaint_rate
   FROM (( SELECT d.tenant_id,
            reporting.domain_of(d.channel, d.address) AS domain,
            count(*) AS accepted,
            count(*) FILTER (WHERE (d.state = 'delivered'::text)) AS delivered,
            count(*) FILTER (WHERE (d.state = 'bounced'::text)) AS bounced,
            count(*) FILTER (WHERE ((d.state = 'bounced'::text) AND (d.reason = 'hard_bounce'::text))) AS bounced_hard,
            count(*) FILTER (WHERE (d.state = 'failed'::text)) AS failed,
            count(*) FILTER (WHERE (d.state = 'unconfirmed'::text)) AS unconfirmed,
            count(*) FILTER (WHERE (d.state = 'sent'::text)) AS waiting,
            count(d.complained_at) AS complained
           FROM store.deliveries d
          WHERE ((d.id >= store.id_floor((now() - '24:00:00'::interval))) AND (d.channel = 'email'::text) AND (d.state = ANY (ARRAY['sent'::text, 'delivered'::text, 'bounced'::text, 'failed'::text, 'unconfirmed'::text])) AND (d.attempt_no > 0))
          GROUP BY d.tenant_id, (reporting.domain_of(d.channel, d.address))) c
     LEFT JOIN store.tenants t ON ((t.id = c.tenant_id)));

--
-- Name: VIEW bounce_rate_by_domain; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.bounce_rate_by_domain IS 'Email of the last 24 hours, by when its notification was accepted, and what became of it, by tenant and receiving domain';

--
-- Name: COLUMN bounce_rate_by_domain.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.tenant IS 'Whose email it is';

--
-- Name: COLUMN bounce_rate_by_domain.domain; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.domain IS 'The receiving domain';

--
-- Name: COLUMN bounce_rate_by_domain.accepted; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.accepted IS 'Deliveries that the provider took, or may have taken: the denominator of the rates';

--
-- Name: COLUMN bounce_rate_by_domain.delivered; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.delivered IS 'Of these, proven delivered';

--
-- Name: COLUMN bounce_rate_by_domain.bounced; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.bounced IS 'Of these, bounced';

--
-- Name: COLUMN bounce_rate_by_domain.bounced_hard; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.bounced_hard IS 'Of the bounced, those whose address is bad';

--
-- Name: COLUMN bounce_rate_by_domain.failed; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.failed IS 'Of these, failed for another reason: reputation, content, the provider''s own list';

--
-- Name: COLUMN bounce_rate_by_domain.unconfirmed; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.unconfirmed IS 'Of these, neither proven nor disproven';

--
-- Name: COLUMN bounce_rate_by_domain.waiting; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.waiting IS 'Of these, still waiting for evidence';

--
-- Name: COLUMN bounce_rate_by_domain.complained; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.complained IS 'Of these, reported as spam';

--
-- Name: COLUMN bounce_rate_by_domain.bounce_rate; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.bounce_rate IS 'bounced / accepted, 0 to 1; above 0.05 receivers begin to block';

--
-- Name: COLUMN bounce_rate_by_domain.complaint_rate; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.bounce_rate_by_domain.complaint_rate IS 'complained / accepted, 0 to 1; above 0.001 receivers act on the sender, above 0.003 they block';

--
-- Name: control_events; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.control_events AS
 SELECT at,
    subject,
    name,
    event,
    detail,
    data
   FROM store.control_events c;

--
-- Name: VIEW control_events; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.control_events IS 'Every step that breakers, shares, limits, load shedding and people took';

--
-- Name: COLUMN control_events.at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.control_events.at IS 'When';

--
-- Name: COLUMN control_events.subject; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.control_events.subject IS 'provider or load';

--
-- Name: COLUMN control_events.name; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.control_events.name IS 'Which: the provider account, or the class that load shedding pauses';

--
-- Name: COLUMN control_events.event; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.control_events.event IS 'opened, probe_failed, closed (a breaker); limited; share_lowered, share_raised; drained, restored (people); shedding_began, shedding_ended';

--
-- Name: COLUMN control_events.detail; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.control_events.detail IS 'Why, in words';

--
-- Name: COLUMN control_events.data; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.control_events.data IS 'The numbers it was decided by';

--
-- Name: channel_costs; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.channel_costs (
    channel text NOT NULL,
    usd_per_message numeric(12,8) NOT NULL,
    CONSTRAINT channel_costs_usd_per_message_check CHECK ((usd_per_message >= (0)::numeric))
);

--
-- Name: costs; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.costs AS
 SELECT t.name AS tenant,
    c.day,
    c.channel,
    c.messages,
    c.units,
    p.usd_per_message AS usd_per_unit,
    ((c.units)::numeric * p.usd_per_message) AS usd
   FROM ((( SELECT d.tenant_id,
            ((d.sent_at AT TIME ZONE 'UTC'::text))::date AS day,
            d.channel,
            count(*) AS messages,
            sum(COALESCE(((a.facts ->> 'segments'::text))::integer, 1)) AS units
           FROM (store.deliveries d
             JOIN store.attempts a ON (((a.shard = d.shard) AND (a.delivery_id = d.id) AND (a.state = ANY (ARRAY['accepted'::text, 'duplicate'::text])))))
          WHERE ((d.id >= store.id_floor((now() - '7 days'::interval))) AND (a.delivery_id >= store.id_floor((now() - '7 days'::interval))) AND (d.sent_at IS NOT NULL))
          GROUP BY d.tenant_id, (((d.sent_at AT TIME ZONE 'UTC'::text))::date), d.channel) c
     LEFT JOIN store.channel_costs p ON ((p.channel = c.channel)))
     LEFT JOIN store.tenants t ON ((t.id = c.tenant_id)));

--
-- Name: VIEW costs; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.costs IS 'What the messages of the last 7 days cost, by tenant, day and channel, at the prices in store.channel_costs';

--
-- Name: COLUMN costs.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.costs.tenant IS 'Whose messages they are';

--
-- Name: COLUMN costs.day; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.costs.day IS 'The day (UTC) on which the provider took them';

--
-- Name: COLUMN costs.channel; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.costs.channel IS 'email, push, sms, in_app, webhook or chat';

--
-- Name: COLUMN costs.messages; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.costs.messages IS 'Messages that a provider took';

--
-- Name: COLUMN costs.units; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.costs.units IS 'What is paid for: segments of a text message, else messages';

--
-- Name: COLUMN costs.usd_per_unit; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.costs.usd_per_unit IS 'The price of one unit in US dollars; landed.price sets it';

--
-- Name: COLUMN costs.usd; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.costs.usd IS 'units * usd_per_unit';

--
-- Name: dead_letter_depth; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.dead_letter_depth AS
 SELECT t.name AS tenant,
    depth.channel,
    depth.lane,
    (sum(depth.in_retry))::bigint AS in_retry,
    (sum(depth.dead))::bigint AS dead,
    min(depth.oldest_retry_at) AS oldest_retry_at,
    min(depth.oldest_dead_at) AS oldest_dead_at
   FROM (( SELECT d.tenant_id,
            d.channel,
            d.lane,
            count(*) AS in_retry,
            0 AS dead,
            min(d.created_at) AS oldest_retry_at,
            NULL::timestamp with time zone AS oldest_dead_at
           FROM store.deliveries d
          WHERE ((d.state = 'queued'::text) AND (d.failures > 0))
          GROUP BY d.tenant_id, d.channel, d.lane
        UNION ALL
         SELECT d.tenant_id,
            d.channel,
            d.lane,
            0,
            count(*) AS count,
            NULL::timestamp with time zone,
            min(d.ended_at) AS min
           FROM store.deliveries d
          WHERE (d.state = 'dead'::text)
          GROUP BY d.tenant_id, d.channel, d.lane) depth
     LEFT JOIN store.tenants t ON ((t.id = depth.tenant_id)))
  GROUP BY t.name, depth.channel, depth.lane;

--
-- Name: VIEW dead_letter_depth; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.dead_letter_depth IS 'How many deliveries are on their second try or a later one, and how many were given up, by tenant and lane';

--
-- Name: COLUMN dead_letter_depth.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letter_depth.tenant IS 'Whose deliveries they are';

--
-- Name: COLUMN dead_letter_depth.channel; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letter_depth.channel IS 'email, push, sms, in_app, webhook or chat';

--
-- Name: COLUMN dead_letter_depth.lane; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letter_depth.lane IS 'What they queue or queued with';

--
-- Name: COLUMN dead_letter_depth.in_retry; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letter_depth.in_retry IS 'Queued, and failed at least once';

--
-- Name: COLUMN dead_letter_depth.dead; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letter_depth.dead IS 'Given up: what reporting.dead_letters lists';

--
-- Name: COLUMN dead_letter_depth.oldest_retry_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letter_depth.oldest_retry_at IS 'When the oldest of those in retry was planned';

--
-- Name: COLUMN dead_letter_depth.oldest_dead_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letter_depth.oldest_dead_at IS 'When the first of the dead was given up';

--
-- Name: dead_letters; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.dead_letters AS
 SELECT d.id AS delivery_id,
    d.notification_id,
    t.name AS tenant,
    d.recipient_id,
    d.category,
    d.channel,
    reporting.masked_address(d.channel, d.address) AS address,
    reporting.domain_of(d.channel, d.address) AS domain,
    d.template_id,
    d.template_version,
    d.reason,
    d.provider,
    d.attempt_no AS attempts,
    a.outcome AS last_outcome,
    a.status_code AS last_status_code,
    a.detail AS last_detail,
    d.created_at,
    d.ended_at,
    (now() - d.ended_at) AS dead_for
   FROM ((store.deliveries d
     LEFT JOIN store.attempts a ON (((a.shard = d.shard) AND (a.delivery_id = d.id) AND (a.no = d.attempt_no))))
     LEFT JOIN store.tenants t ON ((t.id = d.tenant_id)))
  WHERE (d.state = 'dead'::text);

--
-- Name: VIEW dead_letters; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.dead_letters IS 'Deliveries that were given up: the retry budget is spent, or the failure could not heal by itself. landed.replay starts them over once the cause is gone';

--
-- Name: COLUMN dead_letters.delivery_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.delivery_id IS 'Id of the delivery: what landed.replay takes';

--
-- Name: COLUMN dead_letters.notification_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.notification_id IS 'The notification it belongs to';

--
-- Name: COLUMN dead_letters.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.tenant IS 'Whose notification it is';

--
-- Name: COLUMN dead_letters.recipient_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.recipient_id IS 'The recipient, by the tenant''s own id';

--
-- Name: COLUMN dead_letters.category; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.category IS 'What kind of notification it is';

--
-- Name: COLUMN dead_letters.channel; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.channel IS 'email, push, sms, in_app, webhook or chat';

--
-- Name: COLUMN dead_letters.address; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.address IS 'Where it should have gone, masked';

--
-- Name: COLUMN dead_letters.domain; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.domain IS 'The receiving domain of an email address';

--
-- Name: COLUMN dead_letters.template_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.template_id IS 'The template it is rendered from';

--
-- Name: COLUMN dead_letters.template_version; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.template_version IS 'The version of that template';

--
-- Name: COLUMN dead_letters.reason; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.reason IS 'retries_exhausted: the budget is spent. rejected: the provider will never take it as it is. render_failed: its template cannot be rendered with its variables. test_mode: its provider cannot take a test without delivering it. endpoint_disabled, no_endpoint, forbidden_address: its endpoint was disabled, deleted, or names an address of a private network';

--
-- Name: COLUMN dead_letters.provider; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.provider IS 'The provider account of the last attempt';

--
-- Name: COLUMN dead_letters.attempts; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.attempts IS 'Provider calls begun';

--
-- Name: COLUMN dead_letters.last_outcome; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.last_outcome IS 'What the last attempt came to';

--
-- Name: COLUMN dead_letters.last_status_code; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.last_status_code IS 'The provider''s HTTP status of the last attempt';

--
-- Name: COLUMN dead_letters.last_detail; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.last_detail IS 'What the provider, or rendering, said at the last attempt';

--
-- Name: COLUMN dead_letters.created_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.created_at IS 'When intake planned it';

--
-- Name: COLUMN dead_letters.ended_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.ended_at IS 'When it was given up';

--
-- Name: COLUMN dead_letters.dead_for; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.dead_letters.dead_for IS 'How long ago that was';

--
-- Name: deliveries; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.deliveries AS
 SELECT d.id AS delivery_id,
    d.notification_id,
    t.name AS tenant,
    d.recipient_id,
    d.category,
    d.class,
    d.channel,
    d.lane,
    reporting.masked_address(d.channel, d.address) AS address,
    reporting.domain_of(d.channel, d.address) AS domain,
    d.country,
    d.template_id,
    d.template_version,
    d.state,
    d.reason,
    d.due_at,
    d.attempt_no AS attempts,
    d.failures,
    d.lookups,
    d.provider,
    d.provider_message_id,
    d.tried,
    d.replay_of,
    d.expires_at,
    d.created_at,
    d.sent_at,
    d.delivered_at,
    d.bounced_at,
    d.opened_at,
    d.clicked_at,
    d.complained_at,
    d.unsubscribed_at,
    d.ended_at,
    d.updated_at
   FROM (store.deliveries d
     LEFT JOIN store.tenants t ON ((t.id = d.tenant_id)));

--
-- Name: VIEW deliveries; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.deliveries IS 'One row per delivery: one notification on one channel to one address. By delivery_id it reads one partition; bound anything else by delivery_id >= reporting.id_floor(...), or by tenant and recipient_id';

--
-- Name: COLUMN deliveries.delivery_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.delivery_id IS 'Id of the delivery; it begins with the time its notification was accepted';

--
-- Name: COLUMN deliveries.notification_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.notification_id IS 'The notification it belongs to';

--
-- Name: COLUMN deliveries.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.tenant IS 'Whose notification it is';

--
-- Name: COLUMN deliveries.recipient_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.recipient_id IS 'The recipient, by the tenant''s own id';

--
-- Name: COLUMN deliveries.category; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.category IS 'What kind of notification it is';

--
-- Name: COLUMN deliveries.class; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.class IS 'transactional, promotional or alert';

--
-- Name: COLUMN deliveries.channel; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.channel IS 'email, push, sms, in_app, webhook or chat';

--
-- Name: COLUMN deliveries.lane; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.lane IS 'channel.class.route: what it queues with';

--
-- Name: COLUMN deliveries.address; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.address IS 'Where it goes, masked';

--
-- Name: COLUMN deliveries.domain; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.domain IS 'The receiving domain of an email address';

--
-- Name: COLUMN deliveries.country; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.country IS 'ISO 3166-1 of a phone number, where its numbering plan tells';

--
-- Name: COLUMN deliveries.template_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.template_id IS 'The template it is rendered from';

--
-- Name: COLUMN deliveries.template_version; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.template_version IS 'The version of that template, fixed when it was accepted';

--
-- Name: COLUMN deliveries.state; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.state IS 'On its way: queued, sending, sent, ambiguous. Ended: delivered, bounced, failed, unconfirmed, suppressed, cancelled, expired, dead';

--
-- Name: COLUMN deliveries.reason; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.reason IS 'Why it waits, or why it ended; NULL while it waits for its first attempt';

--
-- Name: COLUMN deliveries.due_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.due_at IS 'When something is next done to it; NULL once it has ended';

--
-- Name: COLUMN deliveries.attempts; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.attempts IS 'Provider calls begun so far';

--
-- Name: COLUMN deliveries.failures; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.failures IS 'Retry budget spent; rate limits and refused accounts cost nothing';

--
-- Name: COLUMN deliveries.lookups; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.lookups IS 'How often the provider was asked about it without an answer that settles it';

--
-- Name: COLUMN deliveries.provider; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.provider IS 'The provider account of its last attempt';

--
-- Name: COLUMN deliveries.provider_message_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.provider_message_id IS 'The provider''s id of the message';

--
-- Name: COLUMN deliveries.tried; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.tried IS 'Providers that refused it since it last waited: the others of its route are asked first';

--
-- Name: COLUMN deliveries.replay_of; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.replay_of IS 'The delivery that this one was sent again for, by force';

--
-- Name: COLUMN deliveries.expires_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.expires_at IS 'After this it is not sent any more';

--
-- Name: COLUMN deliveries.created_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.created_at IS 'When intake planned it';

--
-- Name: COLUMN deliveries.sent_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.sent_at IS 'When the provider accepted it';

--
-- Name: COLUMN deliveries.delivered_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.delivered_at IS 'When the receiving side took it, as the evidence says';

--
-- Name: COLUMN deliveries.bounced_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.bounced_at IS 'When it bounced, as the evidence says';

--
-- Name: COLUMN deliveries.opened_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.opened_at IS 'When it was first opened';

--
-- Name: COLUMN deliveries.clicked_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.clicked_at IS 'When a link in it was first clicked';

--
-- Name: COLUMN deliveries.complained_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.complained_at IS 'When the recipient reported it as spam';

--
-- Name: COLUMN deliveries.unsubscribed_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.unsubscribed_at IS 'When the recipient unsubscribed through it';

--
-- Name: COLUMN deliveries.ended_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.ended_at IS 'When it ended; late evidence may still change how';

--
-- Name: COLUMN deliveries.updated_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.deliveries.updated_at IS 'When the row last changed';

--
-- Name: route_capabilities; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.route_capabilities (
    provider text NOT NULL,
    channel text NOT NULL,
    country text DEFAULT '*'::text NOT NULL,
    provable boolean NOT NULL,
    source text NOT NULL,
    note text DEFAULT ''::text NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT route_capabilities_check CHECK (((source = 'operator'::text) OR (country = '*'::text))),
    CONSTRAINT route_capabilities_source_check CHECK ((source = ANY (ARRAY['adapter'::text, 'operator'::text])))
);

--
-- Name: TABLE route_capabilities; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON TABLE store.route_capabilities IS 'Whether anybody tells that a message arrived: a rate is shown as delivered over provable. Adapters give the default, operators know better for a country';

--
-- Name: delivery_rates; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.delivery_rates AS
 SELECT t.name AS tenant,
    c.day,
    c.provider,
    c.channel,
    c.country,
    c.sent,
        CASE
            WHEN r.provable THEN c.sent
            ELSE (0)::bigint
        END AS provable,
        CASE
            WHEN r.provable THEN c.delivered
            ELSE (0)::bigint
        END AS delivered,
    c.bounced,
        CASE
            WHEN r.provable THEN round(((c.delivered)::numeric / (c.sent)::numeric), 4)
            ELSE NULL::numeric
        END AS delivered_rate
   FROM ((( SELECT d.tenant_id,
            ((d.sent_at AT TIME ZONE 'UTC'::text))::date AS day,
            d.provider,
            d.channel,
            d.country,
            count(*) AS sent,
            count(*) FILTER (WHERE (d.state = 'delivered'::text)) AS delivered,
            count(*) FILTER (WHERE (d.state = 'bounced'::text)) AS bounced
           FROM store.deliveries d
          WHERE ((d.id >= store.id_floor((now() - '7 days'::interval))) AND (d.state = ANY (ARRAY['sent'::text, 'delivered'::text, 'bounced'::text, 'failed'::text, 'unconfirmed'::text])) AND (d.sent_at IS NOT NULL))
          GROUP BY d.tenant_id, (((d.sent_at AT TIME ZONE 'UTC'::text))::date), d.provider, d.channel, d.country) c
     LEFT JOIN LATERAL ( SELECT q.provable
           FROM store.route_capabilities q
          WHERE ((q.provider = c.provider) AND (q.channel = c.channel) AND (q.country = ANY (ARRAY[c.country, '*'::text])))
          ORDER BY (q.country = '*'::text)
         LIMIT 1) r ON (true))
     LEFT JOIN store.tenants t ON ((t.id = c.tenant_id)));

--
-- Name: VIEW delivery_rates; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.delivery_rates IS 'What was sent in the last 7 days and proven delivered, of that which can be proven. A route that proves nothing has no rate, instead of 0';

--
-- Name: COLUMN delivery_rates.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.delivery_rates.tenant IS 'Whose deliveries they are';

--
-- Name: COLUMN delivery_rates.day; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.delivery_rates.day IS 'The day (UTC) on which the provider took them';

--
-- Name: COLUMN delivery_rates.provider; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.delivery_rates.provider IS 'The provider account of their last attempt';

--
-- Name: COLUMN delivery_rates.channel; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.delivery_rates.channel IS 'email, push, sms, in_app, webhook or chat';

--
-- Name: COLUMN delivery_rates.country; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.delivery_rates.country IS 'ISO 3166-1 of the phone number; NULL for every other address';

--
-- Name: COLUMN delivery_rates.sent; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.delivery_rates.sent IS 'Deliveries that the provider took';

--
-- Name: COLUMN delivery_rates.provable; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.delivery_rates.provable IS 'Of these, those that somebody would tell about, as reporting.route_capabilities says: the denominator of the rate';

--
-- Name: COLUMN delivery_rates.delivered; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.delivery_rates.delivered IS 'Of the provable, proven delivered by now';

--
-- Name: COLUMN delivery_rates.bounced; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.delivery_rates.bounced IS 'Of the sent, bounced';

--
-- Name: COLUMN delivery_rates.delivered_rate; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.delivery_rates.delivered_rate IS 'delivered / provable, 0 to 1; NULL when nothing can be proven';

--
-- Name: endpoints; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.endpoints AS
 SELECT e.id AS endpoint_id,
    t.name AS tenant,
    e.name,
    e.format,
    "substring"(e.url, '^https?://([^/?#]+)'::text) AS host,
    e.events,
    e.status,
    e.disabled_reason,
    e.disabled_at,
    e.failing_since,
    (now() - e.failing_since) AS failing_for,
    e.paused_until,
    e.last_success_at,
    e.last_failure,
        CASE
            WHEN (e.secret ~~ 'whsk\_%'::text) THEN 'ed25519'::text
            WHEN (e.secret IS NOT NULL) THEN 'hmac-sha256'::text
            ELSE NULL::text
        END AS algorithm,
        CASE
            WHEN (e.previous_secret_until > now()) THEN e.previous_secret_until
            ELSE NULL::timestamp with time zone
        END AS rotating_until,
    e.created_at,
    e.updated_at
   FROM (store.endpoints e
     LEFT JOIN store.tenants t ON ((t.id = e.tenant_id)));

--
-- Name: VIEW endpoints; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.endpoints IS 'Where tenants have events sent: merchants'' webhooks and chat rooms, and how they fare';

--
-- Name: COLUMN endpoints.endpoint_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.endpoint_id IS 'Id of the endpoint: the address of the deliveries that go to it';

--
-- Name: COLUMN endpoints.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.tenant IS 'Whose it is';

--
-- Name: COLUMN endpoints.name; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.name IS 'What its tenant calls it';

--
-- Name: COLUMN endpoints.format; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.format IS 'standard (Standard Webhooks), slack, discord or teams';

--
-- Name: COLUMN endpoints.host; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.host IS 'The host and port of its URL';

--
-- Name: COLUMN endpoints.events; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.events IS 'The filters that choose which status events it is sent; none: it is only a target';

--
-- Name: COLUMN endpoints.status; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.status IS 'enabled or disabled';

--
-- Name: COLUMN endpoints.disabled_reason; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.disabled_reason IS 'gone: it answered that it wants no more. failing: nothing but failures for too long. Else the words of who disabled it';

--
-- Name: COLUMN endpoints.disabled_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.disabled_at IS 'Since when it is disabled';

--
-- Name: COLUMN endpoints.failing_since; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.failing_since IS 'Since when calls have only failed; NULL while it works';

--
-- Name: COLUMN endpoints.failing_for; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.failing_for IS 'How long that has been';

--
-- Name: COLUMN endpoints.paused_until; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.paused_until IS 'While it fails, what waits for it is put off till then; one delivery at a time tries whether it is back';

--
-- Name: COLUMN endpoints.last_success_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.last_success_at IS 'When it last took an event, to within a few seconds';

--
-- Name: COLUMN endpoints.last_failure; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.last_failure IS 'How the last failed call went: the status, never what it said';

--
-- Name: COLUMN endpoints.algorithm; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.algorithm IS 'What signs its events: hmac-sha256 or ed25519; NULL for a chat room';

--
-- Name: COLUMN endpoints.rotating_until; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.rotating_until IS 'Until when the secret before the present one signs as well';

--
-- Name: COLUMN endpoints.created_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.created_at IS 'When it was registered';

--
-- Name: COLUMN endpoints.updated_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.endpoints.updated_at IS 'When it last changed';

--
-- Name: lanes; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.lanes (
    name text NOT NULL,
    channel text NOT NULL,
    class text NOT NULL,
    providers jsonb NOT NULL,
    published_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT lanes_providers_check CHECK ((jsonb_typeof(providers) = 'array'::text))
);

--
-- Name: COLUMN lanes.providers; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.lanes.providers IS '[{"provider": …, "order": …, "weight": …}], as the worker that was started last read them';

--
-- Name: provider_outcomes; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.provider_outcomes (
    provider text NOT NULL,
    at timestamp with time zone NOT NULL,
    calls integer DEFAULT 0 NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    slow integer DEFAULT 0 NOT NULL,
    accepted integer DEFAULT 0 NOT NULL,
    limited integer DEFAULT 0 NOT NULL,
    client_errors integer DEFAULT 0 NOT NULL,
    server_errors integer DEFAULT 0 NOT NULL,
    unknown integer DEFAULT 0 NOT NULL
);

--
-- Name: COLUMN provider_outcomes.at; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.provider_outcomes.at IS 'Beginning of the five seconds that are counted';

--
-- Name: COLUMN provider_outcomes.failures; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.provider_outcomes.failures IS 'Calls whose end speaks against the provider: transient errors, no answer, an unknown outcome';

--
-- Name: provider_rates; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.provider_rates (
    provider text NOT NULL,
    per_second double precision NOT NULL,
    factor double precision DEFAULT 1 NOT NULL,
    factor_changed_at timestamp with time zone DEFAULT now() NOT NULL,
    next_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT provider_rates_factor_check CHECK (((factor > (0)::double precision) AND (factor <= (1)::double precision))),
    CONSTRAINT provider_rates_per_second_check CHECK ((per_second > (0)::double precision))
);

--
-- Name: COLUMN provider_rates.per_second; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.provider_rates.per_second IS 'The rate the configuration gives it';

--
-- Name: COLUMN provider_rates.factor; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.provider_rates.factor IS 'Of that rate: lowered by each limit it reports, raised again while it reports none';

--
-- Name: provider_states; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.provider_states (
    provider text NOT NULL,
    breaker text DEFAULT 'closed'::text NOT NULL,
    reason text,
    detail text DEFAULT ''::text NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL,
    judge_from timestamp with time zone DEFAULT to_timestamp((0)::double precision) NOT NULL,
    cool_off_seconds double precision,
    retry_at timestamp with time zone,
    probe_owner uuid,
    probe_until timestamp with time zone,
    paused_until timestamp with time zone,
    limited_at timestamp with time zone,
    hits bigint DEFAULT 0 NOT NULL,
    drained_at timestamp with time zone,
    drained_by text,
    drain_reason text,
    share double precision DEFAULT 1 NOT NULL,
    share_changed_at timestamp with time zone DEFAULT now() NOT NULL,
    recovering boolean DEFAULT false NOT NULL,
    CONSTRAINT provider_states_breaker_check CHECK ((breaker = ANY (ARRAY['closed'::text, 'open'::text]))),
    CONSTRAINT provider_states_cool_off_seconds_check CHECK ((cool_off_seconds > (0)::double precision)),
    CONSTRAINT provider_states_drained CHECK ((((drained_at IS NULL) = (drained_by IS NULL)) AND ((drained_at IS NULL) = (drain_reason IS NULL)))),
    CONSTRAINT provider_states_open CHECK ((((breaker = 'open'::text) = (reason IS NOT NULL)) AND ((breaker = 'open'::text) = (retry_at IS NOT NULL)) AND ((breaker = 'open'::text) = (cool_off_seconds IS NOT NULL)))),
    CONSTRAINT provider_states_probed CHECK ((((probe_owner IS NULL) = (probe_until IS NULL)) AND ((probe_owner IS NULL) OR (breaker = 'open'::text)))),
    CONSTRAINT provider_states_reason_check CHECK ((reason = ANY (ARRAY['failing'::text, 'unauthorized'::text]))),
    CONSTRAINT provider_states_share_check CHECK (((share > (0)::double precision) AND (share <= (1)::double precision)))
);

--
-- Name: TABLE provider_states; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON TABLE store.provider_states IS 'One breaker for each provider account, that is for each credential, shared by all workers';

--
-- Name: COLUMN provider_states.judge_from; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.provider_states.judge_from IS 'What it failed before its breaker last closed is forgiven';

--
-- Name: COLUMN provider_states.retry_at; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.provider_states.retry_at IS 'When, after the cool-off, one delivery is sent to see whether it is back';

--
-- Name: COLUMN provider_states.probe_until; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.provider_states.probe_until IS 'Until when nobody else may try: the call of that one delivery is over by then';

--
-- Name: COLUMN provider_states.paused_until; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.provider_states.paused_until IS 'No claim goes to this provider before; set by Retry-After';

--
-- Name: COLUMN provider_states.share; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.provider_states.share IS 'Of its weight: lowered while it is slow or fails, raised again in steps (hysteresis)';

--
-- Name: COLUMN provider_states.recovering; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.provider_states.recovering IS 'Its breaker closed not long ago: it gets no more at once than its share';

--
-- Name: providers; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.providers AS
 SELECT a.provider,
    s.status,
    p.reason,
        CASE
            WHEN (s.status = ANY (ARRAY['ok'::text, 'recovering'::text])) THEN ''::text
            ELSE COALESCE(p.detail, ''::text)
        END AS detail,
    (s.status = ANY (ARRAY['ok'::text, 'recovering'::text])) AS ready,
        CASE
            WHEN (s.status = ANY (ARRAY['open'::text, 'half_open'::text, 'rate_limited'::text])) THEN GREATEST(p.retry_at, p.probe_until, p.paused_until)
            ELSE NULL::timestamp with time zone
        END AS ready_at,
        CASE s.status
            WHEN 'drained'::text THEN p.drained_at
            WHEN 'rate_limited'::text THEN COALESCE(p.limited_at, p.since)
            ELSE p.since
        END AS since,
    COALESCE(p.share, (1)::double precision) AS share,
    r.per_second,
    r.factor,
    COALESCE(p.hits, (0)::bigint) AS hits,
    p.limited_at,
    p.drained_by,
    p.drain_reason,
    COALESCE(o.calls, (0)::bigint) AS calls,
    round(((o.failures)::numeric / (NULLIF(o.calls, 0))::numeric), 4) AS error_rate
   FROM ((((( SELECT (l.account ->> 'provider'::text) AS provider
           FROM ( SELECT jsonb_array_elements(q.providers) AS account
                   FROM store.lanes q) l
        UNION
         SELECT q.provider
           FROM store.provider_states q) a
     LEFT JOIN store.provider_states p ON ((p.provider = a.provider)))
     LEFT JOIN store.provider_rates r ON ((r.provider = a.provider)))
     LEFT JOIN LATERAL ( SELECT sum(q.calls) AS calls,
            sum(q.failures) AS failures
           FROM store.provider_outcomes q
          WHERE ((q.provider = a.provider) AND (q.at > (now() - '00:01:00'::interval)))) o ON (true))
     CROSS JOIN LATERAL ( SELECT
                CASE
                    WHEN (p.drained_at IS NOT NULL) THEN 'drained'::text
                    WHEN ((p.breaker = 'open'::text) AND (p.probe_until > now())) THEN 'half_open'::text
                    WHEN (p.breaker = 'open'::text) THEN 'open'::text
                    WHEN (p.paused_until > now()) THEN 'rate_limited'::text
                    WHEN p.recovering THEN 'recovering'::text
                    ELSE 'ok'::text
                END AS status) s);

--
-- Name: VIEW providers; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.providers IS 'How each provider account fares: whether it is called just now, and if not, why and until when. All that are in a lane, and all that ever had something to be known';

--
-- Name: COLUMN providers.provider; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.provider IS 'The provider account, that is one credential';

--
-- Name: COLUMN providers.status; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.status IS 'ok. recovering: back, and given no more than its share. rate_limited: it said to slow down. open: its breaker is, nothing is sent to it. half_open: one delivery tries whether it is back. drained: people took it out';

--
-- Name: COLUMN providers.reason; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.reason IS 'Why its breaker is open: failing, or unauthorized (it refuses our credentials or sender domain)';

--
-- Name: COLUMN providers.detail; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.detail IS 'What it last said, or how it failed; empty while it is well';

--
-- Name: COLUMN providers.ready; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.ready IS 'Whether deliveries go to it: one of these in a lane is enough';

--
-- Name: COLUMN providers.ready_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.ready_at IS 'When it may be tried again; past while nothing is due that could try. NULL when it is ready, or drained';

--
-- Name: COLUMN providers.since; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.since IS 'Since when it has this status; NULL for one that no worker has read yet';

--
-- Name: COLUMN providers.share; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.share IS 'Of its weight, 0 to 1: lowered while it is slow or fails, raised again in steps';

--
-- Name: COLUMN providers.per_second; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.per_second IS 'The rate it is configured for; NULL when it has none';

--
-- Name: COLUMN providers.factor; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.factor IS 'Of that rate, 0 to 1: lowered by each limit it reports, raised again in steps';

--
-- Name: COLUMN providers.hits; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.hits IS 'How many calls it ever answered with a limit';

--
-- Name: COLUMN providers.limited_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.limited_at IS 'When it last did';

--
-- Name: COLUMN providers.drained_by; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.drained_by IS 'Who took it out; NULL when it is not drained';

--
-- Name: COLUMN providers.drain_reason; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.drain_reason IS 'Why they did';

--
-- Name: COLUMN providers.calls; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.calls IS 'Calls that ended in the last minute';

--
-- Name: COLUMN providers.error_rate; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.providers.error_rate IS 'Of these, the part that speaks against the provider, 0 to 1: transient errors, no answer, an unknown outcome';

--
-- Name: load_shedding; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.load_shedding (
    class text NOT NULL,
    active boolean DEFAULT false NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL,
    lane text,
    oldest_seconds double precision DEFAULT 0 NOT NULL,
    judged_at timestamp with time zone DEFAULT to_timestamp((0)::double precision) NOT NULL,
    CONSTRAINT load_shedding_class_check CHECK ((class = 'promotional'::text))
);

--
-- Name: TABLE load_shedding; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON TABLE store.load_shedding IS 'Whether claims of a class pause because more urgent work is late (R-168)';

--
-- Name: regions; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.regions (
    name text NOT NULL,
    active boolean DEFAULT false NOT NULL,
    epoch bigint DEFAULT 1 NOT NULL,
    mode text DEFAULT 'solo'::text NOT NULL,
    promoted_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT regions_epoch_check CHECK ((epoch > 0)),
    CONSTRAINT regions_mode_check CHECK ((mode = ANY (ARRAY['sync'::text, 'solo'::text, 'tainted'::text])))
);

--
-- Name: workers; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.workers (
    id uuid NOT NULL,
    region text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    lanes text[] NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    stopped_at timestamp with time zone
);

--
-- Name: lanes; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.lanes AS
 WITH account AS MATERIALIZED (
         SELECT p.provider,
            p.status,
            p.ready,
                CASE p.status
                    WHEN 'drained'::text THEN format('%s is drained since %s by %s (%s)'::text, p.provider, date_trunc('second'::text, p.since), p.drained_by, p.drain_reason)
                    WHEN 'open'::text THEN format('%s is not called, because %s%s; one delivery tries it at %s'::text, p.provider,
                    CASE p.reason
                        WHEN 'unauthorized'::text THEN 'it refuses our account'::text
                        ELSE 'it fails'::text
                    END, ((' ('::text || NULLIF(p.detail, ''::text)) || ')'::text), date_trunc('second'::text, p.ready_at))
                    WHEN 'half_open'::text THEN format('%s is tried with one delivery, until %s at the latest'::text, p.provider, date_trunc('second'::text, p.ready_at))
                    WHEN 'rate_limited'::text THEN format('%s said to slow down until %s'::text, p.provider, date_trunc('second'::text, p.ready_at))
                    WHEN 'recovering'::text THEN format('%s is recovering and gets %s %% of its weight'::text, p.provider, round(((p.share)::numeric * (100)::numeric)))
                    ELSE NULL::text
                END AS told
           FROM reporting.providers p
        ), lane AS (
         SELECT l.name,
            l.channel,
            l.class,
            l.providers,
            true AS configured
           FROM store.lanes l
        UNION ALL
         SELECT q.lane,
            split_part(q.lane, '.'::text, 1) AS split_part,
            split_part(q.lane, '.'::text, 2) AS split_part,
            '[]'::jsonb,
            false
           FROM reporting.queued_lanes() q(lane)
          WHERE (NOT (EXISTS ( SELECT
                   FROM store.lanes l
                  WHERE (l.name = q.lane))))
        )
 SELECT lane.name AS lane,
    lane.channel,
    lane.class,
    accounts.providers,
    served.workers,
    due.oldest_due_at,
        CASE
            WHEN (due.oldest_due_at <= now()) THEN (now() - due.oldest_due_at)
            ELSE NULL::interval
        END AS late_by,
        CASE
            WHEN (lane.configured AND (NOT accounts.any_ready)) THEN 'no_provider'::text
            WHEN (served.workers = 0) THEN 'no_worker'::text
            WHEN shed.active THEN 'load_shedding'::text
            ELSE NULL::text
        END AS waiting_for,
    NULLIF(concat_ws('; '::text,
        CASE
            WHEN (lane.configured AND (accounts.providers = '[]'::jsonb)) THEN 'it has no provider'::text
            ELSE NULL::text
        END, accounts.told,
        CASE
            WHEN (served.workers = 0) THEN 'no worker serves it'::text
            ELSE NULL::text
        END,
        CASE
            WHEN (NOT lane.configured) THEN 'the configuration does not have it'::text
            ELSE NULL::text
        END,
        CASE
            WHEN shed.active THEN format('%s claims pause since %s, because %s'::text, lane.class, date_trunc('second'::text, shed.since), shed.why)
            ELSE NULL::text
        END), ''::text) AS detail
   FROM ((((lane
     CROSS JOIN LATERAL ( SELECT COALESCE(jsonb_agg((l.account || jsonb_build_object('status', a.status)) ORDER BY (l.account -> 'order'::text), l.place), '[]'::jsonb) AS providers,
            COALESCE(bool_or(a.ready), false) AS any_ready,
            string_agg(a.told, '; '::text ORDER BY (l.account -> 'order'::text), l.place) AS told
           FROM (jsonb_array_elements(lane.providers) WITH ORDINALITY l(account, place)
             JOIN account a ON ((a.provider = (l.account ->> 'provider'::text))))) accounts)
     CROSS JOIN LATERAL ( SELECT count(*) AS workers
           FROM (store.workers w
             JOIN store.regions r ON (((r.name = w.region) AND r.active)))
          WHERE ((w.stopped_at IS NULL) AND (w.last_seen_at > (now() - '00:00:30'::interval)) AND (lane.name = ANY (w.lanes)))) served)
     LEFT JOIN LATERAL ( SELECT s.active,
            s.since,
                CASE
                    WHEN (s.lane IS NULL) THEN 'more urgent work is late'::text
                    ELSE format('%s is %s s late'::text, s.lane, round((s.oldest_seconds)::numeric))
                END AS why
           FROM store.load_shedding s
          WHERE ((s.class = lane.class) AND s.active)) shed ON (true))
     CROSS JOIN LATERAL ( SELECT min(first.due_at) AS oldest_due_at
           FROM (( SELECT d.due_at
                   FROM store.deliveries d
                  WHERE ((d.lane = lane.name) AND (d.failures = 0) AND (d.state = 'queued'::text))
                  ORDER BY d.due_at
                 LIMIT 1)
                UNION ALL
                ( SELECT d.due_at
                   FROM store.deliveries d
                  WHERE ((d.lane = lane.name) AND (d.failures > 0) AND (d.state = 'queued'::text))
                  ORDER BY d.due_at
                 LIMIT 1)) first) due);

--
-- Name: VIEW lanes; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.lanes IS 'Each lane, what it lacks just now, and since when its oldest delivery waits. Also lanes that are no longer configured, as long as something waits in them';

--
-- Name: COLUMN lanes.lane; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.lanes.lane IS 'channel.class.route: what deliveries queue with';

--
-- Name: COLUMN lanes.channel; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.lanes.channel IS 'email, push, sms, in_app, webhook or chat';

--
-- Name: COLUMN lanes.class; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.lanes.class IS 'transactional, promotional or alert';

--
-- Name: COLUMN lanes.providers; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.lanes.providers IS 'Its provider accounts, first the ones that are asked first: [{"provider", "order", "weight", "status"}]';

--
-- Name: COLUMN lanes.workers; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.lanes.workers IS 'How many live workers of the active region serve it';

--
-- Name: COLUMN lanes.oldest_due_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.lanes.oldest_due_at IS 'When the first of its queued deliveries is or was due; NULL when none waits';

--
-- Name: COLUMN lanes.late_by; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.lanes.late_by IS 'How long it has been due; NULL when nothing is due';

--
-- Name: COLUMN lanes.waiting_for; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.lanes.waiting_for IS 'What keeps waiting whatever becomes due. no_provider: none of its accounts is ready. no_worker. load_shedding: promotional claims pause while more urgent work is late. NULL: nothing does';

--
-- Name: COLUMN lanes.detail; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.lanes.detail IS 'The same in words, naming each provider that is not well, and why; NULL when there is nothing to say';

--
-- Name: load_shedding; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.load_shedding AS
 SELECT class,
    active,
    since,
    lane,
    make_interval(secs => oldest_seconds) AS late_by,
    NULLIF(judged_at, to_timestamp((0)::double precision)) AS judged_at
   FROM store.load_shedding s;

--
-- Name: VIEW load_shedding; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.load_shedding IS 'Whether claims of promotional deliveries pause because transactional or alert ones are late';

--
-- Name: COLUMN load_shedding.class; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.load_shedding.class IS 'The class that pauses: promotional';

--
-- Name: COLUMN load_shedding.active; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.load_shedding.active IS 'Whether it pauses now';

--
-- Name: COLUMN load_shedding.since; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.load_shedding.since IS 'Since when that is so';

--
-- Name: COLUMN load_shedding.lane; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.load_shedding.lane IS 'The lane that was late when this was last judged';

--
-- Name: COLUMN load_shedding.late_by; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.load_shedding.late_by IS 'How late it was';

--
-- Name: COLUMN load_shedding.judged_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.load_shedding.judged_at IS 'When this was last judged; NULL before the first time';

--
-- Name: provider_errors; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.provider_errors AS
 SELECT provider,
    date_trunc('minute'::text, at) AS minute,
    sum(calls) AS calls,
    sum(accepted) AS accepted,
    sum(client_errors) AS client_errors,
    sum(server_errors) AS server_errors,
    sum(unknown) AS unknown,
    sum(failures) AS failures,
    round(((sum(failures))::numeric / (NULLIF(sum(calls), 0))::numeric), 4) AS error_rate
   FROM store.provider_outcomes o
  GROUP BY provider, (date_trunc('minute'::text, at));

--
-- Name: VIEW provider_errors; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.provider_errors IS 'What calls came to, by provider account and minute. A minute without calls has no row';

--
-- Name: COLUMN provider_errors.provider; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.provider_errors.provider IS 'The provider account';

--
-- Name: COLUMN provider_errors.minute; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.provider_errors.minute IS 'The beginning of the minute';

--
-- Name: COLUMN provider_errors.calls; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.provider_errors.calls IS 'Calls that ended in it';

--
-- Name: COLUMN provider_errors.accepted; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.provider_errors.accepted IS 'Of these, accepted';

--
-- Name: COLUMN provider_errors.client_errors; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.provider_errors.client_errors IS 'Of these, answered 4xx: a bad address or content, a refused account, a limit';

--
-- Name: COLUMN provider_errors.server_errors; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.provider_errors.server_errors IS 'Of these, answered 5xx';

--
-- Name: COLUMN provider_errors.unknown; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.provider_errors.unknown IS 'Of these, it is not known whether they were accepted';

--
-- Name: COLUMN provider_errors.failures; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.provider_errors.failures IS 'Of these, those that speak against the provider: transient errors, no answer, an unknown outcome. Its breaker is judged by them';

--
-- Name: COLUMN provider_errors.error_rate; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.provider_errors.error_rate IS 'failures / calls, 0 to 1';

--
-- Name: api_key_limits; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.api_key_limits (
    key_id integer NOT NULL,
    hour timestamp with time zone NOT NULL,
    hits bigint NOT NULL,
    last_at timestamp with time zone DEFAULT now() NOT NULL
);

--
-- Name: api_keys; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.api_keys (
    id integer NOT NULL,
    tenant_id integer NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL,
    hash bytea NOT NULL,
    scopes text[] NOT NULL,
    rate_per_second integer DEFAULT 1000 NOT NULL,
    burst integer DEFAULT 2000 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    revoked_at timestamp with time zone,
    CONSTRAINT api_keys_check CHECK ((burst >= rate_per_second)),
    CONSTRAINT api_keys_hash_check CHECK ((length(hash) = 32)),
    CONSTRAINT api_keys_rate_per_second_check CHECK ((rate_per_second > 0)),
    CONSTRAINT api_keys_scopes_check CHECK (((scopes <@ ARRAY['send'::text, 'read'::text, 'admin'::text]) AND (cardinality(scopes) > 0)))
);

--
-- Name: COLUMN api_keys.hash; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.api_keys.hash IS 'SHA-256 of the whole key; a key is 256 random bits, so a slow hash would add nothing';

--
-- Name: limit_hits; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.limit_hits (
    tenant_id integer NOT NULL,
    level text NOT NULL,
    name text NOT NULL,
    hour timestamp with time zone NOT NULL,
    hits bigint NOT NULL,
    last_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT limit_hits_level_check CHECK ((level = ANY (ARRAY['recipient'::text, 'template'::text])))
);

--
-- Name: COLUMN limit_hits.name; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.limit_hits.name IS 'The channel of a recipient, or the template';

--
-- Name: rate_limit_hits; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.rate_limit_hits AS
 SELECT 'provider'::text AS level,
    c.name,
    NULL::text AS tenant,
    date_trunc('hour'::text, c.at) AS hour,
    (sum(COALESCE(((c.data ->> 'hits'::text))::bigint, (1)::bigint)))::bigint AS hits,
    max(c.at) AS last_at
   FROM store.control_events c
  WHERE ((c.subject = 'provider'::text) AND (c.event = 'limited'::text))
  GROUP BY c.name, (date_trunc('hour'::text, c.at))
UNION ALL
 SELECT 'api_key'::text AS level,
    k.prefix AS name,
    t.name AS tenant,
    l.hour,
    l.hits,
    l.last_at
   FROM ((store.api_key_limits l
     JOIN store.api_keys k ON ((k.id = l.key_id)))
     JOIN store.tenants t ON ((t.id = k.tenant_id)))
UNION ALL
 SELECT l.level,
    l.name,
    t.name AS tenant,
    l.hour,
    l.hits,
    l.last_at
   FROM (store.limit_hits l
     JOIN store.tenants t ON ((t.id = l.tenant_id)));

--
-- Name: VIEW rate_limit_hits; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.rate_limit_hits IS 'Limits that were reached, by hour: those that provider accounts reported, those of our own on API keys, answered 429, and those on recipients and templates, whose messages wait. The last second or so of an API key that went silent may be missing';

--
-- Name: COLUMN rate_limit_hits.level; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.rate_limit_hits.level IS 'provider, api_key, recipient or template: whose limit it is';

--
-- Name: COLUMN rate_limit_hits.name; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.rate_limit_hits.name IS 'The provider account that said to slow down, the prefix of the key that was told to, the channel of the recipients, or the template';

--
-- Name: COLUMN rate_limit_hits.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.rate_limit_hits.tenant IS 'Whose key, recipients or template it is; NULL for a provider';

--
-- Name: COLUMN rate_limit_hits.hour; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.rate_limit_hits.hour IS 'The beginning of the hour';

--
-- Name: COLUMN rate_limit_hits.hits; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.rate_limit_hits.hits IS 'Calls or requests that were refused, or messages that were put off';

--
-- Name: COLUMN rate_limit_hits.last_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.rate_limit_hits.last_at IS 'When that last happened in that hour';

--
-- Name: route_capabilities; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.route_capabilities AS
 SELECT provider,
    channel,
    country,
    provable,
    source,
    note,
    updated_at
   FROM store.route_capabilities c;

--
-- Name: VIEW route_capabilities; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.route_capabilities IS 'Whether anybody tells that a message arrived. The row of a country goes before that of all';

--
-- Name: COLUMN route_capabilities.provider; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.route_capabilities.provider IS 'The provider account';

--
-- Name: COLUMN route_capabilities.channel; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.route_capabilities.channel IS 'email, push, sms, in_app, webhook or chat';

--
-- Name: COLUMN route_capabilities.country; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.route_capabilities.country IS 'ISO 3166-1 of a phone number, like GB; * for all others';

--
-- Name: COLUMN route_capabilities.provable; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.route_capabilities.provable IS 'Whether a delivery there can be proven';

--
-- Name: COLUMN route_capabilities.source; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.route_capabilities.source IS 'adapter, or operator: landed.set_route_capability says so';

--
-- Name: COLUMN route_capabilities.note; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.route_capabilities.note IS 'Why';

--
-- Name: COLUMN route_capabilities.updated_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.route_capabilities.updated_at IS 'When that was last said';

--
-- Name: inbound_events; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.inbound_events (
    occurred_on date NOT NULL,
    provider text NOT NULL,
    event_key text NOT NULL,
    source text NOT NULL,
    kind text NOT NULL,
    evidence jsonb NOT NULL,
    raw bytea NOT NULL,
    provider_message_id text,
    state text DEFAULT 'pending'::text NOT NULL,
    reason text,
    due_at timestamp with time zone DEFAULT now(),
    delivery_id uuid,
    received_at timestamp with time zone DEFAULT now() NOT NULL,
    applied_at timestamp with time zone,
    CONSTRAINT inbound_events_end_named CHECK (((state <> 'unmatched'::text) OR (reason IS NOT NULL))),
    CONSTRAINT inbound_events_never_dropped CHECK (((state = ANY (ARRAY['pending'::text, 'parked'::text])) = (due_at IS NOT NULL))),
    CONSTRAINT inbound_events_source_check CHECK ((source = ANY (ARRAY['provider'::text, 'lookup'::text, 'device'::text]))),
    CONSTRAINT inbound_events_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'parked'::text, 'applied'::text, 'unmatched'::text])))
)
PARTITION BY RANGE (occurred_on);

--
-- Name: COLUMN inbound_events.occurred_on; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.inbound_events.occurred_on IS 'The provider''s day of the event: part of its natural key, so a redelivery meets the same partition';

--
-- Name: status_events; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.status_events (
    id uuid DEFAULT store.uuid_v7() NOT NULL,
    tenant_id integer NOT NULL,
    type text NOT NULL,
    occurred_at timestamp with time zone DEFAULT now() NOT NULL,
    data jsonb NOT NULL,
    due_at timestamp with time zone DEFAULT now() NOT NULL
);

--
-- Name: stuck; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.stuck AS
 SELECT stuck.what,
    stuck.state,
    t.name AS tenant,
    stuck.notification_id,
    stuck.delivery_id,
    stuck.lane,
    stuck.reason,
    stuck.due_at,
    (now() - stuck.due_at) AS overdue_for,
    stuck.missing
   FROM (( SELECT 'notification'::text AS what,
            n.state,
            n.tenant_id,
            n.id AS notification_id,
            NULL::uuid AS delivery_id,
            ('intake.'::text || n.class) AS lane,
            n.reason,
            n.due_at,
            'intake should have planned it'::text AS missing
           FROM store.notifications n
          WHERE ((n.state = 'accepted'::text) AND (n.class = ANY (ARRAY['alert'::text, 'transactional'::text, 'promotional'::text])) AND (n.due_at < (now() - '00:05:00'::interval)))
        UNION ALL
         SELECT 'delivery'::text,
            d.state,
            d.tenant_id,
            d.notification_id,
            d.id,
            d.lane,
            d.reason,
            d.due_at,
            'a worker of its lane should have claimed it'::text
           FROM (( SELECT q.lane,
                    ((EXISTS ( SELECT
                           FROM store.load_shedding s
                          WHERE ((s.class = split_part(q.lane, '.'::text, 2)) AND (s.active OR (s.since > (now() - '00:05:00'::interval)))))) OR (EXISTS ( SELECT
                           FROM store.lanes l
                          WHERE ((l.name = q.lane) AND (NOT (EXISTS ( SELECT
                                   FROM (jsonb_array_elements(l.providers) a(account)
                                     LEFT JOIN store.provider_states p ON ((p.provider = (a.account ->> 'provider'::text))))
                                  WHERE ((p.provider IS NULL) OR ((p.breaker = 'closed'::text) AND (p.drained_at IS NULL) AND (p.since <= (now() - '00:05:00'::interval)) AND ((p.paused_until IS NULL) OR (p.paused_until <= (now() - '00:05:00'::interval)))))))))))) AS on_purpose
                   FROM reporting.queued_lanes() q(lane)) lane
             CROSS JOIN LATERAL (( SELECT f.shard,
                    f.id,
                    f.notification_id,
                    f.tenant_id,
                    f.recipient_id,
                    f.category,
                    f.class,
                    f.channel,
                    f.lane,
                    f.address,
                    f.sender,
                    f.reply_to,
                    f.template_id,
                    f.template_version,
                    f.state,
                    f.reason,
                    f.due_at,
                    f.lease_owner,
                    f.attempt_no,
                    f.failures,
                    f.lookups,
                    f.provider,
                    f.provider_message_id,
                    f.evidence_id,
                    f.replay_of,
                    f.expires_at,
                    f.created_at,
                    f.sent_at,
                    f.delivered_at,
                    f.bounced_at,
                    f.opened_at,
                    f.clicked_at,
                    f.complained_at,
                    f.unsubscribed_at,
                    f.ended_at,
                    f.updated_at,
                    f.country,
                    f.tried
                   FROM store.deliveries f
                  WHERE ((f.lane = lane.lane) AND (f.state = 'queued'::text) AND (f.failures = 0) AND (f.due_at < (now() - '00:05:00'::interval)))
                  ORDER BY f.due_at
                 LIMIT
                        CASE
                            WHEN lane.on_purpose THEN 100
                            ELSE NULL::integer
                        END)
                UNION ALL
                ( SELECT f.shard,
                    f.id,
                    f.notification_id,
                    f.tenant_id,
                    f.recipient_id,
                    f.category,
                    f.class,
                    f.channel,
                    f.lane,
                    f.address,
                    f.sender,
                    f.reply_to,
                    f.template_id,
                    f.template_version,
                    f.state,
                    f.reason,
                    f.due_at,
                    f.lease_owner,
                    f.attempt_no,
                    f.failures,
                    f.lookups,
                    f.provider,
                    f.provider_message_id,
                    f.evidence_id,
                    f.replay_of,
                    f.expires_at,
                    f.created_at,
                    f.sent_at,
                    f.delivered_at,
                    f.bounced_at,
                    f.opened_at,
                    f.clicked_at,
                    f.complained_at,
                    f.unsubscribed_at,
                    f.ended_at,
                    f.updated_at,
                    f.country,
                    f.tried
                   FROM store.deliveries f
                  WHERE ((f.lane = lane.lane) AND (f.state = 'queued'::text) AND (f.failures > 0) AND (f.due_at < (now() - '00:05:00'::interval)))
                  ORDER BY f.due_at
                 LIMIT
                        CASE
                            WHEN lane.on_purpose THEN 100
                            ELSE NULL::integer
                        END)) d)
          WHERE ((NOT lane.on_purpose) OR (d.expires_at < (now() - '00:05:00'::interval)))
        UNION ALL
         SELECT 'delivery'::text,
            d.state,
            d.tenant_id,
            d.notification_id,
            d.id,
            d.lane,
            d.reason,
            d.due_at,
                CASE d.state
                    WHEN 'sending'::text THEN 'its lease ran out: reconcile should have taken it up'::text
                    WHEN 'sent'::text THEN 'reconcile should have asked the provider for evidence'::text
                    ELSE 'reconcile should have asked the provider whether it was sent'::text
                END AS "case"
           FROM store.deliveries d
          WHERE ((d.state = ANY (ARRAY['sending'::text, 'sent'::text, 'ambiguous'::text])) AND (d.due_at < (now() - '00:05:00'::interval)))
        UNION ALL
         SELECT 'inbound_event'::text,
            i.state,
            d.tenant_id,
            d.notification_id,
            i.delivery_id,
            NULL::text,
            i.kind,
            i.due_at,
            'apply should have taken it up'::text
           FROM (store.inbound_events i
             LEFT JOIN store.deliveries d ON (((d.shard = store.shard_of(i.delivery_id)) AND (d.id = i.delivery_id))))
          WHERE ((i.state = ANY (ARRAY['pending'::text, 'parked'::text])) AND (i.due_at < (now() - '00:05:00'::interval)))
        UNION ALL
         SELECT 'status_event'::text,
            'pending'::text,
            s.tenant_id,
            ((s.data ->> 'notification_id'::text))::uuid AS uuid,
            ((s.data ->> 'delivery_id'::text))::uuid AS uuid,
            NULL::text,
            s.type,
            s.due_at,
            'the fan-out should have told the endpoints'::text
           FROM store.status_events s
          WHERE (s.due_at < (now() - '00:05:00'::interval))) stuck
     LEFT JOIN store.tenants t ON ((t.id = stuck.tenant_id)));

--
-- Name: VIEW stuck; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.stuck IS 'Must always be empty: everything overdue for its next step by more than its grace of 5 minutes. A row here is a defect, or no worker is running';

--
-- Name: COLUMN stuck.what; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.stuck.what IS 'notification, delivery, inbound_event or status_event';

--
-- Name: COLUMN stuck.state; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.stuck.state IS 'The state it is stuck in';

--
-- Name: COLUMN stuck.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.stuck.tenant IS 'Whose it is; NULL for an event that is not matched yet';

--
-- Name: COLUMN stuck.notification_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.stuck.notification_id IS 'The notification; landed.explain tells more';

--
-- Name: COLUMN stuck.delivery_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.stuck.delivery_id IS 'The delivery, if it is one or is about one';

--
-- Name: COLUMN stuck.lane; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.stuck.lane IS 'What it queues with';

--
-- Name: COLUMN stuck.reason; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.stuck.reason IS 'Why it waited; for an inbound or status event, its kind';

--
-- Name: COLUMN stuck.due_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.stuck.due_at IS 'When something should have been done to it';

--
-- Name: COLUMN stuck.overdue_for; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.stuck.overdue_for IS 'How long ago that was';

--
-- Name: COLUMN stuck.missing; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.stuck.missing IS 'What should have happened';

--
-- Name: suppressions; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.suppressions (
    id bigint NOT NULL,
    tenant_id integer NOT NULL,
    channel text NOT NULL,
    address text NOT NULL,
    scope text DEFAULT 'all'::text NOT NULL,
    reason text NOT NULL,
    detail text DEFAULT ''::text NOT NULL,
    source text NOT NULL,
    delivery_id uuid,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    lifted_at timestamp with time zone,
    lifted_by text,
    lift_reason text,
    CONSTRAINT suppressions_check CHECK (((address = store.normalise_address(channel, address)) AND (address <> ''::text))),
    CONSTRAINT suppressions_check1 CHECK (((lifted_at IS NULL) = (lift_reason IS NULL))),
    CONSTRAINT suppressions_reason_check CHECK ((reason = ANY (ARRAY['hard_bounce'::text, 'soft_bounces'::text, 'complaint'::text, 'unsubscribe'::text, 'opted_out'::text, 'provider_suppressed'::text, 'manual'::text]))),
    CONSTRAINT suppressions_source_check CHECK ((source = ANY (ARRAY['provider'::text, 'recipient'::text, 'operator'::text, 'api'::text])))
);

--
-- Name: COLUMN suppressions.scope; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.suppressions.scope IS 'all, or the one category it covers';

--
-- Name: suppressions; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.suppressions AS
 SELECT s.id AS suppression_id,
    t.name AS tenant,
    s.channel,
    reporting.masked_address(s.channel, s.address) AS address,
    reporting.domain_of(s.channel, s.address) AS domain,
    s.scope,
    s.reason,
    s.detail,
    s.source,
    s.delivery_id,
    (s.lifted_at IS NULL) AS active,
    s.created_at,
    s.lifted_at,
    s.lifted_by,
    s.lift_reason
   FROM (store.suppressions s
     LEFT JOIN store.tenants t ON ((t.id = s.tenant_id)));

--
-- Name: VIEW suppressions; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.suppressions IS 'Addresses that must not be sent to, and those that once must not';

--
-- Name: COLUMN suppressions.suppression_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.suppression_id IS 'Id of the suppression';

--
-- Name: COLUMN suppressions.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.tenant IS 'For whose notifications it holds';

--
-- Name: COLUMN suppressions.channel; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.channel IS 'On which channel it holds';

--
-- Name: COLUMN suppressions.address; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.address IS 'The address, masked';

--
-- Name: COLUMN suppressions.domain; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.domain IS 'The domain of an email address';

--
-- Name: COLUMN suppressions.scope; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.scope IS 'all, or the one category it covers';

--
-- Name: COLUMN suppressions.reason; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.reason IS 'hard_bounce, soft_bounces, complaint, unsubscribe, opted_out (STOP), provider_suppressed (on the provider''s own list) or manual; opted_out stands beside the others';

--
-- Name: COLUMN suppressions.detail; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.detail IS 'What was said: the receiving server''s words, or a person''s';

--
-- Name: COLUMN suppressions.source; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.source IS 'Who asked for it: provider, recipient, operator or api';

--
-- Name: COLUMN suppressions.delivery_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.delivery_id IS 'The delivery that led to it, if one did';

--
-- Name: COLUMN suppressions.active; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.active IS 'Whether it holds now';

--
-- Name: COLUMN suppressions.created_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.created_at IS 'Since when it holds';

--
-- Name: COLUMN suppressions.lifted_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.lifted_at IS 'Until when it held';

--
-- Name: COLUMN suppressions.lifted_by; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.lifted_by IS 'Who lifted it';

--
-- Name: COLUMN suppressions.lift_reason; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.suppressions.lift_reason IS 'Why it was lifted';

--
-- Name: timeline; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.timeline AS
 SELECT n.accepted_at AS occurred_at,
    t.name AS tenant,
    n.id AS notification_id,
    NULL::uuid AS delivery_id,
    NULL::text AS channel,
    NULL::smallint AS attempt_no,
    'accepted'::text AS kind,
    'landed'::text AS source,
    jsonb_strip_nulls(jsonb_build_object('by', n.source, 'category', n.category, 'template', ((n.template_id || '@'::text) || n.template_version), 'send_at', (n.request -> 'send_at'::text))) AS data,
    n.accepted_at AS recorded_at,
    NULL::uuid AS event_id,
    n.shard
   FROM (store.notifications n
     LEFT JOIN store.tenants t ON ((t.id = n.tenant_id)))
UNION ALL
 SELECT d.created_at AS occurred_at,
    t.name AS tenant,
    n.id AS notification_id,
    d.id AS delivery_id,
    d.channel,
    NULL::smallint AS attempt_no,
    'planned'::text AS kind,
    'landed'::text AS source,
    jsonb_strip_nulls(jsonb_build_object('lane', d.lane, 'replay_of', d.replay_of)) AS data,
    d.created_at AS recorded_at,
    NULL::uuid AS event_id,
    n.shard
   FROM ((store.notifications n
     JOIN store.deliveries d ON (((d.shard = n.shard) AND ((d.id >= store.children_from(n.id)) AND (d.id <= store.children_to(n.id))) AND (d.notification_id = n.id))))
     LEFT JOIN store.tenants t ON ((t.id = n.tenant_id)))
UNION ALL
 SELECT a.opened_at AS occurred_at,
    t.name AS tenant,
    n.id AS notification_id,
    d.id AS delivery_id,
    d.channel,
    a.no AS attempt_no,
    'attempt_opened'::text AS kind,
    'landed'::text AS source,
    jsonb_build_object('provider', a.provider, 'region', a.region, 'epoch', a.epoch) AS data,
    a.opened_at AS recorded_at,
    NULL::uuid AS event_id,
    n.shard
   FROM (((store.notifications n
     JOIN store.deliveries d ON (((d.shard = n.shard) AND ((d.id >= store.children_from(n.id)) AND (d.id <= store.children_to(n.id))) AND (d.notification_id = n.id))))
     JOIN store.attempts a ON (((a.shard = d.shard) AND (a.delivery_id = d.id))))
     LEFT JOIN store.tenants t ON ((t.id = n.tenant_id)))
UNION ALL
 SELECT e.occurred_at,
    t.name AS tenant,
    e.notification_id,
    e.delivery_id,
    d.channel,
    e.attempt_no,
    e.kind,
    e.source,
    e.data,
    e.recorded_at,
    e.id AS event_id,
    e.shard
   FROM ((store.events e
     LEFT JOIN store.deliveries d ON (((d.shard = e.shard) AND (d.id = e.delivery_id))))
     LEFT JOIN store.tenants t ON ((t.id = e.tenant_id)));

--
-- Name: VIEW timeline; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.timeline IS 'Every fact about every notification. For one notification, landed.timeline(id) reads it through the keys; here, order by occurred_at';

--
-- Name: COLUMN timeline.occurred_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.occurred_at IS 'When it happened; for a provider''s facts, by the provider''s clock';

--
-- Name: COLUMN timeline.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.tenant IS 'Whose notification it is';

--
-- Name: COLUMN timeline.notification_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.notification_id IS 'The notification it is about';

--
-- Name: COLUMN timeline.delivery_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.delivery_id IS 'The delivery it is about; NULL when it is about the whole notification';

--
-- Name: COLUMN timeline.channel; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.channel IS 'The channel of that delivery';

--
-- Name: COLUMN timeline.attempt_no; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.attempt_no IS 'The attempt it is about, if it is about one';

--
-- Name: COLUMN timeline.kind; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.kind IS 'accepted, planned, attempt_opened; attempt_ and the outcome; provider_ and what the provider said; lease_expired, resolved_found, resolved_not_sent, resolved_repeatable, confirmation_overdue, unconfirmed, suppressed, expired, cancelled, held, released_hold, replayed';

--
-- Name: COLUMN timeline.source; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.source IS 'Who says so: landed, provider (webhook), lookup, device or operator';

--
-- Name: COLUMN timeline.data; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.data IS 'What else is known about it: codes, words of the receiving server, reasons';

--
-- Name: COLUMN timeline.recorded_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.recorded_at IS 'When Landed came to know it';

--
-- Name: COLUMN timeline.event_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.event_id IS 'Id in the event log; NULL for the birth of a row';

--
-- Name: COLUMN timeline.shard; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.timeline.shard IS 'Where the rows are, the last byte of the notification''s id: given too, only that notification''s rows are read';

--
-- Name: unconfirmed; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.unconfirmed AS
 SELECT d.id AS delivery_id,
    d.notification_id,
    t.name AS tenant,
    d.recipient_id,
    d.category,
    d.channel,
    reporting.masked_address(d.channel, d.address) AS address,
    reporting.domain_of(d.channel, d.address) AS domain,
    d.reason,
    d.provider,
    d.provider_message_id,
    d.attempt_no AS attempts,
    d.lookups,
    d.sent_at,
    d.ended_at,
    (now() - d.ended_at) AS unconfirmed_for
   FROM (store.deliveries d
     LEFT JOIN store.tenants t ON ((t.id = d.tenant_id)))
  WHERE (d.state = 'unconfirmed'::text);

--
-- Name: VIEW unconfirmed; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.unconfirmed IS 'Deliveries that nothing could prove or disprove: an honest end, to be counted and looked at. Late evidence still moves them to delivered or bounced';

--
-- Name: COLUMN unconfirmed.delivery_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.delivery_id IS 'Id of the delivery';

--
-- Name: COLUMN unconfirmed.notification_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.notification_id IS 'The notification it belongs to';

--
-- Name: COLUMN unconfirmed.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.tenant IS 'Whose notification it is';

--
-- Name: COLUMN unconfirmed.recipient_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.recipient_id IS 'The recipient, by the tenant''s own id';

--
-- Name: COLUMN unconfirmed.category; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.category IS 'What kind of notification it is';

--
-- Name: COLUMN unconfirmed.channel; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.channel IS 'email, push, sms, in_app, webhook or chat';

--
-- Name: COLUMN unconfirmed.address; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.address IS 'Where it went, masked';

--
-- Name: COLUMN unconfirmed.domain; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.domain IS 'The receiving domain of an email address';

--
-- Name: COLUMN unconfirmed.reason; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.reason IS 'no_evidence: accepted, then silence. not_acknowledged: accepted by one that cannot be asked, and its device said nothing. ambiguous_unresolved: not even whether it was accepted could be found out';

--
-- Name: COLUMN unconfirmed.provider; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.provider IS 'The provider account that was called';

--
-- Name: COLUMN unconfirmed.provider_message_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.provider_message_id IS 'The provider''s id of the message, to ask its support with';

--
-- Name: COLUMN unconfirmed.attempts; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.attempts IS 'Provider calls begun';

--
-- Name: COLUMN unconfirmed.lookups; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.lookups IS 'How often the provider was asked';

--
-- Name: COLUMN unconfirmed.sent_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.sent_at IS 'When the provider accepted it; NULL if that is what is not known';

--
-- Name: COLUMN unconfirmed.ended_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.ended_at IS 'When it was given up on';

--
-- Name: COLUMN unconfirmed.unconfirmed_for; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.unconfirmed.unconfirmed_for IS 'How long ago that was';

--
-- Name: waiting; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.waiting AS
 SELECT t.name AS tenant,
    waiting.lane,
    waiting.state,
    waiting.reason,
        CASE
            WHEN ((waiting.state = 'queued'::text) AND (waiting.overdue > 0)) THEN l.waiting_for
            ELSE NULL::text
        END AS waits_for,
    waiting.rows,
    waiting.overdue,
    waiting.first_due_at,
    waiting.last_due_at
   FROM ((( SELECT n.tenant_id,
            ('intake.'::text || n.class) AS lane,
            n.state,
            n.reason,
            count(*) AS rows,
            count(*) FILTER (WHERE (n.due_at <= now())) AS overdue,
            min(n.due_at) AS first_due_at,
            max(n.due_at) AS last_due_at
           FROM store.notifications n
          WHERE (n.state = 'accepted'::text)
          GROUP BY n.tenant_id, ('intake.'::text || n.class), n.state, n.reason
        UNION ALL
         SELECT d.tenant_id,
            d.lane,
            d.state,
            d.reason,
            count(*) AS count,
            count(*) FILTER (WHERE (d.due_at <= now())) AS count,
            min(d.due_at) AS min,
            max(d.due_at) AS max
           FROM store.deliveries d
          WHERE (d.state = 'queued'::text)
          GROUP BY d.tenant_id, d.lane, d.state, d.reason
        UNION ALL
         SELECT d.tenant_id,
            d.lane,
            d.state,
            d.reason,
            count(*) AS count,
            count(*) FILTER (WHERE (d.due_at <= now())) AS count,
            min(d.due_at) AS min,
            max(d.due_at) AS max
           FROM store.deliveries d
          WHERE (d.state = ANY (ARRAY['sending'::text, 'sent'::text, 'ambiguous'::text]))
          GROUP BY d.tenant_id, d.lane, d.state, d.reason) waiting
     LEFT JOIN reporting.lanes l ON ((l.lane = waiting.lane)))
     LEFT JOIN store.tenants t ON ((t.id = waiting.tenant_id)));

--
-- Name: VIEW waiting; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.waiting IS 'Why things wait: everything on its way, counted by tenant, lane, state and reason';

--
-- Name: COLUMN waiting.tenant; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.waiting.tenant IS 'Whose notifications they are';

--
-- Name: COLUMN waiting.lane; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.waiting.lane IS 'What they queue with: channel.class.route, or intake.class before they are planned';

--
-- Name: COLUMN waiting.state; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.waiting.state IS 'accepted (not planned yet), queued, sending, sent (waits for evidence) or ambiguous';

--
-- Name: COLUMN waiting.reason; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.waiting.reason IS 'Why: retry, failover, probe_failed, rate_limited, recipient_limit, template_limit, unauthorized, held, replay, released, outcome_unknown, endpoint_failing, …; NULL is the ordinary wait for a turn';

--
-- Name: COLUMN waiting.waits_for; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.waiting.waits_for IS 'What its lane lacks for those that are queued and due: no_provider, no_worker or load_shedding; reporting.lanes tells more';

--
-- Name: COLUMN waiting.rows; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.waiting.rows IS 'How many';

--
-- Name: COLUMN waiting.overdue; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.waiting.overdue IS 'Of these, due by now: the backlog';

--
-- Name: COLUMN waiting.first_due_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.waiting.first_due_at IS 'When the first of them is due';

--
-- Name: COLUMN waiting.last_due_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.waiting.last_due_at IS 'When the last of them is due';

--
-- Name: webhook_refusals; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.webhook_refusals (
    provider text NOT NULL,
    reason text NOT NULL,
    day date DEFAULT CURRENT_DATE NOT NULL,
    refusals bigint DEFAULT 1 NOT NULL,
    last_at timestamp with time zone DEFAULT now() NOT NULL,
    last_detail text DEFAULT ''::text NOT NULL
);

--
-- Name: webhook_refusals; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.webhook_refusals AS
 SELECT day,
    provider,
    reason,
    refusals,
    last_at,
    last_detail
   FROM store.webhook_refusals r;

--
-- Name: VIEW webhook_refusals; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.webhook_refusals IS 'Provider callbacks that were refused, by day. A few are noise from the internet; many are an attack, or a wrong signing key';

--
-- Name: COLUMN webhook_refusals.day; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.webhook_refusals.day IS 'The day (UTC)';

--
-- Name: COLUMN webhook_refusals.provider; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.webhook_refusals.provider IS 'The provider account whose endpoint was called';

--
-- Name: COLUMN webhook_refusals.reason; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.webhook_refusals.reason IS 'forged, stale, replayed, malformed, …';

--
-- Name: COLUMN webhook_refusals.refusals; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.webhook_refusals.refusals IS 'How many';

--
-- Name: COLUMN webhook_refusals.last_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.webhook_refusals.last_at IS 'When the last one came';

--
-- Name: COLUMN webhook_refusals.last_detail; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.webhook_refusals.last_detail IS 'What was wrong with the last one';

--
-- Name: workers; Type: VIEW; Schema: reporting; Owner: -
--

CREATE VIEW reporting.workers AS
 SELECT id AS worker_id,
    region,
    host,
    pid,
    lanes,
    ((stopped_at IS NULL) AND (last_seen_at > (now() - '00:00:30'::interval))) AS alive,
    (now() - last_seen_at) AS silent_for,
    started_at,
    last_seen_at,
    stopped_at
   FROM store.workers w;

--
-- Name: VIEW workers; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON VIEW reporting.workers IS 'Worker processes, alive and gone';

--
-- Name: COLUMN workers.worker_id; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.workers.worker_id IS 'Id of the process; attempts carry it';

--
-- Name: COLUMN workers.region; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.workers.region IS 'The region it works for';

--
-- Name: COLUMN workers.host; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.workers.host IS 'The machine it runs on';

--
-- Name: COLUMN workers.pid; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.workers.pid IS 'Its process id there';

--
-- Name: COLUMN workers.lanes; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.workers.lanes IS 'The lanes it serves';

--
-- Name: COLUMN workers.alive; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.workers.alive IS 'Not stopped, and seen in the last 30 seconds: several heartbeats';

--
-- Name: COLUMN workers.silent_for; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.workers.silent_for IS 'How long ago it was last seen';

--
-- Name: COLUMN workers.started_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.workers.started_at IS 'When it started';

--
-- Name: COLUMN workers.last_seen_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.workers.last_seen_at IS 'When it was last seen';

--
-- Name: COLUMN workers.stopped_at; Type: COMMENT; Schema: reporting; Owner: -
--

COMMENT ON COLUMN reporting.workers.stopped_at IS 'When it stopped in order; NULL for one that runs or was killed';

--
-- Name: alembic_version; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.alembic_version (
    version_num character varying(32) NOT NULL
);

--
-- Name: api_keys_id_seq; Type: SEQUENCE; Schema: store; Owner: -
--

ALTER TABLE store.api_keys ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME store.api_keys_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: audit_log_id_seq; Type: SEQUENCE; Schema: store; Owner: -
--

ALTER TABLE store.audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME store.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: consents; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.consents (
    id bigint NOT NULL,
    channel text NOT NULL,
    address text NOT NULL,
    action text NOT NULL,
    source text NOT NULL,
    provider text,
    event_key text,
    data jsonb DEFAULT '{}'::jsonb NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT consents_action_check CHECK ((action = ANY (ARRAY['opt_out'::text, 'opt_in'::text]))),
    CONSTRAINT consents_source_check CHECK ((source = ANY (ARRAY['recipient'::text, 'provider'::text, 'operator'::text])))
);

--
-- Name: TABLE consents; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON TABLE store.consents IS 'Opt-outs and opt-ins in the words of the address''s owner. A number is shared by all tenants that send from it, and so is its opt-out';

--
-- Name: consents_id_seq; Type: SEQUENCE; Schema: store; Owner: -
--

ALTER TABLE store.consents ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME store.consents_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: control_events_id_seq; Type: SEQUENCE; Schema: store; Owner: -
--

ALTER TABLE store.control_events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME store.control_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: devices; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.devices (
    id uuid DEFAULT store.uuid_v7() NOT NULL,
    tenant_id integer NOT NULL,
    recipient_id text NOT NULL,
    platform text NOT NULL,
    token text NOT NULL,
    environment text DEFAULT 'production'::text NOT NULL,
    p256dh text,
    auth text,
    device_key text,
    app_version text,
    registered_at timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    retired_at timestamp with time zone,
    retired_reason text,
    CONSTRAINT devices_check CHECK (((platform = 'web'::text) = ((p256dh IS NOT NULL) AND (auth IS NOT NULL)))),
    CONSTRAINT devices_check1 CHECK (((retired_at IS NULL) = (retired_reason IS NULL))),
    CONSTRAINT devices_device_key_check CHECK (((length(device_key) >= 1) AND (length(device_key) <= 200))),
    CONSTRAINT devices_environment_check CHECK ((environment = ANY (ARRAY['production'::text, 'sandbox'::text]))),
    CONSTRAINT devices_platform_check CHECK ((platform = ANY (ARRAY['ios'::text, 'android'::text, 'web'::text]))),
    CONSTRAINT devices_token_check CHECK (((token ~ '^[!-~]+$'::text) AND (length(token) <= 2048)))
);

--
-- Name: COLUMN devices.device_key; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.devices.device_key IS 'The app''s own stable name for the device: with it, a new token replaces the old one';

--
-- Name: COLUMN devices.registered_at; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.devices.registered_at IS 'When the token was last registered: a provider that calls it dead since an earlier time does not mean this one';

--
-- Name: inbox_items; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.inbox_items (
    tenant_id integer NOT NULL,
    recipient_id text NOT NULL,
    id uuid NOT NULL,
    attempt_no smallint NOT NULL,
    notification_id uuid NOT NULL,
    category text NOT NULL,
    title text NOT NULL,
    body text NOT NULL,
    data jsonb DEFAULT '{}'::jsonb NOT NULL,
    arrival bigint NOT NULL,
    version bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    acknowledged_at timestamp with time zone,
    seen_at timestamp with time zone,
    opened_at timestamp with time zone,
    read_at timestamp with time zone,
    archived_at timestamp with time zone,
    CONSTRAINT inbox_items_data_check CHECK ((jsonb_typeof(data) = 'object'::text))
);

--
-- Name: COLUMN inbox_items.id; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.inbox_items.id IS 'The delivery''s: a second copy of one delivery has nowhere to go';

--
-- Name: COLUMN inbox_items.arrival; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.inbox_items.arrival IS 'The version it arrived with, for ever: its place in the list, and what "all up to here" is measured by';

--
-- Name: COLUMN inbox_items.opened_at; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.inbox_items.opened_at IS 'When it was first read; marked as unread again it still was';

--
-- Name: inboxes; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.inboxes (
    tenant_id integer NOT NULL,
    recipient_id text NOT NULL,
    version bigint DEFAULT 0 NOT NULL,
    unread integer DEFAULT 0 NOT NULL,
    unseen integer DEFAULT 0 NOT NULL,
    CONSTRAINT inboxes_unread_check CHECK ((unread >= 0)),
    CONSTRAINT inboxes_unseen_check CHECK ((unseen >= 0))
);

--
-- Name: producers; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.producers (
    role_name name NOT NULL,
    tenant_id integer NOT NULL
);

--
-- Name: push_environments; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.push_environments (
    provider text NOT NULL,
    environment text NOT NULL,
    accepted_at timestamp with time zone DEFAULT now() NOT NULL
);

--
-- Name: rate_buckets; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.rate_buckets (
    name text NOT NULL,
    tokens double precision NOT NULL,
    refilled_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT rate_buckets_tokens_check CHECK ((tokens >= (0)::double precision))
);

--
-- Name: recipient_signing_secrets; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.recipient_signing_secrets (
    tenant_id integer NOT NULL,
    secret text NOT NULL,
    previous_secret text,
    previous_secret_until timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT recipient_signing_secrets_check CHECK (((previous_secret IS NULL) = (previous_secret_until IS NULL))),
    CONSTRAINT recipient_signing_secrets_secret_check CHECK (((length(secret) >= 32) AND (length(secret) <= 200)))
);

--
-- Name: recipient_windows; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.recipient_windows (
    shard smallint NOT NULL,
    tenant_id integer NOT NULL,
    recipient_id text NOT NULL,
    channel text NOT NULL,
    category text NOT NULL,
    per_hour integer NOT NULL,
    slots timestamp with time zone[] NOT NULL,
    CONSTRAINT recipient_windows_per_hour_check CHECK ((per_hour > 0)),
    CONSTRAINT recipient_windows_slots_check CHECK ((cardinality(slots) > 0))
)
WITH (fillfactor='70');

--
-- Name: COLUMN recipient_windows.category; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.recipient_windows.category IS 'A category that is counted by itself; empty for all the others together';

--
-- Name: COLUMN recipient_windows.per_hour; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.recipient_windows.per_hour IS 'The limit as intake last read it';

--
-- Name: COLUMN recipient_windows.slots; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.recipient_windows.slots IS 'The moments that count against the limit; what was taken last comes last. Of what was before the first nothing is known; -infinity: there was nothing';

--
-- Name: recipients; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.recipients (
    tenant_id integer NOT NULL,
    id text NOT NULL,
    email text,
    phone text,
    locale text,
    time_zone text,
    active boolean DEFAULT true NOT NULL,
    attributes jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    addresses jsonb DEFAULT '{}'::jsonb NOT NULL,
    channels text[],
    CONSTRAINT recipients_addresses_check CHECK ((jsonb_typeof(addresses) = 'object'::text)),
    CONSTRAINT recipients_attributes_check CHECK ((jsonb_typeof(attributes) = 'object'::text)),
    CONSTRAINT recipients_channels_check CHECK ((channels <@ ARRAY['email'::text, 'push'::text, 'sms'::text, 'in_app'::text, 'webhook'::text, 'chat'::text])),
    CONSTRAINT recipients_email_check CHECK ((email !~ '[\r\n]'::text)),
    CONSTRAINT recipients_id_check CHECK (((length(id) >= 1) AND (length(id) <= 200))),
    CONSTRAINT recipients_phone_check CHECK ((phone !~ '[\r\n]'::text))
);

--
-- Name: COLUMN recipients.addresses; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.recipients.addresses IS 'Where else it is reached: {"webhook": <endpoint id>, "chat": <endpoint id>}';

--
-- Name: COLUMN recipients.channels; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.recipients.channels IS 'The channels it prefers, NULL for any. Holds where the request names none itself (R-060)';

--
-- Name: soft_bounces; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.soft_bounces (
    tenant_id integer NOT NULL,
    channel text NOT NULL,
    address text NOT NULL,
    bounces integer DEFAULT 1 NOT NULL,
    first_at timestamp with time zone NOT NULL,
    last_at timestamp with time zone NOT NULL,
    CONSTRAINT soft_bounces_bounces_check CHECK ((bounces > 0))
);

--
-- Name: suppressions_id_seq; Type: SEQUENCE; Schema: store; Owner: -
--

ALTER TABLE store.suppressions ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME store.suppressions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: template_rates; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.template_rates (
    tenant_id integer NOT NULL,
    template_id text NOT NULL,
    class text NOT NULL,
    next_at timestamp with time zone NOT NULL
);

--
-- Name: templates; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.templates (
    tenant_id integer NOT NULL,
    template_id text NOT NULL,
    version integer NOT NULL,
    channel text DEFAULT 'email'::text NOT NULL,
    locale text DEFAULT ''::text NOT NULL,
    subject text,
    html text,
    text text,
    text_derived boolean DEFAULT false NOT NULL,
    variables jsonb DEFAULT '{}'::jsonb NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    status text DEFAULT 'draft'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    published_at timestamp with time zone,
    archived_at timestamp with time zone,
    extras jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT templates_channel_check CHECK ((channel = ANY (ARRAY['email'::text, 'push'::text, 'sms'::text, 'in_app'::text, 'webhook'::text, 'chat'::text]))),
    CONSTRAINT templates_check CHECK (((channel <> 'email'::text) OR ((subject IS NOT NULL) AND (text IS NOT NULL)))),
    CONSTRAINT templates_check1 CHECK (((status <> 'published'::text) OR (published_at IS NOT NULL))),
    CONSTRAINT templates_check2 CHECK (((status = 'archived'::text) = (archived_at IS NOT NULL))),
    CONSTRAINT templates_extras_check CHECK ((jsonb_typeof(extras) = 'object'::text)),
    CONSTRAINT templates_have_text CHECK ((text IS NOT NULL)),
    CONSTRAINT templates_plain CHECK (((channel <> ALL (ARRAY['sms'::text, 'webhook'::text])) OR ((COALESCE(subject, ''::text) = ''::text) AND (html IS NULL) AND (extras = '{}'::jsonb)))),
    CONSTRAINT templates_status_check CHECK ((status = ANY (ARRAY['draft'::text, 'published'::text, 'archived'::text]))),
    CONSTRAINT templates_template_id_check CHECK ((template_id ~ '^[a-z0-9][a-z0-9_.-]{0,99}$'::text)),
    CONSTRAINT templates_variables_check CHECK ((jsonb_typeof(variables) = 'object'::text)),
    CONSTRAINT templates_version_check CHECK ((version > 0))
);

--
-- Name: COLUMN templates.extras; Type: COMMENT; Schema: store; Owner: -
--

COMMENT ON COLUMN store.templates.extras IS 'Further parts by name, each a template of its own: url, image, sound, badge, subtitle and data.<key> of a push';

--
-- Name: tenants_id_seq; Type: SEQUENCE; Schema: store; Owner: -
--

ALTER TABLE store.tenants ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME store.tenants_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: webhook_tokens; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.webhook_tokens (
    provider text NOT NULL,
    token text NOT NULL,
    event_key text NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL
);

--
-- Name: procrastinate_events id; Type: DEFAULT; Schema: procrastinate; Owner: -
--

ALTER TABLE ONLY procrastinate.procrastinate_events ALTER COLUMN id SET DEFAULT nextval('procrastinate.procrastinate_events_id_seq'::regclass);

--
-- Name: procrastinate_jobs id; Type: DEFAULT; Schema: procrastinate; Owner: -
--

ALTER TABLE ONLY procrastinate.procrastinate_jobs ALTER COLUMN id SET DEFAULT nextval('procrastinate.procrastinate_jobs_id_seq'::regclass);

--
-- Name: procrastinate_periodic_defers id; Type: DEFAULT; Schema: procrastinate; Owner: -
--

ALTER TABLE ONLY procrastinate.procrastinate_periodic_defers ALTER COLUMN id SET DEFAULT nextval('procrastinate.procrastinate_periodic_defers_id_seq'::regclass);

--
-- Name: procrastinate_events procrastinate_events_pkey; Type: CONSTRAINT; Schema: procrastinate; Owner: -
--

ALTER TABLE ONLY procrastinate.procrastinate_events
    ADD CONSTRAINT procrastinate_events_pkey PRIMARY KEY (id);

--
-- Name: procrastinate_jobs procrastinate_jobs_pkey; Type: CONSTRAINT; Schema: procrastinate; Owner: -
--

ALTER TABLE ONLY procrastinate.procrastinate_jobs
    ADD CONSTRAINT procrastinate_jobs_pkey PRIMARY KEY (id);

--
-- Name: procrastinate_periodic_defers procrastinate_periodic_defers_pkey; Type: CONSTRAINT; Schema: procrastinate; Owner: -
--

ALTER TABLE ONLY procrastinate.procrastinate_periodic_defers
    ADD CONSTRAINT procrastinate_periodic_defers_pkey PRIMARY KEY (id);

--
-- Name: procrastinate_periodic_defers procrastinate_periodic_defers_unique; Type: CONSTRAINT; Schema: procrastinate; Owner: -
--

ALTER TABLE ONLY procrastinate.procrastinate_periodic_defers
    ADD CONSTRAINT procrastinate_periodic_defers_unique UNIQUE (task_name, periodic_id, defer_timestamp);

--
-- Name: procrastinate_workers procrastinate_workers_pkey; Type: CONSTRAINT; Schema: procrastinate; Owner: -
--

ALTER TABLE ONLY procrastinate.procrastinate_workers
    ADD CONSTRAINT procrastinate_workers_pkey PRIMARY KEY (id);

--
-- Name: alembic_version alembic_version_pkc; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

--
-- Name: api_key_limits api_key_limits_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.api_key_limits
    ADD CONSTRAINT api_key_limits_pkey PRIMARY KEY (key_id, hour);

--
-- Name: api_keys api_keys_hash_key; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.api_keys
    ADD CONSTRAINT api_keys_hash_key UNIQUE (hash);

--
-- Name: api_keys api_keys_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

--
-- Name: attempts attempts_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (shard, delivery_id, no);

--
-- Name: audit_log audit_log_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);

--
-- Name: categories categories_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.categories
    ADD CONSTRAINT categories_pkey PRIMARY KEY (tenant_id, name);

--
-- Name: channel_costs channel_costs_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.channel_costs
    ADD CONSTRAINT channel_costs_pkey PRIMARY KEY (channel);

--
-- Name: consents consents_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.consents
    ADD CONSTRAINT consents_pkey PRIMARY KEY (id);

--
-- Name: control_events control_events_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.control_events
    ADD CONSTRAINT control_events_pkey PRIMARY KEY (id);

--
-- Name: deliveries deliveries_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (shard, id);

--
-- Name: devices devices_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.devices
    ADD CONSTRAINT devices_pkey PRIMARY KEY (id);

--
-- Name: endpoints endpoints_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.endpoints
    ADD CONSTRAINT endpoints_pkey PRIMARY KEY (id);

--
-- Name: events events_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (shard, notification_id, id);

--
-- Name: idempotency_keys idempotency_keys_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (tenant_id, key);

--
-- Name: inbound_events inbound_events_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.inbound_events
    ADD CONSTRAINT inbound_events_pkey PRIMARY KEY (occurred_on, provider, event_key);

--
-- Name: inbox_items inbox_items_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.inbox_items
    ADD CONSTRAINT inbox_items_pkey PRIMARY KEY (tenant_id, recipient_id, id);

--
-- Name: inboxes inboxes_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.inboxes
    ADD CONSTRAINT inboxes_pkey PRIMARY KEY (tenant_id, recipient_id);

--
-- Name: lanes lanes_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.lanes
    ADD CONSTRAINT lanes_pkey PRIMARY KEY (name);

--
-- Name: limit_hits limit_hits_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.limit_hits
    ADD CONSTRAINT limit_hits_pkey PRIMARY KEY (tenant_id, level, name, hour);

--
-- Name: load_shedding load_shedding_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.load_shedding
    ADD CONSTRAINT load_shedding_pkey PRIMARY KEY (class);

--
-- Name: notifications notifications_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.notifications
    ADD CONSTRAINT notifications_pkey PRIMARY KEY (shard, id);

--
-- Name: producers producers_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.producers
    ADD CONSTRAINT producers_pkey PRIMARY KEY (role_name, tenant_id);

--
-- Name: provider_outcomes provider_outcomes_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.provider_outcomes
    ADD CONSTRAINT provider_outcomes_pkey PRIMARY KEY (provider, at);

--
-- Name: provider_rates provider_rates_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.provider_rates
    ADD CONSTRAINT provider_rates_pkey PRIMARY KEY (provider);

--
-- Name: provider_states provider_states_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.provider_states
    ADD CONSTRAINT provider_states_pkey PRIMARY KEY (provider);

--
-- Name: push_environments push_environments_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.push_environments
    ADD CONSTRAINT push_environments_pkey PRIMARY KEY (provider, environment);

--
-- Name: rate_buckets rate_buckets_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.rate_buckets
    ADD CONSTRAINT rate_buckets_pkey PRIMARY KEY (name);

--
-- Name: recipient_signing_secrets recipient_signing_secrets_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.recipient_signing_secrets
    ADD CONSTRAINT recipient_signing_secrets_pkey PRIMARY KEY (tenant_id);

--
-- Name: recipient_windows recipient_windows_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.recipient_windows
    ADD CONSTRAINT recipient_windows_pkey PRIMARY KEY (shard, tenant_id, recipient_id, channel, category);

--
-- Name: recipients recipients_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.recipients
    ADD CONSTRAINT recipients_pkey PRIMARY KEY (tenant_id, id);

--
-- Name: regions regions_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.regions
    ADD CONSTRAINT regions_pkey PRIMARY KEY (name);

--
-- Name: route_capabilities route_capabilities_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.route_capabilities
    ADD CONSTRAINT route_capabilities_pkey PRIMARY KEY (provider, channel, country);

--
-- Name: soft_bounces soft_bounces_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.soft_bounces
    ADD CONSTRAINT soft_bounces_pkey PRIMARY KEY (tenant_id, channel, address);

--
-- Name: status_events status_events_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.status_events
    ADD CONSTRAINT status_events_pkey PRIMARY KEY (id);

--
-- Name: suppressions suppressions_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.suppressions
    ADD CONSTRAINT suppressions_pkey PRIMARY KEY (id);

--
-- Name: template_rates template_rates_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.template_rates
    ADD CONSTRAINT template_rates_pkey PRIMARY KEY (tenant_id, template_id, class);

--
-- Name: templates templates_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.templates
    ADD CONSTRAINT templates_pkey PRIMARY KEY (tenant_id, template_id, version, channel, locale);

--
-- Name: tenants tenants_name_key; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.tenants
    ADD CONSTRAINT tenants_name_key UNIQUE (name);

--
-- Name: tenants tenants_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (id);

--
-- Name: webhook_refusals webhook_refusals_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.webhook_refusals
    ADD CONSTRAINT webhook_refusals_pkey PRIMARY KEY (provider, reason, day);

--
-- Name: webhook_tokens webhook_tokens_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.webhook_tokens
    ADD CONSTRAINT webhook_tokens_pkey PRIMARY KEY (provider, token);

--
-- Name: workers workers_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);

--
-- Name: idx_procrastinate_jobs_worker_not_null; Type: INDEX; Schema: procrastinate; Owner: -
--

CREATE INDEX idx_procrastinate_jobs_worker_not_null ON procrastinate.procrastinate_jobs USING btree (worker_id) WHERE ((worker_id IS NOT NULL) AND (status = 'doing'::procrastinate.procrastinate_job_status));

--
-- Name: idx_procrastinate_workers_last_heartbeat; Type: INDEX; Schema: procrastinate; Owner: -
--

CREATE INDEX idx_procrastinate_workers_last_heartbeat ON procrastinate.procrastinate_workers USING btree (last_heartbeat);

--
-- Name: procrastinate_events_job_id_fkey_v1; Type: INDEX; Schema: procrastinate; Owner: -
--

CREATE INDEX procrastinate_events_job_id_fkey_v1 ON procrastinate.procrastinate_events USING btree (job_id);

--
-- Name: procrastinate_jobs_id_lock_idx_v1; Type: INDEX; Schema: procrastinate; Owner: -
--

CREATE INDEX procrastinate_jobs_id_lock_idx_v1 ON procrastinate.procrastinate_jobs USING btree (id, lock) WHERE (status = ANY (ARRAY['todo'::procrastinate.procrastinate_job_status, 'doing'::procrastinate.procrastinate_job_status]));

--
-- Name: procrastinate_jobs_lock_idx_v1; Type: INDEX; Schema: procrastinate; Owner: -
--

CREATE UNIQUE INDEX procrastinate_jobs_lock_idx_v1 ON procrastinate.procrastinate_jobs USING btree (lock) WHERE (status = 'doing'::procrastinate.procrastinate_job_status);

--
-- Name: procrastinate_jobs_priority_idx_v1; Type: INDEX; Schema: procrastinate; Owner: -
--

CREATE INDEX procrastinate_jobs_priority_idx_v1 ON procrastinate.procrastinate_jobs USING btree (priority DESC, id) WHERE (status = 'todo'::procrastinate.procrastinate_job_status);

--
-- Name: procrastinate_jobs_queue_name_idx_v1; Type: INDEX; Schema: procrastinate; Owner: -
--

CREATE INDEX procrastinate_jobs_queue_name_idx_v1 ON procrastinate.procrastinate_jobs USING btree (queue_name);

--
-- Name: procrastinate_jobs_queueing_lock_idx_v1; Type: INDEX; Schema: procrastinate; Owner: -
--

CREATE UNIQUE INDEX procrastinate_jobs_queueing_lock_idx_v1 ON procrastinate.procrastinate_jobs USING btree (queueing_lock) WHERE (status = 'todo'::procrastinate.procrastinate_job_status);

--
-- Name: procrastinate_periodic_defers_job_id_fkey_v1; Type: INDEX; Schema: procrastinate; Owner: -
--

CREATE INDEX procrastinate_periodic_defers_job_id_fkey_v1 ON procrastinate.procrastinate_periodic_defers USING btree (job_id);

--
-- Name: attempts_message; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX attempts_message ON ONLY store.attempts USING btree (provider, provider_message_id) WHERE (provider_message_id IS NOT NULL);

--
-- Name: attempts_one_accepted; Type: INDEX; Schema: store; Owner: -
--

CREATE UNIQUE INDEX attempts_one_accepted ON ONLY store.attempts USING btree (shard, delivery_id) WHERE (state = 'accepted'::text);

--
-- Name: attempts_one_open; Type: INDEX; Schema: store; Owner: -
--

CREATE UNIQUE INDEX attempts_one_open ON ONLY store.attempts USING btree (shard, delivery_id) WHERE (state = ANY (ARRAY['open'::text, 'ambiguous'::text]));

--
-- Name: consents_address; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX consents_address ON store.consents USING btree (channel, address, occurred_at);

--
-- Name: consents_told; Type: INDEX; Schema: store; Owner: -
--

CREATE UNIQUE INDEX consents_told ON store.consents USING btree (provider, event_key) WHERE (event_key IS NOT NULL);

--
-- Name: control_events_at; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX control_events_at ON store.control_events USING btree (at);

--
-- Name: deliveries_due_first; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX deliveries_due_first ON ONLY store.deliveries USING btree (lane, due_at) WHERE ((state = 'queued'::text) AND (failures = 0));

--
-- Name: deliveries_due_retry; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX deliveries_due_retry ON ONLY store.deliveries USING btree (lane, due_at) WHERE ((state = 'queued'::text) AND (failures > 0));

--
-- Name: deliveries_endpoint; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX deliveries_endpoint ON ONLY store.deliveries USING btree (address, id) WHERE (channel = ANY (ARRAY['webhook'::text, 'chat'::text]));

--
-- Name: deliveries_followed; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX deliveries_followed ON ONLY store.deliveries USING btree (due_at) WHERE (state = ANY (ARRAY['sending'::text, 'sent'::text, 'ambiguous'::text]));

--
-- Name: deliveries_needing_people; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX deliveries_needing_people ON ONLY store.deliveries USING btree (tenant_id, ended_at) WHERE (state = ANY (ARRAY['dead'::text, 'unconfirmed'::text]));

--
-- Name: deliveries_recipient; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX deliveries_recipient ON ONLY store.deliveries USING btree (tenant_id, recipient_id, id);

--
-- Name: devices_key; Type: INDEX; Schema: store; Owner: -
--

CREATE UNIQUE INDEX devices_key ON store.devices USING btree (tenant_id, recipient_id, platform, device_key) WHERE ((retired_at IS NULL) AND (device_key IS NOT NULL));

--
-- Name: devices_recipient; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX devices_recipient ON store.devices USING btree (tenant_id, recipient_id) WHERE (retired_at IS NULL);

--
-- Name: devices_retired; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX devices_retired ON store.devices USING btree (retired_at) WHERE (retired_at IS NOT NULL);

--
-- Name: devices_token; Type: INDEX; Schema: store; Owner: -
--

CREATE UNIQUE INDEX devices_token ON store.devices USING btree (tenant_id, platform, token) WHERE (retired_at IS NULL);

--
-- Name: endpoints_listening; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX endpoints_listening ON store.endpoints USING btree (tenant_id) WHERE ((status = 'enabled'::text) AND (cardinality(events) > 0));

--
-- Name: endpoints_tenant; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX endpoints_tenant ON store.endpoints USING btree (tenant_id, id);

--
-- Name: idempotency_keys_expiry; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX idempotency_keys_expiry ON store.idempotency_keys USING btree (expires_at);

--
-- Name: inbound_events_due; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX inbound_events_due ON ONLY store.inbound_events USING btree (due_at) WHERE (state = ANY (ARRAY['pending'::text, 'parked'::text]));

--
-- Name: inbound_events_parked; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX inbound_events_parked ON ONLY store.inbound_events USING btree (provider_message_id) WHERE (state = 'parked'::text);

--
-- Name: inbound_events_said; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX inbound_events_said ON ONLY store.inbound_events USING btree (due_at) WHERE ((kind = ANY (ARRAY['opted_out'::text, 'opted_in'::text])) AND (state = ANY (ARRAY['pending'::text, 'parked'::text])));

--
-- Name: inbox_items_archived; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX inbox_items_archived ON store.inbox_items USING btree (archived_at) WHERE (archived_at IS NOT NULL);

--
-- Name: inbox_items_arrival; Type: INDEX; Schema: store; Owner: -
--

CREATE UNIQUE INDEX inbox_items_arrival ON store.inbox_items USING btree (tenant_id, recipient_id, arrival);

--
-- Name: inbox_items_version; Type: INDEX; Schema: store; Owner: -
--

CREATE UNIQUE INDEX inbox_items_version ON store.inbox_items USING btree (tenant_id, recipient_id, version);

--
-- Name: limit_hits_hour; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX limit_hits_hour ON store.limit_hits USING btree (hour);

--
-- Name: notifications_due; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX notifications_due ON ONLY store.notifications USING btree (class, due_at) WHERE (state = 'accepted'::text);

--
-- Name: regions_one_active; Type: INDEX; Schema: store; Owner: -
--

CREATE UNIQUE INDEX regions_one_active ON store.regions USING btree (active) WHERE active;

--
-- Name: status_events_due; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX status_events_due ON store.status_events USING btree (due_at);

--
-- Name: suppressions_active; Type: INDEX; Schema: store; Owner: -
--

CREATE UNIQUE INDEX suppressions_active ON store.suppressions USING btree (tenant_id, channel, address, scope, ((reason = 'opted_out'::text))) WHERE (lifted_at IS NULL);

--
-- Name: suppressions_listed; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX suppressions_listed ON store.suppressions USING btree (tenant_id, id DESC);

--
-- Name: suppressions_opted_out; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX suppressions_opted_out ON store.suppressions USING btree (channel, address) WHERE ((reason = 'opted_out'::text) AND (lifted_at IS NULL));

--
-- Name: webhook_tokens_age; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX webhook_tokens_age ON store.webhook_tokens USING btree (seen_at);

--
-- Name: procrastinate_jobs procrastinate_jobs_notify_queue_job_aborted_v1; Type: TRIGGER; Schema: procrastinate; Owner: -
--

CREATE TRIGGER procrastinate_jobs_notify_queue_job_aborted_v1 AFTER UPDATE OF abort_requested ON procrastinate.procrastinate_jobs FOR EACH ROW WHEN (((old.abort_requested = false) AND (new.abort_requested = true) AND (new.status = 'doing'::procrastinate.procrastinate_job_status))) EXECUTE FUNCTION procrastinate.procrastinate_notify_queue_abort_job_v1();

--
-- Name: procrastinate_jobs procrastinate_jobs_notify_queue_job_inserted_v1; Type: TRIGGER; Schema: procrastinate; Owner: -
--

CREATE TRIGGER procrastinate_jobs_notify_queue_job_inserted_v1 AFTER INSERT ON procrastinate.procrastinate_jobs FOR EACH ROW WHEN ((new.status = 'todo'::procrastinate.procrastinate_job_status)) EXECUTE FUNCTION procrastinate.procrastinate_notify_queue_job_inserted_v1();

--
-- Name: procrastinate_jobs procrastinate_trigger_abort_requested_events_v1; Type: TRIGGER; Schema: procrastinate; Owner: -
--

CREATE TRIGGER procrastinate_trigger_abort_requested_events_v1 AFTER UPDATE OF abort_requested ON procrastinate.procrastinate_jobs FOR EACH ROW WHEN ((new.abort_requested = true)) EXECUTE FUNCTION procrastinate.procrastinate_trigger_abort_requested_events_procedure_v1();

--
-- Name: procrastinate_jobs procrastinate_trigger_delete_jobs_v1; Type: TRIGGER; Schema: procrastinate; Owner: -
--

CREATE TRIGGER procrastinate_trigger_delete_jobs_v1 BEFORE DELETE ON procrastinate.procrastinate_jobs FOR EACH ROW EXECUTE FUNCTION procrastinate.procrastinate_unlink_periodic_defers_v1();

--
-- Name: procrastinate_jobs procrastinate_trigger_scheduled_events_v1; Type: TRIGGER; Schema: procrastinate; Owner: -
--

CREATE TRIGGER procrastinate_trigger_scheduled_events_v1 AFTER INSERT OR UPDATE ON procrastinate.procrastinate_jobs FOR EACH ROW WHEN (((new.scheduled_at IS NOT NULL) AND (new.status = 'todo'::procrastinate.procrastinate_job_status))) EXECUTE FUNCTION procrastinate.procrastinate_trigger_function_scheduled_events_v1();

--
-- Name: procrastinate_jobs procrastinate_trigger_status_events_insert_v1; Type: TRIGGER; Schema: procrastinate; Owner: -
--

CREATE TRIGGER procrastinate_trigger_status_events_insert_v1 AFTER INSERT ON procrastinate.procrastinate_jobs FOR EACH ROW WHEN ((new.status = 'todo'::procrastinate.procrastinate_job_status)) EXECUTE FUNCTION procrastinate.procrastinate_trigger_function_status_events_insert_v1();

--
-- Name: procrastinate_jobs procrastinate_trigger_status_events_update_v1; Type: TRIGGER; Schema: procrastinate; Owner: -
--

CREATE TRIGGER procrastinate_trigger_status_events_update_v1 AFTER UPDATE OF status ON procrastinate.procrastinate_jobs FOR EACH ROW EXECUTE FUNCTION procrastinate.procrastinate_trigger_function_status_events_update_v1();

--
-- Name: audit_log audit_log_append_only; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER audit_log_append_only BEFORE DELETE OR UPDATE ON store.audit_log FOR EACH ROW EXECUTE FUNCTION store.refuse_change();

--
-- Name: api_keys config_changed; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER config_changed AFTER INSERT OR DELETE OR UPDATE ON store.api_keys FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config();

--
-- Name: categories config_changed; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER config_changed AFTER INSERT OR DELETE OR UPDATE ON store.categories FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config();

--
-- Name: recipient_signing_secrets config_changed; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER config_changed AFTER INSERT OR DELETE OR UPDATE ON store.recipient_signing_secrets FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config();

--
-- Name: templates config_changed; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER config_changed AFTER INSERT OR DELETE OR UPDATE ON store.templates FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config();

--
-- Name: tenants config_changed; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER config_changed AFTER INSERT OR DELETE OR UPDATE ON store.tenants FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config();

--
-- Name: consents consents_append_only; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER consents_append_only BEFORE DELETE OR UPDATE ON store.consents FOR EACH ROW EXECUTE FUNCTION store.refuse_change();

--
-- Name: deliveries deliveries_proven; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER deliveries_proven BEFORE UPDATE OF state, evidence_id ON store.deliveries FOR EACH ROW WHEN ((new.state = 'delivered'::text)) EXECUTE FUNCTION store.check_delivered();

--
-- Name: deliveries deliveries_proven_at_birth; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER deliveries_proven_at_birth BEFORE INSERT ON store.deliveries FOR EACH ROW WHEN ((new.state = 'delivered'::text)) EXECUTE FUNCTION store.check_delivered();

--
-- Name: deliveries deliveries_tell_birth; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER deliveries_tell_birth AFTER INSERT ON store.deliveries FOR EACH ROW WHEN (((new.channel <> ALL (ARRAY['webhook'::text, 'chat'::text])) AND (new.ended_at IS NOT NULL))) EXECUTE FUNCTION store.tell_status();

--
-- Name: deliveries deliveries_tell_status; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER deliveries_tell_status AFTER UPDATE ON store.deliveries FOR EACH ROW WHEN (((new.channel <> ALL (ARRAY['webhook'::text, 'chat'::text])) AND (((new.state <> old.state) AND (new.state <> ALL (ARRAY['queued'::text, 'sending'::text]))) OR ((old.opened_at IS NULL) AND (new.opened_at IS NOT NULL)) OR ((old.clicked_at IS NULL) AND (new.clicked_at IS NOT NULL)) OR ((old.complained_at IS NULL) AND (new.complained_at IS NOT NULL)) OR ((old.unsubscribed_at IS NULL) AND (new.unsubscribed_at IS NOT NULL))))) EXECUTE FUNCTION store.tell_status();

--
-- Name: events events_append_only; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER events_append_only BEFORE DELETE OR UPDATE ON store.events FOR EACH ROW EXECUTE FUNCTION store.refuse_change();

--
-- Name: regions regions_epoch_grows; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER regions_epoch_grows BEFORE UPDATE ON store.regions FOR EACH ROW EXECUTE FUNCTION store.keep_epoch_growing();

--
-- Name: templates templates_immutable; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER templates_immutable BEFORE DELETE OR UPDATE ON store.templates FOR EACH ROW EXECUTE FUNCTION store.keep_template_immutable();

--
-- Name: tenants tenants_inherit_opt_outs; Type: TRIGGER; Schema: store; Owner: -
--

CREATE TRIGGER tenants_inherit_opt_outs AFTER INSERT ON store.tenants FOR EACH ROW EXECUTE FUNCTION store.inherit_opt_outs();

--
-- Name: procrastinate_events procrastinate_events_job_id_fkey; Type: FK CONSTRAINT; Schema: procrastinate; Owner: -
--

ALTER TABLE ONLY procrastinate.procrastinate_events
    ADD CONSTRAINT procrastinate_events_job_id_fkey FOREIGN KEY (job_id) REFERENCES procrastinate.procrastinate_jobs(id) ON DELETE CASCADE;

--
-- Name: procrastinate_jobs procrastinate_jobs_worker_id_fkey; Type: FK CONSTRAINT; Schema: procrastinate; Owner: -
--

ALTER TABLE ONLY procrastinate.procrastinate_jobs
    ADD CONSTRAINT procrastinate_jobs_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES procrastinate.procrastinate_workers(id) ON DELETE SET NULL;

--
-- Name: procrastinate_periodic_defers procrastinate_periodic_defers_job_id_fkey; Type: FK CONSTRAINT; Schema: procrastinate; Owner: -
--

ALTER TABLE ONLY procrastinate.procrastinate_periodic_defers
    ADD CONSTRAINT procrastinate_periodic_defers_job_id_fkey FOREIGN KEY (job_id) REFERENCES procrastinate.procrastinate_jobs(id);

--
-- Name: api_key_limits api_key_limits_key_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.api_key_limits
    ADD CONSTRAINT api_key_limits_key_id_fkey FOREIGN KEY (key_id) REFERENCES store.api_keys(id) ON DELETE CASCADE;

--
-- Name: api_keys api_keys_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.api_keys
    ADD CONSTRAINT api_keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: categories categories_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.categories
    ADD CONSTRAINT categories_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: devices devices_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.devices
    ADD CONSTRAINT devices_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: devices devices_tenant_id_recipient_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.devices
    ADD CONSTRAINT devices_tenant_id_recipient_id_fkey FOREIGN KEY (tenant_id, recipient_id) REFERENCES store.recipients(tenant_id, id) ON DELETE CASCADE;

--
-- Name: endpoints endpoints_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.endpoints
    ADD CONSTRAINT endpoints_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: inbox_items inbox_items_tenant_id_recipient_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.inbox_items
    ADD CONSTRAINT inbox_items_tenant_id_recipient_id_fkey FOREIGN KEY (tenant_id, recipient_id) REFERENCES store.inboxes(tenant_id, recipient_id) ON DELETE CASCADE;

--
-- Name: inboxes inboxes_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.inboxes
    ADD CONSTRAINT inboxes_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: limit_hits limit_hits_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.limit_hits
    ADD CONSTRAINT limit_hits_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: producers producers_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.producers
    ADD CONSTRAINT producers_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: recipient_signing_secrets recipient_signing_secrets_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.recipient_signing_secrets
    ADD CONSTRAINT recipient_signing_secrets_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: recipients recipients_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.recipients
    ADD CONSTRAINT recipients_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: soft_bounces soft_bounces_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.soft_bounces
    ADD CONSTRAINT soft_bounces_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: suppressions suppressions_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.suppressions
    ADD CONSTRAINT suppressions_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: template_rates template_rates_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.template_rates
    ADD CONSTRAINT template_rates_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: templates templates_tenant_id_fkey; Type: FK CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.templates
    ADD CONSTRAINT templates_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES store.tenants(id) ON DELETE CASCADE;

--
-- Name: SCHEMA landed; Type: ACL; Schema: -; Owner: -
--

GRANT USAGE ON SCHEMA landed TO landed_service;
GRANT USAGE ON SCHEMA landed TO landed_operator;
GRANT USAGE ON SCHEMA landed TO landed_producer;

--
-- Name: SCHEMA reporting; Type: ACL; Schema: -; Owner: -
--

GRANT USAGE ON SCHEMA reporting TO landed_service;
GRANT USAGE ON SCHEMA reporting TO landed_operator;
GRANT USAGE ON SCHEMA reporting TO landed_reporter;

--
-- Name: SCHEMA store; Type: ACL; Schema: -; Owner: -
--

GRANT USAGE ON SCHEMA store TO landed_service;

--
-- Name: FUNCTION _actor(); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._actor() FROM PUBLIC;
GRANT ALL ON FUNCTION landed._actor() TO landed_service;

--
-- Name: TABLE audit_log; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT ON TABLE store.audit_log TO landed_service;

--
-- Name: FUNCTION _audit(action text, tenant_id integer, target text, reason text, data jsonb); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._audit(action text, tenant_id integer, target text, reason text, data jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._audit(action text, tenant_id integer, target text, reason text, data jsonb) TO landed_service;

--
-- Name: FUNCTION shard_of(id uuid); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.shard_of(id uuid) TO landed_service;

--
-- Name: TABLE attempts; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.attempts TO landed_service;

--
-- Name: TABLE deliveries; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.deliveries TO landed_service;

--
-- Name: FUNCTION _cancelled_when(d store.deliveries); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._cancelled_when(d store.deliveries) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._cancelled_when(d store.deliveries) TO landed_service;

--
-- Name: TABLE categories; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.categories TO landed_service;

--
-- Name: FUNCTION _category_to_send(tenant_id integer, category text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._category_to_send(tenant_id integer, category text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._category_to_send(tenant_id integer, category text) TO landed_service;

--
-- Name: FUNCTION _channels_to_send(asked text[], usual text[]); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._channels_to_send(asked text[], usual text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._channels_to_send(asked text[], usual text[]) TO landed_service;

--
-- Name: FUNCTION _check_address(channel text, address text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._check_address(channel text, address text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._check_address(channel text, address text) TO landed_service;

--
-- Name: FUNCTION _check_capability(channel text, country text, provable boolean); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._check_capability(channel text, country text, provable boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._check_capability(channel text, country text, provable boolean) TO landed_service;

--
-- Name: FUNCTION _check_line(field text, value text, length_max integer); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._check_line(field text, value text, length_max integer) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._check_line(field text, value text, length_max integer) TO landed_service;

--
-- Name: FUNCTION _check_provider(provider text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._check_provider(provider text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._check_provider(provider text) TO landed_service;

--
-- Name: FUNCTION _check_replay(state text, max_rows integer, commit boolean, reason text, expires_at timestamp with time zone); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._check_replay(state text, max_rows integer, commit boolean, reason text, expires_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._check_replay(state text, max_rows integer, commit boolean, reason text, expires_at timestamp with time zone) TO landed_service;

--
-- Name: FUNCTION _check_scope(tenant_id integer, scope text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._check_scope(tenant_id integer, scope text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._check_scope(tenant_id integer, scope text) TO landed_service;

--
-- Name: FUNCTION _check_times(send_at timestamp with time zone, due timestamp with time zone, expires_at timestamp with time zone); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._check_times(send_at timestamp with time zone, due timestamp with time zone, expires_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._check_times(send_at timestamp with time zone, due timestamp with time zone, expires_at timestamp with time zone) TO landed_service;

--
-- Name: FUNCTION _check_variables(tenant_id integer, template_id text, version integer, channels text[], variables jsonb); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._check_variables(tenant_id integer, template_id text, version integer, channels text[], variables jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._check_variables(tenant_id integer, template_id text, version integer, channels text[], variables jsonb) TO landed_service;

--
-- Name: FUNCTION _check_verdict(verdict text, first_id uuid, original jsonb, request jsonb); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._check_verdict(verdict text, first_id uuid, original jsonb, request jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._check_verdict(verdict text, first_id uuid, original jsonb, request jsonb) TO landed_service;

--
-- Name: FUNCTION _differing_paths(was jsonb, became jsonb, path text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._differing_paths(was jsonb, became jsonb, path text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._differing_paths(was jsonb, became jsonb, path text) TO landed_service;

--
-- Name: FUNCTION fingerprint(request jsonb); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.fingerprint(request jsonb) TO landed_service;

--
-- Name: TABLE idempotency_keys; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.idempotency_keys TO landed_service;

--
-- Name: TABLE notifications; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.notifications TO landed_service;

--
-- Name: FUNCTION _earlier_verdict(tenant_id integer, key text, request jsonb); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._earlier_verdict(tenant_id integer, key text, request jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._earlier_verdict(tenant_id integer, key text, request jsonb) TO landed_service;

--
-- Name: FUNCTION uuid_v7(); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.uuid_v7() TO landed_service;

--
-- Name: TABLE endpoints; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.endpoints TO landed_service;

--
-- Name: FUNCTION _endpoint_candidates(e store.endpoints, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, max_rows integer); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._endpoint_candidates(e store.endpoints, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, max_rows integer) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._endpoint_candidates(e store.endpoints, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, max_rows integer) TO landed_service;

--
-- Name: FUNCTION _endpoint_to_replay(endpoint_id uuid, tenant text, commit boolean); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._endpoint_to_replay(endpoint_id uuid, tenant text, commit boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._endpoint_to_replay(endpoint_id uuid, tenant text, commit boolean) TO landed_service;

--
-- Name: FUNCTION _find_delivery(id uuid, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._find_delivery(id uuid, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._find_delivery(id uuid, tenant text) TO landed_service;

--
-- Name: FUNCTION _find_notification(id uuid, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._find_notification(id uuid, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._find_notification(id uuid, tenant text) TO landed_service;

--
-- Name: FUNCTION _held_until(due_at timestamp with time zone, until timestamp with time zone, expires_at timestamp with time zone); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._held_until(due_at timestamp with time zone, until timestamp with time zone, expires_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._held_until(due_at timestamp with time zone, until timestamp with time zone, expires_at timestamp with time zone) TO landed_service;

--
-- Name: FUNCTION _is_operator(); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._is_operator() FROM PUBLIC;
GRANT ALL ON FUNCTION landed._is_operator() TO landed_service;

--
-- Name: FUNCTION _judge_replay(d store.deliveries, force boolean, OUT verdict text, OUT explanation text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._judge_replay(d store.deliveries, force boolean, OUT verdict text, OUT explanation text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._judge_replay(d store.deliveries, force boolean, OUT verdict text, OUT explanation text) TO landed_service;

--
-- Name: FUNCTION _lock_address(tenant_id integer, channel text, address text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._lock_address(tenant_id integer, channel text, address text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._lock_address(tenant_id integer, channel text, address text) TO landed_service;

--
-- Name: FUNCTION _lock_notification(id uuid, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._lock_notification(id uuid, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._lock_notification(id uuid, tenant text) TO landed_service;

--
-- Name: FUNCTION _need_reason(reason text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._need_reason(reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._need_reason(reason text) TO landed_service;

--
-- Name: FUNCTION _refuse(code text, field text, problem text, detail text, hint text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._refuse(code text, field text, problem text, detail text, hint text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._refuse(code text, field text, problem text, detail text, hint text) TO landed_service;

--
-- Name: FUNCTION _replay_candidates(delivery_id uuid, owner_id integer, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._replay_candidates(delivery_id uuid, owner_id integer, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._replay_candidates(delivery_id uuid, owner_id integer, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer) TO landed_service;

--
-- Name: FUNCTION _replay_one(d store.deliveries, verdict text, reason text, expires_at timestamp with time zone, asked jsonb); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._replay_one(d store.deliveries, verdict text, reason text, expires_at timestamp with time zone, asked jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._replay_one(d store.deliveries, verdict text, reason text, expires_at timestamp with time zone, asked jsonb) TO landed_service;

--
-- Name: FUNCTION _request(recipient_id text, category text, template_id text, template_version integer, channels text[], variables jsonb, send_at timestamp with time zone, expires_at timestamp with time zone); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._request(recipient_id text, category text, template_id text, template_version integer, channels text[], variables jsonb, send_at timestamp with time zone, expires_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._request(recipient_id text, category text, template_id text, template_version integer, channels text[], variables jsonb, send_at timestamp with time zone, expires_at timestamp with time zone) TO landed_service;

--
-- Name: FUNCTION _resolve_not_sent(d store.deliveries, a store.attempts); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._resolve_not_sent(d store.deliveries, a store.attempts) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._resolve_not_sent(d store.deliveries, a store.attempts) TO landed_service;

--
-- Name: FUNCTION _resolve_sent(d store.deliveries, a store.attempts); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._resolve_sent(d store.deliveries, a store.attempts) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._resolve_sent(d store.deliveries, a store.attempts) TO landed_service;

--
-- Name: FUNCTION _surely_not_sent(d store.deliveries); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._surely_not_sent(d store.deliveries) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._surely_not_sent(d store.deliveries) TO landed_service;

--
-- Name: FUNCTION new_id(shard smallint); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.new_id(shard smallint) TO landed_service;

--
-- Name: TABLE events; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT ON TABLE store.events TO landed_service;

--
-- Name: FUNCTION _tell(shard smallint, tenant_id integer, notification_id uuid, delivery_id uuid, kind text, data jsonb); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._tell(shard smallint, tenant_id integer, notification_id uuid, delivery_id uuid, kind text, data jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._tell(shard smallint, tenant_id integer, notification_id uuid, delivery_id uuid, kind text, data jsonb) TO landed_service;

--
-- Name: TABLE control_events; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE ON TABLE store.control_events TO landed_service;

--
-- Name: FUNCTION _tell_provider(event text, provider text, detail text, data jsonb); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._tell_provider(event text, provider text, detail text, data jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._tell_provider(event text, provider text, detail text, data jsonb) TO landed_service;

--
-- Name: FUNCTION _template_to_send(tenant_id integer, template_id text, version integer, channels text[]); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._template_to_send(tenant_id integer, template_id text, version integer, channels text[]) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._template_to_send(tenant_id integer, template_id text, version integer, channels text[]) TO landed_service;

--
-- Name: FUNCTION _tenant(tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._tenant(tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._tenant(tenant text) TO landed_service;

--
-- Name: FUNCTION _tenant_of_sender(tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._tenant_of_sender(tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._tenant_of_sender(tenant text) TO landed_service;

--
-- Name: FUNCTION _uncancellable(d store.deliveries); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._uncancellable(d store.deliveries) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._uncancellable(d store.deliveries) TO landed_service;

--
-- Name: FUNCTION _until_when(due_at timestamp with time zone, expires_at timestamp with time zone); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._until_when(due_at timestamp with time zone, expires_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._until_when(due_at timestamp with time zone, expires_at timestamp with time zone) TO landed_service;

--
-- Name: FUNCTION _validity_max(); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._validity_max() FROM PUBLIC;
GRANT ALL ON FUNCTION landed._validity_max() TO landed_service;

--
-- Name: FUNCTION _validity(tenant_id integer, category text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._validity(tenant_id integer, category text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._validity(tenant_id integer, category text) TO landed_service;

--
-- Name: FUNCTION _why_lane(lane text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._why_lane(lane text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._why_lane(lane text) TO landed_service;

--
-- Name: FUNCTION _why_delivery(d store.deliveries); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._why_delivery(d store.deliveries) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._why_delivery(d store.deliveries) TO landed_service;

--
-- Name: FUNCTION _why_notification(n store.notifications); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed._why_notification(n store.notifications) FROM PUBLIC;
GRANT ALL ON FUNCTION landed._why_notification(n store.notifications) TO landed_service;

--
-- Name: FUNCTION accept(items jsonb, key_ttl interval); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.accept(items jsonb, key_ttl interval) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.accept(items jsonb, key_ttl interval) TO landed_service;

--
-- Name: FUNCTION cancel(notification_id uuid, reason text, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.cancel(notification_id uuid, reason text, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.cancel(notification_id uuid, reason text, tenant text) TO landed_service;
GRANT ALL ON FUNCTION landed.cancel(notification_id uuid, reason text, tenant text) TO landed_operator;

--
-- Name: FUNCTION drain_provider(provider text, reason text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.drain_provider(provider text, reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.drain_provider(provider text, reason text) TO landed_service;
GRANT ALL ON FUNCTION landed.drain_provider(provider text, reason text) TO landed_operator;

--
-- Name: FUNCTION explain(notification_id uuid, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.explain(notification_id uuid, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.explain(notification_id uuid, tenant text) TO landed_service;
GRANT ALL ON FUNCTION landed.explain(notification_id uuid, tenant text) TO landed_operator;

--
-- Name: FUNCTION grant_producer(role name, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.grant_producer(role name, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.grant_producer(role name, tenant text) TO landed_service;

--
-- Name: FUNCTION hold(notification_id uuid, reason text, until timestamp with time zone, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.hold(notification_id uuid, reason text, until timestamp with time zone, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.hold(notification_id uuid, reason text, until timestamp with time zone, tenant text) TO landed_service;
GRANT ALL ON FUNCTION landed.hold(notification_id uuid, reason text, until timestamp with time zone, tenant text) TO landed_operator;

--
-- Name: FUNCTION price(channel text, usd numeric, reason text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.price(channel text, usd numeric, reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.price(channel text, usd numeric, reason text) TO landed_service;
GRANT ALL ON FUNCTION landed.price(channel text, usd numeric, reason text) TO landed_operator;

--
-- Name: FUNCTION release(notification_id uuid, reason text, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.release(notification_id uuid, reason text, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.release(notification_id uuid, reason text, tenant text) TO landed_service;
GRANT ALL ON FUNCTION landed.release(notification_id uuid, reason text, tenant text) TO landed_operator;

--
-- Name: FUNCTION rendered(delivery_id uuid, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.rendered(delivery_id uuid, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.rendered(delivery_id uuid, tenant text) TO landed_service;
GRANT ALL ON FUNCTION landed.rendered(delivery_id uuid, tenant text) TO landed_operator;

--
-- Name: FUNCTION replay(delivery_id uuid, tenant text, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer, commit boolean, force boolean, reason text, expires_at timestamp with time zone); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.replay(delivery_id uuid, tenant text, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer, commit boolean, force boolean, reason text, expires_at timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.replay(delivery_id uuid, tenant text, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer, commit boolean, force boolean, reason text, expires_at timestamp with time zone) TO landed_service;
GRANT ALL ON FUNCTION landed.replay(delivery_id uuid, tenant text, state text, template_id text, category text, provider text, since timestamp with time zone, until timestamp with time zone, max_rows integer, commit boolean, force boolean, reason text, expires_at timestamp with time zone) TO landed_operator;

--
-- Name: FUNCTION replay_endpoint(endpoint_id uuid, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, tenant text, max_rows integer, commit boolean, reason text, valid_for interval); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.replay_endpoint(endpoint_id uuid, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, tenant text, max_rows integer, commit boolean, reason text, valid_for interval) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.replay_endpoint(endpoint_id uuid, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, tenant text, max_rows integer, commit boolean, reason text, valid_for interval) TO landed_operator;
GRANT ALL ON FUNCTION landed.replay_endpoint(endpoint_id uuid, delivery_id uuid, since timestamp with time zone, until timestamp with time zone, arrived boolean, after uuid, tenant text, max_rows integer, commit boolean, reason text, valid_for interval) TO landed_service;

--
-- Name: FUNCTION resolve(delivery_id uuid, verdict text, reason text, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.resolve(delivery_id uuid, verdict text, reason text, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.resolve(delivery_id uuid, verdict text, reason text, tenant text) TO landed_service;
GRANT ALL ON FUNCTION landed.resolve(delivery_id uuid, verdict text, reason text, tenant text) TO landed_operator;

--
-- Name: FUNCTION restore_provider(provider text, reason text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.restore_provider(provider text, reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.restore_provider(provider text, reason text) TO landed_service;
GRANT ALL ON FUNCTION landed.restore_provider(provider text, reason text) TO landed_operator;

--
-- Name: FUNCTION revoke_producer(role name, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.revoke_producer(role name, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.revoke_producer(role name, tenant text) TO landed_service;

--
-- Name: FUNCTION send(tenant text, recipient_id text, template_id text, variables jsonb, category text, idempotency_key text, channels text[], template_version integer, send_at timestamp with time zone, expires_at timestamp with time zone, wake boolean); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.send(tenant text, recipient_id text, template_id text, variables jsonb, category text, idempotency_key text, channels text[], template_version integer, send_at timestamp with time zone, expires_at timestamp with time zone, wake boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.send(tenant text, recipient_id text, template_id text, variables jsonb, category text, idempotency_key text, channels text[], template_version integer, send_at timestamp with time zone, expires_at timestamp with time zone, wake boolean) TO landed_service;
GRANT ALL ON FUNCTION landed.send(tenant text, recipient_id text, template_id text, variables jsonb, category text, idempotency_key text, channels text[], template_version integer, send_at timestamp with time zone, expires_at timestamp with time zone, wake boolean) TO landed_producer;

--
-- Name: FUNCTION set_route_capability(provider text, channel text, country text, provable boolean, reason text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.set_route_capability(provider text, channel text, country text, provable boolean, reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.set_route_capability(provider text, channel text, country text, provable boolean, reason text) TO landed_service;
GRANT ALL ON FUNCTION landed.set_route_capability(provider text, channel text, country text, provable boolean, reason text) TO landed_operator;

--
-- Name: FUNCTION suppress(tenant text, channel text, address text, reason_text text, scope text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.suppress(tenant text, channel text, address text, reason_text text, scope text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.suppress(tenant text, channel text, address text, reason_text text, scope text) TO landed_service;
GRANT ALL ON FUNCTION landed.suppress(tenant text, channel text, address text, reason_text text, scope text) TO landed_operator;

--
-- Name: FUNCTION timeline(notification_id uuid, tenant text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.timeline(notification_id uuid, tenant text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.timeline(notification_id uuid, tenant text) TO landed_service;
GRANT ALL ON FUNCTION landed.timeline(notification_id uuid, tenant text) TO landed_operator;

--
-- Name: FUNCTION unsuppress(tenant text, channel text, address text, reason_text text, scope text); Type: ACL; Schema: landed; Owner: -
--

REVOKE ALL ON FUNCTION landed.unsuppress(tenant text, channel text, address text, reason_text text, scope text) FROM PUBLIC;
GRANT ALL ON FUNCTION landed.unsuppress(tenant text, channel text, address text, reason_text text, scope text) TO landed_service;
GRANT ALL ON FUNCTION landed.unsuppress(tenant text, channel text, address text, reason_text text, scope text) TO landed_operator;

--
-- Name: FUNCTION id_floor(at timestamp with time zone); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.id_floor(at timestamp with time zone) TO landed_service;

--
-- Name: FUNCTION normalise_address(channel text, address text); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.normalise_address(channel text, address text) TO landed_service;

--
-- Name: FUNCTION address_bucket(tenant_id integer, channel text, address text); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.address_bucket(tenant_id integer, channel text, address text) TO landed_service;

--
-- Name: FUNCTION check_delivered(); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.check_delivered() TO landed_service;

--
-- Name: FUNCTION children_from(parent uuid); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.children_from(parent uuid) TO landed_service;

--
-- Name: FUNCTION children_to(parent uuid); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.children_to(parent uuid) TO landed_service;

--
-- Name: FUNCTION ensure_partitions(first_day date, last_day date); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.ensure_partitions(first_day date, last_day date) TO landed_service;

--
-- Name: FUNCTION id_time(id uuid); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.id_time(id uuid) TO landed_service;

--
-- Name: FUNCTION inherit_opt_outs(); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.inherit_opt_outs() TO landed_service;

--
-- Name: FUNCTION keep_epoch_growing(); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.keep_epoch_growing() TO landed_service;

--
-- Name: FUNCTION keep_template_immutable(); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.keep_template_immutable() TO landed_service;

--
-- Name: FUNCTION new_child_id(parent uuid); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.new_child_id(parent uuid) TO landed_service;

--
-- Name: FUNCTION notify_config(); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.notify_config() TO landed_service;

--
-- Name: FUNCTION past_partitions(through_day date, dead_letter_retention interval); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.past_partitions(through_day date, dead_letter_retention interval) TO landed_service;

--
-- Name: FUNCTION refuse_change(); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.refuse_change() TO landed_service;

--
-- Name: FUNCTION shard_for(tenant_id integer, recipient_id text); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.shard_for(tenant_id integer, recipient_id text) TO landed_service;

--
-- Name: FUNCTION take_slots(slots timestamp with time zone[], not_before timestamp with time zone[], per_hour integer); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.take_slots(slots timestamp with time zone[], not_before timestamp with time zone[], per_hour integer) TO landed_service;

--
-- Name: FUNCTION take_slots(slots timestamp with time zone[], n integer, per_hour integer); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.take_slots(slots timestamp with time zone[], n integer, per_hour integer) TO landed_service;

--
-- Name: FUNCTION take_tokens(bucket text, wanted integer, rate double precision, burst double precision, OUT granted integer, OUT retry_after_seconds double precision); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.take_tokens(bucket text, wanted integer, rate double precision, burst double precision, OUT granted integer, OUT retry_after_seconds double precision) TO landed_service;

--
-- Name: FUNCTION tell_status(); Type: ACL; Schema: store; Owner: -
--

GRANT ALL ON FUNCTION store.tell_status() TO landed_service;

--
-- Name: TABLE tenants; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.tenants TO landed_service;

--
-- Name: TABLE attempts; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.attempts TO landed_service;
GRANT SELECT ON TABLE reporting.attempts TO landed_operator;
GRANT SELECT ON TABLE reporting.attempts TO landed_reporter;

--
-- Name: TABLE bounce_rate_by_domain; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.bounce_rate_by_domain TO landed_service;
GRANT SELECT ON TABLE reporting.bounce_rate_by_domain TO landed_operator;
GRANT SELECT ON TABLE reporting.bounce_rate_by_domain TO landed_reporter;

--
-- Name: TABLE control_events; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.control_events TO landed_service;
GRANT SELECT ON TABLE reporting.control_events TO landed_operator;
GRANT SELECT ON TABLE reporting.control_events TO landed_reporter;

--
-- Name: TABLE channel_costs; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.channel_costs TO landed_service;

--
-- Name: TABLE costs; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.costs TO landed_service;
GRANT SELECT ON TABLE reporting.costs TO landed_operator;
GRANT SELECT ON TABLE reporting.costs TO landed_reporter;

--
-- Name: TABLE dead_letter_depth; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.dead_letter_depth TO landed_service;
GRANT SELECT ON TABLE reporting.dead_letter_depth TO landed_operator;
GRANT SELECT ON TABLE reporting.dead_letter_depth TO landed_reporter;

--
-- Name: TABLE dead_letters; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.dead_letters TO landed_service;
GRANT SELECT ON TABLE reporting.dead_letters TO landed_operator;
GRANT SELECT ON TABLE reporting.dead_letters TO landed_reporter;

--
-- Name: TABLE deliveries; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.deliveries TO landed_service;
GRANT SELECT ON TABLE reporting.deliveries TO landed_operator;
GRANT SELECT ON TABLE reporting.deliveries TO landed_reporter;

--
-- Name: TABLE route_capabilities; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.route_capabilities TO landed_service;

--
-- Name: TABLE delivery_rates; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.delivery_rates TO landed_service;
GRANT SELECT ON TABLE reporting.delivery_rates TO landed_operator;
GRANT SELECT ON TABLE reporting.delivery_rates TO landed_reporter;

--
-- Name: TABLE endpoints; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.endpoints TO landed_service;
GRANT SELECT ON TABLE reporting.endpoints TO landed_operator;
GRANT SELECT ON TABLE reporting.endpoints TO landed_reporter;

--
-- Name: TABLE lanes; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.lanes TO landed_service;

--
-- Name: TABLE provider_outcomes; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.provider_outcomes TO landed_service;

--
-- Name: TABLE provider_rates; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.provider_rates TO landed_service;

--
-- Name: TABLE provider_states; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.provider_states TO landed_service;

--
-- Name: TABLE providers; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.providers TO landed_service;
GRANT SELECT ON TABLE reporting.providers TO landed_operator;
GRANT SELECT ON TABLE reporting.providers TO landed_reporter;

--
-- Name: TABLE load_shedding; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.load_shedding TO landed_service;

--
-- Name: TABLE regions; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.regions TO landed_service;

--
-- Name: TABLE workers; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.workers TO landed_service;

--
-- Name: TABLE lanes; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.lanes TO landed_service;
GRANT SELECT ON TABLE reporting.lanes TO landed_operator;
GRANT SELECT ON TABLE reporting.lanes TO landed_reporter;

--
-- Name: TABLE load_shedding; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.load_shedding TO landed_service;
GRANT SELECT ON TABLE reporting.load_shedding TO landed_operator;
GRANT SELECT ON TABLE reporting.load_shedding TO landed_reporter;

--
-- Name: TABLE provider_errors; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.provider_errors TO landed_service;
GRANT SELECT ON TABLE reporting.provider_errors TO landed_operator;
GRANT SELECT ON TABLE reporting.provider_errors TO landed_reporter;

--
-- Name: TABLE api_key_limits; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.api_key_limits TO landed_service;

--
-- Name: TABLE api_keys; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.api_keys TO landed_service;

--
-- Name: TABLE limit_hits; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.limit_hits TO landed_service;

--
-- Name: TABLE rate_limit_hits; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.rate_limit_hits TO landed_service;
GRANT SELECT ON TABLE reporting.rate_limit_hits TO landed_operator;
GRANT SELECT ON TABLE reporting.rate_limit_hits TO landed_reporter;

--
-- Name: TABLE route_capabilities; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.route_capabilities TO landed_service;
GRANT SELECT ON TABLE reporting.route_capabilities TO landed_operator;
GRANT SELECT ON TABLE reporting.route_capabilities TO landed_reporter;

--
-- Name: TABLE inbound_events; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.inbound_events TO landed_service;

--
-- Name: TABLE status_events; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.status_events TO landed_service;

--
-- Name: TABLE stuck; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.stuck TO landed_service;
GRANT SELECT ON TABLE reporting.stuck TO landed_operator;
GRANT SELECT ON TABLE reporting.stuck TO landed_reporter;

--
-- Name: TABLE suppressions; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.suppressions TO landed_service;

--
-- Name: TABLE suppressions; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.suppressions TO landed_service;
GRANT SELECT ON TABLE reporting.suppressions TO landed_operator;
GRANT SELECT ON TABLE reporting.suppressions TO landed_reporter;

--
-- Name: TABLE timeline; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.timeline TO landed_service;
GRANT SELECT ON TABLE reporting.timeline TO landed_operator;
GRANT SELECT ON TABLE reporting.timeline TO landed_reporter;

--
-- Name: TABLE unconfirmed; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.unconfirmed TO landed_service;
GRANT SELECT ON TABLE reporting.unconfirmed TO landed_operator;
GRANT SELECT ON TABLE reporting.unconfirmed TO landed_reporter;

--
-- Name: TABLE waiting; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.waiting TO landed_service;
GRANT SELECT ON TABLE reporting.waiting TO landed_operator;
GRANT SELECT ON TABLE reporting.waiting TO landed_reporter;

--
-- Name: TABLE webhook_refusals; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.webhook_refusals TO landed_service;

--
-- Name: TABLE webhook_refusals; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.webhook_refusals TO landed_service;
GRANT SELECT ON TABLE reporting.webhook_refusals TO landed_operator;
GRANT SELECT ON TABLE reporting.webhook_refusals TO landed_reporter;

--
-- Name: TABLE workers; Type: ACL; Schema: reporting; Owner: -
--

GRANT SELECT ON TABLE reporting.workers TO landed_service;
GRANT SELECT ON TABLE reporting.workers TO landed_operator;
GRANT SELECT ON TABLE reporting.workers TO landed_reporter;

--
-- Name: TABLE alembic_version; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.alembic_version TO landed_service;

--
-- Name: TABLE consents; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT ON TABLE store.consents TO landed_service;

--
-- Name: TABLE devices; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.devices TO landed_service;

--
-- Name: TABLE inbox_items; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.inbox_items TO landed_service;

--
-- Name: TABLE inboxes; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.inboxes TO landed_service;

--
-- Name: TABLE producers; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.producers TO landed_service;

--
-- Name: TABLE push_environments; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.push_environments TO landed_service;

--
-- Name: TABLE rate_buckets; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.rate_buckets TO landed_service;

--
-- Name: TABLE recipient_signing_secrets; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.recipient_signing_secrets TO landed_service;

--
-- Name: TABLE recipient_windows; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.recipient_windows TO landed_service;

--
-- Name: TABLE recipients; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.recipients TO landed_service;

--
-- Name: TABLE soft_bounces; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.soft_bounces TO landed_service;

--
-- Name: TABLE template_rates; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.template_rates TO landed_service;

--
-- Name: TABLE templates; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.templates TO landed_service;

--
-- Name: TABLE webhook_tokens; Type: ACL; Schema: store; Owner: -
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE store.webhook_tokens TO landed_service;

--
-- PostgreSQL database dump complete
--
