-- Failover between vendors: what the workers share about each provider, so that its bad day stays its own.

-- Deliveries ------------------------------------------------------------------------------------------------------------

ALTER TABLE store.deliveries
    ADD COLUMN country text,
    ADD COLUMN tried text[];
COMMENT ON COLUMN store.deliveries.country IS 'ISO 3166-1 of a phone number, where its numbering plan tells; NULL for every other address';
COMMENT ON COLUMN store.deliveries.tried IS
    'The providers that refused it since it last waited: the others of its route are asked first (R-164)';

-- Lanes -----------------------------------------------------------------------------------------------------------------

-- Routes are configuration, and stand in landed.toml. Each worker writes here what it read there, for people and views.
CREATE TABLE store.lanes (
    name        text PRIMARY KEY,
    channel     text NOT NULL,
    class       text NOT NULL,
    providers   jsonb NOT NULL CHECK (jsonb_typeof(providers) = 'array'),
    published_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN store.lanes.providers IS '[{"provider": …, "order": …, "weight": …}], as the worker that was started last read them';

-- The breaker of each provider account ----------------------------------------------------------------------------------

DROP TABLE store.provider_states;  -- it held pauses of a minute and nothing else
CREATE TABLE store.provider_states (
    provider    text PRIMARY KEY,
    breaker     text NOT NULL DEFAULT 'closed' CHECK (breaker IN ('closed', 'open')),
    reason      text CHECK (reason IN ('failing', 'unauthorized')),
    detail      text NOT NULL DEFAULT '',
    since       timestamptz NOT NULL DEFAULT now(),
    judge_from  timestamptz NOT NULL DEFAULT to_timestamp(0),
    cool_off_seconds double precision CHECK (cool_off_seconds > 0),
    retry_at    timestamptz,
    probe_owner uuid,
    probe_until timestamptz,
    paused_until timestamptz,
    limited_at  timestamptz,
    hits        bigint NOT NULL DEFAULT 0,
    drained_at  timestamptz,
    drained_by  text,
    drain_reason text,
    share       double precision NOT NULL DEFAULT 1 CHECK (share > 0 AND share <= 1),
    share_changed_at timestamptz NOT NULL DEFAULT now(),
    recovering  boolean NOT NULL DEFAULT false,
    CONSTRAINT provider_states_open CHECK (
        (breaker = 'open') = (reason IS NOT NULL) AND (breaker = 'open') = (retry_at IS NOT NULL)
        AND (breaker = 'open') = (cool_off_seconds IS NOT NULL)),
    CONSTRAINT provider_states_probed CHECK (
        (probe_owner IS NULL) = (probe_until IS NULL) AND (probe_owner IS NULL OR breaker = 'open')),
    CONSTRAINT provider_states_drained CHECK (
        (drained_at IS NULL) = (drained_by IS NULL) AND (drained_at IS NULL) = (drain_reason IS NULL))
);
COMMENT ON TABLE store.provider_states IS 'One breaker for each provider account, that is for each credential, shared by all workers';
COMMENT ON COLUMN store.provider_states.judge_from IS 'What it failed before its breaker last closed is forgiven';
COMMENT ON COLUMN store.provider_states.retry_at IS 'When, after the cool-off, one delivery is sent to see whether it is back';
COMMENT ON COLUMN store.provider_states.probe_until IS 'Until when nobody else may try: the call of that one delivery is over by then';
COMMENT ON COLUMN store.provider_states.paused_until IS 'No claim goes to this provider before; set by Retry-After';
COMMENT ON COLUMN store.provider_states.share IS 'Of its weight: lowered while it is slow or fails, raised again in steps (hysteresis)';
COMMENT ON COLUMN store.provider_states.recovering IS 'Its breaker closed not long ago: it gets no more at once than its share';

-- What calls came to, counted by the workers and written once a second each: what breakers and shares are judged by, and
-- the error rates that people look at (R-181).
CREATE TABLE store.provider_outcomes (
    provider    text NOT NULL,
    at          timestamptz NOT NULL,
    calls       int NOT NULL DEFAULT 0,
    failures    int NOT NULL DEFAULT 0,
    slow        int NOT NULL DEFAULT 0,
    accepted    int NOT NULL DEFAULT 0,
    limited     int NOT NULL DEFAULT 0,
    client_errors int NOT NULL DEFAULT 0,
    server_errors int NOT NULL DEFAULT 0,
    unknown     int NOT NULL DEFAULT 0,
    PRIMARY KEY (provider, at)
);
COMMENT ON COLUMN store.provider_outcomes.at IS 'Beginning of the five seconds that are counted';
COMMENT ON COLUMN store.provider_outcomes.failures IS 'Calls whose end speaks against the provider: transient errors, no answer, an unknown outcome';

-- Rates -----------------------------------------------------------------------------------------------------------------

-- A bucket without water: the moment at which the next call may begin. Who leases n calls moves it by n / rate, and begins
-- them one after the other from there; so what all workers together begin in any minute is what one would (R-155, R-156).
CREATE TABLE store.provider_rates (
    provider    text PRIMARY KEY,
    per_second  double precision NOT NULL CHECK (per_second > 0),
    factor      double precision NOT NULL DEFAULT 1 CHECK (factor > 0 AND factor <= 1),
    factor_changed_at timestamptz NOT NULL DEFAULT now(),
    next_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN store.provider_rates.per_second IS 'The rate the configuration gives it';
COMMENT ON COLUMN store.provider_rates.factor IS 'Of that rate: lowered by each limit it reports, raised again while it reports none';

-- What API keys asked for beyond their rates, which was answered 429 (R-183).
CREATE TABLE store.api_key_limits (
    key_id      int NOT NULL REFERENCES store.api_keys ON DELETE CASCADE,
    hour        timestamptz NOT NULL,
    hits        bigint NOT NULL,
    last_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key_id, hour)
);

-- Load shedding ---------------------------------------------------------------------------------------------------------

CREATE TABLE store.load_shedding (
    class       text PRIMARY KEY CHECK (class = 'promotional'),
    active      boolean NOT NULL DEFAULT false,
    since       timestamptz NOT NULL DEFAULT now(),
    lane        text,
    oldest_seconds double precision NOT NULL DEFAULT 0,
    judged_at   timestamptz NOT NULL DEFAULT to_timestamp(0)
);
COMMENT ON TABLE store.load_shedding IS 'Whether claims of a class pause because more urgent work is late (R-168)';
INSERT INTO store.load_shedding (class) VALUES ('promotional');

-- What was decided, and why ---------------------------------------------------------------------------------------------

CREATE TABLE store.control_events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    subject     text NOT NULL CHECK (subject IN ('provider', 'load')),
    name        text NOT NULL,
    event       text NOT NULL CHECK (event IN ('opened', 'probe_failed', 'closed', 'limited', 'share_lowered', 'share_raised',
                                               'drained', 'restored', 'shedding_began', 'shedding_ended')),
    detail      text NOT NULL DEFAULT '',
    data        jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX control_events_at ON store.control_events (at);
COMMENT ON TABLE store.control_events IS 'Every step that breakers, shares, limits, load shedding and people took';

-- What can be proven ----------------------------------------------------------------------------------------------------

CREATE TABLE store.route_capabilities (
    provider    text NOT NULL,
    channel     text NOT NULL,
    country     text NOT NULL DEFAULT '*',
    provable    boolean NOT NULL,
    source      text NOT NULL CHECK (source IN ('adapter', 'operator')),
    note        text NOT NULL DEFAULT '',
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, channel, country),
    CHECK (source = 'operator' OR country = '*')
);
COMMENT ON TABLE store.route_capabilities IS
    'Whether anybody tells that a message arrived: a rate is shown as delivered over provable. Adapters give the default, '
    'operators know better for a country';

GRANT SELECT, INSERT, UPDATE, DELETE ON store.lanes, store.provider_states, store.provider_outcomes, store.provider_rates,
    store.api_key_limits, store.load_shedding, store.route_capabilities TO landed_service;
GRANT SELECT, INSERT, DELETE ON store.control_events TO landed_service;
