"""What the AWS account is set up with."""

from __future__ import annotations

from dataclasses import dataclass

from app.sandbox.config import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class SesSettings:
    access_key_id: str = setting("AKIASANDBOXLANDED000", "Access key id that callers of SES must sign with.")
    secret_access_key: str = setting("sandbox-secret-access-key", "The secret of that access key.", secret=True)
    region: str = setting("eu-west-1", "Region of SES and of the SNS topic.")
    configuration_sets: str = setting(
        "landed,landed-tracking", "Configuration sets there are; the first is the default."
    )
    topic_arn: str = setting("arn:aws:sns:eu-west-1:123456789012:landed-events", "SNS topic that events go through.")

    @property
    def known_sets(self) -> list[str]:
        return [name.strip() for name in self.configuration_sets.split(",") if name.strip()]
