"""Kubernetes: kubectl and Python's client with the kubeconfig that `credential sandbox-file` writes, against a scripted API
server; and EKS's tokens against awscli's own code."""
import base64
import datetime
import hashlib
import http.server
import json
import re
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse

import certs as certs_module
import sallyport
from aws_test import need_botocore
from clients_test import environment

TOKEN = "canary-kube-token-91c7"
POD = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "default", "uid": "u", "resourceVersion": "1"},
       "spec": {"containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Running"}}
TOKEN_HOSTS = ("oauth2.googleapis.com", "login.microsoftonline.com")
DOCUMENTS = {
    "/version": {"major": "1", "minor": "31", "gitVersion": "v1.31.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [
        {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list", "watch"]}]},
    "/api/v1/namespaces/default/pods/web": POD,
}


class Handler(http.server.BaseHTTPRequestHandler):
    """What kubectl asks of an API server for get, watch, logs and exec; Authorization must be the real token alone."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def say(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def pieces(self, kind, pieces):
        """A chunked answer whose pieces come as they are made."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def execute(self):
        """RFC 6455 as far as one command's answer needs it; the first byte of each message is the channel."""
        offered = [p.strip() for p in self.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        chosen = next(p for p in ("v5.channel.k8s.io", "v4.channel.k8s.io") if p in offered)
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.wfile.write((f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {chosen}\r\n\r\n").encode())
        for opcode, payload in ((2, b"\x01hello from exec\n"), (2, b'\x03{"metadata":{},"status":"Success"}'), (8, struct.pack("!H", 1000))):
            self.wfile.write(bytes([0x80 | opcode, len(payload)]) + payload)
        self.wfile.flush()
        self.rfile.read(2)                       # the client's close frame, or its end
        self.close_connection = True

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode("latin-1")
        self.server.got.append((self.command, self.path, self.headers.get_all("Authorization"), self.headers.get("Upgrade")))
        path, _, query = self.path.partition("?")
        if path.endswith("/token") and self.headers["Host"] in TOKEN_HOSTS:      # the token server of the cluster's cloud
            self.server.asked.append(dict(urllib.parse.parse_qsl(body)))
            return self.say(200, {"access_token": self.server.token, "token_type": "Bearer", "expires_in": 3600})
        if self.headers.get_all("Authorization") != ["Bearer " + self.server.token]:
            return self.say(401, {"kind": "Status", "status": "Failure", "reason": "Unauthorized", "message": "Unauthorized", "code": 401})
        if path.endswith("/pods/web/exec"):
            return self.execute() if (self.headers.get("Upgrade") or "").lower() == "websocket" else self.say(400, {"kind": "Status"})
        if path.endswith("/pods/web/log"):
            return self.pieces("text/plain", (b"line %d\n" % n for n in range(3)))
        if path.endswith("/pods") and "watch=" in query:
            return self.pieces("application/json", [json.dumps({"type": "ADDED", "object": POD}).encode() + b"\n"])
        if path.endswith("/pods"):
            return self.say(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [POD]})
        document = DOCUMENTS.get(path)
        self.say(200 if document else 404, document or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})

    do_GET = do_POST = do_PATCH = answer


class Cluster(http.server.ThreadingHTTPServer):
    """An API server with a certificate of its own root for `names`."""
    daemon_threads = True

    def __init__(self, directory, names, token=TOKEN):
        super().__init__(("127.0.0.1", 0), Handler)
        self.got, self.asked, self.token = [], [], token
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certs_module.leaf(sallyport.certs(), directory, names))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        pass


def arrange(t, *more, host="kube.test", port="6443"):
    """A cluster, a credential for it that trusts the cluster's own root, and a proxy that knows where it is."""
    s = t.bare()
    s.init()
    cluster = Cluster(s.dir, ["kube.test", "203.0.113.10", "127.0.0.1"])
    port = port or str(cluster.port)
    s.cli("credential", "add", "kube", "--type", "bearer", "--host", host, "--port", port, f"ca=@{sallyport.certs() / 'root.pem'}",
          f"token=@{s.secret_file(TOKEN)}", *more)
    s.agent()
    s.serve(*(f for h in ("kube.test", "203.0.113.10") for f in ("--connect-to", f"{h}:6443:127.0.0.1:{cluster.port}")))
    return s, cluster


def kubeconfig(s, name="kube", *more):
    path = s.dir / "kubeconfig"
    s.cli("credential", "sandbox-file", name, "--agent", "a", "--out", path, *more)
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600 and "canary" not in text, text
    return path


def kubectl(s, env, path, *args, **more):
    return subprocess.run(["kubectl", f"--kubeconfig={path}", *args], env={**env, **more}, capture_output=True, text=True,
                          timeout=60 * sallyport.SLOW)


def version(t):
    t.need("kubectl")
    text = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True).stdout
    return int(re.search(r"v1\.(\d+)", text)[1])


def works(s, env, path, minor):
    for args, want in ((("get", "pods"), "web"), (("get", "pod", "web", "-o", "yaml"), "image: i"), (("logs", "web", "-f"), "line 2"),
                       (("get", "pods", "--watch-only", "--request-timeout=5s"), "web")):
        r = kubectl(s, env, path, *args)
        assert r.returncode == 0 and want in r.stdout, (args, r.stdout, r.stderr, s.records()[-3:])
    if minor >= 29:
        r = kubectl(s, env, path, "exec", "web", "--", "id", KUBECTL_REMOTE_COMMAND_WEBSOCKETS="true")
        assert r.returncode == 0 and r.stdout == "hello from exec\n", (r.stdout, r.stderr, s.records()[-3:])


def test_kubectl(t):
    """kubectl with a sandbox's kubeconfig: get, watch, logs, and exec over a WebSocket; over SPDY it is told what helps"""
    minor = version(t)
    s, cluster = arrange(t)
    env, path = environment(s), kubeconfig(s)
    assert "proxy-url" not in path.read_text() and 'server: "https://kube.test:6443"' in path.read_text()
    works(s, env, path, minor)
    assert all(bearer == ["Bearer " + TOKEN] for _, _, bearer, _ in cluster.got)
    before = len(cluster.got)
    r = kubectl(s, env, path, "exec", "web", "--", "id", KUBECTL_REMOTE_COMMAND_WEBSOCKETS="false")
    assert r.returncode != 0 and "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true" in r.stderr, r.stderr
    assert not any("/exec" in path for _, path, _, _ in cluster.got[before:])


def test_kubectl_addresses(t):
    """an API server that is an address, one of the machine's own too: the kubeconfig then names the proxy, and needs no environment"""
    minor = version(t)
    s, cluster = arrange(t, "--address", "127.0.0.1/32", host="127.0.0.1", port=None)
    s.cli("credential", "set", "kube", "--host", "203.0.113.10", "--host", "127.0.0.1", "--port", "6443", "--port", cluster.port)
    bare = {"PATH": environment(s)["PATH"], "HOME": str(s.dir)}
    path = kubeconfig(s, "kube", "--server", f"https://127.0.0.1:{cluster.port}")
    s.canaries.append(re.search(r"sp_agt_[\w-]+", path.read_text())[0])
    works(s, bare, path, minor)
    path = kubeconfig(s, "kube", "--server", "https://203.0.113.10:6443/")
    assert "proxy-url" not in path.read_text()
    works(s, environment(s), path, minor)
    path = kubeconfig(s, "kube", "--server", "https://203.0.113.10:6443", "--proxy", f"127.0.0.1:{s.port}", "--ttl", "1h")
    s.canaries.append(re.search(r"sp_agt_[\w-]+", path.read_text())[0])
    works(s, bare, path, minor)


PYTHON = r"""
import sys, urllib.parse
from kubernetes import client, config, watch
from kubernetes.stream import stream
made = client.Configuration()
config.load_kube_config(sys.argv[1], client_configuration=made)
proxy = urllib.parse.urlsplit(sys.argv[2])
made.proxy = f"http://{proxy.hostname}:{proxy.port}"
import urllib3
made.proxy_headers = urllib3.make_headers(proxy_basic_auth=f"{proxy.username}:{proxy.password}")
def api(): return client.CoreV1Api(client.ApiClient(made))
print([p.metadata.name for p in api().list_namespaced_pod("default").items])
print([next(watch.Watch().stream(api().list_namespaced_pod, "default", timeout_seconds=5))["type"]])
print(api().read_namespaced_pod_log("web", "default"))
ws = stream(api().connect_get_namespaced_pod_exec, "web", "default", command=["id"], stderr=True, stdin=False, stdout=True, tty=False, _preload_content=False)
code, frame = ws.sock.recv_data_frame(True)      # its own loop polls the socket, and misses frames that came in one TLS record
while code != 8:
    print(frame.data)
    code, frame = ws.sock.recv_data_frame(True)
"""


def test_python(t):
    """Python's client with the same file: get, watch, logs, and exec over a WebSocket"""
    if subprocess.run([sys.executable, "-c", "import kubernetes.stream"], capture_output=True).returncode:
        t.skip("python3-kubernetes is not installed")
    s, cluster = arrange(t)
    env, path = environment(s), kubeconfig(s)
    r = subprocess.run([sys.executable, "-c", PYTHON, path, env["HTTPS_PROXY"]], env=env, capture_output=True, text=True, timeout=60 * sallyport.SLOW)
    assert r.returncode == 0, r.stderr[-2000:]
    assert r.stdout.splitlines() == ["['web']", "['ADDED']", "line 0", "line 1", "line 2", "", repr(b"\x01hello from exec\n"),
                                   repr(b'\x03{"metadata":{},"status":"Success"}')], r.stdout
    assert [u for _, _, _, u in cluster.got if u] == ["websocket"]


def test_two(t):
    """two tokens for one cluster: each kubeconfig brings its own, with attach=placeholder too, and the env's placeholder where there is one"""
    minor = version(t)
    s, cluster = arrange(t, "attach=placeholder")
    for name, more in (("view", ()), ("edit", ("env=KUBE_TOKEN",))):
        s.cli("credential", "add", name, "--type", "bearer", "--host", "kube.test", "--port", "6443", f"ca=@{sallyport.certs() / 'root.pem'}",
              f"token=@{s.secret_file(f'canary-{name}-token')}", *more)
    env = environment(s)
    for name in ("edit", "kube", "view"):
        cluster.token = TOKEN if name == "kube" else f"canary-{name}-token"
        r = s.cli("credential", "sandbox-file", name, "--agent", "a", "--out", s.dir / name)
        assert "would" not in r.stderr, r.stderr
        works(s, env, s.dir / name, minor)
    assert env["KUBE_TOKEN"] in (s.dir / "edit").read_text()


def test_clouds(t):
    """GKE and AKS: the presets fetch the token that the cluster's own program would, and kubectl needs a kubeconfig alone"""
    version(t)
    t.need("openssl")
    s = t.bare()
    s.init()
    names = ("203.0.113.10", "me-dns-1a2b.hcp.westeurope.azmk8s.io", *TOKEN_HOSTS)
    cluster, root = Cluster(s.dir, names), sallyport.certs() / "root.pem"
    key = s.dir / "sa.json"
    pem = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True).stdout
    key.write_text(json.dumps({"type": "service_account", "private_key_id": "k", "private_key": pem, "client_email": "me@p.iam.gserviceaccount.com",
                               "token_uri": f"https://{TOKEN_HOSTS[0]}/token"}))
    key.chmod(0o600)
    s.cli("credential", "add", "gke", "--preset", "gke", "--host", names[0], f"key=@{key}", f"ca=@{root}")
    s.cli("credential", "add", "aks", "--preset", "aks", "--host", names[1], f"ca=@{root}", "client_id=app", f"client_secret=@{s.secret_file('canary-aks-secret')}",
          f"token_url=https://{TOKEN_HOSTS[1]}/tenant/oauth2/v2.0/token")
    s.agent()
    s.serve("--upstream-ca", root, *(f for h in names for f in ("--connect-to", f"{h}:443:127.0.0.1:{cluster.port}")))
    env = environment(s)
    for name in ("gke", "aks"):
        works(s, env, kubeconfig(s, name), 0)
    gke, aks = cluster.asked
    claims = json.loads(base64.urlsafe_b64decode(gke["assertion"].split(".")[1] + "=="))
    assert claims["scope"].split(" ") == [f"https://www.googleapis.com/auth/{x}" for x in ("cloud-platform", "userinfo.email")], claims
    assert aks == {"grant_type": "client_credentials", "client_id": "app", "client_secret": "canary-aks-secret",
                   "scope": "6dae42f8-4368-4678-94ff-3960e28e3630/.default"}, aks


def test_minting(t):
    """the preset refuses calls that hand out a token or a certificate, and a Secret that is given a token; others go"""
    s = t.bare()
    s.init()
    cluster = Cluster(s.dir, ["kube.test"])
    s.cli("credential", "add", "kube", "--preset", "kubernetes", "--host", "kube.test", f"token=@{s.secret_file(TOKEN)}")
    s.agent()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"kube.test:443:127.0.0.1:{cluster.port}")
    secrets, spoken = "/api/v1/namespaces/n/secrets", {"kind": "Secret", "type": "kubernetes.io/service-account-token"}
    for method, path, body, passes in (
            ("POST", "/api/v1/namespaces/n/serviceaccounts/agent/token", "{}", False), ("POST", "/k8s/clusters/c/api/v1/namespaces/n/serviceaccounts/a/token", "{}", False),
            ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", "{}", False), ("GET", "/apis/certificates.k8s.io/v1/certificatesigningrequests", None, True),
            ("POST", secrets, json.dumps(spoken), False), ("PATCH", secrets + "/x?fieldManager=me", 'type: "kubernetes.io/service-account-\\\n  token"', False),
            ("POST", secrets, json.dumps({"kind": "Secret", "type": "Opaque", "data": {"a": "Yg=="}}), True), ("GET", secrets, None, True)):
        before = len(cluster.got)
        r = s.request(host="kube.test", method=method, target=path, body=(body or "").encode())
        assert (b"mint_denied" not in r.body) == passes and (len(cluster.got) == before + 1) == passes, (method, path, r.status, r.body)


def test_texts(t):
    """what the file says is read back by YAML as it was meant, whatever the names; and --out, --json, and none agree"""
    try:
        import yaml
    except ImportError:
        t.skip("python3-yaml is not installed")
    s = t.bare()
    s.init()
    s.cli("set", "listen", "127.0.0.1:7999")
    names = ("null", "true", "no", "1e3", "0x1F", "2026-01-31", "08", "y", "1_000", "a.b_c-d")
    for name in names:
        s.cli("agent", "add", name)
        s.cli("credential", "add", name, "--type", "bearer", "--host", "b.test", "--host", "a.test", "--host", "*.c.test", "--host", "2001:db8::1",
              "--port", "443", "--port", "6443", f"token=@{s.secret_file(TOKEN)}")
        text = s.cli("credential", "sandbox-file", name, "--agent", name, env={"NO_PROXY": "a.test"}).stdout
        doc = yaml.safe_load(text)
        at = {f"{name}@{h}:{p}" for h in ("b.test", "a.test", "2001:db8::1") for p in (443, 6443)}
        assert {c["name"] for c in doc["clusters"]} == {c["name"] for c in doc["contexts"]} == at, text
        assert {c["cluster"]["server"] for c in doc["clusters"]} == {f"https://{h}{p}" for h in ("b.test", "a.test", "[2001:db8::1]") for p in ("", ":6443")}
        assert doc["users"][0]["name"] == name and doc["current-context"] == f"{name}@b.test:443"
        assert base64.b64decode(doc["clusters"][0]["cluster"]["certificate-authority-data"]).decode() == s.ca.read_text()
        assert re.fullmatch(rf"http://{name}:sp_agt_[\w-]+@127.0.0.1:7999", doc["clusters"][0]["cluster"]["proxy-url"]), text
        assert re.fullmatch(r"[\w-]{20,}", doc["users"][0]["user"]["token"]) and "canary" not in text
    answer = json.loads(s.cli("credential", "sandbox-file", "no", "--agent", "no", "--server", "https://x.c.test/k8s/clusters/c-1/", "--json").stdout)
    assert list(answer) == ["text"]
    assert yaml.safe_load(answer["text"])["clusters"][0]["cluster"]["server"] == "https://x.c.test/k8s/clusters/c-1"
    out = s.dir / "out"
    answer = json.loads(s.cli("credential", "sandbox-file", "no", "--agent", "no", "--server", "https://a.test", "--proxy", "10.0.2.2:7080",
                              "--out", out, "--json").stdout)
    assert set(answer) == {"file", "expires_at"} and yaml.safe_load(out.read_text())["clusters"][0]["cluster"]["proxy-url"].endswith("@10.0.2.2:7080")
    assert out.stat().st_mode & 0o777 == 0o600


def test_refused(t):
    """what no kubeconfig can be made of is refused with the reason, and nothing is written"""
    s = t.bare()
    s.init()
    s.agent()
    secret = s.secret_file(TOKEN)
    for name, *args in (("kube", "--type", "bearer", "--host", "kube.test", "--port", "6443", f"token=@{secret}"),
                        ("wild", "--type", "bearer", "--host", "*.kube.test", "--host", "${ZONE}.eks.test", f"token=@{secret}"),
                        ("gh", "--preset", "github", f"token=@{secret}"),
                        ("key", "--type", "api_key", "--host", "k.test", f"key=@{secret}", "header=x-key"),
                        ("aws", "--type", "aws_sigv4", "--host", "*.amazonaws.com", "access_key_id=AKIAIOSFODNN7EXAMPLE", f"secret_access_key=@{secret}")):
        s.cli("credential", "add", name, *args)
    out = s.dir / "out"
    for args, words in (
            (("wild",), "names no host exactly"), (("gh",), "fetches no tokens"), (("aws", "--format", "kubeconfig"), "aws_eks"),
            (("key", "--format", "kubeconfig"), "no Authorization"), (("kube", "--format", "json"), "--format is kubeconfig"),
            (("gh", "--server", "https://api.github.com"), "--format kubeconfig"), (("kube", "--ttl", "1h"), "--proxy"),
            (("kube", "--server", "http://kube.test:6443"), "https"), (("kube", "--server", "kube.test:6443"), "URL"),
            (("kube", "--server", "https://kube.test"), "port 443"), (("kube", "--server", "https://evil.test:6443"), "does not go to evil.test"),
            (("kube", "--server", "https://me@kube.test:6443"), "--server"), (("kube", "--server", "https://kube.test:6443/?x=1"), "--server"),
            (("kube", "--server", 'https://kube.test:6443/"\n- x: y'), "--server"), (("kube", "--server", "https://kube.test:6443/é"), "--server"),
            (("wild", "--server", "https://kube.test"), "does not go"), (("wild", "--server", "https://a.b.eks.test"), "does not go"),
            (("kube", "--proxy", "http://x:1"), "HOST:PORT"), (("kube", "--proxy", "10.0.2.2:1", "--ttl", "soon"), "--ttl")):
        r = s.cli("credential", "sandbox-file", *args, "--agent", "a", "--out", out, check=False)
        assert r.returncode in (1, 2) and words in r.stderr and not out.exists() and "canary" not in r.stderr, (args, r.returncode, r.stderr)
    for server in ("https://a.kube.test", "https://zone-1.eks.test"):
        s.cli("credential", "sandbox-file", "wild", "--agent", "a", "--server", server)
    s.cli("credential", "sandbox-file", "gh", "--agent", "a", "--format", "kubeconfig")
    r = s.cli("credential", "sandbox-file", "wild", "--agent", "a", "--server", "https://zone-1.eks.test")
    assert "would be refused" in r.stderr and "ZONE" not in r.stdout, r.stderr


# What `aws eks get-token` makes of each line of its input: Unix time, region, cluster, key, secret, session's token.
AWSCLI = r"""
import datetime, sys
import awscli.clidriver
import botocore.auth, botocore.session
from awscli.customizations.eks.get_token import TokenGenerator, STSClientFactory
real = datetime.datetime
for line in sys.stdin:
    at, region, cluster, key, secret, session = line.rstrip("\n").split(" ")
    class Fixed(real):
        utcnow = classmethod(lambda cls: real.utcfromtimestamp(int(at)))
        now = classmethod(lambda cls, tz=None: real.fromtimestamp(int(at), tz))
    botocore.auth.datetime.datetime = Fixed
    made = botocore.session.get_session()
    made.set_credentials(key, secret, session or None)
    print(TokenGenerator(STSClientFactory(made).get_sts_client(region_name=region)).get_token(cluster))
"""


def awscli(t, lines):
    """The tokens of Debian's awscli, by its own code."""
    r = subprocess.run(["/usr/bin/python3", "-c", AWSCLI], input="".join(" ".join(line) + "\n" for line in lines), capture_output=True, text=True,
                       env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"})
    if "No module named 'awscli" in r.stderr:
        t.skip("awscli is not installed for /usr/bin/python3")
    assert r.returncode == 0, r.stderr[-1500:]
    return r.stdout.split()


def test_eks_tokens(t):
    """EKS: a token is that of `aws eks get-token`, byte for byte, in every region that it knows and with a session's token"""
    need_botocore(t)
    import botocore.session
    known = botocore.session.get_session()
    regions = [r for p in known.get_available_partitions() for r in known.get_available_regions("sts", p, allow_non_regional=False)]
    assert len(regions) > 25 and {"cn-north-1", "us-gov-west-1", "us-iso-east-1", "us-isob-east-1"} <= set(regions), regions
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    lines = [("1700000000", r, "demo", "AKIAIOSFODNN7EXAMPLE", secret, "") for r in regions]
    lines += [("1700000000", r, "my_cluster-1", "ASIAIOSFODNN7EXAMPLE", secret, "IQoJb3//x+y==" * 40 + "~.-_") for r in ("eu-west-1", "cn-north-1", "us-gov-east-1")]
    want = awscli(t, lines)
    s = t.bare()
    script = s.dir / "tokens.lua"
    script.write_text("""
local policy, sandbox = require "policy", require "sandbox"
local pol = assert(policy.compile("aws_eks", sandbox.default_source("aws_eks")))
for line in io.lines(arg[1]) do
  local _, region, cluster, key, secret, session = line:match("^(%S+) (%S+) (%S+) (%S+) (%S+) (%S*)$")
  local view = policy.view(pol, { region = region, cluster = cluster, access_key_id = key, secret_access_key = secret,
    session_token = session ~= "" and session or nil })
  local state
  policy.held_still(function() state = pol.refresh(view) end)     -- plain values here, so that the token can be read
  print(state.secrets.access_token, state.expires_at)
end
""")
    (s.dir / "lines").write_text("".join(" ".join(line) + "\n" for line in lines))
    out = s.cli("lua", script, s.dir / "lines").stdout.splitlines()
    assert len(out) == len(want) == len(lines), (len(out), len(want))
    for line, got, token in zip(lines, out, want):
        assert got.split("\t") == [token, "1700000900"], (line, got, token)


def test_eks(t):
    """EKS: kubectl with a sandbox's kubeconfig; the cluster gets a token that awscli would have made at that time, and once"""
    version(t)
    s = t.bare()
    s.init()
    host, keys = "abc.gr7.eu-west-1.eks.amazonaws.com", ("ASIAREALKEY000000001", "canary-eks-wJalrXUtnFEMIK7MDENGbPxRfiCYREAL1", "canary-eks-session//with+odd==")
    cluster = Cluster(s.dir, [host])
    s.cli("credential", "add", "eks", "--preset", "eks", "--host", host, "cluster=demo", "region=eu-west-1", f"access_key_id={keys[0]}",
          f"secret_access_key=@{s.secret_file(keys[1])}", f"session_token=@{s.secret_file(keys[2])}", f"ca=@{sallyport.certs() / 'root.pem'}")
    s.agent()
    s.serve("--connect-to", f"{host}:443:127.0.0.1:{cluster.port}")
    env, path = environment(s), kubeconfig(s, "eks")
    r = kubectl(s, env, path, "get", "pods")                     # 401: the cluster wants another token than this one
    assert r.returncode != 0 and cluster.got, r.stderr
    token = cluster.got[0][2][0].removeprefix("Bearer ")
    url = base64.urlsafe_b64decode(token.split(".", 1)[1] + "==").decode()
    date = re.search(r"X-Amz-Date=(\d{8}T\d{6}Z)", url)[1]
    at = int(datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc).timestamp())
    assert abs(at - time.time()) < 120
    assert awscli(t, [(str(at), "eu-west-1", "demo", *keys)]) == [token]
    cluster.token = token
    before = len(cluster.got)
    works(s, env, path, 0)
    assert {bearer[0] for _, _, bearer, _ in cluster.got[before:]} == {"Bearer " + token}
    out = s.cli("credential", "show", "eks").stdout
    assert "token" in out and "canary" not in out and "k8s-aws-v1" not in out, out
    for field, value in (("cluster", "a b"), ("region", "nowhere"), ("region", "eu-west-1.evil.test/x")):
        r = s.cli("credential", "set", "eks", f"{field}={value}", check=False)
        assert r.returncode != 0 and field in r.stderr, r.stderr
