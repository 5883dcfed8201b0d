--- A worker's view of the store: agents, credentials, domain entries, settings, policies.
-- The index of credentials and domain entries is complete and follows the store's list of changed records, in
-- slices that end in a yield; everything else is read when it is asked for, and kept in bounded caches that the
-- same list empties. One task follows for all who wait. A request waits only while the store has moved on, so a
-- change is in force at the next request. What cannot be read or compiled is refused: nothing here guesses.
--
-- config.new{ store, records, policy, sandbox, time, keep = secret.core.keep, parse_url, path_readings,
--             places = request.places, log = function(text), spawn = function(fn) -> task | nil (commands), overrides,
--             on_settings }
local carriers = require "carriers"
local doors = require "doors"
local errors = require "errors"
local paths = require "paths"
local rows = require "rows"
local seal = require "seal"
local stand_in = require "stand_in"
local variables = require "variables"
local M = {}
M.__index = M

local PAGE = 32              -- records between two yields: about 20 µs each, so a slice is well under 1 ms
local OPENED_MAX = 1024      -- opened credentials: each holds its secrets in the locked arena
local AGENTS_MAX = 1024      -- agents at work in one worker
local HOSTS_MAX = 256        -- hosts of one agent whose candidates are kept
local BUNDLES_MAX = 256      -- bundles whose variables are kept
local VARIANTS_MAX = 64      -- sets of values for which one credential is kept ready
local HELD_NEWS = 16         -- changes of placeholders of which the names are kept: each costs an agent's set one pass
local FOLLOW_POLL = 1        -- ms between two looks of who waits for the index
local PLACES_MAX = 60        -- where sealed texts may stand, of all types and presets: C looks for 64
local REFUSED_NAMED = 100    -- refused records that a worker's log names until it builds the index anew

-- ---- a bounded cache -----------------------------------------------------------------------------

-- Two generations: what is asked for moves to the young one; when that is full the old one is forgotten whole.
local cache = {}
cache.__index = cache

local function cache_new(max)
  return setmetatable({ max = max // 2, count = 0, young = {}, old = {} }, cache)
end

function cache:put(key, value)
  if self.young[key] == nil then
    if self.count >= self.max then
      self.old, self.young, self.count = self.young, {}, 0
    end
    self.count = self.count + 1
  end
  self.young[key] = value
  return value
end

function cache:get(key)
  local value = self.young[key]
  if value ~= nil then return value end
  value = self.old[key]
  if value ~= nil then return self:put(key, value) end
end

function cache:drop(key)
  if self.young[key] ~= nil then self.young[key], self.count = nil, self.count - 1 end
  self.old[key] = nil
end

M.cache = cache_new

-- ---- read-only views -----------------------------------------------------------------------------

local function read_only() error("a credential's fields cannot be changed", 2) end

--- A view of nested tables that a policy can read and not change: one view serves many requests.
local function freeze(value)
  if type(value) ~= "table" then return value end
  local inner = {}
  for k, v in pairs(value) do inner[k] = freeze(v) end
  return setmetatable({}, {
    __index = inner, __newindex = read_only, __metatable = false,
    __len = function() return #inner end,
    -- Not `next, inner`: that would hand out the table itself.
    __pairs = function(view) return function(_, k) return next(inner, k) end, view, nil end,
  })
end

M.freeze = freeze

-- ---- records as items of the index ---------------------------------------------------------------

-- What match.lua gets. It belongs to the script; what the runtime knows of the record stands beside it, below.
local function credential_item(rec, self)
  local preset = rec.preset and rec.paths and self.presets.get(rec.preset)
  return {
    kind = "credential", name = rec.name, bundles = rec.bundles or {}, hosts = rec.hosts or {}, ports = rec.ports,
    methods = rec.methods, paths = preset and paths.spread(rec.paths, preset.within) or rec.paths, plain_http = rec.plain_http == true, enabled = rec.enabled ~= false,
    order = rec.order or rec.created or 0,
  }
end

local function domain_item(rec)
  return {
    kind = "domain", name = rec.host, bundles = { rec.bundle }, hosts = { rec.host }, ports = rec.ports,
    methods = rec.methods, paths = rec.paths, tunnel = rec.tunnel == "raw" and "raw" or rec.tunnel == true, enabled = rec.enabled ~= false,
    order = rec.created or 0,
  }
end

-- db, key -> id, and how to read its record as an item. A bundle's own record is no item.
local function place_of(db, key)
  if db == "credential" then return "credential/" .. key, credential_item end
  if db == "bundle" and key:find("/", 1, true) then return "domain/" .. key, domain_item end
end

-- The same few bundles stand in ten thousand records: one set for each list.
local function bundle_set(build, bundles)
  local key = table.concat(bundles, "/")
  local set = build.bundle_sets[key]
  if not set then
    set = {}
    for _, b in ipairs(bundles) do set[b] = true end
    build.bundle_sets[key] = set
  end
  return set
end

-- ---- life ----------------------------------------------------------------------------------------

-- switched: of each bundle that an agent in the cache holds, whether it was off when that one was read; "both": of one it was, of another not.
local function agents_empty(self)
  self.agents, self.tokens, self.switched = cache_new(AGENTS_MAX), cache_new(AGENTS_MAX), {}
end

function M.new(with)
  local self = setmetatable({}, M)
  for _, name in ipairs { "store", "records", "policy", "policies", "sandbox", "time", "keep", "parse_url", "path_readings" } do
    self[name] = assert(with[name], name)
  end
  self.log = with.log or function() end
  self.presets = with.presets or require "presets"
  self.acting = with.acting or function() end  -- secret.core.acting: whose secrets this task may use
  self.spawn = with.spawn
  self.places = with.places
  self.identity = with.identity              -- tls.identity: a credential's own certificate and roots
  self.elsewhere = with.elsewhere and with.elsewhere(function(name, rec) return self:opened_of(name, rec) end)
  self.overrides = with.overrides
  self.on_settings = with.on_settings
  self.opened = cache_new(OPENED_MAX)
  agents_empty(self)
  self.bundle_variables, self.bundle_rules = cache_new(BUNDLES_MAX), cache_new(BUNDLES_MAX)
  self.named = { n = 0 }     -- refused records that the log has named: once, until they change
  self.applied = -1          -- the generation that the index has reached
  self.broken = nil          -- why matching does not work; every request is refused until it does
  return self
end

-- ---- the index -----------------------------------------------------------------------------------

local function slice_end(self, n)
  if n % PAGE == 0 and self.spawn then self.time.sleep(0) end
end

-- What each agent's placeholders of a credential are derived from, beside its name; the same for nearly all of them.
local function shapes_of(self, build, rec)
  local more = {}
  for env, shape in pairs(rec.env_more or {}) do more[#more + 1] = env .. "=" .. shape end
  table.sort(more)
  local bundles = rec.bundles or {}
  local key = table.concat({ rec.placeholder or "", table.concat(bundles, "/"), table.concat(more, " ") }, "\n")
  local shapes = build.shapes[key]
  if not shapes then
    shapes = { bundles = bundle_set(build, bundles), of = self.records.shapes(rec) }
    build.shapes[key] = shapes
  end
  return shapes
end

-- Counts the changes, and keeps the names of the last ones: whoever knows all but those need not begin anew.
local function held_put(build, name, shapes)
  build.held[name] = shapes
  build.held_at = build.held_at + 1
  build.held_news[build.held_at] = name
  build.held_news[build.held_at - HELD_NEWS] = nil
end

-- match.lua is a policy like any other: what it raises is caught, and then nothing is decided at all.
local function index_call(self, build, name, ...)
  local ok, why = self.sandbox.call("match", build.match[name], build.index, ...)
  if ok then return true end
  build.broken = ("match.lua, %s: %s"):format(name, tostring(why))
  return false
end

-- Where this credential's clients would fetch tokens: a request there may be answered with a stand-in.
local function index_token_endpoints(self, build, name, rec)
  local pol = rec and rec.enabled ~= false and self.policies.load(rec.type)
  local fetches = pol and pol.refresh
  stand_in.put(build.token_endpoints, name,
    fetches and stand_in.endpoints(self, pol, self.policy.record_view(pol, rec, nil)) or {})
end

-- Whose a sealed text is, and where requests may bear one: the places that any credential's rows open, each once. They only
-- grow until the index is made anew, as they do with the policies that name them.
local function index_seal(self, build, name, rec)
  local old = build.id_of[name]
  if old then build.by_id[old] = nil end
  build.id_of[name] = rec and rec.id
  build.sealing[name] = nil
  if not rec then return end
  if rec.id then build.by_id[rec.id] = name end
  local key = rec.type .. "\n" .. (rec.preset or "")
  local bodies = build.seal_kinds[key]
  if bodies == nil then
    local pol = self.policies.load(rec.type)
    local list = pol and seal.rows_of(pol, rec.preset and self.presets.get(rec.preset))
    for _, row in ipairs(list or {}) do
      for _, place in ipairs(row.opens) do
        local known = table.concat(place, "=")
        if not build.places[known] and #build.places < PLACES_MAX then
          build.places[#build.places + 1], build.places[known] = place, true
        end
      end
    end
    bodies = seal.bodies(list) or false
    build.seal_kinds[key] = bodies
  end
  build.sealing[name] = bodies or nil
end

local function index_put(self, build, db, key, rec, damaged)
  local id, make = place_of(db, key)
  if not id then return true end
  if db == "credential" then
    index_token_endpoints(self, build, key, not damaged and rec or nil)
    index_seal(self, build, key, not damaged and rec or nil)
  end
  if build.items[id] then
    build.items[id] = nil
    if not index_call(self, build, "remove", id) then return false end
  end
  if damaged then self:say_refused(db, key, damaged) end
  if db == "credential" then
    local shapes = not damaged and rec and rec.env and shapes_of(self, build, rec) or nil
    if shapes ~= build.held[key] then held_put(build, key, shapes) end
  end
  if damaged or not rec then return true end
  local item = make(rec, self)
  item.id = id
  -- What the runtime itself knows. Few members: the collector walks ten thousand of them.
  build.items[id] = {
    name = item.name, version = rec.version, bundles = bundle_set(build, item.bundles),
    domain = item.kind == "domain" and { addresses = rec.addresses, tunnel = item.tunnel, posts = M.posts_alone(rec) or nil,
      tls = rec.tls == "legacy" and self.identity and self.identity(nil, nil, nil, true) or nil } or nil,
  }
  return index_call(self, build, "add", item)
end

local function index_page_all(self, build, db)
  local after
  repeat
    local page = self.store.each(db, "", after, PAGE)
    for _, row in ipairs(page) do
      if not index_put(self, build, db, row.key, row.record, row.damaged) then return false end
      after = row.key
    end
    if self.spawn then self.time.sleep(0) end
  until #page < PAGE
  return true
end

--- Names a record that is not what was written there last. What the index does not hold is named when it is read.
-- Bounded: where a part of the table was changed, every unknown name in it is refused, and clients choose tokens.
function M:say_refused(db, key, why)
  local named, id = self.named, db .. "/" .. key
  if named[id] or named.n > REFUSED_NAMED then return end
  named[id], named.n = true, named.n + 1
  self.log(named.n > REFUSED_NAMED and "ev=record_refused more=yes"
    or ("ev=record_refused db=%s key=%s err=%s"):format(db, (key:gsub('[%c%s"\\]', "?")), why or "damaged"))
end

-- All that the table of records refuses, when a worker begins.
local function name_refused(self)
  local n = 0
  for _, db in ipairs(self.store.LISTED) do
    for key, _, why in self.store.records(db, "") do
      if why then self:say_refused(db, key, why) end
      n = n + 1
      if n % PAGE == 0 then self.time.sleep(0) end
    end
  end
  local _, parts = self.store.listed("meta")
  if math.type(parts) and parts > 0 then self.log(("ev=table_damaged parts=%d"):format(parts)) end
end

-- Everything anew, beside the index that serves meanwhile.
local function index_build(self)
  local pol, why = self.policies.load("match")
  local build = {
    match = pol, items = {}, bundle_sets = {}, held = {}, held_at = 0, held_news = {}, shapes = {}, token_endpoints = stand_in.index(),
    by_id = {}, id_of = {}, places = { { "header", "authorization" }, ["header=authorization"] = true }, seal_kinds = {}, sealing = {},
  }
  if not pol then
    build.broken = "match.lua: " .. tostring(why)
    return build
  end
  local ok, index = self.sandbox.call("match", pol.new)
  if not ok or type(index) ~= "table" then
    build.broken = "match.lua, new: " .. tostring(index)
    return build
  end
  build.index = index
  self.named = { n = 0 }
  if not self.build and self.spawn then name_refused(self) end
  local _ = index_page_all(self, build, "credential") and index_page_all(self, build, "bundle")
  return build
end

-- ---- following the store -------------------------------------------------------------------------

local function forget_all(self)
  self.opened = cache_new(OPENED_MAX)
  agents_empty(self)
  self.bundle_variables, self.bundle_rules = cache_new(BUNDLES_MAX), cache_new(BUNDLES_MAX)
  self.echo = nil
end

-- true, or nil when the index must be built anew.
local function apply_changes(self, changes)
  local build = self.build
  for i = 1, #changes, 2 do
    if changes[i] == "policy" then return nil end  -- match.lua, or a type, whose endpoints are in the index too
  end
  local settings = false
  for i = 1, #changes, 2 do
    local db, key = changes[i], changes[i + 1]
    self.named[db .. "/" .. key] = nil
    if db == "agent" then
      agents_empty(self)
    elseif db == "meta" then
      settings = true
    elseif db == "bundle" and not key:find("/", 1, true) then
      self.bundle_variables:drop(key)
      self.bundle_rules:drop(key)
      local was = self.switched[key]
      if was ~= nil and was ~= self:bundle_off(key) then agents_empty(self) end
    elseif place_of(db, key) then
      if db == "credential" then self.opened:drop(key) end
      local rec, code, why = self.store.peek(db, key)
      if not index_put(self, build, db, key, rec, code ~= nil and code ~= "absent" and (why or code)) then break end
      slice_end(self, i // 2 + 1)
    end
  end
  if settings then self:load_settings(true) end
  return true
end

-- few: only where that is done without waiting; else everything anew, by the next `sync`.
local function follow(self, few)
  local usable = self.build and not self.build.broken and self.applied >= 0
  if few and not usable then return end
  local changes, target, from = self.store.changes(usable and self.applied or -1)
  for i = 1, few and changes and #changes or 0, 2 do few = few and changes[i] ~= "policy" end
  if few ~= nil and not (few and changes and #changes < 2 * PAGE) then
    self.applied = -1
    return
  end
  target = changes and target or from
  if not target then return end
  if not (usable and changes and apply_changes(self, changes)) then
    local build = index_build(self)
    forget_all(self)
    self.build = build
    self:load_settings()
  end
  self.broken = self.build.broken
  if self.broken then self.log("ev=match_broken err=" .. errors.quote(self.broken)) end
  self.applied = target
end

-- One task follows for all who wait; in a command there is none to wait for.
local function catch_up(self, target, deadline)
  if self.applied > target then self.applied = -1 end  -- another store's generation: everything anew
  while self.applied < target do
    local task = self.following
    if not self.spawn then
      follow(self)
      if self.applied < target then return nil, "store_unavailable" end
    elseif task and task:state() == "failed" then
      -- A bug of ours, or no memory: refuse until something changes or `tick` tries again.
      self.following, self.build, self.broken = nil, nil, "the index could not be built"
      self.applied = target
      self.log("ev=follow_failed")
    else
      if not task or task:state() == "done" then
        self.following = self.spawn(function() follow(self) end)
      end
      if self.time.now() >= deadline then return nil, "store_unavailable" end
      if self.applied < target then self.time.sleep(FOLLOW_POLL) end
    end
  end
  return true
end

--- Brings the view to the store's present generation. true | nil, "store_unavailable". A broken match.lua is not
-- an error here: `broken` says so, and each decision refuses.
function M:sync(deadline)
  local target = self.store.generation()
  if not target then return nil, "store_unavailable" end
  if self.applied == target then return true end
  return catch_up(self, target, deadline)
end

--- The same for who must not wait.
function M:sync_now()
  local task = self.following
  if self.applied ~= self.store.generation() and not (task and task:state() == "running") then follow(self, true) end
end

--- The same when nobody asks; after a failure it begins anew.
function M:tick(deadline)
  if not self.build then self.applied = -1 end
  return self:sync(deadline)
end

--- The settings, with the flags of this run before the store's.
-- `always`: somebody has set one, perhaps to the same file with other contents; else only differences are acted on.
function M:load_settings(always)
  local settings, refused = self.records.settings(self.overrides, self.settings)
  for _, name in ipairs(refused or {}) do self:say_refused("meta", "set/" .. name) end
  local news = always or not require("records").same(settings, self.settings)
  self.settings, self.echo, self.body_max = settings, settings.echo ~= false, settings.body_max or require("records").BODY_MAX
  if news and self.on_settings then self.on_settings(settings) end
  local recording = self.spawn and self.store.peek("meta", "record")     -- recorder.lua
  self.recording = recording and recording.till > self.time.wall() and recording or nil
end

-- ---- agents --------------------------------------------------------------------------------------

--- Does a bundle give nothing for now? One that was changed on the disk is not taken out: `rules` refuses all that it decides.
-- nil: the store cannot be read.
function M:bundle_off(name)
  local rec, code = self.store.peek("bundle", name)
  if code and code ~= "absent" and code ~= "damaged" then return nil end
  return rec ~= nil and rec.enabled == false
end

--- An agent by name, as the pipeline uses it: { name, bundles = those that are enabled, off = { [name] = true } of the others, held = all, first = the
-- first of all, hosts = cache } | nil: it may do nothing; "revoked", "disabled", "expired"
function M:agent_named(name)
  local agent = self.agents:get(name)
  if not agent then
    local rec, why = self.store.get("agent", "a/" .. name)
    if why == "damaged" then self:say_refused("agent", "a/" .. name) end
    if not rec then return nil end
    agent = { name = name, bundles = {}, off = {}, first = (rec.bundles or {})[1], revoked = rec.revoked == true, disabled = rec.enabled == false,
      expires_at = rec.expires_at,
      variables = rec.variables, requests = rec.requests, series = rec.series, kind = rec.kind, id = rec.id, epoch = rec.epoch }
    agent.held, agent.in_bundle = rec.bundles or {}, {}
    for _, b in ipairs(agent.held) do
      local off, was = self:bundle_off(b), self.switched[b]
      if off == nil then return nil end
      if was == nil then self.switched[b] = off elseif was ~= off then self.switched[b] = "both" end
      if off then agent.off[b] = true
      else agent.bundles[#agent.bundles + 1], agent.in_bundle[b] = b, true end
    end
    self.agents:put(name, agent)
  end
  if agent.revoked then return nil, "revoked" end
  if agent.disabled then return nil, "disabled" end
  if agent.expires_at and self.time.wall() >= agent.expires_at then return nil, "expired" end
  return agent
end

--- Agents are read anew where the store has moved on. For who must not wait for `sync`.
function M:forget_agents()
  if self.applied ~= self.store.generation() then agents_empty(self) end
end

--- The agent whose token has this SHA-256 (hex), or whose door that is (doors.lua) | nil: unknown; nil, "expired" | "revoked" | "disabled" | "rotated", whose it was.
function M:agent(hash)
  local token = self.tokens:get(hash)
  if not token and doors.is(hash) then
    local rec, why = self.store.get("agent", doors.KEY)
    if why == "damaged" then self:say_refused("agent", doors.KEY) end
    local name = doors.agent(rec, hash)
    if not name then return nil end
    token = self.tokens:put(hash, { agent = name, door = true })
  elseif not token then
    local rec, why = self.store.get("agent", "t/" .. hash)
    if why == "damaged" then self:say_refused("agent", "t/" .. hash) end
    if not rec then
      local ended = self.store.get("agent", "e/" .. hash)
      return nil, ended and ended.ended, ended and ended.agent
    end
    token = self.tokens:put(hash, { agent = rec.agent, expires_at = rec.expires_at, series = rec.series })
  end
  if token.expires_at and self.time.wall() >= token.expires_at then return nil, "expired", token.agent end
  local agent, why = self:agent_named(token.agent)
  if agent and agent.kind == "tenant" then return nil end      -- people come in for one; it is no agent, whatever names it
  if agent and not token.door and agent.series ~= token.series then return nil, "rotated", token.agent end
  return agent, why, token.agent
end

--- Unix s from which on that token of the agent's may do nothing. 0: the agent changed since `agent` was read. Whose
-- request the door hands on as a tenant's, it judges each time.
function M:ends(hash, agent)
  local token = agent.kind == "tenant" and { agent = agent.name } or self.tokens:get(hash)
  if not token or self.agents:get(token.agent) ~= agent then return 0 end
  return math.min(token.expires_at or math.maxinteger, agent.expires_at or math.maxinteger)
end

--- The rules of a bundle, ready to be asked (rules.lua): a list | false: it has none, as nearly all | nil: its record was
-- changed on the disk, and nobody knows.
function M:rules(bundle)
  local list = self.bundle_rules:get(bundle)
  if list ~= nil then return list end
  local rec, why = self.store.get("bundle", bundle)
  if why and why ~= "absent" then
    if why == "damaged" then self:say_refused("bundle", bundle) end
    return nil
  end
  list = rec and rec.rules and rec.rules[1] and require("rules").ready(rec.rules, self.policies, self.policy, freeze) or false
  return self.bundle_rules:put(bundle, list)
end

--- The value of a variable for what this agent (nil: nobody) holds through this bundle | nil: it is not set.
function M:variable(agent, bundle, name)
  local own = agent and agent.variables and agent.variables[name]
  if own then return own end
  local set = self.bundle_variables:get(bundle)
  if not set then
    local rec, why = self.store.get("bundle", bundle)  -- damaged: none are set, and nothing that needs them matches
    if why == "damaged" then self:say_refused("bundle", bundle) end
    set = self.bundle_variables:put(bundle, rec and rec.variables or {})
  end
  return set[name]
end

--- The same for one bundle, as a function of the name.
function M:variables(agent, bundle)
  return function(name) return self:variable(agent, bundle, name) end
end

--- match.lua's question: is this label the variable's value?
function M:holds(agent)
  return function(bundle, name, label)
    local value = self:variable(agent, bundle, name)
    return value ~= nil and variables.label(value) == label
  end
end

--- What may decide for this agent on this host: { list = match's, all = the same with its disabled bundles, for match.tunnel, plans, kept = the pipeline's }, kept while nothing
-- changes. nil, why where match.lua fails.
function M:candidates(agent, host)
  if agent.generation ~= self.applied then
    agent.generation, agent.hosts, agent.host_count, agent.placeholders = self.applied, {}, 0, nil
    agent.ready, agent.ready_count = {}, 0
  end
  local found = agent.hosts[host]
  if found then return found end
  if self.broken or not self.build then return nil, self.broken end
  local ok, list = self.sandbox.call("match", self.build.match.candidates, self.build.index, agent.bundles, host, self:holds(agent))
  if not ok or type(list) ~= "table" then return nil, tostring(list) end
  local all = list
  if next(agent.off) then
    ok, all = self.sandbox.call("match", self.build.match.candidates, self.build.index, agent.held, host, self:holds(agent))
    if not ok or type(all) ~= "table" then return nil, tostring(all) end
  end
  if agent.host_count >= HOSTS_MAX then agent.hosts, agent.host_count = {}, 0 end
  found = { list = list, all = all, plans = {}, kept = {}, foreign = {} }
  agent.hosts[host], agent.host_count = found, agent.host_count + 1
  return found
end

--- An index of this one record, enabled or not: match's list for the host, match | nil, why. For `credential test`,
-- with the values that the agent (nil: nobody) has through the bundle.
function M:alone(rec, host, agent, bundle)
  local pol, why = self.policies.load("match")
  if not pol then return nil, why end
  local item, holds = credential_item(rec, self), self:holds(agent)
  item.id, item.enabled, item.bundles = "credential/" .. rec.name, true, { "alone" }
  local ok, list = self.sandbox.call("match", function()
    local index = pol.new()
    pol.add(index, item)
    return pol.candidates(index, item.bundles, host, function(_, name, label) return holds(bundle, name, label) end)
  end)
  if not ok then return nil, list end
  return list, pol
end

--- Names of this agent's credentials whose token endpoint a request is for; nil for nearly all requests.
function M:at_token_endpoint(agent, req)
  local build = self.build
  if not build or not stand_in.has(build.token_endpoints, req.host) then return nil end
  if agent.endpoints_at ~= self.applied then agent.endpoints_at, agent.endpoints = self.applied, {} end
  return stand_in.named(build.token_endpoints, build.items, agent, req, agent.endpoints)
end

--- The runtime's own item for one that match.lua answered, or nil if it is not one of ours.
function M:item(answered)
  return type(answered) == "table" and self.build.items[answered.id] or nil
end

-- ---- credentials ---------------------------------------------------------------------------------

-- The endpoints that the proxy alone talks to: what `net` may reach, with every reading of their paths.
local function endpoints_of(self, pol, view)
  local list = {}
  local function add(url)
    local paths = { [url.path] = true }
    for _, reading in ipairs(self.path_readings(url.path) or {}) do
      paths[reading], paths[(reading:gsub("/+$", ""))] = true, true  -- many servers drop a last slash
    end
    list[#list + 1] = { scheme = url.scheme, host = url.host, port = url.port, paths = paths }
  end
  for _, own in ipairs(self.policy.urls(pol, view)) do
    if not own[1].base then add(own[2]) end
  end
  for _, url in ipairs(pol.reach or {}) do
    if url.scheme then add(url) end
  end
  return list
end

--- Parameters that make a server see another method than the request line has, or headers that are not there: they go
-- where the headers of that kind go. `method` is not among them (Facebook): elsewhere it is an API's own.
local overrides = {
  "_method",                  -- Rails, Laravel, Symfony; WordPress, for a GET too
  "_httpmethod",              -- Salesforce
  "x-http-method-override",   -- Express, CodeIgniter and their like, which take the header's name
  "x-http-method", "x-method-override",
  "$httpmethod", "$httpheaders",  -- Google
  "x-amz-copy-source", "x-amz-rename-source",     -- a presigned URL may have a header's name
}
M.routing = { routing = true, query = overrides }

--- Those that are looked for in JSON and multipart bodies: Laravel takes it from the first, Rack from the second.
M.overrides, M.json_overrides = overrides, { "_method" }

--- Is the credential or domain entry kept to some methods, POST among them? Then a body must not make a POST another one:
-- the set of them | false.
function M.posts_alone(rec)
  local has, restricted = {}, rec.methods and rec.methods[1] ~= nil
  for _, m in ipairs(rec.methods or {}) do has[m] = true end
  return restricted and has.POST and not (has.PUT and has.PATCH and has.DELETE) and has
end

-- What comes off the request before `apply`: what the type says, our own extra headers, and all that may hold a key of
-- the agent's own, but for what the operator lets be. headers: a set; query: a list; names: of the query, what may hold a
-- key; refused: of these, those that apply puts nothing in the place of; body: the same in multipart and JSON; plain: of the
-- headers, those that are no keys.
local function strips_of(self, pol, view, extra, known, rec)
  local spec, code, why = self.policy.strip(pol, view)
  if not spec then return nil, code or "policy_failed", why end
  local names, own = carriers.names, spec.query or {}
  local _, keep = names { rec.keep or {} }
  local _, taken = names({ carriers.headers, pol.carriers.headers or {}, known.headers or {} }, keep)
  local _, headers = names { spec.headers or {} }
  for name in pairs(taken) do headers[name] = true end
  local plain, trailers = {}, {}
  for _, h in ipairs(extra) do
    local name = carriers.fold(h[1])
    plain[name] = not headers[name] and type(h[2]) == "string" or nil
    headers[name] = true
  end
  for name in pairs(headers) do trailers[#trailers + 1] = name .. "\n" end
  local _, of_type = names { own }
  local _, of_method = names { overrides }
  local named = names({ pol.carriers.query or {}, known.query or {} }, keep)
  local base = {
    keep = keep, headers = headers, trailers = table.concat(trailers), plain = plain, form = spec.form,
    query = names { own, named }, names = names({ own, named }, of_method), refused = names({ named }, of_type),
    body = names({ pol.carriers.body or {}, known.body or {} }, keep),
  }
  local sets = not (spec.headers and spec.headers[1] or spec.query and spec.query[1] or spec.form and spec.form[1] or extra[1])
  -- What names another host goes whether a method or path rule decided or not: the hosts always do.
  local ruled, away, routed = setmetatable({}, { __index = base }), {}, names { base.query, overrides }
  for name, kind in pairs(pol.targets or {}) do
    if kind == "away" then away[#away + 1] = name end
  end
  if away[1] then
    ruled.headers = {}
    for name in pairs(headers) do ruled.headers[name] = true end
    for _, name in ipairs(away) do ruled.headers[carriers.fold(name)], plain[carriers.fold(name)] = true, true end
  end
  ruled.query, ruled.routing = routed, true
  base.vhost = true
  return {
    plain = sets and not pol.body and not rec.rows,    -- it sets Authorization, and nothing else
    [false] = base,
    guarded = setmetatable({ vhost = false }, { __index = ruled }),   -- by its calls and endpoints alone
    [true] = setmetatable({ vhost = false, posts = M.posts_alone(rec) }, { __index = ruled }),
  }
end

-- Are there calls that this credential must not make, or not in clear, because they answer with further credentials?
local function guards(pol, rec, preset, sealing)
  if rec.mint == "allow" then return false end
  if sealing then return true end
  return preset ~= nil and #preset.mint > 0 or type(pol.mint) == "function" or pol.mint ~= nil and #pol.mint > 0
end

-- The names of the variables in fields and header values, sorted; nil: nothing to fill in, as nearly always. The
-- second answer: there are some in fields.
local function wants_of(pol, rec)
  local set, names, escapes = {}, {}, variables.escapes(rec.headers)
  for name, value in pairs(rec.fields or {}) do
    local f = pol.by_name[name]
    if f and variables.field_types[f.type] then
      variables.note(value, set)
      escapes = escapes or variables.escapes(value)
    end
  end
  local in_fields = next(set) ~= nil
  variables.note(rec.headers, set)
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return (names[1] or escapes) and names or nil, in_fields
end

-- The record with its variables filled in. Every one is set.
local function filled(pol, rec, get)
  local out = {}
  for k, v in pairs(rec) do out[k] = v end
  out.fields, out.headers = {}, variables.fill(rec.headers, get)
  for name, value in pairs(rec.fields or {}) do
    local f = pol.by_name[name]
    out.fields[name] = f and variables.field_types[f.type] and variables.fill(value, get) or value
  end
  return out
end

-- opened, as it is with these values; the same checks as when a credential is saved. nil, code, why
local function variant_of(self, opened, get)
  local rec, pol = filled(opened.pol, opened.rec, get), opened.pol
  self.acting(opened.name)
  local view = self.policy.record_view(pol, rec, nil)
  local ok, field, message = self.policy.check_credential(pol, view)
  if not ok then
    return nil, "injection_failed", ("its variables do not fit: %s%s"):format(field and field .. " " or "", tostring(message))
  end
  local extra = {}
  for i, h in ipairs(opened.extra) do
    local value = rec.headers and rec.headers[h[1]]
    extra[i] = value and { h[1], value } or h
  end
  local out = setmetatable({ base = opened, extra = extra, view = freeze(view) }, { __index = opened })
  local code, why
  out.strips, code, why = strips_of(self, pol, out.view, extra, opened.carriers, rec)
  if not out.strips then return nil, code, why end
  return out
end

--- What `open` answered, with the variables that this agent (nil: nobody) has through this bundle filled in.
-- nil, code, why
function M:filled(opened, agent, bundle)
  if not opened.wants then return opened end
  if opened.varied_fields and opened.pol.refresh then  -- saved before its type had a refresh
    return nil, "injection_failed", "its type keeps one token for all agents, so its fields take no variables"
  end
  local key = {}
  for i, name in ipairs(opened.wants) do
    local value = self:variable(agent, bundle, name)
    if not value then return nil, "injection_failed", ("its variable %s is not set"):format(name) end
    key[i] = ("%d:%s"):format(#value, value)
  end
  key = table.concat(key)
  local variant = opened.variants:get(key)
  if variant then return variant end
  local code, why
  variant, code, why = variant_of(self, opened, self:variables(agent, bundle))
  if not variant then return nil, code, why end
  return opened.variants:put(key, variant)
end

-- Its own TLS: opened.tls for its hosts, opened.net_tls for the other hosts of `net`. true | nil, why
local function identities(self, opened, rec)
  local key = rec.secrets and rec.secrets["c/client_key"]
  if not key and rec.from and rec.from["c/client_key"] then return true end    -- `fetched` has it
  if not (rec.client_cert or key or rec.ca or rec.tls) then return true end
  local why, code
  opened.tls, why, code = self.identity(rec.client_cert, key, rec.ca, rec.tls == "legacy")
  if not opened.tls then return nil, ("its %s cannot be used: %s"):format(why, code) end
  local ca = rec.ca and rec.ca:find("-----BEGIN ", 1, true) and rec.ca or nil
  opened.far_tls = ca and self.identity(nil, nil, ca) or nil   -- for hosts where a sealed text opens: our trust alone
  if ca == rec.ca and not rec.tls then
    opened.net_tls = opened.tls
  else
    opened.net_tls = (rec.client_cert or ca) and self.identity(rec.client_cert, key, ca) or nil
  end
  return true
end

--- The identity for a host that `net` calls: its token endpoint sees the certificate too, but a pin is the key of the
-- credential's own hosts, and legacy a word on them.
function M.tls_for(opened, host)
  for _, rule in ipairs(opened.rec.hosts or {}) do
    if variables.covers(rule, host) then return opened.tls end
  end
  return opened.net_tls
end

--- The private ranges in which a URL's host may be, when the type's `net` goes there. What an MCP server's metadata names
-- is not the operator's word: the ranges of the credential are for its own host.
function M.addresses_for(opened, host)
  local rec = opened.rec
  if not rec.mcp then return opened.addresses end
  return require("mcp").addresses({ host = rec.hosts[1], own = rec.mcp.own, addresses = rec.addresses,
    auth_addresses = rec.mcp.auth_addresses }, host)
end

--- A record, of the store or about to be, as a credential ready to be applied. nil, code, why
function M:opened_of(name, rec)
  local pol, why = self.policies.load(rec.type)
  if not pol then return nil, "policy_failed", why end
  local preset
  if rec.preset then
    preset, why = self.presets.get(rec.preset)
    if not preset then return nil, "policy_failed", why end  -- what it would refuse and strip is not known
  end
  for _, secret in pairs(rec.secrets or {}) do self.keep(secret, name) end
  self.acting(name)
  local extra = {}
  for header, value in pairs(rec.headers or {}) do extra[#extra + 1] = { header, value } end
  for field, value in pairs(rec.secrets or {}) do
    local header = field:match("^h/(.+)$")
    if header then extra[#extra + 1] = { header, value } end
  end
  local opened = { name = name, version = rec.version, rec = rec, pol = pol, extra = extra, addresses = rec.addresses }
  local usable
  usable, why = identities(self, opened, rec)
  if not usable then return nil, "injection_failed", why end
  opened.view = freeze(self.policy.record_view(pol, rec, nil))
  opened.seal_rows = require("seal").rows_of(pol, preset)
  for _, row in ipairs(rec.mint ~= "allow" and opened.seal_rows or {}) do
    if row.challenge then opened.challenges = true else opened.seals = true end
  end
  opened.guards, opened.preset_mint = guards(pol, rec, preset, opened.seals), preset and preset.mint
  opened.mint_rows = opened.guards and (opened.preset_mint ~= nil or type(pol.mint) == "table" or opened.seals)
  opened.rows, opened.places, why = rows.compile(rec, pol, self.places, rec.preset and self.presets.get(rec.preset))
  if why then return nil, "injection_failed", why end
  opened.carriers = preset and preset.carriers or {}
  -- What it attaches is the same for each request, so far as this record and its type say.
  opened.still = pol.pure and not (pol.body or pol.targets or opened.guards or opened.rows)
  opened.wants, opened.varied_fields = wants_of(pol, rec)
  opened.variants = opened.wants and cache_new(VARIANTS_MAX)
  opened.endpoints = pol.refresh and endpoints_of(self, pol, opened.view) or {}
  local code
  opened.strips, code, why = strips_of(self, pol, opened.view, extra, opened.carriers, rec)
  if not opened.strips then return nil, code, why end
  opened.own_tls = opened.tls
  if rec.attach == "placeholder:own" and rec.client_cert then  -- a request with a key of its own gets our trust alone
    local trust = rec.ca or rec.tls == "legacy"
    opened.own_tls, why = nil, nil
    if trust then opened.own_tls, why, code = self.identity(nil, nil, rec.ca, rec.tls == "legacy") end
    if trust and not opened.own_tls then return nil, "injection_failed", ("its %s cannot be used: %s"):format(why, code) end
  end
  return opened
end

--- What `open` answered, with its secrets from elsewhere (elsewhere.lua), and the variables of this agent (nil: nobody)
-- through this bundle; opened, were they fetched just now. Yields. nil, code, { message, retry_after, code }; nil, "changed".
function M:fetched(opened, deadline, agent, bundle)
  local base, generation = opened.base or opened, self.applied
  if not base.rec.from then return opened end
  local full, anew, info = self.elsewhere:fresh(base, deadline)
  if not full then return nil, anew, info end
  if self.spawn then
    if not self:sync(deadline) then return nil, "store_unavailable", {} end
    if self.applied ~= generation then return nil, "changed" end
  end
  if full.wants and bundle then
    local code, why
    full, code, why = self:filled(full, agent, bundle)
    if not full then return nil, code, { message = ("credential %s: %s"):format(base.name, tostring(why)) } end
  end
  return full, anew
end

--- A credential ready to be applied, kept until its record or its type changes. nil, code, why. Who decided by
-- the index compares `version` with the item's: a new secret must not go where only the old record sent it.
function M:open(name)
  local opened, code, why = self.opened:get(name), nil, nil
  if opened then return opened end
  local rec, err = self.store.get("credential", name)
  if not rec then
    if err == "absent" then return nil, "injection_failed", "it was removed" end
    if err == "damaged" then self:say_refused("credential", name) end
    return nil, "injection_failed", err == "locked" and "the store's key is missing" or "its record is damaged"
  end
  opened, code, why = self:opened_of(name, rec)
  if not opened then return nil, code, why end
  return self.opened:put(name, opened)
end

return M
