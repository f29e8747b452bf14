"""Removes absolute paths and secrets from text that is published."""

import os
import re
from typing import Any

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|AUTH|CREDENTIAL|_PWD$", re.IGNORECASE)
# of a URL with user and password, as of a proxy or a database
URL_PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")
# two components or more; not part of a URL, of a relative path, or of base64
ABSOLUTE_PATH = re.compile(r"(?<![\w:/.~…+])(?:[A-Za-z]:\\|/)(?:[^\s/\\'\",;:=]+[/\\])+([^\s/\\'\",;:=]*)")


def secrets() -> list[str]:
    """Values, of eight characters or more, of environment variables named like a key, token or password."""
    return [text for name, text in os.environ.items() if len(text) >= 8 and SECRET_NAME.search(name)]


def without_secrets(text: str, known: list[str] | None = None) -> str:
    """Text with secrets and passwords in URLs replaced. known: the result of `secrets`, if called before."""
    for secret in secrets() if known is None else known:
        text = text.replace(secret, "[secret]")
    return URL_PASSWORD.sub(r"\1:[secret]@", text)


def portable(value: Any) -> Any:
    """Nested dicts and lists with secrets removed from every string, and absolute paths reduced to the file name.

    Idempotent: the result is equal to the input if there was nothing to remove.
    """
    known = secrets()
    home = os.environ.get("HOME", "")

    def clean(node: Any) -> Any:
        if isinstance(node, dict):
            return {clean(key): clean(item) for key, item in node.items()}
        if isinstance(node, list):
            return [clean(item) for item in node]
        if not isinstance(node, str):
            return node
        node = without_secrets(node, known)
        if len(home) > 1:
            node = re.sub(rf"(?<![\w/]){re.escape(home)}(?![\w.-])", "~", node)
        return ABSOLUTE_PATH.sub(r"…/\1", node)

    return clean(value)
