"""A chain that is seen for the first time is verified by a helper thread. SALLYPORT_TEST_HOLD names a file that holds
that thread as long as it exists, so no test depends on how long a verification takes."""
import socket
import time

import sallyport
from peers import Upstream
from real import wait
from servers import ConnectProxy

HOSTS = {"known": "ok", "new": "rsa", "stranger": "unknown_root", "name": "wrong_name", "old": "expired"}


class Setup:
    def __init__(self, t, through=False, **servers):
        self.s = s = t.bare()
        s.init()
        s.hold = s.dir / "hold"
        s.env["SALLYPORT_TEST_HOLD"] = str(s.hold)
        self.up = {name: Upstream({"tls": cert, "reply": "echo", **servers.get(name, {})}, sallyport.certs())
                   for name, cert in HOSTS.items()}
        for name in HOSTS:
            s.credential({"name": name, "host": name + ".test", "secrets": {"token": "canary-" + name}})
        s.agent()
        s.agent("b", ["default"])
        self.corp = ConnectProxy({name + ".test": u.port for name, u in self.up.items()}) if through else None
        s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
        s.cli("set", "upstream-tls", "bearssl")     # a server that hangs up before its ServerHello would be dialled again, with OpenSSL
        if through:
            s.cli("set", "upstream-proxy", self.corp.url)
        s.serve(*[x for name, u in self.up.items() if not through for x in ("--connect-to", f"{name}.test:443:127.0.0.1:{u.port}")])

    def ask(self, name, agent="a", path="/"):
        return self.s.request("GET", path, name + ".test", {"Connection": "close"}, auth=self.s.auth(name=agent))

    def begin(self, name):
        """A request that waits for the held thread: the wire to its client."""
        had = self.up[name].connections
        wire = self.s.tunnel(name + ".test")
        wire.send(f"GET /held HTTP/1.1\r\nHost: {name}.test\r\n\r\n".encode())
        wait(lambda: self.up[name].connections > had, 5, "the upstream connection")
        return wire

    def end(self):
        for u in self.up.values():
            u.stop()


def hold(setup):
    setup.s.hold.write_text("")


def release(setup):
    setup.s.hold.unlink()


def answer(wire, timeout=10):
    data = b""
    while b"\r\n\r\n" not in data or not data.partition(b"\r\n\r\n")[2]:
        part = wire.recv(timeout * sallyport.SLOW)
        if not part:
            break
        data += part
    return data.decode("latin-1")


def silent(wire, seconds=0.3):
    try:
        return wire.recv(seconds) is None
    except TimeoutError:
        return True


def hang_up(upstream):
    for wire in list(upstream.wires):
        wire.sock.shutdown(socket.SHUT_RDWR)


def test_others_go_on(t):
    """while a new chain is verified, others' requests are answered, the first is not sent, and then is"""
    x = Setup(t)
    assert x.ask("known", "b").status == 200
    hold(x)
    wire = x.begin("new")
    for _ in range(3):
        assert x.ask("known", "b").status == 200, "a chain that is remembered is not verified again"
        assert x.ask("known").status == 200
    assert silent(wire) and not x.up["new"].requests and not x.up["new"].plaintext, "sent before the chain was verified"
    release(x)
    assert answer(wire).startswith("HTTP/1.1 200"), "the answer of the first"
    assert [r.get("authorization") for r in x.up["new"].requests] == ["Bearer canary-new"]
    hold(x)
    assert x.ask("new", "b").status == 200, "what the thread found good is remembered"
    release(x)
    x.end()


def test_reasons(t):
    """what is wrong with a chain is told as ever, though the server hangs up while it is verified"""
    x = Setup(t)
    for name, why in (("stranger", "untrusted certificate (unknown issuer"), ("name", "certificate name mismatch"),
                      ("old", "certificate expired")):
        hold(x)
        wire = x.begin(name)
        assert silent(wire, 0.2)
        hang_up(x.up[name])
        assert silent(wire, 0.2), "answered before the chain was judged"
        release(x)
        said = answer(wire)
        assert said.startswith("HTTP/1.1 502") and "upstream_tls" in said and why in said, said
        said = x.ask(name)
        assert said.status == 502 and why in said.body.decode(), "what was found bad is not taken for good"
        assert not x.up[name].plaintext
    x.end()


def test_server_gone(t):
    """a server with a good chain that hangs up while it is verified: an answer that says so"""
    x = Setup(t)
    hold(x)
    wire = x.begin("new")
    hang_up(x.up["new"])
    release(x)
    said = answer(wire)
    assert said.startswith("HTTP/1.1 502") and "ended during the TLS handshake" in said, said
    assert x.ask("new").status == 200
    x.end()


def test_client_gone(t):
    """clients that hang up while a chain is verified, or waits for its turn: nothing of theirs is used after it is freed"""
    x = Setup(t)
    hold(x)
    wires = [x.begin("new") for _ in range(6)]
    for wire in wires[:3]:
        wire.reset()
    for wire in wires[3:5]:
        wire.close()
    wait(lambda: len(x.up["new"].wires) == 1, 5, "the end of five upstream connections")
    release(x)
    assert answer(wires[5]).startswith("HTTP/1.1 200")
    assert x.ask("known", "b").status == 200
    x.end()


def test_own_requests(t):
    """a token endpoint's new chain: verified so too, and the token is not asked for before"""
    x = Setup(t, new={"reply": {"body": '{"access_token":"canary-access","expires_in":60}'}})
    x.s.credential({"name": "oauth", "type": "oauth_client_credentials", "host": "known.test", "path": "/oauth",
                    "fields": {"token_url": "https://new.test/token", "client_id": "me"}, "secrets": {"client_secret": "canary-client"}})
    assert x.ask("known").status == 200
    hold(x)
    wire = x.s.tunnel("known.test")
    wire.send(b"GET /oauth HTTP/1.1\r\nHost: known.test\r\n\r\n")
    wait(lambda: x.up["new"].connections, 5, "the connection to the token endpoint")
    assert x.ask("known", "b").status == 200
    assert silent(wire) and not x.up["new"].plaintext
    release(x)
    assert answer(wire).startswith("HTTP/1.1 200")
    assert x.up["known"].requests[-1].get("authorization") == "Bearer canary-access"
    x.end()


def test_through_a_proxy(t):
    """through the upstream proxy's tunnel as directly: others go on, a bad chain is refused, and a change meanwhile ends no request"""
    x = Setup(t, through=True)
    assert x.ask("known", "b").status == 200 and x.corp.hosts() == ["known.test:443"]
    hold(x)
    wires = [x.begin(name) for name in ("new", "stranger", "old")]
    assert x.ask("known", "b").status == 200 and x.ask("known").status == 200
    assert silent(wires[0]) and not any(x.up[name].plaintext for name in ("new", "stranger", "old"))
    x.s.cli("set", "upstream-proxy", ConnectProxy({}).url)
    wires[2].reset()
    wait(lambda: not x.up["old"].wires, 5, "the end of the connection whose client went")
    release(x)
    assert answer(wires[0]).startswith("HTTP/1.1 200"), "the answer of the first"
    said = answer(wires[1])
    assert said.startswith("HTTP/1.1 502") and "untrusted certificate (unknown issuer" in said, said
    assert [h.split(".")[0] for h in x.corp.hosts()] == ["known", "new", "stranger", "old", "known"], x.corp.hosts()
    wait(lambda: x.corp.ended == 5, 5, "the end of all that went through the proxy that is no longer used")
    x.end()


def test_roots_replaced(t):
    """a connection that is in use while the trusted roots change does not come back to the pool"""
    x = Setup(t)
    wire = x.s.tunnel("known.test")
    wire.send(b"POST / HTTP/1.1\r\nHost: known.test\r\nContent-Length: 4\r\n\r\nab")
    wait(lambda: x.up["known"].plaintext, 5, "the request's first bytes")
    assert x.ask("new").status == 200
    x.s.cli("set", "upstream-ca", "--default")
    wait(lambda: x.ask("new").status == 502, 5, "the end of the trust")
    wire.send(b"cd")
    assert answer(wire).startswith("HTTP/1.1 200"), "what began before goes on"
    said = x.ask("known")
    assert said.status == 502 and "untrusted certificate" in said.body.decode(), said.body
    assert x.up["known"].connections == 2
    x.end()


def test_deadline(t):
    """the handshake's deadline counts while the chain is verified"""
    x = Setup(t)
    hold(x)
    wire, began = x.begin("new"), time.monotonic()
    said = answer(wire, 15)
    assert said.startswith("HTTP/1.1 502") and "took too long" in said, said
    assert 9 < time.monotonic() - began < 15 * sallyport.SLOW
    release(x)
    assert x.ask("new").status == 200
    x.end()


def test_term(t):
    """SIGTERM while a chain is verified: the request is finished; if its client goes, nobody waits for the thread"""
    x = Setup(t)
    hold(x)
    wire = x.begin("new")
    x.s.process.terminate()
    assert silent(wire, 0.5) and x.s.alive()
    release(x)
    assert answer(wire).startswith("HTTP/1.1 200")
    assert x.s.process.wait(10 * sallyport.SLOW) == 0
    x.s.serve("--connect-to", f"new.test:443:127.0.0.1:{x.up['new'].port}")
    hold(x)
    wire = x.begin("new")
    x.s.process.terminate()
    wire.close()
    assert x.s.process.wait(10 * sallyport.SLOW) == 0
    release(x)
    x.end()
