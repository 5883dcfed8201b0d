"""What the author of a policy does: begin one, look into it, be told why it fails, compare versions, and forget it."""
import base64
import http.server
import json
import os
import re
import shutil
import subprocess
import threading

import sallyport
from real import wait

TYPE = """return {
  kind = "type", api = 1, name = "acme", title = "Acme",
  fields = { { name = "token_url", type = "url", required = true }, { name = "key", secret = true, required = true } },
  apply = function(req, cred)
    log("going to", req.path, cred.key, { key = cred.key, byte = "\\27[2J" })
    req.headers:set("x-key", cred.key)
    req.headers:set("authorization", "Bearer " .. cred.state.access_token)
  end,
  refresh = function(cred, net, deadline)
    local answer, code, detail = net.request({ url = cred.token_url, headers = { ["x-key"] = cred.key },
      expect = { token = "secret", why = "string" } }, deadline)
    if not answer then return nil, code, detail end
    %s
    return { secrets = { access_token = answer.values.token }, expires_at = time.wall() + 3600 }
  end,
  %s
}
"""
KEY = "canary-policies-key-0123456789abcdef"


class Endpoint:
    """A token endpoint on this machine, whose answer can be changed."""

    def __init__(self):
        endpoint = self
        self.status, self.body, self.requests = 200, {}, 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                endpoint.requests += 1
                self.rfile.read(int(self.headers.get("content-length", 0)))
                body = json.dumps(endpoint.body).encode()
                self.send_response(endpoint.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def arrange(t, lines, *flags):
    """A server with a credential of the type acme, whose refresh has these lines."""
    endpoint = Endpoint()
    s, up = t.proxy(serve=False)
    s.policy("acme", TYPE % (lines, ""))
    s.canaries.append(KEY)
    s.cli("credential", "add", "a1", "--type", "acme", "--host", "api.test", "--address", "127.0.0.0/8",
          f"token_url={endpoint.url}", f"key=@{s.secret_file(KEY)}")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", *flags)
    return s, up, endpoint


FAILURES = [
    ("json.encode { a = cred.key }", {}, 200, 13, "json: a secret (json.build makes a secret text)", "policy_failed"),
    ("net.post()", {}, 200, 13, "url or parameters are missing", "policy_failed"),
    ('if answer.status ~= 200 then return nil, "the tenant is not known" end', {}, 403, 13, "the tenant is not known", "oauth_refresh_failed"),
    ('if answer.status ~= 200 then error("it says " .. answer.values.why) end', {"why": "CANARYBODY 4711"}, 400, 13, "it says [answer]", "policy_failed"),
    ("if answer.status == 201 then return { access_token = answer.values.token } end", {"token": "canary-token-1"}, 201, 9, "has no key 'access_token'", "policy_failed"),
    ("if answer.status == 201 then return { secrets = { access_token = 'x' } } end", {}, 201, 9, "no secret", "policy_failed"),
    ("print(answer)", {}, 200, 13, "log(", "policy_failed"),
]


def test_failing_refresh(t):
    """file, line, the policy's words and the endpoint's status: in credential test, credential show and the log, not for the agent"""
    for lines, body, status, line, text, code in FAILURES:
        s, up, endpoint = arrange(t, lines)
        endpoint.status, endpoint.body = status, body
        if body.get("token"):
            s.canaries.append(body["token"])
        r = s.cli("credential", "test", "a1", "https://api.test/", check=False)
        assert r.returncode == 1 and f"policies/acme.lua:{line}: " in r.stderr and text in r.stderr, (lines, r.stderr)
        assert f"answered {status}" in r.stderr, r.stderr
        shown = s.cli("credential", "show", "a1").stdout
        assert f"policies/acme.lua:{line}: " in shown and text in shown and f"answered {status}" in shown, shown
        token = json.loads(s.cli("credential", "show", "a1", "--json").stdout)["token"]
        assert f"policies/acme.lua:{line}: " in token["error_why"], token
        # the failure was the command's: the server's log tells it, too, at the first request that meets it
        answer = s.request()
        assert answer.get("x-sallyport-error") == code, (lines, answer.status, answer.body)
        assert b"acme.lua" not in answer.body and text.encode() not in answer.body, answer.body
        place = f'why="policies/acme.lua:{line}: '
        wait(lambda: place in s.log(), what="a line of the log")
        found = [row for row in s.log().splitlines() if place in row]
        assert len(found) == 1 and f" status={status}" in found[0] and " policy=acme " in found[0], found
        for everywhere in (r.stderr, shown, s.log(), answer.body.decode()):
            assert "CANARYBODY" not in everywhere and KEY not in everywhere, everywhere
        s.stop()


def test_log_of_policies(t):
    """log(…) is in the server's log with --verbose alone, without a secret and without control bytes"""
    for flags, count in (("--verbose",), 1), ((), 0):
        s, up, endpoint = arrange(t, "", *flags)
        endpoint.body = {"token": "canary-token-2"}
        s.canaries.append("canary-token-2")
        assert s.request(target="/v1/here").status == 200
        assert up.requests[-1].get("authorization") == "Bearer canary-token-2"
        wait(lambda: s.log().count("ev=log policy=acme") >= count, what="the log's line")
        lines = [row for row in s.log().splitlines() if "ev=log" in row]
        assert len(lines) == count, lines
        if count:
            assert 'going to /v1/here [secret] { byte = \'\\x1b[2J\', key = [secret] }' in lines[0].replace('"', "'"), lines
        s.stop()


def test_log_of_answers(t):
    """what an endpoint wrote is not in the server's log, though the policy logs it: it may have written a secret back"""
    s, up, endpoint = arrange(t, 'log("it says", answer.values.why, { why = answer.values.why .. "!" }, answer.status, answer.values)', "--verbose")
    endpoint.body = {"token": "canary-token-4", "why": f"the key {KEY} is known" + " and known" * 60}
    s.canaries.append("canary-token-4")
    assert s.request(target="/v1/here").status == 200
    wait(lambda: "text=\"it says" in s.log(), what="the log's line")
    line = next(row for row in s.log().splitlines() if "it says" in row)
    assert "it says [answer] { why = '[answer]!' } 200 { token = [secret], why = '[answer]' }" in line, line
    assert "and known" not in s.log()


def test_put_again(t):
    """a type that was removed and comes again with other lines is the new one, at the next request of a server that ran on"""
    s, up, endpoint = arrange(t, "")
    endpoint.body = {"token": "canary-token-5"}
    s.canaries.append("canary-token-5")
    assert s.request().status == 200 and up.requests[-1].get("x-key") == KEY
    for round in range(2):
        s.cli("credential", "remove", "a1")
        s.cli("policy", "remove", "acme")
        s.policy("acme", (TYPE % ("", "")).replace('"x-key", cred.key', f'"x-round-{round}", cred.key'))
        s.cli("credential", "add", "a1", "--type", "acme", "--host", "api.test", "--address", "127.0.0.0/8",
              f"token_url={endpoint.url}", f"key=@{s.secret_file(KEY)}")
        assert s.request().status == 200
        assert up.requests[-1].get(f"x-round-{round}") == KEY and up.requests[-1].get("x-key") is None, up.requests[-1]


def test_new(t):
    """policy new writes a file that passes, of every type; nothing that is there is overwritten"""
    s = t.bare()
    s.init()
    listed = json.loads(s.cli("policy", "list", "--json").stdout)
    types = [p["name"] for p in listed if p["kind"] == "type"]
    assert len(types) > 12
    for like in [*types, "start", "rule", "rate", "budget"]:
        at = s.dir / f"x_{like}.lua"
        r = subprocess.run([s.binary, "--home", s.home, "policy", "new", f"x_{like}", "--like", like], cwd=s.dir, capture_output=True, text=True)
        assert r.returncode == 0 and at.exists(), r.stderr
        assert "-- " in at.read_text() and f'"x_{like}"' in at.read_text()
        again = subprocess.run([s.binary, "--home", s.home, "policy", "new", f"x_{like}", "--like", like], cwd=s.dir, capture_output=True, text=True)
        assert again.returncode == 1 and "already" in again.stderr, again.stderr
        assert re.match(rf"ok      x_{like}  \d+ example", s.cli("policy", "test", at).stdout)
    for words, said in (("bearer",), "is a type of this binary"), (("a-b",), "small letters"), (("y", "--like", "match"), "is no credential type"), (("y", "--like", "baerer"), "did you mean bearer"):
        r = subprocess.run([s.binary, "--home", s.home, "policy", "new", *words], cwd=s.dir, capture_output=True, text=True)
        assert r.returncode != 0 and said in r.stderr, (words, r.stderr)
    at = s.dir / "x_rule.lua"           # a rule's fault has its own line, and a field that it does not have is named
    text = at.read_text()
    line = 1 + text[:text.index("if hour <")].count("\n")
    for was, said in (("ctx.rule.from or", "did you mean from?"), ("hour <", "attempt to compare")):
        at.write_text(text.replace(was, "ctx.rule.form or" if "from" in was else "{} <", 1))
        r = s.cli("policy", "test", at, check=False)
        assert r.returncode == 1 and f":{line}: " in r.stderr + r.stdout and said in r.stderr + r.stdout, (r.stdout, r.stderr)


ANSWERED = """examples = { { cred = { token_url = "https://login.acme.test/t", key = "k" }, answers = { { body = { token = "made-up" } } },
    want = { state = { access_token = "made-up" }, sent = { { url = "https://login.acme.test/t", headers = { ["x-key"] = "k" } } } } } },"""


def test_try(t):
    """before, after, what was stripped, log and instructions; secrets by name, whatever they come through; nothing is sent"""
    s, up, endpoint = arrange(t, "")
    file = s.dir / "acme.lua"
    file.write_text(TYPE % ("", ANSWERED))
    url = "https://api.test/v1?a=1"
    r = s.cli("policy", "try", file, "POST", url, "-H", "X-Key: mine", "-HAccept: */*", "-d", "body")
    for part in ("x-key: mine", "x-key: «key»", "Bearer «access_token»", "accept: */*", "  body\n", "instructions", "log       going to /v1 [secret]",
                 "refresh would send\n  POST https://login.acme.test/t", "\\x1b[2J"):
        assert part in r.stdout, (part, r.stdout)
    assert "stripped  nothing" in r.stdout and "made-up" not in r.stdout
    # the kept one: neither its key nor its token is opened
    endpoint.body = {"token": "canary-token-3"}
    s.canaries.append("canary-token-3")
    s.cli("credential", "test", "a1", url)
    before = endpoint.requests, len(up.requests)
    r = s.cli("policy", "try", "acme", "GET", url, "--credential", "a1")
    assert "x-key: «key»" in r.stdout and "Bearer «access_token»" in r.stdout, r.stdout
    out = json.loads(s.cli("policy", "try", "acme", "GET", url, "--credential", "a1", "--json").stdout)
    assert out["after"]["headers"] == {"authorization": "Bearer «access_token»", "x-key": "«key»"} and out["stripped"] == [] and out["instructions"] > 0
    assert (endpoint.requests, len(up.requests)) == before
    assert "goes to" not in r.stdout and "elsewhere" not in out
    r = s.cli("policy", "try", "acme", "GET", "https://api.test.other.example/", "--credential", "a1")
    assert "note      'a1' goes to api.test: a request to api.test.other.example would go out without it" in r.stdout, r.stdout
    # given ones: from a file, never from the command line
    r = s.cli("policy", "try", "acme", "GET", url, "token_url=https://a.test/", f"key=@{s.secret_file(KEY)}")
    assert "«key»" in r.stdout and KEY not in r.stdout
    r = s.cli("policy", "try", "acme", "GET", url, "token_url=https://a.test/", "key=plain", check=False)
    assert r.returncode == 2 and "never comes from the command line" in r.stderr, r.stderr
    # what is encoded on the way
    r = s.cli("policy", "try", "basic", "GET", url, "username=me", f"password=@{s.secret_file(KEY)}", "-H", "Authorization: Basic x")
    assert "Basic base64(me:«password»)" in r.stdout and "stripped  authorization" in r.stdout, r.stdout
    r = s.cli("policy", "try", "jwt", "GET", url, "algorithm=ES256", "claims.iss=me", check=False)
    assert "eyJ" not in r.stderr, r.stderr
    # what a type of yours does wrong has its line and a hint
    file.write_text((TYPE % ("", "")).replace('req.headers:set("x-key"', 'req.heders:set("x-key"'))
    r = s.cli("policy", "try", file, "GET", url, "token_url=https://a.test/", check=False)
    assert r.returncode == 1 and "acme.lua:6: a request has no heders: did you mean req.headers?" in r.stderr, r.stderr
    file.write_text((TYPE % ("", "")).replace("cred.key)\n", "cred.kye)\n"))
    r = s.cli("policy", "try", file, "GET", url, "token_url=https://a.test/", check=False)
    assert r.returncode == 1 and "acme.lua:6: the type has no field 'kye': did you mean key?" in r.stderr, r.stderr


def test_kept_tokens(t):
    """a token that is kept and lacks what the type reads from now on is named; one of a key of before counts as none; what apply refuses has its line in the log"""
    s, up, endpoint = arrange(t, "")
    endpoint.body = {"token": "canary-token-4"}
    s.canaries.append("canary-token-4")
    assert s.request().status == 200
    assert "valid until" in s.cli("credential", "show", "a1").stdout
    file, now = s.dir / "acme.lua", TYPE % ("", "")
    file.write_text(now.replace('cred.key)\n', 'cred.key) -- cred.state.token_type\n'))
    assert "kept for" not in s.cli("policy", "put", file).stderr
    file.write_text(now.replace('req.headers:set("x-key", cred.key)', 'req.headers:set("x-key", cred.key .. cred.state.tenant)'))
    r = s.cli("policy", "put", file)
    assert "note: acme: the token that is kept for 'a1' has no tenant: requests with it fail until it is renewed (it is valid until" in r.stderr, r.stderr
    assert "sallyport credential disable a1; sallyport credential enable a1: it ends now" in r.stderr, r.stderr
    assert s.request().status == 502
    file.write_text(now)
    s.cli("policy", "put", file)
    n = endpoint.requests
    s.cli("credential", "disable", "a1")
    s.cli("credential", "enable", "a1")
    show = s.cli("credential", "show", "a1").stdout
    assert "none that is valid" in show and "valid until" not in show, show
    assert s.request().status == 200 and endpoint.requests == n + 1
    assert "valid until" in s.cli("credential", "show", "a1").stdout
    # the words of the type may quote the request: the log has where they stand, of a long type too
    long = "".join(f"-- line {i} of what it is for\n" for i in range(300))
    now += long
    for code in ('"bad_request"', "nil"):
        file.write_text(now.replace('    req.headers:set("x-key", cred.key)\n', f'    if req.path == "/no" then return nil, "no such path: " .. req.path, {code} end\n'))
        s.cli("policy", "put", file)
        assert s.request(target="/no").status in (400, 502)
    assert s.log().count('policy=acme err="policies/acme.lua:6"') == 2 and "no such path" not in s.log() and "script error" not in s.log(), s.log()
    file.write_text(TYPE % ('if answer.status ~= 200 then return nil, "the tenant is not known" end', "") + long)
    s.cli("policy", "put", file)
    endpoint.status = 403
    s.cli("credential", "disable", "a1")
    s.cli("credential", "enable", "a1")
    assert s.request().status == 502
    assert "policies/acme.lua:13" in s.log() and "task_failed" not in s.log(), s.log()


def test_try_every_type(t):
    """policy try of every type, from its examples and from kept credentials: no part of a secret, in words and as JSON; nothing is sent"""
    s, up, endpoint = arrange(t, "")
    t.need("openssl")
    rsa = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True, check=True).stdout
    ec = subprocess.run(["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout"], capture_output=True, text=True, check=True).stdout
    document = s.secret_file(json.dumps({"type": "service_account", "project_id": "p", "private_key_id": "CANARY-kid", "private_key": rsa,
                                         "client_email": "a@p.iam.gserviceaccount.com", "client_id": "1", "token_uri": "https://oauth2.googleapis.com/token"}))
    key, pem, ec_pem = s.secret_file(KEY), s.secret_file(rsa), s.secret_file(ec)
    kept = {
        "bearer": [f"token=@{key}", f"headers.X-Second=@{key}"], "basic": ["username=me", f"password=@{key}"], "api_key": [f"key=@{key}", "header=x-k"],
        "body_parameter": [f"value=@{key}", "name=key"], "hmac": [f"key=@{key}", "string={timestamp}{path}", "set.x-s={signature}"], "aws_sigv4": ["access_key_id=AKIDEXAMPLE", f"secret_access_key=@{key}", "region=us-east-1", "service=execute-api"],
        "oauth_client_credentials": ["token_url=https://a.test/t", "client_id=me", f"client_secret=@{key}"],
        "gcp_access_token": [f"key=@{document}"], "gcp_iap": [f"key=@{document}", "audience=https://api.test/"],
        "github_app": ["app_id=1", "account=me", f"private_key=@{pem}", "api_url=https://api.test/api/v3"], "jwt": ["algorithm=RS256", f"private_key=@{pem}", "claims.iss=me"],
        "oauth_jwt_bearer": ["token_url=https://a.test/t", "issuer=me", "audience=a", f"private_key=@{ec_pem}", "algorithm=ES256"],
    }
    secrets = [KEY, KEY.encode().hex(), base64.b64encode(KEY.encode()).decode()[:-4], "CANARY-kid"]
    secrets += [line for text in (rsa, ec) for line in text.splitlines() if len(line) > 40]
    tried = 0
    assert s.cli("policy", "try", "rate", "GET", "https://api.test/", "requests=1").stdout == "it goes on\ncounted   1 for a in 60\n"
    assert s.cli("policy", "try", "rate", "GET", "https://api.test/", "requests=0", "--agent", "me").stdout.startswith("it refuses  0 in 1m is the limit\ncounted   1 for me in 60")
    for policy in json.loads(s.cli("policy", "list", "--json").stdout):
        name = policy["name"]
        if policy["kind"] != "type":        # presets are no more than data; match decides; a rule is asked, where it needs no field
            r = s.cli("policy", "try", name, "GET", "https://api.test/", check=False)
            assert r.returncode == {"presets": 1, "match": 0}.get(policy["kind"], r.returncode) and r.returncode in (0, 1, 2), (name, r.stderr)
            assert policy["kind"] != "match" or r.stdout.startswith("DENY") or r.stdout.startswith("ALLOW"), r.stdout
            continue
        runs = [[]]
        if name in kept:
            s.cli("credential", "add", f"k-{name.replace('_', '-')}", "--type", name, "--host", "api.test", "--path", f"/{name}", *kept[name])
            runs += [["--credential", f"k-{name.replace('_', '-')}"], kept[name]]
        for run in runs:
            for more in ([], ["--json"])[:1 + bool(run)]:
                r = s.cli("policy", "try", name, "POST", "https://api.test/v1?a=1", "-H", "Content-Type: application/json", "-d", '{"a":1}', *run, *more, check=False)
                tried += r.returncode == 0
                for secret in secrets:
                    assert secret not in r.stdout + r.stderr, (name, run, r.stdout)
                assert "this is a fault" not in r.stderr and r.returncode in (0, 1, 2), (name, r.stderr)
                if run and run[0] == "--credential":
                    assert r.returncode == 0, (name, run, r.stderr)
    assert tried > 35, tried
    assert endpoint.requests == 0 and up.requests == []


def test_files(t):
    """what is no plain file, too large or not there is refused at once, whoever put it there"""
    s = t.bare()
    s.init()
    for name, make, said in (("pipe", os.mkfifo, "no plain file"), ("folder", os.mkdir, "no plain file"), ("zero", lambda at: os.symlink("/dev/zero", at), "no plain file"),
                             ("nowhere", lambda at: os.symlink("/nowhere", at), "no plain file"), ("huge", lambda at: at.write_bytes(b"-" * 300000), "larger than 256 KiB"),
                             ("absent", lambda at: None, "there is no such file")):
        at = s.dir / f"{name}.lua"
        make(at)
        for words in (["put"], ["test"], ["try"]):
            r = s.cli("policy", *words, at, *(["GET", "https://a.test/"] if words == ["try"] else []), check=False, timeout=5)
            assert r.returncode == 1 and said in r.stderr, (name, words, r.stderr)
        r = subprocess.run([s.binary, "--home", s.home, "policy", "new", name], cwd=s.dir, capture_output=True, text=True, timeout=30)
        assert (r.returncode == 0) == (name == "absent"), (name, r.stderr)
    link = s.dir / "linked.lua"
    link.symlink_to(s.dir / "absent.lua")
    assert s.cli("policy", "test", link, check=False).stdout.startswith("failed  linked") and "absent" in (s.dir / "absent.lua").read_text()
    for header, said in (("Host: x", "the host is the URL's"), ("x", "NAME: VALUE"), ("a b: c", "NAME: VALUE"), ("a: b\nc: d", "NAME: VALUE")):
        r = s.cli("policy", "try", "bearer", "GET", "https://a.test/", "-H", header, check=False)
        assert r.returncode == 2 and said in r.stderr, (header, r.stderr)


def test_log_in_policy_test(t):
    """log(…) shows in `policy test`; a file without examples, or whose refresh no example runs, is told so"""
    s = t.bare()
    s.init()
    file = s.dir / "acme.lua"
    file.write_text(TYPE % ("", ANSWERED.replace("want = {", 'req = {}, want = {')))
    r = s.cli("policy", "test", file)
    assert "log     acme  going to / [secret]" in r.stdout and "ok      acme  1 example" in r.stdout and r.stderr == "", r.stdout + r.stderr
    file.write_text(TYPE % ("", ""))
    assert "note: acme: it has no examples" in s.cli("policy", "test", file).stderr
    assert "note: acme: it has no examples" in s.cli("policy", "put", file).stderr
    file.write_text(TYPE % ("", 'examples = { { cred = { token_url = "https://a.test/", key = "k", state = { access_token = "t" } }, want = { headers = { ["x-key"] = "k" } } } },'))
    assert "note: acme: no example runs its refresh" in s.cli("policy", "put", file).stderr
    file.write_text(TYPE % ("do return answer.values.token end", ""))
    r = s.cli("policy", "put", file, check=False)
    assert r.returncode == 1 and f"{file}:9: refresh returned a secret" in r.stderr, r.stderr
    assert "policies/acme.lua" not in r.stderr, r.stderr


def test_versions(t):
    """diff of what was edited, forward and back, and the end of a type: not while a credential is of it, not one that came along"""
    s = t.bare()
    s.init()
    file = s.dir / "acme.lua"
    for title in ("One", "Two", "Three"):
        file.write_text((TYPE % ("", "")).replace('"Acme"', f'"{title}"'))
        s.cli("policy", "put", file)
    r = s.cli("policy", "diff", "acme")
    assert '-  kind = "type", api = 1, name = "acme", title = "Two",\n+  kind = "type", api = 1, name = "acme", title = "Three",\n' in r.stdout, r.stdout
    assert "title = \"One\"" in s.cli("policy", "diff", "acme", "1", "3").stdout
    s.cli("policy", "rollback", "acme", "1")
    assert "Three" not in s.cli("policy", "show", "acme").stdout
    s.cli("policy", "use", "acme", "3")
    assert "Three" in s.cli("policy", "show", "acme").stdout
    if shutil.which("patch"):                              # Debian's own reads it
        old, new = s.cli("policy", "show", "acme", "1").stdout, s.cli("policy", "show", "acme", "3").stdout
        (s.dir / "old").write_text(old)
        subprocess.run(["patch", "-s", s.dir / "old"], input=s.cli("policy", "diff", "acme", "1", "3").stdout, text=True, check=True)
        assert (s.dir / "old").read_text() == new
    bearer = s.dir / "bearer.lua"
    bearer.write_text(s.cli("policy", "show", "bearer").stdout + "-- mine\n")
    assert s.cli("policy", "diff").stdout == ""
    s.cli("policy", "put", bearer)
    assert s.cli("policy", "diff").stdout.endswith("+-- mine\n") and "+++ policies/bearer.lua (version 1)" in s.cli("policy", "diff", "bearer").stdout
    s.cli("credential", "add", "a1", "--type", "acme", "--host", "api.test", "token_url=https://a.test/", f"key=@{s.secret_file(KEY)}")
    r = s.cli("policy", "remove", "acme", check=False)
    assert r.returncode == 1 and "acme is the type of a1" in r.stderr and "credential remove a1" in r.stderr, r.stderr
    r = s.cli("policy", "remove", "bearer", check=False)
    assert r.returncode == 1 and "policy rollback bearer 0" in r.stderr, r.stderr
    s.cli("credential", "remove", "a1")
    assert "3 versions" in s.cli("policy", "remove", "acme").stderr
    assert "acme" not in s.cli("policy", "list").stdout
    assert s.cli("policy", "show", "acme", check=False).returncode == 1
    s.cli("policy", "put", file)
    assert "Three" in s.cli("policy", "show", "acme").stdout


def test_help(t):
    """the manual's topics and entries, without a data directory; what it does not have has a nearest word"""
    s = t.bare()
    topics = s.cli("policy", "help").stdout
    for topic in ("start", "type", "field", "example", "state", "req", "cred", "net", "secret", "sign", "form", "json", "uri", "time", "lpeg", "log"):
        assert f"| {topic} |" in topics
        assert s.cli("policy", "help", topic).stdout.startswith("# ")
    assert "secret.hex(x)" in s.cli("policy", "help", "secret.hex").stdout
    assert "(table or function)" in s.cli("policy", "help", "strip").stdout
    assert "(yields)" in s.cli("policy", "help", "net.token").stdout
    r = s.cli("policy", "help", "secret.hxe", check=False)
    assert r.returncode == 2 and "did you mean `sallyport policy help secret.hex`" in r.stderr, r.stderr


def builds(at):
    """What build.sh says before it compiles anything."""
    r = subprocess.run(["sh", "./build.sh", "build", "nothing"], cwd=at, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "CC": "true"})
    assert r.returncode != 0
    return r.stderr


def test_no_entry_no_build(t):
    """a function or a key without an entry in the manual does not build"""
    s = t.bare()
    tree = s.dir / "tree"
    tree.mkdir()
    for name in ("lua", "policies"):
        shutil.copytree(sallyport.ROOT / name, tree / name)
    for name in ("build.sh", "proxy.c"):
        shutil.copy(sallyport.ROOT / name, tree / name)
    assert "cannot build 'nothing'" in builds(tree)
    for path, what, instead, missing in (
            ("proxy.c", '{"is", l_secret_is}', '{"is", l_secret_is}, {"peek", l_secret_is}', "secret.peek"),
            ("proxy.c", '{"set", l_headers_set}', '{"set", l_headers_set}, {"all", l_headers_set}', "req.headers:all"),
            ("proxy.c", '{"method", M_SLICE, offsetof(struct req, head.method), OF_ALL}', '{"verb", M_SLICE, 0, OF_VIEW}', "req.verb"),
            ("proxy.c", '{"splice_json", l_view_splice_json}', '{"splice_xml", l_view_splice_json}', "req:splice_xml"),
            ("lua/allowed.lua", 'time = "http iso now', 'time = "http iso today now', "time.today"),
            ("lua/allowed.lua", '  lua = "assert', '  lua = "getmetatable assert', "lua.getmetatable"),
            ("lua/oauth.lua", "function net.command", "function net.shell", "net.shell"),
            ("lua/policy.lua", 'kind = "string", api = "integer", name = "string", title = "string", help', 'kind = "string", zeal = "table", help', "type.zeal"),
            ("lua/policy.lua", "local body_keys = { max", "local body_keys = { least = \"integer\", max", "body.least"),
            ("lua/policy.lua", "local body_keys =", "local wild_keys = { a = \"string\" }\nlocal body_keys =", "wild_keys"),
            ("lua/cli/policy_manual.lua", "## sign.nonce()", "## sign.once()", "sign.nonce")):
        was = (tree / path).read_text()
        assert was.count(what) == 1, what
        (tree / path).write_text(was.replace(what, instead))
        said = builds(tree)
        assert "no entry in lua/cli/policy_manual.lua" in said and missing in said, (missing, said)
        (tree / path).write_text(was)


def test_pins_names_and_uses(t):
    """put --sha256, rename with all that uses it, list's users, a policy's own page"""
    s, up = t.proxy(serve=False)
    acme = s.dir / "acme.lua"
    acme.write_text(s.cli("policy", "show", "bearer").stdout.replace('"bearer"', '"acme"', 1))
    import hashlib
    pin = hashlib.sha256(acme.read_bytes()).hexdigest()
    for bad, code in (("0" * 64, 1), ("xyz", 2), (pin[:-1], 2)):
        r = s.cli("policy", "put", acme, "--sha256", bad, check=False)
        assert r.returncode == code, (bad, r)
        assert code == 2 or pin in r.stderr and "nothing was changed" in r.stderr, r.stderr
    assert "acme" not in s.cli("policy", "list").stdout
    s.cli("policy", "put", acme, "--sha256", "sha256:" + pin.upper())
    acme.write_text(acme.read_text() + "-- two\n")
    s.cli("policy", "put", acme)
    s.cli("bundle", "add", "work")
    s.cli("credential", "add", "a1", "--type", "acme", "--host", "api.test", "--bundle", "work", "token=-", stdin="canary-a1")
    s.canaries.append("canary-a1")
    office = s.dir / "office.lua"
    office.write_text("""return { kind = "rule", api = 1, name = "office", title = "Never", on_request = function(req, ctx) return deny("closed") end,
      examples = { { req = { method = "GET", url = "https://api.test/" }, want = "closed" } } }""")
    s.cli("policy", "put", office)
    s.cli("rule", "add", "closed", "--type", "office", "--bundle", "default")
    listed = {p["name"]: p for p in json.loads(s.cli("policy", "list", "--json").stdout)}
    assert (listed["acme"]["credentials"], listed["acme"]["bundles"]) == (["a1"], ["work"]) and listed["bearer"]["credentials"] == []
    assert listed["office"]["rules"] == [{"name": "closed", "bundle": "default"}], listed["office"]
    assert re.search(r"acme .*a1 \(work\)", s.cli("policy", "list").stdout) and "rule closed (default)" in s.cli("policy", "list").stdout
    r = s.cli("policy", "remove", "office", check=False)
    assert r.returncode == 1 and "rule closed of default" in r.stderr and "sallyport rule remove closed" in r.stderr, r.stderr
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    s.cli("agent", "set", "a", "--bundle", "work")
    assert s.request().status == 200
    said = s.cli("policy", "rename", "acme", "acme_two").stderr
    assert "a1" in said, said
    assert s.request().status == 200 and up.requests[-1].get("authorization") == "Bearer canary-a1"
    assert json.loads(s.cli("credential", "show", "a1", "--json").stdout)["type"] == "acme_two"
    assert [v["version"] for v in json.loads(s.cli("policy", "history", "acme_two", "--json").stdout)] == [1, 2]
    s.cli("policy", "rollback", "acme_two", "1")
    assert s.request().status == 200 and s.cli("policy", "show", "acme", check=False).returncode == 1
    s.cli("policy", "rename", "office", "shut")
    s.cli("agent", "set", "a", "--bundle", "default")
    assert json.loads(s.cli("rule", "show", "closed", "--json").stdout)["type"] == "shut"
    for words, word in ((("bearer", "mine"), "keeps its name"), (("shut", "acme_two"), "already"), (("shut", "basic"), "already"), (("shut", "A-b"), "small letters"), (("gone", "x"), "no policy")):
        r = s.cli("policy", "rename", *words, check=False)
        assert r.returncode in (1, 2) and word in r.stderr, (words, r.stderr)
    page = s.cli("policy", "help", "api_key").stdout
    assert page.startswith("# api_key: ") and "| header |" in page and "secret; required" in page and "example" in page, page
    page = s.cli("policy", "help", "hmac").stdout
    assert page.startswith("# hmac: ") and "## sign.hmac(" in page, page[:500]
    assert "# acme_two: " in s.cli("policy", "help", "acme_two").stdout
    for p in listed:
        if p not in ("match", "presets", "acme", "office"):
            assert s.cli("policy", "help", p).stdout.startswith(f"# {p}: "), p
