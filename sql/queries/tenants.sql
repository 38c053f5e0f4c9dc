-- name: create_tenant
INSERT INTO store.tenants (name, sender, reply_to, promotional_sender)
VALUES (%(name)s, %(sender)s, %(reply_to)s, %(promotional_sender)s)
RETURNING id, name, sender, reply_to, promotional_sender, created_at;

-- name: get_tenant
SELECT id, name, sender, reply_to, promotional_sender, created_at FROM store.tenants WHERE name = %(name)s;

-- name: list_tenants
SELECT id, name, sender, reply_to, promotional_sender, created_at FROM store.tenants ORDER BY name;

-- name: list_api_keys
SELECT id, tenant_id, name, prefix, scopes, rate_per_second, burst, created_at, revoked_at
FROM store.api_keys
WHERE tenant_id = %(tenant_id)s
ORDER BY id;
