"""Published text has no absolute path and no secret; other text is not changed."""

import base64
import random

import pytest
from hypothesis import given

from helpers.any_json import JSON
from lra.io.redact import portable


def test_base64_is_not_a_path():
    random.seed(0)
    for _ in range(500):
        text = base64.b64encode(b"\x89PNG" + random.randbytes(300)).decode()
        assert portable(text) == text


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("log: /home/me/runs/0.log and data.root=/mnt/x/y", "log: …/0.log and data.root=…/y"),
        ("via http://me:p4ss%20word@proxy:3128/x", "via http://me:[secret]@proxy:3128/x"),
        ("in /home/somebody/a", "in ~/a"),
        *((text, text) for text in ("https://wandb.ai:443/team/@me", "https://wandb.ai/team/lra/runs/ab12")),
        *((text, text) for text in ("data/listops/x.tsv", "train/loss", "3 / 4", "a and/or b", "…/x.bin", "~/a/b")),
    ],
)
def test_only_paths_and_passwords_are_replaced(text, published, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert portable(text) == published


@given(JSON)
def test_portable_is_idempotent(value):
    assert repr(portable(portable(value))) == repr(portable(value))


@pytest.mark.parametrize(
    "name", ["DB_PASS", "PGPASSWORD", "GIT_AUTH", "MYSQL_PWD", "SSH_PASSPHRASE", "SOME_CREDENTIALS"]
)
def test_secrets_are_found_by_variable_name(monkeypatch, name):
    monkeypatch.setenv(name, "planted-5eed")
    monkeypatch.setenv("PWD", "a-folder")
    assert portable("planted-5eed in a-folder") == "[secret] in a-folder"
