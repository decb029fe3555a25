"""What Kubernetes gets: objects that its schemas accept, no secret, no root, and the compose file's environment."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pump_ml.compose.environment import SECRETS

validate = pytest.importorskip("kubernetes_validate").validate

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.37")
"""The oldest Kubernetes that the chart takes, and the newest with schemas here."""
VALUES = {name: yaml.safe_load((FOLDER / name).read_text()) for name in ("values.yaml", "values-git-sync.yaml")}
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS = sorted(path for path in FOLDER.glob("*.yaml") if path.name not in {*VALUES, "kustomization.yaml"})
ADDRESSES = dict(re.findall(r"^(\w+)=(.*)$", (FOLDER / "addresses.env").read_text(), re.MULTILINE))
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SECRET_NAME = re.compile(r"PASSWORD|SECRET|FERNET_KEY|ACCESS_KEY|TOKEN|ROOT_USER")
NAMED_FOR_ITS_SECRET = {name for name in SECRETS if name.endswith("_DB_PASSWORD")}
"""Variables that only serve to put an address together."""
OPTIONAL = "PUMP_ML_TELEMETRY_URL"
"""What `.env` has where a plant has it: an address with a password."""
DIFFERENT = {
    "AIRFLOW__CORE__EXECUTOR": "the chart sets it",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "the chart names its Service itself",
    "AIRFLOW__API__BASE_URL": "what browsers call it",
    "AIRFLOW__CORE__PARALLELISM": "of one host, or of a cluster",
    "PUMP_ML_MLFLOW_UI": "what browsers call it",
    "MLFLOW_PUBLIC_URL": "what browsers call it",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "what callers call it",
    "S3_ENDPOINT": "in addresses.env",
    "PUMP_ML_EXPECTATIONS": "suites of a deployment want a ConfigMap of their own, mounted by the values",
    "PUMP_ML_TARGETS_FILE": "thresholds of a deployment want a ConfigMap of its own, mounted by the values",
}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pod_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """The pod that a Deployment or a Job makes."""
    template: dict[str, Any] | None = document.get("spec", {}).get("template")
    return template and template["spec"]


OBJECTS = [document for path in MANIFESTS for document in documents(path)]
PODS = {document["metadata"]["name"]: pod for document in OBJECTS if (pod := pod_of(document))}


def task_pod(values: dict[str, Any]) -> dict[str, Any]:
    """A task's pod as the chart's template puts it together from the parts that these values bring."""
    task = values["workers"]["kubernetes"]
    templated = (values[name].replace("{{ .Release.Name }}", "airflow") for name in ("extraEnvFrom", "extraEnv"))
    env_from, env = (yaml.safe_load(text) for text in templated)
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "placeholder-name"},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": task["terminationGracePeriodSeconds"],
            "securityContext": values["securityContexts"]["pod"],
            "volumes": values["volumes"],
            "containers": [{
                "name": "base",
                "image": "{repository}:{tag}".format(**values["images"]["pod_template"]),
                "envFrom": env_from, "env": [*env, *task["env"]],
                "resources": task["resources"],
                "volumeMounts": values["volumeMounts"],
                "securityContext": values["securityContexts"]["containers"],
            }],
        },
    }  # fmt: skip


TASK = task_pod(VALUES["values.yaml"])
CONTAINERS = {
    f"{name}/{container['name']}": container
    for name, pod in {**PODS, "task": TASK["spec"]}.items()
    for container in (*pod.get("initContainers", []), *pod["containers"])
}


def environment(container: str) -> dict[str, str]:
    """Name -> value, where $(X) stands for the secret or the address X."""
    found = dict(ADDRESSES)
    for variable in CONTAINERS[container]["env"]:
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        found[variable["name"]] = f"$({reference['key']})" if reference else variable["value"]
    return found


def composed(service: str) -> dict[str, str]:
    """The environment of a service of the compose file, in the words of `environment`."""
    found = {}
    for name, value in COMPOSE[service]["environment"].items():
        text = re.sub(r"\$\{(\w+):\?run make init}", r"$(\1)", value)
        text = re.sub(r"\$\{(PUMP_ML_\w+):-}", r"$(\1)", text)
        text = text.replace("@postgres/", "@$(POSTGRES_HOST)/").replace("http://s3:9000", "$(S3_ENDPOINT)")
        if not name.startswith("AIRFLOW__CELERY"):
            found[name] = text
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_fits_the_schemas_of_kubernetes(path: Path, version: str) -> None:
    for document in documents(path):
        validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_task_pod_made_of_the_values_fits_the_schemas_of_kubernetes(version: str) -> None:
    validate(TASK, version, strict=True)


def test_a_manifest_with_a_misspelt_field_is_refused_by_the_schemas() -> None:
    with pytest.raises(Exception, match="replica"):
        validate(
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"replica": 2}},
            VERSIONS[0],
            strict=True,
        )


def test_the_kustomization_names_every_manifest_and_no_other() -> None:
    text = (FOLDER / "kustomization.yaml").read_text()
    assert set(re.findall(r"- ([\w-]+\.yaml)", text)) == {path.name for path in MANIFESTS}
    assert set(KUSTOMIZATION["resources"]) <= {path.name for path in MANIFESTS}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which has kustomize in it, is not here")
def test_kustomize_renders_objects_with_pinned_images_in_one_namespace() -> None:
    done = subprocess.run(  # noqa: S603 - fixed words
        ["kubectl", "kustomize", str(FOLDER)],  # noqa: S607 - found on the PATH
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rendered = list(yaml.safe_load_all(done.stdout))
    assert sorted(document["kind"] for document in rendered) == [
        "ConfigMap", "Deployment", "Job", "Job", "Namespace", "NetworkPolicy", "PodDisruptionBudget", "Service",
    ]  # fmt: skip
    for document in rendered:
        validate(document, VERSIONS[-1], strict=True)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "pump-ml"
        if pod := pod_of(document):
            for container in pod["containers"]:
                assert re.fullmatch(rf"[\w./-]+/pump-ml-\w+:{re.escape(PROJECT['version'])}", container["image"])
    config = next(document for document in rendered if document["kind"] == "ConfigMap")
    assert config["metadata"]["name"] == "pump-ml"
    assert config["data"] == ADDRESSES


@pytest.mark.parametrize("container", CONTAINERS)
def test_no_container_may_become_root_or_write_to_its_image(container: str) -> None:
    pod = {**PODS, "task": TASK["spec"]}[container.split("/")[0]]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINERS[container]["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert "memory" in CONTAINERS[container]["resources"]["limits"]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_key_to_the_cluster_and_no_variables_of_its_services(name: str) -> None:
    assert PODS[name]["automountServiceAccountToken"] is False
    # A Service `mlflow` would set MLFLOW_PORT, which MLflow takes for its option; settings refuse a stray PUMP_ML_*.
    assert PODS[name]["enableServiceLinks"] is False


def test_every_image_is_of_this_release() -> None:
    pinned = {image["name"]: image["newTag"] for image in KUSTOMIZATION["images"]}
    assert {container["image"] for name, container in CONTAINERS.items() if "task" not in name} == set(pinned)
    images = VALUES["values.yaml"]["images"]
    assert {*pinned.values(), images["airflow"]["tag"], images["pod_template"]["tag"]} == {PROJECT["version"]}
    assert "latest" not in "".join(path.read_text() for path in FOLDER.iterdir())
    assert VALUES["values-git-sync.yaml"]["dags"]["gitSync"]["ref"] == f"v{PROJECT['version']}"


def test_the_chart_is_told_the_airflow_that_the_image_has() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\napache-airflow=={VALUES['values.yaml']['airflowVersion']} " in lock
    assert "\napache-airflow-providers-cncf-kubernetes==" in lock, "KubernetesExecutor is in no other package"


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(child, f"{path}/{key}")
    else:
        yield path, value


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path) -> None:
    text = path.read_text()
    assert not [address for address in re.findall(r"\w+://[^\s/\"'@]*:([^\s/\"'@]+)@", text) if address[:2] != "$("]
    for secret in re.findall(r"secretKeyRef: \{ ([^}]*) }", text):
        name, key, optional = re.fullmatch(r"name: ([\w-]+), key: (\w+)(, optional: true)?", secret.strip()).groups()
        assert bool(optional) == (key == OPTIONAL), "without an optional one a pod must start too"
        assert name == "pump-ml"
        assert key in {*SECRETS, OPTIONAL}, "the Secret is made of .env, which has no other names"
    if path.suffix == ".env":
        return
    for document in yaml.safe_load_all(text):
        assert document.get("kind") != "Secret"
        for place, value in walk(document):
            key = place.rsplit("/", 1)[-1]
            if isinstance(value, str) and re.search(r"(?i)password|secret(?!Name)|token$|fernet", key):
                assert key in {"secretName", "metadataSecretName"} or value == "pump-ml", place


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_secret_reaches_a_container_by_reference_only(container: str) -> None:
    for variable in CONTAINERS[container]["env"]:
        if SECRET_NAME.search(variable["name"]):
            assert "secretKeyRef" in variable.get("valueFrom", {}), variable["name"]


@pytest.mark.parametrize("container", CONTAINERS)
def test_an_address_is_put_together_of_variables_that_stand_before_it(container: str) -> None:
    known = set(ADDRESSES) if CONTAINERS[container]["envFrom"] == [{"configMapRef": {"name": "pump-ml"}}] else set()
    names = [variable["name"] for variable in CONTAINERS[container]["env"]]
    assert len(names) == len(set(names))
    for variable in CONTAINERS[container]["env"]:
        assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= known, variable["name"]
        known.add(variable["name"])


def test_every_address_is_used_and_names_a_host_that_must_be_replaced() -> None:
    used = set(re.findall(r"\$\((\w+)\)", "".join(path.read_text() for path in FOLDER.glob("*.yaml"))))
    assert used - {*SECRETS} == set(ADDRESSES) - {"PGSSLMODE"}
    for name in ("S3_ENDPOINT", "AIRFLOW_URL", "MLFLOW_URL"):
        assert urllib.parse.urlsplit(ADDRESSES[name]).hostname.split(".")[1] == "example"
    assert urllib.parse.urlsplit(ADDRESSES["MLFLOW_URL"]).hostname in ADDRESSES["MLFLOW_HOSTS"].split(",")


@pytest.mark.parametrize(
    ("service", "container"),
    [
        ("airflow-scheduler", "task/base"), # with LocalExecutor it runs the tasks
        ("airflow-setup", "airflow-setup/setup"),
        ("mlflow-setup", "mlflow-setup/setup"),
        ("mlflow", "mlflow/mlflow"),
        ("s3-setup", "s3-setup/setup"),
    ],
)  # fmt: skip
def test_a_container_has_the_environment_of_its_service_in_the_compose_file(service: str, container: str) -> None:
    here, there = environment(container), composed(service)
    agreed = set(there) - set(DIFFERENT)
    if container == "airflow-setup/setup":  # it runs no scheduler, so it needs none of its settings
        agreed -= {name for name in agreed if name not in here and "$(" not in there[name]}
    assert {name: here.get(name) for name in agreed} == {name: there[name] for name in agreed}
    own = set(here) - set(there) - set(ADDRESSES) - NAMED_FOR_ITS_SECRET - {"AIRFLOW_HEALTH_URL"}
    assert own == set()


def test_the_health_check_of_a_component_is_one_that_the_image_has() -> None:
    script = (ROOT / "deploy" / "setup" / "healthcheck.py").read_text()
    checks = set(re.findall(r"^def ([a-z]\w+)\(", script, re.MULTILINE))
    commands = [
        *(value["livenessProbe"]["command"] for name, value in VALUES["values.yaml"].items()
          if name in {"scheduler", "dagProcessor", "triggerer"}),
        VALUES["values.yaml"]["scheduler"]["startupProbe"]["command"],
        *(CONTAINERS["mlflow/mlflow"][probe]["exec"]["command"] for probe in ("startupProbe", "readinessProbe")),
    ]  # fmt: skip
    assert len(commands) == 6
    for command in commands:
        assert command[:3] == ["python", "-SE", "/opt/pump_ml/setup/healthcheck.py"]
        assert command[3].replace("-", "_") in checks


@pytest.mark.parametrize("name", PODS)
def test_a_command_names_a_script_that_is_there(name: str) -> None:
    for script in re.findall(r"/opt/pump_ml/setup/(\w+\.\w+)", json.dumps(PODS[name])):
        assert (ROOT / "deploy" / "setup" / script).is_file()


QUEUES = """
import json, pathlib, sys
from airflow.dag_processing.dagbag import DagBag
sys.path.insert(0, sys.argv[1])
bag = DagBag(dag_folder=sys.argv[1], bundle_path=pathlib.Path(sys.argv[1]), bundle_name="dags-folder")
tasks = [task for dag in bag.dags.values() for task in dag.tasks]
print("QUEUES" + json.dumps([[task.dag_id, task.task_id, task.queue] for task in tasks]))
"""


@pytest.fixture(scope="module")
def hook() -> dict[str, Any]:
    """The module that the chart lays beside airflow.cfg."""
    module: dict[str, Any] = {}
    exec(VALUES["values.yaml"]["airflowLocalSettings"], module)  # noqa: S102 - our own file
    return module


@pytest.mark.skipif(importlib.util.find_spec("airflow") is None, reason="the airflow extra is not installed")
def test_the_tasks_of_the_queues_that_train_are_those_with_larger_pods(hook: dict[str, Any], tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - this interpreter, fixed words
        [sys.executable, "-c", QUEUES, str(ROOT / "dags")],
        capture_output=True, text=True, check=False,
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tasks = json.loads(done.stdout.split("QUEUES", 1)[1])
    queued = {(dag, task) for dag, task, queue in tasks if queue in ("training", "machines")}
    assert {dag for dag, _ in queued} == {"training", "machines"}
    assert queued == {(dag, task) for dag, names in hook["LARGE"].items() for task in names}


@pytest.mark.parametrize(
    ("dag", "task", "limit"),
    [
        ("training", "train", "4Gi"),
        ("machines", "train", "4Gi"),
        ("training", "plan", "3Gi"),
        ("dataset", "train", "3Gi"),
    ],
)
def test_a_training_task_gets_the_larger_pod(hook: dict[str, Any], dag: str, task: str, limit: str) -> None:
    models = pytest.importorskip("kubernetes.client.models")
    usual = models.V1ResourceRequirements(**VALUES["values.yaml"]["workers"]["kubernetes"]["resources"])
    containers = [models.V1Container(name=name, resources=usual) for name in ("base", "other")]
    pod = models.V1Pod(
        metadata=models.V1ObjectMeta(annotations={"dag_id": dag, "task_id": task}),
        spec=models.V1PodSpec(containers=containers),
    )
    hook["pod_mutation_hook"](pod)
    assert [container.resources.limits["memory"] for container in pod.spec.containers] == [limit, "3Gi"]


def test_mlflow_waits_until_its_database_has_tables_and_users(tmp_path: Path) -> None:
    pytest.importorskip("mlflow.server.auth", reason="the train extra is not installed")
    settings = {**os.environ, "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    (script,) = CONTAINERS["mlflow/wait-for-setup"]["command"][2:]
    setup = [str(ROOT / "deploy" / "setup" / "mlflow_server.py"), "setup"]
    passwords = {name: f"{name}-of-a-test" for name in SECRETS if name.startswith("MLFLOW_")}
    with subprocess.Popen([sys.executable, "-c", script], env=settings, text=True, stdout=subprocess.PIPE) as waiting:  # noqa: S603
        try:
            assert waiting.stdout.readline().startswith("waiting for the job mlflow-setup")
            assert waiting.poll() is None
            subprocess.run([sys.executable, *setup], env={**settings, **passwords}, check=True, capture_output=True)  # noqa: S603
            assert waiting.wait(timeout=60) == 0
        finally:
            waiting.kill()
