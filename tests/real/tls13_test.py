"""TLS 1.3 towards upstreams by the system's OpenSSL: real servers, what it may not do, and servers that misbehave."""
import ctypes
import hashlib
import os
import pathlib
import re
import socket
import ssl
import subprocess
import threading
import time
import unittest.mock

import grpc_test
import sallyport
from h2_test import curl
from mtls_test import Clients, add, who
from peers import Upstream, each_connection, read_head
from real import wait
from servers import ConnectProxy, free_port, nginx

WHO = """ssl_client_certificate {ca}; ssl_verify_client %s; ssl_session_cache shared:a:1m; ssl_protocols %s;
    location = /who {{ return 200 "$ssl_client_verify $ssl_client_s_dn $ssl_session_reused $connection $ssl_protocol $server_protocol $ssl_curve"; }}"""
FAULTS = {"expired": "certificate expired", "not_yet": "not yet valid", "wrong_name": "certificate name mismatch", "no_san": "certificate name mismatch",
          "self_signed": "untrusted certificate (self-signed", "unknown_root": "untrusted certificate (unknown issuer", "incomplete": "missing intermediate",
          "tls10_only": "protocol version (offers only TLS 1.1 or older)", "tls11_only": "protocol version (offers only TLS 1.1 or older)"}


def arrange(t, protocols="TLSv1.3", verify="off", more="", **env):
    s = t.bare(1)
    s.init()
    clients = Clients(s.dir)
    port, home = nginx(t, s.dir, more=(WHO % (verify, protocols)).format(ca=clients.home / "ca.pem") + more)
    s.agent()
    s.env.update(env)
    return s, clients, port


def host(name):
    return name + (".test" if name == "api" else ".x.test")


def serve(s, **ports):
    flags = [f for name, port in ports.items() for f in ("--connect-to", f"{host(name)}:443:127.0.0.1:{port}")]
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", *flags)


def private(pid):
    return sum(int(n) for n in re.findall(r"^Private_\w+: +(\d+) kB", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M))


def libraries(s):
    return set(re.findall(r"/\S*/lib(?:ssl|crypto)\S*", "".join(pathlib.Path(f"/proc/{pid}/maps").read_text() for pid in s.worker_pids())))


def ask(s, name="api", **more):
    return s.request(host=host(name), headers={"Connection": "close"}, **more)


def test_nginx(t):
    """nginx with TLS 1.3 alone gets the credential; loaded by the first that needs it; remembered; resumed; 6 MB at most; what the settings do"""
    s, clients, port = arrange(t)
    old = Upstream({"tls": "ok"}, sallyport.certs())
    old.context.maximum_version = ssl.TLSVersion.TLSv1_2
    for name in "api", "old":
        add(s, name, host=host(name))
    s.agent("b", ["default"])
    serve(s, api=port, old=old.port)
    assert ask(s, "old").status == 200 and not libraries(s), "a box that never needs it keeps its memory"
    before = {pid: private(pid) for pid in s.worker_pids()}
    first = who(s)
    assert first[4:] == ["TLSv1.3", "HTTP/1.1", "X25519"] and first[2] == ".", first
    said = s.request(target="/whoami").body.decode()
    assert said.startswith("auth=Bearer __SALLYPORT_SECRET__"), said        # it came there, and was taken out of the answer
    second = who(s, auth=s.auth(name="b"))
    assert second[2] == "r" and second[3] != first[3], ("another agent's connection resumes", second)
    assert all(p.startswith(("/usr/lib", "/lib")) for p in libraries(s)) and len(libraries(s)) == 2, libraries(s)
    grown = [private(pid) - before[pid] for pid in s.worker_pids()]
    assert all(n < 6 * 1024 for n in grown) or "asan" in str(s.binary), grown
    s.cli("set", "upstream-tls", "bearssl")
    r = ask(s)
    assert r.status == 502 and r.get("x-sallyport-error") == "upstream_tls" and b"refuses TLS 1.2; it may speak only TLS 1.3" in r.body, r.body
    assert ask(s, "old").status == 200
    s.cli("set", "upstream-tls", "openssl")
    assert who(s)[4] == "TLSv1.3" and ask(s, "old").status == 200
    said = s.cli("doctor", check=False).stdout
    assert re.search(r"upstream TLS +OpenSSL 3\.\d", said), said
    assert re.search(r"OpenSSL 3\.\d+\.\d+ of this system \(TLS 1\.3\)", s.cli("version").stdout)
    assert s.cli("set", "upstream-tls", "gnutls", check=False).returncode == 2
    old.stop()


def test_sizes(t):
    """bodies of many records both ways, over TLS 1.3 and 1.2"""
    for protocols in "TLSv1.3", "TLSv1.2":
        s, clients, port = arrange(t, protocols)
        add(s, "api")
        s.cli("set", "upstream-tls", "openssl")
        serve(s, api=port)
        body = bytes(range(256)) * 4096 * 3
        assert s.request("PUT", "/put/x", body=body).status in (201, 204), protocols
        r = s.request(target="/put/x")
        assert r.body == body and who(s)[4] == protocols, (protocols, r.status, len(r.body))
        assert b"hello from nginx" in s.request(target="/hello.txt").body


def test_http2(t):
    """HTTP/2 over TLS 1.3: found by ALPN behind a handshake that BearSSL lost; many requests on one connection; bodies both ways;
    through an upstream proxy, too, which is asked again for the second handshake"""
    h2 = free_port()
    s, clients, port = arrange(t, more=f"listen 127.0.0.1:{h2} ssl http2;")
    for name in "api", "far":
        add(s, name, host=host(name))
    serve(s, api=h2)
    first, second = (curl(s, "--http2", "https://api.test/who").stdout.split(" ") for _ in range(2))
    assert first[4:6] == ["TLSv1.3", "HTTP/2.0"] and first[2] == "." and second[3] == first[3], (first, second)
    assert who(s)[5] == "HTTP/1.1"
    body = s.dir / "body"
    body.write_bytes(bytes(range(256)) * 4096)
    assert curl(s, "--http2", "-T", str(body), "-o", "/dev/null", "-w", "%{http_version} %{response_code}", "https://api.test/put/x").stdout == "2 201"
    curl(s, "--http2", "-o", str(s.dir / "back"), "https://api.test/put/x")
    assert (s.dir / "back").read_bytes() == body.read_bytes()
    assert all(r["upstream_h2"] for r in s.records() if r.get("h2")) and len(s.records()) == 5
    corp = ConnectProxy({host("far"): h2})
    s.cli("set", "upstream-proxy", corp.url)
    got = curl(s, "--http2", f"https://{host('far')}/who").stdout.split(" ")
    assert got[4:6] == ["TLSv1.3", "HTTP/2.0"] and corp.hosts() == [host("far") + ":443"] * 2, (got, corp.heads)
    assert who(s, host=host("far"))[4:6] == ["TLSv1.3", "HTTP/1.1"] and len(corp.heads) == 3, corp.heads     # remembered


def test_grpc(t):
    """gRPC over TLS 1.3: every shape of a call, and messages of 16 MiB each way"""
    s, server, c = grpc_test.arrange(t)
    s.cli("set", "upstream-tls", "openssl")
    assert c.call("unary", 1000)["ok"] and c.call("down", 50)["ok"] and c.call("up", 200)["ok"] and c.call("both", 40)["ok"]
    assert c.call("crowd", 30)["ok"] and c.call("unary", 16 << 20)["ok"]
    wait(lambda: server.named("unary"), what="the server's word of the call")
    assert server.named("unary")[0]["authorization"] == f"Bearer {grpc_test.TOKEN}"
    assert libraries(s) and all(r["upstream_h2"] for r in s.records())


class OpenSSL:
    """A server on libssl itself, which does what Python's ssl has no call for: play(server, ssl) once a request's head has come."""

    def __init__(self, play, tickets=2):
        self.lib, self.play = ctypes.CDLL("libssl.so.3"), play
        for name in "TLS_server_method", "SSL_CTX_new", "SSL_new":
            getattr(self.lib, name).restype = ctypes.c_void_p
        pem = bytes(sallyport.certs() / "ok.pem")
        self.context = ctypes.c_void_p(self.lib.SSL_CTX_new(ctypes.c_void_p(self.lib.TLS_server_method())))
        assert self.lib.SSL_CTX_use_certificate_chain_file(self.context, pem) == self.lib.SSL_CTX_use_PrivateKey_file(self.context, pem, 1) == 1
        self.lib.SSL_CTX_set_num_tickets(self.context, ctypes.c_size_t(tickets))
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        each_connection(self.sock, self.serve)

    def serve(self, sock):
        sock.settimeout(None)
        tls, head = ctypes.c_void_p(self.lib.SSL_new(self.context)), ctypes.create_string_buffer(4096)
        self.lib.SSL_set_fd(tls, sock.fileno())
        if self.lib.SSL_accept(tls) == 1 and self.lib.SSL_read(tls, head, len(head)) > 0:
            self.play(self, tls)
        self.lib.SSL_free(tls)
        sock.close()

    def say(self, tls, data):
        return self.lib.SSL_write(tls, data, len(data)) > 0

    def update(self, tls, asks):
        """A KeyUpdate, which may ask for one of the client's."""
        return self.lib.SSL_key_update(tls, asks) == self.lib.SSL_do_handshake(tls) == 1


def updates(server, tls):
    """Some: before the answer, within its head and within its body."""
    server.say(tls, b"HTTP/1.1 200 OK\r\nContent-Le")
    assert all(server.update(tls, i % 2) for i in range(10)) and server.say(tls, b"ngth: 200\r\n\r\n")
    assert all(server.say(tls, b"x" * 20) and server.update(tls, 1) and server.update(tls, 0) for _ in range(10))


def flood(server, tls):
    while server.update(tls, 0):
        pass


def flood_that_asks(server, tls):
    server.say(tls, b"HTTP/1.1 200 OK\r\n\r\npart of a body")
    while server.update(tls, 1):
        pass


def spent(pid):
    """Seconds of a processor."""
    return sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def test_floods(t):
    """KeyUpdates and tickets are taken; a flood of them ends the connection, costs little, and holds up nobody"""
    s, clients, port = arrange(t)
    servers = {"some": OpenSSL(updates), "flood": OpenSSL(flood), "asking": OpenSSL(flood_that_asks), "tickets": OpenSSL(updates, 30000)}
    for name in ["api", *servers]:
        add(s, name, host=host(name))
    s.cli("set", "upstream-tls", "openssl")
    serve(s, api=port, **{name: u.port for name, u in servers.items()})
    assert ask(s, target="/hello.txt").status == 200
    r = ask(s, "some")
    assert r.status == 200 and r.body == b"x" * 200, (r.status, r.body)
    pids = s.worker_pids()
    before, memory = sum(map(spent, pids)), sum(map(private, pids))
    for name in "flood", "tickets":
        r = ask(s, name)
        assert r.status == 502 and b"too many messages that carry nothing" in r.body, (name, r.status, r.body)
    r = ask(s, "asking")
    assert r.status == 200 and b"part of a body" in r.body and b"0\r\n\r\n" not in r.body, (r.status, r.body)
    assert ask(s, target="/hello.txt").status == 200
    took, grown = sum(map(spent, pids)) - before, sum(map(private, pids)) - memory
    assert "asan" in str(s.binary) or (took < 1.5 and grown < 2048), (took, grown)


def test_half_message(t):
    """a server that begins a message of the handshake within a request, and does not end it: that request fails, and nobody else's"""
    s, clients, port = arrange(t)
    begun = threading.Event()
    long = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(
        lambda tls, _: u.lib.SSL_SESSION_set1_ticket_appdata(ctypes.c_void_p(u.lib.SSL_get_session(ctypes.c_void_p(tls))), bytes(2000), ctypes.c_size_t(2000)))

    def half(server, tls):
        """The first record of a ticket that needs several."""
        ours, theirs = socket.socketpair()
        wire = socket.socket(fileno=os.dup(server.lib.SSL_get_fd(tls)))
        server.lib.SSL_set_wfd(tls, theirs.fileno())
        server.lib.SSL_ctrl(tls, 52, ctypes.c_long(512), None)          # SSL_CTRL_SET_MAX_SEND_FRAGMENT
        server.lib.SSL_CTX_set_session_ticket_cb(server.context, long, None, None)
        assert server.lib.SSL_new_session_ticket(tls) == server.lib.SSL_do_handshake(tls) == 1
        sent = ours.recv(65536)
        first = 5 + int.from_bytes(sent[3:5], "big")
        assert len(sent) > first
        wire.sendall(sent[:first])
        begun.set()
        while wire.recv(65536):
            pass
    u = OpenSSL(half)
    u.lib.SSL_get_session.restype = ctypes.c_void_p
    for name, at in ("api", port), ("half", u.port):
        add(s, name, host=host(name))
    s.cli("set", "upstream-tls", "openssl")
    serve(s, api=port, half=u.port)
    assert ask(s, target="/hello.txt").status == 200
    pids = s.worker_pids()
    w = s.tunnel(host("half"))
    w.send(f"PUT /x HTTP/1.1\r\nHost: {host('half')}\r\nContent-Length: 10000000\r\n\r\n".encode())
    assert begun.wait(20 * sallyport.SLOW)
    answer = b""
    for _ in range(1000):       # the rest of the body, until the answer
        try:
            w.send(b"x" * 10000)
            answer = w.recv(0.05)
        except TimeoutError:
            continue
        except OSError:
            pass
        break
    assert answer == b"" or b" 502 " in answer, answer
    assert ask(s, target="/hello.txt").status == 200 and pids == s.worker_pids()
    s.wait_record({"host": host("half"), "error": "upstream_tls"})


def test_client_certificates(t):
    """over TLS 1.3 and 1.2: RSA and EC certificates are shown, sessions of two identities are apart, what nginx says without one"""
    for protocols in "TLSv1.3", "TLSv1.2":
        s, clients, port = arrange(t, protocols, "on")
        add(s, "api", *clients.make("one"))
        s.cli("set", "upstream-tls", "openssl")
        serve(s, api=port)
        for kind in "ec", "rsa", "p384":
            s.cli("credential", "set", "api", *clients.make(f"me-{kind}", kind))
            first, second = who(s), who(s)
            assert first[0] == "SUCCESS" and f"CN=me-{kind}" in first[1] and first[4] == protocols, first
            assert second[3] == first[3], "the connection is kept"
        s.cli("credential", "set", "api", "--clear", "client_cert")
        assert s.request(target="/who").status == 400


def test_required_certificate(t):
    """a server that ends the handshake for want of a client certificate: in TLS 1.3 it says so behind it"""
    s, clients, port = arrange(t)
    up = Upstream({"tls": "tls13_only"}, sallyport.certs())
    up.context.verify_mode = ssl.CERT_REQUIRED
    up.context.load_verify_locations(clients.home / "ca.pem")
    add(s, "api")
    serve(s, api=up.port)
    r = ask(s)
    assert r.status == 502 and b"client certificate wanted" in r.body and not up.requests, r.body
    s.cli("credential", "set", "api", *clients.make("me"))
    assert ask(s).status == 200 and len(up.requests) == 1
    up.stop()


def test_faults(t):
    """certificates and versions that are refused: in the same words as with BearSSL, and not one byte of the request sent"""
    s, clients, port = arrange(t)
    ups = {name: Upstream({"tls": name}, sallyport.certs()) for name in FAULTS}
    ups["rsa"], ups["chain"] = (Upstream({"tls": name}, sallyport.certs()) for name in ("rsa", "chain"))
    for name in ups:
        add(s, name.replace("_", "-"), host=host(name.replace("_", "-")))
    s.cli("set", "upstream-tls", "openssl")
    serve(s, **{name.replace("_", "-"): up.port for name, up in ups.items()})
    for name, up in ups.items():
        r = ask(s, name.replace("_", "-"))
        if name in FAULTS:
            assert r.status == 502 and r.get("x-sallyport-error") == "upstream_tls" and FAULTS[name] in r.body.decode(), (name, r.status, r.body)
            assert not up.plaintext and not up.requests, name
        else:
            assert r.status == 200, (name, r.body)
        up.stop()


def test_pins(t):
    """a pinned key over TLS 1.3, and another's"""
    s, clients, port = arrange(t)
    der = ssl.PEM_cert_to_DER_cert(re.search(r"-----BEGIN CERT.*?-----END CERTIFICATE-----", (sallyport.certs() / "wrong_name.pem").read_text(), re.S)[0])
    up = Upstream({"tls": "wrong_name"}, sallyport.certs())
    up.context.minimum_version = ssl.TLSVersion.TLSv1_3
    add(s, "api", f"ca=sha256:{hashlib.sha256(der).hexdigest()}")
    serve(s, api=up.port)
    assert ask(s).status == 200
    s.cli("credential", "set", "api", f"ca=sha256:{'0' * 64}")
    r = ask(s)
    assert r.status == 502 and b"not the one that ca pins" in r.body and len(up.requests) == 1, r.body
    up.stop()


class Rogue:
    """TLS 1.3, then play(tls, sock)."""

    def __init__(self, play):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.load_cert_chain(sallyport.certs() / "ok.pem")
        self.play, self.sock = play, socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        each_connection(self.sock, self.serve)

    def serve(self, sock):
        try:
            self.play(self, sock)
        except (OSError, ssl.SSLError):
            pass
        finally:
            sock.close()


def tls(self, sock):
    t = self.context.wrap_socket(sock, server_side=True)
    read_head(lambda: t.recv(4096))
    return t


def truncated(self, sock):
    t = tls(self, sock)
    t.sendall(b"HTTP/1.1 200 OK\r\n\r\npart of a body")
    socket.socket(fileno=t.detach()).shutdown(socket.SHUT_RDWR)     # no close_notify


def whole(self, sock):
    t = tls(self, sock)
    t.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of a body")
    t.unwrap()


def damaged(self, sock):
    t = tls(self, sock)
    raw = socket.socket(fileno=t.detach())
    raw.sendall(b"\x17\x03\x03\x00\x40" + b"x" * 64)
    raw.recv(100)


def long_record(self, sock):
    t = tls(self, sock)
    raw = socket.socket(fileno=t.detach())
    raw.sendall(b"\x17\x03\x03\x48\x00" + b"x" * 0x4800)
    raw.recv(100)


def huge_chain(self, sock):
    # A Certificate message that says 16 MB, behind a real ServerHello it cannot be in the clear: in TLS 1.2.
    hello = b"\x03\x03" + b"r" * 32 + b"\0" + b"\xc0\x2b\0" + b"\x00\x05\xff\x01\0\x01\0"
    sock.recv(4096)
    hello = b"\x02" + len(hello).to_bytes(3, "big") + hello
    sock.sendall(b"\x16\x03\x03" + len(hello).to_bytes(2, "big") + hello)
    for _ in range(1200):
        sock.sendall(b"\x16\x03\x03\x40\x00" + (b"\x0b\xff\xff\xff\xff\xff\xfc" if _ == 0 else b"").ljust(0x4000, b"y"))


def garbage(self, sock):
    sock.sendall(b"HTTP/1.1 400 this is no TLS\r\n\r\n")
    sock.recv(1)


def silent(self, sock):
    sock.recv(4096)
    time.sleep(12 * sallyport.SLOW)


ROGUES = {truncated: (200, b"part of a body"), whole: (200, b"all of a body"), damaged: (502, b""), long_record: (502, b""),
          huge_chain: (502, b"upstream_tls"), garbage: (502, b"not TLS"), silent: (502, b"took too long")}


def test_rogues(t):
    """servers that cut, damage, flood, stall: each ends its own connection; a body that is cut is not passed for whole; others go on"""
    s, clients, port = arrange(t)
    servers = {play.__name__.replace("_", "-"): Rogue(play) for play in ROGUES}
    for name in ["api", *servers]:
        add(s, name, host=host(name))
    s.cli("set", "upstream-tls", "openssl")
    serve(s, api=port, **{name: r.port for name, r in servers.items()})
    assert ask(s, target="/hello.txt").status == 200
    before = {pid: private(pid) for pid in s.worker_pids()}
    for play, (status, text) in ROGUES.items():
        name = play.__name__.replace("_", "-")
        r = ask(s, name)
        assert r.status == status and text in r.body and (play is not truncated or b"0\r\n\r\n" not in r.body), f"{name} {r.status} {r.body}"
        assert ask(s, target="/hello.txt").status == 200
    grown = [private(pid) - n for pid, n in before.items()]
    assert all(n < 2048 for n in grown) or "asan" in str(s.binary), grown
    log = s.log()
    assert "error:0" not in log and "SSL routines" not in log, log


def test_environment(t):
    """no variable and no file but the two libraries counts: configuration, key log, LD_LIBRARY_PATH"""
    home = t.bare().dir
    (home / "lib").mkdir()
    for name in "libssl.so.3", "libcrypto.so.3":
        (home / "lib" / name).write_text("no library")
    (home / "conf").write_text("openssl_conf = x\n[x]\nssl_conf = y\n[y]\nsystem_default = z\n[z]\nMaxProtocol = TLSv1.2\nCipherString = none\n")
    s, clients, port = arrange(t, OPENSSL_CONF=str(home / "conf"), SSLKEYLOGFILE=str(home / "keys"), LD_LIBRARY_PATH=str(home / "lib"),
                               OPENSSL_ia32cap="0:0", OPENSSL_MODULES=str(home / "lib"), SSL_CERT_FILE="/dev/null")
    add(s, "api")
    serve(s, api=port)
    assert who(s)[4] == "TLSv1.3" and not (home / "keys").exists()
    assert str(home) not in "".join(libraries(s)) and len(libraries(s)) == 2, libraries(s)


def hello(start):
    """The ClientHello that start(port) makes: its suites, and its extensions with what is in them, but for what is drawn anew."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = start(listener.getsockname()[1])
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(10)
            data = b""
            while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
                data += sock.recv(4096)
        ended()
    at = 5 + 4 + 2 + 32
    at += 1 + data[at]
    n = int.from_bytes(data[at:at + 2], "big")
    suites, at = data[at + 2:at + 2 + n].hex(), at + 2 + n
    at += 1 + data[at] + 2
    extensions = []
    while at < len(data):
        kind, n = int.from_bytes(data[at:at + 2], "big"), int.from_bytes(data[at + 2:at + 4], "big")
        body = data[at + 4:at + 4 + n]
        extensions.append((kind, body[:6].hex() if kind == 51 else body.hex()))      # key_share: the group, its length
        at += 4 + n
    return suites, extensions


def test_hello(t):
    """the ClientHello is that of `openssl s_client -alpn`, field by field"""
    s, clients, port = arrange(t)
    add(s, "api")
    s.cli("set", "upstream-tls", "openssl")
    spare = socket.create_server(("127.0.0.1", 0))
    at = spare.getsockname()[1]
    serve(s, api=at)

    def ours(port):
        spare.close()
        thread = threading.Thread(target=lambda: ask(s))
        thread.start()
        return thread.join

    def theirs(port):
        p = subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "api.test", "-alpn", "http/1.1", "-min_protocol", "TLSv1.2"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return p.wait

    want = hello(theirs)
    spare.close()
    listener = socket.create_server(("127.0.0.1", at))
    listener.close()
    with unittest.mock.patch("socket.create_server", lambda address, real=socket.create_server: real(("127.0.0.1", at))):
        got = hello(ours)
    assert got == want, f"{got}\n{want}"
