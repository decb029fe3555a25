"""What a page of somebody else could do with the browser of somebody who is logged in."""

import httpx
from access import API, basic, csrf_token
from harness import Stack


def test_a_wrong_host_header_is_refused_by_mlflow_even_with_a_login(stack: Stack) -> None:
    with basic(stack, "admin") as admin:
        for host in ("evil.example", "evil.example:5000", "127.0.0.1.evil.example", "169.254.169.254"):
            answer = admin.get(f"{API}/experiments/get?experiment_id=0", headers={"Host": host})
            assert answer.status_code == httpx.codes.FORBIDDEN, host
            assert "DNS rebinding" in answer.text
        assert admin.get(f"{API}/experiments/get?experiment_id=0").is_success


def test_another_site_cannot_use_a_browsers_login(stack: Stack, http: httpx.Client) -> None:
    evil = {"Origin": "https://evil.example"}
    with basic(stack, "admin") as admin:
        answer = admin.post(f"{API}/experiments/create", json={"name": "by another site"}, headers=evil)
        assert answer.status_code == httpx.codes.FORBIDDEN
        framed = admin.get("/", headers=evil)
        assert framed.headers["x-frame-options"] == "SAMEORIGIN"
        assert framed.headers["x-content-type-options"] == "nosniff"
    asks = {**evil, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for base, path in (("airflow", "/api/v2/dags"), ("mlflow", f"{API}/runs/search"), ("s3", "/mlflow/x")):
        for answer in (
            http.get(stack.address(base) + path, headers=evil),
            http.options(stack.address(base) + path, headers=asks),
        ):
            assert "access-control-allow-origin" not in answer.headers, base


def test_airflows_cookies_stay_with_airflow_and_its_pages(stack: Stack) -> None:
    base = stack.address("airflow")
    login = {"username": "viewer", "password": stack.secrets["AIRFLOW_VIEWER_PASSWORD"]}
    with httpx.Client(trust_env=False, timeout=60) as browser:
        token = csrf_token(browser, base)
        assert not browser.post(f"{base}/auth/login/", data=login).has_redirect_location  # another site has no token
        done = browser.post(f"{base}/auth/login/", data={**login, "csrf_token": token})
    assert done.is_redirect
    cookies = {cookie.split("=")[0]: cookie.lower() for cookie in done.headers.get_list("set-cookie")}
    assert {"session", "_token"} <= set(cookies)
    for name, cookie in cookies.items():
        assert "samesite=lax" in cookie, name
        assert "httponly" in cookie, name
        assert "domain=" not in cookie, name  # so it belongs to this name alone
