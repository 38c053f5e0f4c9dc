"""Postmark: sending, webhooks behind Basic auth, and the search over outbound messages.

Shapes follow Postmark's developer documentation; docs/sandbox.md lists what is left out.
"""
