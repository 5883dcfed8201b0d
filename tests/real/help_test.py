"""The manual: README.md and the topics of `sallyport help`. Whatever command they show works as it stands.

A topic's fenced blocks are `sh`, which run here from the first line to the last, and `console`, whose commands want a
network, a browser or a person: there every `sallyport …` line is read by the command itself, which knows its words and
options, and does nothing for the --help behind them. So are the README's commands, all of them."""
import json
import os
import re
import subprocess

import sallyport

TOPICS = sorted(p.stem for p in (sallyport.ROOT / "lua/help").glob("*.md"))
FILES = ("token.txt", "key.txt", "secret.txt", "another.txt", "refresh.txt")


def fences(text, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)


def commands(block):
    """The command lines of a block that call the program, continued lines joined."""
    for line in re.sub(r" *\\\n *", " ", block).splitlines():
        line = re.sub(r"(^|\s)#\s.*", "", line).strip()
        for part in re.split(r" && | \|\| |\||; ", line):
            found = re.search(r"(?:^|\$\(|^runuser .* )sallyport ([^)<>]*)", part.strip())
            if found:
                yield found[1].rstrip('"').strip()


def read_by_the_command(s, block, where):
    n = 0
    for line in commands(block):
        words = line
        if re.search(r"\b[A-Z]{4,}\b", words.split(" --")[0]) and "--help" in words:
            words = "--help"                                   # `sallyport COMMAND --help`
        if " -- " in words:
            words = words.replace(" -- ", " --help -- ", 1)     # what stands behind is another program's
        r = subprocess.run(["bash", "-c", f"set -f; sallyport {words} --help" if "--help" not in words and not words.startswith("help") else f"sallyport {words}"],
                           env=s.shell, capture_output=True, text=True, timeout=30 * sallyport.SLOW)
        assert r.returncode == 0, f"{where}: sallyport {words}: exit {r.returncode}: {r.stderr}"
        n += 1
    return n


def machine(t):
    """A data directory after the README's first steps, the files that the examples name, and a shell's environment."""
    s = t.bare()
    s.init()
    (s.dir / "bin").mkdir()
    (s.dir / "bin/sallyport").symlink_to(os.path.realpath(s.binary))
    s.shell = {**s.env, "PATH": f"{s.dir}/bin:{os.environ['PATH']}", "DOCS_TOKEN": "canary-docs"}
    for name in FILES:
        (s.dir / name).write_text("canary-docs\n")
    t.need("openssl")
    for name, args in (("me.key", ["ecparam", "-genkey", "-name", "prime256v1", "-noout"]), ("app.pem", ["genrsa", "2048"])):
        (s.dir / name).write_text(subprocess.run(["openssl", *args], capture_output=True, text=True, check=True).stdout)
    (s.dir / "service-account.json").write_text(json.dumps({
        "type": "service_account", "project_id": "p", "private_key_id": "k", "private_key": (s.dir / "app.pem").read_text(),
        "client_email": "a@p.iam.gserviceaccount.com", "client_id": "1", "token_uri": "https://oauth2.googleapis.com/token"}))
    s.cli("credential", "add", "gh", "--preset", "github", "token=-", stdin="canary-docs")
    s.agent("claude")
    return s


def test_topics(t):
    """`sallyport help` names every topic, `help TOPIC` prints its Markdown into a pipe; no topic is called like a command"""
    s = t.bare()
    shown = s.cli("help").stdout
    first = re.findall(r"^  ([a-z][a-z0-9]*)  ", shown, re.M)
    assert len(TOPICS) >= 5 and set(TOPICS) <= set(first), (TOPICS, first)
    for name in TOPICS:
        text = (sallyport.ROOT / f"lua/help/{name}.md").read_text()
        assert s.cli("help", name).stdout == text, name
        assert first.count(name) == 1, f"{name} is a command too: nobody could see its help"
        assert text.startswith("# ") and text.count("```") % 2 == 0 and not re.search(r"^```(?!sh$|console$|$)", text, re.M), name
        assert max(map(len, text.splitlines())) <= 140 or "|" in text, name
    r = s.cli("help", TOPICS[0][:-1] + "x", check=False)
    assert r.returncode == 2 and f"sallyport help {TOPICS[0]}" in r.stderr, r.stderr


def test_topics_on_a_terminal(t):
    """on a terminal a topic is text of its width: headings without #, tables in columns, nothing of the Markdown"""
    s = t.bare()
    for name in TOPICS:
        for columns in (50, 80, 200):
            code, seen = s.terminal("help", name, env={"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"})
            assert code == 0 and "\x1b" not in seen and "```" not in seen and "\n#" not in seen and "|---" not in seen, (name, seen[:300])
            for line in seen.splitlines():
                assert len(line) <= columns or line.startswith("    ") or " " not in line.strip(), (name, columns, line)
        whole = re.sub(r"[`*|#>-]+|sh$|console$", " ", (sallyport.ROOT / f"lua/help/{name}.md").read_text(), flags=re.M)
        missing = [w for w in set(re.findall(r"\w{5,}", whole)) if w not in seen]
        assert not missing, (name, missing)
    code, seen = s.terminal("help", TOPICS[0], env={"COLUMNS": "80", "TERM": "xterm", "NO_COLOR": ""})
    assert "\x1b[1m" in seen, seen[:200]


def test_commands_of_topics(t):
    """every command of a topic's `sh` blocks works, those of its `console` blocks are commands with such options"""
    ran = 0
    for name in TOPICS:
        text = (sallyport.ROOT / f"lua/help/{name}.md").read_text()
        s = machine(t)
        script = "\n".join(fences(text, "sh"))
        r = subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=s.shell, cwd=s.dir, capture_output=True, text=True,
                           stdin=subprocess.DEVNULL, timeout=120 * sallyport.SLOW)
        assert r.returncode == 0, f"help {name}: exit {r.returncode}: {r.stderr[-800:]}"
        ran += len(list(commands(script)))
        for block in fences(text, "console"):
            ran += read_by_the_command(s, block, f"help {name}")
    assert ran >= 30, ran


def test_commands_of_readme(t):
    """every command that the README shows is one, with such options"""
    s = machine(t)
    text = (sallyport.ROOT / "README.md").read_text()
    blocks = re.findall(r"(?<=\n\n)((?:    .*\n|\n(?=    ))+)", text)
    assert sum(read_by_the_command(s, b, "README") for b in blocks) >= 25
    for name in re.findall(r"sallyport help ([a-z0-9]+)", text):
        assert name in TOPICS, name
    assert len(text.splitlines()) < 300


def test_errors(t):
    """`help errors` has every code that the proxy, its API and the control socket answer, by its status, and none that there is not; `set --help` has every setting"""
    s = t.bare()
    s.init()
    told = {}
    for statuses, codes in re.findall(r"^\| ([\d, ]+) \| ([\w, ]+) \|", s.cli("help", "errors").stdout, re.M):
        for code in codes.split(", "):
            told.setdefault(code, set()).update(statuses.split(", "))
    script = s.dir / "codes.lua"
    script.write_text('for code, row in pairs(require("errors").codes) do print(row[1], code) end')
    known = {tuple(line.split("\t")) for line in s.cli("lua", script).stdout.splitlines()}
    source = {p: p.read_text() for p in (sallyport.ROOT / "lua").rglob("*.lua")}
    core = (sallyport.ROOT / "proxy.c").read_text()
    for text in source.values():
        known |= set(re.findall(r'\b(?:fault|fail)\((\d{3}), "([a-z_]+)"', text))
    known |= set(re.findall(r'conn_fail\(c, (\d{3}), "([a-z_]+)"', core)) | set(re.findall(r'= ?\{(\d{3}), "([a-z_]+)"', core))
    assert len(known) > 50, known
    lacks = sorted(f"{status} {code}" for status, code in known if status not in told.get(code, ()))
    assert not lacks, lacks
    # how a token ends: the log's code is agent_ and that
    for how in set(re.findall(r'return nil, "([a-z]+)"', source[sallyport.ROOT / "lua/config.lua"].split("function M:agent(")[1].split("\nfunction ")[0])) - {"unknown"}:
        assert "407" in told.get("agent_" + how, ()), how
    everything = core + "".join(source.values())
    # agent_ and how it ended is put together
    assert not [code for code in told if f'"{code}"' not in everything and f"{code} " not in everything and not code.startswith("agent_")], told
    settings = json.loads(s.cli("set", "--json").stdout)
    shown = s.cli("set", "--help").stdout
    assert len(settings) > 20 and not [name for name in settings if not re.search(rf"^ +{name}\b", shown, re.M)], shown
