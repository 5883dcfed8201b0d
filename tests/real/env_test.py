"""`sallyport env --format`: the real readers of each form get every value back as it is."""
import glob
import http.server
import json
import os
import subprocess
import sys
import threading

# What shells, Docker and systemd would take for more than text. NO_PROXY's items have no commas and spaces.
HOSTILE = r"""a'b,"c",$HOME,`id`,$(id),c\d,\n,#e,;f,é,!g,~h,*i,[j],{k},x=y,%n"""
FOLDER = "ho me'\"$(id)`id`\\n #;é"


def arrange(t, folder=FOLDER):
    """-> (Sallyport, run(format) -> text, {name: value} as JSON has it): one token, so that all forms say the same."""
    s = t.bare()
    s.home = s.dir / folder
    s.env["SALLYPORT_HOME"] = str(s.home)
    s.init()
    token = s.agent()
    s.credential({"name": "gh", "host": "gh.test", "env": "GH_TOKEN", "secrets": {"token": "ghp_canary-env-1"}})
    s.credential({"name": "aws", "type": "aws_sigv4", "host": "*.amazonaws.com", "fields": {"access_key_id": "AKIAIOSFODNN7EXAMPLE"},
                  "secrets": {"secret_access_key": "canary-env-2"}})

    def env(form, *more, check=True):
        return s.cli("env", "--agent", "a", "--format", form, *more, check=check,
                     env={"NO_PROXY": HOSTILE, "no_proxy": "", "SALLYPORT_TOKEN": token})
    want = json.loads(env("json").stdout)
    assert want["SSL_CERT_FILE"].startswith(str(s.home)) and "`id`" in want["NO_PROXY"] and want["AWS_CA_BUNDLE"], want
    return s, env, want


def same(got, want, who):
    wrong = {k: (got.get(k), v) for k, v in want.items() if got.get(k) != v}
    assert not wrong, f"{who} reads {wrong}"


def shell(t, s, program, form, line, want, env):
    path = s.dir / f"env.{form}"
    path.write_text(env(form).stdout)
    r = subprocess.run([program, "-c", line.format(file="env." + form)], cwd=s.dir, capture_output=True, timeout=60,
                       env={"PATH": "/usr/bin:/bin", "HOME": str(s.dir)})
    assert r.returncode == 0, r.stderr
    got = dict(v.split("=", 1) for v in r.stdout.decode().split("\0") if "=" in v)
    same(got, want, program)


def test_sh(t):
    """POSIX shells, by eval and from a file"""
    s, env, want = arrange(t)
    for program in ("sh", "bash", "zsh", "ksh", "mksh"):
        if program == "sh" or not subprocess.run(["which", program], capture_output=True).returncode:
            shell(t, s, program, "sh", '. ./{file} && env -0', want, env)
            shell(t, s, program, "sh", 'eval "$(cat {file})" && env -0', want, env)


def test_fish(t):
    """fish, through source"""
    t.need("fish")
    s, env, want = arrange(t)
    shell(t, s, "fish", "fish", "cat {file} | source; and env -0", want, env)


def docker(t, s, text):
    """The environment that Docker's own client makes of the file -> (exit, {name: value}, stderr)."""
    got = []

    class Daemon(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, body):
            self.send_response(status)
            self.send_header("Api-Version", "1.43")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        def do_GET(self):
            self.answer(200, b"{}")
        do_HEAD = do_GET

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if "/containers/create" in self.path:
                got.append(json.loads(body))
            self.answer(201, json.dumps({"Id": "c" * 64, "Warnings": []}).encode())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Daemon)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = s.dir / "box.env"
    path.write_text(text)
    r = subprocess.run(["docker", "-H", f"tcp://127.0.0.1:{server.server_address[1]}", "create", "--pull", "never", "--env-file",
                        path, "image"], capture_output=True, text=True, timeout=60,
                       env={"PATH": os.environ["PATH"], "HOME": str(s.dir), "DOCKER_CONFIG": str(s.dir / "docker")})
    server.shutdown()
    server.server_close()
    return r.returncode, dict(v.split("=", 1) for v in (got[0]["Env"] if got else [])), r.stderr


def test_docker(t):
    """Docker's client, from --env-file, which has no quotes"""
    t.need("docker")
    s, env, want = arrange(t)
    code, got, why = docker(t, s, env("docker").stdout)
    assert code == 0, why
    same(got, want, "docker")


PARSER = """
import ctypes, json, sys
lib, libc = ctypes.CDLL(sys.argv[1]), ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
out = ctypes.POINTER(ctypes.c_char_p)()
r = lib.load_env_file(ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"r")), sys.argv[2].encode(), ctypes.byref(out))
if r < 0: sys.exit(f"load_env_file: {r}")
i, got = 0, {}
while out and out[i]:
    name, _, value = out[i].decode().partition("=")
    got[name] = value
    i += 1
print(json.dumps(got))
"""


def test_systemd(t):
    """systemd's own reader of EnvironmentFile="""
    found = sorted(glob.glob("/usr/lib/*/systemd/libsystemd-shared-*.so") + glob.glob("/usr/lib/systemd/libsystemd-shared-*.so"))
    if not found:
        t.skip("there is no systemd")
    s, env, want = arrange(t, FOLDER + "\ttab\nline")
    path = s.dir / "bot.env"
    path.write_text(env("systemd").stdout)
    r = subprocess.run([sys.executable, "-c", PARSER, found[-1], path], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    same(json.loads(r.stdout), want, "systemd")


def test_refused(t):
    """a value that a form cannot hold is refused by name, and no token is made for it"""
    s, env, want = arrange(t, "two\nlines")
    for name in list(s.env):
        if name == "SALLYPORT_TOKEN":
            del s.env[name]
    before = s.cli("agent", "list", "--json").stdout
    r = s.cli("env", "--agent", "a", "--format", "docker", check=False)
    assert r.returncode == 1 and "has a line break in its value" in r.stderr and not r.stdout, r
    assert s.cli("agent", "list", "--json").stdout == before, "a token was made"
    r = s.cli("env", "--agent", "a", "--format", "docker", "--ca-dir", "/etc/sallyport")
    assert "\nSSL_CERT_FILE=/etc/sallyport/bundle.pem\n" in r.stdout and "\nNODE_EXTRA_CA_CERTS=/etc/sallyport/ca.pem\n" in r.stdout
    for bad in (["--format", "cmd"], ["--format", "sh", "--json"], ["--ca-dir", "etc"], ["--ca-dir", "/a\nb"]):
        assert s.cli("env", "--agent", "a", *bad, check=False).returncode == 2, bad


def test_other_users(t):
    """an agent that runs as another user and could not read the CA: `env` says so, and what it says works"""
    t.need("curl")
    s = t.bare()
    s.init()
    s.agent()
    s.serve()
    os.chmod(s.dir, 0o700)
    r = s.cli("env", "--agent", "a", "--proxy", f"127.0.0.1:{s.port}")
    assert "note: other users cannot enter /" in r.stderr, r.stderr
    line = r.stderr.split("--ca-dir DIR here:\n")[1].splitlines()[0].strip()
    folder = s.dir / "agent"
    folder.mkdir()
    subprocess.run(["sh", "-ec", line.replace("DIR/", f"{folder}/")], check=True, timeout=60)
    assert (folder / "ca.pem").read_text() == s.ca.read_text()
    assert (folder / "bundle.pem").read_text().endswith(s.ca.read_text())
    assert (folder / "bundle.pem").read_text().count("BEGIN CERTIFICATE") > 50
    if all(p.stat().st_mode & 1 for p in s.dir.parents):
        os.chmod(s.dir, 0o755)
        r = s.cli("env", "--agent", "a", "--proxy", f"127.0.0.1:{s.port}")
        assert "other users" not in r.stderr, r.stderr
