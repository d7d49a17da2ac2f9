"""Credentials of ``s3://``: what the environment says, and what the files of AWS' own tools say.

The object-store library reads the environment by itself, and asks the machine's metadata service where nothing is said
there; it does not read those files.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

_NAMED = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def from_files(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What ``~/.aws/credentials`` and ``~/.aws/config`` say of the profile, where the environment names no credentials.

    Returns:
        Settings of the object-store library by name: keys, and the region and endpoint where the environment has none.
    """
    profile, found = env.get("AWS_PROFILE", "default"), {}
    if not is_named(env):
        keys = _section(env.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), profile)
        found.update({key: keys[key] for key in _KEYS if key in keys})
    section = profile if profile == "default" else f"profile {profile}"
    said = _section(env.get("AWS_CONFIG_FILE", "~/.aws/config"), section)
    if "region" in said and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & env.keys():
        found["aws_region"] = said["region"]
    if "endpoint_url" in said and endpoint(env) is None:
        found["aws_endpoint"] = said["endpoint_url"]
    return found


def is_named(env: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment says where credentials are, or that none are needed."""
    unsigned = env.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes", "on", "y")
    return unsigned or any(env.get(name) for name in _NAMED)


def endpoint(env: Mapping[str, str] = os.environ) -> str | None:
    """The address of an S3-compatible server that the environment names."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((env[name] for name in names if env.get(name)), None)


def _section(file: str, name: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(Path(file).expanduser(), encoding="utf-8")
        return dict(parser[name]) if name in parser else {}
    except (configparser.Error, OSError, UnicodeDecodeError, RuntimeError):
        return {}
