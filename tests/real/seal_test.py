"""Sealed texts over the life of a store: other workers, restarts, backups, other boxes, and every move of an epoch. The upstream is
Python's, which hands out a new session for each POST and takes what is in Authorization."""
import base64
import datetime
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse

import sallyport
import servers
from real import wait

from registry_test import core

POLICY = """
return {
  kind = "type", api = 1, name = "session", title = "A session",
  fields = { { name = "token", secret = true, required = true } },
  seal = {
    { method = "POST", path = "/session", members = { "token" }, ttl = "expires_in",
      opens = { "authorization", "query=tok" } },
    { method = "POST", path = "/far", members = { "token" }, hosts = { "far.test" } },
  },
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end,
}
"""
SECRET = "canary-seal-real-credential"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    made = 0

    def say(self, value, status=200, **fields):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.got.append((self.path, self.headers["authorization"]))
        if self.path.startswith("/away"):
            return self.say({}, 302, Location="https://far.test/here")
        self.say({})

    def do_PUT(self):
        """A part of an upload: the first is asked for again."""
        self.rfile.read(int(self.headers["content-length"] or 0))
        self.server.got.append((self.path, self.headers["authorization"]))
        busy = not any(path == self.path for path, _ in self.server.got[:-1])
        self.say({}, 503 if busy else 200, **({"Retry-After": "0"} if busy else {}))

    def do_POST(self):
        Handler.made += 1
        token = f"canary-made-session-{Handler.made}"
        self.server.body = self.rfile.read(int(self.headers["content-length"] or 0))
        self.server.got.append((self.path, self.headers["authorization"]))
        said = {"token": token, "expires_in": 3600}
        if "ttl=" in self.path:
            said["expires_in"] = json.loads(urllib.parse.unquote(self.path.split("ttl=")[1]))
        self.say(said, Location=f"https://api.test/next?tok={token}")

    def log_message(self, *_):
        pass


def arrange(t, workers=1, more=()):
    s, server = t.bare(workers), servers.Recorder(Handler)
    s.init()
    s.policy("session", POLICY)
    s.credential({"name": "api", "type": "session", "host": "api.test", "secrets": {"token": SECRET}})
    s.agent()
    s.agent("b")
    s.flags = ["--upstream-ca", sallyport.certs() / "root.pem"]
    for host in ("api.test", "far.test", "other.test"):
        s.flags += ["--connect-to", f"{host}:443:127.0.0.1:{server.server_port}"]
    s.serve(*s.flags)
    return s, server


def make(s, path="/session", headers=None, **more):
    r = s.request("POST", path, headers=headers, **more)
    assert r.status == 200 and b"canary" not in r.body and "canary" not in str(r.fields), (r.status, r.body[:300])
    return json.loads(r.body)["token"]


def use(s, text, host="api.test", target="/v1", **more):
    r = s.request("GET", target, host=host, headers={"Authorization": f"Bearer {text}"}, **more)
    return r.status, r.get("x-sallyport-error")


def opens(s, server, text, **more):
    """Was it opened, and did the server get a session?"""
    answer = use(s, text, **more)
    if answer == (200, None):
        assert re.fullmatch(r"Bearer canary-made-session-\d+", server.got[-1][1]), server.got[-1]
        return True
    assert answer == (403, "sealed_elsewhere"), answer
    return False


def test_workers_and_restarts(t):
    """a text that one worker sealed opens in every one, after a restart, and on a box that was restored from the same backup, not on another"""
    s, server = arrange(t, 3)
    text = make(s)
    assert all(opens(s, server, text) for _ in range(24))
    log = wait(lambda: len(got := [r for r in s.records() if r.get("unsealed")]) >= 24 and got, 5, "24 records")
    assert len(log) == 24 and log[0]["reason"] == "sealed", log[-1]
    s.stop()
    s.serve(*s.flags)
    assert opens(s, server, text)
    backup = s.dir / "backup"
    s.cli("backup", backup)
    twin, other = t.bare(), t.bare()
    shutil.copytree(s.home, twin.home, ignore=shutil.ignore_patterns("control", "page"))      # with its key; its newest records come from the backup
    twin.ca, twin.tokens = s.ca, s.tokens
    twin.cli("restore", backup)
    twin.serve(*s.flags)
    assert opens(twin, server, text)
    other.init()
    other.policy("session", POLICY)
    other.credential({"name": "api", "type": "session", "host": "api.test", "secrets": {"token": SECRET}})
    other.agent()
    other.serve(*s.flags)
    assert not opens(other, server, text)


def numbered(text):
    """byte 4 of a sealed text: how often the data key had been changed"""
    return base64.urlsafe_b64decode(text.split("Sp5eaL")[1][:92])[4]


def test_change_of_key(t):
    """what was sealed before a change of the data key opens after it until the old key's end, of at most 4 old keys; a backup of before opens its own"""
    s, server = arrange(t)
    s.cli("credential", "set", "api", "--env", "API_TOKEN")
    env = ["env", "--agent", "a", "--proxy", "127.0.0.1:7080", "--json"]
    text, backup, twin = make(s), s.dir / "backup", t.bare()
    placeholder = json.loads(s.cli(*env, env={"SALLYPORT_TOKEN": s.tokens["a"]}).stdout)["API_TOKEN"]
    s.cli("backup", backup)
    r = s.cli("store", "rekey", check=False)
    assert r.returncode == 1 and "a server runs" in r.stderr and opens(s, server, text), r.stderr
    s.stop()
    told = json.loads(s.cli("store", "rekey", "--texts", "10m", "--json").stdout)
    assert told["changes"] == 1 and [k["key"] for k in told["old"]] == [0] and "dropped" not in told, told
    s.serve(*s.flags)
    second = make(s)
    assert numbered(text) == 0 and numbered(second) == 1
    assert opens(s, server, text) and opens(s, server, second)
    assert json.loads(s.cli("seal", "show", second, "--json").stdout)["agent"] == "a"
    assert json.loads(s.cli(*env, env={"SALLYPORT_TOKEN": s.tokens["a"]}).stdout)["API_TOKEN"] == placeholder
    code = text.split("Sp5eaL")[1]
    for number in (1, 2, 255):      # another key's number, and none's
        raw = bytearray(base64.urlsafe_b64decode(code + "=" * (-len(code) % 4)))
        raw[4] = number
        assert not opens(s, server, "Sp5eaL" + base64.urlsafe_b64encode(raw).decode().rstrip("="))
    s.set_clock(700)
    assert not opens(s, server, text) and opens(s, server, second)
    s.set_clock(0)
    s.stop()
    for n in range(2, 7):
        r = s.cli("store", "rekey")
        assert ("no more than 4 old keys are kept" in r.stderr) == (n >= 5), r.stderr
    s.serve(*s.flags)
    last = make(s)
    assert numbered(last) == 6 and opens(s, server, last) and not opens(s, server, second) and not opens(s, server, text)
    data = next(c for c in json.loads(s.cli("doctor", "--json", check=False).stdout) if c["check"] == "data key")
    assert data["level"] == "ok" and "changed 6 times; texts that were sealed before open until" in data["text"], data
    twin.home.mkdir(mode=0o700)
    shutil.copy(s.home / "key", twin.home / "key")
    r = s.cli("restore", backup, check=False)
    assert r.returncode == 1, r.stderr
    twin.ca, twin.tokens = s.ca, s.tokens
    twin.cli("restore", backup)
    twin.serve(*s.flags)
    assert opens(twin, server, text) and not opens(twin, server, second) and numbered(make(twin)) == 0


def test_epochs(t):
    """what ends an agent's or a credential's secrets ends what was sealed for them, also where a record of the same name is made anew"""
    s, server = arrange(t)

    def ended_by(*args, agent="a"):
        text = make(s, auth=s.auth(name=agent))
        assert opens(s, server, text, auth=s.auth(name=agent))
        for words in args:
            out = s.cli(*words).stdout.strip()
            if out.startswith("sp_agt_"):
                s.tokens[agent] = out
                s.canaries.append(out)
        assert not opens(s, server, text, auth=s.auth(name=agent)), args
        assert opens(s, server, make(s, auth=s.auth(name=agent)), auth=s.auth(name=agent)), args
    ended_by(["agent", "rotate", "a"])
    ended_by(["agent", "revoke", "a"], ["agent", "remove", "a"], ["agent", "add", "a"])
    ended_by(["agent", "disable", "a"], ["agent", "enable", "a"])
    ended_by(["seal", "revoke", "--agent", "a"])
    ended_by(["seal", "revoke", "--credential", "api"])
    ended_by(["credential", "disable", "api"], ["credential", "enable", "api"])
    ended_by(["credential", "set", "api", f"token=@{s.secret_file('canary-another-secret')}"])
    ended_by(["credential", "remove", "api"],
             ["credential", "add", "api", "--type", "session", "--host", "api.test", f"token=@{s.secret_file(SECRET)}"])
    text = make(s)
    s.cli("bundle", "disable", "default")
    assert not opens(s, server, text)
    s.cli("bundle", "enable", "default")
    s.cli("seal", "revoke", "--agent", "b")
    s.cli("credential", "set", "api", "--host", "api.test", "--host", "other.test")
    s.cli("agent", "set", "a", "--requests", "9")
    assert opens(s, server, text) and opens(s, server, text, host="other.test")
    for words in (["seal", "revoke"], ["seal", "revoke", "--agent", "a", "--credential", "api"], ["seal", "revoke", "--agent", "nobody"]):
        assert s.cli(*words, check=False).returncode in (1, 2), words


def test_another_value_from_elsewhere(t):
    """another value that a file or a program has ends what was sealed before, in every worker and after a restart; the same one does not"""
    s, server = arrange(t, 2)
    s.stop()
    file = s.dir / "token"
    def put(text):              # at once: who reads while a file is written finds it empty, and refuses
        other = s.dir / "token.new"
        other.write_text(text)
        other.chmod(0o600)
        other.rename(file)
    put("canary-elsewhere-1")
    s.canaries += ["canary-elsewhere-%d" % i for i in (1, 2, 3)]
    s.cli("credential", "set", "api", f"token=file:{file}", "ttl=1s")
    s.serve(*s.flags)
    text = make(s)
    began = time.monotonic()
    while time.monotonic() - began < 2.5:           # fetched anew, and the same
        assert opens(s, server, text)
    def opens_now(text):        # or it is cut: a request that is under way when its text ends is ended with it
        try:
            return opens(s, server, text)
        except ConnectionError:
            return False
    def changes():
        return [r for r in map(json.loads, s.cli("log", "--json", "--kind", "change").stdout.splitlines()) if "api" in str(r)]
    before = changes()
    put("canary-elsewhere-2")
    wait(lambda: not opens_now(text), 10, "the text to end")
    wait(lambda: all(opens_now(make(s)) for _ in range(4)), 10, "both workers have it")
    text = make(s)
    assert all(opens(s, server, text) for _ in range(12))
    wait(lambda: len(changes()) == len(before) + 1, 5, "a record of it")        # one of the two did it
    assert "noted" not in str(changes()), changes()
    s.stop()
    s.serve(*s.flags)
    assert opens(s, server, text)
    s.stop()
    put("canary-elsewhere-3")           # nobody saw the change
    s.serve(*s.flags)
    wait(lambda: not opens_now(text), 5)
    wait(lambda: opens_now(make(s)), 5)


def test_as_the_credential_is_now(t):
    """where the credential does not go any more its texts do not either; mint=refuse and a bundle that is taken away count, too"""
    s, server = arrange(t)
    text = make(s)
    for narrow, wide in (("--path", "/other"), ("--method", "POST"), ("--port", "8443"), ("--host", "other.test")):
        s.cli("credential", "set", "api", narrow, wide)
        assert not opens(s, server, text), narrow
        s.cli("credential", "set", "api", *(["--host", "api.test"] if narrow == "--host" else ["--port", "443"] if narrow == "--port" else ["--clear", narrow[2:]]))
        assert opens(s, server, text), narrow
    s.cli("credential", "set", "api", "mint=refuse")
    assert not opens(s, server, text)
    assert s.request("POST", "/session").get("x-sallyport-error") == "mint_denied"
    s.cli("credential", "set", "api", "--clear", "mint")
    assert opens(s, server, text)
    s.cli("bundle", "detach", "default", "api")
    assert not opens(s, server, text)
    s.cli("bundle", "attach", "default", "api")
    s.policy("session", POLICY.replace("/session", "/sessions"))      # nobody knows its call any more
    assert not opens(s, server, text)
    s.policy("session", POLICY)
    assert opens(s, server, text)
    s.cli("credential", "set", "api", "mint=allow")
    r = s.request("POST", "/session")
    assert json.loads(r.body)["token"].startswith("canary-made-session-"), r.body


def test_what_is_made_with_it(t):
    """a secret that is made with a sealed text is the same credential's, and ends no later; at most seal-max"""
    s, server = arrange(t)
    text = make(s)
    first = json.loads(s.cli("seal", "show", text, "--json").stdout)
    assert first["agent"] == "a" and first["credential"] == "api" and first["call"] == "POST /session" and not first["expired"], first
    assert first["opens"] == ["authorization", "query=tok"] and first["hosts"] == ["api.test"] and "kept" not in first, first
    s.set_clock(1800)
    second = make(s, headers={"Authorization": f"Bearer {text}"})
    assert server.got[-1][1].startswith("Bearer canary-made-session-")
    shown = json.loads(s.cli("seal", "show", second, "--json").stdout)
    assert shown["credential"] == "api" and shown["expires_at"] == first["expires_at"], (first, shown)
    assert opens(s, server, second)
    s.set_clock(3700)
    assert use(s, second) == (403, "sealed_expired") == use(s, text)
    s.cli("set", "seal-max", "5m")
    third = make(s)
    ends = sallyport.moment(json.loads(s.cli("seal", "show", third, "--json").stdout)["expires_at"])
    assert 240 < ends - sallyport.moment(json.loads(s.cli("seal", "show", text, "--json").stdout)["expires_at"]) - 100 <= 320
    assert "expired" in s.cli("seal", "show", text).stdout and s.cli("seal", "show", "-", stdin=f'{{"token":"{third}"}}').returncode == 0
    assert "no sealed text" in s.cli("seal", "show", "ghp_abc", check=False).stderr


CLIENT = """
import json, sys, time, urllib.error, urllib.request
class Bears(urllib.request.Request):
    def __init__(self, method, url, bearer, data=None):
        super().__init__(url, data, {"Authorization": "Bearer " + bearer, "Content-Type": "application/octet-stream"}, method=method)
def send(*request):
    try:
        with urllib.request.urlopen(Bears(*request)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        return e.code, e.headers["x-sallyport-error"]
def begin(path):
    status, said = send("POST", "https://api.test" + path, "placeholder-of-the-client", b"")
    assert status == 200, status
    return said["token"]
bearers = [begin("/session?ttl=2"), begin("/far")]
status, renewed = 200, 0
while renewed == 0:                             # past one end of the session
    status, why = send("GET", "https://api.test/events", bearers[0])
    if status != 200:
        assert why == "sealed_expired", (status, why)
        bearers.append(begin("/session"))
        assert send("GET", "https://api.test/events", bearers[-1])[0] == 200
        renewed += 1
    time.sleep(0.3)
statuses = []
while 200 not in statuses:                      # an upload, of which the first part is sent again
    statuses.append(send("PUT", "https://far.test/part", bearers[1], b"x" * 100000)[0])
assert statuses == [503, 200], statuses
print("done", flush=True)
sys.stdin.readline()
"""


def test_memory(t):
    """clients of a session for the same host and of an upload with a bearer of its own, past one end and one retry: in their whole memory
    there is no real token"""
    t.need("gcore")
    s, server = arrange(t)
    p = subprocess.Popen([sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env={**os.environ, "HTTPS_PROXY": s.proxy_url(), "https_proxy": s.proxy_url(), "SSL_CERT_FILE": str(s.dir / "ca.pem")})
    said = p.stdout.readline()
    assert said == b"done\n", said + p.communicate(timeout=60)[0]
    memory = core(p, s.dir / "core")
    p.communicate(b"\n", timeout=60)
    assert b"placeholder-of-the-client" in memory and b"Sp5eaL" in memory, "it is the client's memory"
    assert SECRET.encode() not in memory and b"canary-made-session" not in memory
    took = {path: bearer for path, bearer in server.got}
    assert re.fullmatch(r"Bearer canary-made-session-\d+", took["/part"]) and re.fullmatch(r"Bearer canary-made-session-\d+", took["/events"]), took
    assert len({bearer for path, bearer in server.got if path == "/events"}) == 2, "it got another session"


def test_ends(t):
    """an answer says when its secret ends in seconds, as a Unix time or RFC 3339, as numbers or texts; what cannot be read counts for an hour"""
    s, server = arrange(t)
    now = int(time.time())
    rfc = datetime.datetime.fromtimestamp(now + 900, datetime.timezone.utc)
    for said, left in ((600, 600), ("600", 600), (600.5, 600), (now + 900, 900), (str(now + 900), 900), ((now + 900) * 1000, 900),
                       (rfc.strftime("%Y-%m-%dT%H:%M:%SZ"), 900), (rfc.isoformat(), 900), (10 ** 7, 86400), (now + 10 ** 7, 86400),
                       (0, 3600), (-5, 3600), ("soon", 3600), (None, 3600), ({}, 3600), (True, 3600)):
        text = make(s, "/session?ttl=" + urllib.parse.quote(json.dumps(said)))
        ends = sallyport.moment(json.loads(s.cli("seal", "show", text, "--json").stdout)["expires_at"])
        assert left - 3 <= ends - now <= left + 60 * sallyport.SLOW, (said, ends - now)
    text = make(s, "/session?ttl=" + str(now - 60))
    assert use(s, text) == (403, "sealed_expired")


def test_bodies(t):
    """a body that is too long to be looked into goes by, and the one behind it, on the same way, is looked into"""
    s, server = arrange(t)
    s.policy("session", POLICY.replace('"query=tok"', '"query=tok", "json=/key"'))
    s.cli("credential", "set", "api", "--seal-host", "far.test")
    s.credential({"name": "far", "type": "bearer", "host": "far.test", "secrets": {"token": "canary-far"}})
    text, more = make(s), {"host": "far.test", "headers": {"Content-Type": "application/json"}}
    for _ in range(2):
        assert s.request("POST", "/long", body=b'{"x":"%s"}' % (b"y" * (1 << 20)), **more).status == 200
    assert s.request("POST", "/long", body=json.dumps({"key": text}).encode(), **more).status == 200
    assert re.fullmatch(rb'\{"key": "canary-made-session-\d+"\}', server.body), server.body


def test_redirects_and_records(t):
    """a sealed text in a Location opens where its row says, follows no redirect to another host, and is `sealed` in a record's path"""
    t.need("curl")
    s, server = arrange(t)
    r = s.request("POST", "/session")
    where = r.get("location")
    assert re.fullmatch(r"https://api\.test/next\?tok=Sp5eaL[\w-]+", where), where
    text = where.split("=", 1)[1]
    assert s.request("GET", where[len("https://api.test"):]).status == 200
    assert re.fullmatch(r"/next\?tok=canary-made-session-\d+", server.got[-1][0]), server.got[-1]
    s.cli("domain", "add", "default", "far.test")
    env = {"HTTPS_PROXY": s.proxy_url(), "PATH": "/usr/bin:/bin"}
    out = subprocess.run(["curl", "-sS", "-L", "--location-trusted", "--cacert", s.ca, "-H", f"Authorization: Bearer {text}", "https://api.test/away"],
                         env=env, capture_output=True, text=True).stdout
    assert '"sealed_elsewhere"' in out and "far.test" in out, out
    assert not any(path == "/here" for path, _ in server.got)
    assert s.request("GET", f"/x/{text}/y").status == 200      # in a path: worthless
    record = s.wait_record({"path": "/x/sealed/y"})
    assert text not in json.dumps(s.records()) and record["decision"] == "allow"
    far = make(s, "/far")
    s.cli("domain", "remove", "default", "far.test")
    assert opens(s, server, far, host="far.test") and server.got[-1][1].startswith("Bearer canary-made")
    assert not opens(s, server, text, host="far.test")
    s.cli("credential", "set", "api", "--seal-host", "far.test")
    assert opens(s, server, text, host="far.test")
    assert use(s, "x", host="far.test") == (403, "host_not_allowed")


def test_explain(t):
    """explain says that an answer is sealed, and what becomes of a request with a sealed text"""
    s, server = arrange(t)
    text = make(s)

    def explained(*args):
        return json.loads(s.cli("explain", "--json", *args).stdout)
    assert "sealed" in explained("--agent", "a", "POST", "https://api.test/session")["note"]
    bears = ["--header", f"Authorization: Bearer {text}"]
    found = explained("--agent", "a", *bears, "GET", "https://api.test/v1")
    assert (found["decision"], found["credential"], found["reason"]) == ("allow", "api", "sealed"), found
    assert explained("--agent", "a", *bears, "GET", "https://other.test/")["code"] == "sealed_elsewhere"
    assert explained("--agent", "b", *bears, "GET", "https://api.test/")["code"] == "sealed_elsewhere"


TRIED = """
return {
  kind = "type", api = 1, name = "tried", title = "Sessions of several kinds",
  fields = { { name = "token", secret = true, required = true } },
  seal = {
    { method = "POST", path = "/one", members = { "token" }, optional = { "list/*/key", "header=X-Session", "cookie=sid" }, ttl = "expires_in", prefix = "sst_" },
    { method = "POST", path = "/two", members = { { "a", "b" } }, ttl = 900, shape = "jwt" },
    { method = "POST", path = "/form", members = { "form=token" }, ttl = "form=lives" },
  },
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end,
  examples = { { cred = { token = "t" }, req = { method = "POST", url = "https://api.test/one" }, response = { body = { token = "x", expires_in = 60 } }, want = { sealed = %s } } },
}
"""


class Told(Handler):
    def do_POST(self):
        """The answer is what the request's body says."""
        said = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = said["body"].encode()
        self.send_response(said.get("status", 200))
        for name, value in {"Content-Length": str(len(body)), **said.get("headers", {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def sealed_in(value, at=""):
    """The members of an answer that are sealed texts, and these."""
    if isinstance(value, str):
        return {at: value} if "Sp5eaL" in value else {}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {k: v for name, inner in pairs for k, v in sealed_in(inner, f"{at}/{name}".lstrip("/")).items()}


def test_policy_try_says_what_is_sealed(t):
    """policy try --answer and the proxy agree on what of an answer is sealed, as what, for how long, and what fails; an example says the same"""
    s, server = t.bare(), servers.Recorder(Told)
    s.init()
    file = s.dir / "tried.lua"
    for want, code in (("{ token = 60 }", 0), ("{ token = 61 }", 1), ("{ token = 60, other = 1 }", 1), ("{}", 1), ("false", 1), ('"seal_failed"', 1), ('"mint_denied"', 1)):
        file.write_text(TRIED % want)
        assert s.cli("policy", "test", file, check=False).returncode == code, want
    s.policy("tried", TRIED % "{ token = 60 }")
    s.credential({"name": "api", "type": "tried", "host": "api.test", "secrets": {"token": SECRET}})
    s.agent()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{server.server_port}")
    as_json, jwt = {"Content-Type": "application/json"}, "eyJhbGciOiJIUzI1NiJ9.e30." + "A" * 43
    cases = [("/one", {"body": '{"token":"canary-a-1","expires_in":600,"list":[{"key":"canary-a-2"},{"key":""},{"key":null}]}'}), ("/one", {"body": '{"token":7}'}),
             ("/one", {"body": '{"token":"canary-b-1"}', "headers": {"X-Session": "canary-b-2", "Set-Cookie": "sid=canary-b-3; Path=/"}}),
             ("/one", {"body": '{"token":"canary-c-1","expires_in":"2100-01-01T00:00:00Z"}'}), ("/one", {"body": '{"token":"canary-h-1","expires_in":1e300}'}),
             ("/one", {"body": '{"token":"canary-h-2","expires_in":"0x10"}'}), ("/one", {"body": '{"other":"x"}'}), ("/one", {"body": "no JSON"}),
             ("/one", {"body": '{"list":[{"key":"canary-d-1"}]}', "status": 400}), ("/one", {"body": '{"token":"canary-e-1"}', "status": 206}),
             ("/two", {"body": json.dumps({"b": jwt})}), ("/two", {"body": '{"a":"canary-f-1","b":"canary-f-2"}'}),
             ("/form", {"body": "token=canary-g-1&lives=120", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}), ("/none", {"body": '{"token":"open"}'})]
    seen = 0
    for path, said in cases:
        said["headers"] = {**(as_json if "Content-Type" not in said.get("headers", {}) else {}), **said.get("headers", {})}
        text = f"HTTP/1.1 {said.get('status', 200)} X\r\n" + "".join(f"{n}: {v}\r\n" for n, v in said["headers"].items()) + "\r\n" + said["body"]
        (s.dir / "answer").write_text(text, newline="")
        args = ("policy", "try", "tried", "POST", f"https://api.test{path}", "--answer", f"@{s.dir / 'answer'}", "--credential", "api")
        tried, words = json.loads(s.cli(*args, "--json").stdout), s.cli(*args).stdout
        assert "canary" not in words + json.dumps(tried) and jwt not in words, words
        r = s.request("POST", path, body=json.dumps(said).encode())
        assert bool(tried.get("seal_fails")) == (r.status == 502), (path, said, tried, r.status, r.body)
        if r.status == 502:
            seen += 1
            assert r.get("x-sallyport-error") == "seal_failed" and tried["seal_fails"] in r.body.decode() and tried["seal_fails"] in words, (tried, r.body)
            continue
        got = sealed_in(json.loads(r.body)) if path != "/form" else {"form=token": dict(urllib.parse.parse_qsl(r.body.decode()))["token"]}
        got |= {f"header={n}": v for n in ("x-session",) if (v := r.get(n))} | ({"cookie=sid": r.get("set-cookie").split(";")[0][4:]} if r.get("set-cookie") else {})
        want = {one["member"]: one for one in tried.get("sealed") or []}
        assert got.keys() == want.keys() and bool(tried["seals"]) == (path != "/none"), (path, got, tried)
        for name, value in got.items():
            shown, one = json.loads(s.cli("seal", "show", value, "--json").stdout), want[name]
            left = datetime.datetime.fromisoformat(shown["expires_at"]).timestamp() - time.time()
            assert abs(left - one["seconds"]) < 60 and shown["shape"] == one.get("shape", "opaque"), (name, left, shown, one)
            assert value.startswith(one.get("begins", "")) and one["opens"] == shown["opens"] and f"sealed    {name}, for" in words, (name, value, words)
            seen += 1
    assert seen > 14, seen
    r = s.cli("policy", "try", "tried", "POST", "https://api.test/one", "--answer", "HTTP/x", check=False)
    assert r.returncode == 2 and "--answer: " in r.stderr, r.stderr


def test_mint_seal_widens_nothing(t):
    """a github_app that was narrowed is refused its token calls with mint=seal, too"""
    s, _ = t.proxy(serve=False)
    key = s.dir / "app.pem"
    key.write_text(subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True, check=True).stdout)
    key.chmod(0o600)
    s.cli("credential", "add", "app", "--type", "github_app", "app_id=1", "installation_id=7", f"private_key=@{key}",
          "repositories=one", "permissions.contents=read", "mint=seal")
    for method, path in (("POST", "/app/installations/8/access_tokens"), ("POST", "/login/oauth/access_token"), ("POST", "/repos/a/b/keys")):
        got = json.loads(s.cli("explain", "--json", method, f"https://api.github.com{path}").stdout)
        assert got["code"] == ("token_endpoint" if "installations" in path else "mint_denied"), got
