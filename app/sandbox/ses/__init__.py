"""Amazon SES v2 and the SNS topic its events go through.

Shapes follow the SES API v2 reference, "Contents of event data that Amazon SES publishes to Amazon SNS" and the SNS
developer guide; docs/sandbox.md lists what is left out.
"""
