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

-- name: pick_items
-- Of what had arrived by then and is not archived, the next that the action would change.
SELECT i.id
FROM store.inbox_items i
WHERE i.tenant_id = %(tenant_id)s
  AND i.recipient_id = %(recipient_id)s
  AND i.arrival <= %(version)s
  AND i.archived_at IS NULL
  AND CASE %(action)s::text WHEN 'seen' THEN i.seen_at IS NULL WHEN 'read' THEN i.read_at IS NULL ELSE true END
ORDER BY i.arrival
LIMIT %(limit)s;

-- name: change_items
-- Only what the action changes is touched, so asking twice does no more than asking once. Each changed item takes a
-- version of its own, and the counters move by what changed: unread is neither read nor archived, unseen is neither seen
-- nor archived. Answers what was acknowledged and what was opened for the first time.
WITH wanted AS MATERIALIZED (
    SELECT i.id, row_number() OVER (ORDER BY i.arrival) AS place,
           i.acknowledged_at IS NULL AS unacknowledged, i.opened_at IS NULL AS unopened,
           i.seen_at IS NULL AND i.archived_at IS NULL AS was_unseen,
           i.read_at IS NULL AND i.archived_at IS NULL AS was_unread,
           after.*
    FROM store.inbox_items i
    CROSS JOIN LATERAL (
        SELECT CASE WHEN a.action IN ('ack', 'seen', 'read') THEN coalesce(i.acknowledged_at, now())
                    ELSE i.acknowledged_at END AS acknowledged_at,
               CASE WHEN a.action IN ('seen', 'read') THEN coalesce(i.seen_at, now()) ELSE i.seen_at END AS seen_at,
               CASE WHEN a.action = 'read' THEN coalesce(i.opened_at, now()) ELSE i.opened_at END AS opened_at,
               CASE a.action WHEN 'read' THEN coalesce(i.read_at, now()) WHEN 'unread' THEN NULL
                    ELSE i.read_at END AS read_at,
               CASE a.action WHEN 'archive' THEN coalesce(i.archived_at, now()) WHEN 'unarchive' THEN NULL
                    ELSE i.archived_at END AS archived_at
        FROM (VALUES (%(action)s::text)) AS a(action)
    ) AS after
    WHERE i.tenant_id = %(tenant_id)s
      AND i.recipient_id = %(recipient_id)s
      AND i.id = ANY(%(ids)s::uuid[])
      AND (i.acknowledged_at, i.seen_at, i.opened_at, i.read_at, i.archived_at)
          IS DISTINCT FROM (after.acknowledged_at, after.seen_at, after.opened_at, after.read_at, after.archived_at)
), changed AS (
    UPDATE store.inbox_items i
    SET acknowledged_at = w.acknowledged_at,
        seen_at = w.seen_at,
        opened_at = w.opened_at,
        read_at = w.read_at,
        archived_at = w.archived_at,
        version = b.version + w.place
    FROM wanted w, store.inboxes b
    WHERE i.tenant_id = %(tenant_id)s
      AND i.recipient_id = %(recipient_id)s
      AND i.id = w.id
      AND b.tenant_id = %(tenant_id)s
      AND b.recipient_id = %(recipient_id)s
    RETURNING i.id, i.attempt_no, i.acknowledged_at, i.opened_at, w.unacknowledged, w.unopened,
              (i.read_at IS NULL AND i.archived_at IS NULL)::int - w.was_unread::int AS unread,
              (i.seen_at IS NULL AND i.archived_at IS NULL)::int - w.was_unseen::int AS unseen
), counted AS (
    UPDATE store.inboxes b
    SET version = b.version + c.items, unread = b.unread + c.unread, unseen = b.unseen + c.unseen
    FROM (SELECT count(*) AS items, sum(unread) AS unread, sum(unseen) AS unseen FROM changed) AS c
    WHERE b.tenant_id = %(tenant_id)s
      AND b.recipient_id = %(recipient_id)s
      AND c.items > 0
)
SELECT c.id, c.attempt_no,
       CASE WHEN c.unacknowledged THEN c.acknowledged_at END AS acknowledged_at,
       CASE WHEN c.unopened THEN c.opened_at END AS opened_at
FROM changed c;

-- name: one_snapshot
-- For answers of several statements that must agree.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: get_counts
SELECT b.version, b.unread, b.unseen
FROM store.inboxes b
WHERE b.tenant_id = %(tenant_id)s
  AND b.recipient_id = %(recipient_id)s;

-- name: list_items
SELECT i.id, i.notification_id, i.category, i.title, i.body, i.data, i.arrival, i.version, i.created_at,
       i.acknowledged_at, i.seen_at, i.read_at, i.archived_at
FROM store.inbox_items i
WHERE i.tenant_id = %(tenant_id)s
  AND i.recipient_id = %(recipient_id)s
  AND i.arrival < %(before)s
  AND CASE %(status)s::text
          WHEN 'unread' THEN i.read_at IS NULL AND i.archived_at IS NULL
          WHEN 'archived' THEN i.archived_at IS NOT NULL
          ELSE i.archived_at IS NULL
      END
ORDER BY i.arrival DESC
LIMIT %(limit)s;

-- name: get_items
SELECT i.id, i.notification_id, i.category, i.title, i.body, i.data, i.arrival, i.version, i.created_at,
       i.acknowledged_at, i.seen_at, i.read_at, i.archived_at
FROM store.inbox_items i
WHERE i.tenant_id = %(tenant_id)s
  AND i.recipient_id = %(recipient_id)s
  AND i.id = ANY(%(ids)s::uuid[])
ORDER BY i.arrival DESC;

-- name: changes
-- For many who listen at once: what each is yet to be told, oldest change first, a page of it. Each gets a row even if
-- there is nothing; without a version to go on from, that one row only.
SELECT u.place, b.version AS inbox_version, b.unread, b.unseen, i.*
FROM unnest(%(tenant_ids)s::int[], %(recipient_ids)s::text[], %(afters)s::bigint[])
     WITH ORDINALITY AS u(tenant_id, recipient_id, after, place)
LEFT JOIN store.inboxes b ON b.tenant_id = u.tenant_id AND b.recipient_id = u.recipient_id
LEFT JOIN LATERAL (
    SELECT i.id, i.notification_id, i.category, i.title, i.body, i.data, i.arrival, i.version, i.created_at,
           i.acknowledged_at, i.seen_at, i.read_at, i.archived_at
    FROM store.inbox_items i
    WHERE i.tenant_id = b.tenant_id
      AND i.recipient_id = b.recipient_id
      AND i.version > u.after
    ORDER BY i.version
    LIMIT %(page)s
) AS i ON true
ORDER BY u.place, i.version;

-- name: stale
-- Of those who listen, whose inbox is no longer at the version they were told of.
SELECT DISTINCT u.tenant_id, u.recipient_id
FROM unnest(%(tenant_ids)s::int[], %(recipient_ids)s::text[], %(versions)s::bigint[])
     AS u(tenant_id, recipient_id, version)
JOIN store.inboxes b ON b.tenant_id = u.tenant_id AND b.recipient_id = u.recipient_id
WHERE b.version <> u.version;
