-- name: lock_tenant
-- Versions are numbered one writer at a time. Not FOR UPDATE: that would also wait for, and stop, every insert whose
-- foreign key looks at the tenant.
SELECT FROM store.tenants WHERE id = %(tenant_id)s FOR NO KEY UPDATE;

-- name: create
INSERT INTO store.templates
    (tenant_id, template_id, version, channel, locale, subject, html, text, text_derived, variables, description)
SELECT %(tenant_id)s, %(template_id)s, coalesce(max(t.version), 0) + 1, %(channel)s, %(locale)s, %(subject)s,
       %(html)s, %(text)s, %(text_derived)s, %(variables)s, %(description)s
FROM store.templates t
WHERE t.tenant_id = %(tenant_id)s
  AND t.template_id = %(template_id)s
RETURNING template_id, version, channel, locale, subject, html, text, text_derived, variables, description, status,
          created_at, published_at, archived_at;

-- name: latest
SELECT template_id, version, channel, locale, subject, html, text, text_derived, variables, description, status,
       created_at, published_at, archived_at
FROM store.templates
WHERE tenant_id = %(tenant_id)s
  AND template_id = %(template_id)s
  AND channel = %(channel)s
  AND locale = %(locale)s
ORDER BY version DESC
LIMIT 1;

-- name: get
SELECT template_id, version, channel, locale, subject, html, text, text_derived, variables, description, status,
       created_at, published_at, archived_at
FROM store.templates
WHERE tenant_id = %(tenant_id)s
  AND template_id = %(template_id)s
  AND version = %(version)s;

-- name: list_versions
-- Without the bodies: a page of them could be as large as 100 times half a megabyte.
SELECT template_id, version, channel, locale, subject, variables, description, status, created_at, published_at,
       archived_at
FROM store.templates
WHERE tenant_id = %(tenant_id)s
  AND (%(template_id)s::text IS NULL OR template_id = %(template_id)s)
  AND (%(status)s::text IS NULL OR status = %(status)s)
  AND (%(after_id)s::text IS NULL OR (template_id, version) > (%(after_id)s, %(after_version)s::int))
ORDER BY template_id, version
LIMIT %(limit)s;

-- name: publish
UPDATE store.templates
SET status = 'published', published_at = now()
WHERE tenant_id = %(tenant_id)s
  AND template_id = %(template_id)s
  AND version = %(version)s
  AND status = 'draft';

-- name: archive
UPDATE store.templates
SET status = 'archived', archived_at = now()
WHERE tenant_id = %(tenant_id)s
  AND template_id = %(template_id)s
  AND version = %(version)s
  AND status <> 'archived';
