-- The tables, private to the service (DESIGN, section 7). What must never be wrong is a constraint here, not a
-- habit in the code: I3, I4, I9, I10, I16, I17.
--
-- Hot tables (notifications, deliveries, attempts, events, inbound_events) carry no foreign keys: each would take a
-- row lock on its tenant for every send, and they are dropped by the day, never deleted from.

CREATE SCHEMA IF NOT EXISTS store;

-- Roles -------------------------------------------------------------------------------------------------------------

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['landed_service', 'landed_producer', 'landed_operator', 'landed_reporter'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- roles belong to the cluster; another database of it was migrated before
        END;
    END LOOP;
END
$$;

-- Ids ---------------------------------------------------------------------------------------------------------------

-- UUIDv7 is built in from PostgreSQL 18; before, the same layout is put together here (RFC 9562, section 5.7), with the
-- microseconds in the bits after the milliseconds as 18 has them (6.2, method 3): facts of one statement keep their order.
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 180000 THEN
        CREATE FUNCTION store.uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS 'SELECT uuidv7()';
    ELSE
        CREATE FUNCTION store.uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $f$
            SELECT encode(set_byte(set_byte(stamped, 6, 112 | (fraction >> 8)), 7, fraction & 255), 'hex')::uuid
            FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS micros) AS clock
            CROSS JOIN LATERAL (
                SELECT ((micros % 1000) * 4096 / 1000)::int AS fraction,
                       overlay(uuid_send(gen_random_uuid()) PLACING substring(int8send(micros / 1000) FROM 3)
                               FROM 1 FOR 6) AS stamped
            ) AS parts
        $f$;
    END IF;
END
$$;

CREATE FUNCTION store.new_id(shard smallint) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN encode(set_byte(uuid_send(store.uuid_v7()), 15, shard), 'hex')::uuid;
COMMENT ON FUNCTION store.new_id IS 'A UUIDv7 whose last byte is the shard, so that an id knows where its row is';

-- A delivery's id begins with its notification's time, so a notification, its deliveries, attempts and events all lie in
-- the partitions of one day: they are found through their primary keys and dropped together.
CREATE FUNCTION store.new_child_id(parent uuid) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN encode(overlay(set_byte(uuid_send(store.uuid_v7()), 15, get_byte(uuid_send(parent), 15))
                      PLACING substring(uuid_send(parent) FROM 1 FOR 6) FROM 1 FOR 6), 'hex')::uuid;

CREATE FUNCTION store.children_from(parent uuid) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (left(replace(parent::text, '-', ''), 12) || '00000000000000000000')::uuid;

CREATE FUNCTION store.children_to(parent uuid) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (left(replace(parent::text, '-', ''), 12) || 'ffffffffffffffffffff')::uuid;
COMMENT ON FUNCTION store.children_to IS 'With children_from: the bounds between which the ids of a notification''s deliveries lie';

CREATE FUNCTION store.shard_for(tenant_id int, recipient_id text) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (hashtextextended(recipient_id, tenant_id) & 63)::smallint;

CREATE FUNCTION store.shard_of(id uuid) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN get_byte(uuid_send(id), 15)::smallint;

CREATE FUNCTION store.id_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;
COMMENT ON FUNCTION store.id_floor IS 'The smallest id that could have been made at this time: a bound for pruning partitions';

CREATE FUNCTION store.id_time(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0);

-- Tenants and what they set up -----------------------------------------------------------------------------------------

CREATE TABLE store.tenants (
    id          int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    sender      text NOT NULL CHECK (sender !~ '[\r\n]'),
    reply_to    text CHECK (reply_to !~ '[\r\n]'),
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN store.tenants.sender IS 'Default From of its email; a category may set its own (R-117)';

CREATE TABLE store.api_keys (
    id          int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    name        text NOT NULL,
    prefix      text NOT NULL,
    hash        bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    scopes      text[] NOT NULL CHECK (scopes <@ ARRAY['send', 'read', 'admin'] AND cardinality(scopes) > 0),
    rate_per_second int NOT NULL DEFAULT 1000 CHECK (rate_per_second > 0),
    burst       int NOT NULL DEFAULT 2000 CHECK (burst >= rate_per_second),
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);
COMMENT ON COLUMN store.api_keys.hash IS 'SHA-256 of the whole key; a key is 256 random bits, so a slow hash would add nothing';

-- Which database role may send for which tenant through landed.send (R-197).
CREATE TABLE store.producers (
    role_name   name NOT NULL,
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    PRIMARY KEY (role_name, tenant_id)
);

CREATE TABLE store.recipients (
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    id          text NOT NULL CHECK (length(id) BETWEEN 1 AND 200),
    email       text CHECK (email !~ '[\r\n]'),
    phone       text CHECK (phone !~ '[\r\n]'),
    locale      text,
    time_zone   text,
    active      boolean NOT NULL DEFAULT true,
    attributes  jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(attributes) = 'object'),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE store.categories (
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    name        text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_.-]{0,99}$'),
    class       text NOT NULL CHECK (class IN ('transactional', 'promotional', 'alert')),
    channels    text[] NOT NULL DEFAULT ARRAY['email']
                CHECK (channels <@ ARRAY['email', 'push', 'sms', 'in_app', 'webhook'] AND cardinality(channels) > 0),
    sender      text CHECK (sender !~ '[\r\n]'),
    reply_to    text CHECK (reply_to !~ '[\r\n]'),
    ambiguity_policy text NOT NULL DEFAULT 'resend_if_absent'
                CHECK (ambiguity_policy IN ('park', 'resend_if_absent', 'at_least_once')),
    validity_seconds int CHECK (validity_seconds > 0),
    track_opens boolean NOT NULL DEFAULT false,
    track_clicks boolean NOT NULL DEFAULT false,
    test_mode   boolean NOT NULL DEFAULT false,
    description text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name)
);
COMMENT ON COLUMN store.categories.ambiguity_policy IS
    'What an unknown outcome may come to (I5). park: only positive evidence settles it. resend_if_absent: a lookup that '
    'proves absence allows a new attempt. at_least_once: when no evidence can settle it, send again';
COMMENT ON COLUMN store.categories.validity_seconds IS 'How long after it is due a notification is still worth sending';

CREATE TABLE store.templates (
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    template_id text NOT NULL CHECK (template_id ~ '^[a-z0-9][a-z0-9_.-]{0,99}$'),
    version     int NOT NULL CHECK (version > 0),
    channel     text NOT NULL DEFAULT 'email' CHECK (channel IN ('email', 'push', 'sms', 'in_app', 'webhook')),
    locale      text NOT NULL DEFAULT '',
    subject     text,
    html        text,
    text        text,
    text_derived boolean NOT NULL DEFAULT false,
    variables   jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(variables) = 'object'),
    description text NOT NULL DEFAULT '',
    status      text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'published', 'archived')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    archived_at timestamptz,
    PRIMARY KEY (tenant_id, template_id, version, channel, locale),
    CHECK (channel <> 'email' OR (subject IS NOT NULL AND text IS NOT NULL)),  -- always multipart or text (R-122)
    CHECK (status <> 'published' OR published_at IS NOT NULL),
    CHECK ((status = 'archived') = (archived_at IS NOT NULL))
);

-- A version never changes once it is written (R-146); only its status moves, and only forward.
CREATE FUNCTION store.keep_template_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.status <> 'draft' AND EXISTS (SELECT FROM store.tenants t WHERE t.id = OLD.tenant_id) THEN
            RAISE EXCEPTION 'template % version % was published: archive it instead', OLD.template_id, OLD.version
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN OLD;
    END IF;
    IF (NEW.tenant_id, NEW.template_id, NEW.version, NEW.channel, NEW.locale, NEW.subject, NEW.html, NEW.text,
        NEW.text_derived, NEW.variables, NEW.created_at)
       IS DISTINCT FROM
       (OLD.tenant_id, OLD.template_id, OLD.version, OLD.channel, OLD.locale, OLD.subject, OLD.html, OLD.text,
        OLD.text_derived, OLD.variables, OLD.created_at) THEN
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
CREATE TRIGGER templates_immutable BEFORE UPDATE OR DELETE ON store.templates
    FOR EACH ROW EXECUTE FUNCTION store.keep_template_immutable();

-- The API and the workers cache what rarely changes; this tells them to look again. A lost hint is harmless:
-- the caches also expire.
CREATE FUNCTION store.notify_config() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('landed_config', TG_TABLE_NAME);
    RETURN NULL;
END
$$;
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE ON store.tenants
    FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config();
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE ON store.api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config();
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE ON store.categories
    FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config();
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE ON store.templates
    FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config();

-- Addresses that must not be sent to (I11) -----------------------------------------------------------------------------

CREATE FUNCTION store.normalise_address(channel text, address text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE channel WHEN 'email' THEN lower(btrim(address)) ELSE btrim(address) END;

CREATE TABLE store.suppressions (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    channel     text NOT NULL,
    address     text NOT NULL,
    scope       text NOT NULL DEFAULT 'all',
    reason      text NOT NULL CHECK (reason IN ('hard_bounce', 'soft_bounces', 'complaint', 'unsubscribe',
                                                'provider_suppressed', 'manual')),
    detail      text NOT NULL DEFAULT '',
    source      text NOT NULL CHECK (source IN ('provider', 'recipient', 'operator', 'api')),
    delivery_id uuid,
    created_at  timestamptz NOT NULL DEFAULT now(),
    lifted_at   timestamptz,
    lifted_by   text,
    lift_reason text,
    CHECK (address = store.normalise_address(channel, address) AND address <> ''),
    CHECK ((lifted_at IS NULL) = (lift_reason IS NULL))
);
COMMENT ON COLUMN store.suppressions.scope IS 'all, or the one category it covers';
CREATE UNIQUE INDEX suppressions_active ON store.suppressions (tenant_id, channel, address, scope)
    WHERE lifted_at IS NULL;
CREATE INDEX suppressions_listed ON store.suppressions (tenant_id, id DESC);

-- Opt-outs and claims meet on the address: the opt-out holds it exclusively, a claim shares it (I11). The lock space is
-- folded into 1,024 buckets so that a batch of claims can never fill the server's lock table; a collision only makes
-- an opt-out wait for one short transaction more. Buckets are always taken in ascending order.
CREATE FUNCTION store.address_bucket(tenant_id int, channel text, address text) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (hashtextextended(channel || ':' || store.normalise_address(channel, address), tenant_id) & 1023)::int;

-- Consecutive soft bounces of an address; a success deletes the row (R-113, R-114).
CREATE TABLE store.soft_bounces (
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    channel     text NOT NULL,
    address     text NOT NULL,
    bounces     int NOT NULL DEFAULT 1 CHECK (bounces > 0),
    first_at    timestamptz NOT NULL,
    last_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, channel, address)
);

-- Accepting -------------------------------------------------------------------------------------------------------------

-- Not partitioned: a key on a partitioned table would have to contain the partition key, and dedupe nothing (I15).
CREATE TABLE store.idempotency_keys (
    tenant_id   int NOT NULL,
    key         text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint bytea NOT NULL,
    notification_id uuid NOT NULL,
    response_status smallint NOT NULL,
    response    text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key),
    CHECK (expires_at > created_at)
);
CREATE INDEX idempotency_keys_expiry ON store.idempotency_keys (expires_at);

-- jsonb prints its keys in one order and without white space: the same text for the same document.
CREATE FUNCTION store.fingerprint(request jsonb) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN sha256(convert_to(request::text, 'UTF8'));

CREATE TABLE store.notifications (
    shard       smallint NOT NULL,
    id          uuid NOT NULL,
    tenant_id   int NOT NULL,
    recipient_id text NOT NULL,
    category    text NOT NULL,
    class       text NOT NULL CHECK (class IN ('transactional', 'promotional', 'alert')),
    channels    text[] NOT NULL CHECK (cardinality(channels) > 0),
    template_id text NOT NULL,
    template_version int NOT NULL,
    request     jsonb NOT NULL,
    idempotency_key text,
    source      text NOT NULL CHECK (source IN ('api', 'sql')),
    state       text NOT NULL DEFAULT 'accepted' CHECK (state IN ('accepted', 'planned', 'cancelled', 'expired')),
    reason      text,
    due_at      timestamptz,
    expires_at  timestamptz NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    planned_at  timestamptz,
    trace       jsonb,
    PRIMARY KEY (shard, id),
    CHECK (shard = store.shard_of(id)),
    CONSTRAINT notifications_never_dropped CHECK ((state = 'accepted') = (due_at IS NOT NULL)),          -- I9
    CONSTRAINT notifications_end_named CHECK (state IN ('accepted', 'planned') OR reason IS NOT NULL),   -- I9
    CONSTRAINT notifications_planned_explained CHECK ((state = 'planned') = (planned_at IS NOT NULL)
                                                      AND (state <> 'planned' OR trace IS NOT NULL))
) PARTITION BY RANGE (id);
COMMENT ON COLUMN store.notifications.request IS 'What the producer asked, as it asked, less its idempotency key';
-- Class first: a campaign waiting for intake never delays a password reset.
CREATE INDEX notifications_due ON store.notifications (class, due_at) WHERE state = 'accepted';

-- Delivering ------------------------------------------------------------------------------------------------------------

CREATE TABLE store.deliveries (
    shard       smallint NOT NULL,
    id          uuid NOT NULL,
    notification_id uuid NOT NULL,
    tenant_id   int NOT NULL,
    recipient_id text NOT NULL,
    category    text NOT NULL,
    class       text NOT NULL,
    channel     text NOT NULL,
    lane        text NOT NULL,
    address     text NOT NULL,
    sender      text,
    reply_to    text,
    template_id text NOT NULL,
    template_version int NOT NULL,
    state       text NOT NULL CHECK (state IN ('queued', 'sending', 'sent', 'ambiguous', 'delivered', 'bounced', 'failed',
                                               'unconfirmed', 'suppressed', 'cancelled', 'expired', 'dead')),
    reason      text,
    due_at      timestamptz,
    lease_owner uuid,
    attempt_no  smallint NOT NULL DEFAULT 0,
    failures    smallint NOT NULL DEFAULT 0,
    lookups     smallint NOT NULL DEFAULT 0,
    provider    text,
    provider_message_id text,
    evidence_id uuid,
    replay_of   uuid,
    expires_at  timestamptz NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    sent_at     timestamptz,
    delivered_at timestamptz,
    bounced_at  timestamptz,
    opened_at   timestamptz,
    clicked_at  timestamptz,
    complained_at timestamptz,
    unsubscribed_at timestamptz,
    ended_at    timestamptz,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, id),
    CHECK (shard = store.shard_of(id)),
    -- I9: a live row says when something is next done to it, a finished one why it ended.
    CONSTRAINT deliveries_never_dropped CHECK (
        (state IN ('queued', 'sending', 'sent', 'ambiguous')) = (due_at IS NOT NULL)),
    CONSTRAINT deliveries_end_named CHECK (
        (state IN ('queued', 'sending', 'sent', 'ambiguous')) = (ended_at IS NULL)
        AND (ended_at IS NULL OR reason IS NOT NULL)),
    CONSTRAINT deliveries_leased CHECK ((state = 'sending') = (lease_owner IS NOT NULL)),
    CONSTRAINT deliveries_proven CHECK (
        state <> 'delivered' OR (evidence_id IS NOT NULL AND delivered_at IS NOT NULL)),               -- I10
    CONSTRAINT deliveries_ambiguous_attempted CHECK (state NOT IN ('sending', 'sent', 'ambiguous') OR attempt_no > 0)
) PARTITION BY RANGE (id);
COMMENT ON COLUMN store.deliveries.due_at IS
    'When something must next be done to this row: send it, reclaim its lease, look it up, resolve it';
COMMENT ON COLUMN store.deliveries.failures IS 'Retry budget spent; rate limits, outages of ours and releases cost nothing (R-092)';
COMMENT ON COLUMN store.deliveries.lane IS 'channel.class.route: the unit of isolation';

-- Two, because a claim reads first attempts and retries each from the front of its own queue, whatever their numbers.
CREATE INDEX deliveries_due_first ON store.deliveries (lane, due_at) WHERE state = 'queued' AND failures = 0;
CREATE INDEX deliveries_due_retry ON store.deliveries (lane, due_at) WHERE state = 'queued' AND failures > 0;
CREATE INDEX deliveries_followed ON store.deliveries (due_at) WHERE state IN ('sending', 'sent', 'ambiguous');
CREATE INDEX deliveries_recipient ON store.deliveries (tenant_id, recipient_id, id);
CREATE INDEX deliveries_needing_people ON store.deliveries (tenant_id, ended_at) WHERE state IN ('dead', 'unconfirmed');

CREATE TABLE store.attempts (
    shard       smallint NOT NULL,
    delivery_id uuid NOT NULL,
    no          smallint NOT NULL CHECK (no > 0),
    tenant_id   int NOT NULL,
    epoch       bigint NOT NULL,
    region      text NOT NULL,
    provider    text NOT NULL,
    worker_id   uuid NOT NULL,
    state       text NOT NULL DEFAULT 'open'
                CHECK (state IN ('open', 'ambiguous', 'accepted', 'refused', 'not_sent', 'duplicate')),
    outcome     text,
    status_code smallint,
    detail      text,
    provider_message_id text,
    content_hash bytea,
    opened_at   timestamptz NOT NULL DEFAULT now(),
    closed_at   timestamptz,
    PRIMARY KEY (shard, delivery_id, no),
    CONSTRAINT attempts_settled CHECK ((state IN ('open', 'ambiguous')) = (closed_at IS NULL)),
    CONSTRAINT attempts_classified CHECK ((state = 'open') = (outcome IS NULL))
) PARTITION BY RANGE (delivery_id);
COMMENT ON TABLE store.attempts IS 'One row per provider call, committed before the call (I1)';
COMMENT ON COLUMN store.attempts.state IS
    'open: may be under way. ambiguous: its outcome is unknown. accepted: the provider has it. refused: the provider said '
    'no. not_sent: shown never to have been accepted. duplicate: accepted although another attempt was: the alarm that '
    'must never sound';

CREATE UNIQUE INDEX attempts_one_open ON store.attempts (shard, delivery_id) WHERE state IN ('open', 'ambiguous'); -- I3
CREATE UNIQUE INDEX attempts_one_accepted ON store.attempts (shard, delivery_id) WHERE state = 'accepted';         -- I4
CREATE INDEX attempts_message ON store.attempts (provider, provider_message_id) WHERE provider_message_id IS NOT NULL;

CREATE TABLE store.events (
    shard       smallint NOT NULL,
    id          uuid NOT NULL,
    tenant_id   int NOT NULL,
    notification_id uuid NOT NULL,
    delivery_id uuid,
    attempt_no  smallint,
    kind        text NOT NULL,
    source      text NOT NULL CHECK (source IN ('landed', 'provider', 'lookup', 'device', 'operator')),
    occurred_at timestamptz NOT NULL DEFAULT now(),
    recorded_at timestamptz NOT NULL DEFAULT now(),
    data        jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (shard, notification_id, id)
) PARTITION BY RANGE (notification_id);
COMMENT ON TABLE store.events IS
    'Facts, appended and never changed. The birth of a notification, a delivery or an attempt is its own row; what '
    'happens to it afterwards is an event. reporting.timeline shows both';

CREATE FUNCTION store.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'store.% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE ON store.events
    FOR EACH ROW EXECUTE FUNCTION store.refuse_change();                                                           -- I17

-- I10: a delivery is delivered only with evidence from outside that speaks of this very delivery.
CREATE FUNCTION store.check_delivered() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER deliveries_proven BEFORE UPDATE OF state, evidence_id ON store.deliveries
    FOR EACH ROW WHEN (NEW.state = 'delivered') EXECUTE FUNCTION store.check_delivered();
CREATE TRIGGER deliveries_proven_at_birth BEFORE INSERT ON store.deliveries
    FOR EACH ROW WHEN (NEW.state = 'delivered') EXECUTE FUNCTION store.check_delivered();

-- What providers tell us ------------------------------------------------------------------------------------------------

CREATE TABLE store.inbound_events (
    occurred_on date NOT NULL,
    provider    text NOT NULL,
    event_key   text NOT NULL,
    source      text NOT NULL CHECK (source IN ('provider', 'lookup')),
    kind        text NOT NULL,
    evidence    jsonb NOT NULL,
    raw         bytea NOT NULL,
    provider_message_id text,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'parked', 'applied', 'unmatched')),
    reason      text,
    due_at      timestamptz DEFAULT now(),
    delivery_id uuid,
    received_at timestamptz NOT NULL DEFAULT now(),
    applied_at  timestamptz,
    PRIMARY KEY (occurred_on, provider, event_key),                                                                -- I16
    CONSTRAINT inbound_events_never_dropped CHECK ((state IN ('pending', 'parked')) = (due_at IS NOT NULL)),
    CONSTRAINT inbound_events_end_named CHECK (state <> 'unmatched' OR reason IS NOT NULL)
) PARTITION BY RANGE (occurred_on);
COMMENT ON COLUMN store.inbound_events.occurred_on IS
    'The provider''s day of the event: part of its natural key, so a redelivery meets the same partition';
CREATE INDEX inbound_events_due ON store.inbound_events (due_at) WHERE state IN ('pending', 'parked');
CREATE INDEX inbound_events_parked ON store.inbound_events (provider_message_id) WHERE state = 'parked';

-- A signature covers only its token, not the body: a token seen before may carry only the event it came with.
CREATE TABLE store.webhook_tokens (
    provider    text NOT NULL,
    token       text NOT NULL,
    event_key   text NOT NULL,
    seen_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, token)
);
CREATE INDEX webhook_tokens_age ON store.webhook_tokens (seen_at);

CREATE TABLE store.webhook_refusals (
    provider    text NOT NULL,
    reason      text NOT NULL,
    day         date NOT NULL DEFAULT current_date,
    refusals    bigint NOT NULL DEFAULT 1,
    last_at     timestamptz NOT NULL DEFAULT now(),
    last_detail text NOT NULL DEFAULT '',
    PRIMARY KEY (provider, reason, day)
);

-- Who may send, who is alive, who is told to wait -----------------------------------------------------------------------

CREATE TABLE store.regions (
    name        text PRIMARY KEY,
    active      boolean NOT NULL DEFAULT false,
    epoch       bigint NOT NULL DEFAULT 1 CHECK (epoch > 0),
    mode        text NOT NULL DEFAULT 'solo' CHECK (mode IN ('sync', 'solo', 'tainted')),
    promoted_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX regions_one_active ON store.regions (active) WHERE active;
INSERT INTO store.regions (name, active) VALUES ('local', true);

-- I2: an epoch is a fencing token; it never goes back.
CREATE FUNCTION store.keep_epoch_growing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.epoch < OLD.epoch THEN
        RAISE EXCEPTION 'epoch of region % cannot go from % back to %', OLD.name, OLD.epoch, NEW.epoch
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER regions_epoch_grows BEFORE UPDATE ON store.regions
    FOR EACH ROW EXECUTE FUNCTION store.keep_epoch_growing();

CREATE TABLE store.workers (
    id          uuid PRIMARY KEY,
    region      text NOT NULL,
    host        text NOT NULL,
    pid         int NOT NULL,
    lanes       text[] NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    stopped_at  timestamptz
);

CREATE TABLE store.provider_states (
    provider    text PRIMARY KEY,
    status      text NOT NULL CHECK (status IN ('ok', 'rate_limited', 'unauthorized')),
    detail      text NOT NULL DEFAULT '',
    paused_until timestamptz,
    since       timestamptz NOT NULL DEFAULT now(),
    hits        bigint NOT NULL DEFAULT 0
);
COMMENT ON COLUMN store.provider_states.paused_until IS 'No claim goes to this provider before; set by Retry-After and by refused credentials';

CREATE TABLE store.rate_buckets (
    name        text PRIMARY KEY,
    tokens      double precision NOT NULL CHECK (tokens >= 0),
    refilled_at timestamptz NOT NULL DEFAULT now()
);

-- Takes up to wanted tokens from a bucket that refills at rate a second up to burst; answers how many were there and,
-- when none, how long until one is. Callers lease many at a time, so that it is no round trip per request.
CREATE FUNCTION store.take_tokens(bucket text, wanted int, rate double precision, burst double precision,
                                  OUT granted int, OUT retry_after_seconds double precision)
LANGUAGE plpgsql VOLATILE AS $$
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

CREATE TABLE store.audit_log (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    actor       text NOT NULL DEFAULT session_user,
    action      text NOT NULL,
    tenant_id   int,
    target      text NOT NULL,
    reason      text NOT NULL,
    data        jsonb NOT NULL DEFAULT '{}'
);
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON store.audit_log
    FOR EACH ROW EXECUTE FUNCTION store.refuse_change();

-- Partitions ------------------------------------------------------------------------------------------------------------

-- One partition a day, made ahead by upkeep and at start-up; there is no DEFAULT partition, which would hide a missing
-- one and later forbid making it. fillfactor leaves room on the page, because every row is updated a few times soon.
CREATE FUNCTION store.ensure_partitions(first_day date, last_day date) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    day date;
    made int := 0;
    low text;
    high text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('landed.partitions', 0));
    FOREACH parent IN ARRAY ARRAY['notifications', 'deliveries', 'attempts', 'events', 'inbound_events'] LOOP
        FOR day IN SELECT generate_series(first_day, last_day, interval '1 day')::date LOOP
            -- Only a provider's events can belong to a day gone by; new ids never do (yesterday: a clock set back).
            CONTINUE WHEN parent <> 'inbound_events' AND day < (now() AT TIME ZONE 'UTC')::date - 1;
            CONTINUE WHEN to_regclass(format('store.%I', parent || to_char(day, '_pYYYYMMDD'))) IS NOT NULL;
            IF parent = 'inbound_events' THEN
                low := day::text;
                high := (day + 1)::text;
            ELSE
                low := store.id_floor(day::timestamp AT TIME ZONE 'UTC')::text;
                high := store.id_floor((day + 1)::timestamp AT TIME ZONE 'UTC')::text;
            END IF;
            EXECUTE format('CREATE TABLE store.%I PARTITION OF store.%I FOR VALUES FROM (%L) TO (%L)',
                           parent || to_char(day, '_pYYYYMMDD'), parent, low, high);
            IF parent <> 'events' THEN
                EXECUTE format('ALTER TABLE store.%I SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, '
                               'autovacuum_vacuum_cost_delay = 0)', parent || to_char(day, '_pYYYYMMDD'));
            END IF;
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

-- Drops the partitions of a day and before, oldest first, but only while nothing in a day still needs anything: a live
-- row, a dead letter or a parked event keeps its whole day (I9, I12).
CREATE FUNCTION store.drop_partitions(through_day date, dead_letter_retention interval)
RETURNS TABLE (day date, dropped boolean)
LANGUAGE plpgsql AS $$
DECLARE
    suffix text;
    needed boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('landed.partitions', 0));
    FOR suffix IN
        SELECT right(c.relname, 10)
        FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'store.deliveries'::regclass
        ORDER BY 1
    LOOP
        day := to_date(right(suffix, 8), 'YYYYMMDD');
        EXIT WHEN day > through_day;
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM store.%I WHERE state = ''accepted'')
                 OR EXISTS (SELECT FROM store.%I WHERE ended_at IS NULL
                                                    OR (state = ''dead'' AND ended_at > now() - %L::interval))',
            'notifications' || suffix, 'deliveries' || suffix, dead_letter_retention)
        INTO needed;
        IF NOT needed THEN
            EXECUTE format('DROP TABLE store.%I, store.%I, store.%I, store.%I',
                           'notifications' || suffix, 'deliveries' || suffix, 'attempts' || suffix, 'events' || suffix);
        END IF;
        dropped := NOT needed;
        RETURN NEXT;
    END LOOP;
    FOR suffix IN
        SELECT right(c.relname, 10)
        FROM pg_inherits i
        JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'store.inbound_events'::regclass
        ORDER BY 1
    LOOP
        day := to_date(right(suffix, 8), 'YYYYMMDD');
        EXIT WHEN day > through_day;
        EXECUTE format('SELECT EXISTS (SELECT FROM store.%I WHERE state IN (''pending'', ''parked''))',
                       'inbound_events' || suffix) INTO needed;
        IF NOT needed THEN
            EXECUTE format('DROP TABLE store.%I', 'inbound_events' || suffix);
        END IF;
        dropped := NOT needed;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Events told late belong to days gone by: inbound events need partitions back to the oldest webhook still accepted.
SELECT store.ensure_partitions((now() AT TIME ZONE 'UTC')::date - 9, (now() AT TIME ZONE 'UTC')::date + 3);

-- Grants ----------------------------------------------------------------------------------------------------------------

GRANT USAGE ON SCHEMA store TO landed_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA store TO landed_service;
REVOKE UPDATE, DELETE, TRUNCATE ON store.events, store.audit_log FROM landed_service;                              -- I17
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA store TO landed_service;
GRANT landed_operator TO landed_service;
