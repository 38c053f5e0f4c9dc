"""Who receives Landed's own webhooks: merchants that verify them, and rooms of Slack, Discord and Teams.

Shapes follow the Standard Webhooks specification and the chat vendors' documentation; docs/sandbox.md lists what is
left out.
"""
