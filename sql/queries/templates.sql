-- name: lock_tenant
-- Versions are numbered one writer at a time. Not FOR UPDATE: that would also wait for, and stop, every insert whose
-- foreign key looks at the tenant.
SELECT FROM store.tenants WHERE id = %(tenant_id)s FOR NO KEY UPDATE;

-- name: create
-- A version is all its contents, one a channel: they are written together and share number, variables and status.
WITH next AS (
    SELECT coalesce(max(t.version), 0) + 1 AS version
    FROM store.templates t
    WHERE t.tenant_id = %(tenant_id)s
      AND t.template_id = %(template_id)s
)
INSERT INTO store.templates
    (tenant_id, template_id, version, channel, locale, subject, html, text, text_derived, extras, variables, description)
SELECT %(tenant_id)s, %(template_id)s, next.version, c.channel, c.locale, c.subject, c.html, c.text, c.text_derived, c.extras,
       %(variables)s, %(description)s
FROM next
CROSS JOIN jsonb_to_recordset(%(contents)s::jsonb) AS c(
    channel text, locale text, subject text, html text, text text, text_derived boolean, extras jsonb)
RETURNING version;

-- name: latest
SELECT max(t.version)
FROM store.templates t
WHERE t.tenant_id = %(tenant_id)s
  AND t.template_id = %(template_id)s;

-- name: get
-- Email first: whoever knows templates as emails finds the email.
SELECT t.template_id, t.version, t.channel, t.locale, t.subject, t.html, t.text, t.text_derived, t.variables, t.description,
       t.status, t.created_at, t.published_at, t.archived_at, c.channels, c.contents
FROM store.templates t
CROSS JOIN LATERAL (
    SELECT array_agg(c.channel ORDER BY c.channel <> 'email', c.channel) AS channels,
           jsonb_agg(jsonb_build_object('channel', c.channel, 'locale', c.locale, 'subject', c.subject, 'html', c.html,
                                        'text', c.text, 'text_derived', c.text_derived, 'extras', c.extras)
                     ORDER BY c.channel <> 'email', c.channel) AS contents
    FROM store.templates c
    WHERE c.tenant_id = t.tenant_id AND c.template_id = t.template_id AND c.version = t.version
) c
WHERE t.tenant_id = %(tenant_id)s
  AND t.template_id = %(template_id)s
  AND t.version = %(version)s
ORDER BY t.channel <> 'email', t.channel
LIMIT 1;

-- name: list_versions
-- Without the bodies: a page of them could be as large as 100 times half a megabyte.
SELECT DISTINCT ON (template_id, version)
       template_id, version, channel, locale, subject, variables, description, status, created_at, published_at, archived_at,
       array_agg(channel) OVER (PARTITION BY template_id, version ORDER BY channel <> 'email', channel
                                ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS channels
FROM store.templates
WHERE tenant_id = %(tenant_id)s
  AND (%(template_id)s::text IS NULL OR template_id = %(template_id)s)
  AND (%(status)s::text IS NULL OR status = %(status)s)
  AND (%(after_id)s::text IS NULL OR (template_id, version) > (%(after_id)s, %(after_version)s::int))
ORDER BY template_id, version, channel <> 'email', channel
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
