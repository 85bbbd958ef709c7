"""How an object store is reached."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from megl_core.config import Section


class StorageConfig(Section):
    """An S3 API. Credentials are never settings: boto3 finds them (environment, profile, pod identity)."""

    endpoint_url: str | None = None
    """Of any store but AWS. None: AWS_ENDPOINT_URL, else AWS."""
    region: str | None = None
    """None: AWS_DEFAULT_REGION or the profile's."""
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    """Whether the bucket stands in the path or in the host name."""
    ca_bundle: Path | None = None
    """PEM file of the authorities to trust. None: AWS_CA_BUNDLE, else the usual ones."""
    connect_timeout: float = Field(10, gt=0)
    """Seconds."""
    read_timeout: float = Field(60, gt=0)
    """Seconds without a byte."""
    retries: int = Field(5, ge=0)
    """Of a request, and of a download that makes no progress; the pauses between them grow."""
    checksum: Literal["SHA256", "CRC32"] | None = "SHA256"
    """Sent with each upload, for the store to check. None: for stores that do not know these headers."""
    threads: int = Field(8, ge=1)
    """Files that are transferred at a time."""
