"""Clients of the world at the door, as they are published: the MCP conformance suite, MCP Inspector, mcp-remote, the SDKs' clients in
JavaScript and Python. An MCP server behind the door has all that the suite asks for, and records what it got."""
import http.client
import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
import urllib.parse

import sallyport
from authorization_test import Box, Browser, HERE
from door_mcp_test import key
from huggingface_test import PIP
from oauth_test import NODE, NPM
from real import wait
from servers import free_port

SUITE = NPM / "@modelcontextprotocol/conformance/dist/index.js"
FRONT = """
daemon off; worker_processes 1; pid {d}/pid; error_log {d}/err warn; {user}
events {{ }}
http {{
  access_log off; client_body_temp_path {d}/1; proxy_temp_path {d}/2; fastcgi_temp_path {d}/3; uwsgi_temp_path {d}/4; scgi_temp_path {d}/5;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{door}; proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_buffering off;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header Authorization "Bearer {token}"; proxy_set_header Connection "";
    }}
  }}
}}
"""


class Everything(Box):
    def __init__(self, t, public=None):
        if sallyport.SLOW != 1:
            t.skip("these clients take a minute: they run with the plain build alone")
        if not SUITE.exists():
            t.skip("the conformance suite is not installed")
        super().__init__(t, server="everything.mjs", public=public)

    def got(self):
        """The heads of the requests that the server got."""
        return [e["headers"] for e in self.requests()]

    def check(self, *tokens):
        """Nothing that a client showed came to the server, which got the credential of the tenant's bundle."""
        assert {h.get("authorization") for h in self.got()} == {"Bearer canary-upstream-1"}, self.got()[:3]
        text = self.log.read_text()
        for token in tokens:
            assert token and token not in text
        for h in self.got():
            assert "cookie" not in h and "x-forwarded-for" not in h, h


def checks(folder, kind):
    """What the suite found: { scenario: { check: worst status } }"""
    out = {}
    for path in sorted(folder.glob("*/checks.json")):
        scenario = re.match(kind + r"(.*)-\d{4}-\d\d-\d\dT", path.parent.name)[1]
        for c in json.loads(path.read_text()):
            kept = out.setdefault(scenario, {})
            if kept.get(c["id"]) != "FAILURE":
                kept[c["id"]] = c["status"]
    return out


def test_conformance(t):
    """the conformance suite passes at the door, behind nginx, in both generations of the transport [R6]"""
    t.need("nginx")
    port = free_port()
    box = Everything(t, f"http://127.0.0.1:{port}")
    token = key(box, "suite")
    front = box.s.dir / "front"
    front.mkdir()
    (front / "conf").write_text(FRONT.format(d=front, port=port, door=box.port, token=token, user="user root;" if os.getuid() == 0 else ""))
    t.start(["nginx", "-e", front / "err", "-p", front, "-c", front / "conf"], front / "out")
    wait(lambda: (front / "pid").exists() and (front / "pid").read_text(), 10, "nginx")
    for revision, least in (("2025-11-25", 33), ("2026-07-28", 38)):
        out = box.s.dir / revision
        subprocess.run([NODE, SUITE, "server", "--url", f"http://127.0.0.1:{port}/mcp/tools", "--requirements", revision, "-o", out], capture_output=True,
                       timeout=240 * sallyport.SLOW)
        # The tasks extension is a server's own business, and this server has none.
        found = {s: c for s, c in checks(out, "server-").items() if not s.startswith("tasks-")}
        assert len(found) >= least, sorted(found)
        assert not [(s, c) for s, c in found.items() if set(c.values()) - {"SUCCESS", "INFO"}], found
    box.check(token)


def approve(box, url, who):
    """What a person does at the address that a client shows: signs in, approves, and is sent back to the client -> what they were sent with."""
    b = Browser(box.base).go(url)
    b.sign_in()
    assert who in b.page, b.page
    got = b.approve("tools:read", "tools:execute", "offline_access")
    assert got["iss"] == box.base, got
    box.s.canaries.append(got["code"])
    back = urllib.parse.urlsplit(b.at)
    c = http.client.HTTPConnection(back.hostname, back.port, timeout=30 * sallyport.SLOW)
    c.request("GET", f"{back.path}?{back.query}")
    assert c.getresponse().status in (200, 302), b.at
    c.close()
    return got


def run(box, argv, env, who, url=None):
    """A client that says where to go, on a terminal as some of them want it, to its end -> what it said."""
    terminal, inner = pty.openpty()
    p = subprocess.Popen([*map(str, argv)], env=env, cwd=box.s.dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=inner)
    os.close(inner)
    box.t.processes.append(p)
    end = threading.Timer(90, p.kill)
    end.start()
    said, shown = bytearray(), bytearray()
    while p.stdout:
        ready, _, _ = select.select([terminal, p.stdout], [], [])
        try:
            shown += os.read(terminal, 65536) if terminal in ready else b""
        except OSError:
            break                   # it has ended
        if p.stdout in ready:
            said += (more := os.read(p.stdout.fileno(), 65536))
            if not more:
                break
        at = re.search(re.escape(box.base.encode()) + rb"/oauth/authorize\?[^\s\"\x07\x1b]+(?=[\s\"\x07\x1b])", said + shown)
        if at and url is None:
            url = at[0].decode()
            approve(box, url, who)
    said += p.stdout.read()
    end.cancel()
    os.close(terminal)
    assert p.wait(60) == 0 and url, (said, shown)
    return said.decode()


def home(box, name):
    at = box.s.dir / name
    at.mkdir(exist_ok=True)
    return {"HOME": str(at), "PATH": f"{NODE.parent}:/usr/bin:/bin", "BROWSER": "/bin/true", "TERM": "dumb", "MCP_INSPECTOR_SECRET_STORE": "file"}


def test_authorization_suite(t):
    """the conformance suite's command `authorization` passes, with a resource named and without [S1 S2 S3 S6]"""
    box = Everything(t)
    for more in ([], ["--resource", box.base + "/mcp/tools"]):
        port = free_port()
        client = box.register(redirect_uris=[f"http://127.0.0.1:{port}/callback"])
        out = box.s.dir / f"suite{len(more)}"
        said = run(box, [NODE, SUITE, "authorization", "--url", box.base, "--client-id", client["client_id"], "--port", str(port), "-o", out, *more], home(box, "suite"), "Test")
        found = checks(out, "authorization-")
        assert len(found) == 2 and all(set(c.values()) == {"SUCCESS"} for c in found.values()), (found, said)


def test_sdk_generations(t):
    """the SDK's second generation of clients signs in, by itself and with an id and a secret, and works with the old transport and the new one [R6 S11]"""
    box = Everything(t)
    box.s.cli("gateway", "scope", "tools", "reading:logs", "--tool", "test_logging_tool", "--says", "Read logs")
    port = free_port()
    typed = json.loads(box.s.cli("client", "add", "Typed in", "--redirect", f"http://127.0.0.1:{port}/callback", "--json").stdout)
    box.s.canaries.append(typed["secret"])
    for era, client in (("legacy", ()), ("2026-07-28", (typed["id"], typed["secret"]))):
        said = run(box, [NODE, HERE / "door_client.mjs", NPM, box.base + "/mcp/tools", str(port), era, *client], home(box, "sdk"), "Typed in" if client else "Second SDK")
        got = json.loads(said.splitlines()[-1])
        assert got["version"] == ("2025-11-25" if era == "legacy" else era), got
        assert "test_simple_text" in got["tools"] and "test_logging_tool" not in got["tools"] and got["text"].startswith("This is a simple text"), got
        assert json.loads(got["custom"]) == {"region": "eu, \u00fc", "query": "q"}, got
        # The tool that nobody approved: the SDK sends the person back, for what it lacks.
        assert "Unauthorized" in got["hidden"] and "entities%3Awrite" in said.splitlines()[-2], said
        box.s.canaries += [got["tokens"]["access_token"], got["tokens"]["refresh_token"]]
        box.check(got["tokens"]["access_token"], got["tokens"]["refresh_token"])
    # the secret counts: without it, and with another, the same client gets nothing
    for secret in ({}, {"client_secret": "canary-wrong"}):
        status, answer = box.post("/oauth/token", grant_type="refresh_token", refresh_token=got["tokens"]["refresh_token"], client_id=typed["id"], **secret)
        assert (status, answer["error"]) == (401, "invalid_client"), (status, answer)
    assert any("mcp-session-id" in h for h in box.got()) and any(h.get("mcp-protocol-version") == "2026-07-28" and h.get("mcp-param-region") for h in box.got())


def test_python(t):
    """Python's mcp client signs in, lists and calls tools, with the old transport and the new one"""
    box = Everything(t)
    env = {**os.environ, "PYTHONPATH": str(PIP)}
    if subprocess.run([sys.executable, "-c", "import mcp"], env=env, capture_output=True).returncode:
        t.skip("PyPI's mcp is not installed")
    for mode in ("legacy", "auto"):
        said = run(box, [sys.executable, HERE / "door_client.py", box.base + "/mcp/tools", str(free_port()), mode], env, "Python")
        got = json.loads(said.splitlines()[-1])
        assert "test_simple_text" in got["tools"] and got["text"].startswith("This is a simple text"), got
        box.s.canaries += [got["tokens"]["access_token"], got["tokens"]["refresh_token"]]
        box.check(got["tokens"]["access_token"], got["tokens"]["refresh_token"])


def test_inspector(t):
    """MCP Inspector's command signs in, lists with the old transport, and calls with the new one and the token that it kept"""
    box = Everything(t)
    env, callback = home(box, "inspector"), f"http://127.0.0.1:{free_port()}/oauth/callback"
    url = box.base + "/mcp/tools"

    def ask(era, *args, kept=True):
        return run(box, [NODE, NPM / "@modelcontextprotocol/inspector/clients/launcher/build/index.js", "--cli", "--server-url", url, "--transport", "http", "--protocol-era", era,
                         "--callback-url", callback, "--format", "json", *args], env, "Inspector", url if kept else None)
    assert "test_simple_text" in ask("legacy", "--method", "tools/list", kept=False)
    # It subscribes to tools, prompts and resources at once, of which the person approved one.
    assert "This is a simple text" in ask("modern", "--method", "tools/call", "--tool-name", "test_simple_text")
    kept = json.dumps([p.read_text() for p in (box.s.dir / "inspector").rglob("*.json")])
    tokens = re.findall(r"sp_[ar]t_[\w.-]+", kept)
    assert tokens, kept
    box.s.canaries += tokens
    box.check(*tokens)


def test_mcp_remote(t):
    """mcp-remote signs in, stands in for a local server, and goes on with what it kept; a connection that was revoked has to be approved anew"""
    box = Everything(t)
    env = home(box, "remote")

    def session(signs_in):
        p = subprocess.Popen([NODE, NPM / "mcp-remote/dist/proxy.js", box.base + "/mcp/tools", str(port), "--host", "127.0.0.1", "--auth-timeout", "120"], env=env, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        box.t.processes.append(p)

        def send(message):
            p.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            p.stdin.flush()

        def answer(id_):
            while True:
                m = json.loads(p.stdout.readline())
                if m.get("id") == id_ and "method" not in m:
                    return m
        send({"id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
        if signs_in:
            said = ""
            while not (at := re.search(re.escape(box.base) + r"/oauth/authorize\?\S+", said)):
                line = p.stderr.readline()
                assert line, said
                said += line
            approve(box, at[0], "MCP CLI Proxy")
        assert answer(1)["result"]["serverInfo"]["name"] == "everything"
        send({"method": "notifications/initialized"})
        send({"id": 2, "method": "tools/list"})
        assert "test_simple_text" in [x["name"] for x in answer(2)["result"]["tools"]]
        send({"id": 3, "method": "tools/call", "params": {"name": "test_simple_text", "arguments": {}}})
        assert answer(3)["result"]["content"][0]["text"].startswith("This is a simple text")
        p.stdin.close()
        p.terminate()
        p.wait(20)
        tokens = [x for f in (box.s.dir / "remote/.mcp-auth").rglob("*tokens.json") for x in re.findall(r"sp_[ar]t_[\w.-]+", f.read_text())]
        box.s.canaries.extend(tokens)
        box.check(*tokens)
    port = free_port()
    session(True)
    session(False)
    one, = json.loads(box.s.cli("connection", "list", "--json").stdout)
    box.s.cli("connection", "revoke", one["id"] if "id" in one else one["connection"])
    session(True)
