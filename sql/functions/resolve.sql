-- resolve: an operator settles what no evidence has settled yet, and answers for it: whether the provider has a message
-- whose outcome is unknown. "sent" is not "delivered": that still needs evidence, which is asked for at once.
CREATE FUNCTION landed.resolve(delivery_id uuid, verdict text, reason text, tenant text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    d store.deliveries := landed._find_delivery(resolve.delivery_id, resolve.tenant);
    a store.attempts;
BEGIN
    PERFORM landed._need_reason(resolve.reason);
    IF verdict IS NULL OR verdict NOT IN ('sent', 'not_sent') THEN
        PERFORM landed._refuse('invalid_parameter_value', 'verdict', 'must be sent or not_sent',
                               format('It is %L.', verdict), 'sent: the provider has it. not_sent: it never took it.');
    END IF;
    SELECT q.* INTO d FROM store.deliveries q WHERE q.shard = d.shard AND q.id = d.id FOR UPDATE;
    SELECT q.* INTO a FROM store.attempts q
    WHERE q.shard = d.shard AND q.delivery_id = d.id AND q.no = d.attempt_no AND q.state = 'ambiguous';
    IF d.state <> 'ambiguous' OR NOT FOUND THEN
        PERFORM landed._refuse('object_not_in_prerequisite_state', 'delivery_id',
            format('it is %s: there is nothing to resolve', d.state),
            'Only a delivery whose last attempt has an unknown outcome can be resolved.',
            'What has ended is for landed.replay.');
    END IF;
    IF verdict = 'sent' THEN
        PERFORM landed._resolve_sent(d, a);
    ELSE
        PERFORM landed._resolve_not_sent(d, a);
    END IF;
    PERFORM landed._audit('resolve', d.tenant_id, 'delivery ' || d.id, resolve.reason,
                          jsonb_build_object('verdict', verdict, 'attempt_no', a.no));
    INSERT INTO store.events (shard, id, tenant_id, notification_id, delivery_id, attempt_no, kind, source, data)
    VALUES (d.shard, store.new_id(d.shard), d.tenant_id, d.notification_id, d.id, a.no,
            CASE verdict WHEN 'sent' THEN 'resolved_found' ELSE 'resolved_not_sent' END, 'operator',
            jsonb_build_object('reason', resolve.reason));
    RETURN CASE verdict WHEN 'sent' THEN 'sent' ELSE 'queued' END;
END
$$;
COMMENT ON FUNCTION landed.resolve IS
    'Settles a delivery whose outcome is unknown, as sent or not_sent; returns its new state';

CREATE FUNCTION landed._resolve_sent(d store.deliveries, a store.attempts) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE store.attempts q
    SET state = 'accepted', outcome = 'accepted', detail = 'an operator found it accepted', closed_at = now()
    WHERE q.shard = a.shard AND q.delivery_id = a.delivery_id AND q.no = a.no;
    UPDATE store.deliveries q
    SET state = 'sent', reason = NULL, sent_at = a.opened_at, due_at = now(), lookups = 0, updated_at = now(),
        provider_message_id = coalesce(q.provider_message_id, a.provider_message_id)
    WHERE q.shard = d.shard AND q.id = d.id;
END
$$;
COMMENT ON FUNCTION landed._resolve_sent IS 'The provider has it; whether it was delivered is asked at once';

CREATE FUNCTION landed._resolve_not_sent(d store.deliveries, a store.attempts) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    -- No call can still be under way so long after its intent was written (I6, I7): gate, call and the provider's own
    -- settling together stay under it.
    quarantine CONSTANT interval := '2 minutes';
BEGIN
    IF a.opened_at > now() - quarantine THEN
        PERFORM landed._refuse('object_not_in_prerequisite_state', 'delivery_id', 'its call may still be under way',
                               format('The attempt was opened at %s.', a.opened_at),
                               format('Try again after %s.', a.opened_at + quarantine));
    END IF;
    UPDATE store.attempts q
    SET state = 'not_sent', detail = 'an operator found it was never accepted', closed_at = now()
    WHERE q.shard = a.shard AND q.delivery_id = a.delivery_id AND q.no = a.no;
    UPDATE store.deliveries q
    SET state = 'queued', reason = 'retry', due_at = now(), updated_at = now()
    WHERE q.shard = d.shard AND q.id = d.id;
END
$$;
COMMENT ON FUNCTION landed._resolve_not_sent IS 'The provider never took it: a new attempt may open';
