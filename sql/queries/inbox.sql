-- The statements of the inbox (R-022). Whoever changes one holds the lock of its row in store.inboxes from a statement
-- before on: so versions are given in the order of commits, and what a statement sees is what is there.

-- name: lock_inboxes
-- Makes those that are not there yet. Ascending, as everyone takes them: lanes that share recipients do not deadlock.
INSERT INTO store.inboxes AS b (tenant_id, recipient_id)
SELECT DISTINCT u.tenant_id, u.recipient_id
FROM unnest(%(tenant_ids)s::int[], %(recipient_ids)s::text[]) AS u(tenant_id, recipient_id)
ORDER BY 1, 2
ON CONFLICT (tenant_id, recipient_id) DO UPDATE SET version = b.version WHERE false;

-- name: add_items
-- A delivery that is there already, or twice among the items, is left as it is and counts for nothing.
WITH given AS (
    SELECT DISTINCT ON (u.tenant_id, u.recipient_id, u.id) u.*
    FROM unnest(%(tenant_ids)s::int[], %(recipient_ids)s::text[], %(ids)s::uuid[], %(attempt_nos)s::smallint[],
                %(notification_ids)s::uuid[], %(categories)s::text[], %(titles)s::text[], %(bodies)s::text[],
                %(datas)s::text[])
         WITH ORDINALITY
         AS u(tenant_id, recipient_id, id, attempt_no, notification_id, category, title, body, data, place)
    ORDER BY u.tenant_id, u.recipient_id, u.id, u.place
), numbered AS (
    SELECT g.*, b.version + row_number() OVER (PARTITION BY g.tenant_id, g.recipient_id ORDER BY g.place) AS version
    FROM given g
    JOIN store.inboxes b ON b.tenant_id = g.tenant_id AND b.recipient_id = g.recipient_id
    WHERE NOT EXISTS (SELECT FROM store.inbox_items i
                      WHERE i.tenant_id = g.tenant_id AND i.recipient_id = g.recipient_id AND i.id = g.id)
), added AS (
    INSERT INTO store.inbox_items (tenant_id, recipient_id, id, attempt_no, notification_id, category, title, body, data,
                                   arrival, version)
    SELECT n.tenant_id, n.recipient_id, n.id, n.attempt_no, n.notification_id, n.category, n.title, n.body,
           n.data::jsonb, n.version, n.version
    FROM numbered n
    ON CONFLICT (tenant_id, recipient_id, id) DO NOTHING
    RETURNING tenant_id, recipient_id, version
)
UPDATE store.inboxes b
SET version = a.version, unread = b.unread + a.items, unseen = b.unseen + a.items
FROM (SELECT tenant_id, recipient_id, max(version) AS version, count(*) AS items FROM added GROUP BY 1, 2) AS a
WHERE b.tenant_id = a.tenant_id
  AND b.recipient_id = a.recipient_id;
