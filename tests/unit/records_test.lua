local records = require "records"
local here = debug.getinfo(1, "S").source:match("^@(.*)/") or "."
local with_home = dofile(here .. "/fake.lua").with_home

local function refused(value, why, part)
  assert(value == nil, "was accepted: " .. tostring(value))
  assert(type(why) == "string" and (not part or why:find(part, 1, true)), "said: " .. tostring(why))
end

local function is(got, want) assert(got == want, ("got %s, wanted %s"):format(tostring(got), tostring(want))) end

return {
  ["a name is letters, digits, dot, underscore and dash, and begins with one of the first two"] = function()
    is(records.name("gh-2.prod_x"), "gh-2.prod_x")
    for _, bad in ipairs { "", "-x", ".x", "a/b", "a b", "a\n", "ä", ("x"):rep(65), "a=b" } do
      refused(records.name(bad))
    end
  end,

  ["a host rule is a name, an address, or a wildcard for the leftmost labels"] = function()
    is(records.host("API.Example.COM."), "api.example.com")
    is(records.host("*.Example.com"), "*.example.com")
    is(records.host("10.0.0.5"), "10.0.0.5")
    is(records.host("*.test"), "*.test")
    is(records.host("*", true), "*")
  end,

  ["'*' alone is refused for a credential"] = function()
    refused(records.host("*"), select(2, records.host("*")), "every host")
  end,

  ["a wildcard stands nowhere but on the left"] = function()
    for _, bad in ipairs { "api.*.com", "*api.example.com", "**.example.com", "*.*.com", "api.example.*", "*." } do
      refused(records.host(bad))
    end
  end,

  ["a wildcard over a public top label is refused: anybody can register a name there"] = function()
    local host, why = records.host("*.com")
    refused(host, why, "register")
  end,

  ["a wildcard over an address is refused"] = function() refused(records.host("*.10.0.0.1")) end,

  ["a URL or a port in --host is answered with what was meant"] = function()
    local host, why = records.host("https://api.github.com/user")
    refused(host, why, "api.github.com")
    host, why = records.host("api.github.com:8443")
    refused(host, why, "--port 8443")
  end,

  ["ports are 1 to 65535"] = function()
    is(records.port("443"), 443)
    for _, bad in ipairs { "0", "65536", "-1", "4 43", "0x50", "", "443.0", "99999999999999999999" } do
      refused(records.port(bad))
    end
  end,

  ["methods are written in upper case; TRACE and CONNECT never carry anything"] = function()
    is(records.method("get"), "GET")
    is(records.method("websocket"), "WEBSOCKET")
    for _, bad in ipairs { "TRACE", "connect", "GET POST", "", "GE\nT", "G;T" } do refused(records.method(bad)) end
    local m, why, advice = records.method("GTE")
    is(m, "GTE")
    is(why, nil)
    assert(advice:find("GET", 1, true))
    is(select(3, records.method("PROPFIND")), nil)
  end,

  ["a path prefix is plain: decoded, absolute, no dot segments, no query, no star"] = function()
    is(records.path("/v1"), "/v1")
    is(records.path("/"), "/")
    is(records.path("/@scope/x.y"), "/@scope/x.y")
    for _, bad in ipairs { "v1", "", "/a/../b", "/.", "/a//b", "/a?x", "/a#x", "/v1/*", "/%2e", "/a;b", "/a\\b",
      "/a b",
      "/a\0", "/a\n", "/" .. ("x"):rep(1024), "/\255" } do
      refused(records.path(bad))
    end
  end,

  ["a slash within a segment is written %2F, and is the only escape"] = function()
    is(records.path("/api/v4/projects/acme%2fsite"), "/api/v4/projects/acme%2Fsite")
    is(records.path("/@scope%2Fname/x"), "/@scope%2Fname/x")
    is(records.path("/a%2Fb%2Fc/"), "/a%2Fb%2Fc/")
    for _, bad in ipairs { "/%2Fa", "/a%2F", "/a%2F/b", "/a/%2Fb", "/a%2F%2Fb", "/a%2F..%2Fb", "/a%2F.", "/..%2Fa", "/.%2Fa", "/a%252Fb",
      "/a%5Cb", "/a%2Fb%2e", "/a%2", "/%40a%2Fb" } do
      refused(records.path(bad))
    end
    local path, why = records.path("/a%2F")
    refused(path, why, "between two names")
  end,

  ["a path prefix with letters that are sent encoded is refused: no request could be judged by it"] = function()
    local path, why = records.path("/caf\u{e9}")
    refused(path, why, "ASCII")
  end,

  ["a bare address is a range of one"] = function()
    is(records.cidr("10.0.0.5"), "10.0.0.5/32")
    is(records.cidr("10.0.0.0/8"), "10.0.0.0/8")
    refused(records.cidr("localhost"))
  end,

  ["headers that the proxy writes itself cannot be a credential's"] = function()
    is(records.header_name("X-Team"), "x-team")
    for _, bad in ipairs { "Host", "content-length", "Transfer-Encoding", "Connection", "Proxy-Authorization",
      "X-Sallyport-Error", "upgrade", "a b", "a:b", "" } do
      refused(records.header_name(bad))
    end
  end,

  ["times and sizes are numbers with a unit"] = function()
    is(records.duration("90s"), 90)
    is(records.duration("24h"), 86400)
    is(records.duration("2w"), 14 * 86400)
    for _, bad in ipairs { "24", "h", "-1h", "1.5h", "0s", "999999999w", "" } do refused(records.duration(bad)) end
    is(records.size("64m"), 64 << 20)
    is(records.size("1GiB"), 1 << 30)
    is(records.size("4096"), 4096)
    refused(records.size("lots"))
  end,

  ["listeners and connect-to are read and written in one form"] = function()
    is(records.listen("127.0.0.1:7080"), "127.0.0.1:7080")
    is(records.listen("[::1]:0"), "[::1]:0")
    for _, bad in ipairs { "7080", ":7080", "localhost:7080", "127.0.0.1", "127.0.0.1:70800", "::1:7080" } do
      refused(records.listen(bad))
    end
    is(records.connect_to("API.test:443:127.0.0.1:8443"), "api.test:443:127.0.0.1:8443")
    is(records.connect_to("api.test:443:[::1]:8443"), "api.test:443:[::1]:8443")
    is(records.connect_to("::127.0.0.1:8443"), "::127.0.0.1:8443")
    is(records.connect_to("[::1]:443::8443"), "[::1]:443::8443")
    for _, bad in ipairs { "api.test:443:127.0.0.1", "api.test:443", "a:b:c:d", "x:0:y:1", "::1:443:a:1",
      "a:1:b:2:c" } do
      refused(records.connect_to(bad))
    end
  end,

  ["an assignment says where its value comes from"] = function()
    local a = records.assignment("token=@/run/key")
    is(a.name, "token") is(a.from, "file") is(a.value, "/run/key")
    a = records.assignment("token=-")
    is(a.from, "stdin") is(a.value, nil)
    a = records.assignment("token=env:GH_TOKEN")
    is(a.from, "env") is(a.value, "GH_TOKEN")
    a = records.assignment("headers.X-Team=a=b")
    is(a.name, "headers") is(a.key, "X-Team") is(a.from, "literal") is(a.value, "a=b")
    a = records.assignment("password=")
    is(a.from, "literal") is(a.value, "")
  end,

  ["an assignment that cannot be read is not repeated: it may be a secret"] = function()
    for _, bad in ipairs { "ghp_canary7f3a", "=canary7f3a", "a b=canary7f3a", "token=@", "token=env:9x",
      "token=env:" } do
      local a, why = records.assignment(bad)
      refused(a, why)
      assert(not why:find("canary", 1, true), why)
    end
  end,

  ["plain fields get the type that the policy says"] = function()
    is(records.field_value({ name = "ttl", type = "integer" }, "300"), 300)
    refused(records.field_value({ name = "ttl", type = "integer" }, "3e2"))
    is(records.field_value({ name = "on", type = "boolean" }, "no"), false)
    is(table.concat(records.field_value({ name = "scopes", type = "list" }, "read, write  admin"), "|"),
      "read|write|admin")
    local spec = { name = "auth_method", type = "enum", values = { "basic", "post" } }
    is(records.field_value(spec, "post"), "post")
    local v, why = records.field_value(spec, "psot")
    refused(v, why, "post")
    refused(records.field_value({ name = "header" }, "a\nb"))
  end,

  ["a field with a secret part is a secret"] = function()
    is(records.is_secret { name = "token", secret = true }, true)
    is(records.is_secret { name = "account", type = "document",
      split = { email = {}, key = { secret = true } } }, true)
    is(records.is_secret { name = "header" }, false)
  end,

  ["placeholders have the provider's shape"] = function()
    is(require("presets").shape_for("GH_TOKEN"), "ghp_{36}")
    is(require("presets").shape_for(nil, { "api.github.com" }), "ghp_{36}")
    is(require("presets").shape_for("MY_KEY", { "api.acme.test" }), "sp_ph_{32}")
  end,

  ["every shape that we ship can be filled"] = with_home(function()
    local function filled(shape)
      return records.placeholder("a", { name = "c", env = "X", placeholder = assert(records.shape(shape)) })
    end
    for _, env in ipairs { "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GITLAB_TOKEN", "SLACK_APP_TOKEN",
      "TELEGRAM_BOT_TOKEN",
      "DISCORD_TOKEN", "SENDGRID_API_KEY", "POSTMARK_SERVER_TOKEN", "AWS_ACCESS_KEY_ID", "TWINE_PASSWORD", "NOPE" } do
      local text = filled(require("presets").shape_for(env))
      assert(#text > 15 and not text:find("[{}]"), text)
    end
    assert(filled("ghp_{36}"):find("^ghp_" .. ("%w"):rep(36) .. "$"))
    assert(filled("a-{20:hex}-{9:digit}"):find("^a%-" .. ("[%da-f]"):rep(20) .. "%-" .. ("%d"):rep(9) .. "$"))
    assert(filled("{20:upper}"):find("^" .. ("[A-Z2-7]"):rep(20) .. "$"))
    assert(filled("{40:url}{0}"):find("^" .. ("[%w_-]"):rep(40) .. "$"))
    is(#filled("{200}{56}"), 256)
  end),

  ["a placeholder is an agent's and a credential's own, and always the same"] = with_home(function()
    local function of(agent, name) return records.placeholder(agent, { name = name, env = "X" }) end
    is(of("a", "c"), of("a", "c"))
    assert(of("a", "c") ~= of("b", "c") and of("a", "c") ~= of("a", "d"))
    is(of("a", "c"), (require("store").placeholder("sp_ph_{32}", "placeholder/a/c")))
  end),

  ["a placeholder with too little chance, or that a header cannot hold, is refused"] = function()
    for _, bad in ipairs { "fixed", "x{8}", "{32:emoji}", "a b{32}", "a\n{32}", "{999}", '"{32}' } do
      refused(records.shape(bad))
    end
    is(records.shape("acme-{24:hex}"), "acme-{24:hex}")
  end,

  ["a variable that steers a client or the shell is no place for a placeholder"] = function()
    is(records.env_name("GH_TOKEN"), "GH_TOKEN")
    for _, bad in ipairs { "PATH", "LD_PRELOAD", "https_proxy", "NODE_OPTIONS", "SSL_CERT_FILE", "BASH_ENV",
      "9X", "A B", "",
      "X=Y", "npm_config_cafile" } do
      refused(records.env_name(bad))
    end
  end,

  ["the nearest word is the one that was meant, or none"] = function()
    local words = { "credential", "bundle", "agent", "policy", "serve" }
    is(records.nearest("credentail", words), "credential")
    is(records.nearest("cred", words), "credential")
    is(records.nearest("sevre", words), "serve")
    is(records.nearest("xyzzy", words), nil)
    is(records.nearest(("x"):rep(100), words), nil)
  end,

  ["every setting has a check that accepts its own default"] = function()
    for _, s in ipairs(records.setting_list) do
      assert(s.check or s.file, s.name)
      for _, v in ipairs(type(s.default) == "table" and s.default or {}) do is(s.check(v), v) end
    end
    is(records.setting("connect_to").name, "connect-to")
  end,
}
