"""What a container could reach if somebody broke into it."""

import json
import socket
from pathlib import Path
from typing import Any

from access import ONCE, PUBLISHED, docker
from harness import Stack


def listening(port: int) -> set[str]:
    """Addresses of this host at which something listens on a port."""
    found = set()
    for file, family in (("/proc/net/tcp", socket.AF_INET), ("/proc/net/tcp6", socket.AF_INET6)):
        for line in Path(file).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.add(socket.inet_ntop(family, b"".join(words)))
    return found


def test_three_ports_are_published_and_all_on_loopback(stack: Stack, containers: dict[str, dict[str, Any]]) -> None:
    published = {
        service: {port: bound for port, bound in one["HostConfig"]["PortBindings"].items() if bound}
        for service, one in containers.items()
        if one["HostConfig"]["PortBindings"]
    }
    assert published == {
        service: {inside: [{"HostIp": "127.0.0.1", "HostPort": str(stack.ports[name])}]}
        for service, (name, inside) in PUBLISHED.items()
    }
    for service, one in containers.items():
        assert not one["HostConfig"]["PublishAllPorts"], service
        bound = [bound for ports in (one["NetworkSettings"]["Ports"] or {}).values() for bound in ports or []]
        assert {at["HostIp"] for at in bound} <= {"127.0.0.1"}, service
    for name, port in stack.ports.items():
        assert listening(port) == {"127.0.0.1"}, name


def test_no_container_has_a_way_out_and_only_three_are_reached_from_outside(
    stack: Stack, containers: dict[str, dict[str, Any]]
) -> None:
    inside = json.loads(docker("network", "inspect", f"{stack.project}_inside"))[0]
    assert inside["Internal"]
    for service, one in containers.items():
        networks = {name.removeprefix(f"{stack.project}_") for name in one["NetworkSettings"]["Networks"]}
        assert one["HostConfig"]["NetworkMode"] != "host", service
        assert "outside" not in networks or service in PUBLISHED, service
    outside = json.loads(docker("network", "inspect", f"{stack.project}_outside"))[0]
    assert outside["Options"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"
    at = containers["s3"]["NetworkSettings"]["Networks"][f"{stack.project}_outside"]["IPAddress"]
    tries = {
        ("mlflow", at, 9000): True,  # its neighbour, so the way of asking is right
        ("mlflow", "1.1.1.1", 443): False,
        ("airflow-scheduler", at, 9000): False,  # from the inner network not even to the outer one of the same stack
        ("airflow-scheduler", "1.1.1.1", 443): False,
    }
    for (service, host, port), goes in tries.items():
        connect = f"import socket; socket.create_connection(({host!r}, {port}), 3)"
        done = stack.compose("exec", "-T", service, "python", "-c", connect, check=False)
        assert (done.returncode == 0) == goes, (service, host, port)


def test_no_process_of_any_container_is_root(containers: dict[str, dict[str, Any]]) -> None:
    for service, one in containers.items():
        user = one["Config"]["User"].split(":")[0]
        if service == "volumes-setup":
            continue  # the next test
        assert user not in ("", "0", "root"), service
        if one["State"]["Running"]:
            processes = [
                line.split(None, 2) for line in docker("top", one["Id"], "-eo", "pid,uid,comm").splitlines()[1:]
            ]
            assert processes, service
            assert not [comm for _, uid, comm in processes if uid == "0"], service
            # The engine answers for the host's view; the process's own is all four of its ids.
            ids = Path(f"/proc/{processes[0][0]}/status").read_text()
            assert "\nUid:\t0" not in ids, service
        else:
            assert service in ONCE, service


def test_the_one_root_only_hands_over_volumes(containers: dict[str, dict[str, Any]]) -> None:
    one = containers["volumes-setup"]
    host = one["HostConfig"]
    assert one["Config"]["User"] == "root"
    assert (one["State"]["Running"], one["State"]["ExitCode"]) == (False, 0)
    assert host["CapDrop"] == ["ALL"]
    assert [cap.removeprefix("CAP_") for cap in host["CapAdd"]] == ["CHOWN"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"]
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert one["Config"]["Entrypoint"] == ["sh", "-c"]
    assert one["Config"]["Cmd"] == ["chown postgres:postgres /postgres && chown 10001:10001 /s3 /redis"]
    assert {mount["Type"] for mount in one["Mounts"]} == {"volume"}
    assert not [entry for entry in one["Config"]["Env"] if "PASSWORD" in entry or "SECRET" in entry]


def test_every_container_is_locked_down(containers: dict[str, dict[str, Any]]) -> None:
    for service, one in containers.items():
        host = one["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"] or service == "volumes-setup", service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert not any("unconfined" in option for option in host["SecurityOpt"]), service
        assert not host["Privileged"], service
        assert not host["Devices"], service
        assert host["PidsLimit"] == 4096, service
        assert (host["PidMode"], host["UTSMode"]) == ("", ""), service
        assert host["IpcMode"] == "private", service
        assert host["Init"], service
        assert host["LogConfig"]["Config"]["max-size"], service
        for mount in one["Mounts"]:
            assert "docker.sock" not in mount["Source"] + mount["Destination"], service
            # From the host's folders a container reads; what it writes is a volume's.
            assert mount["Type"] in ("volume", "tmpfs") or not mount["RW"], (service, mount["Source"])
        if service not in ONCE:
            assert 0 < host["Memory"] <= 16 * 2**30, service
            assert host["RestartPolicy"]["Name"] == "unless-stopped", service


def test_our_images_have_a_user_and_no_shell_for_it(containers: dict[str, dict[str, Any]]) -> None:
    for service in ("airflow-apiserver", "mlflow"):
        image = json.loads(docker("inspect", containers[service]["Image"]))[0]
        assert image["Config"]["User"] == "10001:10001"
        passwd = docker("exec", containers[service]["Id"], "cat", "/etc/passwd").splitlines()
        assert "pump:x:10001:10001::/nonexistent:/usr/sbin/nologin" in passwd
