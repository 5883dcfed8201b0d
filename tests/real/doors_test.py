"""The doors to the proxy beside a token on its port: Unix sockets, listeners bound to an agent, inherited ones, source addresses."""
import json
import os
import pathlib
import re
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
                "unix:/" + "x" * 107, "unix:@abstract", "127.0.0.1:1=", "127.0.0.1:1=a b", "=a", "fd:x", "fd:", "fd:123", "127.0.0.1:7080=../x", "unix:/a\n"):
        r = s.cli("set", "listen", bad, check=False)
        assert r.returncode == 2 and len(r.stderr) > 20, (bad, r.stderr)


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
    assert s.cli("env", "--agent", "b").stdout.count(f"@127.0.0.1:{at['b']}") > 3, "`env` names the agent's own listener"
    s.cli("agent", "add", "nobody", "--bundle", "second")
    ask(s, at["nobody"])
    assert who(s, up) == f"Bearer {AUTH['b']}"
    rec = s.wait_record({"agent": "nobody", "decision": "allow"})
    assert rec["listener"] == f"127.0.0.1:{at['nobody']}", rec
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
    s.cli("agent", "set", "a", "--from", "10.0.0.0/8", "--from", "fd00::/8")
    assert [from_(x) for x in ("127.0.0.1", "127.0.0.9")] == [407, "b"]
    for bad in ("10.0.0.0/33", "x", "", "10.0.0.1/8/8"):
        assert s.cli("agent", "set", "a", "--from", bad, check=False).returncode == 2, bad
    r = s.cli("agent", "set", "a", "--from", "127.0.0.9/32", check=False)
    assert r.returncode == 1 and "agent b's" in r.stderr
    s.cli("agent", "remove", "b")
    assert from_("127.0.0.9") == 407


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
