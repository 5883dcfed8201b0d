--- Commands run in this process, each case on a data directory of its own.
local cli = require "cli"
local host = require "host"
local store = require "store"

local CANARY = "canary-7f3a9c"

local function is(got, want) assert(got == want, ("got %s, wanted %s"):format(tostring(got), tostring(want))) end

local function has(text, part)
  assert(text:find(part, 1, true), ("%q is not in:\n%s"):format(part, text))
end

local function lacks(text, part)
  assert(not text:find(part, 1, true), ("%q is in:\n%s"):format(part, text))
end

--- A data directory, and `run` for commands on it: code, output, advice. What a command printed never has a canary.
local function world(case)
  local dir = os.tmpname()
  os.remove(dir)
  assert(host.mkdir(dir, tonumber("700", 8)))
  local w = { dir = dir, home = dir .. "/home" }
  function w.run(...)
    local out, note = {}, {}
    local ctx = {
      home = w.home, out = function(s) out[#out + 1] = s end, note = function(s) note[#note + 1] = s .. "\n" end,
    }
    local code = cli.main({ ... }, ctx)
    store.close()
    out, note = table.concat(out), table.concat(note)
    lacks(out, CANARY)
    lacks(note, CANARY)
    lacks(note, "fault in sallyport")
    return code, out, note
  end
  function w.ok(...)
    local code, out, note = w.run(...)
    assert(code == 0, table.concat({ ... }, " ") .. ": " .. note)
    return out, note
  end
  function w.file(name, text)
    assert(require("cli.files").write(host, dir .. "/" .. name, text, tonumber("600", 8)))
    return dir .. "/" .. name
  end
  function w.refused(part, ...)
    local code, out, note = w.run(...)
    assert(code == 1 or code == 2, table.concat({ ... }, " ") .. ": exit " .. code)
    is(out, "")
    has(note, part)
    return code
  end
  local ok, err = xpcall(case, debug.traceback, w)
  store.close()
  os.execute("rm -rf '" .. dir .. "'")
  assert(ok, err)
end

local function with_home(case)
  return function()
    world(function(w)
      w.ok("init")
      w.key = w.file("key", CANARY .. "\n")
      case(w)
    end)
  end
end

local function add_gh(w, ...)
  return w.ok("credential", "add", "gh", "--type", "bearer", "--host", "api.github.com", "token=@" .. w.key, ...)
end

return {
  ["init makes the directory, the key and the clients' files; a second one changes nothing"] = with_home(function(w)
    is(host.stat(w.home).mode, tonumber("700", 8))
    is(host.stat(w.home .. "/key").mode & tonumber("077", 8), 0)
    local ca = host.read_file(w.home .. "-public/ca.pem", 1 << 20)
    has(ca, "BEGIN CERTIFICATE")
    has(host.read_file(w.home .. "-public/bundle.pem", 8 << 20), ca)
    local _, note = w.ok("init")
    has(note, "nothing was changed")
    is(w.ok("ca"), ca)
  end),

  ["the clients' folder is made in the data directory where none can be made beside it"] = function()
    world(function(w)
      w.file("home-public", "somebody's")
      local _, note = w.ok("init")
      has(note, w.home .. "/public/ca.pem")
      is(w.ok("ca", "--path"), w.home .. "/public/ca.pem\n")
      is(host.stat(w.home .. "/public").mode, tonumber("755", 8))
      os.remove(w.dir .. "/home-public")
      is(w.ok("ca", "--path"), w.home .. "/public/ca.pem\n")       -- environments that name it stay right
    end)
  end,

  ["what a change does not name stays, and no help of one says another thing"] = function()
    local cli, seen = require "cli", 0
    for _, first in ipairs(cli.first_words()) do
      for _, c in ipairs(cli.commands_of(first)) do
        for _, o in ipairs(c.words:find(" set$") and c.options or {}) do
          seen = seen + 1
          if o.help:find("unless named", 1, true) then error(("%s --%s: %s"):format(c.words, o.name, o.help)) end
        end
      end
    end
    if seen < 40 then error(("%d options are looked at"):format(seen)) end
  end,

  ["init makes everything or nothing"] = function()
    world(function(w)
      assert(host.mkdir(w.home .. "-public", tonumber("755", 8)))
      assert(host.mkdir(w.home .. "-public/ca.pem", tonumber("755", 8)))      -- known only once the store is made
      w.refused("cannot write", "init")
      is(host.stat(w.home), nil)
      assert(host.mkdir(w.home, tonumber("700", 8)))
      w.file("home/mine", "x")
      w.refused("cannot write", "init")
      is(table.concat(require("cli.files").names(w.home), " "), "mine")
      for _, bad in ipairs { w.dir .. "/none/public", w.home .. "/mine", w.home .. "/store", w.home, w.dir .. "/home/../home/x", "public" } do
        w.refused("", "init", "--public", bad)
        is(table.concat(require("cli.files").names(w.home), " "), "mine")
      end
      w.ok("init", "--public", w.dir .. "/clients")
      is(w.ok("ca", "--path"), w.dir .. "/clients/ca.pem\n")
      is(w.ok("set", "public"), w.dir .. "/clients\n")
      w.ok("init", "--public", w.dir .. "/clients")
      w.refused("sallyport set public", "init", "--public", w.dir .. "/others")
      w.refused("there is no folder " .. w.dir .. "/none", "--home", w.dir .. "/none/home", "init")
    end)
  end,

  ["a folder that others may write is no clients' folder; a setting that cannot be is not kept"] = with_home(function(w)
    assert(host.mkdir(w.dir .. "/open", tonumber("777", 8)))
    w.refused("ours alone to write", "set", "public", w.dir .. "/open")
    w.refused("no part of the data directory", "set", "public", w.home .. "/store")
    is(w.ok("ca", "--path"), w.home .. "-public/ca.pem\n")
    local _, note = w.ok("set", "public", w.dir .. "/clients")
    has(note, w.home .. "-public are as they were")
    is(w.ok("ca", "--path"), w.dir .. "/clients/ca.pem\n")
    local text = w.ok("ca")
    is(host.read_file(w.dir .. "/clients/ca.pem", 1 << 20), text)
    w.ok("set", "public", "--default")
    is(w.ok("ca", "--path"), w.home .. "-public/ca.pem\n")
  end),

  ["a data directory may be named by a link"] = function()
    world(function(w)
      assert(host.mkdir(w.dir .. "/real", tonumber("700", 8)))
      os.execute(("ln -s real '%s/link' && ln -s nowhere '%s/lost'"):format(w.dir, w.dir))
      local _, note = w.ok("--home", w.dir .. "/link", "init")
      has(note, "Made " .. w.dir .. "/real")
      w.ok("--home", w.dir .. "/link", "credential", "list")
      w.refused("leads nowhere", "--home", w.dir .. "/lost", "init")
    end)
  end,

  ["a command without a data directory says how to make one"] = function()
    world(function(w) is(w.refused("sallyport init", "credential", "list"), 1) end)
  end,

  ["a data directory that others can read is refused"] = function()
    world(function(w)
      assert(host.mkdir(w.home, tonumber("755", 8)))
      w.refused("chmod 700", "init")
    end)
  end,

  ["a webhook that somebody else sets meanwhile stays theirs: no address of theirs gets a secret that was read before"] = with_home(function(w)
    w.ok("webhook", "set", "https://one.test/x")
    local records, of = require "records", require("secret.core").of
    local read = records.webhook
    function records.webhook(s)
      records.webhook = read
      assert(store.commit({ { op = "put", db = "meta", key = "set/webhook", plain = { name = "webhook", value = "https://two.test" },
        secrets = { key = of "another key", target = of "/y" } } }, require("time").now() + 10000))
      return read(s)
    end
    w.refused("changed the same record", "webhook", "set", "https://three.test/x")
    is(records.webhook, read)
    has(w.ok("webhook", "show"), "https://two.test")
  end),
  ["a credential has no more secrets than an answer is searched for"] = with_home(function(w)
    local args = { "credential", "add", "many", "--type", "api_key", "--host", "a.test", "key=@" .. w.key }
    for i = 1, 29 do args[#args + 1] = ("headers.X-Part-%d=@%s"):format(i, w.key) end
    w.ok(table.unpack(args))
    w.refused("more than 30 secrets in one credential", "credential", "set", "many", "headers.X-Part-30=@" .. w.key)
  end),
  ["an unknown command is answered with what was meant, exit 2"] = function()
    world(function(w)
      is(w.refused("`sallyport credential`", "credentail"), 2)
      is(w.refused("`sallyport serve`", "start"), 2)
      is(w.refused("`sallyport credential add`", "credential", "create"), 2)
      is(w.refused("`sallyport agent list`", "agent", "ls"), 2)
      is(w.refused("sallyport --help", "xyzzy"), 2)
    end)
  end,

  ["an unknown option, and one without its value, say what was meant"] = with_home(function(w)
    is(w.refused("did you mean --listen?", "serve", "--lisen", "x"), 2)
    is(w.refused("--listen ADDR:PORT", "serve", "--listen"), 2)
    is(w.refused("--listen ADDR:PORT", "serve", "--listen", "--workers", "1"), 2)
    is(w.refused("--ttl TIME", "agent", "add", "a", "--ttl="), 2)
    is(w.refused("takes no value", "log", "--follow=1"), 2)
    is(w.refused("twice", "agent", "add", "a", "--ttl", "1h", "--ttl", "2h"), 2)
    is(w.refused("--follow", "log", "--tail"), 2)
    is(w.refused("two dashes", "log", "-f"), 2)
    is(w.refused("needs NAME", "agent", "add"), 2)
    is(w.refused("too many", "agent", "add", "a", "b"), 2)
  end),

  ["every command has a help text with an example"] = function()
    world(function(w)
      local overview = w.ok("--help")
      for first in ("init serve credential agent env explain log bundle domain policy set ca doctor backup restore version lua")
        :gmatch("%a+") do
        has(overview, "\n  " .. first .. " ")
        local family = w.ok(first, "--help")
        for line in (overview .. family):gmatch("[^\n]+") do assert(utf8.len(line) <= 80, line) end
        local verbs = {}
        for verb in family:gmatch("\n?  sallyport " .. first .. " ([%l-]+)") do verbs[#verbs + 1] = verb end
        if family:sub(1, 6) == "usage:" then verbs = { false } end
        assert(#verbs > 0, family)
        for _, verb in ipairs(verbs) do
          local text = verb and w.ok(first, verb, "--help") or family
          has(text, "usage: sallyport " .. first)
          has(text, "example")
          for line in text:gmatch("[^\n]+") do assert(utf8.len(line) <= 80, line) end
        end
      end
    end)
  end,

  ["a command that is folded is the same command"] = function()
    local page = require "cli.page"
    local long = [[  pass show x | sallyport credential add shop --type hmac --host api.shop.example string='{method} {body}' set.X="a b" --path /v1]]
    local folded = page.command(long)
    has(folded, "\\\n")
    is((folded:gsub(" \\\n +", " ")), long)
    for line in folded:gmatch("[^\n]+") do assert(#line <= 80 and not line:find("%-%-%l+ \\$"), line) end
    is(page.command("  sallyport log"), "  sallyport log")
    is(page.text("one\ntwo:\n  a     b\n\nthree\n"), "one two:\n  a     b\n\nthree\n")
    is(page.pairs({ { "a", ("word "):rep(20) }, { "much longer", "x" } }, 5),
      "  a  " .. ("word "):rep(14) .. "word\n     " .. ("word "):rep(4) .. "word\n  much longer\n     x")
  end,

  ["listings keep long lists short, and show has all of them"] = with_home(function(w)
    w.ok("credential", "add", "many", "--type", "bearer", "--host", "a.example.com,b.example.com,c.example.com,d.example.com",
      "token=@" .. w.key)
    has(w.ok("credential", "list"), "a.example.com,b.example.com +2")
    has(w.ok("credential", "show", "many"), "d.example.com")
  end),

  ["what is missing, and where, is named"] = with_home(function(w)
    is(w.refused("there is no file 'nowhere.txt'", "credential", "add", "x", "--type", "bearer", "--host", "a.test",
      "token=@nowhere.txt"), 1)
    is(w.refused("the variable NOT_SET_HERE is not set", "credential", "add", "x", "--type", "bearer", "--host", "a.test",
      "token=env:NOT_SET_HERE"), 1)
    w.ok("credential", "add", "x", "--type", "bearer", "--host", "a.test", "--path", "/v1", "token=@" .. w.key)
    is(w.refused("sallyport credential test x https://a.test/", "credential", "test", "x", "a.test/"), 2)
    is(w.refused("sallyport credential test x https://a.test/v1", "credential", "test", "x", "https://a.test/"), 1)
    is(w.ok("explain", "GET", "https://b.test:8443/x"):match("hint +([^\n]+)"), "sallyport domain add default b.test --port 8443, or a credential for it")
    is(w.ok("explain", "GET", "http://b.test/"):match("hint +([^\n]+)"), "sallyport domain add default b.test --port 80, or a credential for it")
    w.refused("'x' was not sent: it does not go there\n  it goes to a.test: sallyport credential show x", "credential", "test", "x", "https://c.test/v1")
    is(w.ok("explain", "GET", "https://b.test:443"):match("hint +([^\n]+)"), "sallyport domain add default b.test, or a credential for it")
  end),

  ["a credential is kept, listed and shown without its secret"] = with_home(function(w)
    add_gh(w, "env=GH_TOKEN", "headers.X-Team=blue", "headers.x-key=@" .. w.key)
    local list = w.ok("credential", "list")
    has(list, "gh")
    has(list, "api.github.com")
    has(w.ok("credential", "list", "--json"), '"headers.x-key"')
    local shown = w.ok("credential", "show", "gh")
    has(shown, "(secret, set)")
    has(shown, "blue")
    has(shown, "ghp_{36}")
  end),

  ["a secret on the command line is refused and not repeated, wherever it stands"] = with_home(function(w)
    local add = { "credential", "add", "x", "--type", "bearer", "--host", "a.test" }
    local function try(part, ...)
      local args = { table.unpack(add) }
      table.move({ ... }, 1, select("#", ...), #args + 1, args)
      w.refused(part, table.unpack(args))
    end
    try("never comes from the command line", "token=" .. CANARY)
    try("token=@FILE", "--token=" .. CANARY)
    try("token=@FILE", "--token", CANARY)
    try("FIELD=VALUE", CANARY)
    try("no field", "tokn=" .. CANARY)
  end),

  ["where a secret is missing, empty or has a line break, the field is named"] = with_home(function(w)
    local function try(part, field)
      w.refused(part, "credential", "add", "x", "--type", "bearer", "--host", "a.test", field)
    end
    try("token", "token=@" .. w.dir .. "/none")
    try("token", "token=env:SALLYPORT_NO_SUCH_VARIABLE")
    try("token is empty", "token=@" .. w.file("empty", "\n"))
    try("token has a control byte", "token=@" .. w.file("two", CANARY .. "\n" .. CANARY .. "\n"))
    try("token has a control byte", "token=@" .. w.file("nul", CANARY .. "\0"))
    w.refused("headers.x-k has a control byte", "credential", "add", "x", "--type", "bearer", "--host", "a.test",
      "token=@" .. w.key, "headers.x-k=@" .. w.file("cr", "a\rb"))
  end),

  ["exactly one final newline is dropped"] = with_home(function(w)
    w.ok("credential", "add", "one", "--type", "bearer", "--host", "a.test", "token=@"
      .. w.file("one", CANARY .. "\n"))
    w.refused("control byte", "credential", "add", "two", "--type", "bearer", "--host", "a.test",
      "token=@" .. w.file("two", CANARY .. "\n\n"))
  end),

  ["a name is given once"] = with_home(function(w)
    add_gh(w)
    w.refused("credential set gh", "credential", "add", "gh", "--type", "bearer", "--host", "b.test", "token=@"
      .. w.key)
    w.ok("agent", "add", "a")
    w.refused("agent rotate a", "agent", "add", "a")
    w.ok("bundle", "add", "b")
    w.refused("already", "bundle", "add", "b")
  end),

  ["names that do not exist are answered with near ones"] = with_home(function(w)
    add_gh(w)
    w.refused("did you mean bearer?", "credential", "add", "x", "--type", "baerer", "--host", "a.test")
    w.refused("types: ", "credential", "add", "x", "--host", "a.test")
    w.refused("did you mean default?", "agent", "add", "a", "--bundle", "defualt")
    w.refused("did you mean research?", "bundle", "show", w.ok("bundle", "add", "research") and "reserch")
    w.refused("there is no credential", "credential", "show", "gg")
    w.refused("there is no type", "credential", "add", "x", "--type", "../x", "--host", "a.test")
  end),

  ["set changes what is named and keeps the rest, the secret included"] = with_home(function(w)
    w.ok("credential", "add", "k", "--type", "api_key", "--host", "a.test", "key=@" .. w.key, "headers.X-A=1")
    w.ok("credential", "set", "k", "--path", "/repos", "--method", "get,post", "header=x-goog-api-key")
    local shown = w.ok("credential", "show", "k")
    has(shown, "/repos")
    has(shown, "GET,POST")
    has(shown, "(secret, set)")
    has(shown, "x-goog-api-key")
    w.ok("credential", "set", "k", "--clear", "path", "--clear", "headers.x-a", "--clear", "header")
    shown = w.ok("credential", "show", "k")
    lacks(shown, "/repos")
    lacks(shown, "x-a")
    lacks(shown, "x-goog")
    w.refused("is missing", "credential", "set", "k", "--clear", "key")
    w.refused("nothing to change", "credential", "set", "k")
    w.refused("--clear does not know", "credential", "set", "k", "--clear", "nonsense")
    w.refused("headers.NAME", "credential", "set", "k", "--clear", "headers")
  end),
  ["restore names what was ended since the backup, and is in force again"] = with_home(function(w)
    add_gh(w)
    for _, name in ipairs { "a", "b", "c" } do w.ok("agent", "add", name) end
    w.ok("domain", "add", "default", "docs.test")
    w.ok("backup", w.dir .. "/backup")
    local _, note = w.ok("restore", w.dir .. "/backup")
    lacks(note, "in force again")
    w.ok("agent", "revoke", "a")
    w.ok("agent", "rotate", "b")
    w.ok("credential", "disable", "gh")
    w.ok("domain", "remove", "default", "docs.test")
    _, note = w.ok("restore", w.dir .. "/backup")
    for _, what in ipairs { "a token of agent a", "a token of agent b", "credential gh", "docs.test in bundle default" } do has(note, what) end
    lacks(note, "agent c")
  end),
  ["plain HTTP adds port 80 to the ports that there are"] = with_home(function(w)
    w.ok("credential", "add", "k", "--type", "bearer", "--host", "a.test", "--port", "8443", "token=@" .. w.key)
    w.ok("credential", "set", "k", "--plain-http")
    has(w.ok("credential", "show", "k"), "8443,80")
    w.ok("credential", "set", "k", "--plain-http", "--port", "8080")
    has(w.ok("credential", "show", "k"), "ports    8080")
  end),
  ["plain HTTP is refused where what a call hands out would be sealed, for that opens over TLS alone"] = with_home(function(w)
    local function reg(name, ...) return "credential", "add", name, "--type", "registry", "--host", "a.test", "username=me", "password=@" .. w.key, ... end
    w.refused("a sealed text opens over TLS alone", reg("r", "--plain-http"))
    w.refused("registry seals a registry's bearer", reg("r", "--plain-http", "mint=seal"))
    w.ok(reg("r", "--plain-http", "mint=refuse"))
    w.refused("a sealed text opens over TLS alone", "credential", "set", "r", "--clear", "mint")
    w.refused("a sealed text opens over TLS alone", "credential", "set", "r", "mint=seal")
    w.ok("credential", "set", "r", "mint=allow")
    w.ok(reg("s"))
    w.ok("policy", "put", w.file("later.lua", 'return { kind = "type", api = 1, name = "later", title = "T", apply = function() end }'))
    w.ok("credential", "add", "l", "--type", "later", "--host", "a.test", "--plain-http")
    has(select(2, w.ok("policy", "put", w.file("later.lua", 'return { kind = "type", api = 1, name = "later", title = "T", apply = function() end, seal = { { path = "/x", members = { "t" } } } }'))),
      "'l' goes over plain HTTP, too, where no sealed text is opened (any /x)")
    w.refused("leave --plain-http out", "credential", "set", "s", "--plain-http")
    w.refused("huggingface seals", "credential", "add", "h", "--preset", "huggingface", "--plain-http", "token=@" .. w.key)
    -- its row holds where the host's challenge names the call, and that is asked for over TLS alone
    w.ok("credential", "add", "b", "--type", "basic", "--host", "a.test", "--plain-http", "username=me", "password=@" .. w.key)
  end),
  ["a type that signs sends a secret all the same in a row or a header: no wildcard that strangers share"] = with_home(function(w)
    local function aws(name, ...)
      return "credential", "add", name, "--type", "aws_sigv4", "--host", "*.amazonaws.com",
        "access_key_id=AKIAIOSFODNN7EXAMPLE", "secret_access_key=@" .. w.key, ...
    end
    w.refused("--substitute sends the secret itself", aws("x", "--substitute", "secret_access_key:json=/a:__SECRET__"))
    w.refused("headers.x-key sends the secret itself", aws("x", "headers.x-key=@" .. w.key))
    w.ok(aws("x", "headers.x-plain=1"))
    w.refused("sends the secret itself", "credential", "set", "x", "--substitute", "secret_access_key:json=/a:__SECRET__")
    w.refused("sends the secret itself", "credential", "set", "x", "headers.x-key=@" .. w.key)
    w.ok("credential", "set", "x", "headers.x-key=@" .. w.key, "--host", "s3.eu-west-1.amazonaws.com")
    w.refused("sends the secret itself", "credential", "set", "x", "--host", "*.amazonaws.com")
  end),

  ["what the type itself refuses is said with its fields"] = with_home(function(w)
    w.refused("':'", "credential", "add", "x", "--type", "basic", "--host", "a.test", "username=a:b",
      "password=@" .. w.key)
    w.refused("token_url", "credential", "add", "x", "--type", "oauth_client_credentials", "--host", "a.test",
      "client_id=a", "client_secret=@" .. w.key)
    w.refused("https://", "credential", "add", "x", "--type", "oauth_client_credentials", "--host", "a.test",
      "token_url=http://login.test/t", "client_id=a", "client_secret=@" .. w.key)
  end),

  ["an empty password is accepted for basic"] = with_home(function(w)
    w.ok("credential", "add", "b", "--type", "basic", "--host", "a.test", "username=me", "password=@"
      .. w.file("e", ""))
    w.ok("credential", "add", "c", "--type", "basic", "--host", "a.test", "username=me", "password=")
  end),

  ["a document is taken apart when it is kept, and what is not named stays with `set`"] = with_home(function(w)
    w.ok("policy", "put", w.file("account.lua", [[
return { kind = "type", api = 1, name = "account", title = "A service account",
  fields = {
    { name = "account", type = "document", required = true,
      split = { client_email = {}, private_key = { secret = true } } },
    { name = "extra", type = "map", secret = true },
    { name = "ttl", type = "integer", default = 60 },
  },
  apply = function(req, cred) req.headers:set("x-key", cred.account.private_key) end,
  examples = {},
}
]]))
    local doc = w.file("doc.json", ('{"client_email":"me@acme.test","private_key":"%s","other":1}'):format(CANARY))
    w.ok("credential", "add", "acc", "--type", "account", "--host", "a.test", "account=@" .. doc, "extra.one=@" .. w.key)
    local shown = w.ok("credential", "show", "acc", "--json")
    has(shown, "me@acme.test")
    has(shown, '"account.private_key"')
    has(shown, '"extra.one"')
    lacks(shown, "other")
    w.ok("credential", "set", "acc", "ttl=90", "extra.two=@" .. w.key, "--clear", "extra.one")
    shown = w.ok("credential", "show", "acc", "--json")
    has(shown, "me@acme.test")
    has(shown, '"account.private_key"')
    has(shown, '"extra.two"')
    lacks(shown, '"extra.one"')
    has(shown, '"ttl": 90')
    w.refused("private_key", "credential", "add", "bad", "--type", "account", "--host", "a.test",
      "account=@" .. w.file("bad.json", '{"client_email":"me@acme.test"}'))
    w.refused("account", "credential", "add", "bad", "--type", "account", "--host", "a.test", "account=@" .. w.key)
  end),

  ["disable, enable and remove"] = with_home(function(w)
    add_gh(w)
    w.ok("credential", "disable", "gh")
    has(w.ok("credential", "list"), "disabled")
    w.ok("credential", "enable", "gh")
    lacks(w.ok("credential", "list"), "disabled")
    has(w.ok("credential", "show", "gh"), "(secret, set)")
    w.ok("credential", "remove", "gh")
    w.refused("there is no credential", "credential", "show", "gh")
  end),

  ["agent add prints the token alone on standard output, and the store has only its hash"] = with_home(function(w)
    local out = w.ok("agent", "add", "claude", "--ttl", "7d")
    assert(out:find("^sp_agt_[%w_-]+\n$"), out)
    local token = out:sub(1, -2)
    local listed = w.ok("agent", "list", "--json")
    lacks(listed, token)
    has(listed, '"label": "agent"')
    local again = w.ok("agent", "rotate", "claude")
    assert(again ~= out and again:find("^sp_agt_[%w_-]+\n$"))
    w.ok("agent", "revoke", "claude")
    has(w.ok("agent", "list"), "revoked")
    w.refused("revoked", "agent", "rotate", "claude")
    w.ok("agent", "add", "claude")
    has(w.ok("agent", "list"), "active")
  end),

  ["how a token ended is known for a month, by its hash"] = with_home(function(w)
    local time, tokens, wall = require "time", require "cli.tokens", nil
    local function ended(token)
      w.ok("agent", "list")     -- whatever opens and closes the store
      require("cli.db").open { home = w.home, host = host }
      local rec = store.peek("agent", "e/" .. host.sha256_hex(token))
      local live = store.peek("agent", "t/" .. host.sha256_hex(token))
      store.close()
      assert(not (rec and live), "it cannot be both")
      return rec and rec.ended, rec and rec.agent
    end
    local first = w.ok("agent", "add", "claude"):sub(1, -2)
    is(ended(first), nil)
    local second = w.ok("agent", "rotate", "claude"):sub(1, -2)
    local how, whose = ended(first)
    is(how, "rotated")
    is(whose, "claude")
    is(ended(second), nil)
    w.ok("agent", "revoke", "claude")
    is(ended(second), "revoked")
    local third = w.ok("agent", "add", "claude"):sub(1, -2)
    is(ended(third), nil)
    is(ended(first), "rotated")
    require("cli.db").open { home = w.home, host = host }
    wall = time.wall()
    is(#tokens.drop(nil, wall + 29 * 86400), 0)
    local gone = tokens.drop(nil, wall + 31 * 86400)
    is(#gone, 2)
    for _, op in ipairs(gone) do
      is(op.op, "del")
      is(op.key:sub(1, 2), "e/")
    end
    store.close()
  end),

  ["time limits are settings, and a credential may have its own"] = with_home(function(w)
    is(w.ok("set", "answer-timeout"), "15m\n")
    is(w.ok("set", "idle-timeout"), "1h\n")
    is(w.ok("set", "dial-timeout"), "10s\n")
    w.ok("set", "idle-timeout", "90m")
    is(w.ok("set", "idle-timeout"), "90m\n")
    w.refused("that time is nothing", "set", "answer-timeout", "0s")
    w.refused("a time is a number", "set", "answer-timeout", "10")
    add_gh(w, "--answer-timeout", "20m")
    has(w.ok("credential", "show", "gh"), "20m")
    w.ok("credential", "set", "gh", "--idle-timeout", "2h")
    has(w.ok("credential", "show", "gh", "--json"), '"idle_timeout": 7200')
    has(w.ok("credential", "show", "gh", "--json"), '"answer_timeout": 1200')
    w.refused("--idle-timeout: a time is", "credential", "set", "gh", "--idle-timeout", "soon")
    w.ok("credential", "set", "gh", "--clear", "answer-timeout")
    lacks(w.ok("credential", "show", "gh", "--json"), "answer_timeout")
  end),

  ["env makes a token of its own and sets a placeholder that is this agent's alone"] = with_home(function(w)
    add_gh(w, "env=GH_TOKEN")
    w.ok("agent", "add", "a")
    w.ok("agent", "add", "b")
    local out = w.ok("env", "--agent", "a")
    local url = out:match("export HTTPS_PROXY=(%S+)")
    assert(url:find("^http://a:sp_agt_[%w_-]+@127%.0%.0%.1:7080$"), url)
    local mine = out:match("export GH_TOKEN=(%S+)")
    assert(mine:find("^ghp_%w+$") and #mine == 40, mine)
    is(w.ok("env", "--agent", "a"):match("export GH_TOKEN=(%S+)"), mine)
    assert(w.ok("env", "--agent", "b"):match("export GH_TOKEN=(%S+)") ~= mine)
    has(w.ok("env", "--agent", "a", "--json"), '"GH_TOKEN": "' .. mine)
    has(w.ok("agent", "list", "--json"), '"label": "env"')
    w.refused("--agent is missing", "env")
    w.refused("--ttl", "env", "--agent", "a", "--ttl", "soon")
    w.ok("set", "listen", "127.0.0.1:0")
    w.refused("--proxy HOST:PORT", "env", "--agent", "a")
    has(w.ok("env", "--agent", "a", "--proxy", "10.0.2.2:7080"), "@10.0.2.2:7080")
  end),

  ["a placeholder follows the kept key's kind, and tells of the key no more than its public prefix"] = with_home(function(w)
    w.ok("agent", "add", "a")
    local n = 0
    local function placeholder(var, secret, ...)
      n = n + 1
      w.ok("credential", "add", "k" .. n, ...)
      local text = w.ok("env", "--agent", "a"):match("\nexport " .. var .. "=(%S+)")
      w.ok("credential", "remove", "k" .. n)
      return text
    end
    local function bearer(key)
      return placeholder("GH_TOKEN", key, "--preset", "github", "token=@" .. w.file("key" .. n, key))
    end
    for _, case in ipairs { { "github_pat_", 93 }, { "gho_", 40 }, { "ghu_", 40 }, { "ghs_", 40 }, { "ghp_", 40 } } do
      local long, short = bearer(case[1] .. ("x"):rep(200)), bearer(case[1] .. "y")
      is(long:sub(1, #case[1]), case[1])
      is(#long, case[2])
      is(#short, case[2])
    end
    is(bearer("plain"):sub(1, 4), "ghp_")
    local key = "password=@" .. w.file("key", "glpat-" .. CANARY)
    has(placeholder("PW", nil, "--type", "basic", "--host", "a.test", "username=me", "--env", "PW", key), "glpat-")
    key = "key=@" .. w.file("key", "sk_live_" .. CANARY)
    has(placeholder("PAY", nil, "--type", "api_key", "--host", "a.test", "env=PAY", key), "sk_live_")
    has(placeholder("PAY", nil, "--type", "api_key", "--host", "a.test", "env=PAY", "placeholder=mine_{32}", key), "mine_")
    key = "secret_access_key=@" .. w.key
    local function aws(var, id, ...)
      return placeholder(var, nil, "--type", "aws_sigv4", "--host", "*.amazonaws.com", "access_key_id=" .. id .. "IOSFODNN7EXAMPLE", key, ...)
    end
    has(aws("AWS_ACCESS_KEY_ID", "ASIA", "session_token=@" .. w.key), "ASIA")
    has(aws("AWS_SESSION_TOKEN", "ASIA", "session_token=@" .. w.key), "IQoJ")
    has(aws("AWS_ACCESS_KEY_ID", "AKIA"), "AKIA")
    is(aws("AWS_SESSION_TOKEN", "AKIA"), nil)
    w.ok("policy", "put", w.file("two.lua", [[
return { kind = "type", api = 1, name = "two", title = "Two secrets",
  fields = { { name = "salt", secret = true }, { name = "key", secret = true } }, apply = function() end }
]]))
    has(placeholder("T", nil, "--type", "two", "--host", "a.test", "--env", "T", "salt=@" .. w.key, key:gsub("secret_access_key=@.*", "key=@")
      .. w.file("key", "xoxp-" .. CANARY)), "xoxp-")
  end),

  ["with another key the placeholder follows, and what the operator chose stays"] = with_home(function(w)
    w.ok("agent", "add", "a")
    local function text() return w.ok("env", "--agent", "a"):match("\nexport GH_TOKEN=(%S+)") end
    add_gh(w, "env=GH_TOKEN")
    local first = text()
    has(first, "ghp_")
    local _, note = w.ok("credential", "set", "gh", "token=@" .. w.file("two", "ghp_" .. CANARY))
    is(text(), first)
    lacks(note, "placeholder")
    _, note = w.ok("credential", "set", "gh", "token=@" .. w.file("two", "gho_" .. CANARY))
    has(note, "its placeholder looks like gho_{36} now")
    is(text():sub(1, 4), "gho_")
    w.ok("credential", "set", "gh", "--method", "GET")
    is(text():sub(1, 4), "gho_")
    w.ok("credential", "set", "gh", "token=@" .. w.file("two", CANARY))
    is(text():sub(1, 4), "ghp_")
    w.ok("credential", "set", "gh", "placeholder=own_{32}")
    w.ok("credential", "set", "gh", "token=@" .. w.file("two", "gho_" .. CANARY))
    is(text():sub(1, 4), "own_")
    w.ok("credential", "set", "gh", "--env", "GH_TOKEN")
    is(text():sub(1, 4), "gho_")
  end),

  ["a credential may have several variables, all with its placeholder"] = with_home(function(w)
    w.ok("agent", "add", "a")
    local function vars()
      local list, texts = {}, {}
      for name, text in w.ok("env", "--agent", "a"):gmatch("\nexport (MY_%w+)=(%S+)") do list[#list + 1], texts[text] = name, true end
      assert(#list == 0 or next(texts, next(texts)) == nil, "one text")
      return table.concat(list, " ")
    end
    add_gh(w, "--env", "MY_A", "--env", "MY_B", "--env", "MY_A")
    is(vars(), "MY_A MY_B")
    has(w.ok("credential", "show", "gh"), "MY_A, MY_B")
    w.ok("credential", "set", "gh", "env=MY_C", "env=MY_D,MY_E")
    is(vars(), "MY_C MY_D MY_E")
    w.ok("credential", "set", "gh", "--env", "MY_F,MY_G")
    is(vars(), "MY_F MY_G")
    w.ok("credential", "set", "gh", "--method", "GET")
    is(vars(), "MY_F MY_G")
    w.ok("credential", "set", "gh", "--env", "MY_H")
    is(vars(), "MY_H")
    w.refused("PATH is not a place", "credential", "set", "gh", "--env", "MY_A", "--env", "PATH")
    w.refused("env: ", "credential", "set", "gh", "env=MY_A", "env=1")
    w.ok("credential", "set", "gh", "--clear", "env")
    is(vars(), "")
  end),

  ["env sets AWS's bundle where an AWS credential is held, and says so"] = with_home(function(w)
    add_gh(w, "env=GH_TOKEN")
    w.ok("bundle", "add", "cloud")
    w.ok("agent", "add", "a")
    w.ok("agent", "add", "b", "--bundle", "default", "--bundle", "cloud")
    for _, args in ipairs {
      { "aws_sigv4", "--host", "minio.example.com", "region=x", "service=s3", "access_key_id=k", "secret_access_key=@" .. w.key },
      { "bearer", "--host", "bedrock-runtime.us-east-1.amazonaws.com", "token=@" .. w.key },
    } do
      w.ok("credential", "add", "cloudy", "--bundle", "cloud", "--type", table.unpack(args))
      local out, note = w.ok("env", "--agent", "a")
      lacks(out, "AWS_CA_BUNDLE")
      lacks(note, "AWS_CA_BUNDLE")
      out, note = w.ok("env", "--agent", "b")
      has(out, "export AWS_CA_BUNDLE=")
      has(note, "LoadCustomCABundleError")
      w.ok("credential", "disable", "cloudy")
      lacks(w.ok("env", "--agent", "b"), "AWS_CA_BUNDLE")
      w.ok("credential", "remove", "cloudy")
    end
  end),

  ["env sets one variable of two that one client would mix up, and what a preset wants beside its own"] = with_home(function(w)
    w.ok("agent", "add", "a")
    w.ok("credential", "add", "gem", "--preset", "gemini", "key=@" .. w.key)
    local out, note = w.ok("env", "--agent", "a")
    has(out, "GEMINI_API_KEY=AIza")
    lacks(out, "GOOGLE_API_KEY")
    w.ok("credential", "add", "maps", "--type", "api_key", "--host", "maps.googleapis.com", "env=GOOGLE_API_KEY", "key=@" .. w.key)
    out, note = w.ok("env", "--agent", "a")
    lacks(out, "GOOGLE_API_KEY")
    has(note, "GOOGLE_API_KEY of 'maps' is left out")
    w.ok("credential", "disable", "gem")
    has(w.ok("env", "--agent", "a"), "GOOGLE_API_KEY=")
    lacks(w.ok("env", "--agent", "a"), "HF_HUB_DISABLE_XET")
    w.ok("credential", "add", "hf", "--preset", "huggingface", "token=@" .. w.key)
    lacks(w.ok("env", "--agent", "a"), "HF_HUB_DISABLE_XET")   -- its storage tokens are sealed
    w.ok("credential", "set", "hf", "mint=refuse")
    has(w.ok("env", "--agent", "a"), "export HF_HUB_DISABLE_XET=1\n")
    for _, how in ipairs { "allow", "seal" } do
      w.ok("credential", "set", "hf", "mint=" .. how)
      lacks(w.ok("env", "--agent", "a"), "HF_HUB_DISABLE_XET")
    end
    has(w.ok("credential", "presets", "huggingface"), "HF_HUB_DISABLE_XET=1, where such calls are refused")
  end),

  ["bundles hold credentials and domain entries; one that holds something is not removed"] = with_home(function(w)
    add_gh(w)
    w.ok("bundle", "add", "research")
    w.ok("bundle", "attach", "research", "gh")
    has(w.ok("bundle", "show", "research"), "gh")
    w.refused("detach", "bundle", "remove", "research")
    w.ok("bundle", "detach", "research", "gh")
    w.ok("domain", "add", "research", "*.Example.net", "--port", "80,443")
    has(w.ok("bundle", "show", "research"), "*.example.net")
    w.ok("domain", "remove", "research", "*.example.net")
    w.refused("no domain entry", "domain", "remove", "research", "example.net")
    w.ok("bundle", "remove", "research")
    w.refused("stays", "bundle", "remove", "default")
    w.refused("name its hosts", "domain", "add", "default", "*", "--tunnel")
    w.refused("unseen", "domain", "add", "default", "db.test", "--tunnel", "--path", "/x")
    w.refused("paths go in --path", "domain", "add", "default", "https://x.test/p")
    w.refused("names of one segment", "domain", "add", "default", "x.test", "--path", "/a%2F")
    w.ok("domain", "add", "default", "npm.test", "--path", "/@scope%2fname", "--path", "/@scope/name")
    has(w.ok("bundle", "show", "default"), "/@scope%2Fname,/@scope/name")
    has(w.ok("bundle", "show", "default", "--json"), '"/@scope%2Fname",')
    has(w.ok("explain", "GET", "https://npm.test/@scope%2fname"), "by the domain entry npm.test")
    has(w.ok("explain", "GET", "https://npm.test/x"), "its paths are /@scope%2Fname, /@scope/name")
    w.ok("domain", "add", "default", "*")
  end),

  ["settings are checked, kept and forgotten"] = with_home(function(w)
    has(w.ok("set"), "127.0.0.1:7080")
    w.ok("set", "echo", "off")
    is(w.ok("set", "echo"), "off\n")
    w.ok("set", "listen", "127.0.0.1:7080,127.0.0.1:7081")
    is(w.ok("set", "listen"), "127.0.0.1:7080 127.0.0.1:7081\n")
    w.ok("set", "listen", "--default")
    is(w.ok("set", "listen"), "127.0.0.1:7080\n")
    w.refused("did you mean listen?", "set", "lisen", "x")
    w.refused("127.0.0.1:7080", "set", "listen", "here")
    w.refused("no certificate", "set", "upstream-ca", w.key)
    w.refused("one value", "set", "echo", "on", "off")
    w.ok("set", "allow-address", "10.0.0.0/8")
    has(select(2, w.ok("set", "allow-address", "--default")), "allow-address is not set again")
    w.refused("no such folder", "set", "helpers", w.dir .. "/nowhere")
    w.refused("is no folder", "set", "helpers", w.key)
    assert(host.mkdir(w.dir .. "/programs", tonumber("700", 8)))
    w.ok("set", "helpers", w.dir .. "/programs")
  end),

  ["what to do next, after credential add, is what would work"] = with_home(function(w)
    local token = "token=@" .. w.file("next", CANARY)
    local function advice(...)
      local _, note = w.ok("credential", "add", "x", "--type", "bearer", token, ...)
      w.ok("credential", "remove", "x")
      return note
    end
    local wild = advice("--host", "*.example.com")
    has(wild, "credential test x https://….example.com/\n")
    has(wild, "explain GET https://any.example.com/")
    has(advice("--host", "${TENANT}.example.com"), "credential test x https://….example.com/\n")
    local narrow = advice("--host", "api.example.com", "--port", "8443", "--path", "/v1")
    has(narrow, "credential test x\n")
    has(narrow, "explain GET https://api.example.com:8443/v1")
  end),

  ["mint is taken away again, and a preset's stripped parameters have their name"] = with_home(function(w)
    w.ok("credential", "add", "x", "--preset", "github", "token=@" .. w.file("gh", CANARY))
    w.ok("credential", "set", "x", "mint=allow")
    has(w.ok("credential", "show", "x"), "mint")
    w.ok("credential", "set", "x", "--clear", "mint")
    lacks(w.ok("credential", "show", "x"), "mint")
    has(w.ok("credential", "presets", "github"), "stripped     ?access_token=")
  end),

  ["of several members that a document lacks, the same is always named"] = with_home(function(w)
    local file = w.file("user.json", '{"type":"authorized_user"}')
    for _ = 1, 8 do
      w.refused("it has no 'client_email'", "credential", "add", "x", "--type", "gcp_access_token", "key=@" .. file)
    end
  end),

  ["help behind a family's name is a text of JSON, too"] = with_home(function(w)
    local json = require "json"
    has(json.decode(w.ok("credential", "help", "--json")).text, "credential add")
    has(json.decode(w.ok("credential", "help", "add", "--json")).text, "--type")
    is(json.decode(w.ok("help", "credential", "--json")).text, json.decode(w.ok("credential", "help", "--json")).text)
    has(w.ok("credential", "help", "add"), "--type")
    w.refused("has no command 'frob'", "credential", "help", "frob")
  end),

  ["where a secret goes is shown though its type chose it"] = with_home(function(w)
    local pem = w.file("app.pem", (host.stand_in_key()))
    w.ok("credential", "add", "gh", "--type", "github_app", "--host", "api.github.com", "app_id=1", "installation_id=2", "private_key=@" .. pem)
    has(w.ok("credential", "show", "gh"), "https://api.github.com (default)")
    w.ok("credential", "set", "gh", "--host", "ghe.test", "api_url=https://ghe.test/api/v3")
    local shown = w.ok("credential", "show", "gh")
    has(shown, "https://ghe.test/api/v3")
    lacks(shown, "(default)")
  end),

  ["a policy that is refused leaves the old one, and the reason has file and line"] = with_home(function(w)
    local before = w.ok("policy", "show", "bearer")
    local bad = w.file("bearer.lua", "return {\n  kind = 'type',\n  oops\n")
    w.refused("bearer.lua:", "policy", "put", bad)
    is(w.ok("policy", "show", "bearer"), before)
    w.refused("did you mean bearer?", "policy", "show", "baerer")
    local mine = w.file("bearer.lua", (before:gsub("Bearer token", "Bearer token of ours", 1)))
    w.ok("policy", "put", mine, "--note", "ours")
    has(w.ok("policy", "list"), "edited")
    has(w.ok("policy", "history", "bearer"), "ours")
    w.ok("policy", "rollback", "bearer")
    is(w.ok("policy", "show", "bearer"), before)
    has(w.ok("policy", "test"), "ok      bearer")
  end),

  ["policies of an earlier version that are refused now come with a command that works"] = with_home(function(w)
    local grammar = 'local g = lpeg.P{ "S", S = "a" * lpeg.V"S" + "b" }\n'
    local function keep(name, source)
      assert(store.open(w.home, {}))
      assert(store.commit {
        { op = "put", db = "policy", key = name .. "/000001", version = 0, plain = { source = source, saved_at = 1 } },
        { op = "put", db = "policy", key = name, version = 0, plain = { name = name, active = 1, latest = 1 } },
      })
      store.close()
    end
    keep("bearer", grammar .. w.ok("policy", "show", "bearer"))
    keep("own", grammar .. w.ok("policy", "show", "basic"):gsub('"basic"', '"own"'))
    local list = w.ok("policy", "list")
    has(list, "policies have no grammars")
    local _, out = w.run("doctor")
    has(out, "sallyport policy edit own")
    has(out, "sallyport policy rollback bearer 0")
    w.ok("policy", "rollback", "bearer", "0")
    w.refused("policies have no grammars", "policy", "put", w.file("own.lua", w.ok("policy", "show", "own")))
    w.ok("policy", "put", w.file("own.lua", (w.ok("policy", "show", "own"):gsub("^.-\n", "", 1))))
    lacks(w.ok("doctor"), "is refused")

    -- presets whose row names no place
    keep("presets", (w.ok("policy", "show", "presets"):gsub('"path=/bot{}/%*%*", "path=/file/bot{}/%*%*"', '"path"')))
    w.refused("preset 'telegram': rows: 'path' is no place", "credential", "add", "bot", "--preset", "telegram", "value=@" .. w.key)
    w.ok("credential", "add", "bot", "--preset", "telegram", "value=@" .. w.key, "--substitute", "value:path=/bot{}/**")
    lacks(w.ok("credential", "show", "bot"), "refused")
    assert(store.open(w.home, {}))
    local record = assert(store.get("credential", "bot"))
    local plain = require("cli.db").plain(record)
    plain.rows[1].place = { "path" }
    assert(store.commit { { op = "put", db = "credential", key = "bot", version = record.version, plain = plain, keep = true } })
    store.close()
    has(w.ok("credential", "show", "bot"), "sallyport credential set bot --substitute 'value:path=/TEMPLATE{}'")
    w.ok("credential", "set", "bot", "--substitute", "value:path=/bot{}/**")
    lacks(w.ok("credential", "show", "bot"), "refused")
  end),

  ["an agent's share is said and listed, where it has one of its own"] = with_home(function(w)
    w.ok("agent", "add", "a")
    lacks(w.ok("agent", "list"), "REQUESTS")
    local _, note = w.ok("agent", "set", "a", "--requests", "200")
    has(note, "200 requests at once")
    w.ok("agent", "add", "b")
    w.ok("agent", "set", "b", "TENANT=x")
    local out = w.ok("agent", "list")
    assert(out:find("REQUESTS +VARIABLES\n") and out:find("\na [^\n]* 200 *\n") and out:find("\nb [^\n]*TENANT=x"), out)
  end),

  ["a file without MCP servers is answered with how to write them"] = with_home(function(w)
    for _, text in ipairs { '{"server":{}}', "{ // a comment\n}", "[]", "5" } do
      w.refused("no MCP servers in it", "mcp", "import", w.file("m.json", text))
      os.remove(w.dir .. "/m.json")
    end
  end),

  ["a kind of tunnel that is no word of its own takes ="] = with_home(function(w)
    w.refused("--tunnel=raw", "domain", "add", "default", "a.test", "--tunnel", "raw")
  end),

  ["a backup does not overwrite, and says that the key file is apart"] = with_home(function(w)
    add_gh(w)
    local _, note = w.ok("backup", w.dir .. "/one.backup")
    has(note, "/key")
    lacks(host.read_file(w.dir .. "/one.backup", 64 << 20), CANARY)
    w.refused("there already", "backup", w.dir .. "/one.backup")
    w.refused("there is no such folder", "backup", w.dir .. "/none/one.backup")
  end),

  ["keep and attach are checked, shown, explained, and doctor names what they widen"] = with_home(function(w)
    w.refused("attach is always, placeholder", "credential", "add", "gh", "--type", "bearer", "--host", "a.test", "token=@" .. w.key, "attach=own")
    w.refused("always takes off", "credential", "add", "gh", "--type", "bearer", "--host", "a.test", "token=@" .. w.key, "keep=Authorization")
    w.refused("names of headers", "credential", "add", "gh", "--type", "bearer", "--host", "a.test", "token=@" .. w.key, "keep=a:b")
    add_gh(w, "keep=X-Api-Key,token", "attach=placeholder")
    has(w.ok("credential", "show", "gh"), "x-api-key,token")
    has(w.ok("credential", "show", "gh"), "is refused")
    has(w.ok("credential", "show", "gh", "--json"), '"attach": "placeholder"')
    has(w.ok("explain", "GET", "https://api.github.com/"), "is refused (foreign_credential)")
    assert(not w.ok("doctor"):find("placeholder:own", 1, true))
    w.ok("credential", "set", "gh", "attach=placeholder:own", "keep=")
    assert(not w.ok("credential", "show", "gh"):find("keep", 1, true))
    has(w.ok("explain", "GET", "https://api.github.com/"), "goes out as it came")
    has(w.ok("explain", "GET", "https://api.github.com/", "--json"), "goes out as it came")
    has(w.ok("doctor"), "gh lets requests with a key of the agent's own pass (attach=placeholder:own)")
    w.ok("credential", "set", "gh", "attach=always")
    assert(not w.ok("credential", "show", "gh"):find("attach", 1, true))
    w.ok("credential", "set", "gh", "attach=placeholder", "keep=x")
    w.ok("credential", "set", "gh", "--clear", "attach", "--clear", "keep")
    assert(not w.ok("credential", "show", "gh"):find("attach", 1, true))
  end),

  ["doctor runs on a new data directory and finds nothing bad"] = with_home(function(w)
    local out = w.ok("doctor")
    has(out, "key file")
    lacks(out, "\nbad ")
    has(w.ok("doctor", "--json"), '"check"')
  end),

  ["doctor names a key file that others can read"] = with_home(function(w)
    os.execute("chmod 644 '" .. w.home .. "/key'")
    local code, out = w.run("doctor")
    is(code, 1)
    has(out, "has mode 644")
  end),

  ["explain says the decision in JSON and exits 0 whatever it is"] = with_home(function(w)
    add_gh(w)
    w.ok("agent", "add", "a")
    local yes = w.ok("explain", "--agent", "a", "--json", "GET", "https://api.github.com/user")
    has(yes, '"decision": "allow"')
    has(yes, '"credential": "gh"')
    has(w.ok("explain", "--agent", "a", "--json", "GET", "https://elsewhere.test/"), '"decision": "deny"')
    has(w.ok("explain", "--agent", "a", "GET", "https://elsewhere.test/"), "DENY")
    is(w.refused("scheme", "explain", "GET", "api.github.com"), 2)
  end),

  ["explain says what becomes of fields that name another place"] = with_home(function(w)
    w.ok("bundle", "add", "b")
    w.ok("domain", "add", "b", "dav.test", "--method", "GET", "--method", "COPY")
    local function explain(...) return w.ok("explain", "--json", ...) end
    local line = { "COPY", "https://dav.test/a" }
    has(explain("--header", "Destination: https://dav.test/b", table.unpack(line)), '"decision": "allow"')
    has(explain("--header", "Destination: https://other.test/b", table.unpack(line)), '"code": "host_not_allowed"')
    has(explain("--header", "X-Forwarded-Host: a", "--header", "X-Other: b", table.unpack(line)), '"taken_off": [\n    "X-Forwarded-Host"\n  ]')
    has(w.ok("explain", "--header", "X-Path: /a", table.unpack(line)), "off: X-Path")
    is(w.refused("NAME: VALUE", "explain", "--header", "nothing", table.unpack(line)), 2)
  end),

  ["what an agent wrote into a path cannot steer the operator's terminal"] = function()
    local report = require "cli.report"
    is(report.clean("/a\27[2Jb\n"), "/a\\x1b[2Jb\\x0a")
    is(report.clean("\194\155x"), "\\u009bx")
    is(report.clean("ok ä"), "ok ä")
    is(report.clean("\255"), "\\xff")
  end,

  ["JSON is written in order, with arrays that stay arrays when empty"] = function()
    local report = require "cli.report"
    is(report.json_line { b = 1, a = { "x", true }, c = report.array(), d = {} },
      '{"a":["x",true],"b":1,"c":[],"d":{}}')
    is(report.json_line("a\"\\\n\1"), '"a\\"\\\\\\n\\u0001"')
    is(report.json { a = 1 }, '{\n  "a": 1\n}\n')
  end,
}
