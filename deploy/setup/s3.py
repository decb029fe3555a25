"""The object store's buckets, and a user for each client: run once before every start of the stack, safe to run again.

Buckets keep every version of an object, but former ones of scratch; what an interrupted upload left is dropped
after a week at the latest. A client may list, read and write its own buckets; none may delete, change settings or
rights, or touch another's bucket.

A store with MinIO's API gets its users and policies through the admin API. On Ceph the users were made by
``s3-users.sh``, and policies of the buckets name them. At the end every client's own keys are tried.
"""

import json
import os
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped] # it ships no types
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

CLIENTS = {"mlflow": ("mlflow",), "pump-ml": ("pump-data", "models")}
"""Client -> its buckets."""
BUCKETS = tuple(bucket for buckets in CLIENTS.values() for bucket in buckets)
BUCKET_ACTIONS = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
OBJECT_ACTIONS = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject"]
CEPH_LIFECYCLE = {
    "ID": "interrupted-uploads",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
}
"""MinIO refuses such a rule, and needs none: it ends interrupted uploads after a day by itself."""
DATA = "pump-data"
CHECKPOINTS_LIFECYCLE = {
    "ID": "checkpoints",
    "Status": "Enabled",
    "Filter": {"Prefix": "checkpoints/"},
    "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
}
"""Each epoch of a network replaces its checkpoint: scratch, of which the former versions are of no use."""
MODELS = "models"
OUTBOX_LIFECYCLE = {
    "ID": "outbox",
    "Status": "Enabled",
    "Filter": {"Prefix": "outbox/"},
    "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
}
"""A model's bundle is of no use once its files are there: next to nothing takes its place."""
CEPH_PUBLIC = {"IgnorePublicAcls": True}
"""What an object's own rights say to the public counts for nothing. S3's other blocks do harm on Ceph 20: with
BlockPublicAcls only the owner may write, and those for policies take each policy that allows something for public."""
CEPH_DENIED = ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectAcl", "s3:PutObjectVersionAcl"]
"""On Ceph an object belongs to who wrote it, so these need a plain no. (A denied NotAction denies nothing there.)"""
WAIT_S = 120
SETTLE_S = 20
"""How long rights that were just set may take to hold on every node of the store."""
PROBE = "pump-ml-setup/probe"
"""Key that is asked for when rights are tried; nothing is ever stored under it."""
WRONG_MD5 = "AAAAAAAAAAAAAAAAAAAAAA=="


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def setting(name: str) -> str:
    """A variable that must be set."""
    if not (value := os.environ.get(name)):
        raise SystemExit(f"{name} is not set; docker-compose.yaml sets it from .env, which `make init` writes")
    return value


def keys(client: str) -> tuple[str, str]:
    """Access and secret key of a client."""
    name = client.upper().replace("-", "_")
    return setting(f"S3_{name}_ACCESS_KEY"), setting(f"S3_{name}_SECRET_KEY")


def connect(access: str | None, secret: str | None, *, attempts: int = 4) -> Any:
    """A boto3 client with these keys, or anonymous; it asks the store directly, never through a proxy."""
    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": attempts},
        proxies={},
        s3={"addressing_style": "path"},
        signature_version="s3v4" if access else UNSIGNED,
    )
    return boto3.client(
        "s3",
        endpoint_url=setting("S3_ENDPOINT"),
        region_name="us-east-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=config,
    )


def code(error: ClientError) -> str:
    """The store's name of an error."""
    return str(error.response["Error"]["Code"])


def wait(root: Any) -> str:
    """Wait until the store answers; returns the id of its owner."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return str(root.list_buckets()["Owner"]["ID"])
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["ResponseMetadata"]["HTTPStatusCode"] in (401, 403):
                raise SystemExit(f"the store refuses S3_ROOT_USER and S3_ROOT_PASSWORD of .env: {error}") from error
            if time.monotonic() > deadline:
                raise SystemExit(f"no store at {setting('S3_ENDPOINT')} after {WAIT_S} s: {error}") from error
            time.sleep(1)


def make_bucket(root: Any, bucket: str) -> None:
    """Make a bucket that keeps versions, or bring the one that is there to it."""
    done = []
    if bucket not in {known["Name"] for known in root.list_buckets()["Buckets"]}:
        root.create_bucket(Bucket=bucket)
        done.append("made")
    if root.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        root.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        done.append("versioning on")
    say(f"bucket {bucket}: {', '.join(done) or 'as it was'}")


def allow(buckets: tuple[str, ...], principal: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Statements of a policy that lets a client use its buckets; with a principal when they stand in a bucket's own."""
    who = {"Principal": principal} if principal else {}
    arns = [f"arn:aws:s3:::{bucket}" for bucket in buckets]
    return [
        {"Effect": "Allow", **who, "Action": BUCKET_ACTIONS, "Resource": arns},
        {"Effect": "Allow", **who, "Action": OBJECT_ACTIONS, "Resource": [f"{arn}/*" for arn in arns]},
    ]


def minio_admin() -> MinioAdmin | None:
    """The store's admin API, or None where it has none."""
    endpoint = urlsplit(setting("S3_ENDPOINT"))
    admin = MinioAdmin(
        endpoint=endpoint.netloc,
        credentials=StaticProvider(setting("S3_ROOT_USER"), setting("S3_ROOT_PASSWORD")),
        secure=endpoint.scheme == "https",
        http_client=PoolManager(
            timeout=Timeout(30), retries=Retry(total=8, backoff_factor=0.5, status_forcelist=[500, 502, 503, 504])
        ),
    )
    try:
        admin.user_list()
    except MinioAdminException as error:
        if status(error) in ("404", "405"):  # to any other store this is the address of an object
            return None
        raise
    return admin


def status(error: MinioAdminException) -> str:
    """HTTP status of an error of the admin API."""
    return str(error._code)


def set_minio_user(admin: MinioAdmin, client: str) -> None:
    """Make a client's user, which goes by its access key, and its policy; a user with a former key is disabled."""
    access, secret = keys(client)
    policy = f"pump-ml-client-{client}"
    admin.policy_add(policy, policy={"Version": "2012-10-17", "Statement": allow(CLIENTS[client])})
    known = json.loads(admin.user_list())
    done = []
    if access not in known or not answers(access, secret):
        admin.user_add(access, secret)
        done.append("new secret" if access in known else "made")
    if policy not in known.get(access, {}).get("policyName", "").split(","):
        admin.attach_policy([policy], user=access)
        done.append("policy attached")
    for former, facts in known.items():
        if former != access and policy in facts.get("policyName", "").split(",") and facts["status"] == "enabled":
            admin.user_disable(former)
            done.append("former key disabled")
    say(f"user {client}: {', '.join(done) or 'as it was'}")


def answers(access: str, secret: str) -> bool:
    """Whether the store knows these keys, whatever they may do."""
    try:
        connect(access, secret).list_buckets()
    except ClientError as error:
        return code(error) not in ("InvalidAccessKeyId", "SignatureDoesNotMatch")
    return True


def set_ceph_bucket(root: Any, owner: str, client: str, bucket: str) -> None:
    """Let a client use a bucket, its user having been made by ``s3-users.sh``; end interrupted uploads."""
    user = {"AWS": [f"arn:aws:iam:::user/{client}"]}
    objects = [f"arn:aws:s3:::{bucket}/*"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            *allow((bucket,), user),
            {"Effect": "Deny", "Principal": user, "Action": CEPH_DENIED, "Resource": objects},
            # The owner of the bucket reads objects that others wrote into it, for backups.
            {
                "Effect": "Allow",
                "Principal": {"AWS": [f"arn:aws:iam:::user/{owner}"]},
                "Action": ["s3:GetObject", "s3:GetObjectVersion"],
                "Resource": objects,
            },
        ],
    }
    done = []
    if json.loads(found(root.get_bucket_policy, bucket).get("Policy", "null")) != policy:
        root.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=CEPH_PUBLIC)
        root.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
        done.append(f"opened to {client} only")
    if add_lifecycle(root, bucket, CEPH_LIFECYCLE):
        done.append("interrupted uploads end after 7 days")
    say(f"rights of bucket {bucket}: {', '.join(done) or 'as they were'}")


def add_lifecycle(root: Any, bucket: str, rule: dict[str, Any]) -> bool:
    """Add a rule to those of a bucket, which stay; False if it was there."""
    rules = found(root.get_bucket_lifecycle_configuration, bucket).get("Rules", [])
    if rule["ID"] in {known.get("ID") for known in rules}:
        return False
    root.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [*rules, rule]})
    return True


def found(ask: Any, bucket: str) -> dict[str, Any]:
    """A setting of a bucket, empty if it was never made."""
    try:
        return dict(ask(Bucket=bucket))
    except ClientError as error:
        if code(error) in ("NoSuchBucketPolicy", "NoSuchLifecycleConfiguration"):
            return {}
        raise


def use(s3: Any, bucket: str) -> str | None:
    """Try a client's rights without leaving anything behind; None, or what the store did not let it do."""
    try:
        s3.list_objects_v2(Bucket=bucket, MaxKeys=1)
        upload = s3.create_multipart_upload(Bucket=bucket, Key=PROBE)["UploadId"]
        s3.abort_multipart_upload(Bucket=bucket, Key=PROBE, UploadId=upload)
        # Who may write learns that the digest is wrong; who may not does not come so far.
        s3.put_object(Bucket=bucket, Key=PROBE, Body=b"x", ContentMD5=WRONG_MD5)
    except ClientError as error:
        return None if code(error) == "BadDigest" else str(error)
    return "a write with a wrong digest was taken"


def refused(call: Any, **arguments: Any) -> str | None:
    """None if the store refuses a call by the caller's rights, else what it did."""
    try:
        call(**arguments)
    except ClientError as error:
        return None if code(error) == "AccessDenied" else str(error)
    return "was let in"


def wrong(client: str) -> list[str]:
    """What a client's own keys may do and should not, or the reverse; empty if all is as it should be."""
    s3 = connect(*keys(client), attempts=1)
    did: dict[str, str | None] = {}
    for bucket in BUCKETS:
        probe = {"Bucket": bucket, "Key": PROBE}
        if bucket in CLIENTS[client]:
            did[f"using {bucket}"] = use(s3, bucket)
            did[f"deleting in {bucket}"] = refused(s3.delete_object, **probe)
        else:
            did[f"listing {bucket}"] = refused(s3.list_objects_v2, Bucket=bucket)
            did[f"reading in {bucket}"] = refused(s3.get_object, **probe)
            did[f"writing to {bucket}"] = refused(s3.put_object, **probe, Body=b"x", ContentMD5=WRONG_MD5)
    return [f"{what}: {answer}" for what, answer in did.items() if answer]


def verify(client: str) -> None:
    """Try a client's own keys on every bucket.

    Raises:
        SystemExit: its rights are not what they should be.
    """
    deadline = time.monotonic() + SETTLE_S
    while True:
        try:
            mistakes = wrong(client)
        except BotoCoreError as error:
            mistakes = [str(error)]
        if not mistakes:
            break
        if time.monotonic() > deadline:
            raise SystemExit(f"the rights of client {client} are not as they should be: {'; '.join(mistakes)}")
        time.sleep(1)
    for bucket in BUCKETS:
        mine = bucket in CLIENTS[client]
        say(f"client {client}, bucket {bucket}: {'may read and write, not delete' if mine else 'refused'}")


def main() -> None:
    """Everything, in order."""
    root = connect(setting("S3_ROOT_USER"), setting("S3_ROOT_PASSWORD"))
    owner = wait(root)
    for bucket in BUCKETS:
        make_bucket(root, bucket)
    if add_lifecycle(root, DATA, CHECKPOINTS_LIFECYCLE):
        say(f"bucket {DATA}: former versions of checkpoints end after a day")
    if add_lifecycle(root, MODELS, OUTBOX_LIFECYCLE):
        say(f"bucket {MODELS}: former versions of the outbox end after a day")
    admin = minio_admin()
    for client, buckets in CLIENTS.items():
        if admin:
            set_minio_user(admin, client)
        else:
            for bucket in buckets:
                set_ceph_bucket(root, owner, client, bucket)
    for client in CLIENTS:
        verify(client)
    anonymous = connect(None, None)
    for bucket in BUCKETS:
        if did := refused(anonymous.list_objects_v2, Bucket=bucket):
            raise SystemExit(f"bucket {bucket}: an anonymous request {did}")
    say("anonymous requests: refused")


if __name__ == "__main__":
    if sys.argv[1:]:
        raise SystemExit(f"given {sys.argv[1:]}, expected nothing")
    try:
        main()
    except (BotoCoreError, ClientError, MinioAdminException, HTTPError) as error:
        raise SystemExit(f"the store at {setting('S3_ENDPOINT')}: {error}") from error
