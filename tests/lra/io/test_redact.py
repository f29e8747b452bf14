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


def test_paths_are_reduced_to_the_file_name():
    assert portable("log: /home/me/runs/0.log and data.root=/mnt/x/y") == "log: …/0.log and data.root=…/y"


@pytest.mark.parametrize(
    "text",
    [
        "https://wandb.ai/team/lra/runs/ab12",
        "data/listops/x.tsv",
        "train/loss",
        "3 / 4",
        "a and/or b",
        "…/x.bin",
        "~/a/b",
    ],
)
def test_portable_text_is_unchanged(text, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert portable(text) == text


@given(JSON)
def test_portable_is_idempotent(value):
    assert repr(portable(portable(value))) == repr(portable(value))


def test_url_passwords_are_removed():
    assert portable("via http://me:p4ss%20word@proxy:3128/x") == "via http://me:[secret]@proxy:3128/x"
    assert portable("https://wandb.ai:443/team/@me") == "https://wandb.ai:443/team/@me"


@pytest.mark.parametrize(
    "name", ["DB_PASS", "PGPASSWORD", "GIT_AUTH", "MYSQL_PWD", "SSH_PASSPHRASE", "SOME_CREDENTIALS"]
)
def test_secrets_are_found_by_variable_name(monkeypatch, name):
    monkeypatch.setenv(name, "planted-5eed")
    monkeypatch.setenv("PWD", "a-folder")
    assert portable("planted-5eed in a-folder") == "[secret] in a-folder"
