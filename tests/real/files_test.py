"""An API whose answers lead to files elsewhere: real clients follow the redirect, and the token does not."""
import http.server
import json
import ssl
import sys
import threading

import certs as certs_module
import sallyport
from clients_test import environment, run

TOKEN = "ghp_canary0123456789012345678901234567ab"
AT = "https://{}/file?sig=signed&sp=r"
TO = {"/repos/o/r/releases/assets/1": "release-assets.githubusercontent.com", "/repos/o/r/tarball/main": "codeload.github.com",
      "/repos/o/r/old/1": "objects.githubusercontent.com", "/repos/o/r/raw/1": "raw.githubusercontent.com"}
HOSTS = ["api.github.com", *TO.values()]


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        host, auth = self.headers["Host"], self.headers.get("Authorization")
        self.server.got.append((self.command, host, self.path, auth))
        if host == "api.github.com":
            ok, to = auth == f"Bearer {TOKEN}", TO.get(self.path)
            self.send_response(302 if ok and to else 200 if ok else 401)
            if ok and to:
                self.send_header("Location", AT.format(to))
            body = b"{}"
        else:
            # as blob storage has it: one signature, not two
            self.send_response(400 if auth else 200)
            body = b"two keys" if auth else b"the file"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_GET

    def log_message(self, *_):
        pass


def arrange(t):
    s = t.bare()
    s.init()
    s.canaries.append(TOKEN)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs_module.leaf(sallyport.certs(), s.dir, HOSTS))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.got = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    said = s.cli("credential", "add", "gh", "--preset", "github", f"token=@{s.secret_file(TOKEN)}").stderr
    assert all(h in said for h in TO.values()) and "without the credential" in said, said
    s.agent()
    flags = [x for h in HOSTS for x in ("--connect-to", f"{h}:443:127.0.0.1:{server.server_port}")]
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", *flags)
    return s, server, environment(s)


def test_github_assets(t):
    """preset github: curl -L and requests fetch release assets, archives and raw files; the token goes to the API alone, and nothing is written"""
    t.need("curl")
    s, server, env = arrange(t)
    held = env["GH_TOKEN"]
    assert held.startswith("ghp_") and held != TOKEN
    for path, host in TO.items():
        out = run(["curl", "-sS", "-L", "-H", f"Authorization: Bearer {held}", f"https://api.github.com{path}"], env)
        assert out == "the file", (path, out)
    out = run([sys.executable, "-c", "import os, requests\n"
               "s = requests.Session(); s.headers['Authorization'] = 'token ' + os.environ['GH_TOKEN']\n"
               "r = s.get('https://api.github.com/repos/o/r/releases/assets/1'); print(r.status_code, r.text)"], env)
    assert out == "200 the file\n", out
    assert all(auth is None for _, host, _, auth in server.got if host != "api.github.com"), server.got
    assert {host for _, host, _, _ in server.got} == set(HOSTS)
    # reading alone
    n = len(server.got)
    out = run(["curl", "-sS", "-X", "PUT", "-d", "x", AT.format("raw.githubusercontent.com")], env)
    assert "method_not_allowed" in out and len(server.got) == n, out
    # a client that sends its placeholder after all, and one that has a key of its own
    for key in (held, "ghp_0123456789012345678901234567890123ab"):
        run(["curl", "-sS", "-H", f"Authorization: Bearer {key}", AT.format("codeload.github.com")], env)
    assert not any(TOKEN in str(got) for got in server.got if got[1] != "api.github.com")


def test_files_come_and_go(t):
    """what a preset opens goes with its credential, unless another needs it; entries of one's own stay; another host's get none"""
    s = t.bare()
    s.init()
    secret = f"token=@{s.secret_file(TOKEN)}"

    def hosts():
        return {d["host"] for d in json.loads(s.cli("bundle", "show", "default", "--json").stdout)["domains"]}
    s.cli("domain", "add", "default", "codeload.github.com", "--method", "GET", "--path", "/acme")
    s.cli("credential", "add", "gh", "--preset", "github", secret)
    assert "release-assets.githubusercontent.com" in hosts()
    shown = next(d for d in json.loads(s.cli("bundle", "show", "default", "--json").stdout)["domains"] if d["host"] == "codeload.github.com")
    assert shown["paths"] == ["/acme"], shown
    s.cli("credential", "add", "app", "--preset", "github-git", f"password=@{s.secret_file(TOKEN)}")
    s.cli("credential", "remove", "gh")
    assert {"release-assets.githubusercontent.com", "codeload.github.com"} <= hosts()
    s.cli("credential", "remove", "app")
    left = hosts()
    assert left == {"codeload.github.com"}, left
    s.cli("credential", "add", "ghe", "--preset", "github", "--host", "ghe.example.com", secret)
    assert hosts() == left, "a server of one's own has its files elsewhere"


def test_msal(t):
    """preset microsoft-graph: the tenant's configuration may be read, as MSAL does first, and the token request is answered by the proxy"""
    t.need("curl")
    s = t.bare()
    s.init()
    s.canaries.append("canary-client-secret")
    login = "login.microsoftonline.com"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs_module.leaf(sallyport.certs(), s.dir, [login]))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.got = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://{login}/tenant/oauth2/v2.0/token"
    s.cli("credential", "add", "graph", "--preset", "microsoft-graph", f"token_url={url}", "client_id=id", "answer_members=",
          f"client_secret=@{s.secret_file('canary-client-secret')}")
    s.agent()
    held = json.loads(s.cli("credential", "sandbox-file", "graph", "--agent", "a").stdout)["client_secret"]
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"{login}:443:127.0.0.1:{server.server_port}")
    env = environment(s)
    assert run(["curl", "-sS", f"https://{login}/tenant/v2.0/.well-known/openid-configuration"], env) == "the file"
    got = json.loads(run(["curl", "-sS", "-d", f"grant_type=client_credentials&client_id=id&client_secret={held}", url], env))
    assert got["access_token"] and len(server.got) == 1, (got, server.got)
