"""The types that sign: a token endpoint that verifies every assertion, and Google's and GitHub's own libraries beside them."""
import base64
import json
import pathlib
import subprocess

import certs
import sallyport
from clients_test import environment, run
from git_test import CONF
from real import wait
from servers import free_port, nginx, node

HERE = pathlib.Path(__file__).parent
TOKEN_URL = "https://auth.test/token"
EMAIL = "robot@project.iam.gserviceaccount.com"
INSTALLATION_TOKEN = "ghs_canary1234567890abcdefghijklmnopqrst"


def openssl(*args, stdin=None):
    return subprocess.run(["openssl", *map(str, args)], input=stdin, capture_output=True, text=True, check=True).stdout


class Keys:
    """Key pairs for this test alone: NAME.pem, and its public half for the verifier."""

    def __init__(self, directory):
        self.dir = directory

    def make(self, name, kind="rsa", form="pkcs8"):
        path = self.dir / f"{name}.pem"
        how = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"] if kind == "rsa" else \
            ["-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{kind}"]
        openssl("genpkey", *how, "-out", path)
        if form == "pkcs1":
            openssl("rsa", "-in", path, "-traditional", "-out", path)
        if form == "sec1":
            openssl("ec", "-in", path, "-out", path)
        return path, openssl("pkey", "-in", path, "-pubout")


class World:
    """Sallyport in front of issuer.mjs, whose clients are known by what the test gives it."""

    def __init__(self, t, clients, app=None, hosts=("auth.test", "api.test", "ghe.test"), leaf=(), **more):
        self.found = node() or t.skip("there is no Node 22")
        self.t, self.s = t, t.bare()
        self.s.init()
        self.port = free_port()
        self.log = self.s.dir / "issuer.log"
        cert = certs.leaf(sallyport.certs(), self.s.dir, leaf) if leaf else sallyport.certs() / "ok.pem"
        config = {"port": self.port, "cert": str(cert), "token_url": TOKEN_URL, "clients": clients, "app": app, **more}
        (self.s.dir / "issuer.json").write_text(json.dumps(config))
        t.start([self.found[0], HERE / "issuer.mjs", self.found[1], self.s.dir / "issuer.json"], self.log)
        wait(lambda: self.log.exists() and "listening" in self.log.read_text(), 10, "the issuer listening")
        self.flags = [x for h in hosts for x in ("--connect-to", f"{h}:443:127.0.0.1:{self.port}")]

    def add(self, name, kind, host, *fields):
        hosts = [host] if isinstance(host, str) else host
        self.s.cli("credential", "add", name, "--type", kind, *[x for h in hosts for x in ("--host", h)], *fields)

    def serve(self, *flags):
        self.s.agent()
        port = free_port()
        self.s.cli("set", "listen", f"127.0.0.1:{port}")
        self.s.serve("--upstream-ca", sallyport.certs() / "root.pem", *self.flags, *flags, listen=f"127.0.0.1:{port}")
        self.env = environment(self.s)
        return self

    def get(self, url, *more):
        """(status, the answer's JSON)"""
        out = run(["curl", "-sS", "-w", "\n%{http_code}", *more, url], self.env)
        body, _, status = out.rpartition("\n")
        return int(status), json.loads(body or "null")

    def said(self, key):
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if key in line]

    def verified(self):
        assert not self.said("refused"), self.log.read_text()
        return self.said("verified")


def opened(jwt):
    parts = [json.loads(base64.urlsafe_b64decode(p + "=" * (-len(p) % 4))) for p in jwt.split(".")[:2]]
    return {"header": parts[0], "claims": parts[1]}


def account(keys, name="robot", token_url=TOKEN_URL):
    path, public = keys.make(name)
    document = {"type": "service_account", "project_id": "project", "private_key_id": "kid-1", "private_key": path.read_text(),
                "client_email": EMAIL, "client_id": "1", "token_uri": token_url}
    file = path.with_suffix(".json")
    file.write_text(json.dumps(document))
    return file, document, public


def libraries(t, directory, document, app_key, app):
    """What Google's and GitHub's libraries would send with these keys."""
    found = node() or t.skip("there is no Node 22")
    config = directory / "assertions.json"
    config.write_text(json.dumps({"account": document, "app": {**app, "privateKey": app_key}}))
    return json.loads(run([found[0], HERE / "assertions.mjs", found[1], config], {"PATH": "/usr/bin:/bin"}))


def test_google(t):
    """gcp_access_token and gcp_iap: jose takes what they sign, and it is what google-auth-library sends"""
    t.need("curl", "openssl")
    directory = t.bare().dir
    file, document, public = account(Keys(directory))
    w = World(t, {EMAIL: {"key": public, "algs": ["RS256"]}})
    w.add("gcp", "gcp_access_token", "api.test", f"key=@{file}", "subject=person@example.com")
    w.add("iap", "gcp_iap", "desk.test", f"key=@{file}", "audience=1234-abc.apps.googleusercontent.com")
    w.add("shop", "gcp_iap", "shop.test", f"key=@{file}", "audience=https://app.test/x", "header=proxy-authorization",
          "headers.authorization=Bearer canary-app")
    w.serve(*[x for h in ("desk.test", "shop.test") for x in ("--connect-to", f"{h}:443:127.0.0.1:{w.port}")])
    assert w.get("https://api.test/x") == (200, {"who": "person@example.com"}), w.log.read_text()
    assert w.get("https://desk.test/x") == (200, {"who": EMAIL}), w.log.read_text()
    status, answer = w.get("https://shop.test/x?signed=1&header=proxy-authorization&aud=https://app.test/x")
    assert status == 200 and answer["who"]["iss"] == EMAIL, w.log.read_text()
    mine = w.verified()
    for _ in range(3):
        assert w.get("https://api.test/x")[0] == 200
    assert w.verified() == mine                                 # kept: nothing was signed again
    assert w.get("https://shop.test/x?signed=1")[0] == 401      # Authorization is the application's
    theirs = libraries(t, w.s.dir, document, (directory / "robot.pem").read_text(), APP)
    same(mine[0], theirs["access_token"]["form"]["assertion"])
    same(mine[1], theirs["id_token"]["form"]["assertion"])
    same(mine[2], theirs["self_signed"]["authorization"].split()[1])


APP = {"appId": 12345, "installationId": 7, "repositories": ["site"], "permissions": {"contents": "write"}}


def same(mine, assertion):
    """Ours and a library's: the same claims with the same values, but for the clock and where the token endpoint is."""
    theirs = opened(assertion)
    for part in (mine["claims"], theirs["claims"]):
        assert part.pop("exp") - part.pop("iat") == 3600, part
        part["aud"] = part["aud"].replace("https://oauth2.googleapis.com/token", TOKEN_URL)
    assert mine["claims"] == theirs["claims"], (mine, theirs)
    assert mine["header"]["alg"] == theirs["header"]["alg"] == "RS256"
    assert mine["header"]["kid"] == theirs["header"].get("kid", "kid-1")


def test_github(t):
    """github_app: the installation is found, its token minted; curl, and git through nginx; Octokit sends the same"""
    t.need("git", "nginx", "fcgiwrap", "curl", "openssl")
    directory = t.bare().dir
    path, public = Keys(directory).make("app", form="pkcs1")
    w = World(t, {"12345": {"key": public, "algs": ["RS256"]}},
              {"account": "acme", "installation": 7, "repositories": ["site"], "token": INSTALLATION_TOKEN})
    upstream, server = nginx(t, w.s.dir, more=CONF)
    (server / "htpasswd").write_text(f"x-access-token:{{PLAIN}}{INSTALLATION_TOKEN}\n")
    t.start(["fcgiwrap", "-s", f"unix:{server}/cgi.sock"], server / "cgi.log")
    wait((server / "cgi.sock").exists, 5, "fcgiwrap's socket")
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(w.s.dir)}
    run(["git", "init", "-q", "--bare", server / "www/repo.git"], plain)
    run(["git", "-C", server / "www/repo.git", "config", "http.receivepack", "true"], plain)
    w.add("gh", "github_app", ["ghe.test", "git.test"], "api_url=https://ghe.test/api/v3", "app_id=12345", "account=acme",
          f"private_key=@{path}", "repositories=site", "permissions.contents=write")
    w.s.canaries.append(INSTALLATION_TOKEN)
    w.serve("--connect-to", f"git.test:443:127.0.0.1:{upstream}")
    assert w.env["GIT_TERMINAL_PROMPT"] == "0" and w.env["GH_TOKEN"].startswith("ghs_"), w.env
    status, answer = w.get("https://ghe.test/api/v3/repos/acme/site", "-H", f"Authorization: Bearer {w.env['GH_TOKEN']}")
    assert status == 200 and answer["full_name"] == "acme/site", w.log.read_text()
    assert w.said("installation")[0]["want"] == {"repositories": ["site"], "permissions": {"contents": "write"}}
    one, two = w.s.dir / "one", w.s.dir / "two"
    env = {**w.env, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    run(["git", "clone", "-q", "https://git.test/repo.git", one], env)
    (one / "data").write_text("hello")
    run(["git", "add", "data"], env, cwd=one)
    run(["git", "commit", "-q", "-m", "data"], env, cwd=one)
    run(["git", "push", "-q", "origin", "HEAD:main"], env, cwd=one)
    run(["git", "clone", "-q", "-b", "main", "https://git.test/repo.git", two], env)
    assert (two / "data").read_text() == "hello"
    assert len(w.said("installation")) == 1                     # one token for all of it
    mine = w.verified()[-1]
    # what the agent may not ask for with it
    status, answer = w.get("https://ghe.test/api/v3/repos/acme/site/actions/runners/registration-token", "-X", "POST")
    assert (status, answer["error"]) == (403, "mint_denied"), answer
    status, answer = w.get("https://ghe.test/api/v3/app/installations/7/access_tokens", "-X", "POST")
    assert (status, answer["error"]) == (403, "token_endpoint"), answer
    _, document, _ = account(Keys(directory))
    theirs = libraries(t, w.s.dir, document, path.read_text(), APP)["installation"]
    other = opened(theirs["headers"]["authorization"].split()[1])
    assert mine["header"] == other["header"], (mine, other)
    assert set(mine["claims"]) == set(other["claims"]) and mine["claims"]["iss"] == other["claims"]["iss"], (mine, other)
    assert mine["claims"]["exp"] - mine["claims"]["iat"] == other["claims"]["exp"] - other["claims"]["iat"] == 600
    assert json.loads(theirs["body"]) == w.said("installation")[0]["want"]
    assert theirs["url"].endswith("/app/installations/7/access_tokens") and theirs["method"] == "POST"


def test_github_refused(t):
    """github_app: a key that is not the App's, and a repository that is not the installation's, are told by name"""
    t.need("curl", "openssl")
    keys = Keys(t.bare().dir)
    (_, public), (other, _), (path, good) = keys.make("app"), keys.make("other"), keys.make("good")
    w = World(t, {"1": {"key": public, "algs": ["RS256"]}, "2": {"key": good, "algs": ["RS256"]}},
              {"account": "acme", "installation": 7, "repositories": ["site"], "token": INSTALLATION_TOKEN})
    base = "api_url=https://ghe.test/api/v3"
    w.add("wrong", "github_app", "ghe.test", base, "app_id=1", "installation_id=7", f"private_key=@{other}", "env=A")
    w.add("more", "github_app", ["api.test", "ghe.test"], base, "app_id=2", "installation_id=7", f"private_key=@{path}", "repositories=secret", "env=B")
    w.add("gone", "github_app", ["auth.test", "ghe.test"], base, "app_id=2", "installation_id=8", f"private_key=@{path}", "env=C")
    w.serve()
    for host, words in (("ghe.test", "does not take the App's signature"), ("api.test", "does not have those repositories"),
                        ("auth.test", "no such installation")):
        status, answer = w.get(f"https://{host}/api/v3/repos/acme/site")
        assert status == 502 and words in answer["message"], answer


def test_jwt_bearer(t):
    """oauth_jwt_bearer: RS256/384/512, ES256/384, keys as PKCS#8, PKCS#1, SEC1; jose takes each assertion once"""
    t.need("curl", "openssl")
    keys = Keys(t.bare().dir)
    rows = [("RS256", "rsa", "pkcs8"), ("RS384", "rsa", "pkcs1"), ("RS512", "rsa", "pkcs8"), ("ES256", "P-256", "pkcs8"),
            ("ES256", "P-256", "sec1"), ("ES384", "P-384", "sec1")]
    made = [(f"client-{i}", alg, *keys.make(f"k{i}", kind, form)) for i, (alg, kind, form) in enumerate(rows)]
    w = World(t, {name: {"key": public, "algs": [alg], "needs": ["jti", "tenant"]} for name, alg, _, public in made})
    for name, alg, path, _ in made:
        w.add(name, "oauth_jwt_bearer", f"{name}.test", f"private_key=@{path}", f"algorithm={alg}", f"issuer={name}",
              "subject=robot", f"token_url={TOKEN_URL}", "claims.tenant=json:7", "key_id=k")
    w.serve(*[x for name, *_ in made for x in ("--connect-to", f"{name}.test:443:127.0.0.1:{w.port}")])
    for name, *_ in made:
        assert w.get(f"https://{name}.test/x") == (200, {"who": "robot"}), w.log.read_text()
    assert [v["header"]["alg"] for v in w.verified()] == [alg for _, alg, *_ in made]
    assert w.verified()[0]["claims"]["tenant"] == 7


def test_private_key_jwt(t):
    """oauth_client_credentials with a key in a secret's place (RFC 7523 2.2), and the wrong key"""
    t.need("curl", "openssl")
    keys = Keys(t.bare().dir)
    (path, public), (other, _) = keys.make("a", "P-256"), keys.make("b", "P-256")
    w = World(t, {"abc": {"key": public, "algs": ["ES256"]}})
    w.add("cc", "oauth_client_credentials", "api.test", f"token_url={TOKEN_URL}", "client_id=abc", f"private_key=@{path}",
          "algorithm=ES256", "scopes=read")
    w.add("no", "oauth_client_credentials", "ghe.test", f"token_url={TOKEN_URL}", "client_id=abc", f"private_key=@{other}",
          "algorithm=ES256")
    w.serve()
    assert w.get("https://api.test/x") == (200, {"who": "abc"}), w.log.read_text()
    status, answer = w.get("https://ghe.test/x")
    assert status == 502 and answer["error"] == "oauth_refresh_failed" and "invalid_grant" in answer["message"], answer


def test_jwt(t):
    """jwt: signed here with each algorithm and sent as it is; Snowflake's fingerprint is what OpenSSL makes it"""
    t.need("curl", "openssl")
    keys = Keys(t.bare().dir)
    rsa, public = keys.make("snow")
    ec, ec_public = keys.make("apple", "P-256")
    clients = {"apple": {"key": ec_public, "algs": ["ES256"]}}
    der = subprocess.run(["openssl", "pkey", "-in", rsa, "-pubout", "-outform", "DER"], capture_output=True, check=True).stdout
    digest = subprocess.run(["openssl", "dgst", "-sha256", "-binary"], input=der, capture_output=True, check=True).stdout
    snow = "ORG-ACCT.ROBOT.SHA256:" + base64.b64encode(digest).decode()
    clients[snow] = {"key": public, "algs": ["RS256"]}
    secrets = {}
    for alg in ("HS256", "HS384", "HS512"):
        secrets[alg] = f"canary-{alg}-" + "s" * 60
        clients[alg] = {"secret": secrets[alg], "algs": [alg]}
    w = World(t, clients)
    w.add("snow", "jwt", "snow.test", f"private_key=@{rsa}", "claims.iss=ORG-ACCT.ROBOT.${fingerprint}", "claims.sub=ORG-ACCT.ROBOT",
          "lifetime=3600", "headers.x-snowflake-authorization-token-type=KEYPAIR_JWT")
    w.add("apple", "jwt", "apple.test", f"private_key=@{ec}", "key_id=ABC", "claims.iss=apple", "claims.aud=appstoreconnect-v1",
          "claims.scope=json:[\"GET /v1/apps\"]", "claims.iat=${now-60}", "claims.jti=${jti}", "lifetime=1200", "jose.x=${key_id}!")
    hosts = ["snow.test", "apple.test"]
    for alg, value in secrets.items():
        file = keys.dir / alg
        file.write_text(value)
        hosts.append(f"{alg.lower()}.test")
        w.add(alg.lower(), "jwt", hosts[-1], f"secret=@{file}", f"algorithm={alg}", f"claims.iss={alg}", "header=x-token", "prefix=")
    w.serve(*[x for h in hosts for x in ("--connect-to", f"{h}:443:127.0.0.1:{w.port}")])
    assert w.get("https://snow.test/?signed=1")[0] == 200, w.log.read_text()
    status, answer = w.get("https://apple.test/?signed=1&aud=appstoreconnect-v1")
    assert status == 200 and answer["who"]["scope"] == ["GET /v1/apps"] and len(answer["who"]["jti"]) == 32, answer
    for host in hosts[2:]:
        assert w.get(f"https://{host}/?signed=1&header=x-token")[0] == 200, w.log.read_text()
    said = w.verified()
    assert [v["header"]["alg"] for v in said] == ["RS256", "ES256", "HS256", "HS384", "HS512"]
    assert said[1]["header"] == {"alg": "ES256", "kid": "ABC", "typ": "JWT", "x": "ABC!"}, said[1]
    assert said[1]["claims"]["exp"] - said[1]["claims"]["iat"] == 1260


def test_key_fields(t):
    """credential add says which field is at fault: a passphrase, a JWK, another kind, a certificate, half a key file"""
    t.need("openssl")
    s = t.bare()
    s.init()
    keys = Keys(s.dir)
    (rsa, _), (ec, _) = keys.make("rsa"), keys.make("ec", "P-256")
    openssl("pkey", "-in", rsa, "-aes128", "-passout", "pass:x", "-out", s.dir / "locked.pem")
    openssl("req", "-x509", "-key", rsa, "-subj", "/CN=x", "-out", s.dir / "cert.pem")
    (s.dir / "jwk").write_text('{"kty":"RSA","n":"x"}')
    (s.dir / "escaped").write_text(rsa.read_text().replace("\n", "\\n"))
    base = ["--type", "oauth_jwt_bearer", "--host", "api.test", "issuer=i", f"token_url={TOKEN_URL}"]
    for file, words in (("locked.pem", "passphrase"), ("jwk", "JWK"), ("ec.pem", "is no RSA key, which RS256 needs"),
                        ("cert.pem", "certificate"), ("escaped", "\\n spelled out")):
        r = s.cli("credential", "add", "x", *base, f"private_key=@{s.dir / file}", check=False)
        assert r.returncode == 2 and r.stderr.startswith("sallyport: private_key ") and words in r.stderr, (file, r.stderr)
    _, document, _ = account(keys)
    del document["client_email"]
    (s.dir / "half.json").write_text(json.dumps(document))
    for file, words in (("half.json", "key is not the document that it should be: it has no 'client_email'"),
                        ("rsa.pem", "key is not the document that it should be: it is not JSON")):
        r = s.cli("credential", "add", "x", "--type", "gcp_access_token", f"key=@{s.dir / file}", check=False)
        assert r.returncode != 0 and words in r.stderr, r.stderr
    assert "credential" not in s.cli("credential", "list", "--json").stdout
