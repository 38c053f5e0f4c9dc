"""The provider sandbox: a real HTTP server that stands in for the outside world.

It speaks a provider's wire protocol, signs its webhooks, fails on request, and writes down every call it
receives. It shares no code with the rest of the service, so that a misreading of the protocol cannot agree
with itself.
"""
