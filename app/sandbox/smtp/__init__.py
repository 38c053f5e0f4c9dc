"""A mail server to submit to, and the reports that come back from it: DSN (RFC 3464) and ARF (RFC 5965).

Reports are posted as raw messages to the account's webhook, as the pipe of a mail server would.
"""
