-- lua/pipeline.lua and lua/config.lua: requests that only note what is done to them, on a store in memory, with the
-- real match.lua and types in their sandbox. What C does with a decision is the wire tests' matter.
local here = debug.getinfo(1, "S").source:match("^@(.*)/") or "."
local fake = dofile(here .. "/fake.lua")
local http, policy, sandbox, json = require "http", require "policy", require "sandbox", require "json"
local pipeline, config, token, errors = require "pipeline", require "config", require "token", require "errors"
local decision = require "cli.decision"
local secret = require "secret.core"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local function has(text, part)
  if not tostring(text):find(part, 1, true) then error(("%s lacks %s"):format(tostring(text), part), 2) end
end

local compiled = {}
local function default(name)
  compiled[name] = compiled[name] or assert(policy.compile(name, sandbox.default_source(name)))
  return compiled[name]
end

-- One worker. options: agents = { name = {bundles} }, spawn = true for a worker that follows in tasks.
local function setting(options)
  options = options or {}
  local s = { world = fake.world(), policies = {}, presented = {}, refreshes = 0, logged = {} }
  s.store = fake.store(s.world)
  local order = 0
  function s.credential(name, more)
    order = order + 1
    local plain = {
      name = name, type = "bearer", hosts = { "api.test" }, bundles = { "default" }, enabled = true, order = order,
      fields = {}, headers = {},
    }
    local sealed = { ["f/token"] = secret.of("token-of-" .. name) }
    for k, v in pairs(more or {}) do
      if k == "secrets" then sealed = v else plain[k] = v end
    end
    return s.store.put("credential", name, plain, sealed)
  end
  function s.domain(bundle, host, more)
    local plain = { bundle = bundle, host = host, created = 1 }
    for k, v in pairs(more or {}) do plain[k] = v end
    s.store.put("bundle", bundle .. "/" .. host, plain)
  end
  function s.agent(name, bundles, more)
    local plain = { name = name, bundles = bundles }
    for k, v in pairs(more or {}) do plain[k] = v end
    s.store.put("agent", "a/" .. name, plain)
    s.store.put("agent", "t/hash-" .. name, { agent = name })
  end
  s.agent("alice", { "default" })

  local fake_policy = setmetatable({
    load = function(name)
      local pol = s.policies[name]
      if pol == nil then return default(name) end
      if type(pol) == "string" then return nil, pol end
      return pol
    end,
    refresh = function(pol, cred, net, deadline) return pol.refresh(cred, net, deadline) end,
    apply = function(pol, req, cred, view) return policy.apply(pol, req, cred, view) end,  -- no task of C's waits here
  }, { __index = policy })
  local records = {
    settings = function() return { echo = s.echo ~= false } end,
    placeholder = function(agent, rec) return rec.env and "ph-" .. agent .. "-" .. rec.name end,
    held = function(agent, rec) return rec.env and { { text = "ph-" .. agent .. "-" .. rec.name, stop = 8 } } or {} end,
    stand_in = function(agent, name, part) return ("st-%s-%s-%s"):format(agent, name, part) end,
    shapes = function() return {} end,
  }
  s.config = config.new {
    store = s.store, records = records, policy = fake_policy, policies = fake_policy, sandbox = sandbox, time = s.world.time,
    keep = secret.keep, acting = secret.acting, parse_url = http.parse_url, path_readings = require("paths").ways,
    spawn = options.spawn and function(fn) return s.world.spawn(fn, "w") end or nil,
    log = function(text) s.logged[#s.logged + 1] = text end,
  }
  local tokens = token.new {
    store = s.store, time = s.world.time, policy = fake_policy, keep = secret.keep, acting = secret.acting, cache = config.cache,
    freeze = config.freeze, net_for = function() return {} end, owner = "w", new_id = function() return "id" end,
    spawn = options.spawn and function(fn) return s.world.spawn(fn, "w") end or nil,
  }
  s.pipeline = pipeline.new {
    config = s.config, tokens = tokens, policy = fake_policy, policies = fake_policy, sandbox = sandbox, store = s.store, records = records,
    time = s.world.time, json = json, parse_url = http.parse_url, path_readings = require("paths").ways,
    log = function(text) s.logged[#s.logged + 1] = text end,
  }

  --- "GET https://api.test/x", { agent, headers, form, … } -> what was decided: { did, code, status, log, headers, … }
  function s.request(text, more)
    more = more or {}
    local method, scheme, host, port, path = text:match("^(%S+) (%a+)://([^/:]+):?(%d*)(.*)$")
    local out = { stripped = {}, headers = {} }
    for k, v in pairs(more.headers or {}) do out.headers[k:lower()] = v end
    local req = {
      method = method, scheme = scheme, host = host, path = path == "" and "/" or path,
      port = port ~= "" and math.tointeger(tonumber(port)) or scheme == "https" and 443 or 80,
      has_body = more.text ~= nil, length = more.text and #more.text, form = more.form or more.own and "origin" or "tunnel", token = more.token or more.agent ~= false and "hash-" .. (more.agent or "alice") or nil,
      websocket = more.websocket or false, id = "1",
    }
    function req.log(_, t) out.log = fake.copy(t); if more.turn then return more.turn() end return more.share ~= false end
    function req.fail(_, status, code, message, hint, opt)
      assert(not out.did, "a second decision")
      out.did, out.status, out.code, out.message, out.hint, out.options = "fail", status, code, message, hint, opt
    end
    local function ends(name)
      return function(_, t)
        assert(not out.did, "a second decision")
        out.did, out.with = name, fake.copy(t)
      end
    end
    req.forward, req.tunnel, req.intercept = ends "forward", ends "tunnel", ends "intercept"
    function req.target() return req.path end
    function req.respond(_, status, kind, body)
      out.did, out.status, out.kind, out.body = "respond", status, kind, body
    end
    function req.presents(_, list)
      for _, h in ipairs(list) do
        if (more.presents or {})[h.text] then return true end
      end
      return false
    end
    function req.strip(_, spec)
      out.routing = spec.routing
      for name in pairs(spec.headers or {}) do
        out.headers[name] = nil
        out.stripped[#out.stripped + 1] = name
      end
      return false
    end
    function req.unstrip() out.untouched = true end
    function req.taken(_, _, _, list)
      for _, name in ipairs(more.keys or {}) do list[#list + 1] = name end
      return list[1] ~= nil
    end
    function req.hide() return true end
    function req.sealed() return false end
    function req.scrub() end
    function req.keep(_, ...) out.kept = table.pack(...) end
    function req.known() end
    function req.read_body() return table.unpack(more.body or { true }) end
    function req.view()
      return { body = more.text, headers = {
        names = function()
          local names = {}
          for n in pairs(out.headers) do names[#names + 1] = n end
          return names
        end,
        set = function(_, n, v) out.headers[n:lower()] = v end,
        get = function(_, n) return out.headers[n:lower()] end,
      } }
    end
    local entry = more.connect and s.pipeline.on_connect or s.pipeline.on_request
    if more.tenant then    -- the door hands it on
      req.token = "connection"
      function req.again() return false end
      entry = function(self) return self:on_tenant(req, more.tenant) end
    end
    local ordinary = (req.form == "tunnel" or req.form == "absolute") and not req.websocket
    local route = ordinary and ("%s %s://%s:%d"):format(method, scheme, host, req.port) or nil
    if options.spawn then
      s.world.spawn(function() entry(s.pipeline, req, req.token, route) end, "w")
      if not more.later then s.world.run(more.run or 1000) end
    else
      entry(s.pipeline, req, req.token, route)
    end
    return out
  end

  function s.code(text, more)
    local out = s.request(text, more)
    return out.did == "fail" and (out.code or out.status) or out.did
  end
  return s
end

local function with_bearer(options)
  local s = setting(options)
  s.credential "gh"
  return s
end

-- A type with a refresh, as the store's policy of the name "oauth".
local function with_oauth(options)
  local s = setting(options)
  local pol = {}
  for k, v in pairs(default "oauth_client_credentials") do pol[k] = v end
  pol.name = "oauth"
  function pol.refresh()
    s.refreshes = s.refreshes + 1
    if s.slow then s.world.time.sleep(s.slow) end
    if s.refuse then return nil, s.refuse end
    return { secrets = { access_token = secret.of("at-" .. s.refreshes) }, expires_at = s.world.time.wall() + 3600 }
  end
  s.policies.oauth = pol
  s.credential("crm", {
    type = "oauth", fields = { token_url = "https://api.test/oauth/token", client_id = "id" },
    secrets = { ["f/client_secret"] = secret.of "s" },
  })
  return s
end

local cases = {
  -- ---- who
  ["an unknown token is 407 on the proxy port, for CONNECT and in absolute form"] = function()
    local s = with_bearer()
    for _, more in ipairs { { form = "absolute" }, { form = "connect", connect = true } } do
      for _, agent in ipairs { false, "nobody" } do
        more.agent = agent
        local out = s.request("GET https://api.test/", more)
        is(out.status, 407)
        is(out.code, "agent_unknown")
        is(out.message, nil)
      end
    end
  end,
  ["a token that has ended is told how, and whose it was stands in the record"] = function()
    local s = with_bearer()
    s.agent("old", { "default" }, { expires_at = s.world.time.wall() })
    s.agent("gone", { "default" }, { revoked = true })
    s.agent("short", { "default" })
    s.store.put("agent", "t/hash-short", { agent = "short", expires_at = s.world.time.wall() })
    s.store.put("agent", "e/hash-spun", { agent = "alice", ended = "rotated", at = 1 })
    for agent, want in pairs { old = "expired", gone = "revoked", short = "expired", spun = "rotated" } do
      for _, more in ipairs { { form = "absolute" }, { form = "connect", connect = true }, { own = true, form = "origin" } } do
        more.agent = agent
        local out = s.request(more.own and "GET http://api.test/discover" or "GET https://api.test/", more)
        is(out.status, 407)
        is(out.code, "agent_" .. want)
        is(out.log.ended, agent == "spun" and "alice" or agent)
        is(out.log.agent, nil)
      end
      local out = s.request("GET https://api.test/", { agent = agent })
      is(out.status, 403)
      is(out.code, "agent_unknown")
      assert(out.message:find(want, 1, true), out.message)
    end
  end,
  ["an unknown token inside a tunnel is 403 agent_unknown, then the end"] = function()
    local out = with_bearer().request("GET https://api.test/", { agent = "nobody" })
    is(out.status, 403)
    is(out.code, "agent_unknown")
    is(out.options.close, true)
  end,
  ["a token or an agent that expired, and one that was revoked, are unknown"] = function()
    local s = with_bearer()
    s.agent("old", { "default" }, { expires_at = s.world.time.wall() })
    s.agent("gone", { "default" }, { revoked = true })
    s.agent("short", { "default" })
    s.store.put("agent", "t/hash-short", { agent = "short", expires_at = s.world.time.wall() + 10 })
    is(s.code("GET https://api.test/", { agent = "old" }), "agent_unknown")
    is(s.code("GET https://api.test/", { agent = "gone" }), "agent_unknown")
    is(s.code("GET https://api.test/", { agent = "short" }), "forward")
    s.world.run(10000)
    is(s.code("GET https://api.test/", { agent = "short" }), "agent_unknown")
  end,
  ["a disabled agent is told so, in a tunnel and on the port, and is what it was once enabled"] = function()
    local s = with_bearer()
    s.agent("alice", { "default" }, { enabled = false })
    local out = s.request "GET https://api.test/"
    is(out.code, "agent_unknown")
    is(out.message, "the agent alice is disabled")
    has(out.hint, "sallyport agent enable alice")
    is(out.options.close, true)
    out = s.request("GET https://api.test/", { form = "absolute" })
    is(out.status, 407)
    is(out.code, "agent_disabled")
    is(out.log.ended, "alice")
    is(decision.explain(s.pipeline, { agent = "alice", method = "GET", url = "https://api.test/" }).message, "the agent alice is disabled")
    s.agent("alice", { "default" }, { enabled = true })
    is(s.code "GET https://api.test/", "forward")
  end,
  ["a disabled bundle gives nothing, and no other bundle of the box takes its place; a disabled domain entry matches nothing"] = function()
    local s = setting()
    s.credential("gh", { bundles = { "one" } })
    s.credential("theirs", { bundles = { "default" }, hosts = { "theirs.test" } })
    s.domain("one", "docs.test")
    s.domain("one", "db.test", { tunnel = true })
    s.agent("alice", { "one" })
    s.agent("bob", { "one", "default" })
    local function connect() return s.request("CONNECT https://db.test:443", { connect = true, form = "connect" }).did end
    is(s.code "GET https://api.test/", "forward")
    is(connect(), "tunnel")
    s.store.put("bundle", "one", { name = "one", enabled = false })
    for _, url in ipairs { "GET https://api.test/", "GET https://docs.test/", "GET https://theirs.test/" } do
      local out = s.request(url)
      is(out.code, "host_not_allowed")
      has(out.hint, "sallyport bundle enable one")
    end
    is(connect(), "intercept")      -- so that the client can read why
    is(s.code("GET https://theirs.test/", { agent = "bob" }), "forward")
    is(s.code("GET https://api.test/", { agent = "bob" }), "host_not_allowed")
    local function explained(agent) return decision.explain(s.pipeline, { agent = agent, method = "GET", url = "https://api.test/" }) end
    for _, agent in ipairs { "alice", false } do is(explained(agent or nil).considered[1].why, "its bundle one is disabled") end
    has(explained("alice").hint, "sallyport bundle enable one")
    s.store.put("bundle", "one", { name = "one", enabled = true })
    s.domain("one", "docs.test", { enabled = false })
    s.domain("one", "db.test", { tunnel = true, enabled = false })
    local out = s.request "GET https://docs.test/"
    is(out.code, "service_disabled")
    has(out.hint, "the domain entry docs.test for it is disabled")
    is(connect(), "intercept")
    s.domain("one", "*")
    is(s.code "GET https://docs.test/", "forward")
  end,
  ["what is disabled opens no tunnel, for a stream that goes on neither, and explain says the same"] = function()
    local s = setting()
    s.domain("wide", "*.test", { tunnel = true })
    s.agent("alice", { "box", "wide" })
    local function relayed()
      local did = s.request("CONNECT https://api.test:443", { connect = true, form = "connect" }).did == "tunnel"
      local stays = s.pipeline:on_rejudge { form = "connect", host = "api.test", port = 443, scheme = "https", token = "hash-alice" }
      local explained = {}
      for i, agent in ipairs { "alice", false } do
        explained[i] = decision.explain(s.pipeline, { agent = agent or nil, method = "POST", url = "https://api.test/x" }).tunnel or false
      end
      is(stays, did)
      is(explained[1], did)
      is(explained[2], did)
      return did
    end
    local function box(on) s.store.put("bundle", "box", { name = "box", enabled = on }) end
    is(relayed(), true)
    for _, kind in ipairs { "credential", "domain" } do
      if kind == "credential" then s.credential("gh", { bundles = { "box" } }) else s.domain("box", "api.test") end
      for _, on in ipairs { true, false } do
        box(on)
        is(relayed(), false)
        is(s.code "POST https://api.test/x", kind == "credential" and on and "forward" or "method_not_allowed")
      end
      s.store.del(kind == "credential" and "credential" or "bundle", kind == "credential" and "gh" or "box/api.test")
      is(relayed(), true)
    end
    for _, on in ipairs { true, false } do
      s.domain("wide", "api.test", { methods = { "GET" }, enabled = on })
      is(relayed(), false)
      is(s.code "POST https://api.test/x", "method_not_allowed")
    end
    s.store.del("bundle", "wide/api.test")
    is(relayed(), true)
  end,
  ["a bundle's own record empties the agents where it was enabled or disabled, and only there"] = function()
    local s = with_bearer()
    s.agent("bob", { "default" })
    local function known() return s.config.agents:get "alice" ~= nil end
    local function put(enabled, more) s.store.put("bundle", "default", { name = "default", enabled = enabled, variables = { A = more } }) end
    is(s.code "GET https://api.test/", "forward")
    put(nil, "x")
    s.store.put("bundle", "other", { name = "other", enabled = false })
    s.config:sync(1e9)
    is(known(), true)
    put(false, "x")
    is(s.code "GET https://api.test/", "host_not_allowed")
    put(false, "y")
    s.config:sync(1e9)
    is(known(), true)
    is(s.config:agent_named("alice").off.default, true)
    -- Bob is read in the moment between the change and the next sync: neither stays.
    put(true, "y")
    s.config:agent_named "bob"
    for _, enabled in ipairs { true, false } do
      put(enabled, "z")
      for _, agent in ipairs { "alice", "bob" } do is(s.code("GET https://api.test/", { agent = agent }), enabled and "forward" or "host_not_allowed") end
    end
  end,
  ["a refusal names five disabled bundles at most, beside the usual hint and match's own"] = function()
    local s, names = setting(), { "default" }
    for i = 1, 7 do
      names[#names + 1] = "b" .. i
      s.store.put("bundle", "b" .. i, { name = "b" .. i, enabled = false })
    end
    s.credential("gh", { ports = { 8443 } })
    s.agent("alice", names)
    local tail = "; disabled among this agent's bundles: b1, b2, b3, b4, b5 and 2 more; the operator can enable them: sallyport bundle enable b1"
    local function hint(url) return s.request(url).hint end
    is(hint "GET https://other.test/", errors.codes.host_not_allowed[3] .. tail)
    has(hint "GET https://other.test/", "POST /v1/proposals")
    is(hint "GET https://api.test/", "allowed on this host: port 8443; " .. errors.LIST .. tail)
    has(decision.explain(s.pipeline, { agent = "alice", method = "GET", url = "https://other.test/" }).hint, "/v1/proposals there asks a person for more" .. tail)
  end,
  ["a revoked agent is unknown at its next request"] = function()
    local s = with_bearer()
    is(s.code "GET https://api.test/", "forward")
    s.agent("alice", { "default" }, { revoked = true })
    is(s.code "GET https://api.test/", "agent_unknown")
  end,
  ["an agent over its share is told so, and costs nothing more"] = function()
    local s = with_oauth()
    is(s.code("GET https://api.test/", { share = false }), "too_many")
    is(s.refreshes, 0)
    is(s.code("GET https://api.test/", { share = false, connect = true }), "too_many")
  end,
  ["a request that waited for its turn is judged again"] = function()
    local s = with_bearer()
    is(s.code "GET https://api.test/", "forward")
    for _, connect in ipairs { false, true } do
      local turns = { "waited", true }
      is(s.code("GET https://api.test/", { connect = connect, turn = function() return table.remove(turns, 1) end }),
        connect and "intercept" or "forward")
    end
    is(s.code("GET https://api.test/", { turn = function()
      s.agent("alice", { "default" }, { revoked = true })
      return "waited"
    end }), "agent_unknown")
  end,

  -- ---- CONNECT
  ["a tunnel is intercepted, also to a host that will be refused"] = function()
    local s = with_bearer()
    is(s.code("CONNECT https://api.test/", { connect = true }), "intercept")
    is(s.code("CONNECT https://unknown.test/", { connect = true }), "intercept")
  end,
  ["a tunnel entry relays, with its addresses, unless a credential covers the host"] = function()
    local s = with_bearer()
    s.domain("default", "db.test", { tunnel = true, ports = { 5432 }, addresses = { "10.0.0.0/8" } })
    s.domain("default", "api.test", { tunnel = true })
    local out = s.request("CONNECT https://db.test:5432", { connect = true })
    is(out.did, "tunnel")
    is(out.with.addresses[1], "10.0.0.0/8")
    is(out.log.reason, "tunnel db.test")
    is(s.code("CONNECT https://db.test:443", { connect = true }), "intercept")
    is(s.code("CONNECT https://api.test:443", { connect = true }), "intercept")
  end,

  -- ---- deciding
  ["a request goes out with its credential, and the agent's own Authorization stays behind"] = function()
    local out = with_bearer().request("GET https://api.test/v1", { headers = { Authorization = "Bearer mine" } })
    is(out.did, "forward")
    assert(require("secret").is(out.headers.authorization))
    is(out.log.credential, "gh")
    is(out.log.bundle, "default")
    is(out.log.agent, "alice")
    is(out.log.decision, "allow")
    is(out.with.watch, false)
    is(out.with.websocket, false)
  end,
  ["what nothing allows is refused, and says what would be"] = function()
    local s = with_bearer()
    local out = s.request "GET https://other.test/"
    is(out.status, 403)
    is(out.code, "host_not_allowed")
    is(out.message, "other.test:443 is not allowed for this agent")
    assert(out.hint)
    is(out.log.decision, "deny")
    is(out.log.reason, "host_not_allowed")
    s.credential("ro", { hosts = { "ro.test" }, methods = { "GET" }, paths = { "/v1" } })
    is(s.code "POST https://ro.test/v1", "method_not_allowed")
    is(s.code "GET https://ro.test/v2", "path_not_allowed")
    is(s.code "GET https://ro.test/v1/..%2f", "ambiguous_path")
    assert(s.request("POST https://ro.test/v1").hint:find("GET, HEAD", 1, true))
  end,
  ["TRACE is refused with 405"] = function()
    local out = with_bearer().request "TRACE https://api.test/"
    is(out.status, 405)
    is(out.code, "trace")
  end,
  ["a domain entry forwards without a credential, and leaves the agent's Authorization alone"] = function()
    local s = setting()
    s.domain("default", "pypi.test", { addresses = { "10.0.0.0/8" } })
    local out = s.request("GET https://pypi.test/", { headers = { authorization = "mine" } })
    is(out.did, "forward")
    is(out.headers.authorization, "mine")
    is(out.with.addresses[1], "10.0.0.0/8")
    is(out.log.credential, nil)
    is(out.routing, true)   -- its methods decided
  end,
  ["a credential's addresses go with its requests"] = function()
    local s = setting()
    s.credential("lan", { addresses = { "192.168.0.0/16" } })
    is(s.request("GET https://api.test/").with.addresses[1], "192.168.0.0/16")
  end,
  ["override headers are stripped where a method or path rule decided, and only there"] = function()
    local s = with_bearer()
    is(s.request("GET https://api.test/").routing, nil)
    s.credential("ro", { hosts = { "ro.test" }, methods = { "GET" } })
    is(s.request("GET https://ro.test/").routing, true)
  end,
  ["an upgrade to WebSocket asks for the method WEBSOCKET"] = function()
    local s = with_bearer()
    s.domain("default", "pypi.test")
    local out = s.request("GET https://api.test/", { websocket = true })
    is(out.did, "forward")
    is(out.with.websocket, true)
    is(s.code("GET https://pypi.test/", { websocket = true }), "method_not_allowed")
    is(s.request("GET https://api.test/").with.websocket, false)
  end,
  ["a method that only calls itself WEBSOCKET is no upgrade"] = function()
    local s = setting()
    s.credential("ws", { methods = { "WEBSOCKET" } })
    is(s.code("GET https://api.test/", { websocket = true }), "forward")
    is(s.code "WEBSOCKET https://api.test/", "method_not_allowed")
    is(s.code "(WEBSOCKET) https://api.test/", "method_not_allowed")
  end,
  ["a presented placeholder chooses between equals"] = function()
    local s = setting()
    s.credential("one", { env = "A" })
    s.credential("two", { env = "B" })
    is(s.request("GET https://api.test/").log.credential, "one")
    is(s.request("GET https://api.test/", { presents = { ["ph-alice-two"] = true } }).log.credential, "two")
    is(s.request("GET https://api.test/", { presents = { ["ph-bob-two"] = true } }).log.credential, "one")
  end,

  -- ---- calls that make further credentials
  ["a call that the type lists is refused, in every spelling, unless the record allows it"] = function()
    local s = setting()
    s.policies.minter = assert(policy.compile("minter", [[return { kind = "type", api = 1, name = "minter", title = "x",
      fields = { { name = "token", secret = true } }, mint = { { method = "POST", path = "/keys", what = "a new key" } },
      apply = function(req, cred) req.headers:set("authorization", "Bearer " .. cred.token) end }]]))
    s.credential("m", { type = "minter" })
    local out = s.request "POST https://api.test/keys"
    is(out.code, "mint_denied")
    is(out.message, "this would make a new key, which the credential m may not")
    is(out.hint, "the operator can allow it: sallyport credential set m mint=allow")
    is(out.log.decision, "deny")
    is(s.code "GET https://api.test/keys", "forward")
    is(s.request("GET https://api.test/keys").routing, true)   -- an override of the method must not make it a POST
    local why = decision.explain(s.pipeline, { agent = "alice", method = "POST", url = "https://api.test/k%65ys" })
    is(why.code, "mint_denied")
    is(why.hint, out.hint)
    is(decision.explain(s.pipeline, { agent = "alice", method = "GET", url = "https://api.test/keys" }).decision, "allow")
    s.credential("m", { type = "minter", mint = "allow" })
    is(s.code "POST https://api.test/keys", "forward")
    is(s.request("GET https://api.test/keys").routing, nil)
  end,
  ["a type's own function judges, and one that breaks refuses"] = function()
    local s = setting()
    local function put(mint)
      s.policies.minter = assert(policy.compile("minter", ([[return { kind = "type", api = 1, name = "minter", title = "x",
        fields = { { name = "token", secret = true } }, mint = function(req, cred) %s end,
        apply = function(req, cred) end }]]):format(mint)))
      s.credential("m", { type = "minter" })
      return s.code "GET https://api.test/"
    end
    is(put "return nil", "forward")
    is(put [[return "a key"]], "mint_denied")
    is(put "return true", "policy_failed")
    is(put "error('x')", "policy_failed")
  end,

  -- ---- attaching
  ["further headers are set, plain and secret, and the agent's own copies stripped"] = function()
    local s = setting()
    s.credential("gh", {
      headers = { ["x-version"] = "2022" },
      secrets = { ["f/token"] = secret.of "t", ["h/x-second"] = secret.of "s2" },
    })
    local out = s.request("GET https://api.test/", { headers = { ["x-second"] = "mine", ["x-version"] = "mine" } })
    is(out.headers["x-version"], "2022")
    assert(require("secret").is(out.headers["x-second"]))
    local all = table.concat(out.stripped, " ")
    assert(all:find("x%-second") and all:find("x%-version") and all:find("authorization"))
  end,
  ["a type whose script does not compile fails by name, and only its own credentials"] = function()
    local s = with_bearer()
    s.credential("other", { hosts = { "other.test" }, type = "api_key", secrets = { ["f/key"] = secret.of "k" } })
    s.policies.api_key = "policies/api_key.lua:1: broken"
    is(s.code "GET https://other.test/", "policy_failed")
    is(s.code "GET https://api.test/", "forward")
  end,
  ["an apply that raises sends nothing, and its text stays here"] = function()
    local s = with_bearer()
    local pol = {}
    for k, v in pairs(default "bearer") do pol[k] = v end
    pol.apply = function() error "what the request said" end
    s.policies.bearer = pol
    local out = s.request "GET https://api.test/"
    is(out.code, "policy_failed")
    is(out.message, 'injection failed ("gh"): its type bearer failed')
    for _, line in ipairs(s.logged) do assert(not line:find("what the request said", 1, true), line) end
  end,
  ["of a script's error the log gets the place, and what Lua says"] = function()
    is(errors.place "policies/x.lua:3: attempt to index a nil value (field 'y')", "policies/x.lua:3: attempt to index a nil value (field 'y')")
    is(errors.place "policies/x.lua:3: canary", "policies/x.lua:3")
    is(errors.place "canary", "script error")
    is(errors.place(nil), "script error")
    is(errors.quote 'a"b\nc', '"a?b?c"')
  end,
  ["settings are acted on when they differ, or when somebody sets one"] = function()
    local s = setting()
    local acted = 0
    s.config.on_settings = function() acted = acted + 1 end
    s.config:load_settings()
    s.code "GET https://api.test/"
    is(acted, 1)
    s.store.put("meta", "set/echo", { value = false })
    s.echo = false
    s.code "GET https://api.test/"
    is(acted, 2)
    is(s.config.echo, false)
  end,
  ["a placeholder that changes counts at the next request"] = function()
    local s = setting()
    s.credential("one")
    s.credential("two")
    is(s.request("GET https://api.test/", { presents = { ["ph-alice-two"] = true } }).log.credential, "one")
    s.credential("two", { env = "B", order = 9 })
    is(s.request("GET https://api.test/", { presents = { ["ph-alice-two"] = true } }).log.credential, "two")
  end,
  ["a credential whose record is damaged is refused by name; the rest serves on"] = function()
    local s = with_bearer()
    s.credential("other", { hosts = { "other.test" } })
    s.store.damaged["credential/gh"] = true
    is(s.code "GET https://api.test/", "host_not_allowed")
    is(s.code "GET https://other.test/", "forward")
    local named = 0
    for _, line in ipairs(s.logged) do named = named + (line:find("record_refused db=credential key=gh", 1, true) and 1 or 0) end
    is(named, 1)
  end,
  ["a credential that is found damaged when its change is followed is named with the reason"] = function()
    local s = with_bearer()
    s.config:sync(0)
    s.store.damaged["credential/gh"] = true
    s.credential "gh"
    is(s.code "GET https://api.test/", "host_not_allowed")
    assert(table.concat(s.logged, "\n"):find("record_refused db=credential key=gh err=damaged", 1, true), table.concat(s.logged, "\n"))
  end,
  ["a credential that is damaged after it was indexed is refused too"] = function()
    local s = with_bearer()
    s.config:sync(0)
    s.store.damaged["credential/gh"] = true
    is(s.code "GET https://api.test/", "injection_failed")
    s.agent("acme", { "default" }, { kind = "tenant" })
    is(s.code("GET https://api.test/", { tenant = "acme" }), "injection_failed")
  end,
  ["a tenant is nobody at the proxy, by a token, a listener, a user or an address; at the door it is"] = function()
    local s = with_bearer()
    s.agent("acme", { "default" }, { kind = "tenant" })
    s.store.put("agent", "d/doors", { uid = { ["7"] = "acme", ["8"] = "alice" }, from = { ["10.0.0.0/8"] = "acme" } })
    for _, token in ipairs { "hash-acme", "=acme", "~acme", "uid:7", "from:10.0.0.1", "via:10.0.0.1" } do
      is(s.code("GET https://api.test/", { token = token }), "agent_unknown", token)
    end
    is(s.code("GET https://api.test/", { token = "uid:8" }), "forward")
    is(s.code("GET https://api.test/", { tenant = "acme" }), "forward")
    is(s.code("GET https://api.test/", { tenant = "alice" }), "agent_unknown")
  end,
  ["a body that a type declares is read first; one too large is 413"] = function()
    local s = with_bearer()
    local pol = {}
    for k, v in pairs(default "bearer") do pol[k] = v end
    pol.body = { max = 10 }
    s.policies.bearer = pol
    is(s.code "POST https://api.test/", "forward")
    is(s.code("POST https://api.test/", { body = { nil, "too_large" } }), "body_too_large")
    is(s.code("POST https://api.test/", { body = { nil, "eof" } }), "bad_request")
  end,
  ["a body without room waits for it, then is told to come again"] = function()
    local s = setting { spawn = true }
    s.credential "gh"
    local pol = {}
    for k, v in pairs(default "bearer") do pol[k] = v end
    pol.body = {}
    s.policies.bearer = pol
    local room = { nil, "no_memory" }
    local waits = s.request("POST https://api.test/", { body = room, run = 5000 })
    is(waits.did, nil)
    room[1], room[2] = true, nil
    s.world.run(1000)
    is(waits.did, "forward")
    local full = s.request("POST https://api.test/", { body = { nil, "no_memory" }, run = 15000 })
    is(full.code, "injection_unavailable")
    assert(full.message:find("no room", 1, true) and full.options.retry_after == 1, full.message)
  end,
  ["of long bodies one is judged at a time, and others have a turn in between"] = function()
    local s = setting { spawn = true }
    s.credential "gh"
    local pol, at = {}, {}
    for k, v in pairs(default "bearer") do pol[k] = v end
    pol.body = { max = 1 << 20 }
    function pol.apply() at[#at + 1] = s.world.time.now() end
    s.policies.bearer = pol
    local all = {}
    for i = 1, 5 do all[i] = s.request("POST https://api.test/", { later = true }) end
    s.world.run(1000)
    for i = 1, 5 do is(all[i].did, "forward") end
    for i = 2, 5 do assert(at[i] > at[i - 1], "two in one turn") end
  end,

  -- ---- variables
  ["a host with a variable is the bundle's, or the agent's own"] = function()
    local s = setting()
    s.credential("wiki", { hosts = { "${TENANT}.api.test" } })
    is(s.code "GET https://acme.api.test/", "host_not_allowed")
    s.store.put("bundle", "default", { name = "default", variables = { TENANT = "Acme" } })
    is(s.code "GET https://acme.api.test/", "forward")
    is(s.code "GET https://globex.api.test/", "host_not_allowed")
    s.agent("bob", { "default" }, { variables = { TENANT = "globex" } })
    is(s.code("GET https://acme.api.test/", { agent = "bob" }), "host_not_allowed")
    is(s.code("GET https://globex.api.test/", { agent = "bob" }), "forward")
    s.store.put("bundle", "default", { name = "default", variables = { TENANT = "a.b" } })
    is(s.code "GET https://acme.api.test/", "host_not_allowed")
    is(s.code "GET https://a.b.api.test/", "host_not_allowed")
    s.store.put("agent", "a/bob", { name = "bob", bundles = { "default" }, variables = { TENANT = "initech" } })
    is(s.code("GET https://globex.api.test/", { agent = "bob" }), "host_not_allowed")
    is(s.code("GET https://initech.api.test/", { agent = "bob" }), "forward")
  end,
  ["another bundle's variable counts for nothing"] = function()
    local s = setting()
    s.agent("carol", { "other", "default" })
    s.credential("wiki", { hosts = { "${TENANT}.api.test" } })
    s.store.put("bundle", "other", { name = "other", variables = { TENANT = "acme" } })
    is(s.code("GET https://acme.api.test/", { agent = "carol" }), "host_not_allowed")
    s.credential("wiki2", { hosts = { "${TENANT}.api.test" }, bundles = { "other" } })
    is(s.code("GET https://acme.api.test/", { agent = "carol" }), "forward")
  end,
  ["fields and header values are each agent's, and change with the next request"] = function()
    local s = setting()
    s.credential("key", { type = "api_key", hosts = { "api.test" }, fields = { header = "x-key", prefix = "${WS}:" },
      headers = { ["x-workspace"] = "ws-${WS} $${WS}" }, secrets = { ["f/key"] = secret.of "k" } })
    local out = s.request "GET https://api.test/"
    is(out.code, "injection_failed")
    has(out.message, "WS")
    s.store.put("bundle", "default", { name = "default", variables = { WS = "one" } })
    s.agent("bob", { "default" }, { variables = { WS = "two" } })
    for _ = 1, 2 do
      is(s.request("GET https://api.test/").headers["x-workspace"], "ws-one ${WS}")
      is(s.request("GET https://api.test/", { agent = "bob" }).headers["x-workspace"], "ws-two ${WS}")
    end
    s.store.put("bundle", "default", { name = "default", variables = { WS = "three" } })
    is(s.request("GET https://api.test/").headers["x-workspace"], "ws-three ${WS}")
    is(s.request("GET https://api.test/", { agent = "bob" }).headers["x-workspace"], "ws-two ${WS}")
    is(s.config:open("key").variants.count, 3)
  end,
  ["values are judged by the type again"] = function()
    local s = setting()
    s.credential("key", { type = "api_key", fields = { header = "x-${WS}" }, secrets = { ["f/key"] = secret.of "k" } })
    s.store.put("bundle", "default", { name = "default", variables = { WS = "a b" } })
    local out = s.request "GET https://api.test/"
    is(out.code, "injection_failed")
    has(out.message, "header")
    s.store.put("bundle", "default", { name = "default", variables = { WS = "a" } })
    local good = s.request("GET https://api.test/")
    is(good.did, "forward")
    assert(good.headers["x-a"])
  end,
  ["the credentials kept for sets of values are bounded"] = function()
    local s = setting()
    s.credential("h", { headers = { ["x-ws"] = "${WS}" } })
    for i = 1, 200 do
      s.agent("a" .. i, { "default" }, { variables = { WS = "w" .. i } })
      is(s.request("GET https://api.test/", { agent = "a" .. i }).headers["x-ws"], "w" .. i)
    end
    assert(s.config:open("h").variants.count <= 64)
  end,
  ["a type with a refresh takes variables in headers, and in no field"] = function()
    local s = with_oauth { spawn = true }
    s.store.put("bundle", "default", { name = "default", variables = { WS = "one" } })
    s.credential("crm2", { type = "oauth", hosts = { "b.test" }, headers = { ["x-ws"] = "${WS}" },
      fields = { token_url = "https://auth.test/token", client_id = "id" }, secrets = { ["f/client_secret"] = secret.of "s" } })
    local out = s.request "GET https://b.test/"
    is(out.did, "forward")
    is(out.headers["x-ws"], "one")
    s.credential("crm3", { type = "oauth", hosts = { "c.test" },
      fields = { token_url = "https://auth.test/token", client_id = "${WS}" }, secrets = { ["f/client_secret"] = secret.of "s" } })
    is(s.code "GET https://c.test/", "injection_failed")
  end,
  ["an edited match.lua cannot send a credential to a tenant that is not the agent's"] = function()
    local s = setting()
    s.credential("wiki", { hosts = { "${TENANT}.api.test" } })
    s.store.put("bundle", "default", { name = "default", variables = { TENANT = "acme" } })
    local edited = {}
    for k, v in pairs(default "match") do edited[k] = v end
    edited.candidates = function(index, bundles, host) return default("match").candidates(index, bundles, host, function() return true end) end
    s.policies.match = edited
    is(s.code "GET https://acme.api.test/", "forward")
    is(s.code "GET https://evil.api.test/", "policy_failed")
  end,
  ["a stream ends when the variable that led it there changes"] = function()
    local s = setting()
    s.credential("wiki", { hosts = { "${TENANT}.api.test" } })
    s.store.put("bundle", "default", { name = "default", variables = { TENANT = "acme" } })
    local info = { token = "hash-alice", host = "acme.api.test", port = 443, scheme = "https", form = "tunnel", method = "GET",
      path = "/", bundle = "default", credential = "wiki" }
    is(s.pipeline:on_rejudge(info), true)
    s.store.put("bundle", "default", { name = "default", variables = { TENANT = "globex" } })
    is(s.pipeline:on_rejudge(info), false)
  end,
  ["explain names the variable that is missing, or has another value"] = function()
    local s = setting()
    s.credential("wiki", { hosts = { "${TENANT}.api.test" } })
    local function why(agent)
      local d = decision.explain(s.pipeline, { agent = agent, method = "GET", url = "https://acme.api.test/" })
      return d.considered[1] and d.considered[1].why or d.decision, d
    end
    is(why "alice", "its variable TENANT is not set in default")
    is(why(nil), "its variable TENANT is not set in default")
    s.agent("bob", { "default" }, { variables = { TENANT = "globex" } })
    is(why "bob", "its variable TENANT is globex")
    s.agent("eve", { "default" }, { variables = { TENANT = "a.b" } })
    is(why "eve", "the value of its variable TENANT is no label of a host")
    s.store.put("bundle", "default", { name = "default", variables = { TENANT = "acme" } })
    is(why "alice", "it decides")
    is(select(2, why "alice").credential, "wiki")
    s.credential("wiki", { hosts = { "${TENANT}.api.test" }, headers = { ["x-ws"] = "${WS}" } })
    local _, d = why "alice"
    is(d.code, "injection_failed")
    has(d.message, "WS")
  end,
  ["discover shows the hosts as they are for the agent"] = function()
    local s = setting { spawn = true }
    s.credential("wiki", { hosts = { "${TENANT}.api.test", "api.test" } })
    s.credential("only", { hosts = { "${TENANT}.b.test" } })
    local function allowed()
      local list = {}
      local body = s.request("GET http://proxy/discover", { own = true, form = "origin" }).body
      for _, e in ipairs(json.decode(body).allowed) do
        for _, h in ipairs(e.hosts) do list[#list + 1] = e.credential .. "=" .. h end
      end
      table.sort(list)
      return table.concat(list, " ")
    end
    is(allowed(), "wiki=api.test")
    s.store.put("bundle", "default", { name = "default", variables = { TENANT = "acme" } })
    is(allowed(), "only=acme.b.test wiki=acme.api.test wiki=api.test")
  end,

  ["an answer's Date is read in the one form that is sent"] = function()
    local date = require("dates").parse
    is(date "Sun, 06 Nov 1994 08:49:37 GMT", 784111777)   -- RFC 9110 5.6.7
    is(date "Thu, 01 Jan 1970 00:00:00 GMT", 0)
    is(date "Tue, 29 Feb 2000 23:59:59 GMT", 951868799)
    is(date "Wed, 01 Mar 2028 00:00:00 GMT", 1835481600)
    for _, text in ipairs { "", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 1994 08:49:37 +0000" } do
      is(date(text), nil)
    end
  end,

  -- ---- the echo host
  ["the echo host answers for the demo credential alone"] = function()
    local s = setting()
    s.credential("demo", { hosts = { "echo.sallyport.test" }, demo = true })
    local out = s.request("POST https://echo.sallyport.test/a", { text = "b\0\255" })
    is(out.did, "respond")
    is(secret.is(out.body), true)
    local t = setting()
    t.credential("mine", { hosts = { "*.sallyport.test" } })
    is(t.code "GET https://echo.sallyport.test/", "host_not_allowed")
    t.domain("default", "echo.sallyport.test")
    t.credential("mine", { hosts = { "other.test" } })
    is(t.code "GET https://echo.sallyport.test/", "host_not_allowed")
  end,
  ["with echo off it is a host like any other"] = function()
    local s = setting()
    s.echo = false
    s.credential("demo", { hosts = { "echo.sallyport.test" }, demo = true })
    is(s.code "GET https://echo.sallyport.test/", "forward")
  end,

  -- ---- tokens
  ["a type with refresh waits for its token and is watched"] = function()
    local s = with_oauth { spawn = true }
    s.slow = 300
    local out = s.request "GET https://api.test/v1"
    is(out.did, "forward")
    is(out.with.watch, true)
    is(s.refreshes, 1)
    s.request "GET https://api.test/v1"
    is(s.refreshes, 1)
  end,
  ["the token endpoint never gets the credential, in no spelling of its path"] = function()
    local s = with_oauth()
    for _, path in ipairs { "/oauth/token", "/oauth//token", "/x/../oauth/token", "/oauth/%74oken", "/oauth/token;x", "/oauth/token%zz" } do
      is(s.code("POST https://api.test" .. path), "token_endpoint")
    end
    is(s.refreshes, 0)
    for _, path in ipairs { "/oauth/token2", "/oauth", "/oauth/token/x", "/" } do
      is(s.code("POST https://api.test" .. path), "forward")
    end
    s.credential("crm", { type = "oauth", fields = { token_url = "https://api.test/oauth/token/", client_id = "id" },
      secrets = { ["f/client_secret"] = secret.of "s" } })
    for _, path in ipairs { "/oauth/token", "/oauth/token/", "/oauth/token//" } do
      is(s.code("POST https://api.test" .. path), "token_endpoint")
    end
  end,
  ["a token request that presents a stand-in is answered here, with a stand-in"] = function()
    local s = with_oauth()
    local form = { ["content-type"] = "application/x-www-form-urlencoded; charset=utf-8" }
    local base64 = secret.base64
    s.credential("named", { type = "oauth", env = "CRM_SECRET", secrets = { ["f/client_secret"] = secret.of "s" },
      fields = { token_url = "https://api.test/oauth/token", client_id = "id" } })
    is(s.request("POST https://api.test/oauth/token", { headers = form, text = "client_secret=ph-alice-named" }).log.credential, "named")
    for what, more in pairs {
      form = { headers = form, text = "grant_type=client_credentials&client_id=id&client_secret=st-alice-crm-client_secret&scope=a" },
      basic = { headers = { ["content-type"] = form["content-type"],
        authorization = "Basic " .. base64("id:st-alice-crm-client_secret") }, text = "grant_type=client_credentials&scope=a" },
      json = { headers = { ["content-type"] = "application/json" }, text =
        '{"grant_type":"refresh_token","refresh_token":"st-alice-crm-refresh_token","scope":"a","n":1}' },
    } do
      local out = s.request("POST https://api.test/oauth/token", more)
      is(out.did, "respond")
      is(out.status, 200)
      is(out.log.credential, "crm")
      local body = json.decode(out.body)
      is(body.access_token, "st-alice-crm-access_token")
      is(body.refresh_token, what == "json" and "st-alice-crm-refresh_token" or nil)
      is(body.expires_in, 20 * 86400)
      is(body.scope, "a")
    end
    is(s.refreshes, 2)   -- each type names members of the real answer: it was asked, once
  end,
  ["what is nobody's stand-in, another agent's, or spelt otherwise, is an ordinary request without the credential"] = function()
    local s = with_oauth()
    local form = { ["content-type"] = "application/x-www-form-urlencoded" }
    local others = {
      { headers = form, text = "client_id=id&client_secret=real" },
      { headers = form, text = "client_id=id&client_secret=st-bob-crm-client_secret" },
      { headers = form, text = "client_secret=st-alice-crm-client_secret&client_secret=x" },
      { headers = {}, text = "client_secret=st-alice-crm-client_secret" },
      { headers = { ["content-type"] = "application/json" }, text = '["st-alice-crm-client_secret"]' },
      { headers = { ["content-type"] = "application/json" }, text = '{"client_secret":' },
      { headers = form, text = "assertion=a.b.c" },
      { headers = { authorization = "Bearer st-alice-crm-client_secret" }, text = "" },
    }
    for _, more in ipairs(others) do
      is(s.code("POST https://api.test/oauth/token", more), "token_endpoint")
    end
    is(s.code("GET https://api.test/oauth/token"), "token_endpoint")
    is(s.code("POST https://api.test/oauth/token", { body = { nil, "too_large" } }), "body_too_large")
    s.domain("default", "api.test", { methods = { "POST", "PUT", "PATCH", "DELETE" } })
    for _, more in ipairs(others) do
      local out = s.request("POST https://api.test/oauth/token", more)
      is(out.did, "forward")
      is(out.log.credential, nil)
    end
    is(s.refreshes, 0)
  end,
  ["two credentials at one endpoint: each is known by its own stand-in, in the token request and in calls"] = function()
    local s = with_oauth()
    s.credential("erp", {
      type = "oauth", fields = { token_url = "https://api.test/oauth/token", client_id = "id", scopes = { "a", "b" } },
      secrets = { ["f/client_secret"] = secret.of "s" },
    })
    local form = { ["content-type"] = "application/x-www-form-urlencoded" }
    for _, name in ipairs { "crm", "erp" } do
      local out = s.request("POST https://api.test/oauth/token",
        { headers = form, text = ("client_secret=st-alice-%s-client_secret&scope=b+c"):format(name) })
      is(out.did, "respond")
      is(out.log.credential, name)
      local answer = json.decode(out.body)
      is(answer.access_token, ("st-alice-%s-access_token"):format(name))
      is(answer.scope, name == "erp" and "b" or "b c")    -- no more than the account has
      is(s.request("GET https://api.test/v1", { presents = { [answer.access_token] = true } }).log.credential, name)
      is(s.request("GET https://api.test/v1", { presents = { [secret.base64url(answer.access_token)] = true } }).log.credential, name)
    end
    is(s.code("POST https://api.test/oauth/token", { headers = form, text = "client_secret=st-alice-hr-client_secret" }), "token_endpoint")
    is(s.refreshes, 2)
  end,
  ["a stand-in counts while its credential is enabled, in the agent's bundles, and there"] = function()
    local s = with_oauth()
    local more = { headers = { ["content-type"] = "application/x-www-form-urlencoded" }, text = "client_secret=st-alice-crm-client_secret" }
    local function put(change)
      local plain = { type = "oauth", fields = { token_url = "https://api.test/oauth/token", client_id = "id" },
        secrets = { ["f/client_secret"] = secret.of "s" } }
      for k, v in pairs(change) do plain[k] = v end
      s.credential("crm", plain)
      return s.code("POST https://api.test/oauth/token", more)
    end
    is(put {}, "respond")
    is(put { enabled = false }, "service_disabled")
    is(put { bundles = { "other" } }, "host_not_allowed")
    is(put { fields = { token_url = "https://login.test/oauth/token", client_id = "id" } }, "forward")
    is(s.code("POST https://login.test/oauth/token", more), "respond")
    is(put { type = "bearer", fields = {}, secrets = { ["f/token"] = secret.of "t" } }, "forward")
    is(s.code("POST https://login.test/oauth/token", more), "host_not_allowed")
    is(put {}, "respond")
    is(s.code("POST http://api.test/oauth/token", more), "host_not_allowed")
    is(s.code("POST https://api.test:8443/oauth/token", more), "host_not_allowed")
    for _, path in ipairs { "/oauth/token/", "//oauth/token", "/oauth//token/", "/oauth/%74oken", "/oauth/./token", "/oauth/token;x" } do
      is(s.code("POST https://api.test" .. path, more), "token_endpoint")
    end
    s.store.del("credential", "crm")
    is(s.code("POST https://api.test/oauth/token", more), "host_not_allowed")
  end,
  ["bytes that are no UTF-8 are nobody's stand-in, and an edited match.lua cannot bring the credential back in"] = function()
    local s = with_oauth()
    local form = { ["content-type"] = "application/x-www-form-urlencoded" }
    local secret_part = "client_secret=st-alice-crm-client_secret"
    is(s.code("POST https://api.test/oauth/token", { headers = form, text = secret_part .. "&scope=%ff" }), "token_endpoint")
    is(s.code("POST https://api.test/oauth/token", { headers = form, text = secret_part .. "&x=%zz" }), "token_endpoint")
    is(s.code("POST https://api.test/oauth/token", { headers = form, text = ("a=1&"):rep(15000) .. secret_part }), "token_endpoint")
    local match = {}
    for k, v in pairs(default "match") do match[k] = v end
    function match.decide(list, question, trace)
      question.skips = nil
      return default("match").decide(list, question, trace)
    end
    s.policies.match = match
    s.store.put("policy", "match", { name = "match" })
    local out = s.request "POST https://api.test/oauth/token"
    is(out.code, "token_endpoint")
    is(s.refreshes, 0)
  end,
  ["explain at a token endpoint says who answers there, and what a domain entry lets through"] = function()
    local s = with_oauth()
    s.credential("far", { type = "oauth", hosts = { "far.test" }, fields = { token_url = "https://login.test/t", client_id = "id" },
      secrets = { ["f/client_secret"] = secret.of "s" } })
    for url, name in pairs { ["https://api.test/oauth/token"] = "crm", ["https://login.test/t"] = "far" } do
      local r = decision.explain(s.pipeline, { agent = "alice", method = "POST", url = url })
      is(r.code, "token_endpoint")
      has(r.message, name)
      has(r.hint, "credential sandbox-file " .. name)
      is(r.considered[1].name, name)
      is(#r.considered, 1)
    end
    has(decision.explain(s.pipeline, { agent = "alice", method = "GET", url = "https://login.test/t" }).hint, "call the API")
    s.domain("default", "login.test", { methods = { "POST" } })
    local r = decision.explain(s.pipeline, { agent = "alice", method = "POST", url = "https://login.test/t" })
    is(r.decision, "allow")
    has(r.message, "credential sandbox-file far")
    is(decision.explain(s.pipeline, { agent = "alice", method = "POST", url = "https://login.test/x" }).message, nil)
  end,
  ["another port of that host is another endpoint"] = function()
    local s = with_oauth()
    s.credential("crm", {
      type = "oauth", ports = { 443, 8443 }, fields = { token_url = "https://api.test/oauth/token", client_id = "id" },
      secrets = { ["f/client_secret"] = secret.of "s" },
    })
    is(s.code "POST https://api.test:8443/oauth/token", "forward")
    is(s.code "POST https://api.test/oauth/token", "token_endpoint")
  end,
  ["a refused refresh is 502 and names the credential; one that passes is 503 with Retry-After"] = function()
    local s = with_oauth()
    s.refuse = "invalid_client"
    local out = s.request "GET https://api.test/"
    is(out.status, 502)
    is(out.code, "oauth_refresh_failed")
    is(out.message, "credential crm: the token endpoint answers invalid_client")
    local t = with_oauth()
    t.refuse = "timeout"
    out = t.request "GET https://api.test/"
    is(out.status, 503)
    is(out.code, "injection_unavailable")
    assert(out.options.retry_after >= 1)
  end,
  ["what was taken away while a request waited is not sent"] = function()
    for how, want in pairs {
      remove = "host_not_allowed", disable = "service_disabled", hosts = "host_not_allowed", revoke = "agent_unknown", pause = "agent_unknown", off = "host_not_allowed",
      secret = "forward",
    } do
      local s = with_oauth { spawn = true }
      s.slow = 300
      local out = s.request("GET https://api.test/", { later = true })
      s.world.run(100)
      if how == "remove" then s.store.del("credential", "crm")
      elseif how == "revoke" then s.agent("alice", { "default" }, { revoked = true })
      elseif how == "pause" then s.agent("alice", { "default" }, { enabled = false })
      elseif how == "off" then s.store.put("bundle", "default", { name = "default", enabled = false })
      else
        s.credential("crm", {
          type = "oauth", enabled = how ~= "disable", hosts = { how == "hosts" and "new.test" or "api.test" },
          fields = { token_url = "https://api.test/oauth/token", client_id = "id" },
          secrets = { ["f/client_secret"] = secret.of "s" },
        })
      end
      s.world.run(2000)
      if (out.code or out.did) ~= want then error(("%s: got %s, wanted %s"):format(how, out.code or out.did, want)) end
      is(out.headers.authorization == nil, want ~= "forward")
      -- the first answer was earned by a record that is gone
      is(s.refreshes, want == "forward" and 2 or 1)
    end
  end,
  ["an unrelated change does not disturb a request that waits"] = function()
    local s = with_oauth { spawn = true }
    s.slow = 300
    local out = s.request("GET https://api.test/", { later = true })
    s.world.run(100)
    s.credential("another", { hosts = { "another.test" } })
    s.world.run(2000)
    is(out.did, "forward")
  end,
  ["a 401 drops the token, and the next request refreshes"] = function()
    local s = with_oauth()
    s.request "GET https://api.test/"
    s.world.run(60000)
    s.pipeline:on_answer("crm", 401, nil)
    s.request "GET https://api.test/"
    is(s.refreshes, 2)
    s.pipeline:on_answer("gone", 401, nil)
  end,

  -- ---- following the store
  ["a credential added, changed, disabled and removed is in force at the next request"] = function()
    local s = setting()
    is(s.code "GET https://api.test/", "host_not_allowed")
    s.credential "gh"
    is(s.code "GET https://api.test/", "forward")
    s.credential("gh", { enabled = false })
    is(s.code "GET https://api.test/", "service_disabled")
    s.credential("gh", { hosts = { "new.test" } })
    is(s.code "GET https://api.test/", "host_not_allowed")
    is(s.code "GET https://new.test/", "forward")
    s.store.del("credential", "gh")
    is(s.code "GET https://new.test/", "host_not_allowed")
  end,
  ["domain entries and an agent's bundles follow too"] = function()
    local s = setting()
    s.domain("extra", "pypi.test")
    is(s.code "GET https://pypi.test/", "host_not_allowed")
    s.agent("alice", { "default", "extra" })
    is(s.code "GET https://pypi.test/", "forward")
    s.store.del("bundle", "extra/pypi.test")
    is(s.code "GET https://pypi.test/", "host_not_allowed")
  end,
  ["a change is followed by its record, not by reading everything again"] = function()
    local s = setting()
    for i = 1, 200 do s.credential("c" .. i, { hosts = { "h" .. i .. ".test" } }) end
    s.code "GET https://h1.test/"
    local before = s.store.reads
    s.credential("c7", { hosts = { "new.test" } })
    is(s.code "GET https://new.test/", "forward")
    assert(s.store.reads - before < 15, s.store.reads - before)
  end,
  ["after too many changes the index is built anew"] = function()
    local s = with_bearer()
    s.code "GET https://api.test/"
    for i = 1, 60 do s.credential("c" .. i, { hosts = { "h" .. i .. ".test" } }) end
    s.store.del("credential", "gh")
    is(s.code "GET https://h60.test/", "forward")
    is(s.code "GET https://api.test/", "host_not_allowed")
  end,
  ["one task follows for all who wait, in slices"] = function()
    local s = setting { spawn = true }
    for i = 1, 300 do s.credential("c" .. i, { hosts = { "h" .. i .. ".test" } }) end
    local spawned, spawn = 0, s.config.spawn
    s.config.spawn = function(fn) spawned = spawned + 1; return spawn(fn) end
    local all = {}
    for i = 1, 20 do all[i] = s.request("GET https://h" .. i .. ".test/", { later = true }) end
    s.world.run(1000)
    for i = 1, 20 do is(all[i].did, "forward") end
    is(spawned, 1)
  end,
  ["requests are served while the index follows later changes"] = function()
    local s = setting { spawn = true }
    s.credential "gh"
    is(s.code "GET https://api.test/", "forward")
    for round = 1, 20 do
      s.credential("c" .. round, { hosts = { "h" .. round .. ".test" } })
      is(s.code("GET https://h" .. round .. ".test/"), "forward")
    end
  end,
  ["a store that cannot be read is 503"] = function()
    local s = with_bearer()
    s.store.unreadable = true
    is(s.code "GET https://api.test/", "store_unavailable")
    is(s.code("CONNECT https://api.test/", { connect = true }), "store_unavailable")
  end,
  ["a secret that changes is not sent to where only the old record sent it"] = function()
    local s = with_bearer()
    s.code "GET https://api.test/"
    -- another process writes between the decision and the opening
    local peek_generation = s.store.generation
    s.config.opened:drop "gh"
    local get = s.store.get
    s.store.get = function(db, key)
      if db == "credential" then
        s.store.get = get
        s.credential("gh", { hosts = { "new.test" }, secrets = { ["f/token"] = secret.of "new" } })
      end
      return get(db, key)
    end
    is(s.code "GET https://api.test/", "host_not_allowed")
    s.store.generation = peek_generation
  end,

  -- ---- match.lua as anybody's edit
  ["a match.lua that does not compile refuses everything, until it does"] = function()
    local s = with_bearer()
    s.policies.match = "policies/match.lua:3: broken"
    is(s.code "GET https://api.test/", "policy_failed")
    is(s.code("CONNECT https://api.test/", { connect = true }), "intercept")
    s.policies.match = nil
    s.store.put("policy", "match", { name = "match" })
    is(s.code "GET https://api.test/", "forward")
  end,
  ["a match.lua that raises, in any function, refuses everything"] = function()
    for _, name in ipairs { "new", "add", "candidates", "decide" } do
      local s = with_bearer()
      local pol = {}
      for k, v in pairs(default "match") do pol[k] = v end
      pol[name] = function() error "broken" end
      s.policies.match = pol
      is(s.code "GET https://api.test/", "policy_failed")
      is(s.code "GET https://api.test/", "policy_failed")
    end
  end,
  ["a match.lua that answers what is not the agent's refuses"] = function()
    for _, answer in ipairs {
      function() return { id = "credential/gh" }, "other" end,            -- not the agent's bundle
      function() return { id = "credential/secret" }, "default" end,      -- not in that bundle
      function() return { id = "credential/none" }, "default" end,
      function() return "gh", "default" end,
      function() return true end,
      function() return nil, "no_such_code" end,
      function() return nil end,
    } do
      local s = with_bearer()
      s.credential("secret", { bundles = { "other" } })
      local pol = {}
      for k, v in pairs(default "match") do pol[k] = v end
      pol.decide = answer
      s.policies.match = pol
      is(s.code "GET https://api.test/", "policy_failed")
    end
  end,
  ["a match.lua that answers a tunnel for what is none is intercepted"] = function()
    local s = with_bearer()
    s.domain("default", "pypi.test")
    local pol = {}
    for k, v in pairs(default "match") do pol[k] = v end
    pol.tunnel = function() return { id = "credential/gh" }, "default" end
    s.policies.match = pol
    is(s.code("CONNECT https://api.test/", { connect = true }), "intercept")
    pol.tunnel = function() return { id = "domain/default/pypi.test" }, "default" end
    is(s.code("CONNECT https://pypi.test/", { connect = true }), "intercept")
  end,
  ["a test that breaks match.lua sees explain and the decision change"] = function()
    local s = with_bearer()
    is(s.code "GET https://api.test/", "forward")
    is(decision.explain(s.pipeline, { agent = "alice", method = "GET", url = "https://api.test/" }).decision, "allow")
    local pol = {}
    for k, v in pairs(default "match") do pol[k] = v end
    pol.decide = function() return nil, "rule_denied" end
    s.policies.match = pol
    s.store.put("policy", "match", { name = "match" })
    is(s.code "GET https://api.test/", "rule_denied")
    is(decision.explain(s.pipeline, { agent = "alice", method = "GET", url = "https://api.test/" }).code, "rule_denied")
  end,

  -- ---- streams that go on
  ["the second request of a route is not decided again, and any change or other kind of request is"] = function()
    local s = with_bearer()
    local decided = 0
    local counting = setmetatable({ call = function(name, ...)
      if name == "match" then decided = decided + 1 end
      return sandbox.call(name, ...)
    end }, { __index = sandbox })
    s.config.sandbox, s.pipeline.sandbox = counting, counting
    is(s.code "GET https://api.test/a", "forward")
    local first = decided
    is(s.code "GET https://api.test/b", "forward")
    is(decided, first)
    is(s.request("GET https://api.test/b").log.credential, "gh")
    is(s.request("GET https://api.test/b", { share = false }).code, "too_many")
    is(s.request("GET https://api.test/b", { agent = "nobody", form = "absolute" }).status, 407)
    is(s.code "TRACE https://api.test/b", "trace")
    is(s.code "GET https://api.test:8443/b", "host_not_allowed")
    is(s.code "GET http://api.test/b", "host_not_allowed")
    is(s.code "GET https://other.test/b", "host_not_allowed")
    is(s.request("GET https://api.test/b", { websocket = true }).with.websocket, true)
    is(s.request("GET https://api.test/b").with.websocket, false)
    s.credential("gh", { secrets = { ["f/token"] = secret.of "new" } })
    is(s.code "GET https://api.test/b", "forward")
    s.credential("gh", { methods = { "POST" } })
    is(s.code "GET https://api.test/b", "method_not_allowed")
    s.credential("gh", { paths = { "/v1" } })
    is(s.code "GET https://api.test/v1/x", "forward")
    is(s.code "GET https://api.test/b", "path_not_allowed")
    s.credential("gh", { enabled = false })
    is(s.code "GET https://api.test/v1/x", "service_disabled")
  end,
  ["what became of a request is kept where its route alone decided, and until its token ends"] = function()
    local s = with_bearer()
    s.agent("short", { "default" }, { expires_at = s.world.time.wall() + 20, requests = 7 })
    s.store.put("agent", "t/hash-short", { agent = "short", expires_at = s.world.time.wall() + 10 })
    local kept = s.request("GET https://api.test/").kept
    is(kept[1], s.config.applied)
    is(kept[2], 0)
    is(kept[3], math.maxinteger)
    kept = s.request("GET https://api.test/", { agent = "short" }).kept
    is(kept[3], s.world.time.wall() + 10)
    is(kept[4], 7)
    is(s.request("GET https://api.test/", { websocket = true }).kept, nil)
    is(s.request("PROPFIND https://api.test/").kept, nil)
    is(s.code "GET http://api.test:443/", "host_not_allowed")
    s.credential("gh", { plain_http = true })
    is(s.request("GET http://api.test:443/").kept[1], s.config.applied)
    is(s.request("GET https://api.test/").kept[1], s.config.applied)
    s.credential("gh", {})
    is(s.request("GET https://api.test/").kept[1], s.config.applied)
    is(s.code "GET http://api.test:443/", "host_not_allowed")
    s.credential("gh", { paths = { "/v1" } })
    is(s.request("GET https://api.test/v1/x").did, "forward")
    is(s.request("GET https://api.test/v1/x").kept, nil)
    s.credential("gh", { hosts = { "x.googleapis.com" }, methods = { "GET" } })
    is(s.request("GET https://x.googleapis.com/").did, "forward")
    is(s.request("GET https://x.googleapis.com/").kept, nil)
    s = with_oauth()
    is(s.request("GET https://api.test/").did, "forward")
    is(s.request("GET https://api.test/").kept, nil)
    s.credential("crm", {
      type = "oauth", hosts = { "crm.test" }, fields = { token_url = "https://auth.test/token", client_id = "id" },
      secrets = { ["f/client_secret"] = secret.of "s" },
    })
    is(s.request("GET https://crm.test/").did, "forward")
    local first = s.store.state
    kept = s.request("GET https://crm.test/").kept
    is(kept[2], s.store.state)
    is(kept[3], s.store.peek("state", "crm").fresh_until)
    is(s.store.state, first)
    s.world.run((kept[3] - s.world.time.wall()) * 1000)
    is(s.request("GET https://crm.test/").kept, nil)    -- it is served, and renewed meanwhile
  end,
  ["what an agent might do before it changed is not kept as what it may do now"] = function()
    local s = with_bearer { spawn = true }
    s.credential("held", { env = "HELD", hosts = { "held.test" } })
    s.agent("bob", { "default" })
    local pause = 0
    s.pipeline.records.learn = function() s.world.time.sleep(pause) end
    s.pipeline.known = function() return { drop = function() return 0 end } end
    is(s.request("GET https://api.test/", { agent = "bob" }).did, "forward")
    pause = 5                                       -- alice's placeholders are many
    local first = s.request("GET https://api.test/", { later = true })
    s.world.run(1)
    s.agent("alice", { "other" })
    is(s.request("GET https://api.test/").code, "host_not_allowed")
    is(first.did, "forward")                        -- it was allowed when it came
    is(first.kept[1] < s.config.applied or first.kept[3] == 0, true)
  end,
  ["a stream is kept while the same entry would decide, and ended when not"] = function()
    local s = with_bearer()
    s.domain("default", "db.test", { tunnel = true })
    local function keep(more)
      local info = { agent = "alice", token = "hash-alice", bundle = "default", credential = "gh", method = "GET",
        scheme = "https", host = "api.test", port = 443, path = "/", form = "tunnel" }
      for k, v in pairs(more or {}) do info[k] = v end
      return s.pipeline:on_rejudge(info)
    end
    is(keep(), true)
    is(keep { path = "/x/../y" }, true)
    is(keep { token = "hash-nobody" }, false)
    is(keep { host = "other.test" }, false)
    is(keep { credential = "another" }, false)
    is(keep { websocket = true }, true)
    is(keep { form = "connect", host = "db.test", credential = false }, true)
    is(keep { form = "connect" }, false)
    s.credential("gh", { methods = { "GET" } })
    is(keep { websocket = true }, false)
    s.credential("gh", { enabled = false })
    is(keep(), false)
    s.credential("gh", { methods = { "GET" } })
    for _, off in ipairs { "agent", "bundle", "domain" } do
      local tunnel = off ~= "agent" and { form = "connect", host = "db.test", credential = false } or nil
      is(keep(tunnel), true)
      for _, on in ipairs { false, true } do
        if off == "agent" then s.agent("alice", { "default" }, { enabled = on })
        elseif off == "bundle" then s.store.put("bundle", "default", { name = "default", enabled = on })
        else s.domain("default", "db.test", { tunnel = true, enabled = on }) end
        is(keep(tunnel), on)
      end
    end
    s.store.del("bundle", "default/db.test")
    is(keep { form = "connect", host = "db.test", credential = false }, false)
  end,
  ["among equals the one that a stream carries stays"] = function()
    local s = setting()
    s.credential("one", { env = "A" })
    s.credential("two", { env = "B" })
    for _, name in ipairs { "one", "two" } do
      is(s.pipeline:on_rejudge { token = "hash-alice", bundle = "default", credential = name, method = "GET", scheme = "https",
        host = "api.test", port = 443, path = "/", form = "tunnel" }, true)
    end
  end,

  -- ---- our own pages
  ["the proxy's own pages"] = function()
    local s = with_bearer()
    s.store.put("meta", "ca", { pem = "PEM" })
    is(s.request("GET http://proxy/healthz", { own = true, agent = false }).body, "ok\n")
    is(s.request("GET http://proxy/ca.pem", { own = true, agent = false }).body, "PEM")
    is(s.request("GET http://proxy/discover", { own = true, agent = false, form = "origin" }).status, 407)
    is(s.code("GET http://proxy/other", { own = true }), "path_not_allowed")
    is(s.code("POST http://proxy/healthz", { own = true }), "method_not_allowed")
  end,
  ["/discover lists what this agent may reach, and nothing of others"] = function()
    local s = setting { spawn = true }
    s.credential("gh", { env = "GH_TOKEN", methods = { "GET" }, paths = { "/v1" } })
    s.credential("off", { enabled = false })
    s.credential("theirs", { bundles = { "other" } })
    s.domain("default", "pypi.test")
    s.domain("default2", "trap.test")
    s.domain("default", "trap2.test", { enabled = false })
    s.store.put("bundle", "shut", { name = "shut", enabled = false })
    s.credential("theirs2", { bundles = { "shut" } })
    s.domain("shut", "trap3.test")
    s.agent("alice", { "shut", "default" })
    local out = s.request("GET http://proxy/discover", { own = true, form = "origin" })
    local d = json.decode(out.body)
    is(d.agent, "alice")
    is(d.vault, "shut")
    is(#d.allowed, 2)
    is(d.allowed[1].credential, "gh")
    is(d.allowed[1].hosts[1], "api.test")
    is(d.allowed[1].ports[1], 443)
    is(d.allowed[1].methods[1], "GET")
    is(d.allowed[1].paths[1], "/v1")
    is(d.allowed[1].placeholder, "ph-alice-gh")
    is(d.allowed[2].hosts[1], "pypi.test")
    is(d.allowed[2].methods[3], "OPTIONS")
    assert(not out.body:find("theirs", 1, true) and not out.body:find("trap", 1, true) and not out.body:find("token-of", 1, true))
  end,
  ["/discover counts as the agent's, is looked up once, and anew after a change"] = function()
    local s = setting { spawn = true }
    s.credential("gh")
    local pages, each = 0, s.store.each
    s.store.each = function(db, ...)
      if db == "credential" then pages = pages + 1 end
      return each(db, ...)
    end
    local ask = "GET http://proxy/discover"
    is(s.code(ask, { own = true, form = "origin", share = false }), "too_many")
    pages = 0
    local first = s.request(ask, { own = true, form = "origin", later = true })
    local second = s.request(ask, { own = true, form = "origin" })
    is(first.log.agent, "alice")
    assert(first.body and first.body == second.body)
    local built = pages
    s.request(ask, { own = true, form = "origin" })
    is(pages, built)
    s.credential("more")
    is(#json.decode(s.request(ask, { own = true, form = "origin" }).body).allowed, 2)
    -- a vault that is named is told of, and the page is not made anew for each
    s.agent("alice", { "default", "second" })
    s.request(ask, { own = true, form = "origin" })
    built = pages
    for _, vault in ipairs { "default", "second" } do
      is(json.decode(s.request(ask, { own = true, form = "origin", headers = { ["X-Vault"] = vault } }).body).vault, vault)
    end
    is(pages, built)
  end,
  ["/discover ends somewhere"] = function()
    local s = setting { spawn = true }
    for i = 1, 600 do s.credential("c" .. i) end
    local d = json.decode(s.request("GET http://proxy/discover", { own = true, form = "origin" }).body)
    is(#d.allowed, 500)
    is(d.truncated, true)
  end,

  -- ---- explain
  ["explain says what decides, and why the others do not"] = function()
    local s = with_bearer()
    s.credential("second")
    s.credential("theirs", { bundles = { "other" } })
    s.domain("default", "api.test")
    local e = decision.explain(s.pipeline, { agent = "alice", method = "GET", url = "https://api.test/x" })
    is(e.decision, "allow")
    is(e.credential, "gh")
    is(e.bundle, "default")
    is(e.type, "bearer")
    local why = {}
    for _, row in ipairs(e.considered) do why[row.kind .. " " .. row.name] = row.why end
    is(why["credential gh"], "it decides")
    is(why["credential second"], "gh comes first")
    is(why["domain api.test"], "gh comes first")
    is(why["credential theirs"], "its bundle other is not one of the agent's")
  end,
  ["explain refuses as a request is refused"] = function()
    local s = with_oauth()
    s.agent("gone", {}, { revoked = true })
    local function code(method, url, agent)
      local e, why = decision.explain(s.pipeline, { agent = agent or "alice", method = method, url = url })
      if not e then return why end
      assert(e.decision == "deny" and e.status and e.message)
      return e.code
    end
    is(code("TRACE", "https://api.test/"), "trace")
    is(code("GET", "https://other.test/"), "host_not_allowed")
    is(code("GET", "http://api.test/"), "host_not_allowed")
    is(code("POST", "https://api.test/oauth/token"), "token_endpoint")
    is(code("GET", "https://api.test/", "gone"), "agent_unknown")
    is(code("GET", "https://api.test/", "nobody"), "there is no agent 'nobody'")
    is(s.refreshes, 0)
  end,
  ["explain without an agent asks for one that holds every bundle, default first"] = function()
    local s = setting()
    s.credential("a", { bundles = { "alpha" } })
    is(decision.explain(s.pipeline, { method = "GET", url = "https://api.test/" }).bundle, "alpha")
    s.credential("d", { bundles = { "default" } })
    is(decision.explain(s.pipeline, { method = "GET", url = "https://api.test/" }).bundle, "default")
    is(decision.explain(setting().pipeline, { method = "GET", url = "https://api.test/" }).code, "host_not_allowed")
  end,
  ["explain takes a URL without a scheme, and WebSocket URLs"] = function()
    local s = with_bearer()
    s.credential("ro", { hosts = { "ro.test" }, methods = { "GET" } })
    is(decision.explain(s.pipeline, { agent = "alice", method = "GET", url = "api.test/x" }).decision, "allow")
    is(decision.explain(s.pipeline, { agent = "alice", method = "GET", url = "wss://api.test/x" }).decision, "allow")
    is(decision.explain(s.pipeline, { agent = "alice", method = "GET", url = "wss://ro.test/x" }).code, "method_not_allowed")
  end,
  ["explain names a tunnel"] = function()
    local s = setting()
    s.domain("default", "db.test", { tunnel = true })
    local e = decision.explain(s.pipeline, { agent = "alice", method = "GET", url = "https://db.test/" })
    is(e.decision, "allow")
    is(e.tunnel, true)
  end,

  -- ---- trials
  ["a trial applies one credential, disabled too, and only where it goes"] = function()
    local s = with_bearer()
    s.credential("gh", { enabled = false, paths = { "/v1" } })
    local request = require "request"
    local req = assert(decision.trial(s.pipeline, { credential = "gh", method = "GET", url = "https://api.test/v1" }))
    is(req:dump().headers.authorization, "Bearer token-of-gh")
    local none, code = decision.trial(s.pipeline, { credential = "gh", method = "GET", url = "https://evil.test/v1" })
    is(none, nil)
    is(code, "host_not_allowed")
    is(select(2, decision.trial(s.pipeline, { credential = "gh", method = "GET", url = "https://api.test/v2" })), "path_not_allowed")
    is(select(2, decision.trial(s.pipeline, { credential = "none", method = "GET", url = "https://api.test/v2" })), "injection_failed")
  end,

  -- ---- codes
  ["every 503 and 429 carries Retry-After"] = function()
    for code, row in pairs(errors.codes) do
      local seen
      errors.fail({ fail = function(_, status, c, message, _, options)
        seen = options
        is(status, row[1])
        is(c, code)
        assert(message ~= "")
      end }, code)
      is((row[1] == 503 or row[1] == 429), seen ~= nil and seen.retry_after ~= nil)
    end
  end,
  ["a view of a credential cannot be changed, and reads like a table"] = function()
    local view = config.freeze { list = { "a", "b" }, map = { k = "v" } }
    is(#view.list, 2)
    is(table.concat(view.list, ","), "a,b")
    local n = 0
    for _, v in ipairs(view.list) do n = n + #v end
    for _ in pairs(view.map) do n = n + 1 end
    is(n, 3)
    is(pcall(function() view.list[1] = "x" end), false)
    is(pcall(function() view.new = "x" end), false)
    is(getmetatable(view), false)
  end,
}

return cases
