"""Where SDKs go for a token, and what they read of the answer: the proxy stands in the server's place at every address, and
passes on the plain members that a type names."""
import http.server
import json
import subprocess
import urllib.parse

import sallyport
import servers
from clients_test import environment

REAL = {   # what a server answers: all that is called canary must stay
    "access_token": "canary-access-token", "refresh_token": "canary-refresh", "id_token": "canary-id-token", "token_type": "Bearer",
    "expires_in": 3600, "instance_url": "https://acme.my.salesforce.test", "id": "https://login.test/id/00D/005", "scope": "api web",
    "issued_at": "1278448101416", "signature": "canary-signature", "session": "canary-session",
    "api_url": "https://api.test/?t=canary-access-token", "api_domain": {"nested": "canary-object"}, "unnamed": "canary-unnamed",
    "sfdc_community_id": "eyJhbGciOiJub25lIn0.eyJjYW5hcnkiOjF9.canary-jwt", "token_format": "opaque",
    "team": {"id": "T1", "name": "Acme", "domain": "canary-domain"}, "ok": True, "hub_id": 42, "list": ["canary-list"],
}


class Token(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.server.got.append(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        body = json.dumps(self.server.answer).encode()
        self.send_response(200 if "access_token" in self.server.answer else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        body = json.dumps({"seen": self.headers.get("Authorization") == "Bearer canary-access-token"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Desk:
    """One store, a token server behind auth.test, and curl in the sandbox."""

    def __init__(self, t, answer=REAL):
        t.need("curl")
        self.server = servers.Recorder(Token)
        self.server.answer = answer
        self.s = t.bare()
        self.s.init()
        self.s.agent()
        self.s.canaries += ["canary-"]

    def add(self, name, kind, *fields, host="api.test"):
        self.s.cli("credential", "add", name, "--type", kind, "--host", host, *fields)
        held = json.loads(self.s.cli("credential", "sandbox-file", name, "--agent", "a").stdout)
        return held["client_secret"]

    def serve(self):
        port = self.server.server_port
        flags = [x for h in ("api.test", "auth.test") for x in ("--connect-to", f"{h}:443:127.0.0.1:{port}")]
        self.s.serve("--upstream-ca", sallyport.certs() / "root.pem", *flags)
        self.env = environment(self.s)
        return self

    def post(self, url, **form):
        out = subprocess.run(["curl", "-sS", "-w", "\n%{http_code}", "-d", urllib.parse.urlencode(form), url], env=self.env, check=True,
                             capture_output=True, text=True).stdout
        body, _, status = out.rpartition("\n")
        assert "canary" not in out, out
        return int(status), json.loads(body or "null")

    def get(self, url):
        return json.loads(subprocess.run(["curl", "-sS", url], env=self.env, check=True, capture_output=True, text=True).stdout)


def test_plain_members(t):
    """client credentials: instance_url, id and scope of the real answer reach the sandbox; tokens, what holds one, and what nobody named do not"""
    d = Desk(t)
    secret = d.add("sf", "oauth_client_credentials", "token_url=https://auth.test/token", "client_id=id", f"client_secret=@{d.s.secret_file('canary-secret')}")
    d.serve()
    status, got = d.post("https://auth.test/token", grant_type="client_credentials", client_id="id", client_secret=secret, scope="api full")
    assert status == 200 and set(got) == {"access_token", "token_type", "expires_in", "scope", "instance_url", "id", "issued_at", "token_format"}, got
    assert (got["instance_url"], got["id"], got["scope"]) == (REAL["instance_url"], REAL["id"], "api"), got
    assert len(d.server.got) == 1, d.server.got
    assert d.post("https://auth.test/token", grant_type="client_credentials", client_id="id", client_secret=secret)[1]["scope"] == "api web"
    assert len(d.server.got) == 1, "the real token is fresh: nobody is asked again"
    assert d.get("https://api.test/x") == {"seen": True}


def test_named_members(t):
    """answer_members names others, with dots, numbers and booleans; a name that may hold a secret is refused; nothing is said where the refresh fails"""
    d = Desk(t)
    file = d.s.secret_file("canary-secret")
    fields = ["token_url=https://auth.test/token", "client_id=id", f"client_secret=@{file}"]
    secret = d.add("app", "oauth_client_credentials", *fields, "answer_members=ok,hub_id,team.id,team.name,team,list,missing")
    for name in ("refresh_token", "id_token", "x.client_secret", "signature", "Session", "a..b", "a/b"):
        r = d.s.cli("credential", "add", "bad", "--type", "oauth_client_credentials", "--host", "api.test", *fields, f"answer_members={name}", check=False)
        assert r.returncode != 0 and "answer_members" in r.stderr, (name, r.stderr)
    d.serve()
    status, got = d.post("https://auth.test/token", grant_type="client_credentials", client_secret=secret)
    assert status == 200 and got["ok"] is True and got["hub_id"] == 42 and got["team"] == {"id": "T1", "name": "Acme"}, got
    assert set(got) == {"access_token", "token_type", "expires_in", "ok", "hub_id", "team"}, got
    d.server.answer = {"error": "invalid_client", "instance_url": "canary-of-a-refusal"}
    broken = d.add("broken", "oauth_client_credentials", *fields)
    status, got = d.post("https://auth.test/token", grant_type="client_credentials", client_secret=broken)
    assert status == 502 and got["error"] == "oauth_refresh_failed", got


def test_slack(t):
    """preset slack-oauth: the SDK's refresh gets `ok` and the workspace beside a placeholder, as oauth.v2.access says them"""
    d = Desk(t, {"ok": True, "access_token": "xoxb-canary-access-token", "refresh_token": "xoxe-canary-next", "token_type": "bot", "expires_in": 43200,
                 "scope": "chat:write", "app_id": "A1", "bot_user_id": "U1", "team": {"id": "T1", "name": "Acme", "x": "canary-x"},
                 "authed_user": {"id": "U2", "access_token": "xoxp-canary-user"}, "enterprise": None, "incoming_webhook": {"url": "canary-url"}})
    files = [f"{name}=@{d.s.secret_file('canary-' + name)}" for name in ("client_secret", "refresh_token", "access_token")]
    d.s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
    d.s.cli("set", "connect-to", f"slack.com:443:127.0.0.1:{d.server.server_port}", f"auth.test:443:127.0.0.1:{d.server.server_port}")
    d.s.cli("credential", "add", "slack", "--preset", "slack-oauth", "client_id=1.2", "scopes=chat:write", "token_url=https://auth.test/token", *files)
    held = json.loads(d.s.cli("credential", "sandbox-file", "slack", "--agent", "a").stdout)
    d.s.cli("bundle", "disable", "default")
    noted = d.s.cli("credential", "sandbox-file", "slack", "--agent", "a").stderr
    assert "note: the bundle default, by which 'a' has 'slack', is disabled: sallyport bundle enable default" in noted, noted
    d.s.cli("bundle", "enable", "default")
    d.serve()
    status, got = d.post("https://auth.test/token", grant_type="refresh_token", refresh_token=held["refresh_token"], client_id="1.2")
    assert status == 200 and got["ok"] is True and got["team"] == {"id": "T1", "name": "Acme"} and got["authed_user"] == {"id": "U2"}, got
    assert got["bot_user_id"] == "U1" and got["scope"] == "chat:write" and got["refresh_token"] == held["refresh_token"], got


ADDRESSES = {
    "https://oauth2.googleapis.com/token": [
        "https://accounts.google.com/o/oauth2/token", "https://www.googleapis.com/oauth2/v3/token", "https://www.googleapis.com/oauth2/v4/token",
        "https://oauth2.googleapis.com/token", "https://oauth2.mtls.googleapis.com/token"],
    "https://www.googleapis.com/oauth2/v4/token": ["https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token"],
    "https://login.microsoftonline.com/TENANT/oauth2/v2.0/token": [
        "https://login.microsoftonline.com/acme.onmicrosoft.com/oauth2/v2.0/token", "https://login.windows.net/common/oauth2/token",
        "https://sts.windows.net/TENANT/oauth2/v2.0/token", "https://login.microsoft.com/organizations/oauth2/v2.0/token",
        "https://westeurope.login.microsoft.com/TENANT/oauth2/v2.0/token"],
    "https://login.microsoftonline.us/TENANT/oauth2/v2.0/token": ["https://login.usgovcloudapi.net/TENANT/oauth2/token"],
    "https://login.salesforce.com/services/oauth2/token": ["https://acme.my.salesforce.com/services/oauth2/token",
                                                           "https://acme--dev.sandbox.my.salesforce.com/services/oauth2/token"],
    "https://slack.com/api/oauth.v2.access": ["https://slack.com/api/oauth.v2.user.access"],
    "https://api.hubapi.com/oauth/v3/token": ["https://api.hubapi.com/oauth/v1/token"],
    "https://api.x.com/2/oauth2/token": ["https://api.twitter.com/2/oauth2/token"],
}


def test_every_address(t):
    """one credential a server: each address that a library knows for it answers its stand-in, no other address and no other credential's"""
    d = Desk(t)
    held = {}
    for i, url in enumerate(ADDRESSES):
        # no members are named, so nobody has to be asked
        held[url] = d.add(f"c{i}", "oauth_client_credentials", f"token_url={url}", "client_id=id", f"client_secret=@{d.s.secret_file(f'canary-{i}')}",
                          "answer_members=")
    d.serve()
    for i, (own, others) in enumerate(ADDRESSES.items()):
        for url in [own, *others]:
            status, got = d.post(url, grant_type="client_credentials", client_secret=held[own])
            assert status == 200 and got["access_token"] and "expires_in" in got, (url, status, got)
            status, got = d.post(url, grant_type="client_credentials", client_secret="GOCSPX-anybody's")
            assert status == 403 and got["error"] == "token_endpoint", (url, got)
    for url in ("https://login.microsoftonline.us/TENANT/oauth2/v2.0/token", "https://login.windows.net/TENANT/oauth2/v2.0/authorize",
                "https://login.windows.net.evil.test/TENANT/oauth2/v2.0/token", "https://my.salesforce.com.evil.test/services/oauth2/token"):
        status, got = d.post(url, grant_type="client_credentials", client_secret=held["https://login.microsoftonline.com/TENANT/oauth2/v2.0/token"])
        assert status == 403 and "access_token" not in got, (url, got)
    assert not d.server.got, "no token request left the box"


def test_an_odd_answer(t):
    """members of other kinds, too many and too long are left out, and the token is served all the same"""
    names = [f"m{i}" for i in range(16)]
    answer = {"access_token": "canary-access-token", "expires_in": 60, **{n: "x" * 700 for n in names}, "m0": None, "m1": [1], "m2": "a\nb", "m3": 7}
    d = Desk(t, answer)
    fields = ["token_url=https://auth.test/token", "client_id=id", f"client_secret=@{d.s.secret_file('canary-secret')}"]
    secret = d.add("app", "oauth_client_credentials", *fields, "answer_members=" + ",".join(names))
    r = d.s.cli("credential", "add", "more", "--type", "oauth_client_credentials", "--host", "api.test", *fields,
                "answer_members=" + ",".join(names + ["m16"]), check=False)
    assert r.returncode != 0 and "16" in r.stderr, r.stderr
    d.serve()
    status, got = d.post("https://auth.test/token", client_secret=secret)
    rest = {k: v for k, v in got.items() if k in names}
    assert status == 200 and rest.pop("m3") == 7 and rest.pop("m2") == "ab" and len(rest) == 2 and not {"m0", "m1"} & set(rest), got
