--- A worker's beginning and its heartbeat: makes config, tokens and pipeline from the real modules.
-- start(overrides): JSON text of what the flags of `serve` said, or nil. tick(): C calls it each second.
local M = {}

local VERBOSE_MAX = 200     -- lines of policies' log(…) a second: some 100 KB
local TICK_WAIT = 10000     -- ms a tick gives the index: the next one tries again

local config                -- the worker's view of the store; set once, by start

local function configure(settings)
  local host = require "host"
  host.configure(require("records").for_host(settings))
  local kind, cert, key = "proxy", settings.listen_cert, settings.listen_key
  if host.door() then kind, cert, key = "gateway", settings.gateway_cert, settings.gateway_key end
  if cert and key then require("own_cert").use(kind, cert, key) end
  require("route").use(settings)
end

-- A task of nobody's that begins soon. -> { state = function() -> "running" | "done" | "failed" }
local function spawn_task(fn)
  local now = "running"
  require("host").spawn(function()
    local _ <close> = setmetatable({}, { __close = function(_, err) now = err == nil and "done" or "failed" end })
    fn()
  end)
  return { state = function() return now end }
end

--- A pipeline. with = { command = true }: no tasks, nothing is configured; { overrides = table } for a worker.
function M.build(with)
  local host, http, time = require "host", require "http", require "time"
  local store, policy, sandbox, records = require "store", require "policy", require "sandbox", require "records"
  local json, secret, policies = require "json", require "secret", require "policy_store"
  local keep, acting = require("secret.core").keep, require("secret.core").acting
  local Config, Token, oauth = require "config", require "token", require "oauth"
  local spawn = not with.command and spawn_task or nil
  local log = not with.command and host.log or nil
  config = Config.new {
    store = store, records = records, policy = policy, policies = policies, sandbox = sandbox, time = time, keep = keep, acting = acting,
    log = log, parse_url = http.parse_url, path_readings = require("paths").ways, spawn = spawn, overrides = with.overrides,
    places = require("request").places,
    identity = require("identity").new,
    elsewhere = function(opened_of)
      return require("elsewhere").new { host = host, time = time, policy = policy, cache = Config.cache, spawn = spawn, log = log, opened_of = opened_of,
        store = not with.command and store or nil }
    end,
    on_settings = not with.command and configure or nil,
  }
  local function new_id() return (host.random_token("")) end
  -- The net of one refresh: allowed is what the credential's fields and its type name, until the deadline.
  local function net_for(opened, deadline)
    local net, seen = oauth.net {
      client = require("route").client, time = time, secret = secret, form = require "form", json = json,
      command = opened.pol.programs and function(spec, till)
        local headers, code, status = host.command(spec, till)
        if not headers and host.log then
          host.log(("ev=command credential=%s err=%s%s"):format(opened.name, code, status and " exit=" .. status or ""))
        end
        return headers, code
      end,
      sign = require "sign", new_id = new_id, deadline = deadline,
      addresses = function(url) return Config.addresses_for(opened, http.parse_url(url).host) end,
      tls = function(url) return Config.tls_for(opened, http.parse_url(url).host) end,
      plain = policy.plain(opened.pol, opened.view),
      allows = function(url) return policy.allows_url(opened.pol, opened.view, url) end,
    }
    require("policy_log").heard(opened.pol.name, seen)
    return Config.freeze(net), seen
  end
  local tokens = Token.new {
    store = store, time = time, policy = policy, keep = keep, acting = acting, cache = Config.cache, freeze = Config.freeze,
    net_for = net_for, meter = not with.command and host.meter or nil, owner = ("%d-%s"):format(host.pid(), new_id()), new_id = new_id, spawn = spawn, log = log,
  }
  return require("pipeline").new {
    config = config, tokens = tokens, policy = policy, policies = policies, sandbox = sandbox, store = store, records = records, time = time,
    json = json, parse_url = http.parse_url, path_readings = require("paths").ways, log = log,
    known = require("request").known, count = not with.command and require("counters").add or nil,
  }
end

--- What agents are shown is signed by the store's own authority; without it no listener of this process speaks TLS.
function M.authority()
  local ca = require("store").get("meta", "ca")
  local der = ca and type(ca.der) == "string" and require("secret").decode("base64", ca.der)
  local key = ca and ca.secrets and ca.secrets.key
  return der and key and require("tls").authority(der, key)
end

-- A reader of policies' log(…) that writes to the log, so many lines a second: agents make the requests.
local function verbose(host, time)
  local since, lines = 0, 0
  return function(name, text)
    local now = time.now()
    if now - since >= 1000 then
      if lines > VERBOSE_MAX then host.log(("ev=log dropped=%d"):format(lines - VERBOSE_MAX)) end
      since, lines = now, 0
    end
    lines = lines + 1
    if lines <= VERBOSE_MAX then host.log(("ev=log policy=%s text=\"%s\""):format(name, (text:gsub('"', "'")))) end
  end
end

--- given: { the flags of `serve` as JSON }
function M.start(given)
  if not M.authority() then return false, "the CA of this store is missing or damaged" end
  local flags = given[1] and assert(require("json").decode(given[1])) or {}
  require("time").boot_id = function() return flags.boot_id end
  if flags.verbose then require("policy_log").listen(verbose(require("host"), require("time"))) end
  require("pipeline").serve(M.build { overrides = flags })
  -- Before the first connection and dial: certificate, connect-to, roots and the guard must be as they were set.
  config:load_settings()
  require("counters").load()
  -- What the first requests need, while the texts are unpacked: each would unpack them again. `sallyport run` waits for one.
  for name in ("sign form body uri dates policy_log " .. (require("host").door() and ""
    or "web.control web.body handover dns holding allowed patterns aws")):gmatch("%S+") do require(name) end
  M.tick()
  require("host").spawn(require("store").recover)
end

--- The index follows the store even when nobody asks, so that streams are judged by what is in force.
function M.tick()
  require("pipeline").tidy()
  require("own_cert").look()
  require("counters").tick()
  if config.settings then require("webhook").tick(config.settings) end
  require("approvals").tick()
  local generation = require("store").generation()
  if generation == config.applied and config.build then return end
  require("host").spawn(function()
    config:tick(require("time").now() + TICK_WAIT)
  end)
end

return M
