-- name: list_newest
-- Through deliveries_needing_people; the last attempt of each is found by its primary key.
SELECT d.id AS delivery_id, d.notification_id, d.recipient_id, d.category, d.channel, d.address,
       d.template_id, d.template_version, d.reason, d.provider, d.attempt_no AS attempts, a.outcome AS last_outcome,
       a.status_code AS last_status_code, a.detail AS last_detail, d.created_at, d.expires_at, d.ended_at
FROM store.deliveries d
LEFT JOIN store.attempts a ON a.shard = d.shard AND a.delivery_id = d.id AND a.no = d.attempt_no
WHERE d.tenant_id = %(tenant_id)s
  AND d.state = 'dead'
  AND (%(after_time)s::timestamptz IS NULL OR (d.ended_at, d.id) < (%(after_time)s, %(after_id)s::uuid))
  AND (%(category)s::text IS NULL OR d.category = %(category)s)
  AND (%(channel)s::text IS NULL OR d.channel = %(channel)s)
  AND (%(provider)s::text IS NULL OR d.provider = %(provider)s)
  AND (%(reason)s::text IS NULL OR d.reason = %(reason)s)
  AND (%(template_id)s::text IS NULL OR d.template_id = %(template_id)s)
  AND (%(recipient_id)s::text IS NULL OR d.recipient_id = %(recipient_id)s)
  AND (%(since)s::timestamptz IS NULL OR d.ended_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR d.ended_at < %(until)s)
ORDER BY d.ended_at DESC, d.id DESC
LIMIT %(limit)s;

-- name: act_for
-- Whose key asked, for the audit log; until the transaction ends.
SELECT set_config('landed.actor', %(actor)s, true);

-- name: replay
-- What psql calls too, with the caller's tenant.
SELECT delivery AS delivery_id, notification AS notification_id, recipient AS recipient_id, template, standing, verdict,
       explanation, replayed_as
FROM landed.replay(
    delivery_id => %(delivery_id)s,
    tenant => %(tenant)s,
    template_id => %(template_id)s,
    category => %(category)s,
    provider => %(provider)s,
    since => %(since)s,
    until => %(until)s,
    max_rows => %(max_rows)s,
    commit => %(commit)s,
    force => %(force)s,
    reason => %(reason)s,
    expires_at => %(expires_at)s);
