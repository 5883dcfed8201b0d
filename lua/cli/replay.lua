--- sallyport policy replay: what a draft would decide otherwise of requests that `sallyport record` kept. It decides by the
-- functions of the request path, on the store as it is. What the record lacks is "unknown", and never guessed.
local errors = require "errors"
local paths = require "paths"
local report = require "cli.report"
local rules = require "rules"
local terminal = require "cli.terminal"
local parts = require("pipeline").parts
local M = {}

local WAIT_MAX = 15000      -- ms for the index of what the store holds
local GROUPS_MAX = 10000    -- kinds of difference that are told apart
local SHOWN = 100           -- of them, on a terminal
local LINE_MAX = 1 << 16
local KNOWN_MAX = 10000     -- lines that are known but for their time

-- Codes of what came of a request behind its decision: what happened then is not a policy's word.
local after = {}
for code in ([[bad_request body_too_large injection_failed oauth_refresh_failed oauth_not_connected seal_failed policy_failed
  upstream_unreachable upstream_proxy upstream_tls upstream_timeout injection_unavailable store_unavailable clock_unset draining
  foreign_credential sealed_elsewhere sealed_expired address_blocked head_too_large misdirected]]):gmatch("%S+") do after[code] = true end

local Lacks = {}            -- raised by what a policy asks of a request and the record does not have

local function view_of(r, state)
  local has = {}
  for _, name in ipairs(r.headers or {}) do has[name] = (has[name] or 0) + 1 end
  local function lack(what)
    state.lacks = state.lacks or what
    error(Lacks, 0)
  end
  return {
    headers = {
      names = function() return table.move(r.headers or {}, 1, #(r.headers or {}), 1, {}) end,
      get = function(_, name, n)
        name = name:lower()
        if (n or 1) > (has[name] or 0) then return nil end
        local value = r.values and r.values[name]
        if n ~= nil and n ~= 1 or value == nil then lack("the header " .. name) end
        return value
      end,
    },
    query = {
      get = function(_, name)
        for _, pair in ipairs(state.query and require("uri").parse_query(state.query) or {}) do
          if pair[1] == name then
            if pair[2] == "" then lack("the query's " .. name) end
            return pair[2]
          end
        end
      end,
    },
    lack = lack,
  }
end

-- What the record has of the members that the rule declares: those of the same rule, where it looked for no fewer.
local function members_of(self, r, rule, lack)
  return function()
    if not (r.length or r.chunked) then return nil, "there is no body" end
    local has, list = r.members and r.members[rule.name], rules.members(rule, self.sandbox.call)
    if not has or r.streamed or not list then lack("the body") end
    if has.why then return nil, has.why end
    local known, values = {}, {}
    for _, path in ipairs(has.paths) do known[path] = true end
    for _, path in ipairs(list) do
      if not known[path] then lack("the member " .. path) end
      values[path] = has.values[path]
    end
    return rule.pol.reads[has.kind] and { kind = has.kind, values = values } or lack("the body")
  end
end

-- The rules of the bundle. code | nil, what is lacking. state.timed: one was asked, which may read the clock.
local function judge_rules(self, r, agent, bundle, credential, url, method, state)
  local list = self.config:rules(bundle)
  if list == nil then return "rule_failed" end
  if not list then return nil end
  local question = { method = method, host = url.host, readings = function() return paths.readings(self.path_readings, url.path) end }
  local seen, shown, answer
  local wall = r.time // 1000
  -- A rule that is asked about other methods would have been, had the body named one.
  local posts = method:upper() == "POST" and (r.length or r.chunked) and r.type and r.type ~= "other"
  for _, rule in ipairs(posts and list or {}) do
    if rule.methods and not rules.covers(rule, question) and rules.covers(rule, question, true) then return nil, "whether its body names another method" end
  end
  for _, rule in ipairs(list) do
    if rules.covers(rule, question) then
      state.timed = true
      if not seen then
        local view = view_of(r, state)
        state.query = url.query
        seen, shown = rules.request({ method = r.method, scheme = url.scheme, host = url.host, port = url.port, path = url.path, query = url.query,
          websocket = r.websocket, length = r.length, has_body = r.length ~= nil or r.chunked == true }, question, view)
        -- of a push the record has the commands
        seen.pushed = type(r.push) == "table" and setmetatable(r.push, { __index = function() view.lack("more of the push than its commands") end }) or r.push
        local push = r.push == nil and require("pktline").wanted({ method = r.method, has_body = r.length ~= nil or r.chunked == true }, question.readings())
        if push then seen.push = nil end
        if r.length or r.chunked then
          seen.json, seen.form = nil, nil
          local shows = getmetatable(seen).__index
          setmetatable(seen, { __index = function(_, k)
            if k == "body" or k == "json" or k == "form" or k == "push" and push then view.lack("the body") end
            return shows(seen, k)
          end })
        end
      end
      state.lacks = nil
      if rule.pol and rule.pol.members then seen.members = members_of(self, r, rule, view_of(r, state).lack) end
      local code = rules.ask(rule, self.sandbox.call, shown, {
        agent = agent.name, bundle = bundle, credential = credential, wall = wall, offset = self.time.offset(wall),
        count = function(name)
          local value = r.counts and r.counts[name]
          if not value then
            state.lacks = "a counter"
            error(Lacks, 0)
          end
          return value
        end,
      })
      if state.lacks then return nil, state.lacks end
      if code == "approval_timeout" then
        if rule.exceptions and rule.exceptions[1] then return nil, "a person's word" end
        return "ask"
      end
      if code then return code end
      answer = answer or rule.pol.on_response and not rule.pol.answer and "the head of the answer"
    end
  end
  return rules.at(list, url.host)[1] and false, answer    -- false: as of pipeline's ruled
end

local function names_any(headers, set)
  for _, name in ipairs(headers or {}) do
    if set[name:gsub("_", "-")] then return true end
  end
  return false
end

-- What is decided of a credential, once it was chosen: code | nil, what is lacking
local function judge_credential(self, r, own, agent, bundle, url, routed, method)
  local opened, code = self.config:open(own.name)
  if opened then opened, code = self.config:filled(opened, agent, bundle) end
  if not opened then return code end
  if opened.endpoints[1] and parts.at_endpoint(self, opened, url.scheme, url.host, url.port, url.path) then return "token_endpoint" end
  local body, rec = r.length or r.chunked, opened.rec
  local strips = opened.strips[routed or (opened.guards or #opened.endpoints > 0) and "guarded" or false]
  if rec.attach and not (r.presents and r.presents[own.name]) and names_any(r.headers, strips.headers) then return nil, "whose key it bears" end
  if body and (r.type == "form" and strips.refused[1] or (r.type == "json" or r.type == "multipart") and strips.body[1]) then
    return nil, "whether its body bears a key"
  end
  if body and r.method == "POST" and strips.posts and r.type and r.type ~= "other" then return nil, "whether its body names another method" end
  for name in pairs(r.presents or {}) do
    local other = name ~= own.name and self.store.peek("credential", name)
    if other and not parts.belongs(self, agent, other, url) then return nil, "whether a placeholder goes out" end
  end
  if opened.guards then
    local q = { method = r.websocket and "GET" or r.method, websocket = r.websocket, host = url.host, query = url.query,
      readings = function() return self.path_readings(url.path) end }
    if body and (type(opened.pol.mint) == "function" or opened.preset_mint and require("mint").wants_body(opened.preset_mint, q)
      or type(opened.pol.mint) == "table" and require("mint").wants_body(opened.pol.mint, q)) then
      return nil, "what its body asks for"
    end
    local ok, req = true, nil
    if type(opened.pol.mint) == "function" then ok, req = pcall(require("example").request, { method = r.method, url = r.url }) end
    local mints = parts.minted(self, opened, q, ok and req and req:view() or nil, opened.view)
    if mints then return mints end
  end
  return nil
end

local seconds = setmetatable({}, { __mode = "kv" })      -- header -> what kind of second place it names | false

-- A second place that a field, a path or a query names.
local function second(self, r, own, agent, url, routed)
  local fields, request = false, require "request"
  local targets = not own.domain and (self.config:open(own.name) or { pol = {} }).pol.targets
  for _, name in ipairs(r.headers or {}) do
    local kind = targets and targets[name]
    if not kind then
      if seconds[name] == nil then seconds[name] = request.second(name) or false end
      kind = seconds[name]
    end
    if kind and kind ~= "away" then
      if not (r.values and r.values[name]) then return nil, "the header " .. name end
      fields = true
    end
  end
  local fake = { host = url.host, query = url.query }
  if not fields and not parts.names_in_line(fake, routed) then return nil end
  local ok, req = pcall(require("example").request, { method = r.method, url = r.url, headers = r.values or {} })
  if not ok then return nil, "its fields" end
  local code = parts.judge_second(self, req, agent, own, routed, targets)
  return code
end

-- { decision, code, credential, domain, bundle } of a record as it would be decided now; or nil, what is lacking
local function decide(self, r, fake, state)
  if r.cut or r.sealed or r.answered then return nil, r.cut and "the whole request" or r.sealed and "a sealed text" or "a token request" end
  local agent = self.config:agent_named(r.agent)
  if not agent then return nil, "its agent" end
  local url = r.url and self.parse_url(r.url)
  if not url then return nil, "a URL that can be read" end
  if r.method == "TRACE" then return { decision = "deny", code = "trace" } end
  local found = self.config:candidates(agent, url.host)
  if not found then return { decision = "deny", code = "policy_failed" } end
  fake.method, fake.websocket, fake.port, fake.scheme, fake.host, fake.path, fake.query = r.method, r.websocket == true, url.port, url.scheme,
    url.host, url.path, url.query
  local lacks
  function fake.recorded(name)
    if r.presents and r.presents[name] then return true end
    if r.asked and r.asked[name] ~= nil then return r.asked[name] end
    local rec = self.store.peek("credential", name)
    local pol = rec and self.policies.load(rec.type)
    if rec and (rec.rows or pol and (pol.refresh or pol.stand_in)) then lacks = lacks or "whose placeholder it bears" end
    return false
  end
  local names = self.config:at_token_endpoint(agent, url)
  local own, bundle, routed = parts.decide_request(self, fake, url.scheme, agent, found, parts.skips_of(names))
  if lacks then return nil, lacks end
  if not own then return { decision = "deny", code = names and "token_endpoint" or bundle } end
  local out = { bundle = bundle, credential = not own.domain and own.name or nil, domain = own.domain and own.name or nil }
  local method, code = parts.method_of(r.method, r.websocket == true), nil
  code, lacks = judge_rules(self, r, agent, bundle, out.credential, url, method, state)
  if lacks then return nil, lacks end
  if code == "ask" then
    out.decision = "ask"
    return out
  end
  if not code then code, lacks = second(self, r, own, agent, url, routed or code == false) end
  if not code and not lacks and not own.domain then code, lacks = judge_credential(self, r, own, agent, bundle, url, routed, method) end
  if not code and not lacks and own.domain and own.domain.posts and r.method == "POST" and r.type and r.type ~= "other" then
    lacks = "whether its body names another method"
  end
  if lacks then return nil, lacks end
  out.decision, out.code = code and "deny" or "allow", code
  return out
end

local function spoken(d)
  if d.decision == "ask" then return "ask" end
  if d.decision == "deny" then return "deny " .. (d.code or "") end
  return "allow " .. (d.credential and "credential " .. d.credential or d.domain and "domain " .. d.domain or "") .. (d.bundle and " (" .. d.bundle .. ")" or "")
end

-- The draft takes the place of the policy of its name, in this process.
local function use(draft)
  local store = require "policy_store"
  local load = store.load
  store.load = function(name)
    if name == draft.name then return draft end
    return load(name)
  end
end

-- A rule that stands nowhere yet is asked last in these bundles (nil: in all).
local function attach(self, draft, bundle, fields)
  local before = self.config.rules
  self.config.rules = function(config, name)
    local list = before(config, name)
    if list == nil or bundle and name ~= bundle then return list end
    local key = list or name
    config.drafted = config.drafted or {}
    local out = config.drafted[key]
    if not out then
      out = table.move(list or {}, 1, #(list or {}), 1, {})
      out[#out + 1] = rules.ready({ { name = draft.name, type = draft.name, fields = fields } }, require "policy_store", require "policy", require("config").freeze)[1]
      config.drafted[key] = out
    end
    return out
  end
end

local function stands(name)
  for _, rec in require("cli.db").each("bundle", "") do
    for _, rule in ipairs(rec and rec.rules or {}) do
      if rule.type == name then return true end
    end
  end
  return false
end

--- spec = { draft = policy | nil, file = recording, bundle, fields (of a rule that stands nowhere) }; returns the exit code.
function M.run(ctx, spec)
  local f = io.open(spec.file, "rb")
  if not f then report.fail(("cannot read %s"):format(report.clean(spec.file)), "sallyport record --for 10m --out FILE makes one") end
  if spec.draft then use(spec.draft) end
  local self = require("worker").build { command = true }
  local synced = self.config:sync(self.time.now() + WAIT_MAX)
  if not synced or self.config.broken then report.fail(("matching does not work: %s"):format(tostring(self.config.broken))) end
  if spec.draft and spec.draft.kind == "rule" and (spec.bundle or not stands(spec.draft.name)) then
    attach(self, spec.draft, spec.bundle, spec.fields)
    ctx.note(("note: %s is asked as the last rule of %s"):format(spec.draft.name, spec.bundle and "bundle " .. spec.bundle or "every bundle, for no bundle has it yet"))
  end
  local decode, total, same, otherwise, unknown, lacking, groups, order, fake = require("json").decode, 0, 0, 0, 0, {}, {}, {}, {}
  local known, known_n = {}, 0      -- what stands behind a line's time -> true: decided as it was
  for line in f:lines() do
    local _, at = line:find('^{"time":%d+,"kind":"traffic",')
    local key = at and #line <= LINE_MAX and line:sub(at)
    local r = key and not known[key] and decode(line)
    if key and known[key] then
      total, same = total + 1, same + 1
    elseif type(r) == "table" and type(r.agent) == "string" and type(r.method) == "string" and math.type(r.time) == "integer" then
      total = total + 1
      local now, lacks
      local state = {}
      if r.code and after[r.code] then lacks = "its decision: it failed later" else now, lacks = decide(self, r, fake, state) end
      if not now then
        unknown, lacking[lacks] = unknown + 1, (lacking[lacks] or 0) + 1
      else
        local person = r.person and (r.code == nil or r.code == "approval_timeout" or r.code == "rule_denied")
        local was = { decision = person and "ask" or r.decision, code = r.code, credential = r.credential, domain = r.domain, bundle = r.bundle }
        local is = was.decision == now.decision and (now.decision == "ask" or now.decision == "deny" and was.code == now.code
          or now.decision == "allow" and was.credential == now.credential and was.domain == now.domain and was.bundle == now.bundle)
        if is and not state.timed then
          if known_n >= KNOWN_MAX then known, known_n = {}, 0 end
          known[key], known_n = true, known_n + 1
        end
        if is then same = same + 1 else
          otherwise = otherwise + 1
          local host = r.url:match("^%a+://([^/?]*)") or ""
          local key = table.concat({ r.agent, r.method, host, spoken(was), spoken(now) }, "\n")
          local g = groups[key]
          if not g and #order < GROUPS_MAX then
            g = { count = 0, agent = r.agent, method = r.method, host = host, url = r.url, was = spoken(was), now = spoken(now) }
            groups[key], order[#order + 1] = g, g
          end
          if g then g.count = g.count + 1 end
        end
      end
    end
  end
  f:close()
  if total == 0 then report.fail(("%s holds no request that was recorded"):format(report.clean(spec.file)), "sallyport record --for 10m --out FILE makes one") end
  table.sort(order, function(a, b)
    if a.count ~= b.count then return a.count > b.count end
    return a.url < b.url
  end)
  if ctx.json then
    for i, g in ipairs(order) do order[i] = { count = g.count, agent = g.agent, method = g.method, host = g.host, url = g.url, was = g.was, now = g.now } end
    ctx.out(report.json { requests = total, same = same, otherwise = otherwise, unknown = unknown, lacking = lacking, differences = report.array(order) })
  else
    local rows = {}
    for i = 1, math.min(#order, SHOWN) do
      local g = order[i]
      rows[i] = { ("%d"):format(g.count), g.agent, g.method, g.url, g.was, g.now }
    end
    if rows[1] then ctx.out(terminal.columns(ctx, { "COUNT", "AGENT", "METHOD", "FOR ONE", "WAS", "WOULD BE" }, rows, 4)) end
    if #order > SHOWN then ctx.out(("and %d more kinds: --json has them\n"):format(#order - SHOWN)) end
    ctx.out(("%d request%s: %d decided as they were, %d otherwise, %d unknown\n"):format(total, total == 1 and "" or "s", same, otherwise, unknown))
    local lines = {}
    for what, n in pairs(lacking) do lines[#lines + 1] = ("  %d: the record lacks %s\n"):format(n, report.clean(what)) end
    table.sort(lines)
    ctx.out(table.concat(lines))
  end
  return otherwise == 0 and 0 or 1
end

return M
