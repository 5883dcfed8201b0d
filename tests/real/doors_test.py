"""The doors to the proxy beside a token on its port: Unix sockets, listeners bound to an agent, inherited ones, source addresses."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sallyport
from real import wait

AUTH = {"api": "canary-door-a", "b": "canary-door-b"}


def world(t, *flags, workers=1, agents=("a", "b"), before=None):
    """Two agents with bundles of their own, and a credential each for api.test: what arrives tells who it was."""
    s, up = t.proxy(serve=False, workers=workers)
    s.dir.chmod(0o711)
    s.cli("bundle", "add", "second")
    s.credential({"name": "one", "secrets": {"token": AUTH["api"]}})
    s.credential({"name": "two", "bundle": "second", "secrets": {"token": AUTH["b"]}})
    if "b" in agents:
        s.agent("b", ["second"])
    if before:
        before(s)
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", *flags)
    return s, up


def ports(s):
    """The bound listeners by agent, as serve said them: { "a": 7090 }."""
    return {m[2]: int(m[1]) for m in re.finditer(r"proxy=127\.0\.0\.1:(\d+)=(\S+)", s.log())}


def dial(at):
    if isinstance(at, int):
        return socket.create_connection(("127.0.0.1", at), 20)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20 * sallyport.SLOW)
    sock.connect(str(at))
    return sock


def head(sock):
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        part = sock.recv(1)
        if not part:
            break
        data += part
    return data


def ask(s, at, fields="", method="GET"):
    """CONNECT through the door, TLS, one request: the Authorization that arrived upstream, or the status of what refused."""
    sock = dial(at)
    sock.sendall(f"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n{fields}\r\n".encode())
    said = head(sock)
    if not said.startswith(b"HTTP/1.1 200"):
        sock.close()
        return int(said.split()[1]) if said else None
    with s.client_context().wrap_socket(sock, server_hostname="api.test") as tls:
        tls.sendall(f"{method} /w HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while part := tls.recv(65536):
            data += part
    got = re.search(rb'canary-door-\w|"placeholder', data)
    return int(data.split()[1]) if not data.startswith(b"HTTP/1.1 200") else got and got[0].decode()


def as_user(uid, what):
    """what() in a child of that user: what it answers, as JSON."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.write(w, json.dumps(what()).encode())
        except OSError as e:
            os.write(w, json.dumps(f"{type(e).__name__}").encode())
        finally:
            os._exit(0)
    os.close(w)
    data = b""
    while part := os.read(r, 65536):
        data += part
    os.close(r)
    os.waitpid(pid, 0)
    return json.loads(data)


def who(s, up):
    """Of the last request upstream: which agent's credential it carried."""
    return up.requests[-1].get("authorization")


def test_unix_by_user(t):
    """through a Unix socket the peer's user is the agent, without a token; a token counts before it; a user who is nobody's is
    challenged; what is given and taken counts at once, also in an open tunnel; records say the socket and the user"""
    me = os.getuid()
    s, up = world(t, "--listen", f"unix:{t_path(t)}", before=lambda s: s.cli("agent", "set", "a", "--uid", me))
    path = t_path(t)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert ask(s, path) == 200 or who(s, up) == f"Bearer {AUTH['api']}", who(s, up)
    assert who(s, up) == f"Bearer {AUTH['api']}"
    ask(s, path, s.auth(name="b"))
    assert who(s, up) == f"Bearer {AUTH['b']}", "the token counts before the user"
    n = len(up.requests)
    assert ask(s, path, s.auth() + s.auth(name="b")) == 407, "two tokens: no door stands in for them"
    assert ask(s, path, "Proxy-Authorization: Basic " + "QQ==" + "\r\n") != 407, "no token in it: the door names the agent"
    rec = s.wait_record({"agent": "a", "credential": "one"})
    assert rec["listener"] == f"unix:{path}" and rec["client"] == f"uid:{me}", rec
    assert s.cli("log", "--client", f"uid:{me}").stdout.strip()
    wire = dial(path)
    wire.sendall(b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n")
    assert head(wire).startswith(b"HTTP/1.1 200")
    tls = s.client_context().wrap_socket(wire, server_hostname="api.test")
    tls.sendall(b"GET /1 HTTP/1.1\r\nHost: api.test\r\n\r\n")
    assert tls.recv(65536).startswith(b"HTTP/1.1 200")
    n = len(up.requests)
    s.cli("agent", "set", "a", "--uid", "none")
    tls.sendall(b"GET /2 HTTP/1.1\r\nHost: api.test\r\n\r\n")
    assert b"agent_unknown" in tls.recv(65536)
    assert ask(s, path) == 407 and len(up.requests) == n
    s.cli("agent", "set", "b", "--uid", me)
    ask(s, path)
    assert who(s, up) == f"Bearer {AUTH['b']}"
    s.cli("agent", "revoke", "b")
    assert ask(s, path) == 407
    s.agent("b", ["second"])
    assert ask(s, path) == 407, "a new agent of the name has none of the old one's doors"


def t_path(t):
    """A socket's path of this test, in a folder that all may enter."""
    if not hasattr(t, "folder"):
        import tempfile
        t.folder = pathlib.Path(tempfile.mkdtemp(prefix="sp"))
        t.folder.chmod(0o755)
    return t.folder / "p.sock"


def test_unix_other_users(t):
    """each user is his own agent, and one whom no agent has is nobody; the kernel's overflow user can be given to nobody"""
    if os.getuid() != 0:
        t.skip("only root can be several users")
    path = t_path(t)
    s, up = world(t, "--listen", f"unix:{path}", before=lambda s: (s.cli("agent", "set", "a", "--uid", 4001),
                                                                    s.cli("agent", "set", "b", "--uid", 4002, "--uid", 4003)))

    def connect():
        sock = dial(path)
        sock.sendall(b"GET /discover HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = b""
        while b"\r\n\r\n" not in data or (b"agent\":" not in data and b"407" not in data):
            part = sock.recv(65536)
            if not part:
                break
            data += part
        return (re.findall(r'"agent":"(\w+)"', data.decode()) or [int(data.split()[1])])[0]
    assert [as_user(u, connect) for u in (4001, 4002, 4003, 4004, 65533)] == ["a", "b", "b", 407, 407]
    overflow = pathlib.Path("/proc/sys/kernel/overflowuid").read_text().strip()
    assert "cannot name" in s.cli("agent", "set", "a", "--uid", overflow, check=False).stderr
    r = s.cli("agent", "set", "a", "--uid", 4002, check=False)
    assert r.returncode == 1 and "agent b's" in r.stderr, r.stderr
    assert as_user(4001, connect) == "a"
    for bad in ("-1", "4294967295", "nosuchuser-x", "1e3", "", "99999999999"):
        assert s.cli("agent", "set", "a", "--uid", bad, check=False).returncode == 2, bad
    told = json.loads(s.cli("agent", "list", "--json").stdout)
    assert {a["name"]: a.get("uid") for a in told} == {"a": ["4001"], "b": ["4002", "4003"]}, told


def test_unix_mode_and_group(t):
    """the socket has the mode and the group that were asked for from its first moment; a bound one is not for others"""
    path = t_path(t)
    other = path.parent / "g.sock"
    s, up = world(t, "--listen", f"unix:{path}=a", "--listen", f"unix:{other},mode=0606,group=daemon")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(other.stat().st_mode) == 0o606
    ask(s, path)
    assert who(s, up) == f"Bearer {AUTH['api']}"
    ask(s, path, s.auth(name="b"))
    assert who(s, up) == f"Bearer {AUTH['api']}", "a bound listener's agent is its agent, whatever a client shows"
    if os.getuid() == 0:
        import grp
        assert other.stat().st_gid == grp.getgrnam("daemon").gr_gid
        assert as_user(4001, lambda: dial(path).fileno()) == "PermissionError"
    assert s.stop() is None
    assert not path.exists() and not other.exists(), "the sockets go with the server"


def test_unix_path_in_use(t):
    """a socket that a dead server left is taken over; one that lives, or a file of another kind, is not touched"""
    path = t_path(t)
    s, up = world(t, "--listen", f"unix:{path}=a")
    os.killpg(s.group, signal.SIGKILL)
    s.process.wait()
    assert path.exists()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", "--listen", f"unix:{path}=a")
    ask(s, path)
    assert who(s, up) == f"Bearer {AUTH['api']}"
    other = t.bare()
    other.init()
    r = other.cli("serve", "--listen", f"unix:{path}", check=False)
    assert r.returncode == 1 and "in use" in r.stderr, r.stderr
    plain = path.parent / "file"
    plain.write_text("mine")
    r = other.cli("serve", "--listen", f"unix:{plain}", check=False)
    assert r.returncode == 1 and "in use" in r.stderr and plain.read_text() == "mine"
    r = other.cli("serve", "--listen", f"unix:{path.parent}/no/such.sock", check=False)
    assert r.returncode == 1 and "No such file" in r.stderr
    assert ask(s, path) and who(s, up) == f"Bearer {AUTH['api']}"


def test_texts(t):
    """what --listen and `set listen` take and refuse, each with a sentence"""
    s = t.bare()
    s.init()
    for good in ("127.0.0.1:7090=claude", "[::1]:0=a.b", "unix:/run/p.sock", "unix:/run/p.sock,mode=660,group=daemon=claude", "fd:3=claude", "fd:4"):
        s.cli("set", "listen", good)
        assert good in s.cli("set", "listen").stdout, good
    for bad in ("unix:p.sock", "unix:", "unix:/", "unix:/a/", "unix:/a,mode=9", "unix:/a=", "unix:/a=b=c", "unix:/a,owner=x",
                "unix:/" + "x" * 107, "unix:@abstract", "127.0.0.1:1=", "127.0.0.1:1=a b", "=a", "fd:x", "fd:", "fd:123", "fd:3,name=box.test", "fd:3,mode=660",
                "127.0.0.1:7080,name=box.test", "127.0.0.1:7080,mode=660", "127.0.0.1:7080=../x", "unix:/a\n", "/run/p.sock"):
        r = s.cli("set", "listen", bad, check=False)
        assert r.returncode == 2 and len(r.stderr) > 20, (bad, r.stderr)
    for name in ("gateway", "transparent", "listen-tls"):
        r = s.cli("set", name, "unix:/run/p.sock", check=False)
        assert r.returncode == 2 and "unix:" not in r.stderr, r.stderr


def test_notes(t):
    """of listeners that other machines reach, serve and doctor say what each gives away: a token, or an agent; TLS and
    redirected connections carry no token in the clear"""
    s, _ = world(t, "--listen", "0.0.0.0:0", "--listen-tls", "0.0.0.0:0,name=box.test", "--transparent", "0.0.0.0:0", "--transparent", "0.0.0.0:0=b")
    notes = [line for line in s.log().splitlines() if line.startswith("note:") and "other machines" in line]
    assert len(notes) == 2 and "in the clear" in notes[0] and "=b can be" in notes[1] and "is agent b" in notes[1], notes
    said = [line for line in s.cli("doctor", check=False).stdout.splitlines() if "other machines" in line]
    assert len(said) == 2 and sum("=b can be" in line for line in said) == 1, said


def test_bound(t):
    """a listener that is one agent's: no token, and no other's; an agent that is not there is nobody; CONNECT, absolute form and
    our own endpoints"""
    s, up = world(t, "--listen", "127.0.0.1:0=a", "--listen", "127.0.0.1:0=b", "--listen", "127.0.0.1:0=nobody")
    at = ports(s)
    for name, key in (("a", "api"), ("b", "b")):
        for fields in ("", s.auth(), s.auth(name="b"), s.auth("sp_agt_" + "A" * 43), "Proxy-Authorization: Basic ####\r\n"):
            ask(s, at[name], fields)
            assert who(s, up) == f"Bearer {AUTH[key]}", (name, fields)
    n = len(up.requests)
    assert ask(s, at["nobody"]) == 407 and ask(s, at["nobody"], s.auth()) == 407 and ask(s, s.port) == 407 and len(up.requests) == n
    assert "note: 127.0.0.1" in s.log() and "every program" in s.log()
    said = s.cli("doctor", check=False).stdout
    assert "nobody is for an agent that is not there" in said, said
    # `env` names the agent's own listener, which is its identity: no token is made, nor used where one is set
    tokens = s.cli("agent", "list", "--json").stdout
    for more in ({}, {"SALLYPORT_TOKEN": s.tokens["a"]}):
        for argv in ((), ("--proxy", f"127.0.0.1:{at['a']}"), ("--proxy", f"localhost:{at['a']}")):
            said = s.cli("env", "--agent", "a", *argv, env={**s.env, **more}).stdout
            assert said.count(f"http://{(argv or ['', '127.0.0.1:%d' % at['a']])[1]}\n") > 3 and "sp_agt" not in said, said
    assert s.cli("agent", "list", "--json").stdout == tokens
    assert f"http://a:sp_agt_" in s.cli("env", "--agent", "a", "--proxy", f"127.0.0.1:{s.port}").stdout
    assert f"http://a:sp_agt_" in s.cli("env", "--agent", "a", "--proxy", f"127.0.0.1:{at['b']}").stdout, "another's listener"
    assert "without" in s.cli("env", "--agent", "a", "--ttl", "2h", check=False).stderr
    s.cli("agent", "add", "nobody", "--bundle", "second")
    ask(s, at["nobody"])
    assert who(s, up) == f"Bearer {AUTH['b']}"
    rec = s.wait_record({"agent": "nobody", "decision": "allow"})
    assert rec["listener"] == f"127.0.0.1:{at['nobody']}", rec
    s.cli("agent", "disable", "nobody")
    assert ask(s, at["nobody"]) == 407
    said = s.cli("doctor", check=False).stdout
    assert "nobody is for an agent that is disabled" in said and "sallyport agent enable nobody" in said, said
    s.cli("agent", "revoke", "nobody")
    assert ask(s, at["nobody"]) == 407


def test_source_address(t):
    """an agent by its address: the longest prefix counts, a token before it; also one in an open connection; damage is nobody's"""
    s, up = world(t, before=lambda s: (s.cli("agent", "set", "a", "--from", "127.0.0.0/8"), s.cli("agent", "set", "b", "--from", "127.0.0.9")))

    def from_(address, fields=""):
        sock = socket.create_connection(("127.0.0.1", s.port), 20, (address, 0))
        sock.sendall(f"GET /discover HTTP/1.1\r\nHost: 127.0.0.1:{s.port}\r\n{fields}\r\n".encode())
        data = sock.recv(65536).decode()
        return (re.findall(r'"agent":"(\w+)"', data) or [int(data.split()[1])])[0]
    assert [from_(x) for x in ("127.0.0.1", "127.1.2.3", "127.0.0.9", "127.0.0.10")] == ["a", "a", "b", "a"]
    assert from_("127.0.0.9", s.auth()) == "a", "a token counts before the address"
    assert from_("127.0.0.9", s.auth("sp_agt_" + "A" * 43)) == 407, "one that is nobody's is not made up for by the address"
    ask(s, s.port)
    assert who(s, up) == f"Bearer {AUTH['api']}"
    assert "every program of this machine" in s.cli("doctor", check=False).stdout
    s.cli("agent", "set", "a", "--from", "10.0.0.0/8", "--from", "fd00::/8")
    assert [from_(x) for x in ("127.0.0.1", "127.0.0.9")] == [407, "b"]
    for bad in ("10.0.0.0/33", "x", "", "10.0.0.1/8/8"):
        assert s.cli("agent", "set", "a", "--from", bad, check=False).returncode == 2, bad
    r = s.cli("agent", "set", "a", "--from", "127.0.0.9/32", check=False)
    assert r.returncode == 1 and "agent b's" in r.stderr and "agent set b --from none" in r.stderr, r.stderr
    s.cli("agent", "remove", "b")
    assert from_("127.0.0.9") == 407
    before = json.loads(s.cli("status", "--json").stdout)["agents"]
    s.cli("agent", "set", "a", "--from", "lo", "--from", "127.0.0.8/32")
    assert from_("127.0.0.9") == "a", "by its interface"
    assert "agent  a" in s.cli("explain", "--from", "127.0.0.9%lo", "GET", "https://api.test/").stdout
    assert "agent  a" in s.cli("explain", "--from", "127.0.0.8", "GET", "https://api.test/").stdout
    r = s.cli("explain", "--from", "127.0.0.9%eth9", "GET", "https://api.test/", check=False)
    assert r.returncode == 1 and "nobody" in r.stderr, r.stderr
    assert s.cli("explain", "--from", "x", "GET", "https://api.test/", check=False).returncode == 2
    assert "nor an interface" in s.cli("agent", "set", "a", "--from", "nope9", check=False).stderr
    s.cli("agent", "set", "a", "--from", "none")
    s.cli("tenant", "add", "acme")
    for way in (("--from", "127.0.0.9"), ("--uid", "7")):
        r = s.cli("agent", "set", "acme", *way, check=False)
        assert r.returncode == 1 and "is a tenant" in r.stderr, r.stderr
    assert json.loads(s.cli("status", "--json").stdout)["agents"] == before, "a tenant is none"


def inherit(s, count, fds, *flags, pid=None, env=None):
    """serve, started as systemd starts it: descriptors from 3 on, LISTEN_PID its own."""
    code = ("import os,sys\n"
            f"n={len(fds)}\n"
            "keep=[int(x) for x in sys.argv[1].split(',') if x]\n"
            "high=[os.dup2(f,100+i) for i,f in enumerate(keep)]\n"
            "[os.dup2(f,3+i) for i,f in enumerate(high)]\n"
            "[os.set_inheritable(3+i,True) for i in range(n)]\n"
            "os.closerange(3+n,200)\n"
            f"os.environ['LISTEN_FDS']={str(count)!r}\n"
            f"os.environ['LISTEN_PID']={repr(str(pid)) if pid else 'str(os.getpid())'}\n"
            "os.execv(sys.argv[2],sys.argv[2:])\n")
    log = open(s.log_path, "ab")
    start = s.log_path.stat().st_size
    s.process = subprocess.Popen([sys.executable, "-c", code, ",".join(str(f.fileno()) for f in fds), s.binary, "serve", "--workers", "1", *map(str, flags)],
                                 env=s.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=[f.fileno() for f in fds])
    s.group = s.process.pid
    wait(lambda: b"listening proxy=" in s.log_path.read_bytes()[start:] or s.process.poll() is not None, 15, "a start or an end")
    return s.log_path.read_text()[start:]


def test_inherited(t):
    """listeners that systemd hands over come in the default's place, TCP and Unix, bound or not; what is none ends with a sentence"""
    path = t_path(t)
    s, up = world(t)
    s.stop()
    more = ("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    tcp, unix = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    unix.bind(str(path))
    unix.listen()
    s.cli("agent", "set", "a", "--uid", os.getuid())
    said = inherit(s, 2, [tcp, unix], *more)
    assert f"listening proxy=127.0.0.1:{tcp.getsockname()[1]} proxy=unix:{path} workers=1" in said, said
    ask(s, tcp.getsockname()[1], s.auth(name="b"))
    assert who(s, up) == f"Bearer {AUTH['b']}"
    ask(s, path)
    assert who(s, up) == f"Bearer {AUTH['api']}"
    s.stop()
    assert path.exists(), "a socket that another made is not ours to remove"
    said = inherit(s, 1, [tcp], "--listen", "fd:3=b", "--listen", "127.0.0.1:0", *more)
    assert f"proxy=127.0.0.1:{tcp.getsockname()[1]}=b" in said, said
    ask(s, tcp.getsockname()[1])
    assert who(s, up) == f"Bearer {AUTH['b']}"
    s.stop()
    if socket.has_dualstack_ipv6():
        both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        inherit(s, 2, [tcp, both], *more)
        ask(s, both.getsockname()[1], s.auth())
        rec = s.wait_record({"agent": "a", "listener": f"127.0.0.1:{both.getsockname()[1]}"})
        assert rec["client"].startswith("127.0.0.1:"), "systemd's sockets take IPv4 and IPv6"
        s.stop()
    said = inherit(s, 1, [tcp], "--listen", "127.0.0.1:0", *more, pid=1)
    assert "proxy=127.0.0.1:" in said and str(tcp.getsockname()[1]) not in said, "another process's"
    s.stop()
    udp, client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.create_connection(tcp.getsockname())
    udp.bind(("127.0.0.1", 0))
    seq = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    seq.bind(str(path) + "2")
    seq.listen()
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    for count, fds, why in ((1, [udp], "no listening socket"), (1, [client], "no listening socket"), (1, [bound], "no listening socket"),
                            (1, [seq], "no listening socket"), (1, [open("/dev/null")], "no listening socket"), (2, [tcp], "no listening socket"),
                            ("99", [tcp], "a number up to 16"), ("x", [tcp], "a number up to 16"), ("-1", [tcp], "a number up to 16")):
        said = inherit(s, count, fds, *more)
        assert s.process.wait(20) == 1 and why in said, (count, said)
        s.process = None
    r = s.cli("serve", "--listen", "fd:3", check=False)
    assert r.returncode == 1 and "handed over" in r.stderr


def test_unknown_peer_shares(t):
    """strangers at a Unix socket have the strangers' share of connections, and a half head ends as on a port"""
    path = t_path(t)
    s, up = world(t, "--listen", f"unix:{path}", before=lambda s: s.cli("agent", "set", "a", "--uid", os.getuid()))
    held = [dial(path) for _ in range(200)]
    ask(s, path)
    assert who(s, up) == f"Bearer {AUTH['api']}"
    for h in held:
        h.close()


# -- SOCKS5 (RFC 1928, 1929), on the proxy port

def socks_request(host, port=443, command=1):
    if isinstance(host, bytes):
        at = host                                            # type and address as they stand
    elif ":" in host:
        at = b"\x04" + socket.inet_pton(socket.AF_INET6, host)
    elif host.replace(".", "").isdigit():
        at = b"\x01" + socket.inet_pton(socket.AF_INET, host)
    else:
        at = b"\x03" + bytes([len(host)]) + host.encode("latin-1")
    return bytes([5, command, 0]) + at + port.to_bytes(2, "big")


def password(user, token):
    u, p = user.encode("latin-1"), token.encode("latin-1")
    return b"\x01" + bytes([len(u)]) + u + bytes([len(p)]) + p


def exactly(sock, n):
    data = b""
    while len(data) < n:
        part = sock.recv(n - len(data))
        if not part:
            break
        data += part
    return data


def socks(s, token=None, host="api.test", port=443, at=None, methods=b"\x00\x02", user="x", command=1, bytewise=False):
    """-> (socket, the method or the password's status or the reply code that ended it: 0 is an open tunnel)."""
    sock = dial(s.port if at is None else at)

    def send(data):
        for piece in [data[i:i + 1] for i in range(len(data))] if bytewise else [data]:
            sock.sendall(piece)
    send(b"\x05" + bytes([len(methods)]) + methods)
    method = exactly(sock, 2)
    if method[1:] == b"\xff" or len(method) < 2:
        return sock, "no method"
    if method == b"\x05\x02":
        send(password(user, s.tokens["a"] if token is None else token))
        if exactly(sock, 2) != b"\x01\x00":
            return sock, "password"
    send(socks_request(host, port, command))
    reply = exactly(sock, 10)
    assert len(reply) == 10 and reply[0] == 5 and reply[2:] == b"\0\1\0\0\0\0\0\0", reply
    return sock, reply[1]


def through(s, sock, host="api.test"):
    with s.client_context().wrap_socket(sock, server_hostname=host) as tls:
        tls.sendall(f"GET /s HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while part := tls.recv(65536):
            data += part
    return data


def test_socks(t):
    """SOCKS5 on the proxy port: the token is user or password, names are resolved by us, and what follows is as after CONNECT"""
    s, up = world(t)
    for user, token, bytewise in (("x", s.tokens["a"], False), (s.tokens["a"], "x", False), ("claude", s.tokens["a"], True), ("x" * 255, s.tokens["a"], True),
                                  ("\0", s.tokens["a"], False)):
        sock, code = socks(s, token, user=user, bytewise=bytewise)
        assert code == 0, code
        assert through(s, sock).startswith(b"HTTP/1.1 200") and who(s, up) == f"Bearer {AUTH['api']}"
    for host in ("API.test", "api.test."):
        sock, code = socks(s, host=host)
        assert code == 0 and through(s, sock).startswith(b"HTTP/1.1 200"), host
    sock, code = socks(s, s.tokens["b"])
    assert through(s, sock).startswith(b"HTTP/1.1 200") and who(s, up) == f"Bearer {AUTH['b']}"
    sock, code = socks(s, host="elsewhere.test")
    assert code == 0 and b"host_not_allowed" in through(s, sock, "elsewhere.test"), "a refused host is intercepted, so that the client can read why"
    n = len(up.requests)
    for token in ("sp_agt_" + "A" * 43, "x", "\0", "y" * 255, s.tokens["a"][:-1], s.tokens["a"] + "\0"):
        sock, code = socks(s, token)
        assert code == "password" and sock.recv(10) == b"", (token, code)
    assert socks(s, methods=b"\x00")[1] == socks(s, methods=b"")[1] == socks(s, methods=b"\x01\x03\x80")[1] == "no method"
    assert socks(s, methods=bytes(range(255)))[1] == 0
    s.cli("agent", "revoke", "b")
    assert socks(s, s.tokens["b"])[1] == "password"
    assert len(up.requests) == n
    s.wait_record({"error": "agent_unknown", "method": "-"})
    s.wait_record({"agent": "a", "host": "api.test", "credential": "one", "status": 200})
    # a tunnel is judged again, as one of CONNECT
    sock, code = socks(s)
    tls = s.client_context().wrap_socket(sock, server_hostname="api.test")
    tls.sendall(b"GET /1 HTTP/1.1\r\nHost: api.test\r\n\r\n")
    assert tls.recv(65536).startswith(b"HTTP/1.1 200")
    s.cli("agent", "rotate", "a")
    tls.sendall(b"GET /2 HTTP/1.1\r\nHost: api.test\r\n\r\n")
    assert b"agent_unknown" in tls.recv(65536)


def test_socks_replies(t):
    """each refusal has its reply code (RFC 1928 6); plain HTTP and tunnel entries inside; addresses as addresses"""
    s, up = t.proxy(serve=False)
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    for host, port in (("raw.test", up.port), ("refused.test", closed.getsockname()[1]), ("private.test", 9), ("gone.test", 9), ("10.9.8.7", 443), ("fd00::7", 443)):
        s.domain({"host": host, "tunnel": "raw", "port": port})
    s.domain({"host": "plain.test", "port": 80})
    s.resolve_file.write_text("private.test 10.1.2.3\n")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"raw.test:{up.port}:127.0.0.1:{up.port}",
            "--connect-to", f"refused.test::127.0.0.1:{closed.getsockname()[1]}", "--connect-to", f"10.9.8.7:443:127.0.0.1:{up.port}",
            "--connect-to", f"[fd00::7]:443:127.0.0.1:{up.port}", "--connect-to", f"plain.test:80:127.0.0.1:{up.port}")
    for host, port in (("raw.test", up.port), ("10.9.8.7", 443), ("fd00::7", 443)):
        sock, code = socks(s, host=host, port=port)
        assert code == 0, (host, code)
        sock.close()
    assert socks(s, host="refused.test", port=closed.getsockname()[1])[1] == 5
    assert socks(s, host="private.test", port=9)[1] == 2
    assert socks(s, host="gone.test", port=9)[1] == 4
    assert socks(s, host="raw.test", port=up.port, command=2)[1] == 7 and socks(s, command=3)[1] == 7
    assert socks(s, host=b"\x02ab")[1] == 8 and socks(s, host=b"\x00")[1] == 8
    for bad in ("a\0b.test", "a b.test", "", "x" * 255, "a" * 64 + ".test", "api.test\r\nX: y", "bücher.test", "..", "1.2.3.999"):
        raw = bad.encode()
        assert socks(s, host=b"\x03" + bytes([len(raw)]) + raw)[1] == 1, bad
    assert socks(s, host="raw.test", port=0)[1] == 1
    s.wait_record({"host": "refused.test", "error": "upstream_unreachable", "method": "CONNECT"})


def test_socks_shapes(t):
    """half a greeting waits and ends by the deadline of strangers; what is no SOCKS5 ends at once; a bound listener asks nobody; nor
    does a socket whose user is an agent"""
    path = t_path(t)
    s, up = world(t, "--listen", "127.0.0.1:0=b", "--listen", f"unix:{path}", before=lambda s: s.cli("agent", "set", "b", "--uid", os.getuid()))
    at = ports(s)["b"]
    for door, methods in ((at, b"\0"), (at, b"\2"), (at, b"\0\2"), (path, b"\0")):
        sock, code = socks(s, at=door, methods=methods)
        assert code == 0 and through(s, sock).startswith(b"HTTP/1.1 200"), (door, methods, code)
        assert who(s, up) == f"Bearer {AUTH['b']}", "the door's agent, whatever is shown"
    sock, code = socks(s, at=path, methods=b"\2")
    assert code == 0 and through(s, sock) and who(s, up) == f"Bearer {AUTH['api']}", "beside a user the token counts"
    import time
    began, halves = time.monotonic(), []
    for half in (b"\5", b"\5\2\0", b"\5\1\2", b"\5\xff" + b"\0" * 200):
        sock = dial(s.port)
        sock.sendall(half)
        halves.append(sock)
    late = dial(s.port)
    late.sendall(b"\5\1\2")
    exactly(late, 2)
    late.sendall(b"\1\xff" + b"x" * 100)
    drip = dial(s.port)
    drip.sendall(b"\5\1\2")
    exactly(drip, 2)
    drip.sendall(b"\1\xff")
    for sock in [*halves, late]:
        sock.settimeout(30 * sallyport.SLOW)
        try:
            while sock.recv(10):
                pass
        except ConnectionError:
            pass
        assert 8 < time.monotonic() - began < 25 * sallyport.SLOW
    try:
        for _ in range(20):
            drip.sendall(b"x")
            time.sleep(0.3)
        raise AssertionError("bytes one by one keep no stranger here")
    except ConnectionError:
        pass
    sock = dial(s.port)
    sock.sendall(b"\5\1\2")
    exactly(sock, 2)
    sock.sendall(password("x", s.tokens["a"]).replace(b"\1", b"\2", 1))
    assert exactly(sock, 2) == b"\1\1", "a version that RFC 1929 does not know"
    sock = dial(s.port)
    sock.sendall(b"\4\1\0\x50\1\2\3\4\0")
    assert exactly(sock, 8) == b"\0\x5b" + b"\0" * 6
    # the client does not wait for answers
    hello = socket.create_connection(("127.0.0.1", s.port), 20)
    hello.sendall(b"\5\1\2" + password("x", s.tokens["a"]) + socks_request("api.test"))
    assert exactly(hello, 14) == b"\5\2\1\0\5\0\0\1\0\0\0\0\0\0"
    assert through(s, hello).startswith(b"HTTP/1.1 200")


def test_socks_clients(t):
    """curl (also over a Unix socket) and Python through SOCKS5"""
    t.need("curl")
    path = t_path(t)
    s, up = world(t, "--listen", f"unix:{path}", before=lambda s: s.cli("agent", "set", "b", "--uid", os.getuid()))
    base = ["curl", "-sS", "--cacert", str(s.ca), "https://api.test/c", "--max-time", "20", "--proxy"]
    for proxy, key in ((f"socks5h://x:{s.tokens['a']}@127.0.0.1:{s.port}", "api"), (f"socks5h://{s.tokens['a']}:x@127.0.0.1:{s.port}", "api"),
                       (f"socks5h://localhost{path}", "b")):
        r = subprocess.run([*base, proxy], capture_output=True, text=True, env=s.env)
        assert r.returncode == 0 and who(s, up) == f"Bearer {AUTH[key]}", (proxy, r.stderr)
    r = subprocess.run([*base, f"socks5h://x:bad@127.0.0.1:{s.port}"], capture_output=True, text=True, env=s.env)
    assert r.returncode == 97 and "rejected" in r.stderr.lower(), (r.returncode, r.stderr)
    python = "/usr/bin/python3"
    if subprocess.run([python, "-c", "import requests, socks"], capture_output=True).returncode == 0:
        r = subprocess.run([python, "-c", "import requests,sys; print(requests.get('https://api.test/p', timeout=20).status_code)"],
                           capture_output=True, text=True, env={**s.env, "HTTPS_PROXY": f"socks5h://x:{s.tokens['a']}@127.0.0.1:{s.port}",
                                                                 "REQUESTS_CA_BUNDLE": str(s.ca)})
        assert r.stdout.strip() == "200" and who(s, up) == f"Bearer {AUTH['api']}", r.stderr


# -- clients that cannot sign in to a proxy, or read no proxy variable

JAVA = """import java.net.*; import java.net.http.*;
public class Ask { public static void main(String[] a) throws Exception {
  var c = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
  System.out.println(c.send(HttpRequest.newBuilder(URI.create("https://api.test/java")).build(), HttpResponse.BodyHandlers.ofString()).statusCode()); } }"""
GO = """package main
import ("fmt"; "net/http")
func main() { r, err := http.Get("https://api.test/go"); if err != nil { panic(err) }; fmt.Println(r.StatusCode) }"""


def test_jvm_at_a_bound_listener(t):
    """a JVM with the proxy's address and a trust store, without a token"""
    t.need("java", "keytool")
    s, up = world(t, "--listen", "127.0.0.1:0=b")
    store = s.dir / "trust.p12"
    subprocess.run(["keytool", "-importcert", "-noprompt", "-alias", "sp", "-file", s.ca, "-keystore", store, "-storepass", "changeit"], check=True, capture_output=True)
    (s.dir / "Ask.java").write_text(JAVA)
    r = subprocess.run(["java", f"-Djavax.net.ssl.trustStore={store}", "-Djavax.net.ssl.trustStorePassword=changeit", "-Dhttps.proxyHost=127.0.0.1",
                        f"-Dhttps.proxyPort={ports(s)['b']}", str(s.dir / "Ask.java")], capture_output=True, text=True, timeout=120 * sallyport.SLOW, env=s.env)
    if "compiler" in r.stderr and "module not found" in r.stderr:
        t.skip("this Java has no compiler")
    assert r.stdout.strip() == "200" and who(s, up) == f"Bearer {AUTH['b']}", r.stderr[-800:]


def test_s3cmd_at_a_bound_listener(t):
    """s3cmd, whose proxy can have no password, signs with a placeholder at a listener of the agent's own"""
    t.need("s3cmd")
    import aws_test
    a = aws_test.Aws(t)
    a.s.stop()
    to = [w for h in aws_test.HOSTS for w in ("--connect-to", f"{h}:443:127.0.0.1:{a.server.port}")]
    a.s.serve("--upstream-ca", sallyport.certs() / "root.pem", *to, "--listen", "127.0.0.1:0=a")
    conf = a.s.dir / "s3cfg"
    conf.write_text(f"[default]\naccess_key = {a.env['AWS_ACCESS_KEY_ID']}\nsecret_key = {a.env['AWS_SECRET_ACCESS_KEY']}\nbucket_location = us-east-1\n"
                    "host_base = s3.us-east-1.amazonaws.com\nhost_bucket = %(bucket)s.s3.us-east-1.amazonaws.com\n"
                    f"proxy_host = 127.0.0.1\nproxy_port = {ports(a.s)['a']}\nca_certs_file = {a.s.ca}\nuse_https = True\n")
    body = a.s.dir / "body"
    body.write_bytes(os.urandom(70000))
    for args in (["put", str(body), "s3://bucket/k"], ["get", "--force", "s3://bucket/k", str(body) + ".2"]):
        r = subprocess.run(["s3cmd", "-c", str(conf), *args], capture_output=True, text=True, timeout=60 * sallyport.SLOW, env=a.s.env)
        assert r.returncode == 0, (args, r.stderr[-800:])
    assert (a.s.dir / "body.2").read_bytes() == body.read_bytes()
    a.check()


def test_go_over_socks(t):
    """Go's HTTP client with a socks5 URL in its proxy variable"""
    t.need("go")
    s, up = world(t)
    (s.dir / "ask.go").write_text(GO)
    env = {**s.env, "HTTPS_PROXY": f"socks5://x:{s.tokens['a']}@127.0.0.1:{s.port}", "SSL_CERT_FILE": str(s.ca), "GOFLAGS": "-mod=mod",
           "GOCACHE": "/tmp/sallyport-go-cache", "GOTOOLCHAIN": "local"}
    r = subprocess.run(["go", "run", str(s.dir / "ask.go")], capture_output=True, text=True, timeout=200 * sallyport.SLOW, env=env)
    assert r.stdout.strip() == "200" and who(s, up) == f"Bearer {AUTH['api']}", r.stderr[-800:]


# -- TLS to the proxy itself

def tls_port(s):
    return int(re.search(r"tls=\S+?:(\d+)", s.log())[1])


def over_tls(s, name, port, context=None, auth=None, chunk=65536, big=0, host="api.test"):
    """TLS to the proxy, CONNECT, TLS inside: both ends by hand, so that the inner one sees what the outer carries."""
    context = context or s.client_context()
    outer = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 20), server_hostname=name)
    outer.settimeout(30 * sallyport.SLOW)
    outer.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n{s.auth() if auth is None else auth}\r\n".encode())
    said = head(outer)
    if not said.startswith(b"HTTP/1.1 200"):
        return int(said.split()[1])
    import ssl
    import threading
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = s.client_context().wrap_bio(incoming, outgoing, server_hostname=host)

    def step(f):
        while True:
            try:
                got = f()
                if outgoing.pending:
                    outer.sendall(outgoing.read())
                return got
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    outer.sendall(outgoing.read())
                part = outer.recv(chunk)
                if not part:
                    return b""
                incoming.write(part)
    step(inner.do_handshake)
    sent = f"POST /w HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {big}\r\n\r\n".encode() + os.urandom(big)

    def write():
        inner.write(sent)
    step(write)
    data = b""
    while True:
        try:
            part = step(lambda: inner.read(65536))
        except ssl.SSLError:
            break
        if not part:
            break
        data += part
    outer.close()
    return data


def test_tls_to_the_proxy(t):
    """TLS to the proxy itself, with a certificate of its CA: by address and by name; TLS of a tunnel inside it, both ways with bodies of
    many records; plain HTTP, SOCKS5 and our own pages over it; what is no TLS, and TLS on a plain port, end with a word"""
    big = 3_000_000
    s, up = world(t, "--listen-tls", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0,name=box.test=b")
    port, named = map(int, re.findall(r"tls=\S+?:(\d+)", s.log()))
    data = over_tls(s, "127.0.0.1", port)
    assert data.startswith(b"HTTP/1.1 200") and who(s, up) == f"Bearer {AUTH['api']}", data[:200]
    assert over_tls(s, "127.0.0.1", port, auth="") == 407
    data = over_tls(s, "box.test", named, auth="")
    assert data.startswith(b"HTTP/1.1 200") and who(s, up) == f"Bearer {AUTH['b']}"
    for chunk in (65536, 1000):
        data = over_tls(s, "127.0.0.1", port, big=big if chunk > 1000 else 100_000, chunk=chunk)
        assert data.startswith(b"HTTP/1.1 200") and len(up.requests[-1].body) == (big if chunk > 1000 else 100_000)
    with s.client_context().wrap_socket(dial(port), server_hostname="127.0.0.1") as tls:
        tls.sendall(f"GET /discover HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{s.auth()}\r\n".encode())
        assert b'"agent":"a"' in tls.recv(65536)
    with s.client_context().wrap_socket(dial(named), server_hostname="box.test") as tls:
        tls.sendall(f"GET /discover HTTP/1.1\r\nHost: box.test:{named}\r\n\r\n".encode())
        assert b'"agent":"b"' in tls.recv(65536)
    import ssl
    for name, p in (("other.test", named), ("box.test", port)):
        try:
            s.client_context().wrap_socket(dial(p), server_hostname=name)
            raise AssertionError(f"{name} is not its name")
        except ssl.SSLError as e:
            assert "UNRECOGNIZED_NAME" in str(e).upper().replace(" ", "_"), e
    sock = dial(port)
    sock.sendall(b"GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n")
    assert sock.recv(100)[:1] in (b"\x15", b""), "an alert"
    sock = dial(s.port)
    sock.sendall(b"\x16\x03\x01\x00\x05hello")
    assert sock.recv(100) == b"\x15\x03\x01\0\x02\x02\x28"
    t.need("curl")
    base = ["curl", "-sS", "--cacert", str(s.ca), "--proxy-cacert", str(s.ca), "--max-time", "30", "https://api.test/c", "-o", "/dev/null", "-w", "%{http_code}"]
    r = subprocess.run([*base, "-x", f"https://x:{s.tokens['a']}@127.0.0.1:{port}"], capture_output=True, text=True, env=s.env)
    assert r.stdout == "200" and who(s, up) == f"Bearer {AUTH['api']}", r.stderr


def test_tls_strangers(t):
    """a handshake that is not made, or made and followed by nothing, ends by the deadline of strangers"""
    import time
    s, up = world(t, "--listen-tls", "127.0.0.1:0")
    began = time.monotonic()
    silent, open_ = dial(tls_port(s)), s.client_context().wrap_socket(dial(tls_port(s)), server_hostname="127.0.0.1")
    for sock in (silent, open_):
        sock.settimeout(30 * sallyport.SLOW)
        assert sock.recv(100) == b""
        assert 8 < time.monotonic() - began < 25 * sallyport.SLOW


def test_tls_of_the_operator(t):
    """the operator's certificate, for whatever name a client asks"""
    import ssl
    s, up = t.proxy(serve=False)
    cert, key = sallyport.certs() / "ok.crt", sallyport.certs() / "ok.key"
    s.credential({"name": "one", "secrets": {"token": AUTH["api"]}})
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", "--listen-tls", "127.0.0.1:0",
            "--listen-cert", cert, "--listen-key", key, "--listen-tls", "0.0.0.0:0", "--transparent", "0.0.0.0:0")
    said = s.cli("doctor", check=False).stdout
    assert "tokens travel" not in s.log() + said and "no token comes from other machines in the clear" in said, said
    context = ssl.create_default_context(cafile=sallyport.certs() / "root.pem")
    data = over_tls(s, "api.test", tls_port(s), context)
    assert data.startswith(b"HTTP/1.1 200") and who(s, up) == f"Bearer {AUTH['api']}"
    bad = t.bare()
    bad.init()
    for flags in (["--listen-cert", cert], ["--listen-cert", "/nonexistent", "--listen-key", key]):
        r = bad.cli("serve", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", *flags, check=False)
        assert r.returncode == 1 and "listen-" in r.stderr, r.stderr


# -- connections that the kernel redirects

def captured_port(s):
    return int(re.search(r"transparent=\S+?:(\d+)", s.log())[1])


def captured(s, name, port, context=None, pieces=1):
    """TLS straight to the listener, as a redirected client speaks it: the first line of the answer, or why there was none."""
    import ssl
    import time
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    own, context = context is None, context or s.client_context()
    context.check_hostname = own and name is not None
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    sock, asked = dial(port), False
    step = lambda data: -(-len(data) // pieces) or 1
    while True:
        try:
            if not asked:
                tls.do_handshake()
                tls.write(f"GET /t HTTP/1.1\r\nHost: {name or '127.0.0.1'}:{port}\r\nConnection: close\r\n\r\n".encode())
                asked = True
            return tls.read(3000)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as e:
            return e.reason
        data = outgoing.read()
        for i in range(0, len(data), step(data)):
            sock.sendall(data[i:i + step(data)])
            time.sleep(0.02 if pieces > 1 else 0)
        part = sock.recv(65536)
        if not part:
            return "closed"
        incoming.write(part)


def test_transparent_names(t):
    """a redirected connection: the name in it decides, of the dialled address the port alone counts; no name or an address is refused
    unless an entry names the address; a listener's or a source's agent"""
    s, up = t.proxy(serve=False)
    s.credential({"name": "one", "secrets": {"token": AUTH["api"]}})
    s.agent("b")
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    s.cli("credential", "set", "one", "--port", port)
    s.domain({"host": "plain.test", "port": port})
    s.domain({"host": "tun.test", "port": port, "tunnel": True})
    s.domain({"host": "*", "port": port})
    s.cli("agent", "set", "a", "--from", "127.0.0.1")
    flags = ["--upstream-ca", sallyport.certs() / "root.pem", "--allow-address", "127.0.0.0/8"]
    plain = sallyport.Upstream({"plain": True}, sallyport.certs())
    for host in ("api.test", "tun.test"):
        flags += ["--connect-to", f"{host}:{port}:127.0.0.1:{up.port}"]
    flags += ["--connect-to", f"plain.test:{port}:127.0.0.1:{plain.port}", "--connect-to", f"127.0.0.1:{port}:127.0.0.1:{up.port}"]
    s.serve(*flags, "--transparent", f"127.0.0.1:{port}")
    for pieces in (1, 30):
        said = captured(s, "api.test", port, pieces=pieces)
        assert isinstance(said, bytes) and said.startswith(b"HTTP/1.1 200") and who(s, up) == f"Bearer {AUTH['api']}", said
    rec = s.wait_record({"agent": "a", "credential": "one", "host": "api.test"})
    assert rec["port"] == port and rec["listener"] == f"127.0.0.1:{port}", rec
    context = __import__("ssl").create_default_context(cafile=sallyport.certs() / "root.pem")
    said = captured(s, "tun.test", port, context)
    assert isinstance(said, bytes) and said.startswith(b"HTTP/1.1 200"), f"a tunnel entry: the upstream's own certificate is seen ({said})"
    n = len(up.requests)
    for name in (None, "127.0.0.1"):
        said = captured(s, name, port)
        assert isinstance(said, bytes) and b"host_not_allowed" in said and b"names no host" in said, (name, said)
    assert len(up.requests) == n, "the entry for all hosts names no address"
    s.domain({"host": "127.0.0.1", "port": port})
    said = captured(s, None, port)
    assert isinstance(said, bytes) and b"no host, and no entry" not in said, said
    with dial(port) as sock:
        sock.sendall(b"GET /p HTTP/1.0\r\nConnection: keep-alive\r\nHost: plain.test:%d\r\n\r\n" % port)
        assert b" 200 " in sock.recv(65536)[:20]
        m = len(plain.requests)
        sock.sendall(b"GET /p HTTP/1.0\r\n\r\n")
        sock.recv(65536)
        assert len(plain.requests) == m, "a request without a name is not for the last one's host"
    # plain HTTP: each request names its host
    with dial(port) as sock:
        for host, want in ((f"plain.test:{port}", b"200"), ("plain.test", b"421"), ("plain.test:80", b"421"), ("10.1.2.3:%d" % port, b"403")):
            sock.sendall(f"GET /p HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            data = sock.recv(65536)
            assert data.split()[1] == want, (host, data[:200])
            if b"onnection: close" in data:
                break
    for raw, begins in ((b"GET /p HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"), (b"CONNECT plain.test:%d HTTP/1.1\r\nHost: plain.test:%d\r\n\r\n" % (port, port), b"HTTP/1.1 400"),
                        (b"GET http://evil.test/ HTTP/1.1\r\nHost: plain.test:%d\r\n\r\n" % port, b"HTTP/1.1 4"), (b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", b"HTTP/1.1 400"),
                        (b"GET http://evil.test:%d/ HTTP/1.1\r\nHost: plain.test:%d\r\n\r\n" % (port, port), b"HTTP/1.1 421"),
                        (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 50"), (b"\5\1\0", b""), (b"\x16\x03\x01\x00\x05hello", b""), (b"SSH-2.0-x\r\n", b"")):
        with dial(port) as sock:
            sock.sendall(raw)
            try:
                data = sock.recv(65536)
            except ConnectionError:
                data = b""
            assert data.startswith(begins) and (begins or data[:1] in (b"", b"\x15")), (raw, data)
    s.cli("domain", "remove", "default", "127.0.0.1")
    s.domain({"host": "127.0.0.1", "port": port, "tunnel": "raw"})
    said = captured(s, None, port, context)
    assert isinstance(said, bytes) and said.startswith(b"HTTP/1.1 200"), f"an entry that names the address relays it ({said})"
    s.cli("agent", "set", "a", "--from", "none")
    n = len(up.requests)
    assert captured(s, "api.test", port) == "TLSV1_ALERT_ACCESS_DENIED" or len(up.requests) == n
    assert len(up.requests) == n
    s.wait_record({"error": "agent_unknown", "host": "api.test"})
    plain.stop()
    s.stop()
    s.serve(*flags, "--transparent", f"127.0.0.1:{port}=b")
    assert captured(s, "api.test", port).startswith(b"HTTP/1.1 200")
    s.wait_record({"agent": "b", "credential": "one"})


def test_transparent_in_a_namespace(t):
    """an agent in a network namespace whose packets are redirected: curl without any proxy variable"""
    t.need("unshare", "nsenter", "ip", "iptables", "curl")
    if os.getuid() != 0 or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode != 0:
        t.skip("no network namespace can be made here")
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    a, b = [t.start(["unshare", "-n", "sleep", "300"], "/dev/null") for _ in range(2)]
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    wait(lambda: all(os.readlink(f"/proc/{p.pid}/ns/net") != os.readlink("/proc/self/ns/net") for p in (a, b)), 5, "a namespace")

    def inside(p, *args):
        return subprocess.run(["nsenter", f"--net=/proc/{p.pid}/ns/net", *map(str, args)], capture_output=True, text=True)
    for p, address, name in ((a, "10.213.7.1", "va"), (b, "10.213.7.2", "vb")):
        inside(p, "ip", "link", "set", "lo", "up")
        if p is a:
            r = inside(a, "ip", "link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", b.pid)
            if r.returncode != 0:
                t.skip("no veth can be made here: " + r.stderr.strip())
        inside(p, "ip", "addr", "add", address + "/24", "dev", name)
        inside(p, "ip", "link", "set", name, "up")
    inside(b, "ip", "route", "add", "default", "via", "10.213.7.1")
    r = inside(a, "iptables", "-t", "nat", "-A", "PREROUTING", "-i", "va", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "7081")
    if r.returncode != 0:
        t.skip("no rule can be set here: " + r.stderr.strip())
    fd = os.open(f"/proc/{a.pid}/ns/net", os.O_RDONLY)
    assert libc.setns(fd, 0) == 0
    try:
        s, up = t.proxy(serve=False)
    finally:
        assert libc.setns(here, 0) == 0
    s.credential({"name": "one", "secrets": {"token": AUTH["api"]}})
    s.domain({"host": "plain.test", "port": 80})
    s.cli("agent", "set", "a", "--from", "10.213.7.0/24")
    s.wrap = ["nsenter", f"--net=/proc/{a.pid}/ns/net"]
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", "--transparent", "0.0.0.0:7081", "--transparent", "[::]:7081")

    def curl(url, *args):
        r = inside(b, "curl", "-sS", "--max-time", 20, "--cacert", s.ca, *args, url, "-w", " %{http_code}")
        return r.stdout[-3:], r.stderr + r.stdout
    code, said = curl("https://api.test/n", "--resolve", "api.test:443:203.0.113.5")
    assert code == "200" and who(s, up) == f"Bearer {AUTH['api']}", said
    rec = s.wait_record({"agent": "a", "host": "api.test"})
    assert rec["client"].startswith("10.213.7.2:") and rec["port"] == 443, rec
    n = len(up.requests)
    code, said = curl("https://api.test:8443/n", "--resolve", "api.test:8443:203.0.113.5")
    assert code == "403" and "host_not_allowed" in said, "of the address the port counts"
    code, said = curl("https://other.test/n", "--resolve", "other.test:443:203.0.113.5")
    assert code == "403" and "host_not_allowed" in said
    code, said = curl("https://203.0.113.5/n")
    assert code == "403" and "host_not_allowed" in said, said
    code, said = curl("http://other.test/n", "--resolve", "other.test:80:203.0.113.5")
    assert code == "403" and len(up.requests) == n, said
    # the rules that `sallyport nft` prints, in the place of iptables', for IPv6 too; then TPROXY's
    if not shutil.which("nft"):
        return

    def nft(rules):
        return subprocess.run(["nsenter", f"--net=/proc/{a.pid}/ns/net", "nft", "-f", "-"], input=rules, capture_output=True, text=True)
    inside(a, "iptables", "-t", "nat", "-F")
    for p, address, name in ((a, "fd13::1/64", "va"), (b, "fd13::2/64", "vb")):
        inside(p, "ip", "addr", "add", address, "dev", name, "nodad")
    inside(b, "ip", "-6", "route", "add", "default", "via", "fd13::1")
    s.cli("agent", "set", "a", "--from", "10.213.7.0/24", "--from", "fd13::/64")
    r = nft(s.cli("nft", "--port", "7081").stdout)
    assert r.returncode == 0, r.stderr

    def arrives(what):
        for address in ("203.0.113.5", "[2001:db8::5]"):
            n = len(up.requests)
            code, said = curl("https://api.test/n", "--resolve", f"api.test:443:{address}")
            assert code == "200" and len(up.requests) == n + 1, (what, address, said)
    arrives("nft")
    code, said = curl("https://api.test:8443/n", "--resolve", "api.test:8443:203.0.113.5", "--connect-timeout", "1")
    assert code == "000", "nothing else leaves"
    assert nft("delete table inet sallyport").returncode == 0

    def doctor():
        return subprocess.run(["nsenter", f"--net=/proc/{a.pid}/ns/net", s.binary, "doctor"], env=s.env, capture_output=True, text=True).stdout
    assert "takes what REDIRECT sends; not what TPROXY sends: no rule leads marked" in doctor() and "ip rule add fwmark 1" in doctor(), doctor()
    for family, net in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        inside(a, "ip", family, "rule", "add", "fwmark", "1", "lookup", "100")
        inside(a, "ip", family, "route", "add", "local", net, "dev", "lo", "table", "100")
    r = nft("""table inet tp {
        chain c {
            type filter hook prerouting priority mangle; policy accept;
            iifname "va" tcp dport 443 meta nfproto ipv4 tproxy ip to :7081 meta mark set 1 accept
            iifname "va" tcp dport 443 meta nfproto ipv6 tproxy ip6 to :7081 meta mark set 1 accept
        }
    }
    """)
    assert "takes what REDIRECT sends, and TPROXY" in doctor() or "the kernel has no nft_tproxy" in doctor(), doctor()
    if r.returncode != 0 and "No such file" in r.stderr:        # this kernel has no TPROXY
        return
    assert r.returncode == 0, r.stderr
    arrives("TPROXY")
    r = subprocess.run(["nsenter", f"--net=/proc/{a.pid}/ns/net", s.binary, "agent", "set", "a", "--from", "va"], env=s.env, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    arrives("the interface alone, by IPv4 and IPv6")


def test_nft(t):
    """the rules name the agents' addresses and the listener's port, and nft takes them where it is installed"""
    import shutil
    s = t.bare()
    s.init()
    assert "no transparent listener" in s.cli("nft", check=False).stderr
    s.cli("set", "transparent", "0.0.0.0:7081")
    assert "no agent has a source address" in s.cli("nft", check=False).stderr
    s.agent("a")
    s.cli("agent", "set", "a", "--from", "10.0.5.0/24", "--from", "fd00:5::/64")
    said = s.cli("nft").stdout
    for line in ("elements = { 10.0.5.0/24 }", "elements = { fd00:5::/64 }", "ip saddr @agents_ipv4 tcp dport { 80, 443 } redirect to :7081", "ip6 saddr @agents_ipv6 drop"):
        assert line in said, (line, said)
    other = s.cli("nft", "--interface", "veth0", "--port", "7099", "--tcp", "8443").stdout
    s.cli("agent", "set", "a", "--from", "lo")
    assert 'iifname "lo" drop' in s.cli("nft").stdout
    assert 'iifname "veth0" tcp dport { 8443 } redirect to :7099' in other and "set agents" not in other, other
    for bad in (["--interface", 'x" accept'], ["--port", "0x1"], ["--port", "70000"], ["--tcp", "a"]):
        assert s.cli("nft", *bad, check=False).returncode == 2, bad
    if shutil.which("nft"):
        for text in (said, other):
            r = subprocess.run(["nft", "-c", "-f", "-"], input=text, capture_output=True, text=True)
            assert r.returncode == 0 or "not permitted" in r.stderr, r.stderr
