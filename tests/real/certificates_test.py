"""Certificates above the leaf, end to end: the matrix of tests/certificates.py, and tls=legacy."""
import json
import socket
import ssl
import time
import zlib

import certificates
import peers
import sallyport


def matrix():
    """Made anew each week, and when what is made has changed."""
    spec = repr([{k: v for k, v in r.items() if k != "dir"} for r in certificates.ROWS])
    return certificates.make(sallyport.BUILD / f"matrix-{int(time.time() // 604800)}-{zlib.crc32(spec.encode()):x}")


class Server:
    """TLS with one certificate; every request is answered, and its Authorization kept."""

    def __init__(self, chain, key, ciphers=None, version=ssl.TLSVersion.TLSv1_2):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.set_ciphers(ciphers or "DEFAULT:@SECLEVEL=0")      # some rows have weak keys
        self.context.maximum_version = version
        self.context.load_cert_chain(chain, key)
        self.seen, self.handshakes, self.resumed, self.why = [], 0, 0, None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        peers.each_connection(self.listener, self.converse)

    def converse(self, sock):
        try:
            with self.context.wrap_socket(sock, server_side=True) as tls:
                self.handshakes += 1
                self.resumed += tls.session_reused
                data = b""
                while True:
                    part = tls.recv(65536)
                    if not part:
                        return
                    data += part
                    while b"\r\n\r\n" in data:
                        head, data = data.split(b"\r\n\r\n", 1)
                        self.seen.append([line.partition(": ")[2] for line in head.decode().split("\r\n") if line.lower().startswith("authorization:")])
                        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except OSError as e:
            self.why = e

    def stop(self):
        self.listener.close()


def test_oracle(t):
    """openssl verify says the same of each path, but where the row says otherwise"""
    wrong = []
    for spec in matrix():
        said = certificates.judge(spec) if spec["openssl"] != "skip" else "skip"
        if not said.startswith(spec["openssl"]):
            wrong.append((spec["name"], spec["openssl"], said))
    assert not wrong, "\n".join(map(str, wrong))


def begin(t):
    s = t.bare()
    s.init()
    s.agent()
    s.cli("bundle", "add", "old")
    s.agent("old", ["old"])
    return s


def test_matrix(t):
    """each path, played to the proxy by a server of its own, over BearSSL and, in TLS 1.3, over OpenSSL: the same words"""
    rows = matrix()
    s = begin(t)
    servers = [Server(r["dir"] / "chain.pem", r["dir"] / "leaf.key", version=ssl.TLSVersion.TLSv1_3) for r in rows]
    roots = s.dir / "roots.pem"
    roots.write_text("".join((r["dir"] / "root.crt").read_text() for r in rows))
    for legacy in False, True:
        for host in {r["host"] for r in rows if r["legacy"] == legacy}:
            ports = ",".join(str(u.port) for r, u in zip(rows, servers) if r["host"] == host and r["legacy"] == legacy)
            s.cli("domain", "add", "old" if legacy else "default", host, "--port", ports, *(["--tls", "legacy"] if legacy else []))
    s.serve("--upstream-ca", roots, "--connect-to", "::127.0.0.1:")
    wrong = []
    for engine in "bearssl", "openssl":
        s.cli("set", "upstream-tls", engine)
        for r, u in zip(rows, servers):
            if engine == "openssl":
                u.context.minimum_version = ssl.TLSVersion.TLSv1_3
            answer = s.request(host=r["host"], port=u.port, auth=s.auth(name="old" if r["legacy"] else "a"), headers={
                "Host": f"[{r['host']}]:{u.port}" if ":" in r["host"] else f"{r['host']}:{u.port}"})
            body, want = answer.body.decode(), r["want"]
            if engine == "bearssl" and r["bear"] is not None:       # a server with such a key says first that it has no other
                want = "no algorithm in common" if "no algorithm in common" in body else r["bear"]
            good = answer.status == 200 and u.seen if want == "" else \
                answer.status == 502 and answer.get("x-sallyport-error") == "upstream_tls" and want in body and not u.seen
            if not good:
                wrong.append((engine, r["name"], r["want"], answer.status, body, len(u.seen)))
            u.seen.clear()
    for u in servers:
        u.stop()
    assert not wrong, "\n".join(map(str, wrong))


def row_of(name):
    return next(r for r in matrix() if r["name"] == name)


def test_constrained_root(t):
    """a root that speaks for one domain alone gets no other host's token, as upstream-ca and as ca="""
    outside, within = row_of("dNSName outside: in the root"), row_of("dNSName within: in the root")
    for how in "upstream-ca", "ca=":
        s = begin(t)
        bad, good = (Server(r["dir"] / "chain.pem", r["dir"] / "leaf.key") for r in (outside, within))
        for name, u, r in ("bad", bad, outside), ("good", good, within):
            s.cli("credential", "add", name, "--type", "bearer", "--host", certificates.HOST, "--port", u.port, f"token=@{s.secret_file('canary-' + name)}",
                  *([f"ca=@{r['dir'] / 'root.crt'}"] if how == "ca=" else []))
        s.serve("--connect-to", "::127.0.0.1:", *([f for r in (outside, within) for f in ("--upstream-ca", r["dir"] / "root.crt")] if how != "ca=" else []))
        r = s.request(host=certificates.HOST, port=bad.port, headers={"Host": f"{certificates.HOST}:{bad.port}"})
        assert r.status == 502 and b"name constraints" in r.body and not bad.seen, (how, r.status, r.body)
        r = s.request(host=certificates.HOST, port=good.port, headers={"Host": f"{certificates.HOST}:{good.port}"})
        assert r.status == 200 and good.seen == [["Bearer canary-good"]], (how, r.status, r.body, good.seen)
        said = s.cli("credential", "test", "bad", f"https://{certificates.HOST}:{bad.port}/", check=False)
        assert "name constraints" in said.stdout + said.stderr, said


def legacy_setup(t, row, ciphers=None):
    s = begin(t)
    r = row_of(row)
    u = Server(r["dir"] / "chain.pem", r["dir"] / "leaf.key", ciphers)
    s.cli("credential", "add", "box", "--type", "bearer", "--host", certificates.HOST, "--port", u.port, f"token=@{s.secret_file('canary-box-token')}")
    s.serve("--connect-to", "::127.0.0.1:", "--upstream-ca", r["dir"] / "root.crt")

    def ask(**more):
        return s.request(host=certificates.HOST, port=u.port, headers={"Host": f"{certificates.HOST}:{u.port}"}, **more)
    return s, u, ask


def test_legacy(t):
    """tls=legacy: a CN for a name, CBC with ECDHE, never RSA key exchange; show, doctor and the hint name it"""
    s, u, ask = legacy_setup(t, "a CN alone", "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0")
    r = ask()
    assert r.status == 502 and b"tls=legacy" in r.body and not u.seen, r.body
    u.context.set_ciphers("DEFAULT")
    r = ask()
    assert r.status == 502 and b"no subjectAltName" in r.body and not u.seen, r.body
    said = s.cli("credential", "test", "box", f"https://{certificates.HOST}:{u.port}/", check=False)
    assert "sallyport credential set box tls=legacy" in said.stdout + said.stderr, said
    s.cli("credential", "set", "box", "tls=legacy")
    u.context.set_ciphers("ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0")
    r = ask()
    assert r.status == 200 and u.seen == [["Bearer canary-box-token"]], (r.status, r.body, u.seen)
    assert "legacy" in s.cli("credential", "show", "box").stdout
    assert json.loads(s.cli("credential", "show", "box", "--json").stdout)["tls"] == "legacy"
    said = s.cli("doctor", check=False).stdout
    assert "box: tls=legacy" in said and "credential set box tls=strict" in said, said
    # Taken back: neither the idle connection nor the session that legacy made serves a strict request.
    before = u.handshakes
    s.cli("credential", "set", "box", "tls=strict")
    r = ask()
    assert r.status == 502 and u.handshakes == before, (r.status, r.body)
    u.context.set_ciphers("DEFAULT")
    r = ask()
    assert r.status == 502 and b"no subjectAltName" in r.body, r.body
    assert "tls" not in json.loads(s.cli("credential", "show", "box", "--json").stdout)
    s.cli("credential", "set", "box", "tls=legacy")
    s.cli("credential", "set", "box", "--clear", "tls")
    assert ask().status == 502
    said = s.cli("credential", "set", "box", "tls=old", check=False)
    assert said.returncode == 2 and "tls is strict or legacy" in said.stderr, said


def test_legacy_rsa(t):
    """RSA key exchange: BearSSL does not offer it, OpenSSL's own ClientHello does, and neither takes it"""
    s, u, ask = legacy_setup(t, "a leaf of RSA, for both", "AES128-GCM-SHA256:AES128-SHA256")
    for how in "tls=strict", "tls=legacy":
        s.cli("credential", "set", "box", how)
        r = ask()
        assert r.status == 502 and b"no algorithm strong enough in common" in r.body and not u.seen, (how, r.body)
    s.cli("set", "upstream-tls", "bearssl")
    r = ask()
    assert r.status == 502 and b"no algorithm in common" in r.body and not u.seen, r.body


def test_legacy_domain(t):
    """domain add --tls legacy: for that entry alone, named by bundle show and doctor; never for all hosts or a tunnel"""
    s, u, ask = legacy_setup(t, "a CN alone")
    s.cli("domain", "add", "old", certificates.HOST, "--port", u.port, "--tls", "legacy")
    r = ask(auth=s.auth(name="old"))
    assert r.status == 200 and u.seen == [[]], (r.status, r.body)
    assert ask().status == 502, "the credential's own is strict"
    assert ask(auth=s.auth(name="old")).status == 200
    assert "tls legacy" in s.cli("bundle", "show", "old").stdout
    assert json.loads(s.cli("bundle", "show", "old", "--json").stdout)["domains"][0]["tls"] == "legacy"
    assert f"{certificates.HOST} of 'old': tls=legacy" in s.cli("doctor", check=False).stdout
    s.cli("domain", "add", "old", certificates.HOST, "--port", u.port)
    assert ask(auth=s.auth(name="old")).status == 502, "replaced without it"
    for more in ["*", "--tls", "legacy"], [certificates.HOST, "--tunnel", "--tls", "legacy"], [certificates.HOST, "--tls", "1.0"]:
        assert s.cli("domain", "add", "old", *more, check=False).returncode == 2, more


def test_pin(t):
    """a pin stands for the name, with and without legacy"""
    s, u, ask = legacy_setup(t, "a CN alone")
    der = ssl.PEM_cert_to_DER_cert((row_of("a CN alone")["dir"] / "leaf.crt").read_text())
    import hashlib
    s.cli("credential", "set", "box", f"ca=sha256:{hashlib.sha256(der).hexdigest()}")
    assert ask().status == 200
    s.cli("credential", "set", "box", "tls=legacy")
    assert ask().status == 200
    s.cli("credential", "set", "box", "ca=sha256:" + "0" * 64)
    r = ask()
    assert r.status == 502 and b"not the one that ca pins" in r.body, r.body
