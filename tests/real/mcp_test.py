"""MCP servers that want OAuth: the MCP SDK's server and client, oidc-provider between them, `mcp add` and `mcp import`."""
import json
import os
import pathlib
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import sallyport
from oauth_test import NODE, NPM, Command, Person
from real import wait
from servers import free_port

HERE = pathlib.Path(__file__).resolve().parent


class Mcp:
    """The server and its authorization server, and what they have seen."""

    def __init__(self, t, directory, kind="http", ports=None):
        if not NODE.exists() or not (NPM / "@modelcontextprotocol/sdk").exists():
            t.skip("the MCP SDK is not installed")
        self.port, self.as_port = ports or (free_port(), free_port())
        self.url = f"http://127.0.0.1:{self.port}/{'sse' if kind == 'sse' else 'mcp'}"
        self.log = pathlib.Path(directory) / f"mcp-{self.port}-{time.monotonic_ns()}.log"
        self.process = t.start([NODE, HERE / "mcp.mjs", NPM, str(self.port), str(self.as_port), *([kind] if kind != "http" else [])], self.log)
        wait(lambda: self.log.exists() and '"ready"' in self.log.read_text(), 60, "the MCP server")

    def events(self, event):
        return [e for e in map(json.loads, filter(lambda l: l.startswith('{"event"'), self.log.read_text().splitlines())) if e["event"] == event]


def add(s, *args, person=None):
    command = Command(s, "mcp", "add", *args)
    at, status, page = (person or Person()).consent(command.url())
    assert status == 200 and "Connected" in page, (at, status, page, command.err)
    text = command.end()
    return text, json.loads("".join(command.out[1:]))


def tool(s, url, kind):
    """The SDK's client through the proxy, with a proxy token and no other."""
    env = {"PATH": os.environ["PATH"], "HTTP_PROXY": s.proxy_url(), "NODE_USE_ENV_PROXY": "1"}
    r = subprocess.run([NODE, HERE / "mcp_client.mjs", NPM, url, kind], env=env, capture_output=True, text=True, timeout=30 * sallyport.SLOW)
    assert r.returncode == 0, (r.stdout, r.stderr)
    return json.loads(r.stdout)


def test_add(t):
    """mcp add: discovery, registration, consent; then the SDK's client in the sandbox calls a tool without any token"""
    s, _ = t.proxy(serve=False)
    server = Mcp(t, s.dir)
    text, entry = add(s, "box", server.url)
    assert entry == {"mcpServers": {"box": {"type": "http", "url": server.url}}}, entry
    registered = server.events("registration_create.success")[0]["body"]
    assert registered["application_type"] == "native" and registered["token_endpoint_auth_method"] == "none", registered
    asked = server.events("authorization")[0]
    assert asked["resource"] == server.url and asked["method"] == "S256" and asked["scope"].split()[0] == "tools", asked
    shown = json.loads(s.cli("credential", "show", "box", "--json").stdout)
    assert shown["hosts"] == ["127.0.0.1"] and shown["paths"] == ["/mcp"] and shown["plain_http"] is True, shown
    assert shown["ports"] == [server.port] and shown["fields"]["issuer"] == f"http://127.0.0.1:{server.as_port}", shown
    s.serve()
    answer = tool(s, server.url, "http")
    assert answer["aud"] == server.url, answer
    real = server.events("request")[-1]["bearer"]
    assert real
    s.canaries.append(real)
    # A token that has ended is renewed, for the same resource [C14, C20].
    s.set_clock(4000)
    assert tool(s, server.url, "http")["aud"] == server.url
    assert {(e["grant"], e["resource"]) for e in server.events("grant.success")} == {("authorization_code", server.url), ("refresh_token", server.url)}


def test_add_sse(t):
    """mcp add: an HTTP+SSE server is found to be one, and its credential covers its whole origin"""
    s, _ = t.proxy(serve=False)
    server = Mcp(t, s.dir, "sse")
    _, entry = add(s, "old", server.url)
    assert entry["mcpServers"]["old"]["type"] == "sse", entry
    assert not json.loads(s.cli("credential", "show", "old", "--json").stdout).get("paths")
    s.serve()
    assert tool(s, server.url, "sse")["aud"] == server.url


def test_add_where_it_begins_open(t):
    """mcp add: a server that asks for a token only after `initialize`, with a session, is asked on; where its session comes
    before its 401, the well-known address tells; the revision is named in every call, and the session is ended"""
    s, _ = t.proxy(serve=False)
    servers = {kind: Mcp(t, s.dir, kind) for kind in ("begin", "hidden")}
    for kind, server in servers.items():
        _, entry = add(s, kind, server.url)
        assert entry == {"mcpServers": {kind: {"type": "http", "url": server.url}}}, entry
        calls = server.events("call")
        assert all(c.get("version") == "2025-11-25" for c in calls[:3] + calls[-1:]), calls
        assert calls[0].get("session") is None and calls[1].get("session"), calls
        assert ("DELETE" in [c["method"] for c in calls]) == (kind == "hidden"), calls
        assert server.events("authorization")[0]["resource"] == server.url
    s.serve()
    for kind, server in servers.items():
        assert tool(s, server.url, "http")["aud"] == server.url
        s.canaries.append(server.events("request")[-1]["bearer"])


def test_add_without_metadata(t):
    """mcp add: a server of 2025-03-26 that publishes nothing has its endpoints at /authorize, /token and /register; a server
    that only refuses is not taken for one"""
    s, _ = t.proxy(serve=False)
    server = Mcp(t, s.dir, "bare")
    text, entry = add(s, "bare", server.url)
    assert entry["mcpServers"]["bare"]["url"] == server.url and "2025-03-26" in text, text
    fields = json.loads(s.cli("credential", "show", "bare", "--json").stdout)["fields"]
    base = f"http://127.0.0.1:{server.port}"
    assert fields["token_url"] == base + "/token" and fields["authorization_url"] == base + "/authorize" and not fields.get("resource"), fields
    asked = server.events("authorization")[0]
    assert asked["method"] == "S256" and not asked.get("resource"), asked
    s.serve()
    assert tool(s, server.url, "http")["sub"]
    s.canaries.append(server.events("request")[-1]["bearer"])
    s.set_clock(4000)                                    # its token has ended, and is renewed at the same place
    assert tool(s, server.url, "http")["sub"]
    assert {e["grant"] for e in server.events("grant.success")} == {"authorization_code", "refresh_token"}


class Refusing(BaseHTTPRequestHandler):
    """Answers by the first part of its path: a status, for every method; /N/tail. `seen`: what it was asked."""
    seen, documents = [], {}

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        document = self.documents.get(self.path)
        parts = self.path.split("/")
        status = 200 if document is not None else int(parts[1]) if parts[1].isdigit() else 404
        body = document if isinstance(document, bytes) else json.dumps(document or {}).encode()
        self.send_response(status)
        if status == 401 and len(parts) > 3:
            self.send_header("WWW-Authenticate", parts[3])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *args):
        pass


def test_add_says_who(t):
    """mcp add: a failure is said of whoever failed, the server or its authorization server, and what to do has the port"""
    s = t.bare()
    s.init()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port, base, gone = server.server_port, f"http://127.0.0.1:{server.server_port}", free_port()
    as_at = f"http://127.0.0.1:{gone}"

    def said(path, documents=None, *more):
        Refusing.seen, Refusing.documents = [], documents or {}
        r = s.cli("mcp", "add", "x", base + path, "--no-browser", *more, check=False, timeout=60)
        assert r.returncode == 1 and "token endpoint" not in r.stderr, r.stderr
        assert "fault in sallyport" not in r.stderr and "\x1b" not in r.stderr, r.stderr
        return r.stderr

    def prm(path, issuer):
        return {f"/.well-known/oauth-protected-resource{path}": {"resource": base + path, "authorization_servers": [issuer]}}

    def metadata(**more):
        return {"/.well-known/oauth-authorization-server/as": {"issuer": base + "/as", "authorization_endpoint": base + "/as/auth", "token_endpoint": base + "/as/token",
                                                              "code_challenge_methods_supported": ["S256"], "token_endpoint_auth_methods_supported": ["none"], **more}}
    for path, want in (("/400/x", "refuses what a client begins with: it answers 400"), ("/403/x", "it answers 403"), ("/404/x", "it answers 404"),
                       ("/500/x", "it is out of order: it answers 500"), ("/200/x", f"domain add default 127.0.0.1 --method GET --method POST --method DELETE --port {port}"),
                       ("/401/x", f"--host 127.0.0.1 --port {port}"), ("/401/x", "says nothing of OAuth"), ("/401/x/Basic", "says nothing of OAuth")):
        text = said(path)
        assert want in text and "authorization server, " not in text, (path, text)
    get = [h for m, p, h in (said("/400/x") and Refusing.seen) if m == "GET" and p == "/400/x"]
    assert get and get[0]["mcp-protocol-version"] == "2025-11-25", Refusing.seen
    posts = [h.get("mcp-protocol-version") for m, p, h in Refusing.seen if m == "POST" and p == "/400/x"]
    assert posts == ["2025-11-25", None], posts             # an older server may mind the field
    assert not [p for m, p, h in (said("/401/x/Basic") and Refusing.seen) if "register" in p]
    assert [p for m, p, h in (said("/401/x") and Refusing.seen) if m == "POST"] == ["/401/x", "/register"]
    for documents, want in ((prm("/401/x", as_at), f"its authorization server, {as_at}, cannot be reached"),
                            (prm("/401/x", base + "/404"), f"its authorization server, {base}/404, publishes no metadata"),
                            ({**prm("/401/x", base + "/as"), **metadata(issuer="http://127.0.0.1:1/other")}, f"the metadata of its authorization server, {base}/as, names another issuer"),
                            ({**prm("/401/x", base + "/as"), **metadata()}, f"its authorization server, {base}/as, registers nobody by itself"),
                            ({**prm("/401/x", base + "/as"), **metadata(registration_endpoint=base + "/403/reg")}, f"its authorization server, {base}/as, refused to register a client: it answers 403"),
                            ({**prm("/401/x", base + "/as"), **metadata(registration_endpoint=as_at + "/reg")}, f"its authorization server, {base}/as, cannot be reached"),
                            ({**prm("/401/x", base + "/as"), **metadata(registration_endpoint=base + "/reg"), "/reg": {"client_id": "a\x1b[2J\r\nb"}}, "its client_id has bytes"),
                            ({"/.well-known/oauth-protected-resource/401/x": b"<html>", "/.well-known/oauth-authorization-server": b"<html>"}, "says nothing of OAuth"),
                            ({"/register": b"<html>"}, "says nothing of OAuth")):
        text = said("/401/x", documents)
        assert want in text, (want, text)
    for path in ("/200/x", "/403/x"):                     # what does not ask, but publishes, is taken at its word
        text = said(path, {**prm(path, base + "/as"), **metadata()})
        assert "registers nobody" in text, text
    assert not json.loads(s.cli("credential", "list", "--json").stdout)
    server.shutdown()


def test_forgotten_client(t):
    """connect: an authorization server that has forgotten our client gets a new one registered"""
    s, _ = t.proxy(serve=False)
    server = Mcp(t, s.dir)
    add(s, "box", server.url)
    s.serve()
    tool(s, server.url, "http")
    server.process.terminate()
    server.process.wait(10)
    server = Mcp(t, s.dir, ports=(server.port, server.as_port))      # it kept everything in memory
    target = f"http://127.0.0.1:{server.port}/mcp"

    def code():
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": s.proxy_url()}))
        try:
            return opener.open(target, timeout=10).status
        except urllib.error.HTTPError as e:
            return e.headers.get("X-Sallyport-Error") or e.code
    s.set_clock(120)                                                  # a token just issued is not doubted
    assert code() == 401
    wait(lambda: code() == "oauth_refresh_failed", 10, "invalid_client")
    first = json.loads(s.cli("credential", "show", "box", "--json").stdout)["fields"]["client_id"]
    command = Command(s, "connect", "box", "--no-browser")
    at, status, page = Person().consent(command.url())
    assert status == 200 and "Connected" in page, (at, status, page, command.err)
    assert "anew" in command.end()
    assert json.loads(s.cli("credential", "show", "box", "--json").stdout)["fields"]["client_id"] != first
    assert tool(s, server.url, "http")["aud"] == server.url


def test_open_server(t):
    """mcp add: a server that asks for nothing is said to need no credential; one that is not there is said so"""
    s, up = t.proxy()
    r = s.cli("mcp", "add", "x", f"http://127.0.0.1:{up.plain_port if hasattr(up, 'plain_port') else free_port()}/mcp", check=False)
    assert r.returncode == 1 and "cannot be added" in r.stderr, r.stderr
    r = s.cli("mcp", "add", "x", "http://mcp.example.com/mcp", check=False)
    assert r.returncode == 1 and "https" in r.stderr, r.stderr


def test_import(t):
    """mcp import: secrets become credentials, the new file has none, and the request carries what the old file held"""
    s, up = t.proxy(serve=False)
    old = {"mcpServers": {
        "one": {"type": "http", "url": "https://api.test/mcp", "headers": {"Authorization": "Bearer ${ONE_TOKEN}", "X-Team": "blue"}},
        "two": {"type": "sse", "url": "https://${TWO_HOST:-www.test}/sse", "headers": {"X-Api-Key": "canary-literal", "X-Other-Token": "${TWO:-canary-default}"}},
        "three": {"command": "npx", "args": ["-y", "thing"], "env": {"THING_API_KEY": "canary-stdio", "LANG": "C"}},
        "four": {"type": "http", "url": "https://git.test/mcp", "headersHelper": "/opt/helpers/headers.sh now"},
    }}
    path = s.dir / "old.json"
    path.write_text(json.dumps(old))
    r = s.cli("mcp", "import", path, "--out", s.dir / "new.json", "--take", "ONE_TOKEN=api.test", env={"ONE_TOKEN": "canary-one"})
    text = (s.dir / "new.json").read_text()
    assert "canary" not in text + r.stdout + r.stderr, text
    new = json.loads(text)["mcpServers"]
    assert new["one"] == {"type": "http", "url": "https://api.test/mcp", "headers": {"X-Team": "blue"}}, new
    assert new["two"] == {"type": "sse", "url": "https://${TWO_HOST:-www.test}/sse"} and new["three"]["env"]["THING_API_KEY"] == "${THING_API_KEY}"
    assert "--type substitute" in r.stderr and "THING_API_KEY" in r.stderr and "--type command" in r.stderr and "headers.sh" in r.stderr
    s.canaries += ["canary-one", "canary-literal", "canary-default"]
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}",
            "--connect-to", f"www.test:443:127.0.0.1:{up.port}", "--allow-address", "127.0.0.0/8")
    assert s.request(target="/mcp").status == 200
    assert up.requests[-1].get("authorization") == "Bearer canary-one"
    assert s.request(host="www.test", target="/messages").status == 200
    assert up.requests[-1].get("x-api-key") == "canary-literal" and up.requests[-1].get("x-other-token") == "canary-default"


def test_import_takes(t):
    """mcp import: a variable's value leaves the environment only for the host that --take names, or that the operator
    agreed to at the terminal; in the new file a variable stays a variable, wherever it stands"""
    s, _ = t.proxy(serve=False)
    path, out = s.dir / "old.json", s.dir / "new.json"
    have = {"DATABASE_URL": "postgres://u:canary-db@db/prod", "GH_TOKEN": "canary-gh", "PLAIN": "canary-plain", "ACCOUNT": "acme"}
    bearer = {"Authorization": "Bearer ${GH_TOKEN}"}

    def give(servers, *args, exit=0):
        path.write_text(json.dumps({"mcpServers": servers}))
        out.unlink(missing_ok=True)
        r = s.cli("mcp", "import", path, "--out", out, *args, env=have, check=False)
        assert r.returncode == exit and "fault in sallyport" not in r.stderr and "canary" not in r.stderr + r.stdout, r.stderr
        text = out.read_text() if out.exists() else ""
        assert "canary" not in text and (exit == 0) == bool(text), text
        return r.stderr, json.loads(text)["mcpServers"] if text else None

    def kept():
        return {c["name"] for c in json.loads(s.cli("credential", "list", "--json").stdout)}
    for url in ("https://x.test/${DATABASE_URL}/y", "https://x.test/a?q=${PLAIN}&r=${PLAIN:-z}", "https://x.test/${PLAIN:-a/b}#${PLAIN}",
                "https://x.test/${PLAIN}", "https://x.test?${PLAIN}", "https://x.test/${env:PLAIN}/${UNSET_NAME}"):
        said, new = give({"evil": {"url": url}})
        assert new["evil"]["url"] == url, new
    args = ["--dsn", "${DATABASE_URL}", "$PLAIN", "${PLAIN:-x}"]
    said, new = give({"evil": {"command": "x", "args": args, "env": {"LANG": "${PLAIN}"}, "cwd": "${PLAIN}"}})
    assert new["evil"]["args"] == args and new["evil"]["env"]["LANG"] == "${PLAIN}" and new["evil"]["cwd"] == "${PLAIN}", new
    evil = {"evil": {"url": "https://attacker.test/", "headers": bearer}}
    for more in ((), ("--take", "GH_TOKEN=api.test"), ("--take", "PLAIN=attacker.test"), ("--take", "GH_TOKEN=attacker.test.api.test"),
                 ("--take", "GH_TOKEN=http://attacker.test"), ("--take", "GH_TOKEN=attacker.test:8443")):
        said, _ = give(evil, *more, exit=1)
        assert "GH_TOKEN" in said and "https://attacker.test" in said, said
    for bad in ("GH_TOKEN", "GH_TOKEN=", "=api.test", "GH_TOKEN=*.test", "GH_TOKEN=a/b", "GH_TOKEN=u@api.test", "GH TOKEN=api.test"):
        give(evil, "--take", bad, exit=2)
    for headers in ({"X-B": "${PLAIN}"}, {"X-Team": "${env:PLAIN}"}, {"X-B": "a ${PLAIN:-b} c"}):
        give({"evil": {"url": "https://attacker.test/", "headers": headers}}, exit=1)
    for url in ("https://${PLAIN}.attacker.test/", "https://${PLAIN:-www}.attacker.test/", "${DATABASE_URL:-https://x.test}/mcp"):
        said, _ = give({"evil": {"url": url, "headers": {"X-Api-Key": "literal"}}}, exit=1)
        assert "acme" not in said, said
    give({"evil": {"url": "http://api.test/", "headers": bearer}}, "--take", "GH_TOKEN=api.test", exit=1)      # in clear: not said so
    assert kept() == set()
    give({"clear": {"url": "http://api.test/", "headers": bearer}}, "--take", "GH_TOKEN=http://api.test")
    said, new = give({"good": {"url": "https://api.test/v1", "headers": bearer}, "snow": {
        "url": "https://${ACCOUNT}.snow.test/db/${PLAIN:-PROD}/mcp", "headers": {"X-Key": "${GH_TOKEN}"}}},
        "--take", "GH_TOKEN=api.test,GH_TOKEN=acme.snow.test", "--take", "ACCOUNT=acme.snow.test")
    assert new["snow"]["url"] == "https://${ACCOUNT}.snow.test/db/${PLAIN:-PROD}/mcp", new
    snow = json.loads(s.cli("credential", "show", "snow", "--json").stdout)
    assert snow["hosts"] == ["acme.snow.test"] and snow["paths"] == ["/db/"] and "'snow' for acme.snow.test" in said, (snow, said)
    assert kept() == {"clear", "good", "snow"}
    for answer, exit in (("n", 1), ("", 1), ("y", 0)):                 # at a terminal it asks, and names both
        path.write_text(json.dumps({"mcpServers": {"asked": {"url": "https://asked.test/", "headers": {"X-A": "${GH_TOKEN}", "X-B": "${GH_TOKEN}"}}}}))
        code, said = s.terminal("mcp", "import", path, "--out", out, env=have, answers=[answer])
        assert code == exit and "GH_TOKEN" in said and "https://asked.test" in said and "canary" not in said and said.count("[y/N]") == 1, said
    assert kept() == {"asked", "clear", "good", "snow"}


def test_out_traps(t):
    """--out: a link, a pipe, a folder or a device under the name is refused at once and left as it was; a file there is
    replaced by a new one, whatever shared it"""
    s, _ = t.proxy(serve=False, credentials=[{"name": "crm", "type": "oauth_client_credentials", "host": "api.test", "fields": {
        "token_url": "https://api.test/token", "client_id": "x"}, "secrets": {"client_secret": "canary-crm"}}])
    (s.dir / "in.json").write_text(json.dumps({"mcpServers": {"a": {"command": "x"}}}))
    trap, other = s.dir / "trap", s.dir / "other"
    commands = (("mcp", "import", s.dir / "in.json", "--out", trap), ("credential", "sandbox-file", "crm", "--agent", "a", "--out", trap))
    for command in commands:
        for lay in (lambda: trap.symlink_to(other), lambda: trap.symlink_to(s.dir / "nowhere"), lambda: os.mkfifo(trap), trap.mkdir):
            other.write_text("mine")
            lay()
            r = s.cli(*command, check=False, timeout=10)
            assert r.returncode == 1 and "no plain file" in r.stderr and other.read_text() == "mine", r.stderr
            assert not (s.dir / "nowhere").exists()
            trap.rmdir() if trap.is_dir() and not trap.is_symlink() else trap.unlink()
        other.chmod(0o666)
        os.link(other, trap)                                            # an agent keeps the other name, and what it may do with it
        s.cli(*command)
        assert other.read_text() == "mine" and trap.stat().st_ino != other.stat().st_ino and trap.stat().st_nlink == 1
        assert trap.stat().st_mode & 0o022 == 0 and trap.stat().st_uid == os.getuid()
        trap.unlink()
        assert not [p for p in s.dir.iterdir() if p.name.startswith("trap")], "nothing stays beside it"
    r = s.cli("mcp", "import", s.dir / "in.json", "--out", s.dir / "none" / "x", check=False)
    assert r.returncode == 1 and "no such folder" in r.stderr, r.stderr


def test_import_hostile(t):
    """mcp import: an .mcp.json that somebody else wrote steers no terminal and no shell; a secret in a url becomes part of
    the credential, and one that would stay refuses its server; so do names that would meet, a text for an object and the file itself as --out"""
    s, _ = t.proxy(serve=False)
    path, out = s.dir / "old.json", s.dir / "new.json"

    def give(servers, exit=0, **env):
        path.write_text(json.dumps({"mcpServers": servers}))
        r = s.cli("mcp", "import", path, "--out", out, env=env, check=False)
        assert r.returncode == exit and "fault in sallyport" not in r.stderr, r.stderr
        assert "\x1b" not in r.stderr + r.stdout and "canary" not in r.stderr + r.stdout, r.stderr
        return r.stderr, json.loads(out.read_text())["mcpServers"] if exit == 0 else None
    for value in ("a\nb", "a\x00b", "a\x1bb", "Bearer "):               # what no header carries
        said, _ = give({"bad": {"url": "https://api.test/mcp", "headers": {"Authorization": value}}}, exit=1)
        assert "bad, Authorization" in said and "its value" in said, (value, said)
    said, new = give({"url": {"url": "https://api.test/v1/${KEY}/mcp?api_key=canary-q&k=${KEY}&b=${B:-c}", "headers": {"X-Auth": "canary-h"}}}, KEY="canary-k")
    assert new["url"]["url"] == "https://api.test/v1/${KEY}/mcp?k=${KEY}&b=${B:-c}" and "headers" not in new["url"], new
    assert said.count("--env KEY ") == 1, said
    shown = json.loads(s.cli("credential", "show", "url", "--json").stdout)
    assert shown["paths"] == ["/v1/"] and shown["fields"] == {"name": "api_key", "in": "query"} and shown["secrets"] == ["headers.x-auth", "value"], shown
    said, _ = give({"a\x1b[31m": {"url": "https://x.test/a;$(touch)", "headersHelper": "/h/p \x1b[2J $(id)"}, "b": {"url": "https://x.test/`id`"}})
    assert "'https://x.test/`id`'" in said and "a line for a shell" in said and "$(" not in said, said
    for line, want in (("/h/p --team 'a b' | jq .", "a line for a shell"), ("gh auth token", "a line for a shell"), ("sh -c x", "a line for a shell"),
                       ("/h/p --key sk-canary-0123456789", "a line for a shell"), ("/h/p a;b", "a line for a shell"), ("/h/p a b", "'arguments=a b'")):
        said, new = give({"h": {"url": "https://x.test/a", "headersHelper": line}})
        assert want in said and "serve --helpers DIR" in said and "headersHelper" not in new["h"], (line, said)
    said, new = give({"odd": {"url": "https://x.test/s/canary0Abcdefghij123456/mcp?p=canary0Abcdefghij123456&q=1", "headers": {
        "X-Api": "sk-canary-1", "X-Fwd": "Bearer canary-2", "X-Id": "canary0Abcdefghij123456", "X-Team": "blue-team-2024"}}})
    assert new["odd"] == {"url": "https://x.test/s/__ODD_URL_KEY_SECRET__/mcp?p=__ODD_P_SECRET__&q=1", "headers": {"X-Team": "blue-team-2024"}}, new
    assert "no secret in it" not in said, said
    said, new = give({"long": {"url": "https://x.test/s/${A_VARIABLE_OF_32_LETTERS_API_KEY}/mcp?p=a-${A_VARIABLE_OF_32_LETTERS_API_KEY}"}})
    assert new["long"]["url"] == "https://x.test/s/${A_VARIABLE_OF_32_LETTERS_API_KEY}/mcp?p=a-${A_VARIABLE_OF_32_LETTERS_API_KEY}", new
    assert "LONG_URL_KEY" not in said and "LONG_P" not in said, said
    shown = json.loads(s.cli("credential", "show", "odd", "--json").stdout)
    assert shown["paths"] == ["/s/"] and sorted(shown["secrets"]) == ["headers.x-api", "headers.x-fwd", "headers.x-id", "values.P", "values.URL_KEY"], shown
    # What looks like a secret and cannot be replaced refuses its server: it is no advice, for the file goes to a sandbox.
    for server, place in (({"command": "npx", "args": ["mcp-remote", "--header", "Authorization: Bearer canary-a"], "env": {"AUTH": "canary-b"}}, "std.args.3"),
                          ({"command": "npx", "headers": {"Authorization": "Bearer canary-c"}}, "std.headers.Authorization"),
                          ({"command": "npx", "args": ["--token", "canary-d"]}, "std.args.2"), ({"command": "x --api-key=canary-e"}, "std.command"),
                          ({"command": "x", "metadata": {"deep": [{"password": "canary-f"}]}}, "std.metadata.deep.1.password"),
                          ({"url": "https://x.test/mcp#access_token=canary-g"}, "url"), ({"url": "https://x.test/mcp", "note": "key sk-canary-0123456789"}, "std.note")):
        said, _ = give({"std": server}, 1)
        assert "looks like" in said and place in said, (server, said)
    assert "looks like" not in give({"std": {"command": "npx", "args": ["-y", "thing@1.2.3"], "cwd": "/srv/thing", "timeout": 5}})[0]
    assert out.stat().st_mode & 0o777 == 0o644
    token = {"Authorization": "Bearer canary-z"}
    assert "both be kept as 'a-b'" in give({"a b": {"url": "https://x.test/a", "headers": token}, "a-b": {"url": "https://x.test/b", "headers": token}}, 1)[0]
    for url in ("https://u:canary-p@x.test/a?api_key=canary-q", "https://canary-u@x.test/a", "https://${U}:canary-p@x.test/a", "https://u:canary-p@v@x.test/a"):
        give({"c": {"url": url}}, 1)
    for where in ("a/../b", "a%2f..%2fb", "/a", "a;b"):                     # what cannot be a prefix must not become the whole host
        assert "prefix" in give({"c": {"url": f"https://x.test/{where}", "headers": token}}, 1)[0]
    for bad in (["https://x.test"], [], "x", {"c": {"url": "https://x.test", "headers": "x"}}, {"c": {"command": "x", "env": ["y"]}},
                {"c": {"url": "https://x.test", "headers": {"X-Token": "canary", "x-token": "canary"}}},
                {"c": {"url": "https://x.test", "headers": {f"X-Token-{i}": "canary" for i in range(300)}}}, {"c": {"url": "\x1b[2J"}}, {"c": {"url": "https://x.test", "type": {}}}, {"c": {"url": "https://x.test", "headersHelper": 5}}):
        give(bad, 1)
    assert s.cli("mcp", "import", path, "--out", path, check=False).returncode == 2
    path.write_text(json.dumps({"mcpServers": {"d": {"url": "https://x.test", "headers": token}}}))
    assert s.cli("mcp", "import", path, "--out", "/nowhere/x", check=False).returncode == 1
    assert [c["name"] for c in json.loads(s.cli("credential", "list", "--json").stdout)] == ["odd", "url"]


def test_another_server(t):
    """connect: an MCP server that names another authorization server gets a client there, and the old grant's refresh token
    goes to neither it nor anywhere else; what the operator chose (scopes, headers) stays"""
    s, _ = t.proxy(serve=False)
    server = Mcp(t, s.dir)
    secret = s.secret_file("canary-extra")
    add(s, "box", server.url, "scopes=tools", "headers.X-Team=blue", f"headers.X-Extra=@{secret}")
    before = json.loads(s.cli("credential", "show", "box", "--json").stdout)
    assert before["headers"] == {"X-Team": "blue"} or before["headers"] == {"x-team": "blue"}, before
    s.serve()
    tool(s, server.url, "http")
    server.process.terminate()
    server.process.wait(10)
    server = Mcp(t, s.dir, ports=(server.port, free_port()))
    command = Command(s, "connect", "box", "--no-browser")
    command.url()                                                     # registered there; nobody consents
    target = f"http://127.0.0.1:{server.port}/mcp"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": s.proxy_url()}))
    try:
        opener.open(target, timeout=10)
        raise AssertionError("no grant, and yet an answer")
    except urllib.error.HTTPError as e:
        assert e.code == 502 and b"another client or token address" in e.read()
    assert not server.events("grant.error") and not server.events("grant.success")
    at, status, page = Person().consent(command.url())
    assert status == 200 and "anew" in command.end(), page
    after = json.loads(s.cli("credential", "show", "box", "--json").stdout)
    assert after["headers"] == before["headers"] and after["fields"]["scopes"] == ["tools"] and "headers.x-extra" in after["secrets"], after
    assert after["fields"]["issuer"] == f"http://127.0.0.1:{server.as_port}"
    assert tool(s, server.url, "http")["aud"] == server.url


class Moving(BaseHTTPRequestHandler):
    """An MCP server and its authorization servers, /as1 and /as2, of which the second is as malicious as can be: the client
    and the token address are the first one's."""
    issuer, posts = "as1", []

    def do_GET(self):
        base, path = f"http://127.0.0.1:{self.server.server_port}", self.path
        if path.startswith("/.well-known/oauth-protected-resource"):
            self.answer(200, {"resource": base + "/mcp", "authorization_servers": [f"{base}/{self.issuer}"]})
        elif path == f"/.well-known/oauth-authorization-server/{self.issuer}":
            one = f"{base}/{self.issuer}"
            self.answer(200, {"issuer": one, "authorization_endpoint": one + "/auth", "token_endpoint": base + "/as1/token",
                              "registration_endpoint": one + "/register", "revocation_endpoint": one + "/revoke",
                              "code_challenge_methods_supported": ["S256"], "token_endpoint_auth_methods_supported": ["none"]})
        else:
            self.answer(404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        self.posts.append((self.path, body))
        if self.path == "/mcp":
            self.answer(401, {})
        elif self.path.endswith("/register"):
            self.answer(201, {"client_id": "same"})
        else:
            self.answer(200, {"access_token": "canary-at", "refresh_token": "canary-rt", "expires_in": 3600} if "token" in self.path else {})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in (("WWW-Authenticate", "Bearer"), ("Content-Type", "application/json"), ("Content-Length", len(body))):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_moved_revocation(t):
    """connect: a server that moved, and left client and token address as they were, does not get the grant to revoke"""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Moving)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Moving.issuer, Moving.posts = "as1", []
    s = t.bare()
    s.init()
    command = Command(s, "mcp", "add", "box", f"http://127.0.0.1:{server.server_port}/mcp", "--code-from-terminal", stdin=True)
    asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(command.url()).query))
    command.p.stdin.write(f"{asked['redirect_uri']}?code=1&state={asked['state']}\n")
    command.p.stdin.close()
    command.end()
    Moving.issuer = "as2"
    r = s.cli("connect", "box", "--code-from-terminal", check=False, stdin="")
    assert r.returncode == 1 and "anew" in r.stderr, r.stderr
    s.cli("disconnect", "box")
    revoked = [path for path, body in Moving.posts if "canary-rt" in body]
    assert revoked == ["/as1/revoke"], Moving.posts
    s.canaries += ["canary-at", "canary-rt"]
    server.shutdown()
