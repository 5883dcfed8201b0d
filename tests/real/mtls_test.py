"""Mutual TLS and further trust: nginx and openssl s_server on the other side."""
import json
import pathlib
import re
import ssl
import subprocess

import sallyport
from servers import nginx

KEYS = {"ec": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "p384": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
        "rsa": ["-newkey", "rsa:2048"], "ed25519": ["-newkey", "ed25519"]}


def openssl(*args):
    return subprocess.run(["openssl", *map(str, args)], check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout


class Clients:
    """A CA for clients, and certificates from it."""

    def __init__(self, home):
        self.home = pathlib.Path(home) / "clients"
        self.home.mkdir()
        openssl("req", "-x509", *KEYS["ec"], "-nodes", "-subj", "/CN=Client CA", "-days", 10, "-keyout", self.home / "ca.key", "-out", self.home / "ca.pem")

    def make(self, name, kind="ec", days=90):
        """-> its arguments for `credential add`."""
        key, csr, crt = (self.home / f"{name}.{x}" for x in ("key", "csr", "crt"))
        openssl("req", "-new", *KEYS[kind], "-nodes", "-subj", f"/O=Test/CN={name}", "-keyout", key, "-out", csr)
        openssl("x509", "-req", "-in", csr, "-CA", self.home / "ca.pem", "-CAkey", self.home / "ca.key", "-CAcreateserial", "-days", days, "-out", crt)
        return [f"client_cert=@{crt}", f"client_key=@{key}"]


WHO = """ssl_client_certificate {ca}; ssl_verify_client %s; ssl_session_cache shared:a:1m; ssl_protocols TLSv1.2;
    location = /who {{ return 200 "$ssl_client_verify $ssl_client_s_dn $ssl_session_reused $connection"; }}
    location = /token {{ return 200 '{{"access_token":"canary-$ssl_client_verify","token_type":"Bearer","expires_in":3600}}'; }}"""


def arrange(t, verify="on", workers=1):
    s = t.bare(workers)
    s.init()
    clients = Clients(s.dir)
    port, home = nginx(t, s.dir, more=(WHO % verify).format(ca=clients.home / "ca.pem"))
    s.agent()
    return s, clients, port, home


def serve(s, port, *more, hosts=("api.test",), root=True):
    flags = [f for h in hosts for f in ("--connect-to", f"{h}:443:127.0.0.1:{port}")]
    s.serve(*(["--upstream-ca", sallyport.certs() / "root.pem"] if root else []), *flags, *more)


def add(s, name, *fields, host="api.test", bundle="default", type="bearer", canary=None):
    canary = canary or f"canary-{name}-token"
    s.cli("credential", "add", name, "--type", type, "--host", host, "--bundle", bundle, f"token=@{s.secret_file(canary)}", *fields)


def who(s, **request):
    r = s.request(target="/who", **request)
    assert r.status == 200, (r.status, r.body)
    return r.body.decode().split(" ")


def test_client_certificates(t):
    """nginx verifies RSA and EC client certificates, each in force at the next request, renewed ones on new connections"""
    s, clients, port, _ = arrange(t)
    add(s, "api", *clients.make("one"))
    serve(s, port)
    for kind in ("ec", "rsa", "p384"):
        s.cli("credential", "set", "api", *clients.make(f"me-{kind}", kind))
        first, second = who(s), who(s)
        assert first[0] == "SUCCESS" and f"CN=me-{kind}" in first[1], first
        assert second[3] == first[3] and second[1] == first[1], "the connection is kept"
    s.cli("credential", "set", "api", "--clear", "client_cert")
    assert s.request(target="/who").status == 400, "without a certificate nginx says so itself"
    shown = s.cli("credential", "show", "api").stdout
    assert "client" not in shown, shown


def test_certificates_never_mix(t):
    """two credentials with certificates of their own for one host share no connection and no session"""
    s, clients, port, _ = arrange(t)
    for name in ("left", "right"):
        s.cli("bundle", "add", name)
        add(s, name, *clients.make(name), bundle=name)
        s.agent(name, [name])
    serve(s, port)
    seen = {}
    for _ in range(3):
        for name in ("left", "right"):
            verify, dn, _, connection = who(s, auth=s.auth(name=name))
            assert verify == "SUCCESS" and f"CN={name}" in dn, (name, dn)
            seen.setdefault(connection, set()).add(name)
    assert all(len(names) == 1 for names in seen.values()), seen
    # Sessions: with the connections gone both resume, each its own.
    for name in ("left", "right"):
        s.cli("agent", "add", name + "2", "--bundle", name)
        token = s.cli("agent", "rotate", name + "2").stdout.strip().splitlines()[-1]
        verify, dn, resumed, _ = who(s, auth=s.auth(token))
        assert f"CN={name}" in dn and resumed == "r", (dn, resumed)


def test_unwanted_certificates(t):
    """one from another CA is refused by nginx; a host that wants none gets the request as ever"""
    s, clients, port, _ = arrange(t, "optional_no_ca")
    stranger = s.dir / "stranger"
    openssl("req", "-x509", *KEYS["ec"], "-nodes", "-subj", "/CN=stranger", "-days", 10, "-keyout", f"{stranger}.key", "-out", f"{stranger}.crt")
    add(s, "api", f"client_cert=@{stranger}.crt", f"client_key=@{stranger}.key")
    serve(s, port)
    assert who(s)[0].startswith("FAILED"), "it was shown, and is not of that CA"


def test_token_endpoint(t):
    """the token endpoint sees the certificate, too"""
    s, clients, port, _ = arrange(t)
    secret = s.secret_file("canary-client-secret")
    s.canaries.append("canary-SUCCESS")
    s.cli("credential", "add", "cc", "--type", "oauth_client_credentials", "--host", "api.test", "token_url=https://auth.test/token",
          "client_id=me", f"client_secret=@{secret}", "scrub=off", *clients.make("me", "rsa"))     # the upstream repeats the request
    serve(s, port, hosts=("api.test", "auth.test"))
    assert who(s)[0] == "SUCCESS"
    assert s.request(target="/whoami").body.decode().startswith("auth=Bearer canary-SUCCESS"), "what the endpoint gave"


def test_websocket(t):
    """an upgrade goes over a connection with the certificate, and to s_server that insists"""
    s = t.bare()
    s.init()
    s.agent()
    clients = Clients(s.dir)
    add(s, "api", *clients.make("me"))
    up = sallyport.Upstream({"reply": {"steps": ["HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "\x81\x02hi"]}}, sallyport.certs())
    s.upstream = up
    up.context.load_verify_locations(clients.home / "ca.pem")
    up.context.verify_mode = ssl.CERT_REQUIRED
    up.context.maximum_version = ssl.TLSVersion.TLSv1_2
    serve(s, up.port)
    wire = s.tunnel()
    wire.send(b"GET /ws HTTP/1.1\r\nHost: api.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
              b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    got = b""
    while b"hi" not in got:
        part = wire.recv(5)
        assert part, got
        got += part
    assert got.startswith(b"HTTP/1.1 101"), got
    wire.close()
    # Whoever shows none cannot get in, and the reason is told.
    s.cli("credential", "set", "api", "--clear", "client_cert")
    r = s.request()
    assert r.status == 502 and r.get("x-sallyport-error") == "upstream_tls" and b"client certificate wanted" in r.body, r.body


def self_signed(home, name, *more, kind="ec"):
    openssl("req", "-x509", *KEYS[kind], "-nodes", "-subj", f"/CN={name}", "-days", 10, *more, "-keyout", f"{home}/{name}.key", "-out", f"{home}/{name}.crt")
    pathlib.Path(f"{home}/{name}.pem").write_text(pathlib.Path(f"{home}/{name}.crt").read_text() + pathlib.Path(f"{home}/{name}.key").read_text())
    return pathlib.Path(f"{home}/{name}.pem"), pathlib.Path(f"{home}/{name}.crt")


def appliance(s, pem, kind="ec"):
    up = sallyport.Upstream({"tls": "rsa" if kind == "rsa" else "ok"}, sallyport.certs())
    up.context.load_cert_chain(pem)
    s.upstream = up
    return up


def test_appliance(t):
    """an appliance with a certificate of its own making, whatever its name: trusted by ca, refused without"""
    for kind in ("ec", "rsa"):
        s = t.bare()
        s.init()
        s.agent()
        pem, crt = self_signed(s.dir, "factory-default", kind=kind)
        up = appliance(s, pem, kind)
        add(s, "api")
        serve(s, up.port, root=False)
        untrusted(s, up)
        s.cli("credential", "set", "api", f"ca=@{crt}")
        r = s.request()
        assert r.status == 200, (kind, r.body)
        # another one of that very name is another one
        _, other = self_signed(s.dir, "factory-default", kind=kind)
        s.cli("credential", "set", "api", f"ca=@{other}")
        r = s.request()
        assert r.status == 502 and r.get("x-sallyport-error") == "upstream_tls", r.body
        s.cli("credential", "set", "api", "--clear", "ca")
        up.reset({})
        untrusted(s, up)


def untrusted(s, up):
    r = s.request()
    assert r.status == 502 and r.get("x-sallyport-error") == "upstream_tls" and b"untrusted" in r.body, (r.status, r.body)
    assert not up.requests


def test_pins(t):
    """ca=sha256:… of the certificate or of its key, in openssl's own notation; with a pin nothing else is trusted"""
    s = t.bare()
    s.init()
    s.agent()
    pem, crt = self_signed(s.dir, "pinned")
    up = appliance(s, pem)
    fingerprint = openssl("x509", "-in", crt, "-noout", "-fingerprint", "-sha256").strip().split("=")[1]
    public = s.dir / "public.pem"
    public.write_text(openssl("x509", "-in", crt, "-noout", "-pubkey"))
    openssl("pkey", "-pubin", "-in", public, "-outform", "der", "-out", s.dir / "public.der")
    key = openssl("dgst", "-sha256", s.dir / "public.der").strip().split("= ")[1]
    add(s, "api", f"ca=sha256:{fingerprint}")
    serve(s, up.port)
    assert s.request().status == 200
    shown = json.loads(s.cli("credential", "show", "api", "--json").stdout)
    assert shown["ca"].startswith("sha256:"), shown
    s.cli("credential", "set", "api", f"ca=sha256:{key}")
    assert s.request().status == 200
    s.cli("credential", "set", "api", f"ca=sha256:{'0' * 64} sha256:{key}")
    r = s.request()
    assert r.status == 200, r.body
    s.cli("credential", "set", "api", f"ca=sha256:{'0' * 64}")
    up.reset({})
    untrusted(s, up)
    # A host of the system's roots is no exception.
    good = sallyport.Upstream({}, sallyport.certs())
    s.cli("set", "connect-to", f"api.test:443:127.0.0.1:{good.port}")
    s.cli("credential", "set", "api", "--clear", "ca")
    good.stop()


def test_further_roots(t):
    """ca adds roots: the host's certificate is checked as ever, its name too; for that credential alone"""
    s = t.bare()
    s.init()
    s.agent()
    up = sallyport.Upstream({"tls": "unknown_root"}, sallyport.certs())
    s.upstream = up
    add(s, "api", f"ca=@{sallyport.certs() / 'stranger.crt'}")
    add(s, "other", host="other.test")
    add(s, "named", f"ca=@{sallyport.certs() / 'stranger.crt'}", host="somewhere-else.example")
    serve(s, up.port, hosts=("api.test", "other.test", "somewhere-else.example"), root=False)
    assert s.request().status == 200
    r = s.request(host="other.test")
    assert r.status == 502 and b"untrusted" in r.body, r.body
    r = s.request(host="somewhere-else.example")
    assert r.status == 502 and b"name" in r.body, r.body


def test_fields(t):
    """each mistake is named; what is kept is shown without the key; expiry is told"""
    s = t.bare()
    s.init()
    clients = Clients(s.dir)
    cert, key = clients.make("me", days=400)
    other_cert, other_key = clients.make("other", "rsa")
    soon_cert, soon_key = clients.make("soon", days=5)
    ed_cert, ed_key = clients.make("ed", "ed25519")
    home = clients.home
    (home / "both.pem").write_text((home / "me.crt").read_text() + (home / "me.key").read_text())
    (home / "broken.crt").write_text((home / "me.crt").read_text().replace("MII", "@@@", 1))
    openssl("ec", "-in", home / "me.key", "-aes128", "-passout", "pass:canary-pass", "-out", home / "locked.key")
    token = f"token=@{s.secret_file('canary-some-token')}"
    s.canaries += [line for line in (home / "me.key").read_text().splitlines() if len(line) == 64]
    for fields, words in [
            ([cert], ["client_key", "missing"]), ([key], ["client_cert", "missing"]), ([cert, other_key], ["client_key", "client_cert", "differ"]),
            ([other_cert, key], ["client_key", "differ"]), ([f"client_cert=@{home}/both.pem", key], ["client_cert", "private key"]),
            ([f"client_cert=@{home}/broken.crt", key], ["client_cert", "damaged"]), ([f"client_cert=@{home}/me.key", key], ["client_cert", "private key"]),
            ([cert, f"client_key=@{home}/me.crt"], ["client_key", "no private key"]), ([ed_cert, ed_key], ["client_key", "RSA"]),
            ([cert, f"client_key=@{home}/locked.key"], ["client_key", "passphrase"]), ([cert, "client_key=abc"], ["client_key", "secret"]),
            (["client_cert=abc", key], ["client_cert", "PEM"]), (["ca=abc"], ["ca", "sha256"]), (["ca=sha256:12"], ["ca", "64"]),
            ([f"ca=@{home}/me.key"], ["ca", "private key"])]:
        r = s.cli("credential", "add", "x", "--type", "bearer", "--host", "x.test", token, *fields, check=False)
        assert r.returncode in (1, 2) and all(w in r.stderr for w in words), (fields, r.returncode, r.stderr)
    s.cli("credential", "add", "me", "--type", "bearer", "--host", "x.test", token, cert, f"client_key=@{home}/both.pem")
    shown = s.cli("credential", "show", "me").stdout
    assert "CN=me" in shown and "CN=Client CA" in shown and re.search(r"client_key\s+\(secret, set\)", shown) and "BEGIN" not in shown, shown
    listed = json.loads(s.cli("credential", "show", "me", "--json").stdout)
    assert listed["client_cert"][0]["subject"] == "O=Test, CN=me" and "client_key" in listed["secrets"], listed
    r = s.cli("credential", "set", "me", other_cert, check=False)
    assert r.returncode == 2 and "differ" in r.stderr, "a certificate without its key"
    r = s.cli("credential", "set", "me", soon_cert, soon_key)
    assert "client_cert expires" in r.stderr, r.stderr
    assert "expires" in s.cli("credential", "show", "me").stdout
    assert "client_cert expires" in s.cli("doctor", check=False).stdout
    s.cli("credential", "set", "me", f"ca=@{home}/ca.pem")
    assert "CN=Client CA" in s.cli("credential", "show", "me").stdout


def test_trial(t):
    """credential test shows the certificate, too"""
    s, clients, port, _ = arrange(t)
    add(s, "api", *clients.make("me"))
    s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
    s.cli("set", "connect-to", f"api.test:443:127.0.0.1:{port}")
    r = s.cli("credential", "test", "api", "https://api.test/who")
    assert "200" in r.stdout, r.stdout
