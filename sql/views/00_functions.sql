-- Whoever reads reports needs to tell addresses apart, not to write to them: every view shows them masked. The domain
-- stays, because that is what deliverability is about. Operators who need an address ask landed.rendered.
CREATE FUNCTION reporting.domain_of(channel text, address text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN channel = 'email' THEN nullif(lower(split_part(address, '@', -1)), '') END;
COMMENT ON FUNCTION reporting.domain_of IS 'The receiving domain of an email address; NULL on other channels';

CREATE FUNCTION reporting.masked_address(channel text, address text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN address IS NULL OR address = '' THEN NULL
    WHEN channel = 'email' THEN left(address, 1) || '…@' || reporting.domain_of(channel, address)
    ELSE '…' || right(address, least(4, length(address) / 2))
END;
COMMENT ON FUNCTION reporting.masked_address IS 'An address that can be told from others and not be written to: b…@example.com';

CREATE FUNCTION reporting.id_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN store.id_floor(at);
COMMENT ON FUNCTION reporting.id_floor IS
    'The smallest id that could have been made at this time: a bound on ids leaves the partitions of other days alone';

-- Jumps from lane to lane through the two partial indexes, so that a million waiting rows cost no more than one. Views run
-- what they call as their reader, who sees no table: therefore SECURITY DEFINER.
CREATE FUNCTION reporting.queued_lanes() RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER ROWS 20 SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH RECURSIVE first_attempts AS (
        (SELECT d.lane FROM store.deliveries d WHERE d.state = 'queued' AND d.failures = 0 ORDER BY d.lane LIMIT 1)
        UNION ALL
        SELECT (SELECT d.lane
                FROM store.deliveries d
                WHERE d.state = 'queued' AND d.failures = 0 AND d.lane > f.lane
                ORDER BY d.lane
                LIMIT 1)
        FROM first_attempts f
        WHERE f.lane IS NOT NULL
    ), retries AS (
        (SELECT d.lane FROM store.deliveries d WHERE d.state = 'queued' AND d.failures > 0 ORDER BY d.lane LIMIT 1)
        UNION ALL
        SELECT (SELECT d.lane
                FROM store.deliveries d
                WHERE d.state = 'queued' AND d.failures > 0 AND d.lane > r.lane
                ORDER BY d.lane
                LIMIT 1)
        FROM retries r
        WHERE r.lane IS NOT NULL
    )
    SELECT f.lane FROM first_attempts f WHERE f.lane IS NOT NULL
    UNION
    SELECT r.lane FROM retries r WHERE r.lane IS NOT NULL;
END;
COMMENT ON FUNCTION reporting.queued_lanes IS 'The lanes that have queued deliveries, due or not';
