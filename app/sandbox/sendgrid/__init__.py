"""SendGrid: v3 mail send, the signed event webhook and the Email Logs API.

Shapes follow SendGrid's OpenAPI descriptions and its Event Webhook Reference; docs/sandbox.md lists what is left out.
"""
