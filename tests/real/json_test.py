"""--json is one language: every command of the table answers with it, and what it answers is what `sallyport help json` says."""
import base64
import json
import re
import subprocess
import urllib.parse

import rotation_test
import sallyport
from claude_test import World
from mcp_test import Mcp
from messages_test import Hook
from oauth_test import Command, Person
from real import wait

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")
MOMENTS = re.compile(r"(^|_)at$|^(created|not_after|not_before|built|time)$")


def members(text):
    """'a, b[]?, c(d, e)' -> { name: (kind, optional, members or None) }"""
    out, at = {}, 0
    item = re.compile(r"([\w-]+)(\[\]|\{\})?")
    while at < len(text):
        m = item.match(text, at)
        assert m, text[at:at + 40]
        at, inner = m.end(), None
        if text[at:at + 1] == "(":
            depth, start = 0, at
            while True:
                depth += {"(": 1, ")": -1}.get(text[at], 0)
                at += 1
                if depth == 0:
                    break
            inner = members(text[start + 1:at - 1])
        optional = text[at:at + 1] == "?"
        at += optional
        assert text[at:at + 2] in (", ", "")
        at += 2
        out[m[1]] = (m[2] or ("()" if inner else ""), optional, inner)
    return out


def documented():
    """things: { thing: members }; commands: { words: the answer's cell }"""
    text = (sallyport.ROOT / "lua/help/json.md").read_text()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    split = [i for i, r in enumerate(rows) if r[1] in ("members", "answer")]
    things = {name: members(cell.strip("`")) for name, cell in rows[split[0] + 1:split[1]]}
    return things, {name: cell for name, cell in rows[split[1] + 1:]}


THINGS, COMMANDS = documented()


def check(value, spec, where):
    assert isinstance(value, dict), (where, value)
    for name, (kind, optional, inner) in spec.items():
        assert optional or name in value, f"{where}: no {name} in {value}"
    for name, v in value.items():
        assert name in spec, f"{where}: {name} is not documented: {v!r}"
        kind, _, inner = spec[name]
        at = f"{where}.{name}"
        assert v is not None, at
        if kind == "[]":
            assert isinstance(v, list), f"{at} is no array: {v!r}"
            for item in v:
                check(item, inner, at + "[]") if inner else None
        elif kind in ("{}", "()"):
            assert isinstance(v, dict), f"{at} is no object: {v!r}"
            check(v, inner, at) if inner else None
        else:
            assert not isinstance(v, dict) and (name == "ca" or not isinstance(v, list)), f"{at}: {v!r}"
            if MOMENTS.search(name):
                assert isinstance(v, str) and MOMENT.fullmatch(v), f"{at} is no moment: {v!r}"
            elif isinstance(v, (int, float)) and not isinstance(v, bool):
                assert v < 1e9 or name == "free", f"{at} looks like a bare moment: {v!r}"


def spec_of(words, cell):
    """-> whether it is an array, the members of one"""
    thing = re.match(r"(\w+)(\[\])?", cell)
    if thing and thing[1] in THINGS:
        return thing[2] is not None, THINGS[thing[1]]
    if cell.startswith("`"):
        return cell.endswith("an array"), members(re.match(r"`([^`]*)`", cell)[1])
    raise AssertionError(f"{words}: what is {cell!r}?")


# What changes no record of the store. Every other command has a record of kind `change` that names it.
READS = set("""credential list, credential show, credential presets, credential test, agent list, bundle list, bundle show, rule list, rule show, rule counters, webhook show, webhook test, approval list, approval show, seal show, explain, log, status,
    proposal list, proposal show, gateway list, tenant list, user list, role list, client list, key list, token list, connection list, connection show, policy list, policy show, policy new, policy test,
    policy history, policy diff, policy try, policy replay, policy check, policy api, policy help, ca, backup, serve, service print, nft, completion, man, version, lua, run, admin, top""".replace("\n", " ").replace("  ", "").split(","))
READS = {words.strip() for words in READS}


def approvals(t, m):
    """questions, in a home of their own with a server"""
    s, up = t.proxy(credentials=[{"name": "api", "type": "bearer", "host": "api.test", "secrets": {"token": "canary-json-9"}}])
    s.cli("rule", "add", "careful", "--type", "s3", "deletes=ask")
    s.cli("set", "approval-wait", "1s")
    for target in ("/b/1", "/b/2"):
        assert s.request(method="DELETE", target=target).get("x-sallyport-error") == "approval_timeout"
    first, second = [q["id"] for q in m.run(s, "approval list")]
    assert m.run(s, "top", "--once")["requests"] >= 2
    assert m.run(s, "approval show", first)["state"] == "open"
    assert m.run(s, "approval allow", first)["state"] == "once" and m.run(s, "approval deny", second)["state"] == "denied"
    recording = s.dir / "traffic.jsonl"
    assert m.run(s, "record", "--for", "1s", "--out", str(recording))["requests"] == 0
    m.run(s, "record", "--stop")
    recording.write_text('{"time":1,"kind":"traffic","agent":"a","method":"GET","url":"https://api.test/","headers":[],"decision":"deny","code":"host_not_allowed"}\n'
                         '{"time":1,"kind":"traffic","agent":"gone","method":"GET","url":"https://api.test/","headers":[],"decision":"allow"}\n')
    told = m.run(s, "policy replay", str(recording), code=1)
    assert told["unknown"] == 1 and told["differences"][0]["now"] == "allow credential api (default)", told
    for line in s.cli("log", "--json", "--kind", "change").stdout.splitlines():
        r = json.loads(line)
        m.judge("log", r, "record")
        of = r["changes"][0]["record"]
        m.logged |= {r["command"]} if ("question" in of or of == "record") and "command" in r else set()


class Machine:
    def __init__(self, t):
        self.t, self.seen, self.logged = t, set(), set()

    def changes(self, s):
        """the records of kind `change` of a home: each names its command, who and what"""
        for line in s.cli("log", "--json", "--kind", "change").stdout.splitlines():
            r = json.loads(line)
            self.judge("log", r, "record")
            assert r["kind"] == "change" and r["by"] and r["changes"], r
            if r["door"] == "proxy":        # an agent's proposal
                continue
            assert r["door"] == "command line", r
            self.logged.add(r["command"])

    def run(self, s, words, *args, code=0, stdin=None, cell=None, env=None, cwd=None):
        """One command with --json, before or behind it: judged by the table."""
        front = len(self.seen) % 2 == 0
        line = [*(["--json"] if front else []), *words.split(), *args, *([] if front else ["--json"])]
        r = s.cli(*line, check=False, stdin=stdin, env=env, cwd=cwd)
        assert r.returncode == code, (line, r.returncode, r.stdout[-500:], r.stderr[-800:])
        value = json.loads(r.stdout)
        self.judge(words, value, cell)
        return value

    def judge(self, words, value, cell=None):
        self.seen.add(words)
        array, spec = spec_of(words, cell or COMMANDS[words])
        assert isinstance(value, list) == array, (words, value)
        for v in value if array else [value]:
            check(v, spec if v.get("state") != "damaged" else THINGS["credential"], words)


def test_every_command(t):
    """each command of the table, run with --json: its members are those that the manual lists, arrays are arrays, moments are texts"""
    s, up = t.proxy(serve=False)
    m = Machine(t)
    run = lambda *args, **more: m.run(s, *args, **more)
    token = {"stdin": "canary-json-1"}
    assert run("init")["made"] is False
    run("credential add", "api", "--type", "bearer", "--host", "api.test", "--path", "/v1", "--env", "API_TOKEN", "token=-", **token)
    run("credential add", "gh", "--preset", "github", "token=-", **token)
    run("credential add", "rows", "--type", "substitute", "--host", "rows.test", "value=-", "--substitute", "value:path=/bot{}/**",
        "--address", "10.0.0.0/8", "env=ROWS", "headers.X-A=b", "keep=x-b", "--answer-timeout", "1h", **token)
    run("credential add", "drive", "--preset", "google-oauth", "client_id=1.apps.googleusercontent.com", "client_secret=-", "scopes=", **token)
    gcp = s.dir / "sa.json"
    key = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True).stdout
    gcp.write_text(json.dumps({"type": "service_account", "private_key_id": "k", "private_key": key, "client_email": "a@b.test",
                               "token_uri": "https://oauth2.googleapis.com/token"}))
    gcp.chmod(0o600)
    run("credential add", "gcp", "--type", "gcp_access_token", f"key=@{gcp}")
    assert len(run("credential list")) == 5
    for name in ("api", "gh", "rows", "drive", "gcp"):
        run("credential show", name)
    assert run("credential set", "api", "--method", "GET")["methods"] == ["GET"]
    assert run("credential disable", "api")["state"] == "disabled" and run("credential enable", "api")["state"] == "enabled"
    for preset in run("credential presets"):
        m.judge("credential presets", preset, "preset") if preset["name"] in ("github", "telegram") else None
    run("credential presets", "github", cell="preset")
    run("credential sandbox-file", "gcp", "--agent", "a")
    assert run("credential sandbox-file", "gcp", "--agent", "a", "--out", str(s.dir / "stand-in.json")) == {"file": str(s.dir / "stand-in.json")}
    run("credential sandbox-file", "api", "--agent", "a")
    assert set(run("credential sandbox-file", "api", "--agent", "a", "--proxy", "10.0.2.2:7080")) == {"text", "expires_at"}
    assert "kubeconfig" in json.loads(s.cli("credential", "sandbox-file", "gh", "--agent", "a", "--json", check=False).stdout)["error"]["hint"]
    run("credential presets", "kubernetes", cell="preset")
    assert run("credential set", "rows", "--seal-host", "far.test", "mint=seal")["seal_hosts"] == ["far.test"]
    head = bytes([1, 0, 0, 0, 0]) + bytes(24) + bytes(32) + (1 << 31).to_bytes(4, "big") + bytes(4) + bytes(16)     # of nobody's, and opens nowhere
    shown = run("seal show", "Sp5eaL" + base64.urlsafe_b64encode(head).decode().rstrip("="))
    assert shown["expires_at"].startswith("2038-") and "agent" not in shown and not shown["expired"], shown
    assert run("seal revoke", "--credential", "rows") == {"revoked": "rows", "kind": "credential"}
    assert run("credential remove", "rows", "drive") == {"removed": ["rows", "drive"]}
    added = run("agent add", "b", "--ttl", "7d")
    assert added["token"].startswith("sp_agt_") and added["expires_at"] > added["created"]
    s.canaries += [added["token"], "canary-json-1"]
    rotated = run("agent rotate", "b")
    assert rotated["token"] != added["token"] and len(rotated["tokens"]) == 1
    s.canaries.append(rotated["token"])
    assert run("agent set", "b", "TENANT=acme", "--requests", "9")["variables"] == {"TENANT": "acme"}
    off = run("agent set", "b", "--disable-variable", "TENANT")
    assert (off["variables"], off["variables_off"]) == ({}, {"TENANT": "acme"}) and "variables_off" not in run("agent set", "b", "--enable-variable", "TENANT")
    assert run("agent disable", "b")["state"] == "disabled" and run("agent enable", "b")["state"] == "active"
    assert [a["state"] for a in run("agent list")] == ["active", "active"]
    assert run("agent revoke", "b")["state"] == "revoked"
    run("bundle add", "work")
    assert run("bundle set", "work", "TENANT=x", "--disable-variable", "TENANT")["variables_off"] == {"TENANT": "x"}
    assert run("bundle attach", "work", "api")["credentials"] == ["api"] and run("bundle detach", "work", "api")["credentials"] == []
    assert run("domain add", "work", "docs.test", "--port", "80")["domains"][0]["ports"] == [80]
    assert run("domain set", "work", "docs.test", "--method", "POST", "--clear", "port")["domains"][0] | {"created": 0} == {"host": "docs.test", "state": "enabled", "methods": ["POST"], "ports": [443], "tunnel": False, "created": 0}
    assert run("domain disable", "work", "docs.test")["domains"][0]["state"] == "disabled" and run("domain enable", "work", "docs.test")["domains"][0]["state"] == "enabled"
    assert run("bundle disable", "work")["state"] == "disabled" and run("bundle enable", "work")["state"] == "enabled"
    run("bundle show", "work")
    run("bundle list")
    assert run("rule add", "slowly", "--type", "rate", "--bundle", "work", "--method", "POST", "requests=5")["place"] == 1
    assert run("rule set", "slowly", "--host", "docs.test")["hosts"] == ["docs.test"]
    assert run("rule disable", "slowly")["state"] == "disabled" and run("rule enable", "slowly")["state"] == "enabled"
    run("rule add", "daily", "--type", "hours", "--bundle", "work", "from=8:00")
    assert run("rule move", "daily", "1")["fields"] == {"from": "8:00"} and len(run("rule list")) == 2
    run("rule remove", "daily")
    run("rule show", "slowly")
    hook = Hook()
    s.cli("set", "connect-to", f"other.test:443:127.0.0.1:{hook.server_port}")
    s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
    s.canaries.append(run("webhook set", "https://other.test/canary-json-hook")["secret"])
    assert run("webhook show")["events"] == ["proposal", "approval", "refusals", "credential"]
    assert run("webhook test") == {"sent": True, "url": "https://other.test"} and run("webhook remove") == {"removed": ["https://other.test"]}
    s.cli("set", "connect-to", "--default")
    s.cli("set", "upstream-ca", "--default")
    run("rule set", "slowly", "per=all")
    assert run("rule counters", "slowly", cell="counted")["counters"][0]["limit"] == 5 and len(run("rule counters")) == 1
    run("rule remove", "slowly")
    assert run("domain remove", "work", "docs.test")["domains"] == []
    approvals(t, m)
    run("bundle remove", "work")
    run("domain add", "default", "free.test")
    door(s, run)
    for url in ("https://api.test/v1", "https://free.test/", "https://10.0.0.1/", "https://nowhere.test/"):
        run("explain", "GET", url)
    assert "domain add" in run("explain", "GET", "https://nowhere.test/")["try"]
    for words, args in (("set", ()), ("set", ("log-size", "1m")), ("set", ("log-size",)), ("set", ("connect-to",)), ("set", ("log-size", "--default"))):
        settings = json.loads(s.cli(*words.split(), *args, "--json").stdout)
        for name, v in settings.items():
            check(v, members("value?, set, password?") if not isinstance(v.get("value"), list) else members("value[], set"), f"set.{name}")
        assert isinstance(settings.get("connect-to", {"value": []})["value"], list)
    m.seen.add("set")
    env = json.loads(s.cli("env", "--agent", "a", "--proxy", "127.0.0.1:1", "--json").stdout)
    assert env["API_TOKEN"] and all(isinstance(v, str) for v in env.values())
    s.canaries.append(env["HTTPS_PROXY"].split(":")[2].split("@")[0])
    m.seen.add("env")
    run("ca")
    run("policy list")
    run("policy test", "bearer", "basic")
    source = s.dir / "acme.lua"
    source.write_text(s.cli("policy", "show", "bearer").stdout.replace('"bearer"', '"acme"', 1))
    assert run("policy put", str(source)) == {"name": "acme", "version": 1}
    source.write_text(source.read_text() + "-- x\n")
    run("policy put", str(source))
    run("policy history", "acme")
    run("policy history", "bearer")
    assert run("policy rollback", "acme") == {"name": "acme", "version": 1}
    editor = s.dir / "editor"
    editor.write_text("#!/bin/sh\necho '-- y' >>\"$1\"\n")
    editor.chmod(0o700)
    run("policy edit", "acme", env={"EDITOR": "true", "VISUAL": ""})
    assert run("policy edit", "acme", env={"EDITOR": str(editor), "VISUAL": ""})["version"] == 3
    assert run("policy use", "acme", "2") == {"name": "acme", "version": 2}
    assert "+-- x\n" in run("policy diff", "acme")["text"] and run("policy diff")["text"] == ""
    tried = run("policy try", "acme", "POST", "https://api.test/v1", "-H", "Authorization: mine", "-d", '{"a":1}\n')
    assert tried["stripped"] == ["authorization"] and tried["before"]["body"] == '{"a":1}\n' and tried["after"]["headers"]["authorization"] == "Bearer «token»", tried
    source.write_text(source.read_text().replace("req.headers:set", "req.heders:set"))
    tried = run("policy try", str(source), "GET", "https://api.test/v1", code=1)
    assert "did you mean req.headers?" in tried["error"]["message"] and "after" not in tried, tried
    assert run("policy rename", "acme", "acme_two") == {"name": "acme_two", "was": "acme", "users": []}
    assert run("policy remove", "acme_two") == {"removed": ["acme_two"]}
    source.write_text("return { kind = 1 }")
    assert run("policy check", str(source), code=1)[0]["found"]
    assert "---@meta" in run("policy api")["text"]
    assert run("policy new", "fresh", "--like", "hmac", cwd=s.dir) == {"name": "fresh", "file": "fresh.lua", "like": "hmac"}
    assert "secret.hex(x)" in run("policy help", "secret.hex")["text"]
    run("doctor")
    run("doctor", "--remove")
    run("doctor", "--accept")
    run("status", code=1)
    backup = s.dir / "store.backup"
    run("backup", str(backup))
    run("agent revoke", "a")
    assert run("agent remove", "a") == {"removed": ["a"]}
    assert run("restore", str(backup))["in_force_again"]
    assert run("store rekey")["changes"] == 1
    for words, args in (("policy show", ("bearer",)), ("service print", ("systemd",)), ("nft", ("--interface", "veth0", "--port", "7081")), ("completion", ("bash",)), ("man", ())):
        assert len(run(words, *args)["text"]) > 100
    run("version")
    imported = s.dir / "mcp.json"
    imported.write_text('{"mcpServers": {"x": {"command": "true"}}}')
    run("mcp import", str(imported), "--out", str(s.dir / "sandbox.json"))
    imported.write_text(json.dumps({"mcpServers": {"good": {"url": "https://api.test/mcp", "headers": {"X-Api-Key": "canary-mcp"}}, "bad": {"url": "ws://x.test"}}}))
    part = run("mcp import", str(imported), code=1)
    assert [c["name"] for c in part["credentials"]] == ["good"] and part["refused"][0]["server"] == "bad" and json.loads(part["text"])["mcpServers"] == {"good": {"url": "https://api.test/mcp"}}, part
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}", "--json")
    first = next(line for line in s.log().splitlines() if line.startswith("{"))
    m.judge("serve", json.loads(first))
    s.request(target="/v1")
    s.request(host="nowhere.test")
    for _ in range(2):
        ask = {"services": [{"host": "docs.test", "auth": {"type": "api-key", "key": "K", "prefix": "x "}}], "credentials": [{"key": "K"}], "user_message": "please"}
        body = json.dumps(ask).encode()
        w = s.connect()
        w.send(f"POST /v1/proposals HTTP/1.1\r\nHost: 127.0.0.1:{s.port}\r\nAuthorization: Bearer {s.tokens['a']}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        assert b" 201 " in w.recv(10)
        w.close()
    ids = [p["id"] for p in run("proposal list")]
    run("proposal show", ids[0])
    assert run("proposal approve", ids[0], "K=-", **token)["state"] == "applied" and run("proposal reject", ids[1], "--reason", "no")["reason"] == "no"
    s.wait_record({"host": "nowhere.test"})
    for line in s.cli("log", "--json").stdout.splitlines():
        m.judge("log", json.loads(line), "record")
    run("log", "--summary", cell="summary")
    assert run("status")["running"] is True
    assert run("credential test", "api", "https://api.test/v1")["status"] == 200
    page = subprocess.Popen([t.binary, "--home", s.home, "admin", "--print", "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    t.processes.append(page)
    m.judge("admin", json.loads(page.stdout.readline()))
    page.kill()
    m.changes(s)
    m.seen |= signed_in(t, m) | {"lua", "run", "connection show", "connection revoke"}
    for words in commands_of(s):
        assert words in COMMANDS or words in ("lua", "run"), f"`sallyport help json` does not say what `{words}` answers"
        assert words in m.seen, f"`{words}` was not tried here"
        assert (words in m.logged) != (words in READS) or words in ("connection revoke", "doctor"), f"`{words}` changes records: {words in m.logged}"
    assert set(COMMANDS) <= m.seen, set(COMMANDS) - m.seen


def door(s, run):
    """tenants, users, roles, gateways, clients and keys; a connection needs a sign-in (door_test)"""
    s.cli("set", "public-url", "https://box.test/")
    assert run("tenant add", "acme", "WORKSPACE=wrk_1")["variables"] == {"WORKSPACE": "wrk_1"}
    assert [x["name"] for x in run("tenant list")] == ["acme"]
    assert run("tenant set", "acme", "WORKSPACE=wrk_2")["variables"] == {"WORKSPACE": "wrk_2"}
    added = run("user add", "Ada@example.org", "--tenant", "acme=member")
    assert added["name"] == "ada@example.org" and added["link"].startswith("https://box.test/login?link=") and added["state"] == "invited"
    s.canaries.append(added["link"].split(".")[-1])
    assert run("role add", "editor", "--scope", "tools:read,entities:write")["scopes"] == ["tools:read", "entities:write"]
    assert len(run("role list")) == 4
    assert run("user set", "ada@example.org", "--tenant", "acme=editor", "--totp", "--approve", "--operator")["tenants"] == {"acme": "editor"}
    assert run("gateway add", "tools", "https://tools.test/mcp", "--credential", "api", "--read", "get_*")["address"] == "https://box.test/mcp/tools"
    assert run("gateway scope", "tools", "entities:write", "--tool", "create_*", "--says", "Create")["scopes"][0]["tools"] == ["create_*"]
    run("gateway list")
    explained = run("explain", "--user", "ada@example.org", "--tenant", "acme", "--tool", "create_page", "POST", "https://box.test/mcp/tools")
    assert explained["decision"] == "deny" and explained["code"] == "host_not_allowed", explained    # `api` is for api.test
    assert explained["door"]["decision"] == "allow" and explained["door"]["needs"] == ["entities:write"] and explained["agent"] == "acme", explained
    client = run("client add", "ChatGPT", "--redirect", "https://chatgpt.test/cb")
    assert client["secret"].startswith("sp_cs_")
    assert [x["id"] for x in run("client list")] == [client["id"]]
    assert run("token add", "dash", "--scope", "read")["token"].startswith("sp_api_") and run("token list")[0]["scopes"] == ["read"]
    assert run("token remove", "dash")["removed"] == ["dash"]
    key = run("key add", "ci", "--tenant", "acme", "--role", "viewer", "--scope", "tools:read", "--ttl", "7d")
    assert key["token"].startswith("sk_") and "token" not in run("key list")[0]
    s.canaries += [client["secret"], key["token"]]
    assert run("key revoke", "ci") == {"removed": ["ci"]}
    assert run("connection list") == []
    for words in ("connection show", "connection revoke"):
        value = json.loads(s.cli(*words.split(), "none", "--json", check=False).stdout)
        assert "there is no connection" in value["error"]["message"], value
    assert run("user list")[0]["totp"] is False and run("user disable", "ada@example.org")["state"] == "disabled"
    for words, name in (("client remove", client["id"]), ("gateway remove", "tools"), ("role remove", "editor"), ("user remove", "ada@example.org"),
                        ("tenant remove", "acme")):
        assert run(words, name) == {"removed": [name]}


def commands_of(s):
    script = s.dir / "commands.lua"
    script.write_text("""local cli = require "cli"
    for _, first in ipairs(cli.first_words()) do for _, c in ipairs(cli.commands_of(first)) do print(c.words) end end""")
    return s.cli("lua", script).stdout.splitlines()


def signed_in(t, m):
    """connect, disconnect, mcp add and import claude-code: an object a line, the address at once"""
    s, up, server = rotation_test.scripted(t, serve=False)
    command = Command(s, "connect", "acc", "--code-from-terminal", "--json", stdin=True)
    q = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(json.loads(command.url())["open"]).query))
    command.p.stdin.write(f"http://127.0.0.1:7082/callback?code=good&state={q['state']}\n")
    command.p.stdin.flush()
    command.end()
    shown = json.loads(command.out[1])
    m.judge("connect", shown, "credential")
    assert len(command.out) == 2 and shown["token"]["valid"] is True and shown["token"]["renewable"] is True, shown
    assert "token" not in m.run(s, "disconnect", "acc") or True
    m.changes(s)
    w = World(t, cli=False, serve=False)
    got = json.loads(w.take("--json", "--agent", "a", "--out", str(w.s.dir / "files")).stdout)
    assert len(got.pop("files")) == 2
    m.judge("import claude-code", got, "credential")
    m.changes(w.s)
    done = {"mcp add"}
    try:
        server = Mcp(t, s.dir)
    except Exception as e:
        assert type(e).__name__ == "Skip", e
        return done
    command = Command(s, "mcp", "add", "box", server.url, "--json")
    at, status, page = Person().consent(json.loads(command.url())["open"])
    assert status == 200, (at, page)
    command.end()
    got = json.loads(command.out[1])
    assert set(got) == {"credential", "mcpServers"} and got["mcpServers"]["box"]["url"] == server.url, got
    check(got["credential"], THINGS["credential"], "mcp add")
    m.changes(s)
    return done


def test_errors(t):
    """a failure of any command is one object on standard output, whatever it had begun to print"""
    s, up = t.proxy(serve=False)
    for words in commands_of(s):
        r = s.cli("--json", *words.split(), "--no-such-option", check=False)
        assert r.returncode == 2 and set(json.loads(r.stdout)) == {"error"}, (words, r.stdout, r.stderr)
    for args in (["credential", "test", "none"], ["agent", "rotate", "none"], ["bundle", "show", "none"], ["policy", "put", "/none.lua"],
                 ["policy", "test", "bearer", "none"], ["restore", "/none"], ["import", "claude-code", "/none"], ["connect", "none"], ["mcp", "import", "/none"],
                 ["env", "--agent", "none"], ["log", "--after", "none"]):
        r = s.cli(*args, "--json", check=False)
        assert r.returncode == 1, (args, r.returncode, r.stderr)
        error = json.loads(r.stdout)["error"]
        assert error["message"] in r.stderr and set(error) <= {"message", "hint"}, (args, r.stdout)
    for args in (["backup", "-", "--json"], ["--json"], ["--json", "credential"], ["credential", "--json"], ["help", "nothing-of-it", "--json"]):
        r = s.cli(*args, check=False)
        assert r.returncode == 2 and set(json.loads(r.stdout)) == {"error"}, (args, r.stdout)


def test_help(t):
    """help is a text: asked for before the command or behind it, of the program, a topic, a family, a command and a type"""
    s, up = t.proxy(serve=False)
    for args, wanted in ((["--help"], "usage: sallyport"), (["help"], "usage: sallyport"), (["help", "types"], "# Credential types"),
                         (["help", "credential"], "sallyport credential add"), (["env", "--help"], "usage: sallyport env"),
                         (["credential", "add", "--type", "hmac", "--help"], "key_encoding")):
        for asked in (["--json", *args], [*args, "--json"]):
            said = json.loads(s.cli(*asked).stdout)
            assert set(said) == {"text"} and wanted in said["text"], (asked, said)
