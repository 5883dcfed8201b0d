"""What a terminal gets and a pipe does not: tables of its width, colours, and no control character of somebody else's text.
The terminals are pseudo-terminals of 40, 80 and 200 columns; the shells whose TAB key is pressed are the real ones."""
import json
import os
import re
import subprocess
import time

import sallyport

WIDTHS = (40, 80, 200)
COLOUR = {"TERM": "xterm", "NO_COLOR": "", "COLUMNS": ""}
SGR = re.compile(r"\x1b\[\d*m")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def machine(t):
    s = t.bare()
    s.init()

    def add(name, *args):
        s.cli("credential", "add", name, *args, "token=-", stdin="canary-terminal")
    add("gh", "--preset", "github")
    add("a-rather-long-name-for-a-credential", "--type", "bearer", "--host", "one.example.com,two.example.com,three.example.com",
        "--path", "/v1/projects/acme")
    for name in ("research", "another-bundle", "a-third-bundle"):
        s.cli("bundle", "add", name)
    s.cli("credential", "set", "gh", "--bundle", "default,research,another-bundle,a-third-bundle")
    s.cli("credential", "disable", "gh")
    s.cli("credential", "add", "drive", "--preset", "google-oauth", "client_id=1.apps.googleusercontent.com", "client_secret=-",
          "scopes=https://www.googleapis.com/auth/drive.readonly", stdin="canary-terminal-2")
    s.canaries += ["canary-terminal", "canary-terminal-2"]
    s.agent("claude")
    s.cli("agent", "add", "gone")
    s.cli("agent", "revoke", "gone")
    s.cli("domain", "add", "default", "docs.example.org", "--path", "/guide")
    return s


LISTINGS = ("credential list", "credential show gh", "credential show drive", "credential presets", "credential presets github",
            "agent list", "bundle list", "bundle show default", "policy list", "policy history match", "set", "doctor", "status", "log --summary",
            "explain --agent claude GET https://api.github.com/user", "explain GET https://docs.example.org/other")


def test_tables_have_the_width(t):
    """each listing fits a terminal of 40, 80 or 200 columns: no line is longer but for one long word, and nothing is lost"""
    s = machine(t)
    for command in LISTINGS:
        args = command.split()
        piped = s.cli(*args, check=False)
        assert "\x1b" not in piped.stdout + piped.stderr, command
        for columns in WIDTHS:
            code, seen = s.terminal("-c", 'exec "$0" "$@" 2>/dev/null', s.binary, *args, columns=columns, env=COLOUR, program="sh")
            assert code == piped.returncode, (command, code)
            seen = SGR.sub("", seen).replace("\r", "")
            for line in seen.splitlines():
                assert len(line) <= columns or len(line.split()[-1]) > columns - 24, (command, columns, line)
            # Whatever is said in a pipe is said here, piece by piece; the time goes on between the two, and so does /proc.
            pieces = set(re.findall(r"[^\s,]+", seen))
            lost = [w for w in re.findall(r"[^\s,]+", piped.stdout) if w not in pieces and not re.search(r"\d\d:\d\d|MiB|\(\d+\)|GiB|[\d.]+", w)]
            assert not lost or (columns < 200 and lost[0].isupper() and len(set(lost)) == 1), (command, columns, lost)
            if columns == 200 and not command.startswith(("doctor", "status", "credential presets")):
                assert piped.stdout in seen, (command, piped.stdout, seen)
    said = s.terminal("agent", "list", columns=80, env={**COLOUR, "COLUMNS": "40"})[1]
    assert said == s.terminal("agent", "list", columns=40, env=COLOUR)[1] != s.terminal("agent", "list", columns=80, env=COLOUR)[1], said


def test_help_has_the_width(t):
    """help is as wide as a narrow terminal, and on a wide one no wider than is easy to read"""
    s = t.bare()
    for args in (["--help"], ["help"], ["credential", "--help"], ["credential", "add", "--help"], ["serve", "--help"],
                 ["credential", "add", "--type", "hmac", "--help"], ["explain", "--help"]):
        for columns, most in ((40, 40), (80, 80), (200, 100)):
            code, seen = s.terminal(*args, columns=columns, env=COLOUR)
            assert code == 0, args
            for line in SGR.sub("", seen).splitlines():
                # An example is one line that can be pasted; a table of prose in a help text stays as it is.
                assert len(line) <= most or len(line.split()) == 1 or line.startswith("  "), (args, columns, line)


def test_a_pipe_gets_the_same_bytes(t):
    """no variable of a terminal changes a byte of what a pipe or a file gets"""
    s = machine(t)
    listed = (
        "NAME                                 TYPE                      HOSTS                               BUNDLES                             STATE\n"
        "a-rather-long-name-for-a-credential  bearer                    one.example.com,two.example.com +1  default                             enabled\n"
        "drive                                oauth_authorization_code  www.googleapis.com +8               default                             "
        "enabled, not connected\n"
        "gh                                   bearer                    api.github.com +1                   default,research,another-bundle +1  disabled\n")
    got = s.cli("credential", "list", env={**COLOUR, "COLUMNS": "40", "CLICOLOR_FORCE": "1"}).stdout
    assert got == listed, got
    for command in (*LISTINGS[:-3], "help types", "--help", "env --agent nobody"):
        if command in ("doctor", "status"):
            continue                                    # what they say changes by itself
        plain, dressed = (s.cli(*command.split(), check=False, env=env) for env in ({}, {**COLOUR, "COLUMNS": "40"}))
        assert plain.stdout == dressed.stdout and plain.stderr == dressed.stderr, command


def test_colours(t):
    """colours where the terminal has them, none with NO_COLOR, TERM=dumb or without TERM; each stream by itself"""
    s = machine(t)
    for command, mark in (("credential list", "\x1b[32menabled, not"), ("doctor", "\x1b[32mok"), ("agent list", "\x1b[2mrevoked"),
                          ("explain GET https://x.test/", "\x1b[31mDENY"), ("policy test match", "\x1b[32mok"), ("set", "\x1b[1mSETTING")):
        mark = "\x1b[33menabled, not" if command == "credential list" else mark
        assert mark in s.terminal(*command.split(), columns=120, env=COLOUR)[1], command
        for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}):
            assert "\x1b" not in s.terminal(*command.split(), columns=120, env={**COLOUR, **env})[1], (command, env)
        assert "\x1b" not in s.terminal(*command.split(), "--json", columns=120, env=COLOUR)[1], command
    assert "\x1b[31msallyport:\x1b[0m there is no agent" in s.terminal("agent", "rotate", "nobody", env=COLOUR)[1]
    out = s.dir / "out"
    seen = s.terminal("-c", f"{s.binary} agent rotate nobody; {s.binary} credential list > {out}", env=COLOUR, program="sh")[1]
    assert "\x1b[31m" in seen and "\x1b" not in out.read_text()


HOSTILE = "\x1b[2J\x1b]0;gotcha\x07\x9b31mred\x7f\x08\x0b\r\n"


def test_no_control_character(t):
    """whatever an agent, a server, a file or a certificate says, a terminal sees no control character of it"""
    s = machine(t)
    t.need("openssl")
    policy = s.dir / "odd.lua"
    policy.write_text(s.cli("policy", "show", "bearer").stdout.replace('"bearer"', '"odd"', 1) + "-- " + HOSTILE.replace("\r\n", "") + "\n")
    s.cli("policy", "put", policy, "--note", "put")
    key, cert = s.dir / "odd.key", s.dir / "odd.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert,
                    "-utf8", "-subj", "/CN=" + HOSTILE.replace("\r\n", "").replace("/", "")], check=True, capture_output=True)
    s.cli("credential", "set", "a-rather-long-name-for-a-credential", f"ca=@{cert}")
    log = s.home / "log/requests.jsonl"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    record = {"v": 1, "time": int(time.time() * 1000), "decision": "deny", "agent": HOSTILE, "host": HOSTILE, "path": "/" + HOSTILE, "method": "GET",
              "reason": HOSTILE, "error": "x" + HOSTILE, "port": 443, "status": 403, "stripped": HOSTILE, "credential": HOSTILE, "request": HOSTILE}
    log.write_text(json.dumps(record) + "\n" + json.dumps(record, ensure_ascii=False) + "\n")
    log.chmod(0o600)
    odd = s.dir / "mcp.json"
    odd.write_text(json.dumps({"mcpServers": {HOSTILE: {"command": "npx", "args": [HOSTILE]}}}))
    seen_once = 0
    for args in (["policy", "show", "odd"], ["policy", "list"], ["policy", "history", "odd"], ["credential", "show", "a-rather-long-name-for-a-credential"],
                 ["credential", "show", HOSTILE], ["log"], ["log", "--json"], ["log", "--summary"], ["status"], ["doctor"],
                 ["explain", "GET", "https://x.test/" + HOSTILE], ["credential", "add", HOSTILE], ["agent", "add", HOSTILE], [HOSTILE],
                 ["mcp", "import", odd], ["credential", "list", "--" + HOSTILE], ["set", HOSTILE], ["policy", "put", s.dir / HOSTILE.replace("/", "")]):
        for env in (COLOUR, {"NO_COLOR": "1"}):
            code, seen = s.terminal(*args, columns=80, env=env)
            left = SGR.sub("", seen) if env is COLOUR else seen
            bad = CONTROL.search(left.replace("\r\n", "\n"))
            assert not bad, (args, bad, left[:400])
            assert "\x1b[31mred" not in seen and "\x1b[2J" not in seen
            seen_once += "gotcha" in seen
    assert seen_once > 8, "what is hostile was shown, cleaned"
    assert HOSTILE[:4] in s.cli("policy", "show", "odd").stdout, "a pipe gets the file as it is"
