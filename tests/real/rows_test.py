"""Rows with curl, git, requests and the websockets package, against servers of Python's that decode with Python's own code."""
import base64
import http.server
import json
import subprocess
import sys
import urllib.parse

import sallyport
import servers
from clients_test import environment, run, serve_websockets

SECRET = "123456:canary-rows/7e1 &\"<"
WORD = "canary-word-77aa"


class Handler(http.server.BaseHTTPRequestHandler):
    """Keeps what it was sent; redirects /bot…/old to /bot…/new, as an API does that has moved."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.got.append((self.command, self.path, self.headers, body))
        moved = "/old" in self.path
        asks = self.path.startswith("/r.git") and not self.headers["Authorization"]
        self.send_response(307 if moved else 401 if asks else 404 if self.path.startswith("/r.git") else 200)
        if asks:
            self.send_header("WWW-Authenticate", 'Basic realm="r"')
        if moved:
            self.send_header("Location", "https://api.test" + self.path.replace("/old", "/new"))
            self.send_header("Set-Cookie", "from=" + urllib.parse.quote(urllib.parse.unquote(self.path), safe="") + "; Path=/")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_PUT = do_GET

    def log_message(self, *_):
        pass


def arrange(t, *credentials, port=None):
    s, server = t.bare(), None
    if port is None:
        server = servers.Recorder(Handler)
        port = server.server_port
    s.init()
    for c in credentials:
        s.credential({"type": "substitute", "host": "api.test", **c})
    s.agent()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{port}")
    return s, server, environment(s)


def test_telegram(t):
    """curl asks for /bot<token>/getMe with the placeholder of its environment, and follows a redirect that holds it"""
    t.need("curl")
    s, server, env = arrange(t, {"name": "bot", "env": "TELEGRAM_BOT_TOKEN", "secrets": {"value": SECRET}, "substitute": "value:path=/bot{}/**"})
    held = env["TELEGRAM_BOT_TOKEN"]
    assert ":" in held and held != SECRET, held
    out = run(["curl", "-sSi", "-L", f"https://api.test/bot{held}/old"], env)
    assert f"ocation: https://api.test/bot{held}/new" in out and f"from=%2Fbot{held}%2Fold" in out, out
    assert "canary" not in out, out
    assert [urllib.parse.unquote(g[1]) for g in server.got] == [f"/bot{SECRET}/old", f"/bot{SECRET}/new"], server.got
    out = run(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"https://api.test/bot{urllib.parse.quote(held)}/getMe"], env)
    assert out == "200" and urllib.parse.unquote(server.got[-1][1]) == f"/bot{SECRET}/getMe", server.got[-1]
    s.wait_record({"path": f"/bot{held}/new", "credential": "bot", "status": 200})


def test_presigned(t):
    """a presigned URL is signed anew; the answer that repeats it gives neither the signature nor the session's token away"""
    t.need("curl")
    s, server, env = arrange(t, {"name": "s3", "type": "aws_sigv4", "fields": {"access_key_id": "AKIACANARYKEY0000000", "region": "us-east-1", "service": "s3"},
                                 "secrets": {"secret_access_key": WORD + "0" * 24, "session_token": "canary-session/+="}})
    sent = (f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={env['AWS_ACCESS_KEY_ID']}%2F20261121%2Fus-east-1%2Fs3%2Faws4_request"
            "&X-Amz-Date=20261121T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=" + "a" * 64)
    out = run(["curl", "-sSi", f"https://api.test/old?{sent}"], env)
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(server.got[0][1]).query)
    assert query["X-Amz-Security-Token"] == ["canary-session/+="] and query["X-Amz-Signature"][0] not in out, (query, out)
    location = next(l for l in out.splitlines() if l.lower().startswith("location: "))
    assert "X-Amz-Signature=" + "a" * 64 in location and "Security-Token" not in location and "canary" not in out, location


def test_basic(t):
    """curl -u and git put the placeholder into Basic; the password goes out"""
    t.need("curl", "git")
    s, server, env = arrange(t, {"name": "repo", "env": "REPO_TOKEN", "secrets": {"value": SECRET}, "substitute": "value:basic"})
    run(["curl", "-sS", "-u", f"me:{env['REPO_TOKEN']}", "https://api.test/x"], env)
    sent = server.got[-1][2]["Authorization"]
    assert base64.b64decode(sent.split()[1]).decode() == f"me:{SECRET}", sent
    r = subprocess.run(["git", "-c", "credential.helper=", "ls-remote", f"https://me:{env['REPO_TOKEN']}@api.test/r.git"],
                       env={**env, "GIT_TERMINAL_PROMPT": "0"}, capture_output=True, text=True, timeout=60 * sallyport.SLOW)
    assert "canary" not in r.stderr + r.stdout
    asked, told = server.got[1:3]
    assert asked[2]["Authorization"] is None and base64.b64decode(told[2]["Authorization"].split()[1]).decode() == f"me:{SECRET}", told
    run(["curl", "-sS", "https://api.test/y", "-H", "Authorization: Bearer own"], env)
    assert server.got[-1][2]["Authorization"] is None, server.got[-1][2]


def test_bodies(t):
    """requests sends JSON, a form and parts; curl streams JSON from a pipe: each arrives with the secret, decoded by Python"""
    t.need("curl")
    s, server, env = arrange(t, {"name": "b", "env": "B_KEY", "secrets": {"value": SECRET}, "substitute": "value:json=/a/1/key,json=/key,form=key,query=k"})
    script = ("import os, requests\nk, u = os.environ['B_KEY'], 'https://api.test/'\n"
              "requests.post(u + '?k=' + k, json={'a': ['é', {'key': 'x' + k}]})\n"
              "requests.post(u, data={'key': k, 'o': '+ &'})\n"
              "requests.post(u, files={'key': (None, k), 'file': ('f.txt', 'text')})\n")
    run([sys.executable, "-c", script], env)
    run(["sh", "-c", "printf '{\"key\": \"%s\"}' \"$B_KEY\" | curl -sS -T - -X POST -H 'Content-Type: application/json' https://api.test/"], env)
    one, form, parts, pipe = server.got
    assert json.loads(one[3]) == {"a": ["é", {"key": "x" + SECRET}]}, one
    assert urllib.parse.parse_qs(one[1].split("?")[1])["k"] == [SECRET], one[1]
    assert urllib.parse.parse_qs(form[3].decode()) == {"key": [SECRET], "o": ["+ &"]}, form
    assert ("\r\n\r\n" + SECRET + "\r\n").encode() in parts[3], parts
    assert json.loads(pipe[3]) == {"key": SECRET}, pipe


def test_websocket(t):
    """the websockets package logs in with a placeholder: whole, in fragments, beside large and binary messages"""
    got = []

    async def handler(ws, *_):
        async for message in ws:
            got.append(message)
            await ws.send(str(len(message)))

    probe = t.bare()
    port = serve_websockets(t, probe, handler)
    s, _, env = arrange(t, {"name": "ws", "env": "WS_TOKEN", "secrets": {"value": SECRET}, "substitute": "value:ws=/token"}, port=port)
    held = env["WS_TOKEN"]
    client = (
        "import asyncio, json, os, ssl, sys, websockets\n"
        "async def main():\n"
        "  held, sock = os.environ['WS_TOKEN'], os.environ['HTTPS_PROXY']\n"
        "  import base64, socket, urllib.parse\n"
        "  u = urllib.parse.urlsplit(sock)\n"
        "  c = socket.create_connection((u.hostname, u.port))\n"
        "  auth = base64.b64encode((u.username + ':' + urllib.parse.unquote(u.password)).encode()).decode()\n"
        "  c.sendall(('CONNECT api.test:443 HTTP/1.1\\r\\nHost: api.test:443\\r\\nProxy-Authorization: Basic ' + auth + '\\r\\n\\r\\n').encode())\n"
        "  assert b' 200 ' in c.recv(4096)\n"
        "  context = ssl.create_default_context(cafile=os.environ['SSL_CERT_FILE'])\n"
        "  async with websockets.connect('wss://api.test/live', sock=c, ssl=context, server_hostname='api.test', max_size=None) as ws:\n"
        "    async def say(message):\n"
        "      await ws.send(message)\n"
        "      return int(await ws.recv())\n"
        "    await say(json.dumps({'op': 'login', 'token': held}))\n"
        "    async def parts():\n"
        "      yield json.dumps({'token': held})[:20]\n"
        "      yield json.dumps({'token': held})[20:]\n"
        "    await say(parts())\n"
        "    await ws.ping()\n"
        "    await say(held.encode())\n"
        "    await say(json.dumps({'audio': 'x' * 300000}))\n"
        "    await say('bye')\n"
        "asyncio.run(main())\n")
    run([sys.executable, "-c", client], env)
    assert json.loads(got[0]) == {"op": "login", "token": SECRET}, got[0]
    assert json.loads(got[1]) == {"token": SECRET}, got[1]
    assert got[2] == held.encode() and len(json.loads(got[3])["audio"]) == 300000 and got[4] == "bye", [g[:80] for g in got]
    assert "canary" not in s.log_path.read_text()


def test_astray(t):
    """a script that sends its environment to another API is told whose placeholder it is, and nothing goes out"""
    t.need("curl")
    s, server, env = arrange(t, {"name": "mine", "env": "MINE", "secrets": {"value": WORD}, "substitute": "value:header=X-Key"},
                             {"name": "other", "host": "other.test", "env": "OTHER_KEY", "secrets": {"value": SECRET}, "substitute": "value:header=X-Key"})
    out = json.loads(run(["curl", "-sS", "-G", "https://api.test/log", "--data-urlencode", f"env=OTHER_KEY={env['OTHER_KEY']}"], env))
    assert out["error"] == "host_not_allowed" and "credential other" in out["message"] and "other.test" in out["hint"], out
    assert server.got == []
    s.cli("credential", "remove", "other")
    run(["curl", "-sS", "-G", "https://api.test/log", "--data-urlencode", f"env=OTHER_KEY={env['OTHER_KEY']}"], env)
    assert len(server.got) == 1   # a placeholder of nothing is text like any other


def test_credential_test(t):
    """`credential test` takes {FIELD} in the URL for the placeholder that an agent would have"""
    s, server, env = arrange(t, {"name": "bot", "env": "TELEGRAM_BOT_TOKEN", "secrets": {"value": SECRET}, "substitute": "value:path=/bot{}/**"})
    s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
    s.cli("set", "connect-to", f"api.test:443:127.0.0.1:{server.server_port}")
    s.cli("set", "allow-address", "127.0.0.0/8")
    out = s.cli("credential", "test", "bot", "https://api.test/bot{value}/getMe").stdout
    assert "status  200" in out and "canary" not in out, out
    assert urllib.parse.unquote(server.got[-1][1]) == f"/bot{SECRET}/getMe", server.got[-1]
    r = s.cli("credential", "test", "bot", "https://api.test/", check=False)
    assert r.returncode == 1 and "no secret was in this request" in r.stdout, r.stdout
    s.cli("credential", "set", "bot", "--substitute", "value:path=/bot{}/**:__MY_TOKEN__")   # a literal: {FIELD} stands for it as well
    for path in ("/bot{value}/getMe", "/bot__MY_TOKEN__/getMe"):
        assert "the path" in s.cli("credential", "test", "bot", "https://api.test" + path).stdout
        assert urllib.parse.unquote(server.got[-1][1]) == f"/bot{SECRET}/getMe", server.got[-1]


def test_bare(t):
    """rows of a store of before: a bare header is Authorization, any other is refused with the command that mends it, and doctor lists it"""
    t.need("curl")
    s = t.bare()
    server = servers.Recorder(Handler)
    s.init()
    for name, row in (("head", "header=X-Key"), ("body", "form=key")):
        s.credential({"type": "substitute", "name": name, "host": f"{name}.test", "env": f"{name.upper()}_KEY", "secrets": {"value": SECRET},
                      "substitute": f"value:{row}"})
    script = s.dir / "bare.lua"
    script.write_text("""local store, ops = require "store", {}
for name, place in pairs { head = "header", body = "body" } do
  local rec, plain = assert(store.get("credential", name)), {}
  for k, v in pairs(rec) do if k ~= "secrets" and k ~= "version" then plain[k] = v end end
  plain.rows = { { field = "value", place = { place } } }
  ops[#ops + 1] = { op = "put", db = "credential", key = name, plain = plain, secrets = rec.secrets }
end
assert(store.commit(ops, require("time").now() + 20000))""")
    s.cli("lua", "--store", script)
    r = s.cli("doctor", check=False)
    mend = "sallyport credential set body --substitute value:json=/POINTER"
    assert r.returncode == 1 and "body is refused (injection_failed)" in r.stdout and mend in r.stdout and "head is refused" not in r.stdout, r.stdout
    assert "value in body" in s.cli("credential", "show", "body").stdout
    s.agent()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", *(f for n in ("head", "body") for f in ("--connect-to", f"{n}.test:443:127.0.0.1:{server.server_port}")))
    env = environment(s)
    held = env["HEAD_KEY"]
    for auth in (["-H", f"Authorization: Bearer {held}"], ["-u", f"me:{held}"]):
        run(["curl", "-sS", "https://head.test/", "-H", f"X-Key: {held}", "-H", f"Origin: {held}", *auth], env)
        got = server.got[-1][2]
        sent = got["Authorization"].split(" ", 1)[1]
        assert SECRET in (sent, base64.b64decode(sent + "==").decode("latin1")[3:]) and got["X-Key"] == got["Origin"] == held, got
    out = json.loads(run(["curl", "-sS", "https://body.test/", "-d", f"key={env['BODY_KEY']}"], env))
    assert out["error"] == "injection_failed" and mend in out["message"], out
    s.cli("credential", "set", "body", "--substitute", "value:form=key")
    run(["curl", "-sS", "https://body.test/", "-d", f"key={env['BODY_KEY']}"], env)
    assert urllib.parse.parse_qs(server.got[-1][3].decode()) == {"key": [SECRET]}, server.got[-1]
    assert s.cli("doctor", check=False).stdout.count("injection_failed") == 0


def test_commands(t):
    """--substitute says what is wrong with it, and what a listing shows"""
    s = t.bare()
    s.init()
    add = ["credential", "add", "x", "--type", "substitute", "--host", "api.test", f"value=@{s.secret_file(WORD)}"]
    for args, why in ((["--substitute", "value"], "FIELD:PLACE"), (["--substitute", "value:cookie=a"], "header=NAME, query=NAME"),
                      (["--substitute", "token:path=/{}"], "'token' is no secret of substitute"), ([], "nothing without a row"),
                      (["--substitute", "values.a:path=/{}:__LONG__"], "values.a is not set"), (["--substitute", "value:path=/{}"], "env=NAME"),
                      (["--substitute", "value:path=/{}:short"], "from 8 to 256"), (["--substitute", "value:path=/{}:with space"], "letters"),
                      *((["--substitute", f"value:{word}:__TOKEN__"], f"Write {example}") for word, example in (
                          ("header", "header=X-Api-Key"), ("query", "query=key"), ("body", "json=/auth/key or form=token"),
                          ("websocket", "ws=/d/token"), ("path", "path=/bot{}/**"))),
                      (["--substitute", "value:header=Origin:__TOKEN__"], "Origin is no place for a secret: servers repeat it")):
        r = s.cli(*add, *args, check=False)
        assert r.returncode == 2 and why in r.stderr, (args, r.stderr)
    s.cli(*add, "--substitute", "value:header=X-Key,path=/{}/x:__TOKEN__")
    assert "value in header=X-Key, path=/{}/x as __TOKEN__" in s.cli("credential", "show", "x").stdout
    rows = json.loads(s.cli("credential", "show", "x", "--json").stdout)["rows"]
    assert rows == [{"field": "value", "place": ["header=X-Key", "path=/{}/x"], "placeholder": "__TOKEN__"}], rows
    s.cli("credential", "set", "x", "--substitute", "value:query=k", "env=X_TOKEN")
    assert "value in query=k\n" in s.cli("credential", "show", "x").stdout
    r = s.cli("credential", "set", "x", "--clear", "substitute", check=False)
    assert r.returncode == 2 and "nothing without a row" in r.stderr, r.stderr
    r = s.cli("credential", "set", "x", "--clear", "env", check=False)
    assert r.returncode == 2 and "env=NAME" in r.stderr, r.stderr
