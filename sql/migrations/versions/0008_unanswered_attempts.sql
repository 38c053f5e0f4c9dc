-- What got no answer and may be sent again all the same is not known to have failed: unanswered says so, where not_sent claimed
-- more than anybody knew. No row is looked at while the table is locked; that comes in a transaction of its own.

ALTER TABLE store.attempts
    DROP CONSTRAINT IF EXISTS attempts_state_check,
    ADD CONSTRAINT attempts_state_check
        CHECK (state IN ('open', 'ambiguous', 'accepted', 'refused', 'not_sent', 'unanswered', 'duplicate')) NOT VALID;
COMMENT ON COLUMN store.attempts.state IS
    'open: may be under way. ambiguous: its outcome is unknown. accepted: the provider has it. refused: the provider said no. not_sent: '
    'shown never to have been accepted. unanswered: nobody could tell, and another was allowed, because the receiver drops copies by '
    'their id or the category is sent at least once. duplicate: accepted although another attempt was: the alarm that must never sound';
