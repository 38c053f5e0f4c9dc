"""What Amazon's services have in common: signed requests, and the SNS topics that their events go through.

Shapes follow the IAM User Guide and the SNS Developer Guide; docs/sandbox.md lists what is left out.
"""
