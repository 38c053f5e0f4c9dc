-- Every channel: what each keeps beside the deliveries themselves. Devices for push, the inbox for in-app, endpoints for
-- outbound webhooks and chat, consents for SMS.

-- No id was made before 1970: a time before it is the beginning, where once it came out as the end of all ids.
CREATE OR REPLACE FUNCTION store.id_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (lpad(to_hex(greatest(0, (extract(epoch FROM at) * 1000)::bigint)), 12, '0') || '00000000000000000000')::uuid;

-- Tenants, recipients, categories, templates ----------------------------------------------------------------------------

ALTER TABLE store.tenants ADD COLUMN promotional_sender text CHECK (promotional_sender !~ '[\r\n]');
COMMENT ON COLUMN store.tenants.promotional_sender IS
    'From of promotional email, on a domain of its own: what campaigns do to its reputation never touches a receipt (R-117)';

ALTER TABLE store.recipients
    ADD COLUMN addresses jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(addresses) = 'object'),
    ADD COLUMN channels text[] CHECK (channels <@ ARRAY['email', 'push', 'sms', 'in_app', 'webhook', 'chat']);
COMMENT ON COLUMN store.recipients.addresses IS 'Where else it is reached: {"webhook": <endpoint id>, "chat": <endpoint id>}';
COMMENT ON COLUMN store.recipients.channels IS
    'The channels it prefers, NULL for any. Holds where the request names none itself (R-060)';

ALTER TABLE store.categories DROP CONSTRAINT categories_channels_check;
ALTER TABLE store.categories ADD CONSTRAINT categories_channels_check
    CHECK (channels <@ ARRAY['email', 'push', 'sms', 'in_app', 'webhook', 'chat'] AND cardinality(channels) > 0);

ALTER TABLE store.templates DROP CONSTRAINT templates_channel_check;
ALTER TABLE store.templates ADD CONSTRAINT templates_channel_check
    CHECK (channel IN ('email', 'push', 'sms', 'in_app', 'webhook', 'chat'));
ALTER TABLE store.templates ADD COLUMN extras jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(extras) = 'object');
ALTER TABLE store.templates ADD CONSTRAINT templates_have_text CHECK (text IS NOT NULL);
-- A text message is its text: by the hash of just that, one of unknown outcome is found in its provider's list.
ALTER TABLE store.templates ADD CONSTRAINT templates_plain CHECK (
    channel NOT IN ('sms', 'webhook') OR (coalesce(subject, '') = '' AND html IS NULL AND extras = '{}'));
COMMENT ON COLUMN store.templates.extras IS
    'Further parts by name, each a template of its own: url, image, sound, badge, subtitle and data.<key> of a push';

CREATE OR REPLACE FUNCTION store.keep_template_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
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

-- Evidence and opt-outs -------------------------------------------------------------------------------------------------

ALTER TABLE store.inbound_events DROP CONSTRAINT inbound_events_source_check;
ALTER TABLE store.inbound_events ADD CONSTRAINT inbound_events_source_check
    CHECK (source IN ('provider', 'lookup', 'device'));

-- STOP waits for no receipts.
CREATE INDEX inbound_events_said ON store.inbound_events (due_at)
    WHERE kind IN ('opted_out', 'opted_in') AND state IN ('pending', 'parked');

ALTER TABLE store.suppressions DROP CONSTRAINT suppressions_reason_check;
ALTER TABLE store.suppressions ADD CONSTRAINT suppressions_reason_check
    CHECK (reason IN ('hard_bounce', 'soft_bounces', 'complaint', 'unsubscribe', 'opted_out', 'provider_suppressed', 'manual'));

-- One address, one spelling: a number that was stored before numbers were brought into one form, or that a person types into
-- psql, is the number that says STOP. The id of a device or an endpoint is text here, and has one spelling too.
CREATE OR REPLACE FUNCTION store.normalise_address(channel text, address text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE channel
    WHEN 'email' THEN lower(btrim(address))
    WHEN 'sms' THEN regexp_replace(address, '[\s()./\u00a0\u2010-\u2015-]', '', 'g')
    WHEN 'in_app' THEN btrim(address)
    ELSE lower(btrim(address))
END;
-- Of two that turn out to be one, the first stands.
UPDATE store.suppressions s
SET address = store.normalise_address(s.channel, s.address),
    lifted_at = coalesce(s.lifted_at, twin.at),
    lifted_by = coalesce(s.lifted_by, twin.who),
    lift_reason = coalesce(s.lift_reason, twin.why)
FROM (
    SELECT o.id, t.at, t.who, t.why
    FROM store.suppressions o
    LEFT JOIN LATERAL (
        SELECT now() AS at, 'landed' AS who, 'another suppression is of the same address' AS why
        FROM store.suppressions e
        WHERE e.tenant_id = o.tenant_id AND e.channel = o.channel AND e.scope = o.scope AND e.id <> o.id
          AND e.lifted_at IS NULL
          AND store.normalise_address(e.channel, e.address) = store.normalise_address(o.channel, o.address)
          AND (e.id < o.id OR e.address = store.normalise_address(e.channel, e.address))
        LIMIT 1
    ) AS t ON true
    WHERE o.address <> store.normalise_address(o.channel, o.address)
) AS twin
WHERE s.id = twin.id;
DELETE FROM store.soft_bounces b WHERE b.address <> store.normalise_address(b.channel, b.address);

-- Only START undoes a STOP, and START undoes nothing else: an opt-out stands beside a bounce or a person's block, and neither
-- hides the other.
DROP INDEX store.suppressions_active;
CREATE UNIQUE INDEX suppressions_active ON store.suppressions (tenant_id, channel, address, scope, (reason = 'opted_out'))
    WHERE lifted_at IS NULL;

-- Who said STOP or START to which of our numbers, and through whom we heard it (R-135). The suppression is what holds;
-- this is the record that explains it.
CREATE TABLE store.consents (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel     text NOT NULL,
    address     text NOT NULL,
    action      text NOT NULL CHECK (action IN ('opt_out', 'opt_in')),
    source      text NOT NULL CHECK (source IN ('recipient', 'provider', 'operator')),
    provider    text,
    event_key   text,
    data        jsonb NOT NULL DEFAULT '{}',
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX consents_address ON store.consents (channel, address, occurred_at);
-- Said once, however often and on however many days a provider tells of it.
CREATE UNIQUE INDEX consents_told ON store.consents (provider, event_key) WHERE event_key IS NOT NULL;
CREATE TRIGGER consents_append_only BEFORE UPDATE OR DELETE ON store.consents
    FOR EACH ROW EXECUTE FUNCTION store.refuse_change();
COMMENT ON TABLE store.consents IS
    'Opt-outs and opt-ins in the words of the address''s owner. A number is shared by all tenants that send from it, and so '
    'is its opt-out';

-- A tenant that comes later shares the numbers too. Whoever writes an opt-out shares this lock before looking at which tenants
-- there are: so the one or the other is seen, whichever commits first.
CREATE FUNCTION store.inherit_opt_outs() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE INDEX suppressions_opted_out ON store.suppressions (channel, address) WHERE reason = 'opted_out' AND lifted_at IS NULL;
CREATE TRIGGER tenants_inherit_opt_outs AFTER INSERT ON store.tenants
    FOR EACH ROW EXECUTE FUNCTION store.inherit_opt_outs();

ALTER TABLE store.attempts ADD COLUMN facts jsonb;
COMMENT ON COLUMN store.attempts.facts IS 'What this call was: encoding and segments of a text message';

-- Devices ---------------------------------------------------------------------------------------------------------------

-- A delivery names the device and not the token: a token that changes while a push waits is no reason to lose it.
CREATE TABLE store.devices (
    id          uuid PRIMARY KEY DEFAULT store.uuid_v7(),
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    recipient_id text NOT NULL,
    platform    text NOT NULL CHECK (platform IN ('ios', 'android', 'web')),
    token       text NOT NULL CHECK (token ~ '^[!-~]+$' AND length(token) <= 2048),
    environment text NOT NULL DEFAULT 'production' CHECK (environment IN ('production', 'sandbox')),
    p256dh      text,
    auth        text,
    device_key  text CHECK (length(device_key) BETWEEN 1 AND 200),
    app_version text,
    registered_at timestamptz NOT NULL DEFAULT now(),
    created_at  timestamptz NOT NULL DEFAULT now(),
    retired_at  timestamptz,
    retired_reason text,
    FOREIGN KEY (tenant_id, recipient_id) REFERENCES store.recipients (tenant_id, id) ON DELETE CASCADE,
    CHECK ((platform = 'web') = (p256dh IS NOT NULL AND auth IS NOT NULL)),
    CHECK ((retired_at IS NULL) = (retired_reason IS NULL))
);
COMMENT ON COLUMN store.devices.device_key IS 'The app''s own stable name for the device: with it, a new token replaces the old one';
COMMENT ON COLUMN store.devices.registered_at IS
    'When the token was last registered: a provider that calls it dead since an earlier time does not mean this one';
-- A token belongs to one recipient: who signs in on a device takes it over from who did before.
CREATE UNIQUE INDEX devices_token ON store.devices (tenant_id, platform, token) WHERE retired_at IS NULL;
CREATE UNIQUE INDEX devices_key ON store.devices (tenant_id, recipient_id, platform, device_key)
    WHERE retired_at IS NULL AND device_key IS NOT NULL;
CREATE INDEX devices_recipient ON store.devices (tenant_id, recipient_id) WHERE retired_at IS NULL;
CREATE INDEX devices_retired ON store.devices (retired_at) WHERE retired_at IS NOT NULL;

-- When a provider last took a push for an environment: only where others get through is a refused token itself to blame.
CREATE TABLE store.push_environments (
    provider    text NOT NULL,
    environment text NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, environment)
);

-- The inbox -------------------------------------------------------------------------------------------------------------

-- One counter a recipient: every change to the inbox takes the next version under this row's lock, so whoever has seen
-- version n has seen everything up to n, and a stream resumes from a number (R-022).
CREATE TABLE store.inboxes (
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    recipient_id text NOT NULL,
    version     bigint NOT NULL DEFAULT 0,
    unread      int NOT NULL DEFAULT 0 CHECK (unread >= 0),
    unseen      int NOT NULL DEFAULT 0 CHECK (unseen >= 0),
    PRIMARY KEY (tenant_id, recipient_id)
);

CREATE TABLE store.inbox_items (
    tenant_id   int NOT NULL,
    recipient_id text NOT NULL,
    id          uuid NOT NULL,
    attempt_no  smallint NOT NULL,
    notification_id uuid NOT NULL,
    category    text NOT NULL,
    title       text NOT NULL,
    body        text NOT NULL,
    data        jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(data) = 'object'),
    arrival     bigint NOT NULL,
    version     bigint NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    acknowledged_at timestamptz,
    seen_at     timestamptz,
    opened_at   timestamptz,
    read_at     timestamptz,
    archived_at timestamptz,
    PRIMARY KEY (tenant_id, recipient_id, id),
    FOREIGN KEY (tenant_id, recipient_id) REFERENCES store.inboxes ON DELETE CASCADE
);
COMMENT ON COLUMN store.inbox_items.id IS 'The delivery''s: a second copy of one delivery has nowhere to go';
COMMENT ON COLUMN store.inbox_items.arrival IS
    'The version it arrived with, for ever: its place in the list, and what "all up to here" is measured by';
COMMENT ON COLUMN store.inbox_items.opened_at IS 'When it was first read; marked as unread again it still was';
CREATE INDEX inbox_items_archived ON store.inbox_items (archived_at) WHERE archived_at IS NOT NULL;
CREATE UNIQUE INDEX inbox_items_version ON store.inbox_items (tenant_id, recipient_id, version);
CREATE UNIQUE INDEX inbox_items_arrival ON store.inbox_items (tenant_id, recipient_id, arrival);

-- With what a tenant signs its recipients' tokens, in our stead and without asking us. The one before it is good for a
-- while after a change: what it signed is still in use.
CREATE TABLE store.recipient_signing_secrets (
    tenant_id   int PRIMARY KEY REFERENCES store.tenants ON DELETE CASCADE,
    secret      text NOT NULL CHECK (length(secret) BETWEEN 32 AND 200),
    previous_secret text,
    previous_secret_until timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CHECK ((previous_secret IS NULL) = (previous_secret_until IS NULL))
);
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE ON store.recipient_signing_secrets
    FOR EACH STATEMENT EXECUTE FUNCTION store.notify_config();

-- Endpoints -------------------------------------------------------------------------------------------------------------

CREATE TABLE store.endpoints (
    id          uuid PRIMARY KEY DEFAULT store.uuid_v7(),
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    url         text NOT NULL CHECK (url ~ '^https?://[!-~]+$' AND length(url) <= 2048),
    format      text NOT NULL DEFAULT 'standard' CHECK (format IN ('standard', 'slack', 'discord', 'teams')),
    events      text[] NOT NULL DEFAULT '{}',
    secret      text,
    previous_secret text,
    previous_secret_until timestamptz,
    owner_email text CHECK (owner_email !~ '[\r\n]'),
    status      text NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'disabled')),
    disabled_reason text,
    disabled_at timestamptz,
    failing_since timestamptz,
    paused_until timestamptz,
    last_success_at timestamptz,
    last_failure text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CHECK ((format = 'standard') = (secret IS NOT NULL)),
    CHECK ((status = 'disabled') = (disabled_at IS NOT NULL AND disabled_reason IS NOT NULL)),
    CHECK ((previous_secret IS NULL) = (previous_secret_until IS NULL))
);
COMMENT ON COLUMN store.endpoints.events IS
    'Which delivery-status events it is sent: delivery.delivered, delivery.*, *; none for one that is only a target';
COMMENT ON COLUMN store.endpoints.paused_until IS
    'While it fails: what waits for it is put off till then, but for one delivery at a time that tries whether it is back';
COMMENT ON COLUMN store.endpoints.failing_since IS 'Of the run of failures with no success between; NULL while it works';
-- Of what went to one endpoint: an address that is an id is looked for by people, and replayed.
CREATE INDEX deliveries_endpoint ON store.deliveries (address, id) WHERE channel IN ('webhook', 'chat');
CREATE INDEX endpoints_tenant ON store.endpoints (tenant_id, id);
CREATE INDEX endpoints_listening ON store.endpoints (tenant_id) WHERE status = 'enabled' AND cardinality(events) > 0;

-- What happened to a delivery and somebody may want to hear of: written by the very change it tells of, so none is
-- missed, and only where somebody listens. The fan-out takes rows from here and makes deliveries of them.
CREATE TABLE store.status_events (
    id          uuid PRIMARY KEY DEFAULT store.uuid_v7(),
    tenant_id   int NOT NULL,
    type        text NOT NULL,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    data        jsonb NOT NULL,
    due_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX status_events_due ON store.status_events (due_at);

CREATE FUNCTION store.tell_status() RETURNS trigger LANGUAGE plpgsql AS $$
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
-- What is told to endpoints is not told of itself: that would never end.
CREATE TRIGGER deliveries_tell_status AFTER UPDATE ON store.deliveries
    FOR EACH ROW WHEN (
        NEW.channel NOT IN ('webhook', 'chat')
        AND ((NEW.state <> OLD.state AND NEW.state NOT IN ('queued', 'sending'))
             OR (OLD.opened_at IS NULL AND NEW.opened_at IS NOT NULL)
             OR (OLD.clicked_at IS NULL AND NEW.clicked_at IS NOT NULL)
             OR (OLD.complained_at IS NULL AND NEW.complained_at IS NOT NULL)
             OR (OLD.unsubscribed_at IS NULL AND NEW.unsubscribed_at IS NOT NULL)))
    EXECUTE FUNCTION store.tell_status();
CREATE TRIGGER deliveries_tell_birth AFTER INSERT ON store.deliveries
    FOR EACH ROW WHEN (NEW.channel NOT IN ('webhook', 'chat') AND NEW.ended_at IS NOT NULL)
    EXECUTE FUNCTION store.tell_status();

-- What a message costs, by channel; an operator sets what their contracts say (R-035).
CREATE TABLE store.channel_costs (
    channel     text PRIMARY KEY,
    usd_per_message numeric(12, 8) NOT NULL CHECK (usd_per_message >= 0)
);
INSERT INTO store.channel_costs (channel, usd_per_message)
VALUES ('email', 0.0001), ('sms', 0.0075), ('push', 0), ('in_app', 0), ('webhook', 0), ('chat', 0);

GRANT SELECT, INSERT, UPDATE, DELETE ON store.consents, store.devices, store.push_environments, store.inboxes,
    store.inbox_items, store.recipient_signing_secrets, store.endpoints, store.status_events, store.channel_costs
    TO landed_service;
REVOKE UPDATE, DELETE, TRUNCATE ON store.consents FROM landed_service;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA store TO landed_service;
