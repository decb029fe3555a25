#!/bin/sh
# Users of a Ceph store: one for each client of the stack. Only a tool of Ceph's own image can make them; on any other
# image (MinIO's API: s3.py makes the users there) this does nothing and succeeds. It also lets a store of one disk
# survive a pause of its host.
# Safe to run again: what is there stays, keys that were changed in .env are set, and former keys stop working.
set -eu

if ! command -v radosgw-admin >/dev/null 2>&1; then
  echo "no radosgw-admin in this image: s3.py makes the users"
  exit 0
fi
export CEPH_CONF="${CEPH_CONF:-/data/ceph.conf}"
[ -r "$CEPH_CONF" ] || { echo "$CEPH_CONF cannot be read: mount the store's volume at /data" >&2; exit 1; }

admin() { # bounded: without a monitor radosgw-admin waits for ever
  timeout 60 radosgw-admin "$@" 2>/tmp/radosgw-admin.log
}

keys() { # keys UID: the access keys of a user, a line each
  admin user info --uid="$1" | python3 -c 'import json, sys; [print(key["access_key"]) for key in json.load(sys.stdin)["keys"]]'
}

holds() { # holds UID ACCESS SECRET, true if this pair is the user's only one; the secret is never printed
  admin user info --uid="$1" | WANTED="$2 $3" python3 -c '
import json, os, sys
pairs = [key["access_key"] + " " + key["secret_key"] for key in json.load(sys.stdin)["keys"]]
sys.exit(pairs != [os.environ["WANTED"]])'
}

user() { # user UID ACCESS SECRET [OPTION...]: the user has exactly this pair of keys
  uid=$1 access=$2 secret=$3
  shift 3
  if ! admin user info --uid="$uid" >/dev/null; then
    admin user create --uid="$uid" --display-name="$uid" --access-key="$access" --secret-key="$secret" "$@" >/dev/null
    echo "user $uid: made"
  elif holds "$uid" "$access" "$secret"; then
    echo "user $uid: as it was"
  else
    admin user modify --uid="$uid" --access-key="$access" --secret-key="$secret" >/dev/null
    for former in $(keys "$uid"); do
      [ "$former" = "$access" ] || admin key rm --uid="$uid" --access-key="$former" >/dev/null
    done
    echo "user $uid: new keys"
  fi
}

cluster() { # a command to the monitor, tried three times: it may be busy
  for _ in 1 2 3; do
    timeout 60 ceph "$@" && return 0
    sleep 2
  done
  return 1
}

lasting_lease() { # a lone OSD that slept through its read lease (16 s) lets some requests wait for ever, in Ceph 18
  ratio=60 # of the heartbeat's grace of 20 s; with one OSD there is nobody else whose writes the lease would guard from
  command -v ceph >/dev/null 2>&1 || return 0
  osds=$(cluster osd ls) && now=$(cluster config get osd osd_pool_default_read_lease_ratio) || return 1
  if [ "$osds" != 0 ] || [ "${now%%.*}" = "$ratio" ]; then return 0; fi
  # It comes back within seconds, with the new lease.
  cluster config set osd osd_pool_default_read_lease_ratio "$ratio" && cluster osd down 0 || return 1
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    if admin user info --uid=pump-ml >/dev/null; then return 0; fi
    sleep 1
  done
  return 1
}

trap '[ $? -eq 0 ] || cat /tmp/radosgw-admin.log >&2' EXIT
# The store's owner takes its keys from the environment at its first start only; later ones are set here.
[ -z "${S3_ROOT_USER:-}" ] || user "${S3_ROOT_UID:-minio}" "$S3_ROOT_USER" "$S3_ROOT_PASSWORD"
# A client makes no buckets of its own (-1).
user mlflow "$S3_MLFLOW_ACCESS_KEY" "$S3_MLFLOW_SECRET_KEY" --max-buckets=-1
user pump-ml "$S3_PUMP_ML_ACCESS_KEY" "$S3_PUMP_ML_SECRET_KEY" --max-buckets=-1
lasting_lease || echo "the store keeps its short lease: after a pause of this host it may have to be restarted" >&2
