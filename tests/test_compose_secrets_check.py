"""The check that no secret is committed: what it must flag, what it must leave alone, and this checkout."""

import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from conftest import script

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def secrets_check() -> ModuleType:
    return script(CHECKOUT / ".ci" / "secrets_check.py")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that ignores what it must."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)  # noqa: S603, S607 - fixed words
    (tmp_path / ".gitignore").write_text("/.env\n/backups/\n")
    return tmp_path


def commit(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    subprocess.run(["git", "-C", str(folder), "add", "--force", name], check=True)  # noqa: S603, S607 - fixed words


FERNET = "8xkPZKvzCcOfWRVWyUqQ5rWbI9z1f9g1z3x0Qq0hQ9c="  # not a secret: planted
PLANTED = {
    "a committed environment file": (".env", "A=1\n"),
    "an environment file of another name": (".env.production", "A=1\n"),
    "a key file": ("server.pem", "x\n"),
    "a private key in a text": ("notes.md", "-----BEGIN OPENSSH PRIVATE KEY-----\n"),  # not a secret: planted
    "an AWS key": ("notes.md", "key AKIAIOSFODNN7EXAMPLE\n"),  # not a secret: planted
    "a GitHub token": ("notes.md", "ghp_" + "a" * 36),
    "a Fernet key": ("values.yaml", f"key: {FERNET}\n"),
    "a password in compose": ("docker-compose.yaml", "  POSTGRES_PASSWORD: swordfish\n"),
    "a quoted password in compose": ("docker-compose.yaml", '  - "REDIS_PASSWORD=swordfish"\n'),
    "a default behind a variable": ("docker-compose.yaml", "  ROOT: ${S3_ROOT_PASSWORD:-swordfish}\n"),
    "MinIO's default user": ("docker-compose.yaml", "  MINIO_ROOT_USER: minioadmin\n"),  # not a secret: planted
    "Airflow's default login": ("run.sh", "curl -u airflow:airflow x\n"),  # not a secret: planted
    "a login in an address": ("airflow.cfg", "conn = postgresql://who:what@postgres/x\n"),  # not a secret: planted
    "a password in an image": ("Dockerfile", "ENV DB_PASSWORD=swordfish\n"),
    "a password in an image without equals": ("Dockerfile", "ENV DB_PASSWORD swordfish\n"),
    "a default argument of an image": ("Dockerfile", "ARG SECRET_KEY=swordfish\n"),
    "a password in Python": ("settings.py", 'PASSWORD = "swordfish"\n'),
    "an annotated one in Python": ("settings.py", 'password: str = "swordfish"\n'),
    "a keyword argument in Python": ("settings.py", 'connect(user="a", secret_key="swordfish")\n'),
    "a default of the environment in Python": ("settings.py", 'os.environ.get("DB_PASSWORD", "swordfish")\n'),
    "an assignment in a script": ("run.sh", "export AWS_SECRET_ACCESS_KEY=swordfish\n"),
    "one in escaped quotes": ("docker-compose.yaml", '  test: "PGPASSWORD=\\"swordfish\\" psql"\n'),
}
HARMLESS = {
    "a variable that must be set": ("docker-compose.yaml", "  A: ${POSTGRES_PASSWORD:?run make init}\n"),
    "a variable in an address": (
        "docker-compose.yaml",
        "  A: postgresql://mlflow:${DB_PASSWORD:?run make init}@db/x\n",
    ),
    "a default that is empty": ("docker-compose.yaml", "  A: ${POSTGRES_PASSWORD:-}\n"),
    "a shell variable": ("run.sh", 'PGPASSWORD="$$POSTGRES_PASSWORD" psql\nsecret=$(cat key)\n'),
    "a name of a secret elsewhere": ("values.yaml", "existingSecret: pump-ml\ncredentialsSecret: git\n"),
    "an image's argument without a default": ("Dockerfile", "ARG DB_PASSWORD\n"),
    "a value that comes from elsewhere in Python": ("a.py", 'password = os.environ["DB_PASSWORD"]\ntoken = make()\n'),
    "a placeholder in a document": ("a.md", "postgresql://USER:<password>@host and password: the one of .env\n"),
    "hashes of a lock file": ("requirements.lock", f"a==1 --hash=sha256:{'0123456789abcdef' * 4}\n"),
    "a line with a reason": ("a.py", 'password = "x"  # not a secret: a test server takes any\n'),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_planted_secret_is_flagged_and_not_shown(
    planted: tuple[str, str], checkout: Path, secrets_check: ModuleType
) -> None:
    commit(checkout, *planted)
    found = secrets_check.check(checkout)
    assert found
    assert all(line.startswith(planted[0]) for line in found)
    assert "swordfish" not in "".join(found)


@pytest.mark.parametrize("harmless", HARMLESS.values(), ids=HARMLESS)
def test_what_holds_no_secret_is_left_alone(
    harmless: tuple[str, str], checkout: Path, secrets_check: ModuleType
) -> None:
    commit(checkout, *harmless)
    assert secrets_check.check(checkout) == []


def test_an_environment_file_that_git_would_take_is_flagged(checkout: Path, secrets_check: ModuleType) -> None:
    (checkout / ".gitignore").write_text("")
    assert secrets_check.check(checkout) == [".env is not in .gitignore", "backups/any is not in .gitignore"]


def test_a_file_that_is_not_tracked_is_not_looked_at(checkout: Path, secrets_check: ModuleType) -> None:
    (checkout / ".env").write_text("A=1")
    assert secrets_check.check(checkout) == []


@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="this is no checkout")
def test_this_checkout_holds_no_secret(secrets_check: ModuleType) -> None:
    assert secrets_check.check(CHECKOUT) == []
