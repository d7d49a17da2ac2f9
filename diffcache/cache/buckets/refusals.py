"""What a bucket refused, and why, in one line; and whether it is worth trying again."""

from __future__ import annotations

import re
from dataclasses import dataclass

from diffcache.errors import BucketError, DiffcacheError, MissingError

_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>|\"code\":\s*\"?(\w+)|\"reason\":\s*\"(\w+)\"")
_STATUS = re.compile(r"status code: (\d{3}) ?([A-Za-z ]*)")
_KEYS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "InvalidClientTokenId",
    "AuthFailure",
    "RequestTimeTooSkewed",
    "TokenRefreshRequired",
    "InvalidSecurity",
}
_METADATA = re.compile(
    r"169\.254\.|metadata\.google|fd00:ec2|token request|MissingCredential|security-credentials|"
    r"Missing AccessKeyId|Missing SecretAccessKey|latest/api/token|latest/meta-data"
)
_LOST = re.compile(
    r"error sending request|dns|connect|timed? ?out|operation timed|body|decod|reset|closed", re.IGNORECASE
)
_SET = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


class Refused(Exception):
    """What came is not what was asked for, as when a body breaks off; worth trying again."""


@dataclass(frozen=True)
class Told:
    """An error for people.

    Attributes:
        error: with its line.
        again: whether another try may succeed.
    """

    error: DiffcacheError
    again: bool


def refused(error: Exception, place: str, *, url: str, scheme: str, doing: str) -> Told:
    """The error for what the object-store library raised.

    Args:
        error: its error.
        place: URL of the object.
        url: URL of the bucket.
        scheme: of the URL.
        doing: ``reading``, ``writing``, ``listing`` or ``opening``.
    """
    text = str(error).split("\n\nDebug source")[0]
    if isinstance(error, Refused):
        return Told(BucketError(f"{place}: {text}; try again, and if it stays so, push it again"), again=True)
    code_match, status_match = _CODE.search(text), _STATUS.search(text)
    code = next((group for group in code_match.groups() if group), "") if code_match else ""
    status = int(status_match[1]) if status_match else 0
    said = code or (f"{status} {status_match[2].strip()}".strip() if status_match else "")
    settings = _SET.get(scheme, "what it needs")
    if _METADATA.search(str(error)) or "Account must be specified" in text:
        line = f"{url}: there are no credentials for it here; set {settings}"
        line += " (AWS_SKIP_SIGNATURE=true for a bucket that everybody may read)" if scheme == "s3" else ""
        return Told(BucketError(line), again=False)
    if code == "NoSuchBucket" or "NoSuchBucket" in text:
        return Told(BucketError(f"{url}: there is no such bucket; make it first, or correct the name"), again=False)
    if code in _KEYS or status == 401 or type(error).__name__ == "UnauthenticatedError":
        return Told(
            BucketError(f"{url}: the credentials are refused ({said or 'no reason given'}); check {settings}"),
            again=False,
        )
    if status == 403 or isinstance(error, PermissionError) or type(error).__name__ == "PermissionDeniedError":
        hint = f"use credentials that may; those of {settings} are used" if scheme in _SET else "ask for the right to"
        return Told(BucketError(f"{place}: {doing} is denied ({said or 'no permission'}); {hint}"), again=False)
    if status in (301, 307, 400) and ("redirect" in text.lower() or "Region" in text or "Authorization" in code):
        return Told(BucketError(f"{url}: the bucket is elsewhere ({said}); set AWS_REGION to its region"), again=False)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        if doing == "writing":
            return Told(
                BucketError(f"{place}: it cannot be written ({said or 'not found'}); is the bucket there?"), again=True
            )
        return Told(MissingError(f"{place}: there is no such object"), again=False)
    if status == 0 and _LOST.search(text):
        line = f"{url}: cannot be reached, or breaks off ({_reason(text)}); check the network"
        line += ", and AWS_ENDPOINT_URL where it is no bucket of AWS" if scheme == "s3" else ""
        return Told(BucketError(f"{line}, and run again: it goes on from there"), again=True)
    if status >= 500 or status in (408, 429):
        return Told(
            BucketError(f"{place}: the server fails at {doing} ({said}); run again later: it goes on from there"),
            again=True,
        )
    return Told(BucketError(f"{place}: {doing} failed: {said or _reason(text)}"), again=status == 0)


def _reason(text: str) -> str:
    """The end of the library's line, which says most."""
    line = " ".join(text.split("\n", maxsplit=1)[0].split())
    return line.rpartition(" - ")[2][:200] or line[:200]
