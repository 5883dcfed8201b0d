"""The real Claude Code CLI on a subscription, in a sandbox that holds placeholders alone, against a stand-in for the API."""
import http.server
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import threading
import time

import certs
import sallyport
from clients_test import environment
from real import wait
from servers import free_port

CLI = sallyport.BUILD / "npm/node_modules/@anthropic-ai/claude-code-linux-x64/claude"
API, LOGIN, OLD_LOGIN = "api.anthropic.com", "platform.claude.com", "console.anthropic.com"
CLIENT = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
SCOPES = ["user:inference", "user:profile", "user:sessions:claude_code"]
REPLY = "seventeen herons"


class Anthropic:
    """Messages and token endpoint of one account: believes only its own tokens, and each refresh token once."""

    def __init__(self, directory, canaries):
        self.canaries = canaries
        self.lock, self.spends, self.tokens, self.calls, self.strangers, self.wrong = threading.Lock(), [], set(), [], [], set()
        self.n, self.refuse, self.expect_401 = 0, None, 0
        self.access, self.refresh = self.issue()
        handler = type("Handler", (Handler,), {"world": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certs.leaf(sallyport.certs(), directory, [API, LOGIN, OLD_LOGIN]))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def issue(self):
        self.n += 1
        self.access, self.refresh = (f"sk-ant-{kind}01-canary{self.n:03}" + os.urandom(36).hex() for kind in ("oat", "ort"))
        self.tokens |= {self.access, self.refresh}
        self.canaries += [self.access, self.refresh]
        return self.access, self.refresh

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def token(self, body):
        with self.lock:
            self.spends.append(body.get("refresh_token"))
            if self.refuse:
                status, error = self.refuse
                return status, {"error": error, "error_description": "canary-words-of-the-server"}
            if body.get("refresh_token") != self.refresh or body.get("client_id") != CLIENT:
                return 400, {"error": "invalid_grant"}
            access, refresh = self.issue()
            return 200, {"access_token": access, "refresh_token": refresh, "expires_in": 28800, "token_type": "Bearer",
                         "scope": " ".join(SCOPES)}


EVENTS = [
    {"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
     "content": [], "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": REPLY}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 4}},
    {"type": "message_stop"}]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *args):
        pass

    def answer(self, status, value, kind="application/json"):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def any(self):
        w, host = self.world, self.headers["host"]
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.split("?")[0]
        if host in (LOGIN, OLD_LOGIN) and path == "/v1/oauth/token":
            return self.answer(*w.token(json.loads(body)))
        given = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        with w.lock:
            w.calls.append((self.command, host, path, given))
            if given != w.access:
                w.strangers.append((path, given))
            refused = given != w.access or path == "/v1/messages" and w.expect_401 > 0
            if refused and path == "/v1/messages" and w.expect_401 > 0:
                w.expect_401 -= 1
                w.wrong.add(given)
        if refused:
            return self.answer(401, {"type": "error", "error": {"type": "authentication_error", "message": "OAuth token has expired"}})
        if path != "/v1/messages":
            return self.answer(200, {})
        if not json.loads(body).get("stream"):
            return self.answer(200, {**EVENTS[0]["message"], "content": [{"type": "text", "text": REPLY}], "stop_reason": "end_turn"})
        self.answer(200, "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in EVENTS).encode(), "text/event-stream")

    do_GET = do_POST = do_HEAD = do_PUT = any


class World:
    """The stand-in, an agent that may use it, and a .credentials.json as the CLI leaves one."""

    def __init__(self, t, cli=True, serve=True):
        if cli and not CLI.exists():
            t.skip("the Claude Code CLI is not installed")
        t.need("openssl")
        self.t, self.s = t, t.bare(workers=2)
        self.s.init()
        self.up = self.s.upstream = Anthropic(self.s.dir, self.s.canaries)
        self.s.agent()
        self.source = self.s.dir / "laptop/.credentials.json"
        self.source.parent.mkdir()
        self.leave()
        connect = [f"{h}:443:127.0.0.1:{self.up.port}" for h in (API, LOGIN, OLD_LOGIN)]
        self.s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
        self.s.cli("set", "connect-to", *connect)
        self.listen = f"127.0.0.1:{free_port()}"
        self.s.cli("set", "listen", self.listen)
        if serve:
            self.s.serve(listen=self.listen)
        self.runs = 0

    def leave(self, **more):
        self.source.write_text(json.dumps({"claudeAiOauth": {
            "accessToken": self.up.access, "refreshToken": self.up.refresh, "expiresAt": int(time.time() * 1000) + 3600_000,
            "scopes": SCOPES, "subscriptionType": "max", "rateLimitTier": "default_claude_max_20x", **more}}))
        self.source.chmod(0o600)

    def take(self, *args, check=True):
        r = self.s.cli("import", "claude-code", self.source, *args, check=check)
        assert "canary" not in r.stdout + r.stderr, r.stderr
        return r

    def home(self, credentials=True):
        """A machine of the agent's: its home directory."""
        self.runs += 1
        home = self.s.dir / f"agent-{self.runs}"
        if credentials:
            subprocess.run(["cp", "-a", self.s.dir / "files", home], check=True)
        else:
            home.mkdir()
        return home

    def claude(self, home, env=None, code=0):
        if not hasattr(self, "env"):
            self.env = environment(self.s)
        env = {**self.env, "HOME": str(home), "PATH": "/usr/bin:/bin", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", **(env or {})}
        env = {k: v for k, v in env.items() if v is not None}
        r = subprocess.run([CLI, "-p", "hi"], env=env, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                           timeout=90 * sallyport.SLOW)
        assert r.returncode == code, (r.returncode, r.stdout[-500:], r.stderr[-1500:], self.s.records()[-6:])
        self.clean(home, r.stdout + r.stderr)
        return r.stdout

    def clean(self, home, text=""):
        """No token of the account's is anywhere on the agent's machine."""
        for path in pathlib.Path(home).rglob("*"):
            if path.is_file():
                text += path.read_bytes().decode("latin-1")
        found = [x for x in self.up.tokens if x in text]
        assert not found and "canary" not in text, f"the sandbox holds {found}"

    def asked(self, n=0):
        """The token requests that the proxy answered itself, once there are n in the log."""
        def look():
            return [r for r in self.s.records() if r.get("reason") == "token placeholder"]
        return wait(lambda: len(look()) >= n and (look(), ), 5, f"{n} token requests in the log")[0]


def stored(home):
    return json.loads((home / ".claude/.credentials.json").read_text())["claudeAiOauth"]


def edit(home, **change):
    path = home / ".claude/.credentials.json"
    value = json.loads(path.read_text())
    value["claudeAiOauth"].update(change)
    path.write_text(json.dumps(value))


def test_files(t):
    """import claude-code, files for the agent, `claude -p`: an answer; only the proxy knows the account"""
    w = World(t)
    first = w.up.refresh
    w.take("--agent", "a", "--out", w.s.dir / "files")
    assert w.up.spends == [first] and w.up.refresh != first, "the refresh token is tried at once, and rotated"
    home = w.home()
    was = stored(home)
    assert was["scopes"] == SCOPES and was["subscriptionType"] == "max" and was["rateLimitTier"] == "default_claude_max_20x"
    assert was["accessToken"].startswith("sk-ant-oat01-") and was["refreshToken"].startswith("sk-ant-ort01-")
    assert len(was["accessToken"]) == len("sk-ant-oat01-") + 95 and was["expiresAt"] > (time.time() + 300 * 86400) * 1000
    for path in (".claude/.credentials.json", ".claude.json"):
        assert (home / path).stat().st_mode & 0o777 == 0o600, path
    assert REPLY in w.claude(home, {"CLAUDE_CODE_OAUTH_TOKEN": None})
    assert not w.up.strangers and len(w.up.spends) == 1 and not w.asked()
    assert any(c[2] == "/v1/messages" for c in w.up.calls)


def test_readme(t):
    """the manual's recipe, line by line: both its forms end in an answer"""
    text = (sallyport.ROOT / "lua/help/subscription.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) == 3 and "import claude-code --agent" in blocks[1] and "import claude-code\n" in blocks[2], blocks
    for block in blocks[1:]:
        w = World(t)
        machine = w.s.dir / "machine"
        (machine / "bin").mkdir(parents=True)
        (machine / "bin/claude").symlink_to(CLI)
        (machine / "bin/sallyport").symlink_to(pathlib.Path(w.s.binary).resolve())
        (machine / "person").mkdir()
        w.source.parent.rename(machine / "person/.claude")
        env = {"PATH": f"{machine}/bin:/usr/bin:/bin", "HOME": str(machine / "person"), "SALLYPORT_HOME": str(w.s.home),
               "SALLYPORT_TEST_CLOCK": str(w.s.clock_file), "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
        if "agent add" not in block:
            w.s.cli("agent", "add", "claude")
            block = block.replace("claude -p", "HOME=$PWD claude -p")      # the sandbox's home, not the person's
        r = subprocess.run(["bash", "-ec", block], cwd=machine, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                           timeout=120 * sallyport.SLOW)
        assert r.returncode == 0 and r.stdout.endswith(REPLY + "\n"), (r.returncode, r.stdout[-300:], r.stderr[-1500:])
        shutil.rmtree(machine / "person/.claude")
        shutil.rmtree(machine / "bin")
        w.clean(machine, r.stdout + r.stderr)
        assert len(w.up.spends) == 1 and not w.up.strangers


def test_token_variable(t):
    """CLAUDE_CODE_OAUTH_TOKEN from `sallyport env`: the shortest form"""
    w = World(t)
    w.take()
    home = w.home(credentials=False)
    w.env = environment(w.s)
    assert w.env["CLAUDE_CODE_OAUTH_TOKEN"].startswith("sk-ant-oat01-"), w.env
    assert REPLY in w.claude(home)
    assert not w.up.strangers and len(w.up.spends) == 1


def test_token_variable_refused(t):
    """CLAUDE_CODE_OAUTH_TOKEN, and a 401 of the API: the CLI tries again, and gets the token that the proxy renewed"""
    w = World(t)
    w.take()
    w.s.set_clock(60)
    w.up.expect_401 = 1
    assert REPLY in w.claude(w.home(credentials=False))
    assert len(w.up.spends) == 2 and "ev=token_dropped credential=claude-code" in w.s.log()


def test_expired_placeholder(t):
    """an expired placeholder: the CLI posts its refresh, the proxy answers with placeholders, and the CLI keeps those"""
    w = World(t)
    w.take("--agent", "a", "--out", w.s.dir / "files")
    home = w.home()
    was = stored(home)
    edit(home, expiresAt=int(time.time() * 1000) - 60_000)
    assert REPLY in w.claude(home, {"CLAUDE_CODE_OAUTH_TOKEN": None})
    asked = w.asked(1)
    assert [(r["method"], r["host"], r["path"], r["status"]) for r in asked] == [("POST", LOGIN, "/v1/oauth/token", 200)], w.s.records()
    now = stored(home)
    assert now["accessToken"] == was["accessToken"] and now["refreshToken"] == was["refreshToken"], "placeholders both"
    assert now["expiresAt"] > (time.time() + 86400) * 1000 and sorted(now["scopes"]) == sorted(SCOPES), now
    assert len(w.up.spends) == 1 and not w.up.strangers


def test_refused_upstream(t):
    """a 401 of the API: the proxy drops the token and renews it, the CLI renews its placeholder with us, and goes on"""
    w = World(t)
    w.take("--agent", "a", "--out", w.s.dir / "files")
    w.s.set_clock(60)                  # a token is not dropped in its first seconds
    w.up.expect_401 = 1
    home = w.home()
    assert REPLY in w.claude(home, {"CLAUDE_CODE_OAUTH_TOKEN": None})
    assert w.up.wrong and w.up.access not in w.up.wrong, "another token than the refused one"
    assert len(w.up.spends) == 2 and len(set(w.up.spends)) == 2, "one refresh, with the rotated token"
    assert "ev=token_dropped credential=claude-code" in w.s.log()
    assert len(w.asked(1)) == 1, w.s.records()


def test_both_token_addresses(t):
    """platform.claude.com and console.anthropic.com answer a placeholder with placeholders; a stranger's refresh token goes nowhere"""
    w = World(t, cli=False)
    w.take("--agent", "a", "--out", w.s.dir / "files")
    home = w.home()
    held = stored(home)
    again = w.s.dir / "again"
    w.s.cli("credential", "sandbox-file", "claude-code", "--agent", "a", "--out", again)
    assert json.loads(again.read_text())["claudeAiOauth"]["refreshToken"] == held["refreshToken"], "the same file, from the record"
    assert json.loads(again.read_text())["claudeAiOauth"]["scopes"] == SCOPES

    def post(host, refresh, path="/v1/oauth/token", **more):
        body = json.dumps({"grant_type": "refresh_token", "refresh_token": refresh, "client_id": CLIENT, "scope": "user:inference"})
        r = w.s.request("POST", path, host=host, headers={"Content-Type": "application/json", **more}, body=body.encode())
        w.clean(home, r.body.decode("latin-1"))
        return r
    for host in (LOGIN, OLD_LOGIN):
        r = post(host, held["refreshToken"])
        answer = json.loads(r.body)
        assert r.status == 200 and answer["refresh_token"] == held["refreshToken"], answer
        assert answer["access_token"] == held["accessToken"] and answer["token_type"] == "Bearer" and answer["expires_in"] > 86400
        assert answer["scope"] == "user:inference" and r.get("cache-control") == "no-store", r.head
        for stranger in ("sk-ant-ort01-" + "x" * 95, held["accessToken"], ""):
            r = post(host, stranger)
            assert r.status == 403 and r.get("x-sallyport-error") == "token_endpoint", r.body
    wire = w.s.tunnel(LOGIN)           # one connection: answered, refused and chunked requests leave it in step
    for refresh, body in ((held["refreshToken"], None), ("x", None), (held["refreshToken"], "chunked"), (held["refreshToken"], None)):
        data = json.dumps({"grant_type": "refresh_token", "refresh_token": refresh}).encode()
        fields = {"Content-Type": "application/json"}
        if body == "chunked":
            data = b"5\r\n" + data[:5] + b"\r\n%x\r\n" % len(data[5:]) + data[5:] + b"\r\n0\r\n\r\n"
            head = f"POST /v1/oauth/token HTTP/1.1\r\nHost: {LOGIN}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            wire.send(head.encode() + data)
            text = b""
            while b"\r\n\r\n" not in text or not text.endswith(b"}"):
                text += wire.recv(5)
            assert text.startswith(b"HTTP/1.1 200") and held["accessToken"].encode() in text, text
        else:
            r = w.s.request("POST", "/v1/oauth/token", host=LOGIN, headers=fields, body=data, wire=wire)
            assert r.status == (403 if refresh == "x" else 200), r.body
    wire.close()
    for path in ("/v1/oauth/token/", "/v1/oauth//token", "/v1//oauth/token", "/v1/oauth/%74oken", "/v1/x/../oauth/token"):
        r = post(LOGIN, held["refreshToken"], path)
        assert r.status == 403 and r.get("x-sallyport-error") == "token_endpoint", (path, r.status, r.body)
    for url, words in ((f"https://{LOGIN}/v1/oauth/token", "sandbox-file claude-code"), (f"https://{OLD_LOGIN}/v1/oauth/token", "claude-code")):
        assert words in w.s.cli("explain", "--agent", "a", "POST", url).stdout
    r = w.s.cli("connect", "claude-code", check=False)
    assert r.returncode == 1 and "import claude-code" in r.stderr, r.stderr
    w.s.cli("credential", "set", "claude-code", "--path", "/v1")
    assert json.loads(w.s.cli("credential", "show", "claude-code", "--json").stdout)["claude_code"]["subscription"] == "max"
    r = w.s.request(target="/v1/models", host=API)
    assert r.status == 200 and w.up.calls.pop()[3] == w.up.access, "another version of the record, the same grant"
    w.s.cli("credential", "set", "claude-code", "--path", "/")
    r = w.s.request("POST", "/api/oauth/claude_cli/create_api_key", host=API)
    assert r.status == 403 and r.get("x-sallyport-error") == "mint_denied", "the account makes no key for the agent"
    assert len(w.up.spends) == 1 and not w.up.calls


def test_second_account(t):
    """two accounts in one bundle: the placeholder that a request bears says whose it is, in tokens and in calls"""
    w = World(t, cli=False)
    w.take("--agent", "a", "--out", w.s.dir / "files")
    one, two = w.home(), None
    first = w.up.access
    w.up.issue()                       # somebody signs in to another account, as far as the API is concerned
    w.leave()
    w.take("--agent", "a", "--out", w.s.dir / "files", "--name", "second")
    two = w.home()
    assert stored(one)["accessToken"] != stored(two)["accessToken"]
    for home, real in ((one, first), (two, w.up.access)):
        held = stored(home)
        body = json.dumps({"grant_type": "refresh_token", "refresh_token": held["refreshToken"], "client_id": CLIENT})
        r = w.s.request("POST", "/v1/oauth/token", host=LOGIN, headers={"Content-Type": "application/json"}, body=body.encode())
        assert json.loads(r.body)["access_token"] == held["accessToken"]
        w.s.request(target="/v1/models", host=API, headers={"Authorization": f"Bearer {held['accessToken']}"})
        assert w.up.calls[-1][3] == real, "each placeholder its own account's token"


def test_import_while_used(t):
    """an import while the agent's requests come in: the refresh token is spent once, and each request gets an answer or a reason"""
    w = World(t, cli=False)
    seen, end = [], threading.Event()

    def ask():
        while not end.is_set():
            r = w.s.request(target="/v1/models", host=API)
            seen.append((r.status, r.get("x-sallyport-error")))
    threads = [threading.Thread(target=ask) for _ in range(6)]
    [x.start() for x in threads]
    wait(lambda: len(seen) > 20, 10, "requests before the import")
    w.take()
    n = len(seen)
    wait(lambda: len(seen) > n + 20, 10, "requests after the import")
    end.set()
    [x.join(20) for x in threads]
    assert set(seen) <= {(403, "host_not_allowed"), (200, None)}, set(seen)
    assert set(seen[n + 6:]) == {(200, None)}, "from the next request on"
    assert len(w.up.spends) == 1 and not w.up.strangers, w.up.spends


def test_refused_import(t):
    """a refresh token that is not taken, a file that is none, a name in use: nothing is kept, and it says why"""
    w = World(t, cli=False)
    for change, words in ((lambda: w.leave(refreshToken="sk-ant-ort01-" + "y" * 95), "invalid_grant"),
                          (lambda: setattr(w.up, "refuse", (400, "invalid_client")), "invalid_client"),
                          (lambda: setattr(w.up, "refuse", (503, "x")), "error of its own"),
                          (lambda: w.source.write_text("{}"), "claudeAiOauth"),
                          (lambda: w.source.write_text('{"claudeAiOauth":{"accessToken":"canary"}}'), "refreshToken"),
                          (lambda: w.source.write_text("canary not JSON"), "claudeAiOauth"),
                          (lambda: w.source.unlink(), "no such file")):
        change()
        r = w.take(check=False)
        assert r.returncode == 1 and words in r.stderr, r.stderr
        assert json.loads(w.s.cli("credential", "list", "--json").stdout or "[]") == [], "nothing was kept"
        assert w.s.request(host=API).get("x-sallyport-error") == "host_not_allowed"
        w.up.refuse = None
        w.leave()
    spent = len(w.up.spends)
    for bad, words in ((("--agent", "nobody"), "nobody"), (("--bundle", "nowhere"), "nowhere"), (("--name", "a b"), "name")):
        r = w.take(*bad, check=False)
        assert r.returncode != 0 and words in r.stderr, r.stderr
    assert len(w.up.spends) == spent, "what is wrong is said before the token is spent"
    (w.s.dir / "files").mkdir()
    (w.s.dir / "files/.claude.json").write_text('{"theirs":1}')
    (w.s.dir / "file").write_text("")
    r = w.take("--agent", "a", "--out", w.s.dir / "file/x", check=False)
    assert r.returncode == 1 and "cannot be made" in r.stderr and len(w.up.spends) == spent, r.stderr
    r = w.take("--agent", "a", "--out", w.s.dir / "files")
    assert "stays" in r.stderr and (w.s.dir / "files/.claude.json").read_text() == '{"theirs":1}'
    w.s.credential({"name": "other", "type": "bearer", "host": "other.test", "secrets": {"token": "canary-other"}})
    r = w.take("--name", "other", check=False)
    assert r.returncode == 1 and "already" in r.stderr and len(w.up.spends) == spent + 1, r.stderr


def test_import_again(t):
    """an import is repeated: the same file spends nothing and harms nothing, a new sign-in replaces the grant, a dead one changes nothing"""
    w = World(t, cli=False)
    out, first = w.s.dir / "files", w.up.refresh

    def works(real=None):
        assert w.s.request(target="/v1/models", host=API).status == 200
        return w.up.calls[-1][3]
    (out / ".claude/.credentials.json").mkdir(parents=True)           # cannot be written
    r = w.take("--agent", "a", "--out", out, check=False)
    assert r.returncode == 1 and "cannot be written" in r.stderr and not w.up.spends, "nothing is spent for files that cannot be"
    (out / ".claude/.credentials.json").rmdir()
    w.up.refuse = (400, "invalid_grant")
    assert w.take("--agent", "a", "--out", out, check=False).returncode == 1
    assert not (out / ".claude/.credentials.json").exists() and not (out / ".claude.json").exists(), "no files of nothing"
    w.up.refuse, w.up.spends = None, []
    w.take("--agent", "a", "--out", out)
    one = works()
    held = stored(out)
    (out / ".claude/.credentials.json").unlink()
    w.s.cli("bundle", "add", "more")
    r = w.take("--agent", "a", "--out", out, "--bundle", "default", "--bundle", "more")
    assert "before" in r.stderr and w.up.spends == [first], "the spent token is not sent again: a server would end the grant"
    assert "onboarding" not in r.stderr.lower(), "the file of ours is no other's"
    assert {k: v for k, v in stored(out).items() if k != "expiresAt"} == {k: v for k, v in held.items() if k != "expiresAt"}
    assert works() == one and show(w)["bundles"] == ["default", "more"]
    # Signed in anew on that machine.
    w.up.issue()
    w.leave(subscriptionType="pro")
    w.s.cli("credential", "set", "claude-code", "--path", "/v1")
    assert "Renewed" in w.take("--agent", "a", "--out", out).stderr
    two = works()
    assert two == w.up.access != one and stored(out)["subscriptionType"] == "pro" and show(w)["claude_code"]["subscription"] == "pro"
    assert show(w)["paths"] == ["/v1"] and stored(out)["accessToken"] == held["accessToken"], "what the operator set stays"
    # A token that does not work, and a server that is in trouble: the grant stays.
    spends = len(w.up.spends)
    for change in (lambda: w.leave(refreshToken="sk-ant-ort01-" + "y" * 95), lambda: setattr(w.up, "refuse", (503, "x"))):
        change()
        r = w.take("--agent", "a", "--out", out, check=False)
        assert r.returncode == 1 and "is as it was" in r.stderr and works() == two, r.stderr
    w.up.refuse = None
    assert len(w.up.spends) == spends + 2
    w.s.set_clock(30000)
    w.s.request(target="/v1/models", host=API)                        # within its last minutes, or past its end: renewed
    wait(lambda: works() not in (one, two), 10, "the renewal")
    assert not w.up.strangers


def show(w):
    return json.loads(w.s.cli("credential", "show", "claude-code", "--json").stdout)
