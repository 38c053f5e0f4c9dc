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
