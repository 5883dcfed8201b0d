"""What a terminal gets and a pipe does not: tables of its width, colours, and no control character of somebody else's text.
The terminals are pseudo-terminals of 40, 80 and 200 columns; the shells whose TAB key is pressed are the real ones."""
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
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
            told = re.sub(r"(?m)^.*agents' user.*$", "", piped.stdout)       # other tests' processes come and go
            lost = [w for w in re.findall(r"[^\s,]+", told) if w not in pieces and not re.search(r"\d\d:\d\d|MiB|\(\d+\)|GiB|[\d.]+", w)]
            assert not lost or (columns < 200 and lost[0].isupper() and len(set(lost)) == 1), (command, columns, lost)
            if columns == 200 and not command.startswith(("doctor", "status", "credential presets")):
                assert piped.stdout in seen, (command, piped.stdout, seen)
    said = SGR.sub("", s.terminal("credential", "presets", columns=40, env=COLOUR)[1]).splitlines()
    at = next(i for i, line in enumerate(said) if line.startswith("sallyport credential presets"))
    assert max(len(line) for line in said[at:at + 2]) <= 40 and "is made." in said[at + 1], said[at:at + 2]
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


class Shell:
    """An interactive shell in a pseudo-terminal, of which the TAB key is pressed."""

    def __init__(self, argv, env, cwd):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.process = subprocess.Popen(argv, env=env, cwd=cwd, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.n = 0

    def until(self, text, seconds=20):
        seen, end = "", time.monotonic() + seconds * sallyport.SLOW
        while text not in seen:
            assert time.monotonic() < end, f"{text!r} did not come; {seen[-1500:]!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                seen += os.read(self.master, 65536).decode(errors="replace")
        return seen

    def run(self, line):
        """The line as it is typed, TABs and all: what stood on the screen until the command after it had ended."""
        self.n += 1
        os.write(self.master, f"{line}\n".encode())
        os.write(self.master, f"echo end''-{self.n}\n".encode())
        return self.until(f"end-{self.n}\r\n").replace("\r", "")

    def close(self):
        os.close(self.master)
        self.process.kill()
        self.process.wait()


ASK = r"""
local how = ...
local opts = how == "error" and setmetatable({}, { __index = function() error("broken", 0) end }) or nil
print(select(2, require("host").tty_secret("Key: ", opts)))
"""


def test_two_secrets(t):
    """the command that a page prints for two secrets, each FIELD=-, asks a terminal for both, one after the other; standard input has room for one"""
    s = t.bare()
    s.init()
    s.canaries += ["canary-terminal-target", "canary-terminal-key"]
    words = ["webhook", "set", "https://hooks.test", "target=-", "secret=-"]
    shell = Shell(["sh", "-c", '"$0" "$@"; echo "$?, ended"; read x', s.binary, *words], s.env, s.dir)
    for text in ("/canary-terminal-target", "canary-terminal-key-0123456789"):
        assert "canary" not in shell.until("(not shown): ")
        os.write(shell.master, f"{text}\n".encode())
    seen = shell.until("ended")
    shell.close()
    assert "0, ended" in seen and "canary" not in seen, seen
    r = s.cli(*words, stdin="x" * 40, check=False)
    assert r.returncode == 2 and "one field only" in r.stderr, r.stderr


def test_a_secret_is_typed(t):
    """it is not shown; and whatever ends the question, the terminal shows again what is typed, and stops again"""
    s = t.bare()
    (s.dir / "ask.lua").write_text(ASK)
    for how, typed, end in (("answer", "canary-typed-1\n", "false\n0, ended"), ("end", "\x04", "cancelled\n0, ended"), ("error", "canary-typed-2\n", "1, ended"),
                            ("SIGINT", "\x03", "130, ended"), ("SIGQUIT", "\x1c", "131, ended")):
        # the shell outlives the command: at a session's end the kernel itself resets the terminal
        shell = Shell(["sh", "-c", 'read x; trap : INT QUIT; "$0" lua "$1" "$2"; echo "$?, ended"; read x', s.binary, s.dir / "ask.lua", how], s.env, s.dir)
        before = termios.tcgetattr(shell.master)
        os.write(shell.master, b"\n")
        shell.until("Key: ")
        assert not termios.tcgetattr(shell.master)[3] & termios.ECHO
        os.write(shell.master, typed.encode())
        seen = shell.until("ended")
        assert end in seen.replace("\r", "") and "canary" not in seen, (how, seen)
        assert before[3] & termios.ECHO and termios.tcgetattr(shell.master) == before, how
        shell.close()


# What is typed, and what the command says that it becomes.
TYPED = (
    ("sallyport cred\tsho\tg\t", "api.github.com"),
    ("sallyport agent se\tcla\t--req\t9", "9 requests at once"),
    ("sallyport explain --ag\tcla\tGET https://x.test/", "agent  claude"),
    ("sallyport bundle show rese\t", "bundle       research"),
    ("sallyport policy hist\toauth_jw\t", "built in"),
    ("sallyport credential presets teleg\t", "Telegram: a bot"),
    ("sallyport set answer\t", "15m"),
    ("sallyport bundle att\trese\tdri\tgh", "drive, gh are in 'research'"),
    ("sallyport env --agent cla\t--for\tfi\t", "set -gx HTTPS_PROXY"),
    ("sallyport log --agent cla\t--summ\t", "0 requests"),
    ("sallyport help clie\t", "Clients: what reads the proxy"),
    ("sallyport --home ../other/home credential show onl\t", "only.example.com"),
    ("sallyport policy test fil\t", "fileofmine"),
    ("sallyport policy help secr\t", "its text never reaches a policy"),
)


def shells(t):
    """A home with a second one beside it, and the environment of a shell in which `sallyport` is on the path."""
    s, other = machine(t), t.bare()
    other.init()
    other.cli("credential", "add", "only-here", "--type", "bearer", "--host", "only.example.com", "token=-", stdin="canary-terminal-3")
    (s.dir / "other").symlink_to(other.dir)
    (s.dir / "bin").mkdir()
    (s.dir / "bin/sallyport").symlink_to(os.path.realpath(s.binary))
    (s.dir / "work").mkdir()
    (s.dir / "work/fileofmine.lua").write_text("return 1")
    s.shell = {**s.env, "PATH": f"{s.dir}/bin:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(s.dir), "NO_COLOR": "1"}
    return s


def press(s, shell, typed):
    for line, wanted in typed:
        seen = shell.run(line)
        assert wanted in seen, (line, seen)
    # Where there is no store, or none that opens, TAB offers nothing, says nothing and asks nothing.
    for home in ("/nowhere", "../closed"):
        seen = shell.run(f"echo sallyport; : sallyport; sallyport --home {home} credential show g\t --help")
        assert "usage: sallyport credential show" in seen and "absent" not in seen and "cannot" not in seen, seen
    seen = shell.run("sallyport --home '$(touch pwned)' credential show g\t --help")
    assert "usage: sallyport credential show" in seen and not (s.dir / "work/pwned").exists(), seen
    # By another name, which an alias gives it.
    shell.run(f"export PATH={os.environ['PATH']}; alias sallyport={os.path.realpath(s.binary)}")
    seen = shell.run("sallyport credential show g\t")
    assert "api.github.com" in seen, seen


def test_tab_in_bash(t):
    """bash: TAB completes commands, options, files and the store's names, by whatever the program is called"""
    t.need("bash")
    s = shells(t)
    (s.dir / "closed").mkdir(0o700)
    (s.dir / "inputrc").write_text("set enable-bracketed-paste off\nset bell-style none\n")
    shell = Shell(["bash", "--noprofile", "--norc", "-i"], {**s.shell, "INPUTRC": f"{s.dir}/inputrc", "PS1": "$ "}, s.dir / "work")
    try:
        shell.run("eval \"$(sallyport completion bash)\"")
        press(s, shell, TYPED + (("sallyport env --agent=cla\t--format=fi\t", "set -gx HTTPS_PROXY"),))
    finally:
        shell.close()


def test_tab_in_zsh(t):
    """zsh: the same, from a folder of $fpath and from eval"""
    t.need("zsh")
    s = shells(t)
    (s.dir / "closed").mkdir(0o700)
    (s.dir / "fpath").mkdir()
    (s.dir / "fpath/_sallyport").write_text(s.cli("completion", "zsh").stdout)
    (s.dir / ".zshrc").write_text(f"fpath=({s.dir}/fpath $fpath)\nPS1='$ '\nunsetopt zle_bracketed_paste\nautoload -U compinit && compinit -u -D\nunset zle_bracketed_paste\n")
    shell = Shell(["zsh", "-i"], {**s.shell, "ZDOTDIR": str(s.dir)}, s.dir / "work")
    try:
        press(s, shell, TYPED + (("sallyport env --agent=cla\t--format=fi\t", "set -gx HTTPS_PROXY"),))
    finally:
        shell.close()
    (s.dir / ".zshrc").write_text("PS1='$ '\nautoload -U compinit && compinit -u -D\nunset zle_bracketed_paste\neval \"$(sallyport completion zsh)\"\n")
    shell = Shell(["zsh", "-i"], {**s.shell, "ZDOTDIR": str(s.dir)}, s.dir / "work")
    try:
        press(s, shell, TYPED[:3])
    finally:
        shell.close()


def test_tab_in_fish(t):
    """fish: the same, asked of fish itself"""
    t.need("fish")
    s = shells(t)
    script = s.dir / "sallyport.fish"
    script.write_text(s.cli("completion", "fish").stdout)

    def offered(line, **env):
        code = f"source {script}; complete -C (printf %s $argv[1] | string collect)"
        r = subprocess.run(["fish", "--no-config", "-c", code, line], env={**s.shell, **env}, cwd=s.dir / "work", capture_output=True, text=True, timeout=60)
        assert r.returncode == 0 and not r.stderr, (line, r.stderr)
        return {row.split("\t")[0] for row in r.stdout.splitlines()}

    assert offered("sallyport cred") == {"credential"} and {"show", "remove"} <= offered("sallyport credential ")
    assert offered("sallyport credential show ") == {"a-rather-long-name-for-a-credential", "drive", "gh"}
    assert offered("sallyport credential add ") == set(), "a new name is nobody's"
    assert offered("sallyport bundle attach rese") == {"research"} and offered("sallyport bundle attach research dri") == {"drive"}
    assert "gh" in offered("sallyport bundle attach research drive ") and offered("sallyport agent set claude ") == set()
    for line in ("sallyport explain --agent ", "sallyport env --agent "):
        assert offered(line) == {"claude"}, (line, offered(line))
    assert offered("sallyport env --format fi") == {"fish"} and offered("sallyport log --sum") == {"--summary"}
    assert offered("sallyport credential presets teleg") == {"telegram"} and offered("sallyport set answer") == {"answer-timeout"}
    assert offered("sallyport policy history oauth_j") == {"oauth_jwt_bearer"} and "oauth_jwt_bearer" in offered("sallyport credential add x --type ")
    assert "fileofmine.lua" in offered("sallyport policy test fil") and "fileofmine.lua" in offered("sallyport policy put ")
    assert offered("sallyport --home ../other/home credential show o") == {"only-here"}
    for home in ("/nowhere", "../closed"):
        assert offered(f"sallyport --home {home} credential show ") == set()


def test_names_for_completion(t):
    """what TAB asks for: names and no more, from a store that is written to as well; silence where there is none"""
    s = machine(t)
    s.cli("tenant", "add", "acme")
    s.cli("user", "add", "ada", "--tenant", "acme=member")
    s.cli("role", "add", "editor", "--scope", "tools:read")
    s.cli("gateway", "add", "tools", "https://tools.test/mcp")
    s.cli("key", "add", "ci", "--tenant", "acme", "--role", "viewer")
    client = s.cli("client", "add", "Typed", "--redirect", "https://client.test/cb").stdout.split()[0]
    for kind, wanted in (("tenant", "acme"), ("user", "ada"), ("role", "editor"), ("gateway", "tools"), ("key", "ci"), ("client", client), ("credential", "gh"), ("agent", "claude"), ("bundle", "research"), ("policy", "match"), ("type", "bearer"),
                         ("preset", "github"), ("setting", "answer-timeout")):
        r = s.cli("completion", "--names", kind)
        assert wanted in r.stdout.split() and not r.stderr and re.fullmatch(r"([\w.-]+\n)+", r.stdout), (kind, r.stdout, r.stderr)
        assert "gone" not in r.stdout, "a revoked agent is offered no more"
    (s.home / "key").rename(s.home / "key.away")
    for kind in ("credential", "agent", "bundle", "nonsense", "../key"):
        r = s.cli("completion", "--names", kind)
        assert r.returncode == 0 and r.stdout == "" and r.stderr == "", (kind, r)
    assert "github" in s.cli("completion", "--names", "preset").stdout
    r = s.cli("--home", s.dir / "none", "completion", "--names", "credential")
    assert r.stdout + r.stderr == "" and not (s.dir / "none").exists()
    (s.home / "key.away").rename(s.home / "key")
    assert "--names" not in s.cli("completion", "--help").stdout


def test_every_name_is_completed(t):
    """wherever a command's usage names a thing of the store first, TAB knows which: a new command is no exception"""
    s = t.bare()
    script, seen = s.cli("completion", "bash").stdout, 0
    kinds = ("NAME", "BUNDLE", "CREDENTIAL", "AGENT", "API", "USER", "GATEWAY", "CLIENT", "CONNECTION")
    asked = re.search(r"^    (agent\|[a-z|]+)\)$", script, re.M)[1].split("|")
    for first in re.findall(r"^  ([a-z]+)  ", s.cli("--help").stdout.split("A first credential")[0], re.M):
        usage = s.cli(first, "--help").stdout.replace("usage: ", "  ", 1)
        for words, arg in re.findall(rf"^  sallyport ({first}(?: [a-z-]+)?) \[?([A-Z]+)\b", usage, re.M):
            if arg in kinds and words.split()[-1] not in ("add", "new"):
                key = words if " " in words else words + " "
                kind = re.search(rf"^ +'{key}:'[0*]\) kind='(\w+)(\+file)?'", script, re.M)
                assert kind and kind[1] in asked, (words, arg, kind)
                seen += 1
    assert seen >= 25, seen
