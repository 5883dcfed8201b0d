"""Commands against a server that runs: what they change is in force at the next request, in every worker."""
import json
import os
import re
import shutil
import socket
import subprocess
import time

import sallyport
from real import wait

# scrub=off: the upstream repeats each request, and more than ten hits in a minute would be too many
API = {"name": "api", "type": "bearer", "host": "api.test", "secrets": {"token": "canary-command-1"}, "fields": {"scrub": "off"}}


def everywhere(s, n=12, **request):
    """The same request on n connections of their own: more than one worker sees it."""
    return [s.request(**request) for _ in range(n)]


def test_credentials_change(t):
    """add, set, disable, enable and remove, each in force at the next request in both workers"""
    s, up = t.proxy(workers=2)
    assert {r.status for r in everywhere(s)} == {403}
    s.credential(API)
    assert {r.status for r in everywhere(s)} == {200}
    s.cli("credential", "set", "api", f"token=@{s.secret_file('canary-command-2')}")
    everywhere(s)
    assert {q.get("authorization") for q in up.requests[-12:]} == {"Bearer canary-command-2"}
    s.cli("credential", "disable", "api")
    assert {r.status for r in everywhere(s)} == {403}
    r = s.request()     # as Agent Vault says it: nothing to propose
    assert r.get("x-sallyport-error") == "service_disabled" and r.get("x-agent-vault-proxy-error") == "true" and b"proposal_hint" not in r.body and b"the credential api for it is disabled" in r.body, r.body
    s.cli("credential", "enable", "api")
    assert {r.status for r in everywhere(s)} == {200}
    s.cli("credential", "remove", "api")
    assert {r.status for r in everywhere(s)} == {403}
    assert "ev=helper" not in s.log(), s.log()             # the process that a server without --helpers does not keep


def test_changes_at_any_moment(t):
    """a rotated token ends, and its successor works, at the next request, whatever the server does just then"""
    s, up = t.proxy(workers=1, credentials=[API])
    for i in range(8):
        time.sleep(0.55)                                   # the server's own look at the store comes twice a second
        old = s.tokens["a"]
        s.tokens["a"] = new = s.cli("agent", "rotate", "a").stdout.strip().splitlines()[-1]
        s.canaries.append(new)
        for token, want in ((old, b"407"), (new, b"200")):
            wire = s.connect()
            wire.send(f"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n{s.auth(token)}\r\n".encode())
            got = wire.recv(10)
            wire.close()
            assert got[9:12] == want, f"round {i}: {'old' if token == old else 'new'} token, {got[:40]!r}"


def test_ended_tokens_are_bounded(t):
    """how a token ended is known of the thousand that ended last, however many there were"""
    s, up = t.proxy(serve=False)
    script = s.dir / "ended.lua"
    script.write_text("""local db, tokens, host = require "cli.db", require "cli.tokens", require "host"
local now = require("time").wall()
local function commit(ops) db.change(function() return ops end) end
local function count(prefix)
  local n = 0
  for _ in db.each("agent", prefix) do n = n + 1 end
  return n
end
local function issue(n, ends)
  local ops, last = {}, nil
  for i = 1, n do last, ops[i] = tokens.issue(host, "a", "x", ends, now) end
  commit(ops)
  return last
end
issue(1200)
commit(tokens.drop("a", now - 40 * 86400, "rotated"))
local first = count "e/"
issue(300)
commit(tokens.drop("a", now, "rotated"))
local second = count "e/"
issue(1100, now - 5)
for i = 1, 20 do commit(tokens.drop(nil, now + i, "rotated")) end
print(first, second, count "e/", count "t/")""")
    first, second, third, left = map(int, s.cli("lua", "--store", script, timeout=120).stdout.split())
    assert first == 1000 and 300 <= second <= 1000 and 300 < third <= 1000 and left == 0, (first, second, third, left)


def test_variables(t):
    """bundle set and agent set: a tenant's host, a header and a field, in force at the next request in both workers"""
    s, up = t.proxy(workers=2, serve=False)
    s.agent("b")
    s.credential({"name": "wiki", "type": "api_key", "host": ["${TENANT}.test"], "secrets": {"key": "canary-variables-1"},
                  "fields": {"scrub": "off", "header": "x-${KIND}-key", "prefix": "${TENANT} ", "headers.X-Workspace": "ws_${WORKSPACE}"}})
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f":443:127.0.0.1:{up.port}")
    b = s.auth(name="b")

    def statuses(host, **more):
        return {r.status for r in everywhere(s, 6, host=host, **more)}

    assert statuses("acme.test") == {403}
    told = s.cli("credential", "set", "wiki", "--port", "443").stderr
    assert "bundle set default KIND=… TENANT=… WORKSPACE=…" in told, told
    s.cli("bundle", "set", "default", "TENANT=Acme", "KIND=wiki", "WORKSPACE=1")
    told = s.cli("agent", "set", "b", "TENANT=globex", "WORKSPACE=2").stderr
    assert "TENANT=globex  WORKSPACE=2" in told, told
    assert statuses("acme.test") == {200}
    assert {(q.get("x-wiki-key"), q.get("x-workspace")) for q in up.requests} == {("Acme canary-variables-1", "ws_1")}
    assert statuses("globex.test") == {403} and statuses("acme.test", auth=b) == {403}
    del up.requests[:]
    assert statuses("globex.test", auth=b) == {200}
    assert {(q.get("x-wiki-key"), q.get("x-workspace")) for q in up.requests} == {("globex canary-variables-1", "ws_2")}
    s.cli("agent", "set", "b", "--disable-variable", "TENANT,WORKSPACE")      # kept, and the bundle's count
    assert "TENANT=globex (disabled) WORKSPACE=2 (disabled)" in s.cli("agent", "list").stdout
    assert statuses("globex.test", auth=b) == {403} and statuses("acme.test", auth=b) == {200}
    told = s.cli("agent", "set", "b", "--enable-variable", "TENANT", "--enable-variable", "WORKSPACE").stderr
    assert "TENANT=globex  WORKSPACE=2" in told and statuses("globex.test", auth=b) == {200}, told
    assert "no variable 'NONE'" in s.cli("bundle", "set", "default", "--disable-variable", "NONE", check=False).stderr
    assert "nothing to change" in s.cli("bundle", "set", "default", check=False).stderr
    full = [f"V{i}=1" for i in range(61)]
    s.cli("bundle", "set", "default", *full, "--disable-variable", ",".join(f"V{i}" for i in range(61)))
    assert "at most 64" in s.cli("bundle", "set", "default", "W=1", check=False).stderr      # those that are disabled are counted, too
    s.cli("bundle", "set", "default", *(f"V{i}=" for i in range(61)))
    s.cli("agent", "set", "b", "TENANT=", "WORKSPACE=")
    assert statuses("globex.test", auth=b) == {403} and statuses("acme.test", auth=b) == {200}
    wire = s.tunnel("acme.test")                       # a connection that is kept is judged anew too
    assert s.request(host="acme.test", wire=wire).status == 200
    s.cli("bundle", "set", "default", "TENANT=initech")
    assert s.request(host="acme.test", wire=wire).status == 403
    wire.close()
    # its placeholder belongs to the hosts of the agent's own values, and to no other credential's
    s.credential({"name": "other", "host": "other.test", "secrets": {"token": "canary-variables-2"}})
    s.cli("credential", "set", "wiki", "--env", "WIKI_KEY")
    env = json.loads(s.cli("env", "--agent", "a", "--proxy", "127.0.0.1:1", "--json").stdout)
    s.canaries.append(env["HTTPS_PROXY"].split(":")[2].split("@")[0])
    target = "/?key=" + env["WIKI_KEY"]
    assert s.request(host="initech.test", target=target).status == 200
    r = s.request(host="other.test", target=target)
    assert r.status == 403 and b"wiki" in r.body, r.body
    s.cli("bundle", "set", "default", "KIND=", "TENANT=acme")
    r = s.request(host="acme.test")
    assert r.status == 502 and r.get("x-sallyport-error") == "injection_failed" and b"KIND" in r.body, r.body
    s.cli("bundle", "set", "default", "KIND=a b")          # no header's name
    assert s.request(host="acme.test").status == 502
    why = json.loads(s.cli("explain", "--agent", "a", "--json", "GET", "https://third.test/").stdout)
    assert why["decision"] == "deny" and "TENANT is acme" in why["considered"][0]["why"], why
    shown = s.cli("credential", "show", "wiki").stdout
    assert "${TENANT}.test" in shown and "KIND,TENANT,WORKSPACE" in shown, shown
    s.cli("bundle", "set", "default", "KIND=wiki")
    trial = s.cli("credential", "test", "wiki", "https://globex.test/", "--agent", "b", check=False)
    assert "does not go there" in trial.stderr, trial.stderr
    assert "TENANT=acme" in s.cli("bundle", "show", "default").stdout
    assert json.loads(s.cli("bundle", "show", "default", "--json").stdout)["variables"]["TENANT"] == "acme"
    s.cli("agent", "set", "b", "TENANT=globex")
    assert "TENANT=globex" in s.cli("agent", "list").stdout
    for bad in ("tenant=x", "TENANT", "A-B=x", "=x"):
        assert s.cli("bundle", "set", "default", bad, check=False).returncode == 2, bad
        assert s.cli("agent", "set", "b", bad, check=False).returncode == 2, bad
    for host in ("${tenant}.api.test", "x${TENANT}.test", "*.${TENANT}.test", "${A}.${B}.test", "${TENANT}"):
        r = s.cli("credential", "add", "bad", "--type", "bearer", "--host", host, "token=env:HOME", check=False)
        assert r.returncode == 2 and "variable" in r.stderr, (host, r.stderr)
    r = s.cli("credential", "add", "bad", "--type", "oauth_client_credentials", "--host", "x.test", "client_id=${ID}",
              "token_url=https://a.test/t", "client_secret=env:HOME", check=False)
    assert r.returncode == 2 and "client_id" in r.stderr, r.stderr
    r = s.cli("credential", "add", "bad", "--type", "api_key", "--host", "x.test", "header=x y${ID}", "key=env:HOME", check=False)
    assert r.returncode == 2 and "header" in r.stderr, r.stderr


POLICY = """--- bearer, changed by a test
return {
  kind = "type", api = 1, name = "bearer", title = "x",
  fields = { { name = "token", secret = true, required = true } },
  apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) req.headers:set("x-version", "%s") end,
}
"""


def test_ten_thousand_placeholders(t):
    """an agent that comes among ten thousand credentials, each with a placeholder of its own for it: none goes astray"""
    s, up = t.proxy(workers=1, serve=False)
    s.credential({**API, "name": "www", "env": "WWW_TOKEN"})
    s.cli("lua", "--store", sallyport.ROOT / "tests/bench/many.lua", 9999, timeout=120)
    script = s.dir / "held.lua"
    script.write_text("""for _, name in ipairs { "www", "many1", "many9999" } do
      print(require("records").placeholder("a", require("store").peek("credential", name)))
    end""")
    own, first, last = s.cli("lua", "--store", script).stdout.split()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f":443:127.0.0.1:{up.port}")
    assert s.request(timeout=60, headers={"Authorization": f"Bearer {own}"}).status == 200
    for i, lost in ((1, first), (9999, last)):
        r = s.request(headers={"Authorization": f"Bearer {own}", "X-Other": lost})
        assert r.status == 403 and f"many{i}".encode() in r.body and f"host{i}.test".encode() in r.body, r.body
    s.cli("credential", "set", "many9999", "--host", "api.test")
    assert s.request(headers={"X-Other": last}).status == 200
    s.cli("credential", "set", "many9999", "--host", "else.test", "--placeholder", "other_{32}")
    assert s.request(headers={"X-Other": last}).status == 200, "it stands for nothing any more"
    changed = s.cli("lua", "--store", script).stdout.split()[2]
    assert changed.startswith("other_") and s.request(headers={"X-Other": changed}).status == 403


def test_policies_change(t):
    """policy put and rollback are in force at the next request; a bad script is refused, the old one serves on"""
    s, up = t.proxy(workers=2, credentials=[API])
    for version in ("one", "two"):
        s.policy("bearer", POLICY % version)
        everywhere(s)
        assert {q.get("x-version") for q in up.requests[-12:]} == {version}
    r = s.policy("bearer", POLICY.replace("apply", "aply"), check=False)
    assert r.returncode == 1 and "bearer.lua" in r.stderr and "aply" in r.stderr, r.stderr
    r = s.policy("bearer", "return {\n  kind = = }\n", check=False)
    assert r.returncode == 1 and "bearer.lua:2" in r.stderr, r.stderr
    everywhere(s)
    assert {q.get("x-version") for q in up.requests[-12:]} == {"two"}
    assert s.cli("policy", "history", "bearer").stdout.count("\n") >= 3
    s.cli("policy", "rollback", "bearer")
    everywhere(s)
    assert {q.get("x-version") for q in up.requests[-12:]} == {"one"}
    assert "bearer" in s.cli("policy", "list").stdout


def test_policy_edit(t):
    """policy edit runs the editor on the script and puts what it leaves"""
    s, up = t.proxy(credentials=[API])
    editor = s.dir / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/\"Bearer \"/\"bearer \"/; s/Bearer t1/bearer t1/' \"$1\"\n")
    editor.chmod(0o755)
    r = s.cli("policy", "edit", "bearer", env={"EDITOR": str(editor), "VISUAL": ""}, check=False)
    source = s.cli("policy", "show", "bearer").stdout
    assert r.returncode in (0, 1), r.stderr
    if r.returncode == 0:
        s.request()
        assert "bearer" in source and up.requests[-1].get("authorization").startswith("bearer ")
    else:      # an example of its own stands against the change: then nothing has changed
        assert "example" in r.stderr, r.stderr
        s.request()
        assert up.requests[-1].get("authorization").startswith("Bearer ")


def test_explain_is_what_decides(t):
    """explain runs the code that decides: a change of match.lua shows in both"""
    s, up = t.proxy(workers=2, credentials=[API])
    explain = lambda: json.loads(s.cli("explain", "--agent", "a", "--json", "GET", "https://api.test/x").stdout)
    assert explain()["decision"] == "allow" and explain()["credential"] == "api"
    source = s.cli("policy", "show", "match").stdout
    path = s.dir / "match.lua"
    path.write_text(wrapped(source))
    r = s.cli("policy", "put", path, check=False)
    assert r.returncode == 0, r.stderr
    assert explain()["decision"] == "deny", explain()
    assert {x.status for x in everywhere(s)} == {403}
    s.cli("policy", "rollback", "match")
    assert explain()["decision"] == "allow"
    assert {x.status for x in everywhere(s)} == {200}


def wrapped(source):
    """match.lua with a decide that finds nothing, and without the examples that say otherwise."""
    return ("local M = (function()\n" + source + "\nend)()\nM.examples = {}\n"
            "M.decide = function() return nil, 'host_not_allowed' end\nreturn M\n")


def test_explain_sends_nothing(t):
    """explain says why, with exit 0, and sends nothing"""
    s, up = t.proxy(credentials=[{**API, "method": ["GET"], "path": "/v1"}])
    for method, url, want in [("GET", "https://api.test/v1/x", "allow"), ("POST", "https://api.test/v1/x", "deny"),
                              ("GET", "https://api.test/v2", "deny"), ("GET", "https://other.test/", "deny"),
                              ("GET", "http://api.test/v1", "deny")]:
        r = s.cli("explain", "--agent", "a", "--json", method, url)
        assert json.loads(r.stdout)["decision"] == want, (method, url, r.stdout)
        assert s.cli("explain", "--agent", "a", method, url).stdout.strip()
    assert not up.requests and not up.connections


def test_explain_knows_the_guard(t):
    """explain says what the address guard does with an address, with a name when it is looked up, and what connect-to changes"""
    s, up = t.proxy(credentials=[API], serve=False)
    s.domain({"host": "10.0.0.9"})
    s.domain({"host": "10.0.0.8", "address": "10.0.0.0/29"})
    s.domain({"host": "10.0.0.10", "address": "10.0.0.8/30"})
    s.domain({"host": "8.8.8.8"})
    s.domain({"host": "::1"})
    s.domain({"host": "localhost"})
    s.domain({"host": "no-such-name.invalid"})
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    s.domain({"host": "127.0.0.1", "port": s.port, "address": "127.0.0.0/8"})

    def say(url, *args):
        return json.loads(s.cli("explain", "--json", *args, "GET", url).stdout)
    for url, why in (("https://10.0.0.9/", "private"), ("https://10.0.0.8/", "private"), ("https://[::1]/", "loopback"),
                     (f"https://127.0.0.1:{s.port}/", "own listeners")):
        got = say(url)
        assert (got["decision"], got["code"], got["status"]) == ("deny", "address_blocked", 403) and why in got["message"], (url, got)
    assert say("https://10.0.0.10/")["decision"] == "allow" and say("https://8.8.8.8/")["decision"] == "allow"
    assert "--resolve" in say("https://localhost/")["address"]
    got = say("https://localhost/", "--resolve")
    assert got["decision"] == "deny" and "loopback" in got["message"], got
    assert "no address" in say("https://no-such-name.invalid/", "--resolve")["address"]
    assert "connect-to" in say("https://api.test/")["address"]
    assert "address_blocked" in s.cli("explain", "GET", "https://10.0.0.9/").stdout
    # a setting that the running proxy has by a flag: who sets, shows or clears it is told that the flag counts
    flag, other = f"api.test:443:127.0.0.1:{up.port}", "api.test:443:127.0.0.1:1"
    for args in (("connect-to", other), ("connect-to",), ("connect-to", "--default")):
        r = s.cli("set", *args)
        assert f"started with --connect-to, which counts before this until it is started without it: there it is {flag}" in r.stderr, (args, r.stderr)
    s.cli("set", "connect-to", other)
    shown = json.loads(s.cli("set", "--json").stdout)
    assert (shown["connect-to"]["value"], shown["connect-to"]["flag"]) == ([other], [flag]) and "flag" not in shown["body-max"], shown
    assert re.search(rf"connect-to +{re.escape(flag)} +serve ", s.cli("set").stdout) and "note:" not in s.cli("set", "body-max", "1m").stderr
    assert not up.connections


def test_doctor_reads_what_runs(t):
    """doctor speaks of the listeners and flags of the proxy that runs, not of the settings"""
    s, up = t.proxy(credentials=[API], serve=False)
    s.serve("--allow-address", "127.0.0.0/8", listen="0.0.0.0:0")
    shown = s.cli("doctor", check=False).stdout
    assert "can be reached from other machines" in shown and "no token comes from other machines" not in shown, shown
    assert "serve without --allow-address" in shown, shown
    s.stop()
    assert "no token comes from other machines in the clear" in s.cli("doctor", check=False).stdout


def test_secrets_never_from_the_command_line(t):
    """a secret on the command line is refused with exit 2, and not repeated"""
    s = t.bare()
    s.init()
    for args in (["credential", "add", "x", "--type", "bearer", "--host", "x.test", "token=canary-typed"],
                 ["credential", "add", "x", "--type", "basic", "--host", "x.test", "username=u", "password=canary-typed"],
                 ["credential", "add", "x", "--type", "api_key", "--host", "x.test", "key=canary-typed"]):
        r = s.cli(*args, check=False)
        assert r.returncode in (1, 2) and "canary" not in r.stdout + r.stderr, (r.returncode, r.stderr)
        assert "@" in r.stderr, f"the message says how: {r.stderr}"
    assert not sallyport.rows(s.cli("credential", "list", "--json").stdout)


def test_secrets_by_every_way(t):
    """a secret from a file, from standard input and from the environment; control bytes are refused by field"""
    s, up = t.proxy()
    add = ["credential", "add"]
    s.cli(*add, "stdin", "--type", "bearer", "--host", "api.test", "token=-", stdin="canary-stdin\n")
    s.request()
    assert up.requests[-1].get("authorization") == "Bearer canary-stdin"
    s.cli("credential", "remove", "stdin")
    s.cli(*add, "env", "--type", "bearer", "--host", "api.test", "token=env:MY_TOKEN", env={"MY_TOKEN": "canary-env"})
    s.request()
    assert up.requests[-1].get("authorization") == "Bearer canary-env"
    r = s.cli(*add, "bad", "--type", "bearer", "--host", "b.test", "token=-", stdin="canary-\x01\n", check=False)
    assert r.returncode and "token" in r.stderr and "canary" not in r.stderr, r.stderr
    s.canaries += ["canary-stdin", "canary-env"]


def test_help_teaches(t):
    """unknown commands, options and types say what was meant; each command has a help text"""
    s = t.bare()
    s.init()
    for args, word in [(["credentail", "list"], "credential"), (["serve", "--lissten", "x"], "--listen"), (["agent", "add"], "NAME"),
                       (["credential", "add", "x", "--type", "bearrer", "--host", "x.test"], "bearer"), (["credential", "add", "x", "--type"], "--type")]:
        r = s.cli(*args, check=False)
        assert r.returncode in (1, 2) and word in r.stderr, (args, r.returncode, r.stderr)
    for command in ["init", "serve", "set", "credential add", "bundle add", "domain add", "agent add", "policy put", "explain", "env", "log", "ca", "doctor",
                    "backup", "restore", "version"]:
        r = s.cli(*command.split(), "--help")
        assert "usage:" in r.stdout and len(r.stdout) > 60, f"{command} --help: {r.stdout}"


def test_address_in_use(t):
    """serve on an address that is taken says how to name another"""
    s = t.bare()
    s.init()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        r = s.cli("serve", "--listen", "127.0.0.1:%d" % taken.getsockname()[1], check=False)
    assert r.returncode == 1 and "cannot listen" in r.stderr and "--listen ADDR:PORT names another" in r.stderr, r.stderr


def test_listings(t):
    """every listing has --json that a program can read"""
    s, up = t.proxy(credentials=[API], domains=[{"host": "free.test"}])
    for command in ["credential list", "bundle list", "agent list", "policy list", "log"]:
        for row in sallyport.rows(s.cli(*command.split(), "--json").stdout or "[]"):
            assert isinstance(row, dict), (command, row)
        s.cli(*command.split())


def test_log_follow(t):
    """log --follow shows requests as they end, log filters"""
    s, up = t.proxy(credentials=[API])
    p = subprocess.Popen([s.binary, "log", "--follow", "--json"], env=s.env, stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(0.3)
        s.request(target="/followed")
        os.set_blocking(p.stdout.fileno(), False)
        seen = []

        def look():
            seen.extend(p.stdout.readlines())
            return any("/followed" in line for line in seen)
        wait(look, 5, "the record")
    finally:
        p.kill()
        p.wait()
    s.request(host="denied.test")
    s.wait_record({"host": "denied.test"})
    denied = sallyport.rows(s.cli("log", "--json", "--denied").stdout)
    assert denied and all(r["decision"] == "deny" for r in denied), denied
    assert all(r["host"] == "api.test" for r in sallyport.rows(s.cli("log", "--json", "--host", "api.test").stdout))


def test_log_spans(t):
    """log --since, --until and --after say where to begin and end; --summary counts by host and code"""
    s, up = t.proxy(credentials=[API])
    s.request(target="/one")
    wire = s.connect()              # answered here, and sent nowhere
    wire.send(f"GET /discover HTTP/1.1\r\nHost: 127.0.0.1:{s.port}\r\nAuthorization: Bearer {s.tokens['a']}\r\n\r\n".encode())
    assert b" 200 " in wire.recv(10 * sallyport.SLOW)
    wire.close()
    for host in ("denied.test", "denied.test", "other.test"):
        s.request(host=host)
    s.request(target="/two")
    s.wait_record({"path": "/two"})
    rows = sallyport.rows(s.cli("log", "--json", "--kind", "request").stdout)
    assert sallyport.rows(s.cli("log", "--json", "--kind", "request", "--since", "10m").stdout) == rows
    assert s.cli("log", "--json", "--until", "10m").stdout == "" and s.cli("log", "--json", "--since", "2999-01-01").stdout == ""
    moment = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(sallyport.moment(rows[0]["time"]) - 60))
    assert len(s.cli("log", "--kind", "request", "--since", moment, "--until", "2999-12-31T23:59:59Z").stdout.splitlines()) == len(rows)
    assert sallyport.rows(s.cli("log", "--json", "--kind", "request", "--after", rows[1]["request"]).stdout) == rows[2:]
    r = s.cli("log", "--json", "--after", "nothing", check=False)
    assert r.returncode == 1 and "no record has the id" in r.stderr and set(json.loads(r.stdout)) == {"error"}
    for args in (("--since", "yesterday"), ("--since", "2026-02-30T25:00"), ("--since", "2026-02-30"), ("--since", "2026-01-00"), ("--until", "1h", "--follow"), ("--summary", "--newest", "3"),
                 ("--after", "x", "--newest", "3")):
        assert s.cli("log", *args, check=False).returncode == 2, args
    sums = json.loads(s.cli("log", "--json", "--summary").stdout)
    assert (sums["records"], sums["refused"], sums["sent"], sums["answered"]) == (6, 3, 2, 1), sums
    assert "6 requests: 2 went out, 3 refused, 1 answered here" in s.cli("log", "--summary").stdout
    assert [(r["host"], r["code"], r["count"], r["agents"]) for r in sums["refused_by_host"]] == [
        ("denied.test", "host_not_allowed", 2, ["a"]), ("other.test", "host_not_allowed", 1, ["a"])], sums
    assert [(r["host"], r["credential"], r["count"], r["failed"]) for r in sums["sent_by_host"]] == [("api.test", API["name"], 2, 0)], sums
    shown = s.cli("log", "--summary", "--denied").stdout
    assert "0 went out, 3 refused" in shown and "denied.test  host_not_allowed  a" in shown, shown
    assert json.loads(s.cli("log", "--json", "--summary", "--host", "other.test").stdout)["records"] == 1


def test_status(t):
    """status says what runs, what needs its operator, and the last hour; exit 1 where nothing runs"""
    s, up = t.proxy(credentials=[API, {"name": "crm", "type": "oauth_authorization_code", "host": "crm.test", "fields": {
        "authorization_url": "https://login.test/a", "token_url": "https://login.test/t", "client_id": "c"}, "secrets": {}}])
    s.cli("agent", "add", "short", "--ttl", "2d")
    s.request(target="/one")
    s.request(host="denied.test")
    s.wait_record({"host": "denied.test"})
    shown = s.cli("status").stdout
    for text in (f"runs on 127.0.0.1:{s.port}", "agents       2 active", "short ends at", "2 enabled", "crm: not connected: sallyport connect crm",
                 "2 requests: 1 went out, 1 refused", "1  host_not_allowed  denied.test  (a)"):
        assert text in shown, (text, shown)
    got = json.loads(s.cli("status", "--json").stdout)
    assert got["running"] and got["listen"] == [f"127.0.0.1:{s.port}"] and got["credentials"]["troubled"][0]["name"] == "crm", got
    s.stop()
    r = s.cli("status", check=False)
    assert r.returncode == 1 and "does not run" in r.stdout, r.stdout


def test_completion_and_manual(t):
    """completion offers every command and option to bash, zsh and fish; the manual page has each and is clean to man"""
    s, up = t.proxy(serve=False)
    script = s.cli("completion", "bash").stdout

    def offered(*line):
        code = 'eval "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _sallyport; printf "%s\\n" "${COMPREPLY[@]}"'
        return subprocess.run(["bash", "-c", code, "_", script, "sallyport", *line], capture_output=True, text=True, cwd=s.home).stdout.split()
    assert offered("cre") == ["credential"] and "remove" in offered("credential", "")
    assert offered("credential", "add", "--ty") == ["--type"] and offered("log", "--su") == ["--summary"]
    assert offered("--home", "/x", "agent", "ro") == ["rotate"] and "key" in offered("env", "--out", "")
    for shell, check in (("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])):
        text = s.cli("completion", shell).stdout
        assert "credential" in text and "--summary" in text or "-l summary" in text
        if shutil.which(shell):
            path = s.home / f"completion.{shell}"
            path.write_text(text)
            subprocess.run([*check, path], check=True)
    assert s.cli("completion", "csh", check=False).returncode == 2
    page = s.cli("man").stdout
    for line in s.cli("--help").stdout.splitlines():
        m = re.match(r"  ([a-z]+)  +(?:[a-z-]+, )", line)
        assert not m or f".SS sallyport {m[1]} " in page, line
    assert "\\-\\-summary" in page and "\n.B \\-\\-type TYPE" in page
    if shutil.which("groff"):
        r = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, capture_output=True, text=True)
        assert r.returncode == 0 and not r.stderr, r.stderr


def test_help_of_a_type(t):
    """credential add --type T --help shows T's fields, without a store too; an unknown one says which there are"""
    s, up = t.proxy(serve=False)
    for home in ("/nowhere/at/all", str(s.home)):
        shown = s.cli("--home", home, "credential", "add", "--type", "hmac", "--help").stdout
        assert "string" in shown and "(secret, required)" in shown, shown
    shown = s.cli("credential", "add", "--preset", "github", "--help").stdout
    assert "api.github.com" in shown and "token" in shown, shown
    for home in ("/nowhere/at/all", str(s.home)):
        r = s.cli("--home", home, "credential", "add", "--type", "beaver", "--help", check=False)
        assert r.returncode == 2 and "did you mean bearer" in r.stderr, r.stderr
        r = s.cli("--home", home, "credential", "add", "--type", "nothing-like-it", "--help", check=False)
        assert r.returncode == 2 and "types: api_key, aws_assume_role," in r.stderr, r.stderr


def test_unit(t):
    """service print systemd is a unit that systemd takes"""
    s, up = t.proxy(serve=False)
    text = s.cli("service", "print", "systemd", "--user", "root", "--data", "/srv/gate").stdout
    assert "ReadWritePaths=-/srv/gate -/srv/gate-public" in text and "%" not in text, text
    assert "\nRuntimeDirectory=sallyport\nRuntimeDirectoryMode=0755\n" in text, text      # where commands look for its control socket
    for args in (("launchd",), ("systemd", "--data", "here"), ("systemd", "--data", "/a b"), ("systemd", "--user", "a;b")):
        assert s.cli("service", "print", *args, check=False).returncode == 2, args
    if shutil.which("systemd-analyze"):
        path = s.home / "gate.service"
        path.write_text(text)
        r = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
        assert r.returncode == 0 and "gate.service" not in r.stderr, r.stderr


def unit(s, *args):
    """A unit's lines as { key: [values] }."""
    out = {}
    for line in s.cli("service", "print", "systemd", *args).stdout.splitlines():
        key, eq, value = line.partition("=")
        if eq and not line.startswith("#"):
            out.setdefault(key, []).append(value)
    return out


def test_unit_runs(t):
    """what the unit runs, in its order: the folders, the proxy, and a second start; the CA is where everybody can read it"""
    s = t.bare()
    user = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    for more in ((), ("--public", str(s.dir / "for-clients"))):
        s.home = s.dir / ("lib" + str(len(more)))
        s.env["SALLYPORT_HOME"] = str(s.home)
        lines = unit(s, "--user", user, "--data", str(s.home), *more)
        assert lines["Environment"] == [f"SALLYPORT_HOME={s.home}"], lines
        for _ in range(2):
            for command in lines["ExecStartPre"]:
                subprocess.run(command.lstrip("+").split(), check=True)
            program, *flags = lines["ExecStart"][0].split()
            assert os.path.samefile(program, s.binary) and flags[0] == "serve"
            s.serve(*flags[1:])
            ca = s.cli("ca", "--path").stdout.strip()
            assert ca == (more[1] if more else f"{s.home}-public") + "/ca.pem"
            s.stop()
        assert os.stat(s.home).st_mode & 0o777 == 0o700 and os.stat(ca).st_mode & 0o777 == 0o644
        assert os.stat(os.path.dirname(ca)).st_mode & 0o777 == 0o755


def test_mount_on_a_read_only_root(t):
    """a data directory that is a mount point, below what nobody can write: init, commands and the proxy work there"""
    s = t.bare()
    script = f"""
        mkdir -m 700 '{s.dir}/root' '{s.dir}/root/data' && mount -t tmpfs -o mode=0755 none '{s.dir}/root' &&
        mkdir -m 700 '{s.dir}/root/data' && mount -t tmpfs -o mode=0700 none '{s.dir}/root/data' && mount -o remount,ro none '{s.dir}/root' || exit 77
        export SALLYPORT_HOME='{s.dir}/root/data'
        '{s.binary}' init && '{s.binary}' agent add a && '{s.binary}' env --agent a --proxy 127.0.0.1:1 && '{s.binary}' ca --path
        timeout 20 '{s.binary}' serve --listen 127.0.0.1:0 --workers 1 & sleep 0.2
        for i in $(seq 100); do '{s.binary}' status >/dev/null && break; sleep 0.1; done; '{s.binary}' status; kill -TERM $!; wait $!"""
    r = subprocess.run(["unshare", "-rm", "sh", "-c", script], env=s.env, capture_output=True, text=True, timeout=120 * sallyport.SLOW)
    if r.returncode == 77 or "unshare" in r.stderr:
        t.skip("no mount namespace here: " + r.stderr.strip()[-200:])
    assert r.returncode == 0 and f"{s.dir}/root/data/public/ca.pem" in r.stdout, (r.returncode, r.stdout, r.stderr)
    assert "runs" in r.stdout and "other users cannot enter" in r.stderr, (r.stdout, r.stderr)


def test_errors_as_json(t):
    """with --json a failure is an object on standard output too, whatever failed"""
    s, up = t.proxy(serve=False)
    for args, code in ((("credential", "show", "nobody"), 1), (("credential", "add"), 2), (("nonsense",), 2), (("agent", "add", "a", "--bogus"), 2),
                       (("log", "--since", "x"), 2), (("--home", "/nowhere/at/all", "agent", "list"), 1)):
        for line in (("--json", *args), (*args, "--json")):
            r = s.cli(*line, check=False)
            assert r.returncode == code, (line, r)
            error = json.loads(r.stdout)["error"]
            assert error["message"] in r.stderr and set(error) <= {"message", "hint"}, (line, r.stdout)


def test_agents(t):
    """rotate ends the old token, revoke ends all, and only hashes are kept"""
    s, up = t.proxy(credentials=[API])
    old = s.tokens["a"]
    new = s.cli("agent", "rotate", "a").stdout.strip().splitlines()[-1]
    assert new.startswith("sp_agt_") and new != old
    s.canaries.append(new)
    s.tokens["a"] = new
    assert s.request().status == 200
    s.cli("agent", "revoke", "a")
    try:
        s.request()
        raise RuntimeError("a revoked agent was served")
    except AssertionError as e:
        assert "407" in str(e), e


def test_version(t):
    """version says it, and that it needs no store"""
    s = t.bare()
    assert re.search(r"\d+\.\d+\.\d+", s.cli("version").stdout)


def test_certificates_are_strict(t):
    """the CA and a leaf pass openssl verify -x509_strict"""
    t.need("openssl")
    s, up = t.proxy(credentials=[API])
    r = subprocess.run(["openssl", "s_client", "-proxy", f"127.0.0.1:{s.port}", "-proxy_user", "x", "-proxy_pass", f"pass:{s.tokens['a']}",
                        "-connect", "api.test:443", "-servername", "api.test", "-showcerts"], input="", capture_output=True, text=True, timeout=30)
    leaf = re.search(r"-----BEGIN CERT.*?-----END CERTIFICATE-----", r.stdout, re.S)
    assert leaf, r.stdout + r.stderr
    (s.dir / "leaf.pem").write_text(leaf[0])
    for what in (["-x509_strict", "-purpose", "sslserver", "-verify_hostname", "api.test", s.dir / "leaf.pem"], ["-x509_strict", s.ca]):
        r = subprocess.run(["openssl", "verify", "-CAfile", s.ca, *what], capture_output=True, text=True)
        assert r.returncode == 0, r.stdout + r.stderr


def test_first_paste(t):
    """`serve --demo` on a new directory prints a curl line that works without a network"""
    t.need("curl")
    s = t.bare()
    s.may_die = None
    log = open(s.log_path, "ab")
    s.process = subprocess.Popen([s.binary, "serve", "--demo", "--listen", "127.0.0.1:0"], env=s.env, stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=log, start_new_session=True)
    s.group = s.process.pid
    line = wait(lambda: re.search(r"^\s*(curl (?:.*\\\n)*.*placeholder')$", s.log(), re.M), 10, "a curl line: " + s.log())[1]
    r = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env={"PATH": os.environ["PATH"], "HOME": str(s.dir)}, timeout=30)
    assert r.returncode == 0, (line, r.stderr)
    assert "authorization" in r.stdout.lower() and "Bearer" in r.stdout, r.stdout
    shown = json.loads(r.stdout)
    assert (shown["method"], shown["url"], shown["body"]) == ("GET", "https://echo.sallyport.test/hello", ""), shown
    assert shown["headers"]["host"] == "echo.sallyport.test" and shown["headers"]["authorization"].startswith("Bearer "), shown


def test_demo_disabled(t):
    """`serve --demo` enables nothing that was disabled, and says what does"""
    s = t.bare()
    s.init()
    s.cli("bundle", "add", "demo")
    s.cli("agent", "add", "demo", "--bundle", "demo")
    for kind in ("agent", "bundle"):
        s.cli(kind, "disable", "demo")
        r = s.cli("serve", "--demo", "--listen", "127.0.0.1:0", check=False)
        assert r.returncode == 1 and f"the {kind} 'demo' is disabled" in r.stderr and f"sallyport {kind} enable demo" in r.stderr, r.stderr
        s.cli(kind, "enable", "demo")


def test_init_at_the_same_moment(t):
    """of several inits at one moment one makes the directory and all end well; nobody takes away what another has made"""
    for _ in range(3):
        s = t.bare()
        shutil.rmtree(s.home, ignore_errors=True)
        several = [subprocess.Popen([s.binary, "init"], env=s.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                   for _ in range(6)]
        told = [p.communicate(timeout=60)[1] for p in several]
        assert [p.returncode for p in several] == [0] * 6, told
        assert sum("Made " in text for text in told) == 1 and sum("is there already; nothing was changed" in text for text in told) == 5, told
        kept = s.cli("ca").stdout
        assert kept == (s.dir / "home-public/ca.pem").read_text()
        assert "\nbad" not in s.cli("doctor", check=False).stdout


def test_words_of_commands(t):
    """small things: what a command says of tunnels, hosts, methods, clocks, agents that went"""
    s = t.bare()
    s.init()
    told = s.cli("domain", "add", "default", "pinned.test", "--tunnel").stderr
    assert told == "Added: agents with 'default' may reach pinned.test  443  tunnel\n", told
    assert "pinned.test  443  tunnel" in s.cli("bundle", "show", "default").stdout
    assert "methods" not in json.loads(s.cli("bundle", "show", "default", "--json").stdout)["domains"][0]
    assert s.cli("domain", "add", "default", "p.test", "--tunnel", "--method", "GET", check=False).returncode == 2
    told = s.cli("credential", "add", "drive", "--preset", "google-oauth", "client_id=1.apps.googleusercontent.com", "client_secret=-",
                 "scopes=x", stdin="canary-words").stderr
    s.canaries.append("canary-words")
    assert "Kept 'drive' for www.googleapis.com +8, in default." in told, told
    s.cli("credential", "add", "api", "--type", "bearer", "--host", "api.test", "--method", "GET", "token=-", stdin="canary-words")
    assert "its methods are GET, HEAD\n" in s.cli("explain", "POST", "https://api.test/").stdout
    assert s.cli("credential", "help", "add").stdout == s.cli("credential", "add", "--help").stdout
    assert s.cli("credential", "help").stdout == s.cli("credential", "--help").stdout
    # Nothing of a refresh token went out where no server was reached.
    account = s.dir / "account.json"
    account.write_text(json.dumps({"claudeAiOauth": {"accessToken": "canary-words", "refreshToken": "canary-words-2", "expiresAt": 1, "scopes": ["user:inference"]}}))
    account.chmod(0o600)
    s.canaries.append("canary-words-2")
    s.cli("set", "connect-to", ":443:127.0.0.1:1")
    r = s.cli("import", "claude-code", account, check=False)
    assert r.returncode == 1 and "its refresh token was not sent: import again once that is mended" in r.stderr, r.stderr
    # An end that is told by a clock which nobody has set.
    s.agent("claude")
    s.clock_file.write_text(f"-{int(time.time()) - 1000}")
    told = s.cli("env", "--agent", "claude").stderr
    assert "this machine's clock is not set (1970-" in told, told
    s.clock_file.write_text("0")
    assert "clock" not in s.cli("env", "--agent", "claude").stderr
    # An agent that is forgotten is in no listing, and its token in none that counts.
    s.serve()
    healthy = lambda: s.request(host="nowhere.test", auth=s.auth(name="claude")).status
    assert healthy() == 403
    s.cli("agent", "remove", "claude")
    wire = s.connect()
    wire.send(f"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n{s.auth(name='claude')}\r\n".encode())
    assert wire.recv(10)[9:12] == b"407"
    assert "claude" not in s.cli("agent", "list").stdout and s.cli("agent", "remove", "claude", check=False).returncode == 1
    s.agent("claude")
    assert healthy() == 403
    # Whoever may walk into the data directory may look at names; every command says so, as serve does.
    s.home.chmod(0o750)
    for args in (["agent", "list"], ["credential", "show", "api"], ["env", "--agent", "claude"]):
        r = s.cli(*args, check=False)
        assert r.returncode == 1 and "can be read by others (mode 750)" in r.stderr, r.stderr
    s.home.chmod(0o700)


def test_discover_has_every_variable(t):
    """/discover names each variable of a credential with its placeholder, as env sets them"""
    s, up = t.proxy()
    s.cli("credential", "add", "gh", "--preset", "github", "token=-", stdin="canary-discover")
    s.cli("credential", "add", "one", "--type", "bearer", "--host", "one.test", "env=ONE", "token=-", stdin="canary-discover")
    s.cli("credential", "add", "store", "--preset", "aws", "access_key_id=AKIAIOSFODNN7EXAMPLE", "secret_access_key=-", stdin="canary-discover")
    s.canaries.append("canary-discover")
    env = json.loads(s.cli("env", "--agent", "a", "--json").stdout)
    wire = s.connect()
    wire.send(f"GET /discover HTTP/1.1\r\nHost: {s.listen if hasattr(s, 'listen') else '127.0.0.1'}:{s.port}\r\n{s.auth()}Connection: close\r\n\r\n".encode())
    got = b""
    while part := wire.recv(10):
        got += part
    rows = {r.get("credential"): r for r in json.loads(got.split(b"\r\n\r\n", 1)[1])["allowed"]}
    for name, variables in (("gh", ["GH_TOKEN", "GITHUB_TOKEN"]), ("store", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])):
        assert rows[name]["env"] == variables[0]
        assert rows[name]["variables"] == {v: env[v] for v in variables}, (rows[name], env)
    assert "variables" not in rows["one"] and rows["one"]["placeholder"] == env["ONE"]
    # the manual has every member and field that an agent is shown, and every name of Agent Vault's that it gets
    page, listed = s.cli("help", "clients").stdout, json.loads(got.split(b"\r\n\r\n", 1)[1])
    r = s.request(host="nowhere.test")
    said = json.loads(r.body)
    names = {*listed, *(k for row in [*listed["allowed"], *listed["services"]] for k in row), *said, *said["proposal_hint"], *(n for n in env if n.startswith("AGENT_VAULT"))}
    assert names > {"allowed", "placeholder", "proposal_hint", "endpoint", "AGENT_VAULT_ADDR", "AGENT_VAULT_VAULT"}, names
    assert not (lacks := [n for n in names if f"`{n}`" not in page]), lacks
    for field in ("X-Sallyport-Error", "X-Agent-Vault-Proxy-Error"):
        assert r.get(field.lower()) and f"`{field}" in page, field


def test_first_paste_without_curl(t):
    """without curl the line is wget's, and without both it is one of the program itself: what is printed can be run"""
    for tools in (("wget",), ()):
        t.need(*tools)
        s = t.bare()
        s.may_die = None
        (s.dir / "bin").mkdir()
        for name in tools + ("sh",):
            (s.dir / "bin" / name).symlink_to(os.path.realpath(shutil.which(name)))
        log = open(s.log_path, "ab")
        s.process = subprocess.Popen([s.binary, "serve", "--demo", "--listen", "127.0.0.1:0"], env={**s.env, "PATH": f"{s.dir}/bin"},
                                     stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        s.group = s.process.pid
        wait(lambda: "sallyport log\n" in s.log(), 10, "the banner: " + s.log())
        assert "  curl" not in s.log(), s.log()
        line = re.search(r"^  ((?:https_proxy=|\S+ explain) ?(?:.*\\\n)*.*)$", s.log(), re.M)[1]
        r = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env={**s.env, "PATH": f"{s.dir}/bin", "HOME": str(s.dir)}, timeout=30)
        assert r.returncode == 0, (line, r.stderr)
        assert ('"authorization": "Bearer demo-' if tools else "ALLOW  with the credential 'demo'") in r.stdout, (line, r.stdout)


def test_presets(t):
    """credential add --preset fills in everything; what it cannot know it asks for by name"""
    s = t.bare()
    s.init()
    rows = json.loads(s.cli("credential", "presets", "--json").stdout)
    assert len(rows) >= 40 and all(r["make"] and r["hosts"] and r["type"] for r in rows), len(rows)
    assert "github" in s.cli("credential", "presets").stdout
    one = s.cli("credential", "presets", "gitlab").stdout
    assert "private-token" in one and "GITLAB_TOKEN" in one and "access_tokens" in one, one
    s.cli("credential", "add", "gh", "--preset", "github", "token=-", stdin="canary-preset-1\n")
    gh = json.loads(s.cli("credential", "show", "gh", "--json").stdout)
    assert gh["hosts"] == ["api.github.com", "uploads.github.com"] and gh["type"] == "bearer" and gh["env"] == ["GH_TOKEN", "GITHUB_TOKEN"], gh
    s.agent("a")
    env = json.loads(s.cli("env", "--agent", "a", "--proxy", "127.0.0.1:1", "--json").stdout)
    assert re.fullmatch(r"ghp_\w{36}", env["GH_TOKEN"]) and env["GITHUB_TOKEN"] == env["GH_TOKEN"], env
    s.cli("credential", "add", "narrow", "--preset", "github", "--path", "/repos/acme", "--env", "ACME_TOKEN", "token=-", stdin="canary-preset-2\n")
    narrow = json.loads(s.cli("credential", "show", "narrow", "--json").stdout)
    assert narrow["paths"] == ["/repos/acme"] and narrow["env"] == ["ACME_TOKEN"], narrow
    for args, word in [(["--preset", "githb", "token=-"], "github"), (["--preset", "jira", "password=-"], "jira-server"),
                       (["--preset", "claude", "token=-"], "claude-code"), (["--preset", "nothing-like-it", "x=-"], "credential presets"),
                       (["--preset", "atlassian", "username=me", "password=-"], "YOUR-SITE.atlassian.net"),
                       (["--preset", "atlassian", "--host", "acme.atlassian.net", "password=-"], "e-mail address"),
                       (["--preset", "atlassian", "--host", "acme.atlassian.net", "username=me@acme.test"], "an API token"),
                       (["--preset", "app-store-connect", "key_id=K", "private_key=-"], "claims.iss is missing: the issuer's id"),
                       (["--preset", "github", "--type", "basic", "token=-"], "bearer"),
                       (["--host", "x.test", "token=-"], "--preset")]:
        r = s.cli("credential", "add", "bad", *args, stdin="canary-preset-3\n", check=False)
        assert r.returncode in (1, 2) and word in r.stderr, (args, r.returncode, r.stderr)
        assert "canary" not in r.stderr
    s.canaries += ["canary-preset-1", "canary-preset-2", "canary-preset-3"]


def test_a_preset_that_is_gone(t):
    """an edited presets file is in force at once; a credential whose preset is gone is refused, and doctor says so"""
    s, up = t.proxy(workers=2)
    s.credential({"name": "api", "preset": "github", "host": "api.test", "secrets": {"token": "canary-preset-4"}})
    assert {r.status for r in everywhere(s, target="/user?access_token=mine")} == {200}
    assert "mine" not in up.requests[-1].line
    text = 'return { kind = "presets", api = 1, name = "presets", title = "x", presets = { %s } }'
    row = '{ name = "github", title = "x", type = "bearer", hosts = { "api.test" }, make = "x", mint = { { path = "/user", what = "a key" } } }'
    s.policy("presets", text % row)
    assert {r.status for r in everywhere(s, target="/user?access_token=mine")} == {403}
    assert {r.status for r in everywhere(s, target="/other")} == {200}
    s.policy("presets", text % "")
    assert {r.status for r in everywhere(s, target="/other")} == {502}
    assert "api" in s.cli("doctor", check=False).stdout
    s.cli("policy", "rollback", "presets", "0")
    assert {r.status for r in everywhere(s, target="/other")} == {200}


def test_shared_suffixes(t):
    """a wildcard that strangers answer is refused for a type that sends its secret; what is there stays, and doctor warns"""
    s = t.bare()
    s.init()
    signer = ('return { kind = "type", api = 1, name = "signer", title = "x", sends_secret = false, '
              'fields = { { name = "key", secret = true, required = true } }, apply = function() end }')
    s.policy("signer", signer)
    for host in ("*.github.io", "*.atlassian.net", "*.co.uk", "*.amazonaws.com", "*.windows.net"):
        r = s.cli("credential", "add", "wide", "--type", "bearer", "--host", host, "token=-", stdin="canary-wide\n", check=False)
        assert r.returncode == 2 and "bearer sends the secret itself" in r.stderr and "acme." in r.stderr, r.stderr
    s.cli("credential", "add", "signs", "--type", "signer", "--host", "*.amazonaws.com", "key=-", stdin="canary-wide\n")
    s.cli("credential", "add", "own", "--type", "bearer", "--host", "*.acme.github.io", "token=-", stdin="canary-wide\n")
    r = s.cli("credential", "set", "own", "--host", "*.github.io", check=False)
    assert r.returncode == 2 and "anybody" in r.stderr, r.stderr
    assert "strangers" in s.cli("doctor", check=False).stdout
    s.policy("signer", signer.replace("sends_secret = false, ", ""))     # a record that is there, and what it does has changed
    said = s.cli("doctor", check=False).stdout
    assert "signs goes to *.amazonaws.com" in said, said
    s.cli("credential", "set", "signs", "--method", "GET")
    s.canaries.append("canary-wide")


def test_credential_test(t):
    """credential test says what came back and what was set, never a value; it reaches upstreams as the running proxy does"""
    s, up = t.proxy(workers=1)      # --connect-to and --upstream-ca are flags of this run, not kept settings
    host = {"host": "api.test"}
    s.credential({**host, "name": "head", "type": "bearer", "secrets": {"token": "canary-try-1"}})
    s.credential({**host, "name": "query", "preset": "serpapi", "secrets": {"value": "canary-try-2"}})
    s.credential({**host, "name": "path", "preset": "telegram", "secrets": {"value": "777:canary-try-3"}})
    s.credential({**host, "name": "mints", "preset": "postmark", "secrets": {"key": "canary-try-4"}})
    r = s.cli("credential", "test", "head", "https://api.test/v1/me")
    assert "status  200" in r.stdout and "set     authorization" in r.stdout, r.stdout
    assert up.requests[-1].get("authorization") == "Bearer canary-try-1"
    r = s.cli("credential", "test", "query", "https://api.test/search?q=1")
    assert "the query" in r.stdout, r.stdout
    assert up.requests[-1].line == "GET /search?q=1&api_key=canary-try-2 HTTP/1.1", up.requests[-1].line
    r = s.cli("credential", "test", "path", "https://api.test/bot{value}/getMe", "--json")
    assert json.loads(r.stdout)["set"] == ["the path"], r.stdout
    assert up.requests[-1].line == "GET /bot777:canary-try-3/getMe HTTP/1.1", up.requests[-1].line
    r = s.cli("credential", "test", "mints", "https://api.test/server", check=False)
    assert r.returncode == 1 and "mint=allow" in r.stderr and "tokens" in r.stderr, r.stderr
    r = s.cli("credential", "test", "head", "https://elsewhere.test/", check=False)
    assert r.returncode == 1 and "elsewhere" not in up.requests[-1].line and "does not go there" in r.stderr, r.stderr
    s.canaries += ["canary-try-1", "canary-try-2", "canary-try-3", "canary-try-4"]


def test_an_example_of_each_type(t):
    """credential add --help has an example for each credential type, from the type's own manual"""
    s = t.bare()
    s.init()
    types = [p["name"] for p in sallyport.rows(s.cli("policy", "list", "--json").stdout) if p["kind"] == "type"]
    text = s.cli("credential", "add", "--help").stdout
    missing = [name for name in types if f"--type {name} " not in text]
    assert len(types) >= 10 and not missing, missing


def test_env_beside_rotate(t):
    """env beside rotate: no token that was made before the last rotation is good after it"""
    s = t.bare()
    s.init()
    s.cli("agent", "add", "a")
    for _ in range(6):
        started = [subprocess.Popen([s.binary, *argv], env=s.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                   for argv in [["env", "--agent", "a", "--proxy", "127.0.0.1:1"]] * 4 + [["agent", "rotate", "a"]] + [["env", "--agent", "a", "--proxy", "127.0.0.1:1"]] * 4]
        outs = [p.communicate(timeout=60) for p in started]
        assert all(p.returncode == 0 or "same time" in o[1] for p, o in zip(started, outs)), outs
        s.cli("agent", "rotate", "a")
        listed = json.loads(s.cli("agent", "list", "--json").stdout)[0]
        assert len(listed["tokens"]) == 1, listed


def test_preset_for_what_is_there(t):
    """credential set --preset: its guards come, the scope stays; --clear preset takes them away; another type's is refused"""
    s = t.bare()
    s.init()
    s.cli("credential", "add", "own", "--type", "bearer", "--host", "api.github.com", "--path", "/app", "token=-", stdin="canary-preset-2\n")

    def mints():
        r = s.cli("explain", "POST", "https://api.github.com/app/installations/7/access_tokens", "--json")
        return json.loads(r.stdout).get("code")
    assert mints() is None
    s.cli("credential", "set", "own", "--preset", "github")
    shown = json.loads(s.cli("credential", "show", "own", "--json").stdout)
    assert mints() == "mint_denied" and shown["hosts"] == ["api.github.com"] and shown["paths"] == ["/app"], shown
    s.cli("credential", "set", "own", "--clear", "preset")
    assert mints() is None
    r = s.cli("credential", "set", "own", "--preset", "aws", check=False)
    assert r.returncode == 2 and "aws_sigv4" in r.stderr, r.stderr
