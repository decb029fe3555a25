#!/bin/sh
# Roles and databases of Airflow, MLflow and the ledger: each client its own, none a superuser. Safe to run again: what
# is there stays, and a password that was changed in .env is set. It comes in by the server's socket, which only the
# server and this step share, so it needs no password itself.
set -eu
export PGUSER=postgres PGDATABASE=postgres PGCONNECT_TIMEOUT=10

# The server takes its own password from .env at its first start only.
psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 <<'SQL'
\getenv password POSTGRES_PASSWORD
SELECT format('ALTER ROLE postgres PASSWORD %L', :'password') \gexec
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC; -- everybody may enter these two by default
SQL

for client in airflow mlflow ledger; do
  case $client in
    airflow) password=$AIRFLOW_DB_PASSWORD ;;
    mlflow) password=$MLFLOW_DB_PASSWORD ;;
    ledger) password=$LEDGER_DB_PASSWORD ;;
  esac
  # The password travels by the environment, not by the command line, which other users of the machine may read.
  CLIENT=$client CLIENT_PASSWORD=$password psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 <<'SQL'
\getenv client CLIENT
\getenv password CLIENT_PASSWORD
SELECT format('CREATE ROLE %I', :'client')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'client') \gexec
SELECT format('ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD %L', :'client', :'password') \gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'client', :'client')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'client') \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'client') \gexec
SQL
  echo "database $client: ready, owned by role $client"
done
