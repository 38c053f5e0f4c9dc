-- restore_provider: people give a provider account back. It begins with a tenth of its weight, and gets more in steps, so
-- that what comes back is not buried. One whose breaker is open is tried with the next delivery instead of at its time:
-- that it works is still proven first.
CREATE FUNCTION landed.restore_provider(provider text, reason text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    share_first CONSTANT double precision := 0.1;
    before store.provider_states;
BEGIN
    PERFORM landed._need_reason(restore_provider.reason);
    PERFORM landed._check_provider(restore_provider.provider);
    SELECT p.* INTO before FROM store.provider_states p WHERE p.provider = restore_provider.provider FOR UPDATE;
    IF before.provider IS NULL OR (before.drained_at IS NULL AND before.breaker = 'closed') THEN
        RETURN false;
    END IF;
    UPDATE store.provider_states p
    SET drained_at = NULL,
        drained_by = NULL,
        drain_reason = NULL,
        retry_at = CASE WHEN p.breaker = 'open' THEN now() END,
        since = CASE WHEN p.breaker = 'open' THEN p.since ELSE now() END,
        judge_from = CASE WHEN p.breaker = 'open' THEN p.judge_from ELSE now() END,
        recovering = p.recovering OR p.drained_at IS NOT NULL,
        share = CASE WHEN p.drained_at IS NULL THEN p.share ELSE share_first END,
        share_changed_at = CASE WHEN p.drained_at IS NULL THEN p.share_changed_at ELSE now() END
    WHERE p.provider = restore_provider.provider;
    PERFORM landed._tell_provider('restored', restore_provider.provider, restore_provider.reason,
                                  jsonb_build_object('was_drained', before.drained_at IS NOT NULL, 'breaker', before.breaker));
    PERFORM landed._audit('restore_provider', NULL, 'provider ' || restore_provider.provider, restore_provider.reason,
                          jsonb_strip_nulls(jsonb_build_object(
                              'drained_at', before.drained_at, 'drained_by', before.drained_by,
                              'drain_reason', before.drain_reason, 'breaker', before.breaker)));
    RETURN true;
END
$$;
COMMENT ON FUNCTION landed.restore_provider IS
    'Gives a drained provider account back, and lets one whose breaker is open be tried at once. False when it was neither';
