-- Limits on what one recipient gets and on what one template sends (R-152 to R-154). What is over a limit waits; nothing is dropped.

ALTER TABLE store.categories ADD COLUMN recipient_per_hour int CHECK (recipient_per_hour BETWEEN 0 AND 1000);
COMMENT ON COLUMN store.categories.recipient_per_hour IS
    'How much of it one recipient gets on a channel in an hour, counted by itself; 0: as much as is sent. NULL: it counts with the '
    'others, against what the configuration says of the channel';

-- A sliding window for each recipient and channel: the moments at which its last deliveries were, or will be, due.
CREATE TABLE store.recipient_windows (
    shard       smallint NOT NULL,
    tenant_id   int NOT NULL,
    recipient_id text NOT NULL,
    channel     text NOT NULL,
    category    text NOT NULL,
    per_hour    int NOT NULL CHECK (per_hour > 0),
    slots       timestamptz[] NOT NULL CHECK (cardinality(slots) > 0),
    PRIMARY KEY (shard, tenant_id, recipient_id, channel, category)
) WITH (fillfactor = 70);
COMMENT ON COLUMN store.recipient_windows.category IS 'A category that is counted by itself; empty for all the others together';
COMMENT ON COLUMN store.recipient_windows.per_hour IS 'The limit as intake last read it';
COMMENT ON COLUMN store.recipient_windows.slots IS 'In the order in which they were taken; no more than the limit is about';

-- The n-th delivery of an hour is due an hour after the one that it would otherwise follow too soon, so that no hour, wherever
-- it begins, holds more than per_hour of them.
CREATE FUNCTION store.take_slots(slots timestamptz[], n int, per_hour int) RETURNS timestamptz[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    FOR i IN 1 .. n LOOP
        slots := slots || greatest(now(), slots[cardinality(slots) - per_hour + 1] + interval '1 hour');
    END LOOP;
    RETURN slots[cardinality(slots) - greatest(per_hour, n) + 1 :];
END
$$;
COMMENT ON FUNCTION store.take_slots IS 'These slots and the next n, of which the earliest that no longer matter are gone';

-- The moment at which a template's next delivery may be due, like the one of a provider's rate (R-154).
CREATE TABLE store.template_rates (
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    template_id text NOT NULL,
    class       text NOT NULL,
    next_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, template_id, class)
);

-- What had to wait for a limit of ours, by hour (R-183).
CREATE TABLE store.limit_hits (
    tenant_id   int NOT NULL REFERENCES store.tenants ON DELETE CASCADE,
    level       text NOT NULL CHECK (level IN ('recipient', 'template')),
    name        text NOT NULL,
    hour        timestamptz NOT NULL,
    hits        bigint NOT NULL,
    last_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, level, name, hour)
);
CREATE INDEX limit_hits_hour ON store.limit_hits (hour);
COMMENT ON COLUMN store.limit_hits.name IS 'The channel of a recipient, or the template';

GRANT SELECT, INSERT, UPDATE, DELETE ON store.recipient_windows, store.template_rates, store.limit_hits TO landed_service;
GRANT EXECUTE ON FUNCTION store.take_slots TO landed_service;
