"""upstream-proxy: through a proxy that wants a user and password, with all that goes out; changes, pools, our own fetches, canaries.

What a hostile proxy may answer is in tests/wire/upstream_proxy.lua; which hosts go which way in tests/unit/route_test.lua.
"""
import json
import os
import pty
import re
import socket
import ssl
import threading

import sallyport
from peers import Upstream, answer
from real import wait
from servers import ConnectProxy, free_port

PASSWORD = "canary-proxy-pw: @/%41\\"
BASIC = "Y29ycFxtZTpjYW5hcnktcHJveHktcHc6IEAvJTQxXA=="        # of corp\me and that
FAR = {"name": "far", "host": "far.test", "secrets": {"token": "canary-far-token"}}


def start(t, user=None, credentials=(FAR,), hosts=("far.test",), serve=True, flags=(), **more):
    """A proxy server whose upstream's names only the other proxy knows -> Sallyport, upstream, that proxy."""
    s, up = t.proxy(credentials=credentials, serve=False, **more)
    corp = ConnectProxy({h: up.port for h in hosts}, user)
    s.canaries += [PASSWORD, BASIC] if user else []
    if serve:
        s.serve("--upstream-ca", sallyport.certs() / "root.pem", *flags)
    return s, up, corp


def secret(s, value=PASSWORD):
    path = s.dir / "proxy-password"
    path.write_text(value + "\n")
    return f"password=@{path}"


def test_password(t):
    """a password is sealed, goes to the proxy at once and to nobody else, and no listing, log, error or file shows it"""
    s, up, corp = start(t, "corp\\me:" + PASSWORD)
    url = f"http://corp%5Cme@127.0.0.1:{corp.port}"
    said = s.cli("set", "upstream-proxy", url, secret(s))
    r = s.request(host="far.test")
    assert r.status == 200 and json.loads(r.body)["target"] == "/", r.body
    assert len(corp.heads) == 1 and f"Proxy-Authorization: Basic {BASIC}" in corp.heads[0], corp.heads
    assert "canary-far" not in corp.heads[0] and up.requests[0].get("authorization") == "Bearer canary-far-token"
    assert not any(n.startswith("proxy-") for n, _ in up.requests[0].fields), up.requests[0].fields
    s.cli("set", "upstream-proxy", url, secret(s, "canary-wrong-one"))
    s.canaries.append("canary-wrong-one")
    r = s.request(host="far.test")
    assert r.status == 502 and b"does not take the user and password that are kept (407)" in r.body, r.body
    seen = said.stdout + said.stderr + r.head.decode() + r.body.decode()
    for command in (["set"], ["set", "--json"], ["set", "upstream-proxy"], ["set", "upstream-proxy", "--json"], ["doctor"], ["status"],
                    ["env", "--agent", "a"], ["explain", "GET", "https://far.test/"], ["log", "--json"], ["credential", "test", "far", "https://far.test/"]):
        out = s.cli(*command, check=False)
        seen += out.stdout + out.stderr
    assert "with a password" in seen and url in seen
    for canary in (PASSWORD, BASIC, "canary-wrong-one", "Y29ycFxtZT"):
        assert canary not in seen, seen[max(0, seen.find(canary) - 300):][:600]
    backup = s.dir / "home-backup"
    s.cli("backup", backup)
    assert PASSWORD.encode() not in backup.read_bytes() and BASIC.encode() not in backup.read_bytes()


def at_terminal(s, args, line):
    """A command with a controlling terminal, which answers its one question: its exit code, and what stood on the screen."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(s.binary, [s.binary, *args], s.env)
    seen = b""
    try:
        while part := os.read(fd, 65536):
            seen += part
            if b"(not shown): " in seen and line is not None:
                os.write(fd, line.encode() + b"\n")
                line = None
    except OSError:                                  # EIO: nobody holds the other side
        pass
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode(errors="replace")


def test_typing(t):
    """a password never comes from the command line; at a terminal it is asked for; without one the old one stays for its own address"""
    s, up, corp = start(t, "me:" + PASSWORD)
    for args in (["set", "upstream-proxy", f"http://me:hunter2@127.0.0.1:{corp.port}"], ["set", "upstream-proxy", f"http://me@127.0.0.1:{corp.port}", "password=hunter2"],
                 ["set", "upstream-proxy", f"http://me@127.0.0.1:{corp.port}"], ["set", "upstream-proxy", f"https://127.0.0.1:{corp.port}"],
                 ["set", "upstream-proxy", f"http://me@127.0.0.1:{corp.port}", "hunter2"], ["set", "upstream-proxy", "http://127.0.0.1"]):
        r = s.cli(*args, check=False)
        assert r.returncode in (1, 2) and "hunter2" not in r.stdout + r.stderr, (args, r.stderr)
    assert s.cli("set", "upstream-proxy").stdout.strip() == ""
    code, screen = at_terminal(s, ["set", "upstream-proxy", f"http://me@127.0.0.1:{corp.port}"], PASSWORD)
    assert code == 0 and "password" in screen and PASSWORD not in screen, screen
    assert s.request(host="far.test").status == 200
    s.cli("set", "upstream-proxy", f"http://me@127.0.0.1:{corp.port}")      # no terminal: as it was
    assert s.request(host="far.test").status == 200
    other = ConnectProxy({"far.test": up.port})
    assert s.cli("set", "upstream-proxy", f"http://me@127.0.0.1:{other.port}", check=False).returncode == 1
    s.cli("set", "upstream-proxy", f"http://me@127.0.0.1:{other.port}", "password=")
    assert s.request(host="far.test").status == 200 and "Basic bWU6\r\n" in other.heads[0], other.heads
    s.cli("set", "upstream-proxy", f"http://127.0.0.1:{other.port}")
    assert s.request(host="far.test").status == 200 and "authorization" not in other.heads[1].lower(), other.heads


def test_change(t):
    """a connection through the proxy is used again; a change of the setting is in force at the next request, and ends the old one"""
    s, up, corp = start(t)
    s.cli("set", "upstream-proxy", corp.url)
    wire = s.tunnel("far.test")
    for _ in range(3):
        assert s.request(host="far.test", wire=wire).status == 200
    assert corp.hosts() == ["far.test:443"] and up.connections == 1, (corp.heads, up.connections)
    other = ConnectProxy({"far.test": up.port})
    s.cli("set", "upstream-proxy", other.url)
    assert s.request(host="far.test", wire=wire).status == 200
    assert (corp.hosts(), other.hosts()) == (["far.test:443"], ["far.test:443"])
    wait(lambda: corp.ended == 1, 5, "the old connection's end")
    s.cli("set", "upstream-proxy", "--default")
    r = s.request(host="far.test", wire=wire)
    assert r.status == 502 and b"does not resolve" in r.body and len(other.heads) == 1, r.body
    wait(lambda: other.ended == 1, 5, "the other connection's end")
    s.resolve_file.write_text("far.test 127.0.0.1\n")
    s.cli("set", "upstream-proxy", corp.url)
    s.cli("set", "upstream-no-proxy", "far.test:443")
    r = s.request(host="far.test", wire=wire)
    assert r.status == 403 and b"loopback" in r.body and len(corp.heads) == 1, r.body
    s.cli("set", "upstream-no-proxy", "--default")
    assert s.request(host="far.test", wire=wire).status == 200 and len(corp.heads) == 2
    wire.close()


def test_released_late(t):
    """a connection that was in use while the setting changed does not come back to the pool"""
    s, up, corp = start(t, upstream={"reply": {"steps": [1.0, answer(body="late")]}})
    s.cli("set", "upstream-proxy", corp.url)
    other = ConnectProxy({"far.test": up.port})
    got = []
    slow = threading.Thread(target=lambda: got.append(s.request(host="far.test")))
    slow.start()
    wait(lambda: up.requests, 5, "the request")
    s.cli("set", "upstream-proxy", other.url)
    slow.join()
    assert got[0].body == b"late", got
    wait(lambda: corp.ended == 1, 5, "its end")


def test_agents_apart(t):
    """no agent's connection through the proxy is another's"""
    s, up, corp = start(t)
    s.cli("set", "upstream-proxy", corp.url)
    s.agent("b")
    for name in ("a", "b"):
        assert s.request(host="far.test", auth=s.auth(name=name)).status == 200
    assert len(corp.heads) == 2


def test_streams(t):
    """WebSockets, TLS tunnels and raw tunnels go through it; a server may speak first"""
    s, up, corp = start(t, hosts=("far.test", "www.test"), upstream={"reply": {"steps": [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", {"relay": True}]}})
    s.domain({"host": "www.test", "tunnel": True})
    s.domain({"host": "ssh.test", "port": 22, "tunnel": "raw"})
    s.cli("set", "upstream-proxy", corp.url)
    w = s.tunnel("far.test")
    w.send(b"GET /ws HTTP/1.1\r\nHost: far.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    data = b""
    while b"\r\n\r\n" not in data:
        data += w.recv()
    assert data.startswith(b"HTTP/1.1 101"), data
    frame = b"\x82\x85\x01\x02\x03\x04" + bytes(c ^ m for c, m in zip(b"hello", b"\x01\x02\x03\x04\x01"))
    w.send(frame)
    assert w.recv() == frame
    w.close()
    up.reset({})
    context = ssl.create_default_context(cafile=sallyport.certs() / "root.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert s.request(host="www.test", context=context).status == 200     # verified by the client itself: nobody read it
    assert corp.hosts() == ["far.test:443", "www.test:443"], corp.hosts()
    ssh = socket.create_server(("127.0.0.1", 0))
    corp.to["ssh.test"] = ssh.getsockname()[1]

    def greet():
        c, _ = ssh.accept()
        c.sendall(b"SSH-2.0-there\r\n")
        c.sendall(b"got " + c.recv(100))
        c.close()
    for together in (False, True):
        corp.wait_for_server = together
        threading.Thread(target=greet, daemon=True).start()
        w = s.connect()
        w.send(f"CONNECT ssh.test:22 HTTP/1.1\r\nHost: ssh.test:22\r\n{s.auth()}\r\n".encode())
        data = b""
        while b"there" not in data:
            part = w.recv()
            assert part, data
            data += part
        w.send(b"SSH-2.0-here\r\n")
        while b"got SSH-2.0-here" not in data:
            part = w.recv()
            assert part, data
            data += part
        w.close()


def test_fetches(t):
    """tokens, and what commands ask servers, come through it, too, with its password"""
    oauth = {"name": "crm", "type": "oauth_client_credentials", "host": "far.test", "secrets": {"client_secret": "canary-client-secret"},
             "fields": {"client_id": "abc", "token_url": "https://auth.test/token"}}
    s, up, corp = start(t, "me:" + PASSWORD, credentials=[oauth], hosts=("far.test",))
    auth = Upstream({"reply": answer(body='{"access_token":"canary-access-1","token_type":"Bearer","expires_in":3600}')}, sallyport.certs())
    corp.to["auth.test"] = auth.port
    s.canaries.append("canary-access-1")
    s.cli("set", "upstream-proxy", f"http://me@127.0.0.1:{corp.port}", secret(s))
    assert s.request(host="far.test").status == 200
    assert corp.hosts() == ["auth.test:443", "far.test:443"], corp.hosts()
    assert up.requests[0].get("authorization") == "Bearer canary-access-1"
    assert not any(n.startswith("proxy-") for n, _ in auth.requests[0].fields)
    s.cli("credential", "set", "crm", "scopes=read")     # so that a new token is needed
    r = s.cli("credential", "test", "crm", "https://far.test/me")
    assert corp.hosts()[2:] == ["auth.test:443", "far.test:443"], (corp.hosts(), r.stdout, r.stderr)
    # a token endpoint that cannot be reached says why, and that of the proxy's words nothing is repeated
    del corp.to["auth.test"]
    s.cli("credential", "set", "crm", "scopes=other")
    r = s.request(host="far.test")
    assert r.status in (502, 503) and b"the upstream proxy refuses that host (403)" in r.body, r.body
    auth.stop()


def test_mcp(t):
    """`mcp add` asks through it; metadata that names a host of the proxy's own network is not followed"""
    s, up, corp = start(t, credentials=(), hosts=("mcp.test", "intranet"), upstream={"reply":
                        answer(401, "Unauthorized", {"WWW-Authenticate": 'Bearer resource_metadata="https://intranet/meta"'})})
    s.cli("set", "upstream-proxy", corp.url)
    r = s.cli("mcp", "add", "x", "https://mcp.test/mcp", check=False)
    assert r.returncode == 1 and set(corp.hosts()) == {"mcp.test:443"}, (corp.hosts(), r.stderr)


def test_flag(t):
    """serve --upstream-proxy is for one run, commands included; its password is not kept in the clear, nor afterwards"""
    s, up, corp = start(t, "me:" + PASSWORD, serve=False)
    s.env["PROXY_PASSWORD"] = PASSWORD
    url = f"http://me@127.0.0.1:{corp.port}"
    flags = ["--upstream-ca", sallyport.certs() / "root.pem"]
    bad = s.cli("serve", "--upstream-proxy", f"http://me:{PASSWORD}@127.0.0.1:{corp.port}", check=False)
    assert bad.returncode == 2 and "canary" not in bad.stderr, bad.stderr
    bad = s.cli("serve", "--upstream-proxy", url, check=False)
    assert bad.returncode == 1 and "password" in bad.stderr, bad.stderr
    s.serve("--upstream-proxy", url, "--upstream-proxy-password", "env:PROXY_PASSWORD", *flags)
    del s.env["PROXY_PASSWORD"]
    assert s.request(host="far.test").status == 200 and BASIC not in corp.heads[0]
    assert "canary" not in (s.home / "serve.lock").read_text()
    assert s.cli("credential", "test", "far", "https://far.test/").returncode == 0 and len(corp.heads) == 2
    assert s.cli("set", "upstream-proxy").stdout.strip() == ""
    assert url in s.cli("doctor", check=False).stdout
    for pid in [s.process.pid, *s.worker_pids()]:
        with open(f"/proc/{pid}/cmdline") as f:
            assert "canary" not in f.read()
    s.canaries.remove(PASSWORD)                      # it was in this server's environment, where the operator had put it
    s.stop()
    s.serve(*flags)
    assert s.request(host="far.test").status == 502 and len(corp.heads) == 2
    s.canaries.append(PASSWORD)
    s.cli("set", "upstream-proxy", url, secret(s))
    s.stop()
    s.serve("--upstream-proxy", url, *flags)         # the same address: what is kept for it
    assert s.request(host="far.test").status == 200


def test_environment(t):
    """serve and doctor name a proxy variable that is not used, without what else stands in it; `serve` itself does not use it"""
    s, up, corp = start(t, serve=False)
    for name, value, says in (("HTTPS_PROXY", f"http://me:canary-env-pw@127.0.0.1:{corp.port}", f"HTTPS_PROXY names http://127.0.0.1:{corp.port}"),
                              ("https_proxy", "me:canary-env-pw@corp.test:3128/", "https_proxy names http://corp.test:3128"),
                              ("ALL_PROXY", "socks5://me:canary-env-pw@corp.test:1080", "ALL_PROXY is set"),
                              ("all_proxy", "canary-env-pw", "all_proxy is set")):
        s.env[name] = value
        s.canaries = [c for c in s.canaries if c != "canary-env-pw"]
        seen = s.cli("doctor", check=False).stdout
        start_at = len(s.log())
        s.serve("--upstream-ca", sallyport.certs() / "root.pem")
        assert s.request(host="far.test").status == 502 and not corp.heads
        del s.env[name]
        log, asked = s.log()[start_at:], s.cli("doctor", check=False).stdout
        for text in (seen, log, asked):
            assert says in text and "not used" in text and "set upstream-proxy" in text and "canary-env-pw" not in text, (says, text)
        lock = (s.home / "serve.lock").read_text()
        assert "canary-env-pw" not in lock
        s.stop()
    s.env["HTTPS_PROXY"] = corp.url
    s.cli("set", "upstream-proxy", corp.url)
    assert "not used" not in s.cli("doctor", check=False).stdout     # it is the one that is set


def test_loop(t):
    """this proxy itself is no upstream proxy, by its address or by any name"""
    s, up, corp = start(t)
    r = s.cli("set", "upstream-proxy", f"http://localhost:{s.port}", check=False)
    assert r.returncode == 1 and "this proxy itself" in r.stderr, r.stderr
    port = free_port()
    r = s.cli("--home", s.dir / "other", "serve", "--listen", f"127.0.0.1:{port}", "--upstream-proxy", f"http://127.0.0.1:{port}", check=False)
    assert r.returncode == 1 and "this proxy itself" in r.stderr, r.stderr
    s.resolve_file.write_text("self.test 127.0.0.1\n")
    s.cli("set", "upstream-proxy", f"http://self.test:{s.port}")
    r = s.request(host="far.test")
    assert r.status == 502 and r.get("x-sallyport-error") == "upstream_proxy" and b"Sallyport's own listeners" in r.body, r.body


def test_explain(t):
    """explain says which way a request goes, and refuses what the proxy path refuses"""
    wide = {"name": "wide", "host": "*.corp.internal", "secrets": {"token": "canary-wide-token"}}
    s, up, corp = start(t, credentials=[FAR, wide])
    s.domain({"host": "*"})
    s.domain({"host": "10.9.9.9"})
    s.domain({"host": "near.test", "address": "10.0.0.0/8"})
    s.domain({"host": "*.plain.test", "port": [80, 443]})
    s.cli("set", "upstream-proxy", corp.url)
    s.cli("set", "upstream-no-proxy", "direct.test")

    def explain(url):
        r = s.cli("explain", "--agent", "a", "GET", url)
        d = json.loads(s.cli("explain", "--agent", "a", "--json", "GET", url).stdout)
        return d["decision"], d.get("code"), re.sub(r"\s+", " ", r.stdout)
    assert explain("https://far.test/")[0] == "allow" and f"through the upstream proxy {corp.url}" in explain("https://far.test/")[2]
    assert "not through the upstream proxy (upstream-no-proxy direct.test)" in explain("https://direct.test/")[2]
    assert "not through the upstream proxy (--address" in explain("https://near.test/")[2]
    for url in ("https://db.corp.internal/", "https://printer/", "http://a.plain.test/", "https://10.9.9.9/", "https://127.0.0.1/"):
        host = re.sub(r"^\w+://([^/:]+).*", r"\1", url)
        assert explain(url)[:2] == ("deny", "address_blocked"), (url, explain(url))
        if url.startswith("https"):
            assert s.request(host=host).get("x-sallyport-error") == "address_blocked", url
    assert not corp.heads
