"""SDKs that fetch their own tokens: they hold stand-ins, the proxy answers them, and the API gets the real token."""
import base64
import hmac
import json
import pathlib
import subprocess

import sallyport
from clients_test import run
from real import wait
from tokens_test import APP, EMAIL, INSTALLATION_TOKEN, Keys, World, account

HERE = pathlib.Path(__file__).resolve().parent
GOOGLE, DRIVE, DESK = "oauth2.googleapis.com", "www.googleapis.com", "desk.test"
TOKEN_URL = f"https://{GOOGLE}/token"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class Sandbox(World):
    """The issuer behind the names of the real ones; files of the agents' own."""

    def __init__(self, t, clients=None, app=None, **more):
        super().__init__(t, clients or {}, app, hosts=(GOOGLE, DRIVE, DESK, "ghe.test", "api.test", "auth.test"),
                         leaf=[GOOGLE, DRIVE, DESK, "ghe.test", "api.test", "auth.test"], token_url=TOKEN_URL, **more)

    def file(self, name, agent="a", out=None):
        path = self.s.dir / (out or f"{name}-{agent}")
        self.s.cli("credential", "sandbox-file", name, "--agent", agent, "--out", path)
        assert path.stat().st_mode & 0o777 == 0o600
        return path

    def sdk(self, *args, agent="a", **env):
        out = run([self.found[0], HERE / "sdk.mjs", self.found[1], *args],
                  {**self.env, "HTTPS_PROXY": self.s.proxy_url(agent), "https_proxy": self.s.proxy_url(agent), "NODE_NO_WARNINGS": "1",
                   **{k: str(v) for k, v in env.items()}})
        assert "canary" not in out, "the sandbox got a real token"
        return json.loads(out)

    def google(self, file, what="google", url=f"https://{DRIVE}/drive", *more, **options):
        return self.sdk(what, url, *more, GOOGLE_APPLICATION_CREDENTIALS=file, **options)

    def answered(self, n=1):
        """Whose token requests the proxy answered itself, once n are in the log."""
        def look():
            found = [r for r in self.s.records() if r.get("reason") == "token placeholder"]
            assert all(r.get("agent") and r.get("bundle") for r in found), found
            return [r["credential"] for r in found]
        return wait(lambda: len(look()) >= n and look(), 5, f"{n} answers in the log")

    def post(self, url, *args, agent="a"):
        """A token request by curl -> (status, JSON)"""
        out = subprocess.run(["curl", "-sS", "-w", "\n%{http_code}", "-X", "POST", *args, url], capture_output=True, text=True, check=True,
                             env={**self.env, "HTTPS_PROXY": self.s.proxy_url(agent), "https_proxy": self.s.proxy_url(agent)}).stdout
        assert "canary" not in out, out
        body, _, status = out.rpartition("\n")
        return int(status), json.loads(body or "null")


def test_google_service_account(t):
    """google-auth-library with a stand-in for a service account's key: its assertion is answered by the proxy"""
    t.need("curl", "openssl")
    file, document, public = account(Keys(t.bare().dir), token_url=TOKEN_URL)
    w = Sandbox(t, {EMAIL: {"key": public, "algs": ["RS256"]}})
    w.add("gcp", "gcp_access_token", "*.googleapis.com", f"key=@{file}")
    w.serve()
    sa = w.file("gcp")
    held = json.loads(sa.read_text())
    assert held["client_email"] == EMAIL and held["project_id"] == "project" and held["token_uri"] == TOKEN_URL and held["private_key"] != document["private_key"]
    got = w.google(sa, "google", f"https://{DRIVE}/drive", SCOPE)
    assert got["data"] == {"who": EMAIL} and got["held"]["access_token"], got
    assert w.answered() == ["gcp"] and len(w.verified()) == 1, "one assertion at the issuer, and it was ours"
    # without scopes the library signs a token itself, and asks nobody: the proxy puts the real one in its place
    got = w.google(sa)
    assert got["data"] == {"who": EMAIL} and w.answered() == ["gcp"], got
    # another file of the same agent: the key before no longer counts
    sa.rename(sa.with_suffix(".old"))
    new = w.file("gcp")
    got = w.google(sa.with_suffix(".old"), "google", f"https://{DRIVE}/drive", SCOPE)
    assert got.get("failed") == 403 and "token_endpoint" in json.dumps(got), got
    assert w.google(new, "google", f"https://{DRIVE}/drive", SCOPE)["data"] == {"who": EMAIL}
    # another agent's file, and the real key, which nobody in a sandbox should have
    w.s.agent("b")
    for wrong in (w.file("gcp", "b"), file):
        got = w.google(wrong, "google", f"https://{DRIVE}/drive", SCOPE)
        assert got.get("failed") == 403 and "token_endpoint" in json.dumps(got), got
    assert w.google(w.s.dir / "gcp-b", "google", f"https://{DRIVE}/drive", SCOPE, agent="b")["data"] == {"who": EMAIL}
    assert len(w.verified()) == 1
    # a domain entry lets such requests through, as they are
    w.s.cli("domain", "add", "default", GOOGLE, "--method", "POST")
    got = w.google(sa.with_suffix(".old"), "google", f"https://{DRIVE}/drive", SCOPE)
    assert "signature verification failed" in json.dumps(got) and len(w.said("refused")) == 1, got
    assert w.google(new, "google", f"https://{DRIVE}/drive", SCOPE)["data"] == {"who": EMAIL}
    # nothing is left of a credential that is removed
    w.s.cli("credential", "remove", "gcp")
    assert "failed" in w.google(new, "google", f"https://{DRIVE}/drive", SCOPE)


def test_google_person(t):
    """google-auth-library with an authorized_user file, for an account whose refresh token was pasted"""
    t.need("curl", "openssl")
    w = Sandbox(t, secrets={"me.apps": "canary-client-secret"}, refresh="canary-refresh-token")
    for name, value in (("client", "canary-client-secret"), ("refresh", "canary-refresh-token"), ("access", "canary-old-access")):
        (w.s.dir / name).write_text(value)
        (w.s.dir / name).chmod(0o600)
    w.s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
    w.s.cli("set", "connect-to", *w.flags[1::2])
    w.add("drive", "oauth_authorization_code", DRIVE, f"token_url={TOKEN_URL}", "client_id=me.apps", f"client_secret=@{w.s.dir}/client",
          f"refresh_token=@{w.s.dir}/refresh", f"access_token=@{w.s.dir}/access")
    w.serve()
    file = w.file("drive")
    held = json.loads(file.read_text())
    assert held["type"] == "authorized_user" and held["client_id"] == "me.apps" and "canary" not in file.read_text(), held
    got = w.google(file)
    assert got["data"] == {"who": "person of me.apps"} and got["held"]["access_token"], got
    assert w.answered() == ["drive"] and not w.said("refused")
    file.write_text(json.dumps({**held, "refresh_token": "1//real-looking", "client_secret": "GOCSPX-real-looking"}))
    got = w.google(file)
    assert got.get("failed") == 403 and "token_endpoint" in json.dumps(got), got


def test_google_iap(t):
    """google-auth-library's IdTokenClient for an application behind IAP"""
    t.need("curl", "openssl")
    file, _, public = account(Keys(t.bare().dir), token_url=TOKEN_URL)
    w = Sandbox(t, {EMAIL: {"key": public, "algs": ["RS256"]}})
    audience = "1234-abc.apps.googleusercontent.com"
    w.add("iap", "gcp_iap", DESK, f"key=@{file}", f"audience={audience}")
    w.serve()
    sa = w.file("iap")
    got = w.google(sa, "id_token", f"https://{DESK}/x", audience)
    assert got["data"] == {"who": EMAIL}, got
    claims = json.loads(base64.urlsafe_b64decode(got["held"]["id_token"].split(".")[1] + "=="))
    assert claims["aud"] == audience and claims["exp"] > claims["iat"], claims
    assert w.answered() == ["iap"] and len(w.verified()) == 1


def test_octokit(t):
    """@octokit/auth-app with a stand-in for an App's PEM: an installation token that is a placeholder, an API call that is real"""
    t.need("curl", "openssl")
    path, public = Keys(t.bare().dir).make("app", form="pkcs1")
    w = Sandbox(t, {"12345": {"key": public, "algs": ["RS256"]}},
                {"account": "acme", "installation": 7, "repositories": ["site"], "token": INSTALLATION_TOKEN})
    w.s.canaries.append(INSTALLATION_TOKEN)
    w.add("gh", "github_app", "ghe.test", "api_url=https://ghe.test/api/v3", f"app_id={APP['appId']}", "installation_id=7",
          f"private_key=@{path}", "repositories=site")
    w.serve()
    pem = w.file("gh", out="app.pem")
    assert pem.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    got = w.sdk("octokit", "https://ghe.test/api/v3", pem)
    assert got["data"]["full_name"] == "acme/site" and got["held"]["token"], got
    assert w.answered() == ["gh"] and len(w.verified()) == 1 and w.said("installation"), w.log.read_text()
    got = w.sdk("octokit", "https://ghe.test/api/v3", path)
    assert got["failed"] == 403 and "token endpoint" in got["message"], "the real key is no stand-in"
    # no spelling of that path gets the App's token, or the installation's
    for spelt in ("/api/v3/app/installations/7/access_tokens/", "/api/v3//app/installations/7/access_tokens",
                  "/api/v3/app/installations/7/x/../access_tokens", "/api/v3/app/installations/%37/access_tokens"):
        status, answer = w.post("https://ghe.test" + spelt, "--path-as-is")
        assert status in (400, 403) and answer["error"] in ("mint_denied", "token_endpoint", "ambiguous_path"), (spelt, answer)


def test_octokit_app(t):
    """app_reads=yes: Octokit finds its installation as the App, whose token the proxy puts in; nothing else gets that one"""
    t.need("curl", "openssl")
    path, public = Keys(t.bare().dir).make("app", form="pkcs1")
    w = Sandbox(t, {"12345": {"key": public, "algs": ["RS256"]}},
                {"account": "acme", "installation": 7, "repositories": ["site"], "token": INSTALLATION_TOKEN})
    w.s.canaries.append(INSTALLATION_TOKEN)
    w.add("gh", "github_app", "ghe.test", "api_url=https://ghe.test/api/v3", f"app_id={APP['appId']}", "installation_id=7",
          f"private_key=@{path}")
    w.serve()
    pem = w.file("gh", out="app.pem")
    got = w.sdk("app", "https://ghe.test/api/v3", pem)
    assert got.get("failed") == 401, (got, w.log.read_text(), w.s.log())
    w.s.cli("credential", "set", "gh", "app_reads=yes")
    got = w.sdk("app", "https://ghe.test/api/v3", pem)
    assert got["data"]["full_name"] == "acme/site" and got["held"]["token"] != INSTALLATION_TOKEN, got
    minted = len(w.said("installation"))
    for method, where, status in (("GET", "/app", 200), ("GET", "/repos/acme/site/installation", 200), ("GET", "/repos/acme/site", 200),
                                  ("DELETE", "/app", 401), ("POST", "/app", 401), ("GET", "/app/hook/config", 401), ("GET", "/app/", 401),
                                  ("GET", "/repos/acme/../installation", 401), ("GET", "/app/installation-requests", 401)):
        got, answer = w.get("https://ghe.test/api/v3" + where, "-X", method, "--path-as-is")
        assert got == status, (method, where, got, answer)
    assert len(w.said("installation")) - minted <= 1, "kept until half of the App's token is over"
    assert {json.dumps(v["claims"]["iss"]) for v in w.said("verified")} == {"12345"}


def test_client_credentials(t):
    """client id and secret: Basic and form are answered for the stand-in alone; two clients of one server are told apart"""
    t.need("curl", "openssl")
    w = Sandbox(t, secrets={"one": "canary-secret-one", "two": "canary-secret-two"})
    url = "https://auth.test/token"
    for name, host in (("one", "api.test"), ("two", "api.test")):
        (w.s.dir / name).write_text(f"canary-secret-{name}")
        (w.s.dir / name).chmod(0o600)
        w.add(name, "oauth_client_credentials", host, f"token_url={url}", f"client_id={name}", f"client_secret=@{w.s.dir}/{name}")
    w.serve()
    held = {name: json.loads(w.file(name).read_text()) for name in ("one", "two")}
    grant = ("-d", "grant_type=client_credentials", "-d", "scope=read")
    for name, parts in held.items():
        assert parts["client_id"] == name and parts["token_uri"] == url
        for how in (("-u", f"{name}:{parts['client_secret']}"), ("-d", f"client_id={name}", "-d", f"client_secret={parts['client_secret']}"),
                    ("-d", f"client_secret={parts['client_secret']}", "-H", "Transfer-Encoding: chunked"),
                    ("-d", f"client_secret={parts['client_secret']}", "-H", "X-HTTP-Method-Override: GET")):
            status, answer = w.post(url, *grant, *how)
            assert status == 200 and answer["token_type"] == "Bearer" and answer["expires_in"] > 86400, (how, answer)
            assert w.get("https://api.test/x", "-H", f"Authorization: Bearer {answer['access_token']}") == (200, {"who": name})
    assert sorted(w.answered(8)) == ["one"] * 4 + ["two"] * 4 and not w.said("refused")
    secret = held["one"]["client_secret"]
    wrong = [("-u", "one:canary-secret".replace("canary", "other")), ("-d", f"client_secret={secret}", "-d", "client_secret=x"),
             ("-d", f"client_secret={secret}x"), ("-H", "Content-Type: text/plain", "-d", f"client_secret={secret}"),
             ("-d", f"client_secret={secret.swapcase()}"), ("-d", "client_secret=%ff%fe"), ("-d", f"refresh_token={secret}"),
             ("-H", "Content-Type: application/json", "-d", '{"x":{"client_secret":"%s"}}' % secret),
             ("-H", "Content-Type: application/json", "-d", '{"client_secret":["%s"]}' % secret)]
    for how in wrong:
        status, answer = w.post(url, *how)
        assert (status, answer["error"]) == (403, "token_endpoint"), (how, answer)
    (w.s.dir / "huge").write_text("client_secret=" + secret + "&x=" + "y" * 70000)
    assert w.post(url, "-d", f"@{w.s.dir}/huge")[0] == 413
    assert w.post(f"{url}?x=1", "-d", f"client_secret={secret}")[0] == 200, "a query is not part of the path"
    # disabled, or taken out of the agent's bundle: nothing there any more
    w.s.cli("credential", "disable", "one")
    assert w.post(url, "-d", f"client_secret={secret}")[1]["error"] == "token_endpoint"      # two's endpoint still
    w.s.cli("credential", "disable", "two")
    assert w.post(url, "-d", f"client_secret={secret}")[1]["error"] == "host_not_allowed"
    w.s.cli("credential", "enable", "one")
    assert w.post(url, "-d", f"client_secret={secret}")[0] == 200
    w.s.agent("b", bundles=["other"] if w.s.cli("bundle", "add", "other") else ())
    assert w.post(url, "-d", f"client_secret={secret}", agent="b")[1]["error"] == "host_not_allowed"


def b64(data):
    return base64.urlsafe_b64encode(data if isinstance(data, bytes) else json.dumps(data).encode()).rstrip(b"=").decode()


def signed(pem, header, claims):
    text = f"{b64(header)}.{b64(claims)}"
    r = subprocess.run(["openssl", "dgst", "-sha256", "-sign", pem], input=text.encode(), capture_output=True, check=True)
    return f"{text}.{b64(r.stdout)}"


def test_crafted_assertions(t):
    """assertions that somebody made up: no signature, another algorithm, cut short, twice; none of them is answered"""
    t.need("curl", "openssl")
    file, _, public = account(Keys(t.bare().dir), token_url=TOKEN_URL)
    w = Sandbox(t, {EMAIL: {"key": public, "algs": ["RS256"]}})
    w.add("gcp", "gcp_access_token", "*.googleapis.com", f"key=@{file}")
    w.add("other", "gcp_access_token", "*.googleapis.com", f"key=@{file}", "scopes=x")
    w.serve()
    pem = w.s.dir / "held.pem"
    pem.write_text(json.loads(w.file("gcp").read_text())["private_key"])
    theirs = w.s.dir / "theirs.pem"
    theirs.write_text(json.loads(w.file("other").read_text())["private_key"])
    rs, claims = {"alg": "RS256", "typ": "JWT"}, {"iss": EMAIL, "aud": TOKEN_URL, "scope": "x", "exp": 9999999999, "iat": 1}
    good = signed(pem, rs, claims)
    head, body, signature = good.split(".")
    modulus = subprocess.run(["openssl", "rsa", "-in", pem, "-noout", "-modulus"], capture_output=True, text=True, check=True).stdout
    public_pem = subprocess.run(["openssl", "pkey", "-in", pem, "-pubout"], capture_output=True, check=True).stdout
    hs = f"{b64({'alg': 'HS256'})}.{body}"
    grant = ("--data-urlencode", "grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer", "--data-urlencode")

    def ask(assertion, *more):
        return w.post(TOKEN_URL, *grant, f"assertion={assertion}", *more)
    status, answer = ask(good)
    assert status == 200 and w.get(f"https://{DRIVE}/x", "-H", f"Authorization: Bearer {answer['access_token']}")[0] == 200
    mine = answer["access_token"]
    status, answer = ask(signed(theirs, rs, claims))
    assert status == 200 and answer["access_token"] != mine, "the same account twice: each key is its own credential's"
    wrong = {
        "no signature": f"{b64({'alg': 'none'})}.{body}.", "none, in capitals": f"{b64({'alg': 'NONE'})}.{body}.AA",
        "the public key as an HMAC key": hs + "." + b64(hmac.new(public_pem, hs.encode(), "sha256").digest()),
        "the modulus as an HMAC key": hs + "." + b64(hmac.new(modulus.encode(), hs.encode(), "sha256").digest()),
        "other claims": f"{head}.{b64({**claims, 'iss': 'x'})}.{signature}", "another header": f"{b64({'alg': 'RS512'})}.{body}.{signature}",
        "cut short": good[:-4], "longer": good + "AAAA", "padded": good + "==", "a part more": good + "." + signature,
        "no header": f".{body}.{signature}", "two parts": f"{head}.{body}", "dots alone": "..", "nothing": "",
        "zeros": f"{head}.{body}.{b64(bytes(256))}", "ones": f"{head}.{body}.{b64(b'xff' * 86)}",
        "claims that are no JSON": signed(pem, rs, b"{"),
        "claims of 20 KB": signed(pem, rs, {**claims, "x": "y" * 20000}), "deep claims": signed(pem, rs, b"[" * 9000 + b"]" * 9000),
        "another key of ours": signed(file.with_suffix(".pem"), rs, claims),
    }
    for what, assertion in wrong.items():
        status, answer = ask(assertion)
        assert (status, answer.get("error")) == (403, "token_endpoint"), (what, status, answer)
    assert ask(good, "--data-urlencode", "assertion=x")[0] == 403, "not more than once (RFC 6749 3.2)"
    # what it says is said back to the caller alone, and as JSON
    for audience in ('"}\n{"access_token":"x', {"a": ["b"]}, 7, "é"):
        status, answer = ask(signed(pem, rs, {**claims, "target_audience": audience}))
        assert status == 200 and json.loads(base64.urlsafe_b64decode(answer["id_token"].split(".")[1] + "=="))["aud"] == audience
    # in plain HTTP, in absolute form: another endpoint
    out = subprocess.run(["curl", "-sS", "-X", "POST", *grant, f"assertion={good}", TOKEN_URL.replace("https", "http")],
                         capture_output=True, text=True, check=True, env={**w.env, "http_proxy": w.s.proxy_url()}).stdout
    assert json.loads(out)["error"] == "host_not_allowed", out


def test_clients_with_a_key(t):
    """oauth_jwt_bearer, and oauth_client_credentials with a private key: the file has a key whose assertions are answered"""
    t.need("curl", "openssl")
    path, public = Keys(t.bare().dir).make("real")
    w = Sandbox(t, {"me": {"key": public, "algs": ["RS256"], "aud": "https://auth.test/token"}})
    url = "https://auth.test/token"
    w.add("bearer", "oauth_jwt_bearer", "api.test", f"private_key=@{path}", "issuer=me", f"token_url={url}")
    w.add("client", "oauth_client_credentials", "desk.test", f"private_key=@{path}", "client_id=me", f"token_url={url}")
    w.serve()
    kind = "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    for name, host, form in (("bearer", "api.test", "assertion={}"), ("client", "desk.test", "client_assertion={}&" + kind)):
        held = json.loads(w.file(name).read_text())
        assert held["client_id"] == "me" and held["token_uri"] == url and "client_secret" not in held, held
        pem = w.s.dir / f"{name}.pem"
        pem.write_text(held["private_key"])
        claims = {"iss": "me", "sub": "me", "aud": url, "exp": 9999999999, "iat": 1, "jti": "1"}
        status, answer = w.post(url, "-d", form.format(signed(pem, {"alg": "RS256"}, claims)))
        assert status == 200, answer
        assert w.get(f"https://{host}/x", "-H", f"Authorization: Bearer {answer['access_token']}") == (200, {"who": "me"}), w.log.read_text()
        assert w.post(url, "-d", form.format(signed(path, {"alg": "RS256"}, claims)))[0] == 403, "the real key is no stand-in"
    assert sorted(w.answered(2)) == ["bearer", "client"]


def test_keys_come_and_go(t):
    """the stand-in's key: kept by backup and restore, no trouble for doctor, gone with its credential"""
    t.need("openssl")
    file, _, _ = account(Keys(t.bare().dir), token_url=TOKEN_URL)
    s = t.bare()
    s.init()
    s.agent()
    s.agent("b")
    script = s.dir / "keys.lua"
    script.write_text('for _, r in ipairs(require("store").each("state", "k/", nil, 100)) do print(r.key) end')

    def keys():
        return s.cli("lua", "--store", script).stdout.split()
    for name in ("gcp", "gcp2"):
        s.cli("credential", "add", name, "--type", "gcp_access_token", f"key=@{file}")
        for agent in ("a", "b"):
            s.cli("credential", "sandbox-file", name, "--agent", agent)
    assert keys() == ["k/gcp/a", "k/gcp/b", "k/gcp2/a", "k/gcp2/b"]
    assert "damaged" not in s.cli("doctor", check=False).stdout
    s.cli("backup", s.dir / "b")
    s.cli("credential", "remove", "gcp")
    assert keys() == ["k/gcp2/a", "k/gcp2/b"]
    s.cli("credential", "add", "later", "--type", "gcp_access_token", f"key=@{file}")
    s.cli("credential", "sandbox-file", "later", "--agent", "a")
    assert "k/later/a" in keys()
    s.cli("restore", s.dir / "b")
    assert keys() == ["k/gcp/a", "k/gcp/b", "k/gcp2/a", "k/gcp2/b"]
    for args, words in ((("gcp",), "--agent"), (("gcp", "--agent", "nobody"), "nobody"), (("nothing", "--agent", "a"), "nothing"),
                        (("gcp", "--agent", "a", "--out", s.dir / "no/such"), "cannot be written")):
        r = s.cli("credential", "sandbox-file", *args, check=False)
        assert r.returncode != 0 and words in r.stderr and "PRIVATE" not in r.stdout + r.stderr, r.stderr
