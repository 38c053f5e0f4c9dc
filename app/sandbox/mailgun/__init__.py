"""Mailgun's wire protocol: sending, the Events API, suppression lists and the signing key.

Shapes and texts follow Mailgun's OpenAPI description and user manual; docs/sandbox.md lists what is left out.
"""
