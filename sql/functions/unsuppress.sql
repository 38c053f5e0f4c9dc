-- unsuppress: an address may be sent to again. The old suppression stays on record, with who lifted it and why. What the
-- provider keeps on its own list is the provider's, and must be removed there as well.
CREATE FUNCTION landed.unsuppress(tenant text, channel text, address text, reason_text text, scope text DEFAULT 'all')
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
COMMENT ON FUNCTION landed.unsuppress IS
    'Lifts what suppresses an address on a channel in one scope; false when there was nothing to lift';
