"""A container registry on loopback: Debian's docker-registry, a token server that signs what it accepts, and nginx in front of both,
with the layout of the registry that it stands for: which hosts, where the realm is, and a host of its own for blobs."""
import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import subprocess
import tarfile
import threading
import time
import urllib.parse

import certs
import sallyport
from real import wait
from servers import free_port, reachable

CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: "{dir}/blobs"}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
{redirect}
http: {{addr: "127.0.0.1:{port}", secret: not-a-secret, relativeurls: true}}
{auth}
"""
TOKEN = 'auth: {{token: {{realm: "{realm}", service: "{service}", issuer: the-issuer, rootcertbundle: "{dir}/token.crt"}}}}'
REDIRECT = 'middleware: {{storage: [{{name: redirect, options: {{baseurl: "https://{blobs}/"}}}}]}}'

NGINX = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.err warn;
events {{ worker_connections 512; }}
http {{
  log_format auth '$host $request_method $request_uri $status $http_authorization';
  access_log {dir}/access.log auth; client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
  uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5; client_max_body_size 0;
  ssl_certificate {dir}/leaf.pem; ssl_certificate_key {dir}/leaf.pem;
  server_names_hash_bucket_size 256; proxy_set_header Host $host; proxy_set_header X-Forwarded-Proto https; proxy_request_buffering off;
  server {{ listen 127.0.0.1:{tls} ssl; server_name {blobs}; root {dir}/blobs;
    location / {{ {refuse_bearer}
      if (-f {dir}/slow) {{ set $limit_rate 600; }} if (-f {dir}/slowish) {{ set $limit_rate 9000; }} }} }}
  server {{ listen 127.0.0.1:{tls} ssl default_server;
    location {realm} {{ proxy_pass http://127.0.0.1:{tokens}; }}
    location ~ /manifests/ {{ if (-f {dir}/busy) {{ return 429; }} {refuse} proxy_pass http://127.0.0.1:{port}; }}
    location / {{ {refuse} proxy_pass http://127.0.0.1:{port}; }} }}
}}
"""
# As ghcr.io does it: who shows a password at the API itself is told that it is wrong, without a challenge.
BASIC = 'add_header WWW-Authenticate "Basic realm=registry" always; if ($http_authorization != "{basic}") {{ return 401; }}'
REFUSE = 'if ($http_authorization ~ "^Basic") { return 403 "{\\"errors\\":[{\\"code\\":\\"DENIED\\"}]}"; }'


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Tokens(http.server.BaseHTTPRequestHandler):
    """GET as in "Token Authentication Specification", POST as in "OAuth2 Token Authentication" of the Distribution project."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        self.give(self.headers.get("Authorization") == self.server.registry.basic, query)

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        r, one = self.server.registry, {k: v[0] for k, v in form.items()}
        known = one.get("grant_type") == "password" and (one.get("username"), one.get("password")) == (r.user, r.password) \
            or one.get("grant_type") == "refresh_token" and one.get("refresh_token") == r.refresh
        form["scope"] = [s for text in form.get("scope", []) for s in text.split(" ")]
        self.give(known and "Authorization" not in self.headers, form, one.get("access_type") == "offline")

    def give(self, known, asked, offline=False):
        r = self.server.registry
        r.asked.append((self.command, self.path, known))
        if not known:
            return self.send(401, {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]})
        token = r.token(asked.get("scope", []))
        answer = {"expires_in": r.lifetime, "issued_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        answer.update({name: token for name in r.members})
        if offline or r.always_refresh or asked.get("offline_token") == ["true"]:
            answer["refresh_token"] = r.refresh
        self.send(200, answer)

    def send(self, status, answer):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Registry:
    """hosts: that it is; realm: URL of its token endpoint, None: it takes Basic itself. asked: what its token endpoint was asked;
    given: the tokens that it gave. connect: where its hosts are, as `set connect-to` has it."""

    def __init__(self, t, home, hosts, realm="https://auth.test/token", service="registry.test", blobs="blobs.test",
                 members=("token", "access_token"), refuse_basic=False, blobs_take_bearer=False, user="me", password="canary-registry-pat-8c1f"):
        t.need("docker-registry", "skopeo", "nginx", "openssl")
        self.dir = pathlib.Path(home) / "registry"
        (self.dir / "blobs").mkdir(parents=True)
        self.user, self.password, self.refresh, self.members = user, password, "canary-refresh-token-55d2c6b1a8", members
        self.basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.service, self.lifetime, self.asked, self.given, self.always_refresh = service, 300, [], [], False
        self.blobs_take_bearer = blobs_take_bearer
        self.realm, self.blobs, port, self.tls = realm, blobs, free_port(), free_port()
        self.path = urllib.parse.urlsplit(realm or "").path
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", self.dir / "token.key", "-out",
                        self.dir / "token.crt", "-days", "2", "-subj", "/CN=the issuer"], check=True, capture_output=True)
        all_hosts = [*hosts, *filter(None, [blobs, realm and urllib.parse.urlsplit(realm).hostname])]
        certs.leaf(sallyport.certs(), self.dir, dict.fromkeys(all_hosts))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
        server.registry = self
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names = {"dir": self.dir, "port": port, "tls": self.tls, "blobs": blobs, "service": service,
                 "tokens": server.server_address[1], "realm": self.path or "/none",
                 "refuse": BASIC.format(basic=self.basic) if not realm else REFUSE if refuse_basic else "", "refuse_bearer": "" if blobs_take_bearer else 'if ($http_authorization) { return 400 "Only one auth mechanism allowed"; }',
                 "redirect": REDIRECT.format(blobs=blobs) if blobs else ""}
        names["auth"] = TOKEN.format(**{**names, "realm": realm}) if realm else ""
        (self.dir / "config.yml").write_text(CONFIG.format(**names))
        conf = NGINX.format(**{**names, "blobs": blobs or "none.test"})
        (self.dir / "nginx.conf").write_text(("user root;\n" if os.getuid() == 0 else "") + conf)
        t.start(["docker-registry", "serve", self.dir / "config.yml"], self.dir / "out", env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"})
        t.start(["nginx", "-e", self.dir / "nginx.err", "-p", self.dir, "-c", self.dir / "nginx.conf"], self.dir / "nginx.out")
        wait(lambda: reachable(port) and reachable(self.tls), 15, "the registry listening: " + (self.dir / "out").read_text())
        self.connect = [f"{h}:443:127.0.0.1:{self.tls}" for h in dict.fromkeys(all_hosts)]

    def token(self, scopes):
        """A JWT for what was asked, as docker-registry checks it: RS256, the certificate in x5c."""
        now = int(time.time())
        der = subprocess.run(["openssl", "x509", "-in", self.dir / "token.crt", "-outform", "DER"], check=True, capture_output=True).stdout
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        claims = {"iss": "the-issuer", "sub": self.user, "aud": self.service, "exp": now + self.lifetime, "nbf": now - 60, "iat": now,
                  "jti": os.urandom(8).hex(), "access": access}
        text = b64(json.dumps(header).encode()) + "." + b64(json.dumps(claims).encode())
        signed = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.dir / "token.key"], input=text.encode(), check=True, capture_output=True).stdout
        self.given.append(text + "." + b64(signed))
        return self.given[-1]

    def seen(self):
        """(host, method, target, status, Authorization) of each request that nginx has answered."""
        lines = (self.dir / "access.log").read_text().splitlines()
        return [tuple(line.split(" ", 4)) for line in lines]


def image(path, layers=1):
    """An OCI layout of one image for two architectures, whose layers are small and random -> its digests."""
    path, digests = pathlib.Path(path), []
    (path / "blobs" / "sha256").mkdir(parents=True)

    def blob(data, media, **more):
        digest = hashlib.sha256(data).hexdigest()
        (path / "blobs" / "sha256" / digest).write_bytes(data)
        digests.append("sha256:" + digest)
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": digests[-1], "size": len(data), **more}

    manifests = []
    for architecture in ("amd64", "arm64"):
        made, plain = [], []
        for i in range(layers):
            raw = io.BytesIO()
            with tarfile.open(fileobj=raw, mode="w") as tar:
                info = tarfile.TarInfo(f"hello{i}")
                info.size = 40_000
                tar.addfile(info, io.BytesIO(os.urandom(info.size)))
            made.append(blob(gzip.compress(raw.getvalue(), mtime=0), "layer.v1.tar+gzip"))
            plain.append("sha256:" + hashlib.sha256(raw.getvalue()).hexdigest())
        config = blob(json.dumps({"architecture": architecture, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": plain}}).encode(),
                      "config.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": made}
        manifests.append(blob(json.dumps(manifest).encode(), "manifest.v1+json", platform={"architecture": architecture, "os": "linux"}))
    index = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}).encode()
    top = blob(index, "index.v1+json", annotations={"org.opencontainers.image.ref.name": "latest"})
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return digests
