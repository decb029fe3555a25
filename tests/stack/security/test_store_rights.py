"""Each key of the store and each role of the database reaches its own data, and no other."""

import json

import pytest
from access import attempt, denied
from harness import Stack

BUCKETS = {"MLFLOW": {"mlflow"}, "PUMP_ML": {"pump-data", "models"}}


@pytest.mark.parametrize("client", BUCKETS)
def test_a_clients_keys_write_its_own_buckets_and_touch_no_other(stack: Stack, client: str) -> None:
    root, s3 = stack.s3(), stack.s3(client)
    key = f"security/{client}"
    for bucket in ("mlflow", "pump-data", "models"):
        root.put_object(Bucket=bucket, Key=key, Body=b"there")
        version = root.head_object(Bucket=bucket, Key=key)["VersionId"]
        there = {"Bucket": bucket, "Key": key}
        if bucket in BUCKETS[client]:
            assert s3.get_object(**there)["Body"].read() == b"there"
            s3.put_object(**there, Body=b"mine")
            assert any(one["Key"] == key for one in s3.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"])
            # What was written over is still there.
            assert root.get_object(**there, VersionId=version)["Body"].read() == b"there"
        else:
            assert denied(s3.list_objects_v2, Bucket=bucket)
            assert denied(s3.get_object, **there)
            assert denied(s3.put_object, **there, Body=b"mine")
            assert denied(s3.create_multipart_upload, **there)
            mine = min(BUCKETS[client])
            assert denied(s3.copy_object, Bucket=mine, Key=key, CopySource=there), "by copying"
        assert denied(s3.delete_object, **there)
        assert denied(s3.delete_object, **there, VersionId=version)
        told = attempt(s3.delete_objects, Bucket=bucket, Delete={"Objects": [{"Key": key}]})
        assert told == "AccessDenied" or not told.get("Deleted")  # this one answers 200 and says inside what failed
        assert denied(s3.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
        assert denied(s3.put_bucket_policy, Bucket=bucket, Policy=json.dumps(EVERYBODY).replace("BUCKET", bucket))
        assert denied(s3.put_object_acl, **there, ACL="public-read")
        assert denied(s3.delete_bucket, Bucket=bucket)
        root.delete_object(**there)
    assert isinstance(attempt(s3.create_bucket, Bucket=f"security-{client.lower().replace('_', '-')}"), str)


EVERYBODY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::BUCKET/*"}],
}


def test_a_database_role_enters_its_own_database_and_is_no_superuser(stack: Stack) -> None:
    rights = stack.sql(
        "postgres",
        "SELECT rolname, (SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database "
        "WHERE datallowconn AND has_database_privilege(rolname, datname, 'CONNECT')), "
        "rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls "
        "FROM pg_roles WHERE rolcanlogin ORDER BY 1",
    )
    assert rights == [
        "airflow|airflow|f",
        "ledger|ledger|f",
        "mlflow|mlflow|f",
        "postgres|airflow,ledger,mlflow,postgres,template1|t",
    ]
    assert stack.sql("postgres", "SELECT count(*) FROM pg_auth_members WHERE member > 16383") == ["0"]


ENTER = """
import os, sys
import psycopg2
own = os.environ["PUMP_ML_LEDGER_URL"].replace("+psycopg2", "")
psycopg2.connect(own).close()
for other in ("airflow", "mlflow", "postgres"):
    try:
        psycopg2.connect(own.rsplit("/", 1)[0] + "/" + other)
    except psycopg2.OperationalError as error:
        assert "permission denied" in str(error), error
    else:
        sys.exit("the ledger's role got into " + other)
try:
    psycopg2.connect(host="postgres", user="postgres", dbname="postgres")
except psycopg2.OperationalError as error:
    assert "no password supplied" in str(error), error
else:
    sys.exit("the superuser needs no password")
"""


def test_the_ledgers_login_opens_no_other_database(stack: Stack) -> None:
    stack.compose("exec", "-T", "airflow-scheduler", "python", "-c", ENTER)
