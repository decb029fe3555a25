"""`make init`: .env is written once, completed after an upgrade, and one secret at a time gets a new value."""

import base64
import multiprocessing
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, MultiFernet

from pump_ml.compose import environment
from pump_ml.compose.environment import SECRETS, in_force, initialise, read, rotate
from pump_ml.errors import ConfigurationError, UnknownNameError

CHECKOUT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stack's host is a Unix")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a compose file is."""
    (tmp_path / "docker-compose.yaml").write_text("services: {}\n")
    return tmp_path


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_first_call_writes_every_secret_for_the_owner_only(folder: Path) -> None:
    before = os.umask(0)
    try:
        values, done = initialise(folder)
    finally:
        os.umask(before)
    assert set(values) == set(SECRETS)
    assert len(set(values.values())) == len(values), "two secrets are the same"
    assert mode(folder / ".env") == 0o600
    assert names(folder) == [".env", "docker-compose.yaml"]
    assert len(done) == 1


def test_the_compose_file_asks_for_no_secret_that_is_not_made_and_every_one_that_is(folder: Path) -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", (CHECKOUT / "docker-compose.yaml").read_text(encoding="utf-8")))
    assert asked == set(initialise(folder)[0])


def test_values_are_what_the_services_take(folder: Path) -> None:
    values, _ = initialise(folder)
    for name, value in values.items():
        if name == environment.FERNET:
            assert len(base64.urlsafe_b64decode(value)) == 32
            Fernet(value)
        else:
            assert re.fullmatch(r"[A-Za-z0-9]{20,40}", value), name
    assert {len(values[f"S3_{client}_ACCESS_KEY"]) for client in ("MLFLOW", "PUMP_ML")} == {20}
    assert len(values["S3_ROOT_USER"]) == 20
    assert len(values["S3_ROOT_PASSWORD"]) == 40


def test_two_stacks_have_nothing_in_common(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "docker-compose.yaml").touch()
    assert not set(initialise(folder)[0].values()) & set(initialise(other)[0].values())


def test_a_second_call_changes_nothing(folder: Path) -> None:
    values, _ = initialise(folder)
    before = (folder / ".env").stat()
    assert initialise(folder) == (values, [])
    after = (folder / ".env").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_names_that_an_upgrade_brought_are_added_and_the_rest_is_kept(folder: Path) -> None:
    file = folder / ".env"
    old = "# mine\nPOSTGRES_PASSWORD=as-it-was\nAIRFLOW_PORT=8081"
    file.write_text(old)
    file.chmod(0o600)
    values, done = initialise(folder)
    assert file.read_text().startswith(old + "\n")
    assert values["POSTGRES_PASSWORD"] == "as-it-was"  # noqa: S105 - a test's own
    assert values["AIRFLOW_PORT"] == "8081"
    assert set(values) == {*SECRETS, "AIRFLOW_PORT"}
    assert "REDIS_PASSWORD" in done[0]
    assert mode(file) == 0o600


def test_a_file_that_others_may_read_is_closed_and_said_so(folder: Path) -> None:
    initialise(folder)
    (folder / ".env").chmod(0o644)
    _, done = initialise(folder)
    assert mode(folder / ".env") == 0o600
    assert "mode 644" in done[0]


BROKEN = {
    "a line that assigns nothing": ("hello\n", "line 1: expected NAME=value"),
    "a space before the equals sign": ("A =1\n", "line 1: expected NAME=value"),
    "a name that stands twice": ("A=1\nA=2\n", "line 2: A stands there twice"),
    "an empty secret": ("REDIS_PASSWORD=\n", "line 1: REDIS_PASSWORD is empty"),
    "a secret that breaks an address": ("REDIS_PASSWORD=a@b/c\n", "line 1: REDIS_PASSWORD is empty, in quotes"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_used_is_named_and_left_as_it_was(folder: Path, text: str, message: str) -> None:
    (folder / ".env").write_text(text)
    (folder / ".env").chmod(0o600)
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        initialise(folder)
    assert (folder / ".env").read_text() == text
    assert names(folder) == [".env", "docker-compose.yaml"]


def test_a_broken_line_is_not_shown_since_it_may_be_a_secret(folder: Path) -> None:
    (folder / ".env").write_text("swordfish\n")
    (folder / ".env").chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        initialise(folder)
    assert "swordfish" not in str(caught.value)


def test_a_link_in_the_place_of_the_file_is_not_followed(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("A=1\n")
    (folder / ".env").symlink_to(target)
    with pytest.raises(ConfigurationError, match="plain file of your own"):
        initialise(folder)
    assert target.read_text() == "A=1\n"


def test_without_a_compose_file_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has no docker-compose\.yaml"):
        initialise(tmp_path)
    assert names(tmp_path) == []


def test_many_at_once_agree_on_one_file(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        made = pool.map(initialise, [folder] * 8)
    assert all(values == made[0][0] for values, _ in made)
    assert sum(bool(done) for _, done in made) == 1


def test_a_rotation_changes_one_value_and_leaves_no_copy_of_the_old(folder: Path) -> None:
    before, _ = initialise(folder)
    assert "make up" in rotate(folder, "REDIS_PASSWORD")
    after = read(folder / ".env")
    assert {name for name in before if before[name] != after[name]} == {"REDIS_PASSWORD"}
    assert mode(folder / ".env") == 0o600
    assert names(folder) == [".env", "docker-compose.yaml"]


def test_after_its_rotation_the_fernet_key_still_reads_what_the_old_one_wrote(folder: Path) -> None:
    written = Fernet(initialise(folder)[0][environment.FERNET]).encrypt(b"a connection")
    assert "rotate-fernet-key" in rotate(folder, environment.FERNET)
    pair = read(folder / ".env")[environment.FERNET].split(",")
    assert len(pair) == 2
    assert MultiFernet([Fernet(key) for key in pair]).decrypt(written) == b"a connection"
    with pytest.raises(ConfigurationError, match="last rotation was not finished"):
        rotate(folder, environment.FERNET)


def test_a_secret_that_the_shell_exports_is_told_since_compose_would_prefer_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, _ = initialise(folder)
    monkeypatch.setenv("REDIS_PASSWORD", values["REDIS_PASSWORD"])
    assert in_force(folder / ".env") == values
    monkeypatch.setenv("POSTGRES_PASSWORD", "")
    monkeypatch.setenv("MLFLOW_SECRET_KEY", "exported-for-something-else")
    with pytest.raises(ConfigurationError, match="unset POSTGRES_PASSWORD MLFLOW_SECRET_KEY") as told:
        in_force(folder / ".env")
    assert "something-else" not in str(told.value)


def test_make_up_starts_nothing_without_secrets_or_with_others(folder: Path) -> None:
    def up(**exported: str) -> str:
        command = ["make", "--file", str(CHECKOUT / "Makefile"), "up", "COMPOSE=false", f"PYTHON={sys.executable}"]
        done = subprocess.run(  # noqa: S603 - our own words
            command, cwd=folder, env={**os.environ, "PYTHONPATH": str(CHECKOUT), **exported},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        return done.stderr

    assert "`make init` makes one" in up()
    initialise(folder)
    assert "unset REDIS_PASSWORD" in up(REDIS_PASSWORD="other")  # noqa: S106 - not the stack's
    assert "unset" not in up()


def test_all_are_rotated_but_the_fernet_key(folder: Path) -> None:
    before, _ = initialise(folder)
    assert "AIRFLOW_FERNET_KEY is as it was" in rotate(folder, "all")
    after = read(folder / ".env")
    assert {name for name in SECRETS if after[name] == before[name]} == {"AIRFLOW_FERNET_KEY"}


def test_a_rotation_of_an_unknown_name_names_its_neighbour(folder: Path) -> None:
    initialise(folder)
    with pytest.raises(UnknownNameError, match="Did you mean 'REDIS_PASSWORD'"):
        rotate(folder, "REDIS_PASWORD")


def test_a_rotation_needs_a_file(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="`make init` makes one"):
        rotate(folder, "REDIS_PASSWORD")


MAIN = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("pump_ml.compose.environment", run_name="__main__")
"""


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As `make init` calls it: no package but the standard library can be imported."""
    return subprocess.run(  # noqa: S603 - this interpreter, fixed words
        [sys.executable, "-I", "-S", "-c", MAIN, str(CHECKOUT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def test_the_command_needs_only_the_standard_library_and_prints_the_same_logins_each_time(folder: Path) -> None:
    first, second = command(folder), command(folder)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    values = read(folder / ".env")
    shown = [name for name in SECRETS if values[name] in first.stdout]
    assert shown == [
        "MLFLOW_ADMIN_PASSWORD",
        "MLFLOW_OP_PASSWORD",
        "MLFLOW_VIEWER_PASSWORD",
        "AIRFLOW_ADMIN_PASSWORD",
        "AIRFLOW_OP_PASSWORD",
        "AIRFLOW_VIEWER_PASSWORD",
    ], "people's logins and no others"
    assert "http://127.0.0.1:8080" in first.stdout
    assert first.stdout.splitlines()[1:] == second.stdout.splitlines()[1:]
    assert "nothing was changed" in second.stdout


def test_the_command_tells_an_error_in_one_line(folder: Path) -> None:
    done = command(folder, "--rotate", "NONE")
    assert done.returncode == 1
    assert done.stderr.startswith("UnknownNameError: unknown secret 'NONE'")
    assert len(done.stderr.splitlines()) == 1


def test_the_addresses_follow_the_ports_of_the_file(folder: Path) -> None:
    initialise(folder)
    with (folder / ".env").open("a") as file:
        file.write("AIRFLOW_PORT=8081\n")
    assert "http://127.0.0.1:8081" in command(folder).stdout
