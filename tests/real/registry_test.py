"""Container registries: skopeo and podman (and crane, where it is) push and pull with a login that is worth nothing. The token that the
registry gives for the real one never reaches the client: not its answers, not its files, not its memory."""
import base64
import json
import os
import pathlib
import shutil
import subprocess
import time

import sallyport
from clients_test import environment, run
from real import wait
from registry import Registry, image
from servers import free_port

# The layout of each preset: hosts, realm, blob host; what its token endpoint answers; what `credential add` is told.
LAYOUTS = {
    "ghcr": {"hosts": ["ghcr.io"], "realm": "https://ghcr.io/token", "blobs": "pkg-containers.githubusercontent.com",
             "refuse_basic": True, "members": ("token",)},
    "docker-hub": {"hosts": ["registry-1.docker.io", "index.docker.io"], "realm": "https://auth.docker.io/token",
                   "blobs": "production.cloudflare.docker.com", "image": "docker.io/me/img"},
    "quay": {"hosts": ["quay.io"], "realm": "https://quay.io/v2/auth", "blobs": "cdn01.quay.io", "members": ("token",), "blobs_take_bearer": True},
    "gitlab-registry": {"hosts": ["registry.gitlab.com"], "realm": "https://gitlab.com/jwt/auth", "blobs": "cdn.registry.gitlab-static.net",
                        "members": ("token",)},
    "gar": {"hosts": ["europe-west1-docker.pkg.dev"], "realm": "https://europe-west1-docker.pkg.dev/v2/token", "blobs": None,
            "user": "_json_key", "password": '{"type": "service_account", "private_key": "canary-registry-key-41d7"}', "flags": ["--host", "europe-west1-docker.pkg.dev"]},
    "acr": {"hosts": ["demo.azurecr.io"], "realm": "https://demo.azurecr.io/oauth2/token", "blobs": "demo.westeurope.data.azurecr.io",
            "members": ("access_token",), "flags": ["--host", "demo.azurecr.io"], "domain": "demo.westeurope.data.azurecr.io"},
    "ecr": {"hosts": ["123456789012.dkr.ecr.eu-west-1.amazonaws.com"], "realm": None, "user": "AWS",
            "blobs": "prod-eu-west-1-starport-layer-bucket.s3.eu-west-1.amazonaws.com",
            "flags": ["--host", "123456789012.dkr.ecr.eu-west-1.amazonaws.com"], "domain": "prod-eu-west-1-starport-layer-bucket.s3.eu-west-1.amazonaws.com"},
    "registry": {"hosts": ["images.test"], "realm": "https://login.test/service/token", "blobs": "blobs.test",
                 "flags": ["--host", "images.test", "--host", "login.test"], "domain": "blobs.test"},
}


def came(folder):
    return {"sha256:" + p.name for p in (folder / "blobs" / "sha256").iterdir()}


class Box:
    """A proxy with one preset's credential in front of a registry with its layout; image: what its image is called."""

    def __init__(self, t, preset, workers=1, fields=(), **more):
        layout = {**LAYOUTS[preset], **more}
        self.s, flags, domain = t.bare(workers), layout.pop("flags", []), layout.pop("domain", None)
        self.s.init()
        self.image = layout.pop("image", layout["hosts"][0] + "/me/img")
        self.r = Registry(t, self.s.dir, **layout)
        name = [f"username={self.r.user}"] if self.r.user == "me" else []
        self.s.cli("credential", "add", "reg", "--preset", preset, *flags, *name, *fields, f"password=@{self.s.secret_file(self.r.password)}")
        if domain:
            self.s.domain({"host": domain})
        self.s.agent()
        port = free_port()
        self.s.cli("set", "listen", f"127.0.0.1:{port}")
        self.s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
        self.s.cli("set", "connect-to", *self.r.connect)
        self.s.serve(listen=f"127.0.0.1:{port}")
        self.env = {**environment(self.s), "REGISTRY_AUTH_FILE": str(self.s.dir / "auth.json"), "HOME": str(self.s.dir / "client"),
                    "DOCKER_CONFIG": str(self.s.dir / "client")}
        (self.s.dir / "client").mkdir()
        self.s.canaries.append(self.env["HTTPS_PROXY"].split(":")[2].split("@")[0])

    def skopeo(self, *args, **options):
        return run(["skopeo", "--insecure-policy", *args], self.env, **options)

    def push(self, tag="v1", creds="me:placeholder", layers=1):
        if not (self.s.dir / "img").exists():
            self.digests = image(self.s.dir / "img", layers)
        self.skopeo("copy", "--all", *(["--dest-creds", creds] if creds else []), f"oci:{self.s.dir}/img:latest", f"docker://{self.image}:{tag}")

    def pull(self, tag="v1", creds="me:placeholder"):
        """-> the digests of what came."""
        back = self.s.dir / "back"
        shutil.rmtree(back, ignore_errors=True)
        self.skopeo("copy", "--all", *(["--src-creds", creds] if creds else []), f"docker://{self.image}:{tag}", f"oci:{back}:latest")
        return came(back)

    def podman(self):
        """-> how podman is called, with a store of its own | None: it does not run here."""
        podman = ["podman", "--root", self.s.dir / "client" / "r", "--runroot", self.s.dir / "client" / "rr", "--storage-driver", "vfs"]
        runs = shutil.which("podman") and subprocess.run([*map(str, podman), "images"], env=self.env, capture_output=True).returncode == 0
        if runs and not (self.s.dir / "auth.json").exists():
            (self.s.dir / "auth.json").write_text("{}")         # it wants one to be there
        return [*map(str, podman)] if runs else None

    def given_for(self, name):
        """The tokens that were given for a repository alone, the oldest first."""
        def claims(token):
            text = token.split(".")[1]
            return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return [t for t in self.r.given if [a["name"] for a in claims(t)["access"]] == [name]]

    def secrets(self):
        return [self.r.password, self.r.basic.split(" ")[1], self.r.refresh, *self.r.given]

    def check(self):
        """What the registry's hosts got, and what the client's files do not have."""
        bearers = {"Bearer " + t for t in self.r.given}
        for host, method, target, status, shown in self.r.seen():
            path = target.partition("?")[0]
            if host == self.r.blobs:
                assert shown == "-" or (self.r.blobs_take_bearer and shown in bearers), f"the blob host was shown {shown[:12]}…"
            elif self.r.realm and path != self.r.path:
                assert shown == "-" or shown in bearers, f"{method} {host}{path} was shown {shown[:60]}…"
                assert path == "/v2/" or shown in bearers, f"{method} {host}{path} came with nothing"
        for path in (self.s.dir / "client").rglob("*"):
            for secret in self.secrets() if path.is_file() else ():
                assert secret.encode() not in path.read_bytes(), f"{path} has {secret[:12]}…"


def around(preset):
    def test(t):
        b = Box(t, preset)
        presets = {p["name"]: p for p in sallyport.rows(b.s.cli("credential", "presets", "--json").stdout)}
        b.push()
        assert b.pull() >= set(b.digests)
        assert b.pull(creds=None) >= set(b.digests)          # no login at all
        if b.r.realm:
            assert b.r.given and all(known for _, _, known in b.r.asked), b.r.asked
            got = [r for r in b.s.records() if r.get("sealed")]
            assert got and all(r["sealed"] >= 1 and r["path"] == b.r.path for r in got), b.s.records()[-3:]
            assert any(r.get("unsealed") for r in b.s.records()), b.s.records()[-3:]
        if presets.get(preset, {}).get("test"):
            r = b.s.cli("credential", "test", "reg", check=False)
            assert r.returncode == 0, r.stdout + r.stderr
        b.check()
    test.__doc__ = f"{preset}: skopeo pushes and pulls an image for two architectures with a login of its own making"
    return test


for _preset in LAYOUTS:
    globals()["test_" + _preset.replace("-", "_")] = around(_preset)


def test_login(t):
    """skopeo login keeps the placeholder, and works with it later"""
    b = Box(t, "ghcr")
    b.skopeo("login", "--username", "me", "--password-stdin", "ghcr.io", stdin="placeholder")
    kept = json.loads((b.s.dir / "auth.json").read_text())["auths"]["ghcr.io"]
    assert base64.b64decode(kept["auth"]) == b"me:placeholder" and "identitytoken" not in kept, kept
    b.push(creds=None)
    assert b.pull(creds=None) >= set(b.digests)
    b.skopeo("copy", "--all", "docker://ghcr.io/me/img:v1", "docker://ghcr.io/me/other:v1")
    targets = [x[2] for x in b.r.seen()]
    assert any("/v2/me/other/blobs/uploads/" in x for x in targets) and not any("mount=" in x or "from=" in x for x in targets)
    b.check()


def test_oauth(t):
    """what containerd and BuildKit ask first: a POST with the placeholder in its form; and a refresh token, which nobody asked for, is sealed too"""
    b = Box(t, "acr")
    b.push()
    host, form = "demo.azurecr.io", {"Content-Type": "application/x-www-form-urlencoded"}

    def post(body):
        r = b.s.request("POST", "/oauth2/token", host=host, headers=form, body=body.encode())
        assert not any(x.encode() in r.head + r.body for x in b.secrets()), r.body
        return r, json.loads(r.body or b"{}")

    scope = "scope=repository%3Ame%2Fimg%3Apull&service=registry.test"
    r, got = post(f"grant_type=password&username=me&password=placeholder&access_type=offline&client_id=x&{scope}")
    assert r.status == 200 and "refresh_token" not in got, r.body
    bearer = {"Authorization": "Bearer " + got["access_token"], "Accept": "application/vnd.oci.image.index.v1+json"}
    assert b.s.request("GET", "/v2/me/img/manifests/v1", host=host, headers=bearer).status == 200
    b.r.always_refresh = True
    r, got = post(f"grant_type=password&username=me&password=placeholder&{scope}")
    assert r.status == 200 and got["refresh_token"] not in (None, b.r.refresh), r.body
    r, again = post(f"grant_type=refresh_token&refresh_token={got['refresh_token']}&{scope}")
    assert r.status == 200 and b.r.asked[-1][2] is True, (r.body, b.r.asked[-1], b.s.log()[-900:])
    bearer["Authorization"] = "Bearer " + again["access_token"]
    assert b.s.request("GET", "/v2/me/img/manifests/v1", host=host, headers=bearer).status == 200
    # with one of its own the agent gets nothing
    r, got = post(f"grant_type=refresh_token&refresh_token=mine&{scope}")
    assert r.status == 401, r.body
    b.check()


def core(process, path):
    """The whole memory of a process that runs."""
    r = subprocess.run(["gcore", "-o", path, str(process.pid)], capture_output=True, text=True, timeout=120 * sallyport.SLOW)
    out = pathlib.Path(f"{path}.{process.pid}")
    assert out.exists(), r.stderr[-500:]
    data = out.read_bytes()
    out.unlink()
    return data


def watched(b, args):
    """Runs a client that pulls layers of some seconds; meanwhile, once it has a token, its whole memory is searched."""
    given = len(b.r.given)
    p = subprocess.Popen([str(a) for a in args], env=b.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait(lambda: len(b.r.given) > given or p.poll() is not None, 20, "a token")
    assert p.poll() is None, p.stdout.read().decode()[-800:]
    time.sleep(1)
    memory = core(p, b.s.dir / "core")
    assert b"placeholder" in memory, "it is the client's memory"
    for secret in b.secrets():
        assert secret.encode() not in memory and secret.rpartition(".")[2].encode() not in memory, f"the client's memory has {secret[:16]}…"
    out, _ = p.communicate(timeout=120 * sallyport.SLOW)
    assert p.returncode == 0, out.decode()[-800:]


def pulls(b, back):
    """Repository -> a pull of it that runs: by skopeo, and by podman where it runs, which has one of its own."""
    commands = {"me/img": ["skopeo", "--insecure-policy", "copy", "--all", "--src-creds", "me:placeholder", f"docker://{b.image}:v1", f"oci:{back}:latest"]}
    if podman := b.podman():
        b.skopeo("copy", "--all", "--src-creds", "me:placeholder", "--dest-creds", "me:placeholder", f"docker://{b.image}:v1", "docker://ghcr.io/me/pod:v1")
        commands["me/pod"] = [*podman, "pull", "--creds", "me:placeholder", "ghcr.io/me/pod:v1"]
    return lambda: {name: subprocess.Popen(args, env=b.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for name, args in commands.items()}


def ended(running):
    for name, p in running.items():
        out, _ = p.communicate(timeout=120 * sallyport.SLOW)
        assert p.returncode == 0, (name, out.decode()[-800:])


def test_expiry_and_memory(t):
    """a pull that outlives its token gets another, and in the client's memory there is no real one: skopeo, and podman where it runs"""
    t.need("gcore")
    b = Box(t, "ghcr")
    b.push(layers=7)                             # clients ask for six at once: the seventh comes behind the end of their token
    back = b.s.dir / "back"
    start = pulls(b, back)
    b.r.lifetime = 60                            # s: clients take less for this much
    (b.r.dir / "slow").write_text("")            # a layer takes longer than that
    had = {name: len(b.given_for(name)) for name in ("me/img", "me/pod")}
    running = start()
    wait(lambda: all(len(b.given_for(name)) > had[name] for name in running), 30, "a token for each")
    first = {name: b.given_for(name)[-1] for name in running}
    time.sleep(2)
    for name, p in running.items():
        memory = core(p, b.s.dir / "core")
        assert b"bWU6cGxhY2Vob2xkZXI=" in memory or b"placeholder" in memory, f"{name}: it is the client's memory"
        for secret in b.secrets():
            assert secret.encode() not in memory, f"the memory of the client of {name} has {secret[:16]}…"
            assert secret.rpartition(".")[2].encode() not in memory
    wait(lambda: all(b.given_for(name)[-1] != first[name] for name in running), 120, "another token for each, behind the first one's end")
    os.unlink(b.r.dir / "slow")
    ended(running)
    assert came(back) >= set(b.digests)
    b.check()


def test_retry(t):
    """a request that the registry was too busy for is tried again, with the same sealed bearer: skopeo, and podman where it runs"""
    if "asan" in str(t.binary):
        t.skip("the sanitized build goes the same ways in test_login; this one takes half a minute")
    b = Box(t, "ghcr")
    b.push()
    start, before = pulls(b, b.s.dir / "back"), len(b.r.seen())
    (b.r.dir / "busy").write_text("")
    running = start()
    tries = lambda name: [x for x in b.r.seen()[before:] if x[1] != "PUT" and x[2].endswith(f"/{name}/manifests/v1")]  # noqa: E731
    wait(lambda: all(any(x[3] == "429" for x in tries(name)) for name in running), 60, "an answer of 429 for each")
    os.unlink(b.r.dir / "busy")
    ended(running)
    assert came(b.s.dir / "back") >= set(b.digests)
    for name in running:
        got = tries(name)
        assert got[0][3] == "429" and got[-1][3] == "200" and {x[4] for x in got} == {"Bearer " + b.given_for(name)[-1]}, [x[:4] for x in got]
    b.check()


def test_podman(t):
    """podman logs in with a placeholder, pulls, and pushes what it pulled"""
    if "asan" in str(t.binary):
        t.skip("the sanitized build goes the same ways in test_login; this one takes half a minute")
    t.need("podman")
    b = Box(t, "docker-hub")
    b.push()
    podman = b.podman() or t.skip("podman does not run here")
    run([*podman, "login", "--username", "me", "--password", "placeholder", "docker.io"], b.env)
    run([*podman, "pull", "docker.io/me/img:v1"], b.env)
    run([*podman, "push", "docker.io/me/img:v1", "docker.io/me/img:v2"], b.env)
    assert b.pull("v2", creds=None)
    b.check()


def test_crane(t):
    """crane, which asks for another bearer when it is told 401: pull and push, one of them past the end of its token"""
    t.need("crane", "gcore")
    crane, b = shutil.which("crane"), Box(t, "ghcr")
    b.push()
    run([crane, "auth", "login", "--username", "me", "--password", "placeholder", "ghcr.io"], b.env)
    b.r.lifetime, given = 2, len(b.r.given)     # s; a layer takes four
    (b.r.dir / "slowish").write_text("")
    watched(b, [crane, "pull", "--format=oci", "ghcr.io/me/img:v1", b.s.dir / "crane"])
    assert len(b.r.given) > given + 1, "it asked for another"
    assert any(r.get("error") == "sealed_expired" and r["status"] == 401 for r in b.s.records()), b.s.records()[-4:]
    b.r.lifetime = 300
    run([crane, "push", b.s.dir / "crane", "ghcr.io/me/img:v2"], b.env)
    assert b.pull("v2", creds=None) >= set(b.digests)
    b.check()
