"""The door from the world's side: a person at a browser, the MCP SDK's client with its OAuth provider, an MCP server behind the door
that records what it got. Rows S and R are those of the checklist of MCP's authorization specification."""
import base64
import concurrent.futures
import hashlib
import html
import http.client
import http.server
import json
import os
import pathlib
import pty
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import threading
import time
import urllib.parse

import certs as certs_module
import sallyport
from claude_test import CLI
from oauth_test import NODE, NPM
from real import wait
from servers import free_port

HERE = pathlib.Path(__file__).resolve().parent
PASSWORD = "correct horse battery"


class Browser:
    """Keeps cookies, whatever the scheme; follows redirects within the box; fills in forms."""

    def __init__(self, base):
        self.base, self.jar, self.at, self.status, self.page, self.head = base, {}, None, 0, "", {}

    def go(self, url, fields=None, within=()):
        """Follows redirects within the box, and to the addresses that begin with one of `within`."""
        for _ in range(12):
            at = urllib.parse.urlsplit(url)
            c = http.client.HTTPConnection(at.hostname, at.port, timeout=30 * sallyport.SLOW)
            jar = self.jar.setdefault(at.netloc, {}) if not url.startswith(self.base) else self.jar.setdefault("box", {})
            head = {"Cookie": "; ".join(f"{k}={v}" for k, v in jar.items())} if jar else {}
            body = None
            if fields is not None:
                body, head["Content-Type"], head["Origin"] = urllib.parse.urlencode(fields), "application/x-www-form-urlencoded", self.base
            c.request("POST" if body is not None else "GET", at.path + (f"?{at.query}" if at.query else ""), body, head)
            r = c.getresponse()
            self.status, self.page, self.head, self.at = r.status, r.read().decode(), dict(r.getheaders()), url
            for name, value in r.getheaders():
                if name.lower() == "set-cookie":
                    k, _, v = value.split(";")[0].partition("=")
                    jar[k] = v
            c.close()
            to = r.getheader("Location")
            if r.status not in (302, 303) or not to:
                return self
            to = urllib.parse.urljoin(url, to)
            if not to.startswith((self.base + "/", *within)):
                self.at, self.page = to, ""
                return self
            url, fields = to, None
        raise AssertionError("too many redirects")

    def submit(self, action, *fields):
        form = re.search(rf'<form method="post" action="{action}">(.*?)</form>', self.page, re.S)
        assert form, (self.at, self.status, self.page)
        hidden = [(html.unescape(n), html.unescape(v)) for n, v in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form[1])]
        return self.go(urllib.parse.urljoin(self.base, action), hidden + list(fields))

    def set_password(self, link):
        self.go(link)
        self.submit("/login", ("password", PASSWORD), ("again", PASSWORD))
        assert self.status == 200 and "Signed in as" in self.page, self.page
        return self

    def sign_in(self, user="ada@example.org"):
        return self.submit("/login", ("user", user), ("password", PASSWORD))

    def approve(self, *scopes, tenant="acme"):
        """-> the parameters that the client gets."""
        assert "Approve" in self.page, (self.at, self.status, self.page)
        self.submit("/consent", ("tenant", tenant), *(("scope", s) for s in scopes), ("do", "approve"))
        assert self.page == "", (self.at, self.status, self.page)
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.at).query))


class Box:
    """A proxy with a door on loopback, an MCP server behind it, a tenant, and Ada in it with her password set."""

    def __init__(self, t, workers=1, server="door.mjs", flags=(), public=None):
        if not NODE.exists() or not (NPM / "@modelcontextprotocol/sdk").exists():
            t.skip("the MCP SDK is not installed")
        self.t, self.port, self.up = t, free_port(), free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.s, _ = t.proxy(serve=False)
        s = self.s
        self.log = s.dir / "behind.log"
        if server:
            t.start([NODE, HERE / server, NPM, *(["server"] if server == "door.mjs" else []), str(self.up)], self.log)
            wait(lambda: self.log.exists() and '"ready"' in self.log.read_text(), 60, "the MCP server")
        s.cli("set", "public-url", public or self.base)
        s.cli("credential", "add", "tools", "--type", "bearer", "--host", "127.0.0.1", "--port", str(self.up), "--plain-http", "--address", "127.0.0.0/8",
              "token=-", stdin="canary-upstream-1")
        s.cli("tenant", "add", "acme")
        s.cli("gateway", "add", "tools", f"http://127.0.0.1:{self.up}/mcp", "--credential", "tools", "--read", "get_*")
        s.cli("gateway", "scope", "tools", "entities:write", "--tool", "create_*", "--says", "Create entities")
        self.link = s.cli("user", "add", "ada@example.org", "--tenant", "acme=member").stdout.strip()
        s.canaries += ["canary-upstream-1", self.link.split(".")[-1], PASSWORD]
        s.serve("--gateway", f"127.0.0.1:{self.port}", "--gateway-workers", str(workers), *flags)
        self.ada = Browser(self.base).set_password(self.link) if not public else None

    def requests(self):
        return [e for e in map(json.loads, filter(lambda l: l.startswith('{"event"'), self.log.read_text().splitlines()))]

    def ask(self, method, path, body=None, **head):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30 * sallyport.SLOW)
        c.request(method, path, body, {k.replace("_", "-"): v for k, v in head.items()})
        r = c.getresponse()
        text = r.read().decode()
        c.close()
        return r.status, dict((k.lower(), v) for k, v in r.getheaders()), text

    def post(self, path, **fields):
        status, head, text = self.ask("POST", path, urllib.parse.urlencode(fields), Content_Type="application/x-www-form-urlencoded")
        return status, json.loads(text) if text else None

    def register(self, **more):
        status, _, text = self.ask("POST", "/oauth/register", json.dumps({"client_name": "Test", "redirect_uris": ["https://client.test/cb"],
                                   "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"], **more}), Content_Type="application/json")
        assert status == 201, text
        return json.loads(text)

    def code(self, client, *scopes, tenant="acme"):
        """Ada approves -> code, verifier."""
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        self.ada.go(self.base + "/oauth/authorize?" + urllib.parse.urlencode({
            "response_type": "code", "client_id": client["client_id"], "redirect_uri": client["redirect_uris"][0], "state": "st",
            "code_challenge": challenge, "code_challenge_method": "S256", "resource": self.base + "/mcp/tools"}))
        got = self.ada.approve(*(scopes or ("tools:read", "tools:execute", "offline_access")), tenant=tenant)
        assert got["iss"] == self.base and got["state"] == "st", got
        return got["code"], verifier

    def trade(self, client, code, verifier):
        return self.post("/oauth/token", grant_type="authorization_code", code=code, code_verifier=verifier, client_id=client["client_id"],
                         redirect_uri=client["redirect_uris"][0])

    def connected(self, *scopes):
        client = self.register()
        status, tokens = self.trade(client, *self.code(client, *scopes))
        assert status == 200, tokens
        self.s.canaries += [tokens["access_token"], tokens.get("refresh_token", tokens["access_token"])]
        return client, tokens

    def call(self, token):
        """An `initialize` at the gateway -> status."""
        return self.ask("POST", "/mcp/tools", json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}}), Content_Type="application/json",
            Accept="application/json, text/event-stream", Authorization=f"Bearer {token}")[0]


class Sdk:
    def __init__(self, box):
        self.p = subprocess.Popen([NODE, HERE / "door.mjs", NPM, "client", f"{box.base}/mcp/tools"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        box.t.processes.append(self.p)

    def read(self):
        line = self.p.stdout.readline()
        assert line, "the client has ended"
        return json.loads(line)

    def do(self, **command):
        self.p.stdin.write(json.dumps(command) + "\n")
        self.p.stdin.flush()
        return self.read()


def test_sdk(t):
    """the MCP SDK's client registers itself, a person approves, tools work by scope, tokens renew, and a revocation ends it [S1 S3 S6 S10 S12 S14 R1 R2 R3]"""
    box = Box(t)
    sdk = Sdk(box)
    opened = sdk.read()["open"]
    q = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(opened).query))
    assert q["resource"] == box.base + "/mcp/tools" and q["code_challenge_method"] == "S256" and "tools:execute" in q["scope"], q
    person = Browser(box.base).go(opened)
    assert "Sign in" in person.page
    assert "SDK client" in person.sign_in().page and "127.0.0.1:47113" in person.page and "your own computer" in person.page, person.page
    got = person.approve("tools:read", "tools:execute", "offline_access")
    assert got["iss"] == box.base and got["state"] == "state-of-the-sdk", got
    assert sdk.do(code=got["code"]) == {"connected": True}
    kept = sdk.do(tokens=True)["tokens"]
    box.s.canaries += [kept["access_token"], kept["refresh_token"]]
    assert "get_page" in sdk.do(list=True)["tools"]
    assert sdk.do(call="get_page") == {"text": "did get_page"} and sdk.do(call="set_page") == {"text": "did set_page"}
    assert sdk.do(renew=True) == {"renewed": True}
    kept = sdk.do(tokens=True)["tokens"]
    box.s.canaries += [kept["access_token"], kept["refresh_token"]]
    assert sdk.do(call="set_page") == {"text": "did set_page"}
    seen = box.requests()
    assert seen and all(r["headers"].get("authorization") == "Bearer canary-upstream-1" for r in seen), seen
    assert not any("sp_at_" in json.dumps(r) or "cookie" in r["headers"] for r in seen)
    shown = json.loads(box.s.cli("connection", "list", "--json").stdout)
    assert len(shown) == 1 and shown[0]["user"] == "ada@example.org" and shown[0]["client"] == "SDK client" and shown[0]["tenant"] == "acme" and shown[0]["used_at"], shown
    person.go(box.base + "/connections")
    assert "SDK client" in person.page, (person.at, person.status, person.page)
    person.submit("/connections")
    assert "Nothing is connected" in person.page
    after = sdk.do(call="get_page")         # its tokens are no good: it asks for a sign-in, or says why it cannot go on
    assert "text" not in after and ("open" in after or "error" in after), after
    assert box.call(kept["access_token"]) == 401
    # who changed what: the link's password, what was consented to (and no renewal), the end
    wait(lambda: '"POST /connections"' in box.s.cli("log", "--json", "--kind", "change").stdout, 5, "the last record")
    changes = sallyport.rows(box.s.cli("log", "--json", "--kind", "change").stdout)
    pages = [r for r in changes if r["door"] == "gateway"]
    assert [r["page"] for r in pages] == ["POST /login", "POST /oauth/token", "POST /connections"], pages
    assert all(r["by"] == "ada@example.org" and r["client"] == "127.0.0.1" for r in pages) and pages[1]["oauth_client"] == "SDK client", pages
    assert pages[0]["changes"][0] == {"record": "user ada@example.org", "did": "changed", "members": ["password"]}, pages
    assert [c["did"] for c in pages[1]["changes"]] == ["added", "added"] and f"connection {shown[0]['id']}" in str(pages[1]), pages
    assert pages[2]["changes"] == [{"record": f"connection {shown[0]['id']}", "did": "removed"}], pages
    text = box.s.cli("log", "--kind", "change").stdout
    assert "user add: user ada@example.org added" in text and "POST /connections: connection" in text, text


def door_pids(s):
    """the workers that serve the door: those with a lower priority"""
    def nice(p):
        try:
            return int(open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[16])
        except OSError:
            return -20      # it has just ended
    pids = {p: nice(p) for p in s.worker_pids()}
    return [p for p, n in pids.items() if n > min(pids.values())]


def guessing(box):
    """ten guesses at a name, at whichever worker, are ten; a worker's end forgets none [guessing]"""
    def guess():
        b = Browser(box.base).go(box.base + "/login")
        b.submit("/login", ("user", "bob@example.org"), ("password", "wrong-" + secrets.token_hex(4)))
        return b.status, int(b.head.get("Retry-After", 0))
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        got = list(pool.map(lambda _: guess(), range(12)))
    assert (429, 900) in got and {status for status, _ in got} <= {403, 429}, got
    for _ in range(4):
        assert guess() == (429, 900)
    before = door_pids(box.s)
    box.s.may_die = "yes"
    for p in before:
        os.kill(p, signal.SIGKILL)
    wait(lambda: len(set(door_pids(box.s)) - set(before)) == len(before), 10, "other workers of the door")
    wait(lambda: guess() == (429, 900), 10, "the same answer of the new ones")


def lane(box):
    """passwords are hashed one at a time, four wait, and who comes then gets 429; the door goes on meanwhile"""
    b = Browser(box.base).go(box.base + "/login")
    fields = dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', b.page))
    made = []
    for i in range(24):         # from addresses of their own: ten of one would be too many
        c = http.client.HTTPConnection("127.0.0.1", box.port, timeout=60 * sallyport.SLOW, source_address=(f"127.0.0.{i + 10}", 0))
        c.request("POST", "/login", urllib.parse.urlencode({**fields, "user": f"nobody{i}", "password": "x"}), {
            "Content-Type": "application/x-www-form-urlencoded", "Origin": box.base, "Cookie": "; ".join(f"{k}={v}" for k, v in b.jar["box"].items())})
        made.append(c)
    assert box.ask("GET", "/.well-known/oauth-authorization-server")[0] == 200
    got = [(r.status, r.getheader("Retry-After")) for r in (c.getresponse() for c in made)]
    [c.close() for c in made]
    assert set(got) == {(403, None), (429, "3")}, got


def explained(box):
    """explain says what the door and then the proxy decide, of a person, a connection, a client and a key"""
    s, at = box.s, f"{box.base}/mcp/tools"

    def door(*args, code=0):
        r = s.cli("explain", *args, "--json", check=False)
        assert r.returncode == code, (args, r.stdout, r.stderr)
        return json.loads(r.stdout)
    ada = ("--user", "ada@example.org", "--tenant", "acme")
    d = door(*ada, "--tool", "set_page", "POST", at)
    assert d["decision"] == "allow" and d["credential"] == "tools" and d["agent"] == "acme" and d["url"] == at, d
    assert d["door"]["role"] == "member" and d["door"]["needs"] == ["tools:execute"] and "snapshot" not in d["door"], d
    d = door(*ada, "--tool", "create_page", "POST", at)
    assert (d["decision"], d["status"], d["code"]) == ("deny", 403, "insufficient_scope") and d["door"]["needs"] == ["entities:write"], d
    text = s.cli("explain", *ada, "--tool", "create_page", "POST", at).stdout
    assert text.startswith("DENY   insufficient_scope (403)") and "entities:write" in text and "acme, as member" in text, text
    client, tokens = box.connected("tools:read", "offline_access")
    connection = json.loads(s.cli("connection", "list", "--json").stdout)[0]
    for who in (("--connection", connection["id"]), ("--user", "ada@example.org", "--client", connection["client_id"])):
        d = door(*who, "--tool", "set_page", "POST", at)
        assert d["code"] == "insufficient_scope" and d["door"]["snapshot"] == ["tools:read", "offline_access"] and d["door"]["scopes"] == ["tools:read"], d
        assert door(*who, "--tool", "get_page", "POST", at)["decision"] == "allow"
    assert "tools:execute" in d["door"]["role_allows"] and d["door"]["client"] == "Test", d
    d = door("--key", "ci", "--tool", "set_page", "POST", at)
    assert d["code"] == "insufficient_scope" and d["door"]["role"] == "viewer" and d["door"]["key"] == "ci", d
    assert door("--key", "ci", "--mcp", "resources/read", "POST", at)["decision"] == "allow"
    s.cli("user", "disable", "ada@example.org")
    for who in (ada, ("--connection", connection["id"])):
        d = door(*who, "--tool", "get_page", "POST", at)
        assert d["status"] == 401 and "disabled" in d["door"]["why"], d
    s.cli("user", "set", "ada@example.org", "--enable")
    assert "did you mean" in door(*ada, "POST", at + "s", code=1)["error"]["hint"]
    assert door("--user", "ada@example.org", "POST", at, code=2) and door("--agent", "a", *ada, "POST", at, code=2)
    s.cli("connection", "revoke", connection["id"])
    box.ada.go(box.base + "/login")
    box.ada.sign_in()


def test_ends(t):
    """what an operator takes away counts at the next request in every worker: connection, user, role, tenant, gateway, client, key [S15 R3 R5]"""
    box = Box(t, workers=2)
    s = box.s

    def every(token, status):
        for _ in range(6):
            got = box.call(token)
            assert got == status, (got, status)
    key = s.cli("key", "add", "ci", "--tenant", "acme", "--role", "viewer").stdout.strip()
    s.canaries.append(key)
    every(key, 200)
    explained(box)
    lane(box)
    guessing(box)
    s.cli("key", "revoke", "ci")
    every(key, 401)
    _, tokens = box.connected()
    every(tokens["access_token"], 200)
    s.cli("connection", "revoke", json.loads(s.cli("connection", "list", "--json").stdout)[0]["id"])
    every(tokens["access_token"], 401)
    for end, again in ((("user", "disable", "ada@example.org"), ("user", "set", "ada@example.org", "--enable")),
                       (("user", "set", "ada@example.org", "--tenant", "acme="), ("user", "set", "ada@example.org", "--tenant", "acme=member"))):
        _, tokens = box.connected()
        every(tokens["access_token"], 200)
        s.cli(*end)
        every(tokens["access_token"], 401)
        s.cli(*again)
        every(tokens["access_token"], 200)
        box.ada.go(box.base + "/login")       # a change of the user ends sessions
        box.ada.sign_in()
    before = {c["id"] for c in json.loads(s.cli("connection", "list", "--json").stdout)}
    _, tokens = box.connected()
    every(tokens["access_token"], 200)
    new = next(c for c in json.loads(s.cli("connection", "list", "--json").stdout) if c["id"] not in before)
    assert new["client_id"] in {c["id"] for c in json.loads(s.cli("client", "list", "--json").stdout)}
    s.cli("client", "remove", new["client_id"])
    every(tokens["access_token"], 401)
    _, tokens = box.connected()
    s.cli("tenant", "remove", "acme")
    every(tokens["access_token"], 401)
    s.cli("tenant", "add", "acme")            # another of that name
    every(tokens["access_token"], 401)


def test_two_processes(t):
    """two processes of one client renew at the same moment and end with one token; a lost answer costs nothing [S13]"""
    box = Box(t, workers=2)
    client, tokens = box.connected()
    for _ in range(5):
        answers = []

        def renew():
            answers.append(box.post("/oauth/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"], client_id=client["client_id"]))
        threads = [threading.Thread(target=renew) for _ in range(2)]
        for x in threads:
            x.start()
        for x in threads:
            x.join()
        assert [a[0] for a in answers] == [200, 200], answers
        assert answers[0][1]["access_token"] == answers[1][1]["access_token"] and answers[0][1]["refresh_token"] == answers[1][1]["refresh_token"]
        tokens = answers[0][1]
        assert box.call(tokens["access_token"]) == 200


def test_kill(t):
    """kill -9 within code exchanges and renewals: never two families of one code, never a client that was answered and cannot go on [S9 S12]"""
    box = Box(t, server=False)
    s = box.s
    s.may_die = "yes"
    client = box.register()

    def door_pid():
        for pid in s.worker_pids():
            try:
                if int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[16]) > 0:
                    return pid
            except (OSError, IndexError):
                pass

    def cut(f, after):
        """f() while its worker is killed so many seconds later -> its answer, or None."""
        got = []

        def run():
            try:
                got.append(f())
            except (OSError, http.client.HTTPException, ValueError):
                pass
        pid = wait(door_pid, 20, "a worker of the door")
        x = threading.Thread(target=run)
        x.start()
        time.sleep(after)
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
        x.join()
        return got[0] if got else None

    def sure(f):
        """f(), as often as no worker is there."""
        end = time.monotonic() + 30 * sallyport.SLOW
        while True:
            try:
                return f()
            except (OSError, http.client.HTTPException, ValueError):
                assert time.monotonic() < end
                time.sleep(0.02)
    rounds = answered = 0
    end = time.monotonic() + 15
    while rounds < 200 and time.monotonic() < end:
        rounds += 1
        code = sure(lambda: box.code(client))
        first = cut(lambda: box.trade(client, *code), rounds % 10 * 0.0015)
        tokens = first[1] if first and first[0] == 200 else None
        if not tokens:              # it was not answered: it may try again, and is answered once at most
            second = sure(lambda: box.trade(client, *code))
            tokens = second[1] if second[0] == 200 else None
            if not tokens:
                assert second[1]["error"] == "invalid_grant", second
                continue
        answered += 1
        renew = lambda: box.post("/oauth/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"], client_id=client["client_id"])
        got = cut(renew, rounds % 7 * 0.0015) or sure(renew)
        assert got[0] == 200, got   # whatever was cut: the token that it has still leads on
        tokens = got[1]
        assert sure(renew)[0] == 200
    families = json.loads(s.cli("connection", "list", "--json").stdout)
    assert rounds >= 3 and answered and len(families) <= answered, (rounds, answered, len(families))


EXCHANGE = """
-- One code is traded and the tokens renewed by processes that are killed; each says what it was answered before it goes on.
local store, access, tokens = require "store", require "web.access", require "web.tokens"
local secret, time = require "secret", require "time"
local what, file = arg[1], arg[2]
local client = { key = "sp_cl_0", id = "sp_cl_0" }
local verifier = ("v"):rep(43)
local now = time.wall()
local q = { now = now, method = "POST", path = "/oauth/token", peer = "192.0.2.1" }
if what == "code" then
  local u, t = store.peek("user", "u/ada@example.org"), store.peek("agent", "a/acme")
  print((assert(tokens.code(u, { user = u.name, user_id = u.id, tenant = "acme", tenant_id = t.id, client = client.id, client_key = client.key, source = "operator",
    gateway = "tools", scopes = { "tools:read", "offline_access" }, redirect_uri = "https://c.test", challenge = secret.base64url(secret.sha256(verifier)) }, now))))
elseif what == "trade" then
  local a, code = tokens.trade({ code = arg[2], code_verifier = verifier }, client, q)
  print(a and a.refresh_token or code)
elseif what == "renew" then
  local a, code = tokens.refresh({ refresh_token = arg[2] }, client, q)
  print(a and a.refresh_token or code)
elseif what == "look" then
  local n = 0
  for _ in access.each("grant", "g/") do n = n + 1 end
  print(n)
end
io.stdout:flush()
"""


def test_kill_hundreds(t):
    """hundreds of exchanges and renewals whose process is killed at any moment of its commit [S9 S12]"""
    if "asan" in str(t.binary):
        t.skip("the sanitized build goes the same ways in the other tests of this file; this one takes half a minute")
    s, _ = t.proxy(serve=False)
    s.cli("set", "public-url", "https://box.test")
    s.cli("tenant", "add", "acme")
    s.cli("gateway", "add", "tools", "https://up.test/mcp")
    s.cli("user", "add", "ada@example.org", "--tenant", "acme=member")
    script = s.dir / "exchange.lua"
    script.write_text(EXCHANGE)

    def run(*args, after=None):
        p = subprocess.Popen([s.binary, "lua", "--store", script, *args], env=s.env, stdout=subprocess.PIPE, text=True)
        if after is not None:
            time.sleep(after)
            p.kill()
        return p.communicate()[0].strip()
    began = time.monotonic()
    run("look")
    whole = time.monotonic() - began        # how long a process takes here
    killed = rounds = families = 0
    end = time.monotonic() + 40
    while rounds < 150 and time.monotonic() < end:
        code = run("code")
        rounds += 1
        first = run("trade", code, after=whole * (0.5 + rounds % 11 / 10))
        killed += not first
        token = first or run("trade", code)
        if token == "invalid_grant":        # it was traded, and nobody was told: nothing of it is left
            assert not first
            assert int(run("look")) == families, "what was traded unanswered stands on after a second use"
            continue
        families += 1
        assert token.startswith("sp_rt_") and int(run("look")) == families, token
        got = run("renew", token, after=whole * (0.5 + rounds % 7 / 7))
        killed += not got
        again = run("renew", token)
        assert again.startswith("sp_rt_") and got in ("", again), (got, again)
        assert run("renew", again).startswith("sp_rt_")
    assert killed >= 10 and rounds >= 10, (killed, rounds)


def chromium(t, s, commands, rules="MAP nowhere 127.0.0.1"):
    if not shutil.which("chromium") or not (NPM / "playwright-core").exists():
        t.skip("chromium or playwright-core is not installed")
    r = subprocess.run([NODE, HERE / "door_person.mjs", NPM, shutil.which("chromium"), s.dir, rules, json.dumps(commands)], capture_output=True, text=True,
                       timeout=120 * sallyport.SLOW)
    assert r.returncode == 0, (r.stdout, r.stderr[-3000:])
    return [json.loads(line) for line in r.stdout.splitlines()]


class Callback(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.got.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"thanks")

    def log_message(self, *_):
        pass


def callback(tls=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Callback)
    server.got = []
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_chromium(t):
    """the pages in Chromium without script: keyboard alone, 360 px, dark, forced colours; Approve leads to https, loopback and private-use addresses [S4 S8]"""
    if "asan" in str(t.binary):
        t.skip("the sanitized build goes the same ways in the other tests of this file; this one takes half a minute")
    box = Box(t, server=False)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", box.s.dir / "k.pem", "-out", box.s.dir / "c.pem",
                    "-subj", "/CN=client.test"], check=True, capture_output=True)
    tls.load_cert_chain(box.s.dir / "c.pem", box.s.dir / "k.pem")
    far, near = callback(tls), callback()
    uris = [f"https://client.test:{far.server_port}/cb", f"http://127.0.0.1:{near.server_port}/cb", "sallyport-test://x/cb"]
    client = box.register(redirect_uris=uris, client_name="Cl\u202eaude <b>")
    box.connected()

    def request(uri):
        return box.base + "/oauth/authorize?" + urllib.parse.urlencode({"response_type": "code", "client_id": client["client_id"], "redirect_uri": uri, "state": "st",
            "code_challenge": "x" * 43, "code_challenge_method": "S256", "resource": box.base + "/mcp/tools"})
    steps = [
        {"go": request(uris[0]), "look": {"width": 360}, "shot": "sign-in-360"},
        {"type": "ada@example.org", "keys": ["Tab"]},
        {"type": PASSWORD, "keys": ["Tab", "Tab"]},
        {"keys": ["Enter"], "wait": 500, "shot": "consent-360"},
        {"look": {"dark": True, "width": 360}, "shot": "consent-dark"},
        {"look": {"forced": True}, "shot": "consent-forced"},
        {"keys": ["Tab"]}, {"keys": ["Tab"]},
        {"keys": ["Tab"] * 5 + ["Enter"], "wait": 700},
        {"look": {"width": 360}, "go": request(uris[1]), "shot": "consent-loopback"}, {"click": "button.go", "wait": 700},
        {"look": {"dark": True}, "go": request(uris[2]), "shot": "consent-private"}, {"click": "button.go", "wait": 700},
        {"look": {"width": 360}, "go": box.base + "/connections", "shot": "connections"},
        {"go": box.base + "/login/totp", "shot": "totp"},
        {"look": {"width": 360, "dark": True}, "go": box.base + "/oauth/authorize?client_id=x", "shot": "error"},
        {"go": box.base + "/login?link=0.0", "shot": "link"},
    ]
    seen = chromium(t, box.s, steps, "MAP client.test 127.0.0.1")
    assert seen[0]["focus"] == "textbox:E-mail address" and seen[2]["focus"] == "button:Sign in", seen[:3]
    assert seen[3]["title"] == "Connect to tools", seen[3]
    assert not any(s["wide"] for s in seen if s["url"].startswith(box.base)), seen
    assert far.got and "code=sp_ac_" in far.got[0] and "state=st" in far.got[0] and "iss=" in far.got[0], (seen[6:9], far.got)
    assert near.got and "code=sp_ac_" in near.got[0], (seen[9:11], near.got)
    refused = [x for s in seen for x in s["said"] if "form-action" in x or "ContentSecurityPolicy" in x]
    assert not refused, refused
    assert seen[12]["said"] is not None and seen[15]["title"] == "This request cannot go on"
    for name in (os.environ.get("SHOTS") or "").split():
        shutil.copytree(box.s.dir, name, dirs_exist_ok=True, ignore=lambda d, names: [n for n in names if not n.endswith(".png")])


def there(b, idp, login):
    """Through the provider's own forms, and back."""
    for _ in range(4):
        form = re.search(r'<form[^>]*action="([^"]*/interaction/[^"]*)"[^>]*>(.*?)</form>', b.page, re.S)
        if not form:
            break
        fields = {html.unescape(m[1]): html.unescape(m[2]) for m in re.finditer(r'<input[^>]*name="([^"]*)"[^>]*value="([^"]*)"', form[2])}
        if 'name="login"' in form[2]:
            fields.update(login=login, password="x")
        b.go(urllib.parse.urljoin(b.at, html.unescape(form[1])), list(fields.items()), within=(idp,))
    return b


def test_openid(t):
    """people sign in with the organisation's provider (oidc-provider): by a link, by a verified e-mail where that is allowed, bound from then on"""
    box = Box(t, server=False)
    s, port = box.s, free_port()
    idp = f"http://127.0.0.1:{port}"
    log = s.dir / "oidc.log"
    t.start([NODE, HERE / "door.mjs", NPM, "oidc", str(port), box.base], log)
    wait(lambda: log.exists() and '"ready"' in log.read_text(), 20, "the provider")
    s.canaries.append("canary-oidc-1")

    def setting(*more):
        s.cli("set", "login-oidc", idp, "client_id=box", "client_secret=-", "address=127.0.0.0/8", *more, stdin="canary-oidc-1")

    def sign_in(login, link=None):
        b = Browser(box.base)
        if link:
            b.go(link)
            form = re.search(r'<form method="post" action="/login/oidc">(.*?)</form>', b.page, re.S)[1]
            fields = [(html.unescape(n), html.unescape(v)) for n, v in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form)]
            b.go(box.base + "/login/oidc", fields, within=(idp,))
        else:
            b.go(box.base + "/login")
            b.go(urllib.parse.urljoin(box.base, html.unescape(re.search(r'href="(/login/oidc[^"]*)"', b.page)[1])), within=(idp,))
        return there(b, idp, login)
    setting()
    b = sign_in("ada")
    assert b.status == 403 and "Nobody has let you in" in b.page, (b.at, b.status, b.page)     # an e-mail alone finds nobody
    setting("emails=on")
    assert "Nobody has let you in" in sign_in("unverified").page and "Nobody has let you in" in sign_in("stranger").page
    s.cli("user", "add", "unverified@example.org", "--tenant", "acme=member")
    assert "Nobody has let you in" in sign_in("unverified").page
    b = sign_in("ada")
    assert b.status == 200 and "Signed in as <strong>ada@example.org" in b.page, (b.at, b.status, b.page)
    setting()
    assert "ada@example.org" in sign_in("ada").page         # bound from then on
    link = s.cli("user", "add", "grace@example.org", "--tenant", "acme=viewer").stdout.strip()
    s.canaries.append(link.split(".")[-1])
    assert "Signed in as <strong>grace@example.org" in sign_in("hopper", link).page
    assert "Nobody has let you in" in sign_in("mallory", link).page         # the link is spent
    assert "Signed in as <strong>grace@example.org" in sign_in("hopper").page
    link = s.cli("user", "set", "grace@example.org", "--link").stdout.strip().splitlines()[-1]
    s.canaries.append(link.split(".")[-1])
    assert "Signed in as <strong>grace@example.org" in sign_in("mallory", link).page       # another account of hers
    assert "Nobody has let you in" in sign_in("hopper").page        # which ends the one before
    assert "Signed in as <strong>grace@example.org" in sign_in("mallory").page
    s.cli("user", "disable", "grace@example.org")
    assert "Nobody has let you in" in sign_in("mallory").page and "Nobody has let you in" in sign_in("hopper").page
    # an answer that this browser did not ask for, and one twice
    b, other = Browser(box.base), Browser(box.base)
    b.go(box.base + "/login").go(box.base + "/login/oidc")
    state = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(b.at).query))["state"]
    back = box.base + "/login/oidc/callback?" + urllib.parse.urlencode({"code": "x", "state": state, "iss": idp})
    other.go(box.base + "/login").go(back)
    assert other.status == 403 and "not begun here" in other.page
    assert b.go(back).status == 403 and "no answer that counts" in b.page
    assert "Another provider" in b.go(back.replace(urllib.parse.quote_plus(idp), "https%3A%2F%2Fevil.test")).page
    setting("only=on")
    b = Browser(box.base).go(box.base + "/login")
    assert 'name="password"' not in b.page
    s.cli("set", "login-oidc", "--default")
    assert "oidc" not in Browser(box.base).go(box.base + "/login").page


DOCUMENT = "https://claude.ai/oauth/claude-code-client-metadata"


def documents(t, folder, answers):
    """https://claude.ai and https://far.test with these documents -> flags for serve, what was asked for."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certs_module.leaf(sallyport.certs(), folder, ["claude.ai", "far.test"]))
    server = callback(tls)

    class Documents(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.got.append(self.path)
            status, body, wait_for, *more = answers[self.path]
            time.sleep(wait_for)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "https://far.test/good")
            for name, value in more:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                pass

        def log_message(self, *_):
            pass
    server.RequestHandlerClass = Documents
    return ["--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"claude.ai:443:127.0.0.1:{server.server_port}", "--connect-to",
            f"far.test:443:127.0.0.1:{server.server_port}"], server.got


def test_documents(t):
    """metadata documents over the real network: huge, slow, redirected and private ones are refused; a good one is fetched once [S16]"""
    doc = lambda url, **more: json.dumps({"client_id": url, "client_name": "Far", "redirect_uris": ["https://client.test/cb"], **more}).encode()
    s0 = t.bare()
    answers = {"/good": (200, doc("https://far.test/good"), 0), "/huge": (200, doc("https://far.test/huge", pad="x" * 6000), 0), "/moved": (302, b"", 0),
               "/slow": (200, doc("https://far.test/slow"), 7 * sallyport.SLOW), "/other": (200, doc("https://far.test/good"), 0),
               "/new": (200, doc("https://far.test/new"), 0, ("Cache-Control", "public"), ("Cache-Control", "no-store"))}
    flags, got = documents(t, s0.dir, answers)
    box = Box(t, server=False, flags=flags)

    def ask(url):
        return box.ada.go(box.base + "/oauth/authorize?" + urllib.parse.urlencode({"response_type": "code", "client_id": url, "redirect_uri": "https://client.test/cb",
            "code_challenge": "x" * 43, "code_challenge_method": "S256", "resource": box.base + "/mcp/tools"}))
    for _ in range(3):
        assert ask("https://far.test/good").status == 200 and "Far" in box.ada.page, box.ada.page
    assert got == ["/good"]
    for bad in ("huge", "moved", "slow", "other"):
        began = time.monotonic()
        assert ask("https://far.test/" + bad).status == 400, (bad, box.ada.page)
        assert time.monotonic() - began < 7 * sallyport.SLOW
    assert got.count("/good") == 1, got
    for _ in range(2):
        assert ask("https://far.test/new").status == 200
    assert got.count("/new") == 2, got
    for private in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "localhost"):
        assert ask(f"https://{private}/good").status == 400, private
    stranger = Browser(box.base)
    stranger.go(box.base + "/oauth/authorize?" + urllib.parse.urlencode({"client_id": "https://far.test/unseen"}))
    assert "Sign in" in stranger.page and "/unseen" not in got


def test_claude_code(t):
    """Claude Code: mcp add --transport http, mcp login (its metadata document), mcp list, mcp logout [S14 S16 S17]"""
    if not CLI.exists():
        t.skip("the Claude Code CLI is not installed")
    s0 = t.bare()
    document = {"client_id": DOCUMENT, "client_name": "Claude Code", "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
                "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "token_endpoint_auth_method": "none"}
    flags, _ = documents(t, s0.dir, {"/oauth/claude-code-client-metadata": (200, json.dumps(document).encode(), 0)})
    box = Box(t, flags=flags)
    home = box.s.dir / "cli"
    home.mkdir()
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "BROWSER": "/bin/true", "TERM": "xterm", "COLUMNS": "4000"}

    def run(*args):
        r = subprocess.run([CLI, "mcp", *args], env=env, cwd=home, capture_output=True, text=True, timeout=60 * sallyport.SLOW)
        assert r.returncode == 0, (args, r.stdout, r.stderr)
        return r.stdout
    run("add", "--transport", "http", "box", box.base + "/mcp/tools")
    terminal, inner = pty.openpty()
    p = subprocess.Popen([CLI, "mcp", "login", "box"], env=env, cwd=home, stdin=inner, stdout=inner, stderr=inner)
    t.processes.append(p)
    os.close(inner)
    os.set_blocking(terminal, False)
    said = bytearray()

    def read():
        try:
            said.extend(os.read(terminal, 65536))
        except (BlockingIOError, OSError):
            time.sleep(0.05)
        return re.search(rb"http://127\.0\.0\.1:\d+/oauth/authorize\?[^\s\x1b\x07]+", said)
    url = wait(read, 40, "the address of the sign-in")[0].decode()
    b = Browser(box.base).go(url)
    b.sign_in()
    assert "Claude Code" in b.page and "your own computer" in b.page and "localhost:" in b.page, b.page
    b.approve("tools:read", "tools:execute", "offline_access")
    at = urllib.parse.urlsplit(b.at)
    c = http.client.HTTPConnection("localhost", at.port, timeout=20)
    c.request("GET", f"{at.path}?{at.query}")
    assert c.getresponse().status == 200
    wait(lambda: read() is None or p.poll() is not None, 30, "the end of the login")
    assert p.returncode == 0, bytes(said[-800:])
    assert "Connected" in run("list")
    shown = json.loads(box.s.cli("connection", "list", "--json").stdout)
    assert [(c["client"], c["user"]) for c in shown] == [("Claude Code", "ada@example.org")], shown
    run("logout", "box")
    assert json.loads(box.s.cli("connection", "list", "--json").stdout) == []
