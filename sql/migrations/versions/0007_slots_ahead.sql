-- A delivery of a recipient may have to wait for something else first, as for a slot of its template. Its own slot is then the
-- first free one after that, and what comes later may be due before it.

-- An hour that begins anywhere holds too many if per_hour + 1 deliveries lie within it. So per_hour neighbours that lie within an
-- hour keep everything out from an hour before the last of them to an hour after the first; all other time is free. From one
-- group of neighbours to the next both ends only move on: one walk over them finds the first free moment.
--
-- What came before the first slot is not known any more. So nothing new comes within an hour of that one, which costs nothing when
-- it was an hour ago, or never. Of somebody who is sent to without end, the earliest slots ahead are forgotten, or each new one
-- would cost more than the one before.
CREATE FUNCTION store.take_slots(slots timestamptz[], not_before timestamptz[], per_hour int) RETURNS timestamptz[]
LANGUAGE plpgsql STABLE AS $$
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
COMMENT ON FUNCTION store.take_slots(timestamptz[], timestamptz[], int) IS
    'These slots, of which the earliest that no longer matter are gone, and after them the new ones: for each moment the first free '
    'one that is not before it (NULL: not before now)';

COMMENT ON COLUMN store.recipient_windows.slots IS
    'The moments that count against the limit; what was taken last comes last. Of what was before the first nothing is known; '
    '-infinity: there was nothing';

-- The previous release kept as many as its limit was about: who has fewer had no others.
UPDATE store.recipient_windows SET slots = timestamptz '-infinity' || slots WHERE cardinality(slots) < per_hour;

-- take_slots(timestamptz[], int, int) stays for the previous release, and goes in the next.
GRANT EXECUTE ON FUNCTION store.take_slots(timestamptz[], timestamptz[], int) TO landed_service;
