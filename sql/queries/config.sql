-- name: terms
-- What accepting needs to know of one category and one template, in one row: the category (null when there is none) and
-- every version of the template by channel. Locales of a version share what they need to be told: their variables are
-- put together.
SELECT c.class AS category_class,
       c.channels AS category_channels,
       c.validity_seconds AS category_validity_seconds,
       coalesce(v.contents, '[]') AS contents
FROM (SELECT) AS always
LEFT JOIN store.categories c
    ON c.tenant_id = %(tenant_id)s
   AND c.name = %(category)s
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object(
               'version', t.version,
               'channel', t.channel,
               'status', t.status,
               'variables', t.variables
           ) ORDER BY t.version DESC, t.channel, t.locale) AS contents
    FROM store.templates t
    WHERE t.tenant_id = %(tenant_id)s
      AND t.template_id = %(template_id)s
) v ON true
