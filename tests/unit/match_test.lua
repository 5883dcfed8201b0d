-- policies/match.lua: every rule of DESIGN's step 4, and the paths of attackers. The script is compiled as it is in
-- life, in its sandbox; paths are read by the C core.
local http, paths, policy, sandbox = require "http", require "paths", require "policy", require "sandbox"

local match = assert(policy.compile("match", sandbox.default_source("match")))

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local order = 0
local function item(kind, name, more)
  order = order + 1
  local it = {
    id = kind .. "/" .. name, kind = kind, name = name, bundles = { "default" }, hosts = { "api.test" },
    enabled = true, order = order,
  }
  for k, v in pairs(more or {}) do it[k] = v end
  return it
end
local function credential(name, more) return item("credential", name, more) end
local function domain(host, more)
  more = more or {}
  more.hosts = { host }
  return item("domain", host, more)
end

local function index_of(items)
  local index = match.new()
  for _, it in ipairs(items) do match.add(index, it) end
  return index
end

-- ask(index, "GET https://api.test/v1", { bundles, presents = {ids} }) -> name | "code"
local function question_of(text, more)
  local method, scheme, host, port, path = text:match("^(%S+) (%a+)://([^/:]+):?(%d*)(.*)$")
  local presents = {}
  for _, name in ipairs(more.presents or {}) do presents["credential/" .. name] = true end
  return host, {
    method = method, tls = scheme == "https",
    port = port ~= "" and math.tointeger(tonumber(port)) or scheme == "https" and 443 or 80,
    readings = function(known) return paths.readings(require("paths").ways, path == "" and "/" or path, known) end,
    presents = function(it) return presents[it.id] or false end,
  }
end

local function ask(index, text, more)
  more = more or {}
  local host, q = question_of(text, more)
  local found, second, third = match.decide(match.candidates(index, more.bundles or { "default" }, host, more.holds), q, more.trace)
  if found then return found.name, second, third end
  return second, third
end

local function decides(items, text, want, more)
  local index = index_of(items)
  local got = ask(index, text, more)
  if got ~= want then error(("%s: got %s, wanted %s"):format(text, tostring(got), tostring(want)), 2) end
end

local public = { credential("a", { paths = { "/public" } }) }

local cases = {
  -- ---- hosts
  ["nothing is allowed by default"] = function()
    decides({}, "GET https://api.test/", "host_not_allowed")
  end,
  ["an exact host is that host alone"] = function()
    local items = { credential "a" }
    decides(items, "GET https://api.test/", "a")
    decides(items, "GET https://x.api.test/", "host_not_allowed")
    decides(items, "GET https://test/", "host_not_allowed")
    decides(items, "GET https://xapi.test/", "host_not_allowed")
  end,
  ["a wildcard covers every depth and not the apex"] = function()
    local items = { credential("a", { hosts = { "*.api.test" } }) }
    decides(items, "GET https://x.api.test/", "a")
    decides(items, "GET https://x.y.z.api.test/", "a")
    decides(items, "GET https://api.test/", "host_not_allowed")
    decides(items, "GET https://xapi.test/", "host_not_allowed")
    decides(items, "GET https://x.api.test.evil.test/", "host_not_allowed")
  end,
  ["a star alone never gives a credential away"] = function()
    decides({ credential("a", { hosts = { "*" } }) }, "GET https://api.test/", "host_not_allowed")
  end,
  ["a star anywhere but as the whole leftmost label is no rule"] = function()
    for _, host in ipairs { "a*.test", "api.*.test", "*api.test", "**.test", "*.*.test", "api.test*" } do
      decides({ credential("a", { hosts = { host } }) }, "GET https://api.test/", "host_not_allowed")
      decides({ domain(host) }, "GET https://api.test/", "host_not_allowed")
    end
  end,
  ["an address has no subdomains"] = function()
    decides({ credential("a", { hosts = { "*.0.0.1" } }) }, "GET https://10.0.0.1/", "host_not_allowed")
    decides({ credential("a", { hosts = { "10.0.0.1" } }) }, "GET https://10.0.0.1/", "a")
    local index = index_of { credential("a", { hosts = { "::1" } }) }
    is(#match.candidates(index, { "default" }, "::1"), 1)
  end,
  ["a star domain entry covers every host"] = function()
    decides({ domain "*" }, "GET https://anything.test/", "*")
    decides({ domain "*" }, "GET https://10.0.0.1/", "*")
  end,

  ["a host with a variable is the host of its value, in the bundle that sets it"] = function()
    local items = { credential("a", { hosts = { "${TENANT}.api.test" } }), credential("b", { hosts = { "${TENANT}.api.test" }, bundles = { "other" } }) }
    local set = { default = "acme", other = "globex" }
    local more = { bundles = { "default", "other" }, holds = function(bundle, name, label) return name == "TENANT" and set[bundle] == label end }
    decides(items, "GET https://acme.api.test/", "a", more)
    decides(items, "GET https://globex.api.test/", "b", more)
    for _, host in ipairs { "api.test", "x.api.test", "x.acme.api.test", "acme.api.test.evil.test", "tenant.api.test", "acme.test" } do
      decides(items, "GET https://" .. host .. "/", "host_not_allowed", more)
    end
    decides(items, "GET https://acme.api.test/", "host_not_allowed")
  end,
  ["a variable may stand at any label, once, and nowhere else"] = function()
    local more = { holds = function(_, _, label) return label == "eu" end }
    decides({ credential("a", { hosts = { "api.${REGION}.test" } }) }, "GET https://api.eu.test/", "a", more)
    decides({ credential("a", { hosts = { "api.${REGION}" } }) }, "GET https://api.eu/", "a", more)
    for _, host in ipairs { "${A}", "${A}.${A}", "x${A}.test", "*.${A}.test", "${a}.test", "$${A}.test", "${A.test", "eu${A}" } do
      decides({ credential("a", { hosts = { host } }) }, "GET https://eu.test/", "host_not_allowed", more)
      decides({ credential("a", { hosts = { host } }) }, "GET https://eu.eu/", "host_not_allowed", more)
      decides({ credential("a", { hosts = { host } }) }, "GET https://eu/", "host_not_allowed", more)
    end
    decides({ credential("a", { hosts = { "${A}.0.0.1" } }) }, "GET https://10.0.0.1/", "host_not_allowed", { holds = function() return true end })
  end,
  ["a written host beats one with a variable, and that beats a wildcard"] = function()
    local more = { holds = function() return true end }
    local all = { credential("wide", { hosts = { "*.test" } }), credential("varied", { hosts = { "${T}.test" } }), credential("exact", { hosts = { "api.test" } }) }
    decides(all, "GET https://api.test/", "exact", more)
    decides(all, "GET https://other.test/", "varied", more)
    decides(all, "GET https://a.other.test/", "wide", more)
  end,
  ["hosts with a variable leave the index as they came"] = function()
    local index = index_of { credential("a", { hosts = { "${T}.test", "${U}.test" } }), credential("b", { hosts = { "${T}.test" } }) }
    local more = { holds = function(_, name) return name == "T" end }
    is((ask(index, "GET https://x.test/", more)), "a")
    match.remove(index, "credential/a")
    is((ask(index, "GET https://x.test/", more)), "b")
    match.remove(index, "credential/b")
    is(next(index.bundles.default.credential.varied), nil)
  end,

  -- ---- order
  ["exact beats wildcard, whichever is older"] = function()
    decides({ credential("wide", { hosts = { "*.test" } }), credential "exact" }, "GET https://api.test/", "exact")
    decides({ credential "exact", credential("wide", { hosts = { "*.test" } }) }, "GET https://api.test/", "exact")
  end,
  ["a longer suffix beats a shorter"] = function()
    decides({ credential("short", { hosts = { "*.test" } }), credential("long", { hosts = { "*.api.test" } }) },
      "GET https://x.api.test/", "long")
  end,
  ["a longer path prefix beats a shorter, and one without paths comes last"] = function()
    local items = { credential "all", credential("v1", { paths = { "/v1" } }), credential("deep", { paths = { "/v1/deep" } }) }
    decides(items, "GET https://api.test/v1/deep/x", "deep")
    decides(items, "GET https://api.test/v1/x", "v1")
    decides(items, "GET https://api.test/v2", "all")
  end,
  ["an exact host beats a longer path on a wildcard"] = function()
    decides({ credential("wide", { hosts = { "*.test" }, paths = { "/v1/x" } }), credential "exact" },
      "GET https://api.test/v1/x", "exact")
  end,
  ["among equals the older decides"] = function()
    decides({ credential("b", { order = 1 }), credential("a", { order = 2 }) }, "GET https://api.test/", "b")
    decides({ credential("b", { order = 3 }), credential("a", { order = 3 }) }, "GET https://api.test/", "a")
  end,
  ["among equals a presented placeholder decides"] = function()
    local items = { credential("old", { order = 1 }), credential("mid", { order = 2 }), credential("new", { order = 3 }) }
    decides(items, "GET https://api.test/", "new", { presents = { "new" } })
    decides(items, "GET https://api.test/", "mid", { presents = { "new", "mid" } })
    decides(items, "GET https://api.test/", "old", { presents = { "old", "new" } })
  end,
  ["a placeholder does not lift a credential over a better match"] = function()
    decides({ credential("wide", { hosts = { "*.test" } }), credential "exact" }, "GET https://api.test/", "exact",
      { presents = { "wide" } })
    decides({ credential "all", credential("v1", { paths = { "/v1" } }) }, "GET https://api.test/v1", "v1",
      { presents = { "all" } })
  end,
  ["a placeholder does not allow what its credential does not"] = function()
    decides({ credential("get", { methods = { "GET" } }), credential("post", { methods = { "POST" } }) },
      "POST https://api.test/", "post", { presents = { "get" } })
  end,
  ["nobody asks for placeholders where one credential fits"] = function()
    local index = index_of { credential("get", { methods = { "GET" } }), credential("post", { methods = { "POST" } }) }
    local host, q = question_of("POST https://api.test/", {})
    q.presents = function() error "asked" end
    is(match.decide(match.candidates(index, { "default" }, host), q).name, "post")
  end,
  ["credentials come before domain entries, even wider ones"] = function()
    decides({ domain "api.test", credential("wide", { hosts = { "*.test" } }) }, "GET https://api.test/", "wide")
  end,
  ["a request that no credential covers falls to the domain entry"] = function()
    decides({ domain "api.test", credential("a", { methods = { "POST" } }) }, "GET https://api.test/", "api.test")
    decides({ domain "api.test", credential("a", { paths = { "/v1" } }) }, "GET https://api.test/v2", "api.test")
  end,
  ["bundles decide in the agent's order"] = function()
    local items = { credential("one", { bundles = { "one" } }), credential("two", { bundles = { "two" } }) }
    decides(items, "GET https://api.test/", "one", { bundles = { "one", "two" } })
    decides(items, "GET https://api.test/", "two", { bundles = { "two", "one" } })
    decides(items, "GET https://api.test/", "host_not_allowed", { bundles = { "three" } })
    decides(items, "GET https://api.test/", "host_not_allowed", { bundles = {} })
  end,
  ["a domain entry of an earlier bundle comes before a credential of a later one"] = function()
    decides({ domain("api.test", { bundles = { "one" } }), credential("a", { bundles = { "two" } }) },
      "GET https://api.test/", "api.test", { bundles = { "one", "two" } })
  end,
  ["star domain entries come after everything, in every bundle"] = function()
    local items = { domain("*", { bundles = { "one" } }), credential("a", { bundles = { "two" } }) }
    decides(items, "GET https://api.test/", "a", { bundles = { "one", "two" } })
    items[2] = domain("api.test", { bundles = { "two" }, methods = { "POST" } })
    decides(items, "POST https://api.test/", "api.test", { bundles = { "one", "two" } })
    decides(items, "GET https://api.test/", "*", { bundles = { "one", "two" } })
  end,
  ["the answer names the bundle that decided"] = function()
    local index = index_of { credential("a", { bundles = { "one", "two" } }) }
    local _, bundle = ask(index, "GET https://api.test/", { bundles = { "three", "two", "one" } })
    is(bundle, "two")
  end,

  -- ---- ports and schemes
  ["port 443 unless named"] = function()
    decides({ credential "a" }, "GET https://api.test:8443/", "host_not_allowed")
    decides({ credential("a", { ports = { 8443 } }) }, "GET https://api.test:8443/", "a")
    decides({ credential("a", { ports = { 8443 } }) }, "GET https://api.test/", "host_not_allowed")
    decides({ credential("a", { ports = { 443, 8443 } }) }, "GET https://api.test/", "a")
    decides({ domain "api.test" }, "GET https://api.test:8443/", "host_not_allowed")
  end,
  ["a credential goes over TLS only, unless it says plain_http"] = function()
    decides({ credential "a" }, "GET http://api.test/", "host_not_allowed")
    decides({ credential("a", { ports = { 80 } }) }, "GET http://api.test/", "host_not_allowed")
    decides({ credential("a", { plain_http = true }) }, "GET http://api.test/", "a")
    decides({ credential("a", { plain_http = true }) }, "GET https://api.test/", "a")
    decides({ credential("a", { plain_http = true, ports = { 8080 } }) }, "GET http://api.test/", "host_not_allowed")
    decides({ credential("a", { plain_http = true, ports = { 8080 } }) }, "GET http://api.test:8080/", "a")
  end,
  ["a domain entry goes over plain HTTP on a port it names"] = function()
    decides({ domain "api.test" }, "GET http://api.test/", "host_not_allowed")
    decides({ domain("api.test", { ports = { 80 } }) }, "GET http://api.test/", "api.test")
  end,

  -- ---- methods
  ["a credential without methods takes all, WebSocket too"] = function()
    for _, m in ipairs { "GET", "HEAD", "POST", "DELETE", "PROPFIND", "WEBSOCKET" } do
      decides({ credential "a" }, m .. " https://api.test/", "a")
    end
  end,
  ["GET implies HEAD, and nothing else does"] = function()
    decides({ credential("a", { methods = { "GET" } }) }, "HEAD https://api.test/", "a")
    decides({ credential("a", { methods = { "POST" } }) }, "HEAD https://api.test/", "method_not_allowed")
    decides({ credential("a", { methods = { "HEAD" } }) }, "GET https://api.test/", "method_not_allowed")
    decides({ credential("a", { methods = { "GET" } }) }, "OPTIONS https://api.test/", "method_not_allowed")
  end,
  ["methods are compared as they are written"] = function()
    decides({ credential("a", { methods = { "GET" } }) }, "get https://api.test/", "method_not_allowed")
    decides({ credential("a", { methods = { "GET" } }) }, "list https://api.test/", "method_not_allowed")
    decides({ credential("a", { methods = { "GET" } }) }, "has https://api.test/", "method_not_allowed")
  end,
  ["a method list without WEBSOCKET refuses the upgrade"] = function()
    decides({ credential("a", { methods = { "GET" } }) }, "WEBSOCKET https://api.test/", "method_not_allowed")
    decides({ credential("a", { methods = { "WEBSOCKET" } }) }, "WEBSOCKET https://api.test/", "a")
    decides({ credential("a", { methods = { "WEBSOCKET" } }) }, "GET https://api.test/", "method_not_allowed")
  end,
  ["a domain entry reads only, unless it says more"] = function()
    local items = { domain "api.test" }
    for _, m in ipairs { "GET", "HEAD", "OPTIONS" } do decides(items, m .. " https://api.test/", "api.test") end
    for _, m in ipairs { "POST", "PUT", "DELETE", "WEBSOCKET" } do
      decides(items, m .. " https://api.test/", "method_not_allowed")
    end
    decides({ domain("api.test", { methods = { "POST" } }) }, "GET https://api.test/", "method_not_allowed")
  end,

  -- ---- disabled
  ["a disabled credential decides nothing"] = function()
    decides({ credential("a", { enabled = false }) }, "GET https://api.test/", "service_disabled")
    decides({ credential("a", { enabled = false }), credential "b" }, "GET https://api.test/", "b")
    decides({ credential("a", { enabled = false }), domain "api.test" }, "GET https://api.test/", "api.test")
  end,

  -- ---- paths
  ["/v1 covers /v1 and what is below it, not /v10"] = function()
    local items = { credential("a", { paths = { "/v1" } }) }
    for _, p in ipairs { "/v1", "/v1/", "/v1/x", "/v1/x/y" } do decides(items, "GET https://api.test" .. p, "a") end
    for _, p in ipairs { "/v10", "/v", "/", "", "/V1", "/v1x/y", "/x/v1" } do
      decides(items, "GET https://api.test" .. p, "path_not_allowed")
    end
  end,
  ["a prefix with a slash at its end covers what is below it alone"] = function()
    local items = { credential("a", { paths = { "/v1/" } }) }
    decides(items, "GET https://api.test/v1/x", "a")
    decides(items, "GET https://api.test/v1/", "a")
    decides(items, "GET https://api.test/v1", "path_not_allowed")
  end,
  ["a path covers itself and what is below it, segment by segment"] = function()
    for _, prefix in ipairs { "/v1", "/v1/", "/a/b", "/a" } do
      for _, path in ipairs { "/v1", "/v1/", "/v10", "/v1/x", "/a", "/a/b", "/a/bc", "/a/b/c", "/ab" } do
        local got = ask(index_of { credential("a", { paths = { prefix } }) }, "GET https://api.test" .. path) == "a"
        local want = path == prefix or path:sub(1, #prefix) == prefix and (prefix:sub(-1) == "/" or path:sub(#prefix + 1, #prefix + 1) == "/")
        assert(got == want or prefix == "/v1/", prefix .. " " .. path)
      end
    end
  end,
  ["several paths, and the root is no rule"] = function()
    local items = { credential("a", { paths = { "/x", "/y" } }) }
    decides(items, "GET https://api.test/y/1", "a")
    decides(items, "GET https://api.test/z", "path_not_allowed")
    decides({ credential("a", { paths = { "/x", "/" } }) }, "GET https://api.test/%zz", "a")
  end,
  ["path_not_allowed where the path fails, method_not_allowed where only the method does"] = function()
    local items = { credential("a", { paths = { "/v1" }, methods = { "GET" } }) }
    decides(items, "POST https://api.test/v1", "method_not_allowed")
    decides(items, "POST https://api.test/v2", "path_not_allowed")
    decides(items, "GET https://api.test/v2", "path_not_allowed")
  end,
  ["refusals say what is allowed"] = function()
    local function hint(items, text) return select(2, ask(index_of(items), text)) end
    is(hint({ credential("a", { methods = { "GET" } }) }, "POST https://api.test/"), "allowed here: GET, HEAD")
    is(hint({ credential("a", { paths = { "/v1", "/v2" } }) }, "GET https://api.test/"), "allowed on this host: /v1, /v2")
    is(hint({ credential "a" }, "GET https://api.test:1/"), "allowed on this host: port 443")
    is(hint({ credential("a", { ports = { 80 } }) }, "GET http://api.test/"), "allowed on this host: https")
    is(hint({ credential("a", { enabled = false }) }, "GET https://api.test/"), "the credential a for it is disabled")
    is(hint({}, "GET https://api.test/"), nil)
  end,
  ["service_disabled where a credential that is disabled would fit, and nothing else is there; host_not_allowed where it would not"] = function()
    local off = credential("a", { enabled = false, paths = { "/v1" } })
    decides({ off }, "GET https://api.test/v1", "service_disabled")
    decides({ off }, "GET https://api.test/v2", "host_not_allowed")
    decides({ off }, "GET https://api.test:1/v1", "host_not_allowed")
    decides({ off, credential("b", { paths = { "/v2" } }) }, "GET https://api.test/v1", "path_not_allowed")
  end,
  ["a refusal names nothing of bundles that the agent does not hold"] = function()
    local index = index_of { credential("secret-project", { bundles = { "other" }, enabled = false }) }
    local code, hint = ask(index, "GET https://api.test/")
    is(code, "host_not_allowed")
    is(hint, nil)
  end,

  -- ---- routed: whether the runtime must drop override headers
  ["a decision by host alone is not routed"] = function()
    local function routed(items, text) return select(3, ask(index_of(items), text)) end
    is(routed({ credential "a" }, "POST https://api.test/"), false)
    is(routed({ credential("a", { methods = { "POST" } }) }, "POST https://api.test/"), true)
    is(routed({ credential("a", { paths = { "/v1" } }) }, "POST https://api.test/v1"), true)
    is(routed({ domain "api.test" }, "GET https://api.test/"), true)
    -- another's rule was passed over: an override header could lead there
    is(routed({ credential("a", { methods = { "POST" } }), credential "b" }, "GET https://api.test/"), true)
    is(routed({ credential("a", { paths = { "/v1" } }), credential "b" }, "GET https://api.test/x"), true)
  end,

  -- ---- tunnels
  ["a tunnel entry relays its port"] = function()
    local index = index_of { domain("db.test", { tunnel = true, ports = { 5432 } }) }
    local list = match.candidates(index, { "default" }, "db.test")
    is(match.tunnel(list, 5432).name, "db.test")
    is(match.tunnel(list, 443), nil)
  end,
  ["a tunnel loses to any credential for that host, disabled or for another port"] = function()
    for _, more in ipairs { {}, { enabled = false }, { ports = { 8443 } }, { hosts = { "*.test" } }, { paths = { "/x" } } } do
      local index = index_of { domain("db.test", { tunnel = true }), credential("a", { hosts = more.hosts or { "db.test" },
        enabled = more.enabled, ports = more.ports, paths = more.paths }) }
      is(match.tunnel(match.candidates(index, { "default" }, "db.test"), 443), nil)
    end
  end,
  ["a credential of a bundle that the agent does not hold does not close a tunnel"] = function()
    local index = index_of { domain("db.test", { tunnel = true }),
      credential("a", { hosts = { "db.test" }, bundles = { "other" } }) }
    is(match.tunnel(match.candidates(index, { "default" }, "db.test"), 443).name, "db.test")
  end,
  ["an earlier entry without tunnel keeps the port closed to tunnels"] = function()
    local index = index_of { domain("*", { tunnel = true }), domain "db.test" }
    is(match.tunnel(match.candidates(index, { "default" }, "db.test"), 443), nil)
    is(match.tunnel(match.candidates(index, { "default" }, "other.test"), 443).name, "*")
  end,
  ["what is disabled opens no tunnel: a domain entry, and a bundle with a credential or an entry that reads"] = function()
    local function tunnel(items, off, port)
      local all = match.candidates(index_of(items), { "work", "default" }, "api.test")
      local found = match.tunnel(all, port or 443, off)
      return found and found.name
    end
    local function wide() return domain("*.test", { tunnel = true, ports = { 443, 8443 } }) end
    local function entry(more) return domain("api.test", more) end
    local work = { work = true }
    is(tunnel { wide() }, "*.test")
    is(tunnel({ wide() }, work), "*.test")
    is(tunnel { wide(), entry { enabled = false } }, nil)
    is(tunnel { wide(), entry { enabled = false, tunnel = true } }, nil)
    is(tunnel({ wide(), entry { enabled = false } }, nil, 8443), "*.test")
    is(tunnel({ wide(), credential("a", { bundles = { "work" } }) }, work), nil)
    is(tunnel({ wide(), entry { bundles = { "work" } } }, work), nil)
    is(tunnel({ wide(), entry { bundles = { "work" }, enabled = false } }, work), nil)
    is(tunnel({ wide(), entry { bundles = { "work" } } }, work, 8443), "*.test")
    is(tunnel({ wide(), entry { bundles = { "work" }, tunnel = true } }, work), "*.test")
    is(tunnel { wide(), entry { bundles = { "work" }, tunnel = true } }, "api.test")
    is(tunnel({ wide() }, { default = true }), nil)
    is(tunnel({ entry { tunnel = true, bundles = { "work" }, id = "first" }, entry() }, { default = true }), "api.test")
  end,

  -- ---- changes
  ["an item that changes leaves nothing of itself behind"] = function()
    local index = index_of { credential("a", { paths = { "/v1" }, bundles = { "one", "default" } }) }
    match.add(index, credential("a", { hosts = { "*.new.test" } }))
    is(ask(index, "GET https://api.test/v1"), "host_not_allowed")
    is(ask(index, "GET https://x.new.test/"), "a")
    is(ask(index, "GET https://x.new.test/", { bundles = { "one" } }), "host_not_allowed")
    match.remove(index, "credential/a")
    is(ask(index, "GET https://x.new.test/"), "host_not_allowed")
    is(next(index.items), nil)
    for _, trees in pairs(index.bundles) do
      for _, tree in pairs(trees) do
        for _, kind in ipairs { "exact", "suffix", "any" } do is(next(tree[kind]), nil) end
      end
    end
  end,
  ["removing one of two paths' owners keeps the other"] = function()
    local index = index_of { credential("a", { paths = { "/v1" } }), credential("b", { paths = { "/v1", "/v1/long" } }) }
    match.remove(index, "credential/b")
    is(ask(index, "GET https://api.test/v1/long"), "a")
    match.remove(index, "credential/a")
    is(ask(index, "GET https://api.test/v1"), "host_not_allowed")
  end,
  ["removing what was never added is nothing"] = function()
    match.remove(index_of {}, "credential/none")
  end,

  -- ---- the trace
  ["a trace says why each of the others does not decide"] = function()
    local trace = {}
    local index = index_of {
      credential("a", { methods = { "POST" } }), credential("b", { paths = { "/v1" } }), credential("c", { enabled = false }),
      credential("d", { ports = { 8443 } }), credential "e", credential "f", domain "api.test",
    }
    is(ask(index, "GET https://api.test/x", { trace = trace }), "e")
    local why = {}
    for _, row in ipairs(trace) do why[row.item.name] = row.why end
    is(why.a, "its methods are POST")
    is(why.b, "its paths are /v1")
    is(why.c, "it is disabled")
    is(why.d, "its ports are 8443")
    is(why.e, "it decides")
    is(why.f, "e comes first")
    is(why["api.test"], "e comes first")
  end,
  ["a trace changes no decision"] = function()
    for _, text in ipairs { "GET https://api.test/public/x", "GET https://api.test/public/../x", "GET https://api.test/public/%zz" } do
      local index = index_of(public)
      is(ask(index, text, { trace = {} }), (ask(index, text)))
    end
  end,

  -- ---- cost
  ["ten thousand credentials cost as much as ten, on other hosts, in other bundles and on other paths of this host"] = function()
    local function steps(n)
      local items = {}
      for i = 1, n do
        items[#items + 1] = credential("h" .. i, { hosts = { "h" .. i .. ".test" } })
        items[#items + 1] = credential("b" .. i, { hosts = { "one.test" }, bundles = { "b" .. i } })
        items[#items + 1] = credential("p" .. i, { hosts = { "paths.test" }, paths = { ("/p%05d"):format(i) } })
      end
      items[#items + 1] = credential("it", { hosts = { "one.test" } })
      local index = index_of(items)
      local count = 0
      debug.sethook(function() count = count + 1 end, "", 1)
      ask(index, "GET https://one.test/")
      ask(index, "GET https://h7.test/")
      ask(index, "GET https://paths.test/p00007/x")
      debug.sethook()
      return count
    end
    local few, many = steps(10), steps(3000)
    assert(many <= few * 1.2, ("%d instructions with few, %d with many"):format(few, many))
  end,
}

-- ---- paths of attackers, against a credential restricted to /public --------------------------------------------

local outside = "path_not_allowed"
for path, want in pairs {
  ["/public"] = "a", ["/public/"] = "a", ["/public/x"] = "a", ["/public/x%20y"] = "a", ["/public/a+b"] = "a",
  ["/public/x/../y"] = "a", ["/public/x%2fy"] = "a", ["/public/./x"] = "a", ["/public//x"] = "a", ["/public/x;v=1"] = "a",
  ["/publicity"] = outside, ["/admin"] = outside, ["/"] = outside, ["/Public"] = outside, ["/admin/public"] = outside,
  ["/public/../admin"] = "ambiguous_path", ["/public/%2e%2e/admin"] = "ambiguous_path",
  ["/public/%2E%2e/admin"] = "ambiguous_path", ["/public/.%2e/admin"] = "ambiguous_path",
  ["/public/%252e%252e/admin"] = "ambiguous_path", ["/public/..%2fadmin"] = "ambiguous_path",
  ["/public%2f..%2fadmin"] = "ambiguous_path", ["/public/..%252fadmin"] = "ambiguous_path",
  ["/public/..%5cadmin"] = "ambiguous_path", ["/public/..\\admin"] = "ambiguous_path",
  ["/public/..;/admin"] = "ambiguous_path", ["/public/..;x=1/admin"] = "ambiguous_path",
  ["/public;/../admin"] = "ambiguous_path", ["/public/.//../admin"] = "ambiguous_path",
  ["/admin/../public"] = "ambiguous_path", ["//public"] = "ambiguous_path", ["/public;x"] = "ambiguous_path",
  ["/%70ublic"] = "ambiguous_path", ["/x/../../public"] = "ambiguous_path", ["/public%2fx"] = "ambiguous_path",
  ["/public/%00"] = "ambiguous_path", ["/public/%zz"] = "ambiguous_path", ["/public/%"] = "ambiguous_path",
  ["/public/%2500"] = "ambiguous_path", ["/public/%c0%ae%c0%ae/admin"] = "ambiguous_path",
  ["/public/..%c0%afadmin"] = "ambiguous_path", ["/public/%0d%0ax"] = "ambiguous_path",
} do
  cases["restricted to /public, " .. path .. " is " .. want] = function()
    decides(public, "GET https://api.test" .. path, want)
  end
end

for _, path in ipairs { "/api/v4/projects/group%2Fproj", "/@scope%2fname", "/x/../y", "/%zz", "/a//b", "/a;b", "/public/../x" } do
  cases["where no path rule is at stake, " .. path .. " passes"] = function()
    decides({ credential "a" }, "GET https://api.test" .. path, "a")
    -- a rule of a bundle that is not reached is none
    decides({ credential "a", credential("b", { bundles = { "later" }, paths = { "/v1" } }) },
      "GET https://api.test" .. path, "a", { bundles = { "default", "later" } })
  end
end

cases["where every reading leads to one decision the path passes"] = function()
  local items = { credential("a", { paths = { "/api" } }) }
  decides(items, "GET https://api.test/api/v4/projects/group%2Fproj", "a")
  decides({ credential("a", { paths = { "/x" } }), credential("b") }, "GET https://api.test/@scope%2fname", "b")
  decides({ credential("a", { paths = { "/x" } }), credential("b") }, "GET https://api.test/x/../y", "ambiguous_path")
end

-- ---- slashes within a segment ------------------------------------------------------------------------------------

local project = { credential("a", { paths = { "/api/v4/projects/acme%2Fsite" } }) }
local P = "/api/v4/projects/acme%2Fsite"

for path, want in pairs {
  [P] = "a", ["/api/v4/projects/acme%2fsite"] = "a", [P .. "/"] = "a", [P .. "/issues"] = "a", [P .. "/a/../b"] = "a",
  [P .. "/repository/files/src%2Fmain%2Ec/raw"] = "a", [P .. "/a%2F..%2Fb"] = "a", [P .. "//x"] = "a", [P .. "/x;y=z"] = "a",
  [P .. "/%2541"] = "a", [P .. "/~/~~/%7E"] = "a",
  ["/api/v4/projects/acme/site"] = outside, ["/api/v4/projects/acme%2Fother"] = outside, [P .. "2"] = outside, [P .. "%2Fsub"] = outside,
  ["/api/v4/projects/acme%252Fsite"] = outside, ["/api/v4/projects/%61cme%2Fsite"] = outside, ["/api/v4/projects/acme%2F%2Fsite"] = outside,
  ["/api/v4/projects/acme%2F.%2Fsite"] = outside, ["/api/v4/projects/acme%5Csite"] = outside, ["/api/v4/projects/acme\\site"] = outside,
  ["/api%2Fv4/projects/acme%2Fsite"] = outside, ["//api/v4/projects/acme%2Fsite"] = outside, ["/x/.." .. P] = outside,
  ["/api/v4/projects/acme%2Fsite;x"] = outside, [P .. "\\x"] = outside, [P .. "%2F..%2Fother"] = outside, [P .. "%2f..%2f..%2fuser"] = outside,
  [P .. "/.."] = outside, [P .. "/../acme%2Fother"] = outside, [P .. "/../../other"] = outside, [P .. "/../../../../../x"] = outside,
  [P .. "/../acme%2Fsite/../../user"] = outside, [P .. "/..;/user"] = outside, [P .. "/%2e%2e/user"] = outside,
  [P .. "/%2e%2e%2Fuser"] = outside, [P .. "/..%5cuser"] = outside, [P .. "/..\\user"] = outside, [P .. "/%252e%252e/user"] = outside,
  [P .. "/..%252fuser"] = outside, [P .. "/.//../user"] = outside, [P .. "/%2e%2e/~/user"] = outside, [P .. "/%2e%2e/%7E/user"] = outside,
  [P .. "/../~~/x"] = outside, [P .. "/%01"] = "ambiguous_path", [P .. "/%zz"] = "ambiguous_path", [P .. "/%00"] = "ambiguous_path",
  ["/api/v4/projects/acme\1site"] = "ambiguous_path", ["/api/v4/projects/acme%01site"] = "ambiguous_path",
  ["/api/v4/projects/acme%2501site"] = "ambiguous_path", [P .. "/%c0%ae%c0%ae/x"] = "ambiguous_path",
} do
  cases[("restricted to acme%%2Fsite, %s is %s"):format(path, want)] = function()
    decides(project, "GET https://api.test" .. path, want)
  end
end

cases["a rule with an encoded slash leaves others their paths"] = function()
  local items = { credential("a", { paths = { P } }), credential("all", { paths = { "/api" } }) }
  decides(items, "GET https://api.test" .. P .. "/issues", "a")
  decides(items, "GET https://api.test" .. P .. "/../acme%2Fother", "all")
  decides(items, "GET https://api.test/api/v4/projects/acme%2Fother", "all")
  decides(items, "GET https://api.test" .. P .. "/../../../../x", "ambiguous_path")
  -- the longest counts, and where that does not fit, the shorter
  items = { credential("a", { paths = { P } }), credential("file", { paths = { P .. "/files/a%2Fb" }, methods = { "GET" } }) }
  decides(items, "GET https://api.test" .. P .. "/files/a%2fb/raw", "file")
  decides(items, "POST https://api.test" .. P .. "/files/a%2fb/raw", "a")
  decides(items, "GET https://api.test" .. P .. "/files/a%2Fb/../c", "a")
  -- another bundle's, and another host's, is none of this agent's
  decides({ credential("a", { paths = { "/api/v4/projects/acme" } }), credential("x", { paths = { P }, bundles = { "later" } }),
    credential("y", { paths = { P }, hosts = { "other.test" } }) }, "GET https://api.test" .. P, "ambiguous_path")
  decides({ credential("a", { paths = { "/@scope%2Fname", "/@scope%2Fname/" } }) }, "GET https://api.test/@scope%2fname", "a")
  decides({ credential("a", { paths = { "/b%2Fc/" } }) }, "GET https://api.test/b%2Fc/d", "a")
  decides({ credential("a", { paths = { "/b%2Fc/" } }) }, "GET https://api.test/b%2Fc", outside)
  is(select(2, ask(index_of(project), "GET https://api.test/x")), "allowed on this host: " .. P)
end

cases["a domain entry is kept to its paths, and one of them keeps a tunnel shut"] = function()
  local items = { domain("api.test", { paths = { "/public", "/b%2Fc" } }) }
  decides(items, "GET https://api.test/public/x", "api.test")
  decides(items, "GET https://api.test/b%2fc", "api.test")
  decides(items, "GET https://api.test/x", outside)
  decides(items, "GET https://api.test/public/../x", "ambiguous_path")
  decides(items, "POST https://api.test/public", "method_not_allowed")
  local index = index_of { domain("api.test", { paths = { "/public" } }), domain("*.test", { tunnel = true }) }
  assert(not match.tunnel(match.candidates(index, { "default" }, "api.test"), 443))
  is(match.tunnel(match.candidates(index, { "default" }, "b.test"), 443).name, "*.test")
end

-- Servers as they are: what is decoded first, and what a segment is; each habit on and off.
local function served(path, how)
  local function decoded(s) return (s:gsub("%%(%x%x)", function(x) return string.char(tonumber(x, 16)) end)) end
  if how.backslash then path = path:gsub("\\", "/") end
  if how.parameters then path = path:gsub(";[^/]*", "") end
  for _ = 1, how.first do path = decoded(path) end
  if how.first > 0 and how.backslash then path = path:gsub("\\", "/") end
  if how.first > 0 and how.parameters then path = path:gsub(";[^/]*", "") end
  local out = {}
  for segment in path:gmatch("/([^/]*)") do
    local plain = how.late and decoded(segment) or segment
    if plain == ".." then out[#out] = nil elseif plain ~= "." and not (segment == "" and how.merge) then out[#out + 1] = plain end
  end
  return "/" .. table.concat(out, "/")
end

cases["whatever covers a slash within a segment, no server leaves that segment"] = function()
  local seed, covered = 7, 0
  local function draw(n)
    seed = (seed * 1103515245 + 12345) % (1 << 31)
    return (seed >> 8) % n + 1
  end
  local bits = { "/", "/", "/", "..", "..", ".", "%2F", "%2f", "%2e", "%2E%2e", "%252e", "%252F", "%5c", "\\", ";", ";x", "//", "a", "b",
    "acme%2Fsite", "acme", "~", "%7E", "/..", "/../", "%2F..", "user", "api/v4/projects" }
  local index = index_of(project)
  for _ = 1, 4000 do
    local path = draw(4) > 1 and P or "/api/v4/projects/"
    for _ = 1, draw(7) do path = path .. bits[draw(#bits)] end
    if ask(index, "GET https://api.test" .. path) == "a" then
      covered = covered + 1
      for first = 0, 2 do
        for flags = 0, 15 do
          local how = { first = first, merge = flags & 1 > 0, backslash = flags & 2 > 0, parameters = flags & 4 > 0, late = flags & 8 > 0 }
          local got = served(path, how)
          assert(first == 2 and how.late or got:find("^/api/v4/projects/acme/site%f[/\0]") or got:find("^/api/v4/projects/acme%%2[fF]site%f[/\0]"),
            path .. " is read as " .. got)
        end
      end
    end
  end
  assert(covered > 100, covered)
end

cases["plain paths of an API that takes them in one segment cover that segment too"] = function()
  local function list(...) return table.concat(paths.spread({ ... }, { "/api/v4/projects/", "/api/v4/groups/" }), " ") end
  is(list "/api", "/api")
  is(list "/api/v4/projects/12", "/api/v4/projects/12")
  is(list "/api/v4/projects/acme/site", "/api/v4/projects/acme/site /api/v4/projects/acme%2Fsite")
  is(list "/lab/api/v4/groups/a/b/x", "/lab/api/v4/groups/a/b/x /lab/api/v4/groups/a%2Fb/x /lab/api/v4/groups/a%2Fb%2Fx")
  is(list "/api/v4/projects/acme%2Fsite/issues", "/api/v4/projects/acme%2Fsite/issues /api/v4/projects/acme%2Fsite%2Fissues")
end

return cases
