"""Amazon SES v2.

Shapes follow the SES API v2 reference, "Contents of event data that Amazon SES publishes to Amazon SNS";
docs/sandbox.md lists what is left out.
"""
