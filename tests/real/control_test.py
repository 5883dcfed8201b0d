"""The control socket: who may do what there, and listeners that are handed over on it, with DNS and with addresses that name hosts."""
import ctypes
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import sallyport
from doors_test import AUTH, as_user, ask, head, t_path, who, world
from operator_test import page_pid
from real import wait

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNET = 0x40000000


class Control:
    """A connection to the control socket."""

    def __init__(self, s, path=None):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20 * sallyport.SLOW)
        self.sock.connect(str(path or s.home / "control"))

    def ask(self, method, path, body=None, fds=(), raw=None):
        """-> status, the JSON of the body; None: the connection ended."""
        data = b"" if body is None else json.dumps(body).encode() if raw is None else raw
        message = f"{method} {path} HTTP/1.1\r\nHost: sallyport\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        try:
            socket.send_fds(self.sock, [message], [f if isinstance(f, int) else f.fileno() for f in fds])
            said = head(self.sock)
            n = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", said)[1])
            body = b""
            while len(body) < n:
                body += self.sock.recv(n - len(body))
        except (OSError, TypeError):
            return None, None
        return int(said.split()[1]), json.loads(body)

    def hand(self, kinds, fds, agent="a"):
        return self.ask("POST", f"/api/v1/agents/{agent}/listeners", {"listeners": [{"kind": k} for k in kinds]}, fds)

    def close(self):
        self.sock.close()


def listener(address="127.0.0.1"):
    return socket.create_server((address, 0))


def datagrams(address="127.0.0.1"):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    return sock


def query(name, kind=1, number=7, more=b"", extra=0):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, extra) + labels + struct.pack(">2H", kind, 1) + more


def resolve(at, name, kind=1, tcp=False):
    """-> the code, the addresses"""
    message = query(name, kind)
    if tcp:
        sock = socket.create_connection(at, 20)
        sock.sendall(struct.pack(">H", len(message)) + message)
        want = struct.unpack(">H", sock.recv(2))[0]
        answer = sock.recv(want)
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(20 * sallyport.SLOW)
        sock.sendto(message, at)
        try:
            answer = sock.recv(4096)
        except TimeoutError:
            raise AssertionError(f"no answer for {name} {kind}") from None
    sock.close()
    assert answer[:2] == message[:2] and answer[2] & 0x80
    count = struct.unpack(">H", answer[6:8])[0]
    return answer[3] & 15, [socket.inet_ntoa(answer[-4:])] if count else []


def refused(at):
    """Does nobody accept there?"""
    try:
        sock = socket.create_connection(at, 5)
        sock.settimeout(5)
        ended = sock.recv(1) == b""         # in the backlog of one that is being closed
        sock.close()
        return ended
    except OSError:
        return True


def test_who_may(t):
    """owner and root may ask for every agent; a user who is an agent's for that one alone; others are told why they may not; the
    page and the API are the owner's and root's there; the socket is there for everybody to connect to, and gone with the server"""
    path = t_path(t).with_name("control")

    def before(s):
        s.cli("agent", "set", "a", "--uid", 4711)
        s.env["SALLYPORT_CONTROL"] = str(path)
    s, up = world(t, before=before)
    assert path.stat().st_mode & 0o777 == 0o666
    status, said = Control(s, path).ask("GET", "/api/v1/agents/a/capture?port=7000&ca=/etc/j.pem&bundle=/etc/b.pem")
    assert said["home"] == str(s.home), said        # which a jail must hide
    assert status == 200 and said["ca"] == s.ca.read_text() and said["ports"][:2] == [443, 80], said
    env = said["env"]
    assert env["https_proxy"] == "http://127.0.0.1:7000" and env["SSL_CERT_FILE"] == "/etc/b.pem" and env["NODE_EXTRA_CA_CERTS"] == "/etc/j.pem", env
    assert not any(c in json.dumps(said) for c in s.canaries)
    for method, where, want in (("GET", "/api/v1/agents/zz/capture", 404), ("POST", "/api/v1/agents/a/capture", 405), ("GET", "/api/v1/agents/a/listeners", 405),
                                ("GET", "/api/v1/agents/../capture", 404), ("GET", "http://api.test/", 421), ("CONNECT", "api.test:443", 421)):
        assert Control(s, path).ask(method, where)[0] == want, (method, where)
    page_and_api(s, path)
    if os.getuid() != 0:
        return
    def get(agent):
        return lambda: Control(s, path).ask("GET", f"/api/v1/agents/{agent}/capture")
    assert as_user(4711, get("a"))[0] == 200
    for path_ in ("/api/v1/credentials", "/api/v1/agents/b", "/login", "/s/x/", "/openapi.json"):
        assert as_user(4711, lambda: Control(s, path).ask("GET", path_))[0] == 403, "an agent's user has no page and no API"
    assert as_user(4711, lambda: Control(s, path).ask("POST", "/api/v1/agents/a/rotate"))[0] == 404, "of its own agent neither"
    for uid, agent in ((4711, "b"), (4712, "a"), (4711, "zz"), (4711, "")):
        status, said = as_user(uid, get(agent))
        assert status == 403 and (said["hint"] == "this user is agent a's" if uid == 4711 else "--uid 4712" in said["hint"]), (uid, agent, said)
    with listener() as l:
        assert as_user(4712, lambda: Control(s, path).hand(["proxy"], [l]))[0] == 403
        assert as_user(4711, lambda: Control(s, path).hand(["proxy"], [l]))[0] == 200
    s.cli("agent", "set", "a", "--uid", "none")
    assert as_user(4711, get("a"))[0] == 403, "taken, it counts at once"
    s.process.send_signal(signal.SIGTERM)
    s.process.wait(10)
    assert not path.exists()


class OnSocket(http.client.HTTPConnection):
    """curl --unix-socket PATH http://localhost/…"""

    def __init__(self, path):
        super().__init__("localhost", timeout=30 * sallyport.SLOW)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None, **fields):
        self.request(method, path, body, {k.replace("_", "-"): v for k, v in fields.items()})
        r = self.getresponse()
        return r.status, r.read().decode()


def page_and_api(s, path):
    """The owner's: started when somebody asks, without a token for a program, with one for what could be a browser."""
    def once(*args, **fields):
        c = OnSocket(path)
        answer = c.ask(*args, **fields)
        c.close()
        return answer
    assert page_pid(s) is None, "nobody has asked"
    assert once("GET", "/healthz") == (200, "ok\n") and page_pid(s) is None
    c = OnSocket(path)
    status, text = c.ask("GET", "/api/v1/credentials")
    assert status == 200 and [x["name"] for x in json.loads(text)] == ["one", "two"], text
    pid = page_pid(s)
    new = {"name": "three", "type": "bearer", "hosts": ["three.test"], "fields": {"token": "canary-control-1"}}
    s.canaries.append("canary-control-1")
    status, text = c.ask("POST", "/api/v1/credentials", json.dumps(new), Content_Type="application/json")
    assert status == 201 and json.loads(text)["name"] == "three", text
    assert c.ask("POST", "/api/v1/policies/bearer/test", json.dumps({"source": "-- " + "x" * 900000}), Content_Type="application/json")[0] == 422, "a body of some size"
    c.close()
    change = [json.loads(x) for x in s.cli("log", "--json", "--kind", "change").stdout.splitlines()][-1]
    assert (change["by"], change["door"], change["command"]) == ("owner", "control", "credential add"), change
    for fields in ({"Origin": "http://evil.test"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}, {"Cookie": "a=b"}, {"Referer": "http://evil.test/"},
                   {"Host": "evil.test"}, {"Host": "127.0.0.1:7082"}, {"Host": "localhost:80"}):
        status, text = once("DELETE", "/api/v1/credentials/three", **fields)
        assert status == 401 and json.loads(text)["error"] == "token_needed", (fields, status, text)
        assert once("GET", "/api/v1/credentials", **{**fields, "Authorization": "Bearer sp_api_" + "x" * 43})[0] == 401, fields
    token = s.cli("token", "add", "t", "--scope", "read").stdout.strip()
    s.canaries.append(token)
    assert once("GET", "/api/v1/credentials", Host="127.0.0.1:7082", Authorization="Bearer " + token)[0] == 200
    assert once("DELETE", "/api/v1/credentials/three", Authorization="Bearer " + token)[0] == 403, "a token that is shown is what counts"
    status, text = once("GET", "/", Host="127.0.0.1:7082")
    assert status == 200 and "<title>Sign in" in text, text
    assert once("GET", "/", Host="evil.test")[0] == 421 and once("GET", "/api/v1/agents/a/else")[0] == 404
    assert page_pid(s) == pid, "one process"
    s.may_die = "yes"
    os.kill(pid, signal.SIGKILL)
    wait(lambda: page_pid(s) is None, 15, "its end")
    assert once("DELETE", "/api/v1/credentials/three")[0] == 200 and page_pid(s) not in (None, pid), "another one"
    assert (s.home / "page").stat().st_mode & 0o777 == 0o600
    # it ends ten minutes after the last request, not after its start
    s.set_clock(0, 590_000)
    assert once("GET", "/api/v1/status")[0] == 200
    pid = page_pid(s)
    s.set_clock(0, 1_180_000)
    assert once("GET", "/api/v1/status")[0] == 200 and page_pid(s) == pid
    s.set_clock(0, 1_785_000)
    wait(lambda: page_pid(s) is None, 15, "its end, for nobody asks")
    assert once("GET", "/api/v1/status")[0] == 200 and page_pid(s) not in (None, pid), "another one, once somebody does"


def test_handed_over(t):
    """what comes in by a listener that was handed over is the agent's without a token; all of it is gone with the control connection"""
    s, up = world(t)
    c, l = Control(s), listener()
    assert c.hand(["proxy"], [l]) == (200, {"listeners": 1})
    at = l.getsockname()[1]
    ask(s, at)
    assert who(s, up) == f"Bearer {AUTH['api']}", "the listener is the agent"
    ask(s, at, s.auth(name="b"))
    assert who(s, up) == f"Bearer {AUTH['api']}", "a token beside it does not count"
    sock = socket.create_connection(("127.0.0.1", at), 20)
    sock.sendall(b"GET /discover HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % at)
    assert head(sock).startswith(b"HTTP/1.1 200"), "our own pages are there too"
    assert c.hand(["proxy"], [listener()])[0] == 400, "once a connection"
    c.close()
    wait(lambda: refused(("127.0.0.1", at)))
    sock.settimeout(20 * sallyport.SLOW)
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    # again, on two connections: one's end is not the other's
    first, second, one, two = Control(s), Control(s), listener(), listener()
    assert first.hand(["proxy"], [one])[0] == second.hand(["proxy"], [two], "b")[0] == 200
    first.close()
    wait(lambda: refused(one.getsockname()))
    ask(s, two.getsockname()[1])
    assert who(s, up) == f"Bearer {AUTH['b']}"
    s.cli("agent", "remove", "b")
    assert ask(s, two.getsockname()[1]) in (403, 407), "an agent that is gone is nobody"


def test_what_is_refused(t):
    """sockets that are no listeners, of another protocol, address or network namespace, too many or too few, and lists that are none"""
    s, up = world(t)
    pipe = os.pipe()
    stream = socket.create_connection(listener().getsockname()) if False else socket.socketpair()[0]
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(s.dir / "l"))
    unix.listen()
    six = socket.create_server(("::1", 0), family=socket.AF_INET6)
    every, file = listener("0.0.0.0"), open("/dev/null")
    plain = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(plain.getsockname())
    for kind, fd, why in (("proxy", pipe[0], "no TCP"), ("proxy", file, "no TCP"), ("proxy", stream, "no TCP"), ("proxy", unix, "no TCP"),
                          ("proxy", six, "no TCP"), ("proxy", bound, "does not listen"), ("proxy", client, "does not listen"),
                          ("proxy", every, "another address"), ("dns-tcp", every, "another address"), ("dns-udp", datagrams("0.0.0.0"), "another address"),
                          ("dns-udp", plain, "no UDP"), ("dns-tcp", datagrams(), "no TCP"), ("proxy", datagrams(), "no TCP"),
                          ("dns-udp", socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "no port"),
                          ("transparent", every, "own network namespace"), ("transparent", plain, "own network namespace"),
                          ("gateway", plain, "no such kind"), (7, plain, "no such kind"), (None, plain, "no such kind")):
        c = Control(s)
        status, said = c.hand([kind], [fd])
        assert status == 400 and said["error"] == "bad_listener" and why in said["message"], (kind, fd, said)
        assert c.sock.recv(1) == b"", "closed, and the descriptors with it"
    one = listener()
    for kinds, fds in ((["proxy"], []), ([], []), ([], [one]), (["proxy"], [one, listener()]), (["proxy", "proxy"], [one]),
                       (["proxy"] * 33, [one] * 33), (["proxy"] * 32, [one] * 33), (["proxy"] * 32, [one] * 100)):
        assert Control(s).hand(kinds, fds)[0] == 400, (len(kinds), len(fds))
    for raw in (b"", b"{", b"[]", b'{"listeners":{}}', b'{"listeners":"x"}', b'{"listeners":[1]}', b'{"listeners":[[]]}', b"\xff", b"null"):
        assert Control(s).ask("POST", "/api/v1/agents/a/listeners", {}, [one], raw=raw)[0] == 400, raw
    assert Control(s).ask("POST", "/api/v1/agents/a/listeners", {}, [one], raw=b" " * 70000)[0] == 413
    assert Control(s).hand(["proxy"], [one], "zz")[0] == 404
    assert Control(s).hand(["proxy"], [one], "..")[0] == 404
    c = Control(s)
    assert c.hand(["proxy"] * 32, [listener() for _ in range(32)])[0] == 200, "so many are served"


def test_dns(t):
    """names that an entry or credential names get an address each, which stays theirs; others do not exist; UDP and TCP"""
    s, up = world(t, before=lambda s: (s.domain({"host": "*.wild.test"}), s.cli("domain", "add", "default", "ssh.test", "--port", "22", "--tunnel")))
    c, udp, tcp = Control(s), datagrams(), listener()
    assert c.hand(["dns-udp", "dns-tcp"], [udp, tcp])[0] == 200
    u, v = udp.getsockname(), tcp.getsockname()
    code, first = resolve(u, "api.test")
    assert code == 0 and first[0].startswith(("198.18.", "198.19.")), (code, first)
    assert resolve(v, "API.test", tcp=True) == (0, first) == resolve(u, "api.test")
    got = [resolve(u, n)[1] for n in ("a.wild.test", "b.wild.test", "ssh.test")]
    assert len({first[0], *(g[0] for g in got)}) == 4
    for name in ("other.test", "wild.test", "x.api.test", "test", "api.test.", "127.0.0.1", "bad_name.test", "localhost", "-"):
        assert resolve(u, name.rstrip("."), 1) == ((3, []) if name != "api.test." else (0, first)), name
    for kind in (28, 65, 15, 16, 6):
        assert resolve(u, "api.test", kind) == (0, []) and resolve(v, "nope.test", kind, tcp=True) == (3, [])
    for _ in range(4):
        s.domain({"host": "new.test"})
        assert resolve(u, "new.test")[0] == 0, "what is allowed is there at the next question"
        s.cli("domain", "remove", "default", "new.test")
        assert resolve(u, "new.test")[0] == 3, "and gone at the next"
    other, again = Control(s), datagrams()
    assert other.hand(["dns-udp"], [again])[0] == 200
    assert resolve(again.getsockname(), "api.test") == (0, first), "a name's address is the same in the next handover"
    c.close()
    wait(lambda: refused(v))


def in_net(fd, what):
    """what() in that network namespace."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        assert LIBC.setns(fd, NEWNET) == 0
        return what()
    finally:
        assert LIBC.setns(here, NEWNET) == 0
        os.close(here)


def new_net(t):
    """A network namespace as `run` makes it: a loopback, to which 198.18.0.0/15 is routed. -> its descriptor"""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    if LIBC.unshare(NEWNET) != 0:
        t.skip("no network namespace can be made here")
    try:
        for words in ("link set lo up", "route add local 198.18.0.0/15 dev lo"):
            subprocess.run(["ip", *words.split()], check=True, capture_output=True)
        return os.open("/proc/self/ns/net", os.O_RDONLY)
    finally:
        assert LIBC.setns(here, NEWNET) == 0
        os.close(here)


def test_addresses_that_name_hosts(t):
    """in a network namespace a connection to a name's address is that host's, whatever else it says; an address that names nobody
    ends; so does what it says otherwise"""
    s, up = world(t, before=lambda s: (s.domain({"host": "plain.test", "port": 80}), s.domain({"host": "other.test"})))
    ns = new_net(t)
    c = Control(s)
    secure, plain, udp = in_net(ns, lambda: (socket.create_server(("0.0.0.0", 443)), socket.create_server(("0.0.0.0", 80)), datagrams()))
    status, said = c.hand(["transparent", "transparent", "dns-udp"], [secure, plain, udp])
    assert status == 200, said

    def dial(address, port):
        return in_net(ns, lambda: socket.create_connection((address, port), 20))
    api, other, http = (in_net(ns, lambda: resolve(udp.getsockname(), n))[1][0] for n in ("api.test", "other.test", "plain.test"))

    def get(address, name, host=None):
        try:
            with s.client_context().wrap_socket(dial(address, 443), server_hostname=name) as tls:
                tls.sendall(f"GET /n HTTP/1.1\r\nHost: {host or name}\r\nConnection: close\r\n\r\n".encode())
                return int(tls.recv(65536).split()[1])
        except OSError as e:
            return type(e).__name__
    n = len(up.requests)
    assert get(api, "api.test") == 200 and who(s, up) == f"Bearer {AUTH['api']}", who(s, up)
    assert s.wait_record({"agent": "a", "host": "api.test", "path": "/n"})["port"] == 443
    assert get(api, "other.test") != 200, "the address names the host, and SNI another"
    assert get(api, "api.test", "other.test") == 421
    assert get("198.18.0.1", "api.test") != 200 and get("198.19.255.254", "api.test") != 200, "nobody's address"
    assert len(up.requests) == n + 1
    sock = dial(http, 80)
    sock.sendall(b"GET /p HTTP/1.1\r\nHost: other.test\r\n\r\n")
    assert head(sock).startswith(b"HTTP/1.1 421")
    sock = dial(api, 80)
    sock.sendall(b"GET /p HTTP/1.1\r\nHost: api.test\r\n\r\n")
    assert head(sock).startswith(b"HTTP/1.1 403"), "the port counts"
    # such listeners of the server's own namespace are refused (test_what_is_refused); these, for a proxy, are not loopback's
    status, said = Control(s).hand(["proxy"], [secure])
    assert status == 400 and "another address" in said["message"]
    loop = in_net(ns, listener)
    assert Control(s).hand(["transparent"], [loop])[0] == 400
    os.close(ns)


def test_listeners_that_block_or_vanish(t):
    """the sender shares a listener's flags and may accept first, end it or begin it again: only its own connections wait, and its
    connection's end ends all of it"""
    s, up = world(t)
    c, bad, good, gone = Control(s), listener(), listener(), listener()
    bad.setblocking(True)
    assert c.hand(["proxy", "proxy", "proxy"], [bad, gone, good])[0] == 200
    gone.shutdown(socket.SHUT_RDWR)             # one that vanishes leaves the others
    ask(s, good.getsockname()[1])
    assert who(s, up) == f"Bearer {AUTH['api']}"
    # accepted by the sender as often as by the server: whoever is second finds nothing, and may be kept waiting
    n = 40
    bad.settimeout(0.2)
    for _ in range(n):
        sock = socket.create_connection(bad.getsockname(), 20)
        try:
            bad.accept()[0].close()
        except (TimeoutError, BlockingIOError):
            pass
        sock.close()
    bad.setblocking(True)
    other, fine = Control(s), listener()
    assert other.hand(["proxy"], [fine], "b")[0] == 200, "nobody else waits"
    ask(s, fine.getsockname()[1])
    assert who(s, up) == f"Bearer {AUTH['b']}"
    c.close()
    wait(lambda: refused(good.getsockname()) and refused(bad.getsockname()))
    ask(s, fine.getsockname()[1])
    assert who(s, up) == f"Bearer {AUTH['b']}"
    # nothing is left of those that ended
    pids = s.worker_pids()
    before = [len(os.listdir(f"/proc/{p}/fd")) for p in pids]
    for _ in range(30):
        d = Control(s)
        assert d.hand(["proxy", "dns-udp", "dns-tcp"], [listener(), datagrams(), listener()])[0] == 200
        d.close()
    wait(lambda: all(len(os.listdir(f"/proc/{p}/fd")) <= n for p, n in zip(pids, before)))     # fewer: c's may still have been open
    wait(lambda: all(len(os.listdir(f"/proc/{p}/task")) < 12 for p in pids))


def test_the_next_server(t):
    """a server that ends leaves the listeners alone: the next one takes them, and a worker's end closes the control connection"""
    s, up = world(t)
    c, l, udp = Control(s), listener(), datagrams()
    assert c.hand(["proxy", "dns-udp"], [l, udp])[0] == 200
    name = resolve(udp.getsockname(), "api.test")
    s.process.send_signal(signal.SIGTERM)
    assert c.sock.recv(1) == b"" and s.process.wait(20 * sallyport.SLOW) == 0
    sock = socket.create_connection(l.getsockname(), 20)       # it waits in the backlog
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    c = Control(s)
    assert c.hand(["proxy", "dns-udp"], [l, udp])[0] == 200
    sock.sendall(b"GET /discover HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % l.getsockname()[1])
    assert head(sock)
    assert resolve(udp.getsockname(), "api.test") == name, "the same address: clients keep them"
    s.may_die = "yes"
    os.kill(s.worker_pids()[0], signal.SIGKILL)
    assert c.sock.recv(1) == b""
    wait(lambda: (s.home / "control").exists() and Control(s).hand(["proxy", "dns-udp"], [l, udp])[0] == 200)


def test_long_path(t):
    """a data directory whose path is longer than a socket's may be has its sockets, and the page and the API on one, all the same; doctor says how other programs reach them"""
    s, up = t.proxy(serve=False, workers=1)
    at = s.dir / ("d" * 100)
    at.mkdir()
    s.home = s.home.rename(at / "home")
    s.env["SALLYPORT_HOME"] = str(s.home)
    s.serve()
    assert "no control socket" not in s.log() and "no page" not in s.log(), s.log()
    assert len(str(s.home / "control")) > 107 and (s.home / "control").is_socket() and (s.home / "page").is_socket()
    assert json.loads(s.cli("top", "--once", "--json").stdout)["ready"] == 1
    link = s.dir / "l"
    link.symlink_to(s.home.resolve())
    assert Control(s, link / "control").ask("GET", "/api/v1/agents/a/capture")[0] == 200
    c = http.client.HTTPConnection("localhost")
    c.sock = socket.socket(socket.AF_UNIX)
    c.sock.settimeout(30 * sallyport.SLOW)
    c.sock.connect(str(link / "control"))
    c.request("GET", "/api/v1/agents")
    assert [x["name"] for x in json.loads(c.getresponse().read())] == ["a"], "the page's process has it"
    said = [x for x in json.loads(s.cli("doctor", "--json", check=False).stdout) if x["check"] == "control"]
    assert any("bytes" in x["text"] and "symbolic link" in x.get("fix", "") for x in said), said
    s.stop()
    assert not (s.home / "control").exists() and not (s.home / "page").exists(), "gone with the server"
    for name, why in (("c" * 120, "its name is longer than that of a socket may be"), ("none" * 30 + "/control", "No such file or directory")):
        s.env["SALLYPORT_CONTROL"] = str(s.dir / name)
        s.serve()
        assert f"no control socket at {s.dir / name} ({why})" in s.log(), s.log()
        s.stop()


def test_as_the_owner(t):
    """root's commands on another's data directory are the owner's: what they write is his; another user is told whose it is"""
    if os.getuid() != 0:
        t.skip("only root can be several users")
    s = t.bare()
    s.home = t_path(t).with_name("home")        # in a folder that all may enter
    s.env["SALLYPORT_HOME"] = str(s.home)
    s.init()
    subprocess.run(["chown", "-R", "4711:4711", s.home, f"{s.home}-public"], check=True)
    s.cli("agent", "add", "a")
    s.cli("set", "memory", "64m")
    assert {p.stat().st_uid for p in [s.home, *s.home.rglob("*")]} == {4711}
    said = as_user(4712, lambda: s.cli("status", check=False).stderr)
    assert "user 4711" in said or "belongs to" in said or "permission" in said.lower(), said


def test_commands_of_others(t):
    """a user who is an agent's, in whose hands no store is: `env` is that of the agent's own listener, without a token; `doctor` says who
    he is here; every other command says what he may; users who are nobody's are told so; root's commands go on as the owner"""
    if os.getuid() != 0:
        t.skip("only root can be several users")
    path = t_path(t).with_name("control")

    def before(s):
        s.cli("agent", "set", "a", "--uid", 4711)
        s.env["SALLYPORT_CONTROL"] = str(path)
        s.cli("set", "public", path.with_name("public"))
        s.cli("ca")
    with listener() as free:
        port = free.getsockname()[1]
    s, up = world(t, "--listen", "127.0.0.1:0", "--listen", f"127.0.0.1:{port}=a", before=before)

    def cli(uid, *argv, **env):
        return as_user(uid, lambda: vars(s.cli(*argv, check=False, env={"SALLYPORT_HOME": "/nowhere/h", **env})))
    for home in ("/nowhere/h", str(s.home)):
        r = cli(4711, "env", SALLYPORT_HOME=home, NO_PROXY="x.test")
        assert r["returncode"] == 0 and f"export https_proxy=http://127.0.0.1:{port}\n" in r["stdout"] and "sp_agt" not in r["stdout"], r
        assert f"SSL_CERT_FILE={path.with_name('public')}/bundle.pem" in r["stdout"] and "no_proxy=x.test,localhost" in r["stdout"], r
        r = cli(4711, "doctor", SALLYPORT_HOME=home)
        assert r["returncode"] == 0 and re.search("ok +control .* for agent a:", r["stdout"]) and "jails" in r["stdout"], r
        for argv in (["status"], ["credential", "list"], ["agent", "add", "x"], ["explain", "GET", "https://api.test/"], ["log"]):
            r = cli(4711, *argv, SALLYPORT_HOME=home)
            assert r["returncode"] == 1 and "agent a's" in r["stderr"] and "sallyport run" in r["stderr"], (argv, r)
            r = cli(4712, *argv, SALLYPORT_HOME=home)
            assert r["returncode"] == 1 and "user 4712 may not" in r["stderr"] and "--uid 4712" in r["stderr"], (argv, r)
    assert json.loads(cli(4711, "env", "--json")["stdout"])["HTTPS_PROXY"] == f"http://127.0.0.1:{port}"
    for argv, says in ((["--agent", "b"], "agent a's"), (["--proxy", f"127.0.0.1:{s.port}"], "owner's to make"), (["--ttl", "1h"], "token"), (["--ca-dir", "x"], "")):
        r = cli(4711, "env", *argv)
        assert (r["returncode"] != 0 or argv[0] == "--ca-dir") and says in r["stderr"] and "sp_agt" not in r["stdout"], (argv, r)
    r = cli(4712, "env")
    assert r["returncode"] == 1 and "--uid 4712" in r["stderr"] and r["stdout"] == "", r
    assert cli(0, "status", SALLYPORT_HOME=str(s.home))["returncode"] == 0
    s.cli("agent", "set", "b", "--uid", 4712)
    r = cli(4712, "env")
    assert r["returncode"] == 1 and "no listener of agent b's own" in r["stderr"] and "sallyport run" in r["stderr"], r
