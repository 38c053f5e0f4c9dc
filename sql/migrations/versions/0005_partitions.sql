-- Days come and go without a lock that stops anybody. CREATE TABLE … PARTITION OF and DROP TABLE lock the whole table against
-- every reader, one table after the other, and met claims that hold some of them already: one of the two was a deadlock's
-- victim, and under steady load that was always the drop. ATTACH and DETACH … CONCURRENTLY stop nobody.

CREATE OR REPLACE FUNCTION store.ensure_partitions(first_day date, last_day date) RETURNS int
LANGUAGE plpgsql AS $$
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

DROP FUNCTION store.drop_partitions;

-- The partitions of a day and before, oldest first, and whether anything in that day still needs anything: a live row, a dead
-- letter or a parked event keeps its whole day (I9, I12). The deliveries of a day come last, so that a drop that was
-- interrupted is taken up again. pending: its detach was interrupted. Not attached: only the table is left to be dropped.
CREATE FUNCTION store.past_partitions(through_day date, dead_letter_retention interval)
RETURNS TABLE (day date, parent text, part text, needed boolean, attached boolean, pending boolean)
LANGUAGE plpgsql STABLE AS $$
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
$$;
GRANT EXECUTE ON FUNCTION store.past_partitions TO landed_service;
