"""Text messages: Twilio, Sinch, Vonage and Amazon, and the phones that get them.

Shapes follow the vendors' references and official clients; docs/sandbox.md lists what is left out.
"""
