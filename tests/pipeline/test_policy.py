"""The S3 policy of docs/operations.md, given to a user of a real S3 server: it suffices, and allows no more."""

import re
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest

from pipeline.errors import ConfigError
from pipeline.page import page
from tests.flow import DIGITS, run_here
from tests.helpers import ROOT, rows
from tests.proxied import s3_client
from tests.weed import Weed

SHARDS = sorted((DIGITS / "shards").glob("*.tar"))


@pytest.fixture
def allowed(weed: Weed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """This process is a user whom the policy allows something, and nothing else does."""
    (policy,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    keys = {
        "aws_access_key_id": weed.env["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": weed.env["AWS_SECRET_ACCESS_KEY"],
    }
    address = {"endpoint_url": weed.env["AWS_ENDPOINT_URL"], "region_name": weed.env["AWS_DEFAULT_REGION"]}
    iam = botocore.session.get_session().create_client("iam", **address, **keys)
    iam.create_user(UserName="nightly")
    iam.put_user_policy(UserName="nightly", PolicyName="docs", PolicyDocument=policy)
    key = iam.create_access_key(UserName="nightly")["AccessKey"]
    weed.fs().mkdir("photos")
    weed.put_tree(DIGITS / "model", "photos/models/digits")
    weed.fs().put_file(str(SHARDS[0]), "photos/incoming/0.tar")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    env = weed.env | {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    with s3_client(env, monkeypatch):
        yield
    iam.delete_access_key(UserName="nightly", AccessKeyId=key["AccessKeyId"])


@pytest.mark.torture
@pytest.mark.usefixtures("allowed")
def test_the_policy_suffices_and_allows_no_more(weed: Weed) -> None:
    source, output, model = "s3://photos/incoming/", "s3://photos/labels", "s3://photos/models/digits"
    assert run_here(source, output, model=model) == 0
    weed.fs().put_file(str(SHARDS[1]), "photos/incoming/1.tar")
    assert run_here(source, output, model=model) == 0
    assert run_here(source, output, model=model, overwrite=True) == 0
    assert set(rows("photos/labels", weed.fs())["status"].to_pylist()) == {"ok"}
    page.write(output)
    with pytest.raises(ConfigError, match="--output s3://photos/incoming/labels"):
        run_here(source, "s3://photos/incoming/labels", model=model)
    weed.fs().put_file(str(SHARDS[0]), "inb/policy/0.tar")
    with pytest.raises(ConfigError, match="s3://inb/policy"):
        run_here("s3://inb/policy/", output, model=model)
