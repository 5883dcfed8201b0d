"""policy check, compared with luacheck; policy api, read by Lua and by emmylua_check."""
import json
import os
import re
import shutil
import subprocess

import sallyport

TYPE = """return {
  kind = "type", api = 1, name = "%s", title = "T",
  fields = { { name = "key", secret = true }, { name = "hours", type = "integer", min = 1, max = 24, default = 8 }, { name = "way", type = "enum", values = { "up", "down" }, default = "up" } },
  apply = function(req, cred)
%s
    req.headers:set("x-key", cred.key)
  end,
  examples = { { cred = { key = "k" }, want = { headers = { ["x-key"] = "k" } } } },
}
"""

# line (within apply, from 1) and column, code, a word of the sentence
WRONG = [
    ("    local a = 1", [(1, 11, "unused", "'a'")]),
    ("    local a\n    a = 2", [(1, 11, "unused", "set and never read")]),
    ("    local a = 1\n    local a = 2\n    log(a)", [(1, 11, "unused", "another takes its name")]),
    ("    prnt(1)", [(1, 5, "global", "no global")]),
    ("    print(1)", [(1, 5, "global", "log")]),
    ("    x = 1", [(1, 5, "global", "set as a global")]),
    ("    log(\"ä\", os.time())", [(1, 14, "global", "time.wall")]),       # letters are counted, not bytes
    ("    for i = 1, n do log(i) end", [(1, 16, "global", "'n'")]),
    ("    local function f(a) return b end\n    log(f)", [(1, 32, "global", "'b'")]),
    ("    if req.method == \"get\" then log(1) end", [(1, 19, "never", "capital")]),
    ("    if req.host ~= \"API.test\" then log(1) end", [(1, 17, "never", "true")]),
    ("    if req.host == \"api.test:443\" then log(1) end", [(1, 17, "never", "port")]),
    ("    if req.port == \"443\" then log(1) end", [(1, 17, "never", "number")]),
    ("    if type(req.path) == \"text\" then log(1) end", [(1, 23, "never", "text")]),
    ("    if tostring(req.port) == 443 then log(1) end", [(1, 27, "never", "a text")]),
    ("    if req.path == {} then log(1) end", [(1, 17, "never", "new table")]),
    ("    if not req.path == \"/\" then log(1) end", [(1, 21, "never", "not (x")]),
    ("    if #req.path == \"1\" then log(1) end", [(1, 18, "never", "length")]),
    ("    if #req.path == -1 then log(1) end", [(1, 18, "never", "length")]),
    ("    if #req.path < 0 then log(1) end", [(1, 18, "never", "length")]),
    ("    if req.path == \"v1\" then log(1) end", [(1, 17, "never", "begins with /")]),
    ("    if cred.hours == \"8\" then log(1) end", [(1, 19, "never", "a number, and this is a text")]),
    ("    if cred.way ~= \"upp\" then log(1) end", [(1, 17, "never", "one of up, down")]),
    ("    if cred.way == nil then log(1) end", [(1, 17, "never", "has a default")]),
    ("    if cred.hours > 24 then log(1) end", [(1, 19, "never", "at least 1 and at most 24: this is always false")]),
    ("    if cred.hours < 1 then log(1) end", [(1, 19, "never", "always false")]),
    ("    if cred.hours >= 1 then log(1) end", [(1, 19, "never", "always true")]),
    ("    if cred.hours <= 24 then log(1) end", [(1, 19, "never", "always true")]),
    ("    if cred.hours ~= 25 then log(1) end", [(1, 19, "never", "always true")]),
    ("    if cred.hours == 0 then log(1) end", [(1, 19, "never", "always false")]),
    ("    if req.method == \"GET\" and req.method == \"HEAD\" then log(1) end", [(1, 19, "never", "always false")]),
    ("    if req.method ~= \"GET\" or req.method ~= \"HEAD\" then log(1) end", [(1, 19, "never", "always true")]),
    ("    local p = req.port\n    if p == 80 and p == 443 then log(p) end", [(2, 10, "never", "always false")]),
    ("    if req.port > nil then log(1) end", [(1, 17, "fails", "raises")]),
    ("    if \"a\" == \"b\" then log(1) end", [(1, 12, "constant", "constants")]),
    ("    log(req.path:find(\"(%w+)(%w+)(%w+)!\"))", [(1, 23, "pattern", "n^4")]),
    ("    log(string.match(req.path, \"%s*%s*x\"))", [(1, 32, "pattern", "anywhere")]),
]
RIGHT = """
    local _, found = req.path:find("/v1", 1, true)
    local text, number = "text", 1
    if text == nil or text == "" or number == 2 - 1 then log(found) end
    if req.method == "GET" and req.host == "api.test" and req.port == 443 and req.host ~= "::1" then log(1) end
    if not (req.path == "/") and type(req.path) == "string" and #req.path == 1 then log(1) end
    local function again(n) if n > 0 then return again(n - 1) end return n end
    repeat local done = again(1) == 0 until done
    local t <const> = { text = 1, again = text, [text] = number, f = function(self, x) return self, x end }
    for k, v in pairs(t) do if k == v then goto on end ::on:: end
    function t.g(a, ...) return a, ... end
    function t:h() return self end
    log(req.path:match("^%s*(.-)%s*$"), req.path:match("^(%a+)://([^/]*)(.*)$"), req.path:gsub("%W", "%%%0"), ([[a]]):rep(2), 0x10-1, 1-number)
    if #req.host == 8 or 2 * cred.hours == 8 or "x" .. cred.way == "xy" or "v" .. req.path == "v/" then log(1) end
    if cred.hours > 1 and cred.hours < 24 and cred.hours >= 2 and cred.hours <= 23 and cred.hours == 24 then log(1) end
    if req.method == "GET" or req.method == "HEAD" and req.method ~= "PUT" and req.method ~= "POST" then log(1) end
    if found and req.method ~= "GET" or req.method ~= "HEAD" or req.method ~= "PUT" and found then log(1) end
    if req.host == "a" and req.path == "/b" or number == 1 and number == 1.0 then log(1) end
    for _, cred in ipairs({ t }) do if cred.hours == "8" or cred.way == nil then log(1) end end
    if cred.hours == 8 and cred.way == "down" and req.path ~= "/v1" or #req.path < 10 then log(1) end
    if cred.key == nil then return elsewhere end
""".replace("elsewhere", "nil, \"no key\"").strip("\n")


def check(s, source, name="acme", code=1):
    file = s.dir / f"{name}.lua"
    file.write_text(source)
    r = s.cli("policy", "check", file, "--json", check=False)
    assert r.returncode == code, (r.returncode, r.stdout, r.stderr)
    return json.loads(r.stdout)[0]["found"], file


def test_what_is_wrong(t):
    """each mistake by line, column and code; what is right passes, and so does every policy that is shipped"""
    s = t.bare()
    for text, want in WRONG:
        found, file = check(s, TYPE % ("acme", text))
        assert [(f["line"] - 4, f["column"], f["code"]) for f in found] == [w[:3] for w in want], (text, found)
        for f, w in zip(found, want):
            assert w[3] in f["text"], (text, f)
    found, file = check(s, TYPE % ("acme", RIGHT), code=0)
    found, file = check(s, (TYPE % ("acme", "")).replace("examples = { {", "--[[").replace("} } },\n}", "]]\n}"))
    assert [f["code"] for f in found] == ["examples"], found
    found, file = check(s, TYPE % ("acme", "    if then"))
    assert found[0]["code"] == "refused" and found[0]["line"] == 5 and found[0]["column"] == 5, found
    found, file = check(s, (TYPE % ("acme", "")).replace("apply =", "aply ="))
    assert found[0]["code"] == "refused" and "apply" in found[0]["text"], found
    r = s.cli("policy", "check", file, check=False)
    assert r.returncode == 1 and re.match(re.escape(str(file)) + r":\d+:\d+: .* \(refused\)\n$", r.stdout), r.stdout
    shipped = sorted((sallyport.ROOT / "policies").rglob("*.lua"))
    assert len(shipped) > 25
    r = s.cli("policy", "check", *shipped, check=False)
    assert r.returncode == 0, r.stdout


def test_fields_of_a_rule(t):
    """a comparison with ctx.rule that can never be true, however it is reached"""
    s = t.bare()
    source = """return { kind = "rule", api = 1, name = "r", title = "T",
  fields = { { name = "from", type = "integer", default = 8 }, { name = "on", type = "boolean", default = false } },
  on_request = function(req, ctx)
    local rule = ctx.rule
    if %s then return deny("no") end
    if rule.on and rule.from == 9 then return deny("no") end
  end,
  examples = { { rule = {}, req = {} } },
}"""
    for text, found in (('ctx.rule.from == "8"', True), ("rule.from == true", True), ('rule.on ~= "on"', True), ("ctx.rule.from == 8", False), ("rule.from == nil", True),
                        ('req.rule.from == "8"', False), ('(function(rule) return rule.from == "8" end)(ctx.rule)', True),
                        ('(function() local rule = req.headers return rule.from == "8" end)()', False)):
        got = check(s, source % text, "r", int(found))[0]
        assert [(f["line"], f["code"]) for f in got] == ([(5, "never")] if found else []), (text, got)


def test_as_luacheck(t):
    """globals and unused locals: what luacheck finds in the same files, at the same places"""
    if not shutil.which("luacheck"):
        t.skip("there is no luacheck (Debian: lua-check)")
    s = t.bare()
    names = json.loads(s.cli("lua", names_script(s)).stdout)
    files = []
    for i, (text, _) in enumerate(WRONG):
        (s.dir / f"w{i}.lua").write_text(TYPE % (f"w{i}", text))
        files.append(s.dir / f"w{i}.lua")
    (s.dir / "right.lua").write_text(TYPE % ("right", RIGHT))
    files += [s.dir / "right.lua", *sorted((sallyport.ROOT / "policies").rglob("*.lua"))]
    ours, theirs = set(), set()
    for f in json.loads(s.cli("policy", "check", *files, "--json", check=False).stdout):
        ours |= {(os.path.basename(f["file"]), x["line"], x["column"]) for x in f["found"] if x["code"] in ("global", "unused")}
    r = subprocess.run(["luacheck", "--std", "none", "--globals", *names, "--only", "11.", "211", "231", "411", "--ranges", "--codes", "--no-color", "--formatter", "plain", "-q",
                        "--no-config", "--no-cache", "--", *map(str, files)], capture_output=True, text=True)
    for line in r.stdout.splitlines():
        m = re.match(r"(.*\.lua):(\d+):(\d+)-\d+: \([WE](\d+)\) (.*)", line)
        assert m, line
        if m[4] == "411":        # of a name that is taken again it tells the second place
            continue
        theirs.add((os.path.basename(m[1]), int(m[2]), int(m[3])))
    assert len(theirs) >= 8
    assert ours == theirs, (sorted(ours - theirs), sorted(theirs - ours))


def names_script(s):
    file = s.dir / "names.lua"
    file.write_text("""local names, given = require("json").array {}, require("allowed").given
      for name in pairs(given) do if name ~= "lua" then names[#names + 1] = name end end
      for word in given.lua:gmatch("%S+") do names[#names + 1] = word end
      for name in pairs(require("rules").functions) do names[#names + 1] = name end
      print(require("json").encode(names))""")
    return file


def test_annotations(t):
    """`policy api`: Lua reads it, every function of the manual is in it, and emmylua_check takes it and finds a misspelt member"""
    s = t.bare()
    text = s.cli("policy", "api").stdout
    assert text.startswith("---@meta")
    file = s.dir / "sallyport.lua"
    file.write_text(text)
    script = s.dir / "load.lua"
    script.write_text('local f = assert(io.open(arg[1])):read("a") assert(load(f, "=api"))\n'
                      'for _, name in ipairs(require("cli.policy_manual").members()) do print(name) end')
    listed = s.cli("lua", script, file).stdout.split()
    assert len(listed) > 80
    where = {"req.headers": "Headers", "req.query": "Query", "req": "Request", "net": "Net"}
    for name in listed:
        of, member = re.match(r"(.*)[.:](\w+)$", name).groups()
        if of in ("string", "table", "math", "utf8"):       # Lua's own, as editors know them
            continue
        assert re.search(rf"^(function {where.get(of, of)}[.:]{member}\(|{of}\.{member} = |---@field {member} )", text, re.M), name
    for key in ("mint", "refresh", "strip"):
        assert re.search(rf"^---@field {key}\? ", text, re.M)
    # what the policies that are shipped write, and an editor would underline
    for line in ("---@overload fun(pairs: table): string|sallyport.Secret\nform = {}", "---@overload fun(value: any): string|sallyport.Secret\njson = {}",
                 "---@return sallyport.Pattern\nfunction lpeg.Ct(", "---@return table|nil\n---@return any ...\nfunction uri.parse_query(",
                 "---@param hosts? string[]\n---@return true|nil\n---@return any ...\nfunction aws.check("):
        assert line in text, line
    tool = shutil.which("emmylua_check") or os.environ.get("EMMYLUA_CHECK")
    if not tool:
        t.skip("there is no emmylua_check: it wants a Rust of edition 2024 (1.85; Debian 12 has 1.63) and compiles some 180 crates, which takes longer than all of "
               "these tests may; where `cargo install emmylua_check` was run, or EMMYLUA_CHECK names it, this goes on. The rest passed")
    work = s.dir / "emmy"
    work.mkdir()
    (work / "sallyport.lua").write_text(text)
    good = "---@type sallyport.Type\n" + (TYPE % ("acme", "")).replace("return {", "local acme = {", 1) + "return acme\n"
    (work / "acme.lua").write_text(good)
    r = subprocess.run([tool, str(work)], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stdout + r.stderr
    (work / "acme.lua").write_text(good.replace("cred.key)", "secret.hexx(cred.key))"))
    r = subprocess.run([tool, str(work)], capture_output=True, text=True, timeout=120)
    assert "hexx" in r.stdout + r.stderr, r.stdout + r.stderr
    # The policies that are shipped: what they call is there, and takes what it is given. What it infers of their own tables is not asked.
    (work / "acme.lua").unlink()
    for file in (sallyport.ROOT / "policies").rglob("*.lua"):
        shutil.copy(file, work)
    r = subprocess.run([tool, str(work)], capture_output=True, text=True, timeout=120)
    assert "[unnecessary-if]" in r.stdout, r.stdout        # they were read
    for kind in ("undefined-global", "undefined-field", "call-non-callable", "missing-parameter", "redundant-parameter"):
        assert f"[{kind}]" not in r.stdout, r.stdout
