-- Who may send for which tenant from their own database session (R-197). The role is told apart by session_user, so each
-- producer needs a login role of its own.
CREATE FUNCTION landed.grant_producer(role name, tenant text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
COMMENT ON FUNCTION landed.grant_producer IS 'Lets a database role send for a tenant through landed.send';

CREATE FUNCTION landed.revoke_producer(role name, tenant text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
COMMENT ON FUNCTION landed.revoke_producer IS 'Takes that right away again; false when it was not there';
