"""The door's own side, with curl and openssl: TLS with the operator's certificate, plain HTTP behind a reverse proxy, Host,
Origin, CORS, and workers of its own."""
import os
import re
import socket
import subprocess
import time

import real
import sallyport

URL = "https://box.test"


def make_chain(folder, kind, tag="1"):
    """A root, an intermediate and a leaf for box.test -> (chain, key, root)."""
    def run(*args):
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)
    new = ["-newkey", "rsa:2048"] if kind == "rsa" else ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    at = {n: folder / f"{kind}{tag}-{n}.pem" for n in ("root", "rootkey", "mid", "midkey", "leaf", "key", "chain")}
    ca = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
    run("req", "-x509", *new, "-nodes", "-keyout", at["rootkey"], "-out", at["root"], "-days", "30", "-subj", f"/CN=root {kind} {tag}", *ca)
    run("req", "-x509", *new, "-nodes", "-keyout", at["midkey"], "-out", at["mid"], "-days", "30", "-subj", f"/CN=mid {kind} {tag}", *ca,
        "-CA", at["root"], "-CAkey", at["rootkey"])
    run("req", "-x509", *new, "-nodes", "-keyout", at["key"], "-out", at["leaf"], "-days", "30", "-subj", f"/CN=box.test {tag}",
        "-addext", "subjectAltName=DNS:box.test", "-addext", "basicConstraints=critical,CA:FALSE", "-CA", at["mid"], "-CAkey", at["midkey"])
    at["chain"].write_text(at["leaf"].read_text() + at["mid"].read_text())
    return at["chain"], at["key"], at["root"]


def door(t, *flags, public=URL, workers=1):
    """A proxy with a door -> it, the door's port."""
    t.need("curl", "openssl")
    s = t.bare(workers)
    s.init()
    s.serve("--gateway", "127.0.0.1:0", "--public-url", public, *flags)
    return s, int(re.search(r" gateway=127\.0\.0\.1:(\d+)", s.log())[1])


def curl(port, path="/nowhere", *args, root=None, host="box.test"):
    """-> status, head in lower case, body. 0: there was no answer."""
    url = f"{'https' if root else 'http'}://{host}:{port}{path}"
    trust = ["--cacert", str(root)] if root else []
    r = subprocess.run(["curl", "-sS", "-i", "--max-time", str(20 * sallyport.SLOW), "--resolve", f"{host}:{port}:127.0.0.1", *trust, *args, url],
                       capture_output=True, text=True)
    head, _, body = r.stdout.partition("\n\n" if "\r" not in r.stdout else "\r\n\r\n")
    m = re.match(r"HTTP/1\.1 (\d+)", head)
    return int(m[1]) if m else 0, head.lower(), body if m else r.stderr


def plain(port, path="/nowhere", *args):
    return curl(port, path, "-H", "Host: box.test", *args)


def test_certificates(t):
    """the door shows the operator's certificate with its chain, ECDSA or RSA, and a renewed one without a restart"""
    for kind in ("ec", "rsa"):
        s0 = t.bare()
        chain, key, root = make_chain(s0.dir, kind)
        live = s0.dir / "live"
        live.mkdir()
        for name, to in (("c", chain), ("k", key)):
            (live / name).symlink_to(to)
        s, port = door(t, "--gateway-cert", live / "c", "--gateway-key", live / "k")
        args = ("-H", "Host: box.test")
        assert curl(port, "/nowhere", *args, root=root)[0] == 404
        assert subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "box.test", "-CAfile", root,
                               "-verify_return_error", "-verify_hostname", "box.test"], stdin=subprocess.DEVNULL,
                              capture_output=True).returncode == 0
        shown = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-showcerts"], stdin=subprocess.DEVNULL,
                               capture_output=True, text=True).stdout
        assert shown.count("BEGIN CERTIFICATE") == 2, shown
        assert ("ECDSA" if kind == "ec" else "RSA") in shown
        # A renewal changes the links, one after the other: between the two they do not belong together.
        chain2, key2, root2 = make_chain(s0.dir, kind, "2")
        (live / "new").symlink_to(chain2)
        os.replace(live / "new", live / "c")
        real.wait(lambda: "mismatch" in s.log(), what="a word of the pair that does not match")
        assert curl(port, "/nowhere", *args, root=root)[0] == 404
        (live / "new").symlink_to(key2)
        os.replace(live / "new", live / "k")
        real.wait(lambda: curl(port, "/nowhere", *args, root=root2)[0] == 404, what="the renewed certificate")
        assert curl(port, "/nowhere", *args, root=root)[0] == 0


def test_resumption(t):
    """a session at the door resumes, and not with another certificate"""
    s0 = t.bare()
    chain, key, root = make_chain(s0.dir, "ec")
    s, port = door(t, "--gateway-cert", chain, "--gateway-key", key)
    keep = s0.dir / "session"

    def client(*args):
        return subprocess.run(["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{port}", "-CAfile", root, *map(str, args)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
    assert "New, " in client("-sess_out", keep)
    assert "Reused, " in client("-sess_in", keep)
    chain2, key2, _ = make_chain(s0.dir, "ec", "2")
    key.write_text(key2.read_text())
    chain.write_text(chain2.read_text())
    real.wait(lambda: "CN = box.test 2" in client() or "CN=box.test 2" in client(), what="the renewed certificate")
    assert "New, " in client("-sess_in", keep)
    key.write_text("")
    chain.write_text("")
    real.wait(lambda: f"{chain}: it is empty" in s.log(), what="a word of the files that were emptied")
    assert "CN = box.test 2" in client() or "CN=box.test 2" in client()


def test_settings_at_start(t):
    """what counts from the next start only says so: whether the door speaks TLS, not which files it reads"""
    s, _ = door(t)
    for name in ("first.pem", "second.pem"):
        (s.dir / name).write_text("")
    for name, value in (("gateway", "127.0.0.1:0"), ("gateway-workers", "2"), ("gateway-cert", s.dir / "first.pem")):
        assert "from the next start" in s.cli("set", name, value).stderr, name
    for name, value in (("gateway-cert", s.dir / "second.pem"), ("gateway-origins", "https://app.test")):
        assert "from the next start" not in s.cli("set", name, value).stderr, name


def test_start(t):
    """serve says at once why a door cannot open as it is set"""
    s0 = t.bare()
    s0.init()
    ec, rsa = make_chain(s0.dir, "ec"), make_chain(s0.dir, "rsa")

    def why(*flags):
        r = s0.cli("serve", "--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0", *map(str, flags), check=False)
        assert r.returncode == 1, (r.returncode, r.stderr)
        return r.stderr
    assert "public-url" in why()
    u = ("--public-url", URL)
    assert "go together" in why(*u, "--gateway-cert", ec[0])
    assert "mismatch" in why(*u, "--gateway-cert", ec[0], "--gateway-key", rsa[1])
    assert "private key" in why(*u, "--gateway-cert", ec[1], "--gateway-key", ec[1])
    garbage, empty = s0.dir / "garbage", s0.dir / "empty"
    garbage.write_text("no PEM")
    empty.write_text("\n")
    assert "no certificate" in why(*u, "--gateway-cert", garbage, "--gateway-key", ec[1])
    assert "it is empty" in why(*u, "--gateway-cert", empty, "--gateway-key", empty)
    assert "there is no file" in why(*u, "--gateway-cert", "/nowhere", "--gateway-key", ec[1])


def test_host_and_origin(t):
    """Host is public-url's; Origin, where there is one, that or a listed one; CORS without credentials [R8 S18]"""
    _, port = door(t, "--gateway-origins", "https://app.test")
    assert plain(port)[0] == 404
    for host in ("box.test", "BOX.test", "box.test:443"):
        assert curl(port, "/nowhere", "-H", f"Host: {host}")[0] == 404, host
    for host in ("", "box.test.", "box.test:80", "box.test:8443", "evil.test", "box.test@evil.test", "127.0.0.1", f"127.0.0.1:{port}", "box.test, evil.test"):
        status = curl(port, "/nowhere", "-H", f"Host: {host}" if host else "Host;")[0]
        assert status in (400, 421), (host, status)
    # Nothing that is forwarded speaks for the host or the scheme.
    for name in ("X-Forwarded-Host", "Forwarded", "X-Host", "X-Original-Host", "X-Forwarded-Server"):
        value = "host=box.test" if name == "Forwarded" else "box.test"
        assert curl(port, "/nowhere", "-H", "Host: evil.test", "-H", f"{name}: {value}")[0] == 421, name
        assert plain(port, "/nowhere", "-H", f"{name}: evil.test")[0] == 404, name
    for origin in (URL, "https://app.test"):
        assert plain(port, "/nowhere", "-H", f"Origin: {origin}")[0] == 404, origin
    for origin in ("https://evil.test", "http://box.test", "https://box.test.evil.test", "https://app.test:8443", "null", "https://box.test, https://evil.test",
                   "HTTPS://BOX.TEST", "file://", "https://app.test."):
        status, _, body = plain(port, "/nowhere", "-H", f"Origin: {origin}")
        assert status == 403 and "origin_refused" in body, origin
    assert plain(port, "/nowhere", "-H", "Origin: null", "-H", "Sec-Fetch-Site: same-origin")[0] == 404
    assert plain(port, "/nowhere", "-H", "Origin: null", "-H", "Sec-Fetch-Site: cross-site")[0] == 403
    assert plain(port, "/nowhere", "-H", "Origin: https://evil.test", "-H", f"Origin: {URL}")[0] == 403
    # CORS
    path = "/.well-known/oauth-authorization-server"
    ask = ("-X", "OPTIONS", "-H", "Access-Control-Request-Method: POST", "-H", "Access-Control-Request-Headers: authorization,mcp-session-id")
    status, head, _ = plain(port, path, *ask, "-H", "Origin: https://app.test")
    assert status == 204 and "access-control-allow-origin: https://app.test" in head and "allow-credentials" not in head, head
    assert "authorization" in re.search(r"access-control-allow-headers: (.*)", head)[1]
    _, head, _ = plain(port, path, "-H", "Origin: https://app.test")
    assert re.search(r"access-control-expose-headers:.*www-authenticate.*mcp-session-id", head), head
    assert plain(port, path, *ask, "-H", "Origin: https://evil.test")[0] == 403
    _, head, _ = plain(port, "/login", "-H", f"Origin: {URL}")
    assert "access-control" not in head, head


def test_trusted_proxy(t):
    """plain HTTP is for reverse proxies alone: a connection from elsewhere is closed"""
    s, port = door(t, "--trusted-proxy", "192.0.2.0/24")
    assert plain(port)[0] == 0
    s2, port = door(t, "--trusted-proxy", "127.0.0.1")
    assert plain(port)[0] == 404


def test_reader(t):
    """the door reads as strictly as the proxy port, and is no proxy"""
    s, port = door(t)

    def ask(text):
        with socket.create_connection(("127.0.0.1", port), 10 * sallyport.SLOW) as c:
            c.sendall(text.encode())
            data = b""
            while b"\r\n\r\n" not in data and (more := c.recv(4096)):
                data += more
        return int(data.split()[1]) if data.startswith(b"HTTP") else data
    h = "Host: box.test\r\n"
    assert ask(f"GET /nowhere HTTP/1.1\r\n{h}\r\n") == 404
    # a browser sends what others on the same host gave it, as long as it likes
    for cookie in ("sid=" + "a" * 9000 + "; b=1", "a" * 9000, "a b " * 2000, "=;" * 4000, "a=b; " * 1800):
        assert ask(f"GET /login HTTP/1.1\r\n{h}Cookie: {cookie}\r\n\r\n") == 200, cookie[:20]
    assert "ev=task_failed" not in s.log()
    for line in ("GET http://box.test/nowhere HTTP/1.1", "GET https://box.test/nowhere HTTP/1.1", "CONNECT box.test:443 HTTP/1.1",
                 "OPTIONS * HTTP/1.1", "GET http://127.0.0.1:1/ HTTP/1.1"):
        assert ask(f"{line}\r\n{h}\r\n") in (400, 421), line
    for fields in (h + h, "", h + "Content-Length: 1\r\nContent-Length: 2\r\n", h + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                   h + "X : y\r\n", h + " folded\r\n", h + "Transfer-Encoding: gzip\r\n"):
        assert ask(f"POST /nowhere HTTP/1.1\r\n{fields}\r\n") == 400, fields
    assert ask(f"TRACE /nowhere HTTP/1.1\r\n{h}\r\n") == 405
    assert ask(f"GET /{'a' * 70000} HTTP/1.1\r\n{h}\r\n") == 431
    # an agent's endpoints are not there, and its token names nobody
    for path in ("/discover", "/ca.pem"):
        assert ask(f"GET {path} HTTP/1.1\r\n{h}Authorization: Bearer sp_agt_x\r\n\r\n") == 404, path
    assert ask(f"POST /oauth/token HTTP/1.1\r\n{h}Content-Length: 70000\r\n\r\n") == 413
    # where a person looks on, a fault is a page; a program reads JSON
    large = s.dir / "large"
    large.write_text("a=" + "x" * 70000)
    for status, path, *more in ((404, "/nowhere"), (404, "/connections/x"), (405, "/login", "-X", "DELETE"), (405, "/logout"), (413, "/login", "-H", "Expect:", "--data-binary", f"@{large}"),
                                (403, "/login", "-H", "Origin: https://evil.test"), (421, "/login")):
        for kind in ("text/html,*/*;q=0.8", "application/json"):
            got, head, body = curl(port, path, "-H", "Host: evil.test" if status == 421 else "Host: box.test", "-H", f"Accept: {kind}", *more)
            assert got == status and ("<h1>" in body and "text/html" in head) == kind.startswith("text"), (status, path, kind, head, body[:300])
            assert status != 405 or re.search("^allow: (get, head, post|post)$", head, re.M), head
            assert len(re.findall(r"^x-sallyport-error: \w+\r?$", head, re.M)) == (status not in (404, 405)), head


def test_workers(t):
    """the door has workers of its own, and a flood of handshakes there leaves agents alone"""
    s0 = t.bare()
    chain, key, root = make_chain(s0.dir, "rsa")
    s, up = t.proxy(domains=[{"host": "api.test"}], serve=False)
    s.serve("--memory", "16m", "--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", "--gateway", "127.0.0.1:0", "--public-url", URL, "--gateway-cert", chain, "--gateway-key", key)
    port = int(re.search(r" gateway=127\.0\.0\.1:(\d+)", s.log())[1])
    real.wait(lambda: len(s.worker_pids()) == 2, what="a worker for the door")

    def nice():
        return sorted(int(open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[16]) for p in s.worker_pids())
    real.wait(lambda: nice()[1] - nice()[0] == 5, what="the door's worker is nicer by 5")
    door_pid = next(p for p in s.worker_pids() if int(open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[16]) == nice()[1])
    with open(f"{s.dir}/flood", "wb") as out:
        flood = [subprocess.Popen(["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-time", "5"], stdout=out, stderr=out)
                 for _ in range(2)]
        half = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(300)]
        try:
            time.sleep(0.5)
            for i in range(20):
                assert s.request(target=f"/{i}").status == 200
            # The agents' worker holds none of the world's connections, and the door no more than its share of memory allows.
            held = {p: len(os.listdir(f"/proc/{p}/fd")) for p in s.worker_pids()}
            assert held.pop(door_pid) < 120 and max(held.values()) < 40, held
            assert curl(port, "/nowhere", "-H", "Host: box.test", root=root)[0] == 404
        finally:
            for p in flood:
                p.kill()
                p.wait()
            for c in half:
                c.close()


def test_one_address(t):
    """a flood from one address drives out its own connections, and none of another address's"""
    s, port = door(t, "--memory", "16m")

    def open_from(address):
        c = socket.socket()
        c.settimeout(20 * sallyport.SLOW)
        c.bind((address, 0))
        c.connect(("127.0.0.1", port))
        c.sendall(b"GET /nowhere HTTP/1.1\r\nHost: ")
        return c
    honest = open_from("127.0.0.2")
    time.sleep(0.2)
    flood = [open_from("127.0.0.1") for _ in range(200)]
    honest.sendall(b"box.test\r\n\r\n")
    assert honest.recv(12) == b"HTTP/1.1 404"
    gone = 0
    for c in flood:
        c.settimeout(0.01)
        try:
            gone += c.recv(1) == b""
        except ConnectionResetError:
            gone += 1
        except TimeoutError:
            pass
    assert gone > 100, gone


class Mcp:
    """An upstream that tells what it got, and streams on GET until it is cut."""

    def __init__(self, t):
        import http.server
        import json
        import threading
        seen = self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen.append((self.requestline, [(k.lower(), v) for k, v in self.headers.items()], body))
                if b"slow-me" in body:
                    return self.do_GET()
                out = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"agent": self.headers.get("User-Agent")}}).encode()
                self.send_response(401 if b"refuse-me" in body else 200)
                if b"open-a-session" in body:
                    self.send_header("Mcp-Session-Id", f"canary-session-{len(seen)}")
                for k, v in (("Content-Type", "application/json"), ("Set-Cookie", "__Host-s=evil; Path=/; Secure"), ("Location", "https://evil.test/"),
                             ("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Credentials", "true"), ("WWW-Authenticate", "Bearer evil"),
                             ("Clear-Site-Data", '"*"'), ("Refresh", "0; url=https://evil.test/"), ("Content-Length", str(len(out)))):
                    self.send_header(k, v)
                self.end_headers()
                self.wfile.write(out)

            def do_GET(self):
                seen.append((self.requestline, [(k.lower(), v) for k, v in self.headers.items()], b""))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(b": still here\n\n")
                        time.sleep(0.1)
                except OSError:
                    pass

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def gateway_door(t, *flags, workers=1):
    """A door with a gateway `tools` and keys of two tenants -> it, the port, the upstream, { tenant = key }."""
    s, up = t.bare(workers), Mcp(t)
    s.init()
    s.cli("bundle", "add", "acme")
    s.cli("bundle", "add", "globex")
    s.cli("credential", "add", "tools", "--type", "bearer", "--host", "tools.test", "--port", "80", "--plain-http", "--bundle", "acme",
          "token=-", stdin="canary-of-the-upstream-key-1")
    s.cli("credential", "add", "other", "--type", "bearer", "--host", "tools.test", "--port", "80", "--plain-http", "--bundle", "globex",
          "token=-", stdin="canary-of-the-upstream-key-2")
    s.canaries += ["canary-of-the-upstream-key-1", "canary-of-the-upstream-key-2"]
    keys = {}
    s.cli("gateway", "add", "tools", "http://tools.test/mcp/v1?team=x", "--credential", "tools")
    for tenant in ("acme", "globex"):
        s.cli("tenant", "add", tenant, "--bundle", tenant)
        keys[tenant] = re.search(r"sk_\S+", s.cli("key", "add", tenant + "k" * 50, "--tenant", tenant, "--role", "member").stdout)[0]
        s.canaries.append(keys[tenant])
    s.serve("--gateway", "127.0.0.1:0", "--public-url", URL, "--connect-to", f"tools.test:80:127.0.0.1:{up.port}", *flags)
    return s, int(re.search(r" gateway=127\.0\.0\.1:(\d+)", s.log())[1]), up, keys


CALL = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{}}}'


def call(port, key, *args, body=CALL, path="/mcp/tools"):
    return plain(port, path, "-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json", "--data-binary", body, *args)


def test_hand_on(t):
    """a request is handed on as the tenant's: the upstream gets its credential, and nothing of the caller's but what it needs"""
    t.need("curl")
    s, port, up, keys = gateway_door(t)
    for i in range(3):      # the first is decided by the policies, the others as the first
        status, head, body = call(port, keys["acme"], "-H", f"X-Api-Key: {keys['acme']}", "-H", f"Cookie: s={keys['acme']}", "-H", f"Referer: https://x/{keys['acme']}",
                                  "-H", f"Origin: {URL}", "-H", "X-Forwarded-For: 198.51.100.7", "-A", f"agent/{i}", "-H", "Accept-Encoding: gzip",
                                  "-H", "Mcp-Protocol-Version: 2025-06-18", path=f"/mcp/tools?token={keys['acme']}")
        assert status == 200 and f"agent/{i}" in body, (status, head, body)
        line, fields, sent = up.seen[-1]
        assert line == "POST /mcp/v1?team=x HTTP/1.1", line
        assert dict(fields)["authorization"] == "Bearer canary-of-the-upstream-key-1"
        assert dict(fields)["user-agent"] == f"agent/{i}" and dict(fields)["mcp-protocol-version"] == "2025-06-18"
        assert keys["acme"] not in str(up.seen[-1]) and sent.decode() == CALL
        assert {k for k, _ in fields} <= {"host", "accept", "user-agent", "content-type", "content-length", "authorization", "mcp-protocol-version",
                                          "accept-encoding"}, fields
        assert dict(fields).get("accept-encoding", "identity") == "identity"
        assert not re.search(r"set-cookie|location|clear-site|refresh|www-authenticate: |allow-credentials", head), head
        assert f"access-control-allow-origin: {URL}" in head
    assert s.wait_record({"agent": "acme", "credential": "tools", "decision": "allow", "status": 200, "client": "198.51.100.7"})
    assert s.cli("log", "--client", "198.51.100.7").stdout.count("/mcp/v1") == 3
    # a credential that the upstream refuses is no word about the caller's token
    status, head, _ = call(port, keys["acme"], body=CALL.replace('"a"', '"refuse-me"'))
    assert status == 502 and "www-authenticate" not in head, head
    # the gateway's credential decides, or nothing does
    status, _, body = call(port, keys["globex"])
    assert status == 403 and len(up.seen) == 4, (status, body)
    # and without a token there is a challenge, with CORS
    status, head, _ = plain(port, "/mcp/tools", "-d", CALL, "-H", f"Origin: {URL}")
    assert status == 401 and "resource_metadata=" in head and "access-control-expose-headers" in head, head
    assert call(port, keys["acme"][:3] + keys["acme"][3:].swapcase())[0] == 401
    big = s.dir / "big"
    big.write_bytes(b"x" * (5 << 20))
    assert call(port, keys["acme"], body=f"@{big}")[0] == 413


def test_sessions(t):
    """what is decided once for a connection holds no request's own session"""
    t.need("curl")
    _, port, up, keys = gateway_door(t)
    opened = {}
    for _ in range(3):
        head = call(port, keys["acme"], body=CALL.replace('"a"', '"open-a-session"'))[1]
        sealed = re.search(r"mcp-session-id: (\S+)", subprocess.run(
            ["curl", "-si", "-H", "Host: box.test", "-H", f"Authorization: Bearer {keys['acme']}", "-H", "Content-Type: application/json",
             "-d", CALL.replace('"a"', '"open-a-session"'), f"http://127.0.0.1:{port}/mcp/tools"], capture_output=True, text=True).stdout, re.I)[1]
        assert "canary-session" not in head + sealed
        opened[sealed] = f"canary-session-{len(up.seen)}"
    for _ in range(3):
        for sealed, raw in opened.items():
            assert call(port, keys["acme"], "-H", f"Mcp-Session-Id: {sealed}")[0] == 200
            assert [v for k, v in up.seen[-1][1] if k == "mcp-session-id"] == [raw], up.seen[-1]
    assert call(port, keys["acme"])[0] == 200
    assert not [v for k, v in up.seen[-1][1] if k == "mcp-session-id"], up.seen[-1]


def test_ending(t):
    """an ended key is refused at the next request in every worker of the door, and its stream ends; so it does with a narrower role, a disabled user, a removed tenant"""
    t.need("curl")
    s, port, up, keys = gateway_door(t, "--gateway-workers", "2")
    for _ in range(12):
        assert call(port, keys["acme"])[0] == 200
    stream = subprocess.Popen(["curl", "-sN", "-H", "Host: box.test", "-H", f"Authorization: Bearer {keys['acme']}", "-H", "Accept: text/event-stream",
                               f"http://127.0.0.1:{port}/mcp/tools"], stdout=subprocess.PIPE)
    assert b"still here" in stream.stdout.readline()
    s.cli("key", "revoke", "acme" + "k" * 50)
    for _ in range(12):
        assert call(port, keys["acme"])[0] == 401
    try:
        stream.communicate(timeout=10 * sallyport.SLOW)
    finally:
        stream.kill()
    # a role that gets narrower ends the streams of what it allows no more, and no other
    s.cli("role", "add", "editor", "--scope", "tools:read", "--scope", "tools:execute")
    key = re.search(r"sk_\S+", s.cli("key", "add", "narrow", "--tenant", "acme", "--role", "editor").stdout)[0]
    head = ["curl", "-sN", "-H", "Host: box.test", "-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json"]
    at = f"http://127.0.0.1:{port}/mcp/tools"
    streams = []
    listens, calls = (subprocess.Popen([*head, *more, at], stdout=subprocess.PIPE) for more in ((), ("-d", CALL.replace('"a"', '"slow-me"'))))
    try:
        assert b"still here" in listens.stdout.readline() and b"still here" in calls.stdout.readline()
        s.cli("role", "add", "editor", "--scope", "tools:read")
        calls.communicate(timeout=10 * sallyport.SLOW)
        assert listens.poll() is None
        # and so do a disabled user and a removed tenant, each those that stand on them
        s.cli("user", "add", "ada", "--tenant", "acme=editor")
        head[5] = "Authorization: Bearer " + re.search(r"sk_\S+", s.cli("key", "add", "hers", "--tenant", "acme", "--user", "ada").stdout)[0]
        hers = subprocess.Popen([*head, at], stdout=subprocess.PIPE)
        streams = [hers]
        assert b"still here" in hers.stdout.readline()
        s.cli("user", "disable", "ada")
        hers.communicate(timeout=10 * sallyport.SLOW)
        assert listens.poll() is None
        s.cli("tenant", "remove", "acme")
        listens.communicate(timeout=10 * sallyport.SLOW)
    finally:
        for p in (listens, calls, *streams):
            p.kill()


def test_expiry(t):
    """a key that expires is refused from that second on, however lately it was seen"""
    t.need("curl")
    s, port, up, _ = gateway_door(t)
    key = re.search(r"sk_\S+", s.cli("key", "add", "short", "--tenant", "acme", "--role", "member", "--ttl", "1h").stdout)[0]
    s.set_clock(3550)
    assert call(port, key)[0] == call(port, key)[0] == 200
    s.set_clock(3601)
    assert call(port, key)[0] == 401


def test_shares(t):
    """a connection has 8 streams and 16 requests at once, and streams are no requests of the tenant"""
    t.need("curl")
    s, port, up, keys = gateway_door(t)
    more = [re.search(r"sk_\S+", s.cli("key", "add", f"k{i}", "--tenant", "acme", "--role", "member").stdout)[0] for i in range(8)]
    held = []

    def begin(key, text):
        """Sends a request, and reads as far as the end of the answer's head -> its status."""
        c = socket.create_connection(("127.0.0.1", port), 20 * sallyport.SLOW)
        held.append(c)
        c.sendall(text.replace("KEY", key).encode())
        data = b""
        while b"\r\n\r\n" not in data and (more := c.recv(4096)):
            data += more
        return int(data.split()[1])
    listen = "GET /mcp/tools HTTP/1.1\r\nHost: box.test\r\nAuthorization: Bearer KEY\r\nAccept: text/event-stream\r\n\r\n"
    for key in (keys["acme"], *more):       # more than the 64 requests that a tenant may have in progress
        assert [begin(key, listen) for _ in range(9)] == [200] * 8 + [429]
    assert call(port, keys["acme"])[0] == 200
    for c in held[:9]:
        c.close()
    real.wait(lambda: begin(keys["acme"], listen) == 200, what="a stream in the place of another")
    # Requests that are answered late: these streams are answers to POST.
    late = 'POST /mcp/tools HTTP/1.1\r\nHost: box.test\r\nAuthorization: Bearer KEY\r\nContent-Type: application/json\r\nContent-Length: 62\r\n\r\n' \
        '{"jsonrpc":"2.0","id":1,"method":"ping","params":{"slow-me":1}}'
    late = late.replace("62", str(len(late.partition("\r\n\r\n")[2])))
    assert [begin(keys["acme"], late) for _ in range(17)] == [200] * 16 + [429]
    assert begin(more[0], late) == 200
    assert call(port, keys["acme"])[0] == 429
    for c in held:
        c.close()
    real.wait(lambda: call(port, keys["acme"])[0] == 200, what="a request in the place of others")
