"""mcp import on the shapes that clients' files have: every credential is tried with the request that the client would send
through the proxy, by the new file's own address, arguments and variables."""
import json
import os
import re
import ssl
import urllib.parse

import certs
import sallyport
from upstream_proxy_test import at_terminal

CANARY = "canary0Abcdefghij123456"          # one that nobody made up, and of no known beginning
GITHUB = "ghp_canary0123456789abcdefghijABCDEF0123"


def http(url, **headers):
    return {"type": "http", "url": url, "headers": {name.replace("_", "-"): value for name, value in headers.items()}}


def npx(*args, **env):
    return {"command": "npx", "args": ["-y", *args], **({"env": env} if env else {})}


def wanted(text):
    return {"authorization": "Bearer " + text}


def header(text):
    return {"x-api-key": text}


# What a client has in its file; what its requests to HOST.test then carry. A row: the file's name and text, options, the
# environment, and of each server by its name: host, what the upstream gets (a header's value, or "target").
ROWS = [
    ("Claude Code, Desktop", ".mcp.json", {"mcpServers": {"a": http("https://c1.test/mcp", Authorization=f"Bearer {CANARY}")}}, (), {},
     {"a": ("c1.test", wanted(CANARY))}),
    ("its project files, with the servers at the top", "plugin.json", {"a": http("https://c2.test/mcp", X_Api_Key=CANARY, X_Team="blue")}, (), {},
     {"a": ("c2.test", header(CANARY))}),
    ("VS Code: comments, last commas, a byte order mark, inputs from a file, env", "mcp.json", """\ufeff// servers
{
  "inputs": [ { "type": "promptString", "id": "pat", "password": true }, ],   /* asked for once */
  "servers": {
    "one": { "type": "http", "url": "https://c3.test/mcp/", "headers": { "Authorization": "Bearer ${input:pat}" } }, // the first
    "two": { "url": "https://c4.test/mcp?p=1//2", "headers": { "X-Api-Key": "${env:TWO_KEY}", } },
  },
}
""", ("--input", "pat=@INPUT", "--take", "pat=c3.test", "--take", "TWO_KEY=c4.test"), {"TWO_KEY": CANARY + "-two"},
     {"one": ("c3.test", wanted(CANARY + "-input")), "two": ("c4.test", {**header(CANARY + "-two"), "target": "/mcp?p=1//2"})}),
    ("VS Code's settings", "settings.json", {"editor.tabSize": 2, "mcp": {"servers": {"a": http("https://c5.test/mcp", Authorization=f"Bearer {CANARY}")}}}, (), {},
     {"a": ("c5.test", wanted(CANARY))}),
    ("Cursor: no type; env", "mcp.json", {"mcpServers": {"a": {"url": "https://c6.test/mcp", "headers": {"Authorization": "Bearer ${env:MY_TOKEN}"}}}},
     ("--take", "MY_TOKEN=c6.test"), {"MY_TOKEN": CANARY}, {"a": ("c6.test", wanted(CANARY))}),
    ("Windsurf: serverUrl", "mcp_config.json", {"mcpServers": {"a": {"serverUrl": "https://c7.test/mcp", "headers": {"X-API-Key": CANARY}}}}, (), {},
     {"a": ("c7.test", header(CANARY))}),
    ("Gemini: httpUrl, $NAME", "settings.json", {"mcpServers": {"a": {"httpUrl": "https://c8.test/mcp", "url": "https://unused.test", "headers": {"X-Api-Key": "$GEM_KEY"}}}},
     ("--take", "GEM_KEY=c8.test"), {"GEM_KEY": CANARY}, {"a": ("c8.test", header(CANARY))}),
    ("Cline, Roo: streamableHttp", "cline_mcp_settings.json", {"mcpServers": {"a": {"type": "streamableHttp", "disabled": False, "url": "https://c9.test/mcp",
     "headers": {"Authorization": f"Bearer {CANARY}"}}}}, (), {}, {"a": ("c9.test", wanted(CANARY))}),
    ("Zed: context_servers", "settings.json", {"theme": "One", "context_servers": {"a": {"source": "custom", "url": "https://c10.test/mcp", "headers": {"Authorization": f"Bearer {CANARY}"}}}},
     (), {}, {"a": ("c10.test", wanted(CANARY))}),
    ("opencode: mcp, {env:}", "opencode.json", {"mcp": {"a": {"type": "remote", "url": "https://c11.test/mcp", "headers": {"X-Api-Key": "{env:OC_KEY}"}}}},
     ("--take", "OC_KEY=c11.test"), {"OC_KEY": CANARY}, {"a": ("c11.test", header(CANARY))}),
    ("Continue: a list, transport, requestOptions", "config.json", {"experimental": {"modelContextProtocolServers": [
        {"name": "a", "transport": {"type": "streamable-http", "url": "https://c12.test/mcp", "requestOptions": {"headers": {"Authorization": f"Bearer {CANARY}"}}}}]}},
     (), {}, {"a": ("c12.test", wanted(CANARY))}),
    ("one project's server of Claude Code's own file", ".claude.json", {"numStartups": 3, "primaryApiKey": "sk-ant-canary-0123456789", "projects": {
        "/home/me/x": {"history": [{"display": GITHUB}], "mcpServers": {"a": http("https://c13.test/mcp", Authorization=f"Bearer {CANARY}")}}, "/home/me/y": {"mcpServers": {}}}},
     (), {}, {"a": ("c13.test", wanted(CANARY))}),
    ("HTTP+SSE: the whole host", "sse.json", {"mcpServers": {"a": {"type": "sse", "url": "https://c14.test/v1/sse", "headers": {"Authorization": f"Bearer {CANARY}"}}}}, (), {},
     {"a": ("c14.test", {**wanted(CANARY), "at": "/messages?id=1"})}),
    ("Basic, in a header of its own spelling", "basic.json", {"mcpServers": {"a": http("https://c15.test/mcp", authorization="basic dXNlcjpjYW5hcnk=")}}, (), {},
     {"a": ("c15.test", {"authorization": "basic dXNlcjpjYW5hcnk="})}),
    ("a user and a password in the url", "basic.json", {"mcpServers": {"a": {"url": "https://me:canary%2Fpw@c34.test/mcp"}, "b": npx("mcp-remote", "https://me:${PW}@c35.test/mcp", PW="canary")}}, (), {},
     {"a": ("c34.test", {"authorization": "Basic bWU6Y2FuYXJ5L3B3", "target": "/mcp"}), "b": ("c35.test", {"authorization": "Basic bWU6Y2FuYXJ5", "target": "/mcp"})}),
    ("two secrets in headers, one with a default", "two.json", {"mcpServers": {"a": http("https://c16.test/mcp", DD_API_KEY=CANARY + "-1", DD_APPLICATION_KEY="${DD_APP:-" + CANARY + "-2}")}}, (), {},
     {"a": ("c16.test", {"dd-api-key": CANARY + "-1", "dd-application-key": CANARY + "-2"})}),
    ("a key in the query", "query.json", {"mcpServers": {"a": {"url": f"https://c17.test/mcp/?tavilyApiKey={CANARY}&profile=p"}}}, (), {},
     {"a": ("c17.test", {"query": {"tavilyApiKey": CANARY, "profile": "p"}})}),
    ("a key in the query, as a variable", "query.json", {"mcpServers": {"a": {"url": "https://c18.test/mcp?api_key=${Q_KEY}&profile=p"}}}, ("--take", "Q_KEY=c18.test"), {"Q_KEY": CANARY},
     {"a": ("c18.test", {"query": {"api_key": CANARY, "profile": "p"}})}),
    ("keys in the path, the query and a header", "path.json", {"mcpServers": {"a": {"url": f"https://c19.test/v1,2/{CANARY}/x:y/@me/mcp?key={CANARY}-q&p=%3A", "headers": {"X-Api-Key": CANARY + "-h"}}}}, (), {},
     {"a": ("c19.test", {"target": f"/v1,2/{CANARY}/x:y/@me/mcp?key={CANARY}-q&p=%3A", **header(CANARY + "-h")})}),
    ("a UUID in the path, and what no template spells beside it", "path.json", {"mcpServers": {"a": {"url": "https://c20.test/s/550e8400-e29b-41d4-a716-44665544ca9a/a*b/"}}}, (), {},
     {"a": ("c20.test", {"target": "/s/550e8400-e29b-41d4-a716-44665544ca9a/a*b/"})}),
    ("a key in the path, as a variable", "path.json", {"mcpServers": {"k": {"url": "https://c21.test/${P_KEY}/mcp"}}}, ("--take", "P_KEY=c21.test"), {"P_KEY": CANARY},
     {"k": ("c21.test", {"target": f"/{CANARY}/mcp"})}),
    ("short names: placeholders long enough to be none", "short.json", {"mcpServers": {"a": {"url": f"https://c22.test/mcp?k={CANARY}-1&t={CANARY}-2"}}}, (), {},
     {"a": ("c22.test", {"query": {"k": CANARY + "-1", "t": CANARY + "-2"}})}),
    ("mcp-remote: --header", "claude_desktop_config.json", {"mcpServers": {"a": npx("mcp-remote@0.1.16", "https://c23.test/mcp", "--header", f"Authorization: Bearer {CANARY}", "--transport", "http-only")}}, (), {},
     {"a": ("c23.test", wanted(CANARY))}),
    ("mcp-remote: --header from env", "claude_desktop_config.json", {"mcpServers": {"a": npx("mcp-remote", "https://c24.test/mcp", "--header", "Authorization:${AUTH_HEADER}", AUTH_HEADER=f"Bearer {CANARY}")}}, (), {},
     {"a": ("c24.test", wanted(CANARY))}),
    ("mcp-remote: a key in its address, from env too", "claude_desktop_config.json", {"mcpServers": {"a": npx("mcp-remote", "https://c25.test/mcp?api_key=${K}", K=CANARY)}}, (), {},
     {"a": ("c25.test", {"query": {"api_key": CANARY}})}),
    ("mcp-remote by a path, behind cmd, --header=", "x.json", {"mcpServers": {"a": {"command": "cmd", "args": ["/c", "node", "C:\\x\\mcp-remote.js", "https://c26.test/mcp", f"--header=X-Api-Key:{CANARY}"]}}}, (), {},
     {"a": ("c26.test", header(CANARY))}),
    ("mcp-proxy, supergateway", "x.json", {"mcpServers": {"a": {"command": "uvx", "args": ["mcp-proxy", "--transport=streamablehttp", "-H", "Authorization", f"Bearer {CANARY}", "https://c27.test/mcp"]},
     "b": npx("supergateway", "--streamableHttp", "https://c28.test/mcp", "--oauth2Bearer", CANARY)}}, (), {}, {"b": ("c28.test", wanted(CANARY)), "a": ("c27.test", wanted(CANARY))}),
    ("a bearer token in a member of its own", "x.json", {"mcp_servers": [{"type": "url", "name": "a", "url": "https://c36.test/mcp", "authorization_token": CANARY}]}, (), {},
     {"a": ("c36.test", wanted(CANARY))}),
    ("headers as JSON in a variable", "x.json", {"mcpServers": {"a": npx("thing", API_HEADERS=json.dumps({"Authorization": f"Bearer {CANARY}", "Api-Version": "2022-06-28"}))}},
     ("--take", "API_HEADERS=c37.test"), {}, {"a": ("c37.test", {"literal": CANARY})}),
    ("a program's variable, whose host is named", "x.json", {"mcpServers": {"a": npx("thing", THING_TOKEN=CANARY)}}, ("--take", "THING_TOKEN=c29.test"), {},
     {"a": ("c29.test", {"env": ("THING_TOKEN", CANARY)})}),
    ("docker: -e NAME, and the value in env", "x.json", {"mcpServers": {"a": {"command": "docker", "args": ["run", "-i", "-e", "GITHUB_PERSONAL_ACCESS_TOKEN", "img"], "env": {"GITHUB_PERSONAL_ACCESS_TOKEN": GITHUB}}}}, (), {},
     {"a": ("api.github.com", wanted(GITHUB))}),
    ("docker: -e NAME=VALUE, --env=, -eNAME=", "x.json", {"mcpServers": {"a": {"command": "docker", "args": ["run", "-e", f"A_TOKEN={CANARY}-a", f"--env=B_TOKEN={CANARY}-b", f"-eC_TOKEN={CANARY}-c", "img"]}}},
     ("--take", "A_TOKEN=c30.test", "--take", "B_TOKEN=c31.test", "--take", "C_TOKEN=c32.test"), {},
     {"a": ("c30.test", {"env": ("A_TOKEN", CANARY + "-a")}), "a#2": ("c31.test", {"env": ("B_TOKEN", CANARY + "-b")}), "a#3": ("c32.test", {"env": ("C_TOKEN", CANARY + "-c")})}),
    ("a client that fills in no variables: a literal", "claude_desktop_config.json", {"mcpServers": {"a": npx("thing", ZED_TOKEN=CANARY)}}, ("--take", "ZED_TOKEN=c33.test"), {},
     {"a": ("c33.test", {"literal": CANARY})}),
]


def servers_of(value, out):
    """Every object of a file that has an address or a program, by its name."""
    for name, v in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(v, dict) and any(k in v for k in ("url", "serverUrl", "httpUrl", "command", "transport")):
            out[v.get("name", name)] = v
        else:
            servers_of(v, out)
    return out


def address_of(server):
    """What a client of the new file asks for."""
    for text in [server.get("httpUrl"), server.get("serverUrl"), server.get("url"), server.get("transport", {}).get("url"), *server.get("args", [])]:
        if isinstance(text, str) and text.startswith("https://"):
            return urllib.parse.urlsplit(text)
    return None


def test_import_clients(t):
    """mcp import: files of twenty clients and idioms; the request that each new file leads to carries what the old one held"""
    s, up = t.proxy(serve=False)
    (s.dir / "input").write_text(CANARY + "-input\n")
    new, hosts = [], set()
    for i, (label, name, old, options, env, servers) in enumerate(ROWS):
        folder = s.dir / f"row{i}"
        folder.mkdir()
        (folder / name).write_text(old if isinstance(old, str) else json.dumps(old))
        options = [o.replace("@INPUT", f"@{s.dir}/input") for o in options]
        r = s.cli("mcp", "import", folder / name, "--out", folder / "new.json", "--prefix", f"r{i}-", *options, env=env, check=False)
        assert r.returncode == 0, f"{label}: {r.stderr}"
        text = (folder / "new.json").read_text()
        assert "canary" not in (text + r.stderr + r.stdout).lower() and "ca9a" not in text and "history" not in text, f"{label}: {text} {r.stderr}"
        new.append(servers_of(json.loads(text), {}))
        assert set(new[-1]) == {n.split("#")[0] for n in servers}, f"{label}: {new[-1]}"
        hosts |= {host for host, _ in servers.values()}
    s.canaries += [CANARY, GITHUB]
    api = sallyport.Upstream({}, sallyport.certs())             # where a preset's key goes
    api.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    api.context.maximum_version = ssl.TLSVersion.TLSv1_2
    api.context.load_cert_chain(certs.leaf(sallyport.certs(), s.dir, ["api.github.com"]))
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--allow-address", "127.0.0.0/8", *[w for h in sorted(hosts) for w in ("--connect-to", f"{h}:443:127.0.0.1:{(up if h.endswith('.test') else api).port}")])
    placeholders = json.loads(s.cli("env", "--agent", "a", "--proxy", "127.0.0.1:1", "--json").stdout)
    for (label, _, _, _, _, servers), made in zip(ROWS, new):
        for name, (host, want) in servers.items():
            server, want = made[name.split("#")[0]], dict(want)
            url, sent = address_of(server), {}
            target = want.pop("at", None) or (urllib.parse.urlunsplit(("", "", url.path, url.query, "")) if url else "/")
            if "env" in want:
                variable, want["authorization"] = want["env"][0], "Bearer " + want.pop("env")[1]
                assert re.search(r"\$\{(env:)?" + variable + r"\}", json.dumps(server)), f"{label}: {server}"
                sent["Authorization"] = "Bearer " + placeholders[variable]
            if "literal" in want:
                want["authorization"] = "Bearer " + want.pop("literal")
                sent["Authorization"] = "Bearer " + re.search(r"__\w+__", json.dumps(server["env"]))[0]
            response = s.request(target=target, host=host, headers=sent)
            assert response.status == 200, f"{label}: {target}: {response.status} {response.body}"
            got = (up if host.endswith(".test") else api).requests[-1]
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(got.target).query))
            seen = {n: got.target if n == "target" else query if n == "query" else got.get(n) for n in want}
            assert seen == want, f"{label}: {seen}, wanted {want}"


def test_import_options(t):
    """mcp import: one bad entry does not refuse the file; a taken name takes --prefix or --replace, which changes the secrets
    alone; --keep and --drop name places; what a client asks for comes from --input, or at the terminal"""
    s, up = t.proxy(serve=False)
    path, out = s.dir / "old.json", s.dir / "new.json"
    auth = {"Authorization": f"Bearer {CANARY}"}

    def give(old, *args, exit=0, env=None):
        path.write_text(old if isinstance(old, str) else json.dumps(old))
        out.unlink(missing_ok=True)
        r = s.cli("mcp", "import", path, "--out", out, *args, "--json", env=env, check=False)
        assert r.returncode == exit and "fault in sallyport" not in r.stderr and "canary" not in r.stderr + r.stdout, r.stderr
        answer = json.loads(r.stdout)
        assert (exit != 0) == ("error" in answer), answer
        text = out.read_text() if out.exists() else ""
        assert "canary" not in text and answer.get("text", "") == text, text
        return r.stderr, answer, json.loads(text) if text else None

    def show(name):
        return json.loads(s.cli("credential", "show", name, "--json").stdout)
    # Each bad entry alone is left out, with its reason; the others are kept, and the exit status says that it was not all.
    bad = {"nothing": {}, "link": {"link": "https://x.test"}, "ws": {"url": "ws://x.test/mcp", "headers": auth}, "text": "x", "number": {"url": 5},
           "user": {"url": "https://me:canary@x.test/mcp", "headers": auth}, "unset": {"url": "https://x.test", "headers": {"X-Api-Key": "${NOT_SET_ANYWHERE}"}},
           "ask": {"url": "https://x.test", "headers": {"Authorization": "Basic ${input:jenkins-basic-auth}"}}, "args": {"command": "x", "args": ["--password", CANARY]},
           "dsn": {"command": "docker", "args": ["run", "img", "postgresql://u:canarypw@db.test/app"]}, "lines": {"url": "https://x.test", "headers": {"X-Token": "a\nb"}}}
    said, answer, new = give({"mcpServers": {**bad, "good": http("https://api.test/mcp", **auth), "plain": {"command": "true"}}}, exit=1)
    assert set(new["mcpServers"]) == {"good", "plain"} and [c["name"] for c in answer["credentials"]] == ["good"], new
    assert {r["server"] for r in answer["refused"]} == set(bad) and all(r["message"] for r in answer["refused"]), answer
    assert "${input:jenkins-basic-auth}" in said and said.count("not taken over: ") == len(bad), said
    for name, entry in bad.items():                            # and where there is nothing else, nothing is written
        give({"mcpServers": {name: entry}}, exit=1)
        assert not out.exists()
    # Names.
    said, _, _ = give({"mcpServers": {"good": http("https://api.test/mcp", **auth)}}, exit=1)
    assert "no server" in said and "there is a credential 'good' already" in said and "--prefix" in said and "--replace" in said, said
    _, answer, _ = give({"mcpServers": {"good": http("https://api.test/other", **auth)}}, "--prefix", "work-")
    assert answer["credentials"] == [{"name": "work-good", "server": "good", "host": "api.test"}]
    for word in ("-x", "a b", "a/b", "\x1b"):
        assert s.cli("mcp", "import", path, "--prefix", word, check=False).returncode == 2
    # --replace: the secrets of the same credential, and nothing that the operator has chosen since.
    s.cli("bundle", "add", "work")
    s.cli("credential", "set", "good", "--path", "/mcp/narrow", "--method", "POST", "headers.X-Mine=kept")
    s.cli("bundle", "attach", "work", "good")
    before = show("good")
    give({"mcpServers": {"good": http("https://api.test/", Authorization=f"Bearer {CANARY}-new")}}, "--replace", "--bundle", "default")
    assert show("good") == before and before["paths"] == ["/mcp/narrow"], show("good")
    for other in (http("https://www.test/mcp", **auth), http("https://api.test:8443/mcp", **auth), http("http://api.test:443/mcp", **auth),
                  http("https://api.test/mcp", X_Api_Key=CANARY), http("https://api.test/mcp", X_More_Token=CANARY, **auth)):
        said, _, _ = give({"mcpServers": {"good": other}}, "--replace", exit=1)
        assert "--replace leaves it" in said, said
    s.canaries.append(CANARY)
    # The same server twice is kept once; one name for two is refused, but for projects of the CLI's own file.
    said, answer, _ = give({"mcpServers": {"a b": http("https://api.test/a", **auth), "a-b": http("https://api.test/b", **auth)}}, exit=1)
    own = {"mcpServers": {"p": http("https://www.test/1", **auth)}, "projects": {
        "/x/one": {"mcpServers": {"p": http("https://www.test/2", **auth)}, "history": [CANARY]}, "/x/two": {"mcpServers": {"p": http("https://www.test/1", **auth)}}}}
    said, answer, new = give(own)
    assert [c["name"] for c in answer["credentials"]] == ["p", "one-p"] and set(new["projects"]) == {"/x/one", "/x/two"}, answer
    assert show("one-p")["paths"] == ["/2"] and show("p")["paths"] == ["/1"]
    # Two for the same requests: said, for one of them is never used.
    said, _, _ = give({"mcpServers": {"m1": http("https://git.test/mcp", **auth), "m2": http("https://git.test/mcp", X_Api_Key=CANARY)}})
    assert "'m1' and 'm2' are for the same requests" in said, said
    said, _, _ = give({"mcpServers": {"m3": http("https://git.test/mcp", X_Other_Key=CANARY), "m4": http("https://git.test/mcp/other", **auth)}})
    assert "'m1' and 'm3' are for the same requests" in said and "m4" not in said.split("are for the same requests")[1], said
    s.cli("bundle", "add", "alone")
    assert "same requests" not in give({"mcpServers": {"m5": http("https://git.test/mcp", **auth)}}, "--bundle", "alone")[0]
    # --keep: what stands there is no secret. --drop: it goes. Both by the place that the message names, or its last name.
    held = {"mcpServers": {"k": {"command": "x", "args": ["--build", "f3a9c07b1e5d48a2b6c0d9e8f7a61234"], "env": {"SORT_KEY": "created"}}}}
    said, _, _ = give(held, exit=1)
    assert "--keep k.args.2" in said, said
    _, answer, new = give(held, "--keep", "k.args.2", "--keep", "SORT_KEY")
    assert new == held and not answer["advice"], answer
    held = {"title": GITHUB, "mcpServers": {"k": {"command": "x", "note": GITHUB}}}
    said, _, _ = give(held, exit=1)
    assert "--drop title" in said and "old.json" in said, said
    said, _, _ = give(held, "--drop", "title", exit=1)
    assert "--keep k.note" in said, said
    _, _, new = give(held, "--drop", "title", "--drop", "k.note")
    assert new == {"mcpServers": {"k": {"command": "x"}}}, new
    # What a client asks a person for: from a file, once for two servers; else at the terminal, with the host.
    (s.dir / "pat").write_text(CANARY + "-pat")
    asks = {"servers": {"i1": {"url": "https://api.test/i1", "headers": {"Authorization": "Bearer ${input:pat}"}},
                        "i2": {"url": "https://www.test/i2", "headers": {"X-Api-Key": "${input:pat}"}}, "i3": {"command": "x", "env": {"A_KEY": "${input:pat}"}}}}
    said, _, _ = give(asks, "--input", f"pat=@{s.dir}/pat", "--take", "pat=api.test", exit=1)
    assert "i2" in said and "--take pat=www.test" in said, said
    assert show("i3-a_key")["hosts"] == ["api.test"]
    s.cli("credential", "remove", "i1")
    s.cli("credential", "remove", "i3-a_key")
    _, answer, new = give(asks, "--input", f"pat=@{s.dir}/pat", "--take", "pat=api.test", "--take", "pat=www.test")
    assert new["servers"]["i3"]["env"] == {"A_KEY": "${env:A_KEY}"}, new
    assert [c["name"] for c in answer["credentials"]] == ["i1", "i2"] and "name the host" in answer["advice"][0], answer    # which of two is not guessed
    for wrong in ("pat", "=x", "pat=literal-canary"):
        r = s.cli("mcp", "import", path, "--input", wrong, "--take", "pat=api.test", "--prefix", "z-", check=False)
        assert r.returncode in (1, 2) and "canary" not in r.stderr, r.stderr
    path.write_text(json.dumps({"servers": {"typed": asks["servers"]["i1"]}}))
    code, screen = at_terminal(s, ["mcp", "import", str(path), "--out", str(out)], CANARY + "-typed")
    assert code == 0 and "for https://api.test" in screen and "canary" not in screen and show("typed")["secrets"] == ["token"], (code, screen)
    # A preset is used for a variable's value where --take names one of its hosts, and named in the advice where nobody does.
    program = {"servers": {"gh": {"command": "docker", "args": ["run", "-e", "GITHUB_PERSONAL_ACCESS_TOKEN", "img"], "env": {"GITHUB_PERSONAL_ACCESS_TOKEN": "${input:gh}"}},
                           "s3": {"command": "x", "env": {"AWS_ACCESS_KEY_ID": "AKIACANARYCANARY1234", "AWS_SECRET_ACCESS_KEY": "canary/secret"}}}}
    _, answer, new = give(program)
    assert not answer["credentials"] and new["servers"]["gh"]["env"] == {"GITHUB_PERSONAL_ACCESS_TOKEN": "${env:GITHUB_PERSONAL_ACCESS_TOKEN}"}, new
    said = "\n".join(answer["advice"])
    assert "--preset github --env GITHUB_PERSONAL_ACCESS_TOKEN" in said and "--take gh=HOST" in said and "s3-aws_secret_access_key --preset aws\n" in said + "\n", said
    give(program, "--input", f"gh=@{s.dir}/pat", "--take", "gh=uploads.github.com")
    made = show("gh-github_personal_access_token")
    assert made["preset"] == "github" and made["env"] == ["GITHUB_PERSONAL_ACCESS_TOKEN"] and made["type"] == "bearer", made
    give(program, "--input", f"gh=@{s.dir}/pat", "--take", "gh=ghe.api.test", "--prefix", "ghe-")
    assert show("ghe-gh-github_personal_access_token")["hosts"] == ["ghe.api.test"]
    # What would keep us busy for long, or fill the store, ends its server or the file.
    for server in ({"command": "x" * 20000}, {"command": "x", "args": ["a"] * 2000}, {"url": "https://api.test/" + "${A}" * 2000}, {"url": "https://api.test/mcp", "headers": {"X-Key": "$AB" * 5000}},
                   {"url": "https://api.test/?" + "&".join(f"k{i}={CANARY}" for i in range(40))}, {"command": "x", "env": {"A_KEY": "${" * 30000}}):
        said, answer, _ = give({"mcpServers": {"big": server}}, exit=1)
        assert "more than" in said, said
    give({"note": ["a"] * 60000, "mcpServers": {"a": {"command": "x"}}}, exit=1)
    give({"note": ["a"] * 300000, "mcpServers": {"a": {"command": "x"}}}, exit=1)
    give('{"mcpServers": {"a": {"command": "x"}}' + "/**/" * 200000 + " " * 1000000 + "// end\n}")
    # Fields that a client sends anyway do not refuse its server.
    _, _, new = give({"mcpServers": {"h1": http("https://api.test/h", Accept="text/event-stream", Connection="keep-alive", Content_Type="application/json", X_Count=5, X_None=None, **auth)}})
    assert set(new["mcpServers"]["h1"]["headers"]) == {"Accept", "Connection", "Content-Type", "X-Count", "X-None"}, new
    # Files of variables are named and not read; a container is told what it lacks.
    (s.dir / "vars").write_text(f"X_TOKEN={CANARY}\n")
    said, answer, _ = give({"mcpServers": {"v1": {"command": "docker", "args": ["run", "--env-file", str(s.dir / "vars"), "img"]}, "v2": {"command": "docker", "args": ["run", f"--env-file={s.dir}/vars", "img"]},
                                           "v3": {"command": "x", "envFile": "${workspaceFolder}/.env"}}})
    assert said.count("is not read here") == 3 and not answer["credentials"], said
    # What is no such file.
    os.mkfifo(s.dir / "pipe")
    (s.dir / "link").symlink_to(s.dir / "pipe")
    for name in ("pipe", "link"):
        r = s.cli("mcp", "import", s.dir / name, check=False, timeout=10)
        assert r.returncode == 1 and "no plain file" in r.stderr, r.stderr
    for text, want in (("claude mcp add --transport http x https://x.test -H 'Authorization: Bearer x'\n", "command line"), ("[mcp_servers.x]\ncommand = 'x'\n", "TOML"), ("mcpServers:\n  - name: x\n", "YAML"), ("{}", "no MCP servers"), ("[1]", "no MCP servers"), ("", "JSON"),
                       ('{"mcpServers": {"a": {}', "line 1"), ('{"mcpServers": {}, "mcpServers": {}}', "twice"), ("{\"mcpServers\": {\"a\": {\"command\": \"x\"}}}\x00", "JSON")):
        said, _, _ = give(text, exit=1)
        assert want in said, (text, said)
    said, answer, _ = give({"mcpServers": {}})
    assert answer["credentials"] == [] and answer["refused"] == [], answer
